"""Encodings that travel between workers: which do, and that values and gradients have the bits of one thread's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dqk._moved
from dqk import FidelityKernel, gram
from dqk._gram import job_of
from dqk._moved import worthwhile
from dqk._run import Observer
from dqk._task import _Job
from dqk.backends.mps import MPSBackend
from dqk.circuit import simplify_for_fidelity
from dqk.cluster import InlinePool, WorkerPool, open_pool
from dqk.errors import TileError
from dqk.kernels.feature_maps import bsp_feature_map, ising_feature_map, reuploading_feature_map, zz_feature_map
from tests.cluster.mpi_programs.gradients import gradients_on
from tests.requirements import mpiexec, require

N, QUBITS, LAYERS = 300, 6, 4
BACKENDS = ["mps", "mps:max_bond=2"]


def kernel_of(backend: str) -> FidelityKernel:
    return FidelityKernel(reuploading_feature_map(QUBITS, LAYERS), backend=backend)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1.2, 1.2, (N, QUBITS))


@pytest.fixture(scope="module")
def expected(samples) -> dict[str, np.ndarray]:
    """Of one thread, which makes its own encodings; the exact ones are those of dense states."""
    with InlinePool(1) as pool:
        found = {backend: gram(kernel_of(backend), samples, executor=pool) for backend in BACKENDS}
    np.testing.assert_allclose(found["mps"], gram(kernel_of("reference"), samples), rtol=0, atol=1e-12)
    return found


@pytest.fixture(scope="module")
def slopes(samples) -> list[np.ndarray]:
    """With respect to both sets of samples and the parameters."""
    with InlinePool(1) as pool:
        found = gradients_on(pool, samples, "mps", LAYERS)
    for ours, dense in zip(found, gradients_on(None, samples, "reference", LAYERS), strict=True):
        np.testing.assert_allclose(ours, dense, rtol=1e-9, atol=1e-9)
    return found


def handed_out(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Fills up with the names of blocks whose encodings a pool hands out."""
    found: list[list[str]] = []
    put = pool.put

    def watched(digest: str, arrays: dict[str, np.ndarray]) -> None:
        if digest.endswith("states"):
            found.append(sorted(arrays))
        put(digest, arrays)

    monkeypatch.setattr(pool, "put", watched)
    return found


def check(pool: WorkerPool, samples, expected, slopes, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, held = handed_out(pool, monkeypatch), set[str]()
    put, drop = pool.put, pool.drop
    monkeypatch.setattr(pool, "put", lambda digest, arrays: [put(digest, arrays), held.add(digest)])
    monkeypatch.setattr(pool, "drop", lambda digest: [drop(digest), held.discard(digest)])
    for backend, values in expected.items():
        assert np.array_equal(gram(kernel_of(backend), samples, executor=pool), values), backend
    for ours, theirs in zip(gradients_on(pool, samples, "mps", LAYERS), slopes, strict=True):
        assert np.array_equal(ours, theirs)
    exact, truncated, forward, backward = sent
    assert exact == ["rows.0", "rows.1", "rows.2"]  # 300 samples, 128 to a block
    assert len(truncated) == 10  # 32 to a block
    assert forward == backward == ["columns.0", "columns.1", "rows.0", "rows.1"]
    assert not held  # workers let go of all


def test_processes(samples, expected, slopes, monkeypatch):
    with open_pool("processes", 2) as pool:
        check(pool, samples, expected, slopes, monkeypatch)


def test_ray(samples, expected, slopes, ray_cluster, monkeypatch):
    with open_pool("ray", 2) as pool:
        check(pool, samples, expected, slopes, monkeypatch)


def test_mpi(samples, expected, slopes, tmp_path):
    require("mpi")
    np.save(tmp_path / "X.npy", samples)
    ranks = [mpiexec(), "-n", "2", sys.executable, "-m", "mpi4py"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)]),
    }
    run = {"capture_output": True, "text": True, "timeout": 240, "env": environment}
    for backend, values in expected.items():
        out = tmp_path / f"{backend.partition(':')[0]}{len(backend)}.npy"
        options = ["--feature-map", "reuploading", "--layers", str(LAYERS), "--backend", backend, "--executor", "mpi"]
        done = subprocess.run(
            [*ranks, "-m", "dqk", "gram", str(tmp_path / "X.npy"), *options, "-o", str(out), "--json"], **run
        )
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["workers"]) == 2
        assert np.array_equal(np.load(out), values), backend
    program = Path(__file__).parent / "mpi_programs" / "gradients.py"
    done = subprocess.run([*ranks, str(program), str(tmp_path), "mps", str(LAYERS)], **run)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "rank1.npz") as found:
        for ours, theirs in zip((found["x"], found["y"], found["params"]), slopes, strict=True):
            assert np.array_equal(ours, theirs)


class _Killer(Observer):
    """Ends the process of the first worker that gives values."""

    killed = 0

    def __init__(self, pool):
        self.pool = pool

    def returned(self, worker, ticket, spans, now):
        if not self.killed:
            self.killed = self.pool._members[worker].process.pid
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.faults
def test_a_worker_that_takes_the_place_of_a_killed_one_has_the_encodings(samples, expected, monkeypatch):
    with open_pool("processes", 2) as pool:
        killer, sent = _Killer(pool), handed_out(pool, monkeypatch)
        found = gram(kernel_of("mps:max_bond=2"), samples, executor=pool, progress=killer)
        assert killer.killed and len(sent) == 1
        assert np.array_equal(found, expected["mps:max_bond=2"])


def test_a_block_that_cannot_be_encoded_ends_the_run_with_its_cause(samples, monkeypatch):
    monkeypatch.setattr(dqk._moved, "worthwhile", lambda *_: True)
    monkeypatch.setattr(_Job, "encoding", lambda *_: 1 / 0)
    with InlinePool(1) as pool, pytest.raises(TileError, match="ZeroDivisionError"):
        gram(kernel_of("mps"), samples, executor=pool)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_sent_is_not_made_again_and_needs_no_name_of_the_sender(backend, samples, expected, monkeypatch):
    kernel = kernel_of(backend)
    angles, shared = (t.detach() for t in kernel.feature_map.angles(torch.from_numpy(samples[:64])))
    arrays = job_of(backend, simplify_for_fidelity(kernel.circuit).circuit).arrays(angles, None, shared)
    maker, job = _Job(arrays), _Job(arrays)
    job.sent = {f"rows.{k}": maker.encoding("rows", k) for k in range(-(-64 // job.side))}
    for encoded in job.sent.values():
        encoded[-1] = 12345  # how another process calls the circuit
    monkeypatch.setattr(_Job, "_encode", lambda *_: 1 / 0)
    assert np.array_equal(job.tile(0, 0), expected[backend][: job.side, : job.side][:64, :64])
    if backend == "mps":
        cotangent = torch.ones(64, 64, dtype=torch.float64)
        found = job.strip("rows", 0, cotangent)
        monkeypatch.undo()
        for ours, theirs in zip(found, maker.strip("rows", 0, cotangent), strict=True):
            assert torch.equal(ours, theirs)


def test_a_store_that_is_grown_gets_the_blocks_that_it_lacks_tiles_of(samples, expected, tmp_path, monkeypatch):
    with open_pool("processes", 2) as pool:
        sent = handed_out(pool, monkeypatch)
        for count in (64, 96):
            grown = gram(kernel_of("mps:max_bond=2"), samples[:count], store=tmp_path / "K.zarr", executor=pool)
        assert np.array_equal(grown, expected["mps:max_bond=2"][:96, :96])
    assert sent == [["rows.0", "rows.1"], ["rows.0", "rows.1", "rows.2"]]


@pytest.mark.parametrize(
    ("feature_map", "backend", "travels"),
    [
        (bsp_feature_map(784), "mps", False),
        (ising_feature_map(165), "mps", False),
        (zz_feature_map(12), "mps", True),
        (ising_feature_map(60, reps=6), "mps:max_bond=8", True),
        (reuploading_feature_map(5), "statevector", False),
    ],
)
def test_what_is_dear_to_make_travels_where_somebody_else_needs_it(feature_map, backend, travels, monkeypatch):
    job = job_of(backend, simplify_for_fidelity(feature_map.circuit).circuit)
    pool = open_pool("processes", 2)
    assert worthwhile(pool, job, torch.float64, 8) is travels
    assert not worthwhile(pool, job, torch.float64, 1)
    assert not worthwhile(InlinePool(2), job, torch.float64, 8)
    monkeypatch.setenv("DQK_MEMORY_MIB", "1")
    assert not worthwhile(pool, job, torch.float64, 8)


@pytest.mark.parametrize(("memory_mib", "travels"), [(129, True), (128, False)])
def test_encodings_that_travel_take_a_quarter_of_the_memory(memory_mib, travels, monkeypatch):
    """8 blocks of 32 states of 12 qubits: 2**12 complex numbers and the number of their circuit, twice, make 32.004 MiB."""
    monkeypatch.setenv("DQK_MEMORY_MIB", str(memory_mib))
    job = job_of("mps", simplify_for_fidelity(zz_feature_map(12).circuit).circuit)
    assert worthwhile(open_pool("processes", 2), job, torch.float64, 8) is travels


def test_encodings_of_products_are_adopted_as_they_are():
    backend, circuit = MPSBackend(), simplify_for_fidelity(reuploading_feature_map(3, 1).circuit).circuit
    assert circuit.is_product and backend.encode_s(circuit) == 0
    encoded = backend.encode(circuit, torch.ones(8, circuit.n_data, dtype=torch.float64), torch.zeros(0))
    assert torch.equal(backend.adopt_block(circuit, encoded.clone(), False), encoded)
