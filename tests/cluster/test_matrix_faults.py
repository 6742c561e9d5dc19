"""Whole matrices while workers, nodes and drivers die: what is computed in the end has the bits of a run without faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dqk import FidelityKernel, gram
from dqk._run import Observer
from dqk._stored import _Work
from dqk.cluster import open_pool
from dqk.cluster._ray import RayPool
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.store import StoredGram
from dqk.testing.pool_subject import worker_pids

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
QUBITS = 11
KERNEL = FidelityKernel(reuploading_feature_map(QUBITS))


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(2).uniform(-1, 1, (1500, QUBITS))


@pytest.fixture(scope="module")
def expected(samples):
    return KERNEL(samples)


def first_pid(pool):
    """Of a worker that has joined."""
    gram(KERNEL, np.zeros((2, QUBITS)), executor=pool)
    return next(iter(worker_pids(pool).values()))


class Strike(Observer):
    """Does something once, when the first result has arrived."""

    def __init__(self, strike):
        self.strike, self.losses, self.statistics = strike, [], None

    def returned(self, worker, ticket, spans, now):
        strike, self.strike = self.strike, None
        if strike:
            strike()

    def lost(self, worker, cause):
        self.losses.append(cause)

    def progressed(self, statistics, remaining):
        self.statistics = statistics


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_a_worker_that_is_killed_costs_its_tiles_only(executor, samples, expected, request):
    if executor == "ray":
        request.getfixturevalue("ray_cluster")
    with open_pool(executor, 2) as pool:
        victim = first_pid(pool)
        watch = Strike(lambda: os.kill(victim, signal.SIGKILL))
        found = gram(KERNEL, samples, executor=pool, progress=watch)
    assert np.array_equal(found, expected)
    assert watch.losses and watch.statistics.lost_workers == 1
    assert watch.statistics.accepted == 78  # 12 blocks: every tile once


def test_a_node_that_dies_costs_its_tiles_only(samples, expected, ray_cluster):
    node = ray_cluster.add_node(num_cpus=2)
    try:
        with RayPool(2, cpus_per_worker=2, start_timeout_s=120.0) as pool:  # one on each node
            watch = Strike(lambda: ray_cluster.remove_node(node, allow_graceful=False))
            found = gram(KERNEL, samples, executor=pool, progress=watch)
    finally:
        if node in ray_cluster.list_all_nodes():
            ray_cluster.remove_node(node, allow_graceful=False)
    assert np.array_equal(found, expected)
    seen = watch.statistics
    assert watch.strike is None and seen.accepted == 78
    assert seen.hedged + seen.retries + seen.lost_workers > 0  # what the node had was computed elsewhere


def test_a_worker_that_is_killed_before_it_commits(samples, expected, tmp_path):
    with open_pool("processes", 2) as pool:
        victim = first_pid(pool)
        watch = Strike(lambda: os.kill(victim, signal.SIGKILL))
        found = gram(KERNEL, samples, executor=pool, store=tmp_path / "K.zarr", progress=watch)
    assert np.array_equal(found, expected) and watch.losses


@pytest.mark.parametrize("theirs", ["nothing", "another number"])
def test_without_a_shared_disk_the_driver_writes(theirs, samples, expected, tmp_path, monkeypatch):
    """Workers find no question where the driver put it, or that of another disk with the same paths."""
    probe = _Work.probe
    (tmp_path / "another number").write_text("0123")
    monkeypatch.setattr(_Work, "probe", lambda work, worker: {**probe(work, worker), "nonce": str(tmp_path / theirs)})
    with open_pool("processes", 2) as pool:
        found = gram(KERNEL, samples[:700], executor=pool, store=tmp_path / "K.zarr")
    assert np.array_equal(found, expected[:700, :700])
    assert [path.name.startswith("driver") for path in (tmp_path / "K.zarr" / "journal").iterdir()] == [True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_store_that_resumes(number, samples, expected, tmp_path):
    np.save(tmp_path / "X.npy", samples)
    program = [sys.executable, "-m", "dqk", "gram", "X.npy", "--feature-map", "reuploading", "-o", "K.zarr", "--json"]
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for _ in range(5):  # it may be faster than the signal
        shutil.rmtree(tmp_path / "K.zarr", ignore_errors=True)
        with subprocess.Popen([*program, "--executor", "processes", "--workers", "2"], **options) as child:
            deadline = time.monotonic() + 120
            while not _lines(tmp_path / "K.zarr" / "journal") and time.monotonic() < deadline and child.poll() is None:
                time.sleep(0.002)
            child.send_signal(number)
            _, err = child.communicate(timeout=60)
        if child.returncode:
            break
    assert child.returncode == 128 + number and "--resume" in err and "Traceback" not in err, err
    done = subprocess.run([*program, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert json.loads(done.stdout)["computed"] < 78
    assert np.array_equal(StoredGram(tmp_path / "K.zarr"), expected)


def _lines(journal):
    return [path for path in journal.iterdir() if path.stat().st_size] if journal.is_dir() else []
