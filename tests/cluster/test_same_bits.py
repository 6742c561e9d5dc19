"""One matrix, the same bits: every executor, every number of workers, killed and resumed, exact and sampled."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dqk import FidelityKernel, gram
from dqk._stored import Destination
from dqk.cluster import InlinePool, open_pool
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.store import StoredGram
from tests.cluster.mpi_programs.gradients import gradients_on
from tests.requirements import mpiexec, require

N, QUBITS = 420, 5
CASES = {"exact": [], "sampled": ["--shots", "100", "--seed", "5"]}


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(1).uniform(-1.2, 1.2, (N, QUBITS))


@pytest.fixture(scope="module")
def expected(samples):
    """Of the threads of this process, by case; the exact one is the plain path's."""
    found = {}
    for case in CASES:
        kernel = FidelityKernel(reuploading_feature_map(QUBITS), shots=100 if case == "sampled" else None)
        with InlinePool(1) as pool:
            found[case] = gram(kernel, samples, executor=pool, seed=5 if case == "sampled" else None)
    assert np.array_equal(found["exact"], FidelityKernel(reuploading_feature_map(QUBITS))(samples))
    return found


@pytest.fixture(scope="module")
def gradients(samples):
    """With respect to both sets of samples and the parameters, of one thread; those of dense matrices to rounding."""
    with InlinePool(1) as pool:
        found = gradients_on(pool, samples)
    for ours, dense in zip(found, gradients_on(None, samples, "reference"), strict=True):
        np.testing.assert_allclose(ours, dense, rtol=1e-9, atol=1e-9)
    return found


def check_gradients(pool, samples, expected):
    for ours, theirs in zip(gradients_on(pool, samples), expected, strict=True):
        assert np.array_equal(ours, theirs)


def check(pool, samples, expected):
    for case, values in expected.items():
        kernel = FidelityKernel(reuploading_feature_map(QUBITS), shots=100 if case == "sampled" else None)
        found = gram(kernel, samples, executor=pool, seed=5 if case == "sampled" else None)
        assert np.array_equal(found, values), case


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes(workers, samples, expected, gradients):
    with open_pool("processes", workers) as pool:
        check(pool, samples, expected)
        check_gradients(pool, samples, gradients)


def test_ray(samples, expected, gradients, ray_cluster):
    for workers in (1, 2, 3):
        with open_pool("ray", workers) as pool:
            check(pool, samples, expected)
            check_gradients(pool, samples, gradients)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_mpi(ranks, samples, expected, tmp_path):
    require("mpi")
    np.save(tmp_path / "X.npy", samples)
    for case, options in CASES.items():
        run = ["-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "dqk", *command(tmp_path, case, "mpi"), *options]
        document = json.loads(subprocess.run([mpiexec(), *run], **captured()).stdout)
        assert np.array_equal(np.load(tmp_path / f"{case}.npy"), expected[case])
        assert len(document["workers"]) == ranks


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_gradients_on_mpi(ranks, samples, gradients, tmp_path):
    require("mpi")
    np.save(tmp_path / "X.npy", samples)
    program = Path(__file__).parent / "mpi_programs" / "gradients.py"
    run = ["-n", str(ranks), sys.executable, "-m", "mpi4py", str(program), str(tmp_path)]
    done = subprocess.run([mpiexec(), *run], **captured(PYTHONPATH=str(Path(__file__).parents[2])))
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):  # all of them have the result
        with np.load(tmp_path / f"rank{rank}.npz") as found:
            for ours, theirs in zip((found["x"], found["y"], found["params"]), gradients, strict=True):
                assert np.array_equal(ours, theirs)


def command(folder, case, executor, out="npy"):
    return [
        *("gram", str(folder / "X.npy"), "--feature-map", "reuploading", "-o", str(folder / f"{case}.{out}")),
        *("--executor", executor, "--json"),
    ]


def captured(**environment):
    """Arguments of subprocess.run; what the test runner sets for itself does not reach the program."""
    return {"capture_output": True, "text": True, "timeout": 240, "env": {**os.environ, **environment}}


@pytest.mark.faults
@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed(case, samples, expected, tmp_path):
    np.save(tmp_path / "X.npy", samples)
    program = [sys.executable, "-m", "dqk", *command(tmp_path, case, "inline", "zarr"), *CASES[case]]
    first = subprocess.run([*program, "--workers", "1"], **captured(DQK_FAILPOINT="after_journal:2"))
    assert first.returncode == -signal.SIGKILL
    left = 10 - StoredGram(tmp_path / f"{case}.zarr").done
    assert 0 < left < 10
    second = json.loads(subprocess.run([*program, "--resume"], **captured()).stdout)
    assert second["computed"] == left
    assert np.array_equal(StoredGram(tmp_path / f"{case}.zarr"), expected[case])


@pytest.mark.parametrize("case", CASES)
def test_grown_and_from_shards(case, samples, expected, tmp_path):
    kernel = FidelityKernel(reuploading_feature_map(QUBITS), shots=100 if case == "sampled" else None)
    seed = 5 if case == "sampled" else None
    for count in (130, 256, N):
        grown = gram(kernel, samples[:count], store=tmp_path / "grown.zarr", seed=seed)
    for part in (2, 1, 3):
        parts = gram(kernel, samples, store=Destination(tmp_path / "parts.zarr", shard=(part, 3)), seed=seed)
    for found in (grown, parts):
        assert np.array_equal(found, expected[case])
    assert grown.digest == parts.digest


@pytest.mark.parametrize("case", CASES)
def test_the_digests_that_the_command_prints(case, samples, tmp_path, ray_cluster):
    require("mpi")
    np.save(tmp_path / "X.npy", samples)
    ray = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")} | {
        "RAY_ADDRESS": ray_cluster.address
    }
    starts = {
        "inline": ([sys.executable], [], {}),
        "ray": ([sys.executable], ["--workers", "2"], ray),
        "mpi": ([mpiexec(), "-n", "2", sys.executable, "-m", "mpi4py"], [], {}),
    }
    digests = {}
    for executor, (start, options, environment) in starts.items():
        rest = [*command(tmp_path, executor, executor, "zarr"), *options, *CASES[case]]
        done = subprocess.run([*start, "-m", "dqk", *rest], **captured(**environment))
        assert done.returncode == 0, done.stderr
        digests[executor] = json.loads(done.stdout)["digest"]
    assert len(set(digests.values())) == 1 and len(digests["inline"]) >= 32


def test_another_blas_is_another_class_but_agrees_with_itself(samples, tmp_path):
    """Products of gradients and wide circuits go through BLAS, values on AVX-512 do not: with any core workers agree."""
    np.save(tmp_path / "X.npy", samples[:200])
    program = [sys.executable, "-c", "from dqk.store import numeric_class; print(numeric_class()['blas'])"]
    assert "Haswell" in subprocess.run(program, **captured(OPENBLAS_CORETYPE="Haswell")).stdout
    digests = set()
    for case, executor in (("a", "inline"), ("b", "processes")):
        program = [sys.executable, "-m", "dqk", *command(tmp_path, case, executor)]
        digests.add(json.loads(subprocess.run(program, **captured(OPENBLAS_CORETYPE="Haswell")).stdout)["digest"])
    assert len(digests) == 1
