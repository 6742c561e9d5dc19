"""Stores that workers fill, here threads: growth, shards, leases, disks and tiles that fail."""

import dataclasses
import errno
import os

import numpy as np
import pytest

import dqk._stored
import dqk._task
import dqk.store.writer
from dqk import FidelityKernel, gram
from dqk.cluster import InlinePool, Joined, Lost
from dqk.errors import ClusterError, StoreError, TileError
from tests.pooled import MAPS, break_tile, samples


@pytest.fixture(params=[1, 2])
def pool(request):
    with InlinePool(request.param) as pool:
        yield pool


class _Silent(InlinePool):
    """Its workers never answer a probe, as if the disk that they look at were gone; they can be ended and replaced."""

    kills = True

    def start(self):
        super().start()
        self.killed, self._names = 0, iter(f"inline-{k}" for k in range(1000))
        self._lost = []

    def submit(self, worker, ticket, task):
        pass

    def workers(self):
        return tuple(dataclasses.replace(worker, id=f"{worker.id} {self.killed}") for worker in super().workers())

    def kill(self, worker):
        self.killed += 1
        self._lost += [Lost(worker, "killed, as asked"), Joined(self.workers()[0])]

    def poll(self, timeout_s):
        found, self._lost = self._lost, []
        return found


def test_workers_that_do_not_answer_the_probe_are_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(dqk._stored, "_POLICY", dataclasses.replace(dqk._stored._POLICY, hang_least_s=0.01))
    with _Silent(1) as pool, pytest.raises(ClusterError, match=r"did not answer within 0.01 s.*disk"):
        gram(FidelityKernel(MAPS["reuploading"]), samples(10), executor=pool, store=tmp_path / "K.zarr")
    assert pool.killed > 1


def test_an_error_of_one_disk_is_tried_elsewhere_and_a_full_disk_ends_the_run(pool, monkeypatch, tmp_path):
    kernel, x = FidelityKernel(MAPS["reuploading"]), samples(300)
    commit = dqk.store.writer.TileWriter._commit
    for number, ends in ((errno.EIO, False), (errno.ENOSPC, True)):
        failures = iter([OSError(number, os.strerror(number))])

        def sometimes(writer, tiles, beside, failures=failures):
            if error := next(failures, None):
                raise error
            return commit(writer, tiles, beside)

        monkeypatch.setattr(dqk.store.writer.TileWriter, "_commit", sometimes)
        path = tmp_path / f"{number}.zarr"
        if ends:
            with pytest.raises(StoreError, match="No space left on device"):
                gram(kernel, x, executor=pool, store=path)
        assert np.array_equal(gram(kernel, x, executor=pool, store=path), kernel(x))
        assert next(failures, None) is None  # it did fail


def test_a_tile_that_always_fails_is_named_with_its_cause_and_the_rest_is_stored(pool, monkeypatch, tmp_path):
    break_tile(monkeypatch, (0, 1), lambda: RuntimeError("rotten"))
    kernel, x = FidelityKernel(MAPS["reuploading"]), samples(300)
    with pytest.raises(TileError, match=r"1 of 6 tiles failed.*RuntimeError: rotten"):
        gram(kernel, x, executor=pool, store=tmp_path / "K.zarr")
    monkeypatch.undo()
    computed = []
    tile = dqk._task._Job.tile
    monkeypatch.setattr(dqk._task._Job, "tile", lambda job, *place: (computed.append(place), tile(job, *place))[1])
    assert np.array_equal(gram(kernel, x, executor=pool, store=tmp_path / "K.zarr"), kernel(x))
    assert computed == [(0, 1)]


def test_rectangular_stores_and_growth(tmp_path):
    kernel, x, y = FidelityKernel(MAPS["product"]), samples(300), samples(260)
    for n, m in ((150, 260), (300, 260)):
        found = gram(kernel, x[:n], y[:m], store=tmp_path / "K.zarr")
        assert np.array_equal(found, kernel(x[:n], y[:m]))


def test_shards_of_a_store_make_the_whole(tmp_path):
    from dqk._stored import Destination

    kernel, x = FidelityKernel(MAPS["reuploading"]), samples(400)
    for i in (3, 1, 2):
        found = gram(kernel, x, store=Destination(tmp_path / "K.zarr", shard=(i, 3)))
        assert (found.digest is None) == (i != 2)
    assert np.array_equal(found, kernel(x))
    assert found.digest == gram(kernel, x, store=tmp_path / "whole.zarr").digest


def test_a_worker_whose_driver_lost_the_lease_writes_nothing(pool, monkeypatch, tmp_path):
    header = dqk._stored._Work.header

    def stale(work, worker):
        found = header(work, worker)
        return {**found, "lease": found["lease"].partition(":")[0] + ":of another driver"}

    monkeypatch.setattr(dqk._stored._Work, "header", stale)
    with pytest.raises(StoreError, match="lost its lease"):
        gram(FidelityKernel(MAPS["product"]), samples(10), executor=pool, store=tmp_path / "K.zarr")
    assert dqk.store.StoredGram(tmp_path / "K.zarr").done == 0


def test_a_driver_shows_that_it_lives(pool, monkeypatch, tmp_path):
    beats = []
    refresh = dqk.store.GramStore.refresh
    monkeypatch.setattr(dqk._stored, "_HEARTBEAT_S", 0.0)
    monkeypatch.setattr(dqk.store.GramStore, "refresh", lambda store: (beats.append(1), refresh(store)))
    gram(FidelityKernel(MAPS["product"]), samples(300), executor=pool, store=tmp_path / "K.zarr")
    assert beats


def test_growth_compares_the_samples_of_the_ragged_block_too(tmp_path):
    from dqk.errors import StoreError

    kernel, x = FidelityKernel(MAPS["product"]), samples(300)
    gram(kernel, x[:100], store=tmp_path / "K.zarr")
    before = gram(kernel, x[:100], store=tmp_path / "K.zarr").digest
    with pytest.raises(StoreError, match="data of rows 0-99 differ"):
        gram(kernel, samples(300), store=tmp_path / "K.zarr")
    assert gram(kernel, x[:100], store=tmp_path / "K.zarr").digest == before


def test_a_shard_that_may_not_resume_does_not_grow_the_others_store(tmp_path):
    from dqk._stored import Destination
    from dqk.errors import StoreError

    kernel, x = FidelityKernel(MAPS["product"]), samples(300)
    gram(kernel, x[:200], store=Destination(tmp_path / "K.zarr", resume=False, shard=(1, 2)))
    with pytest.raises(StoreError, match="200 x 200 samples, this shard's are 300 x 300"):
        gram(kernel, x, store=Destination(tmp_path / "K.zarr", resume=False, shard=(2, 2)))
