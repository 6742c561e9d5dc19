"""Matrices that a device measures: which circuits run, in which jobs, how sure the result is, what a crash costs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pennylane as qml
import pytest
import torch
from scipy.stats import binomtest, chi2

from dqk import FidelityKernel, gram
from dqk._run import Observer
from dqk.backends.sampled import DeviceLimits
from dqk.cluster.inline import InlinePool
from dqk.cluster.processes import ProcessPool
from dqk.errors import BudgetError, ClusterError, InvalidInputError, StoreError, TileError, UnsupportedError
from dqk.kernels import ShotPlan
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    iqp_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from dqk.store import StoredGram
from tests.exact_device import ExactDevice

MAP = zz_feature_map(2)


def samples(count: int, features: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, features))


def upper(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.triu_indices(len(matrix), 1)]


def test_probabilities_agree_with_pennylane() -> None:
    """IQP's embedding is PennyLane's own."""
    device, x = qml.device("default.qubit", wires=3), samples(5, 3)

    @qml.qnode(device)
    def compute_uncompute(a, b):
        qml.IQPEmbedding(a, wires=range(3))
        qml.adjoint(qml.IQPEmbedding)(b, wires=range(3))
        return qml.probs(wires=range(3))

    expected = qml.kernels.square_kernel_matrix(x, lambda a, b: compute_uncompute(a, b)[0])
    for backend in ("simulated", ExactDevice()):
        found = gram(FidelityKernel(iqp_feature_map(3), backend), x, executor="inline")
        assert np.abs(found - expected).max() < 1e-12


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_two_hundred_samples_take_no_more_jobs_than_they_must(limit: int) -> None:
    device, x = ExactDevice(limit), samples(60)
    k = gram(FidelityKernel(MAP, device, shots=50), x, seed=1)
    pairs = 60 * 59 // 2
    assert len(device.jobs) == -(-pairs // limit)
    assert sum(rows for _, rows, _ in device.jobs) == pairs  # neither the diagonal nor anything twice
    assert len({circuit for circuit, _, _ in device.jobs}) == 1
    assert np.array_equal(k, k.T) and (k.diagonal() == 1).all()


def test_duplicates() -> None:
    x = samples(6)[[0, 1, 1, 2]]
    for option, rows, x2 in (("off_diagonal", 6, None), ("all", 10, None), ("none", 5, None), ("none", 10, x[:3])):
        device = ExactDevice()
        plan = ShotPlan(20, evaluate_duplicates=option)
        k = gram(FidelityKernel(MAP, device, shots=plan), x, x2, seed=0)
        assert sum(job[1] for job in device.jobs) == (rows if x2 is None else 12 - 5), option
        assert k[1, 2] == 1


def test_what_cancels_is_not_sent() -> None:
    """The paper's kernel needs no CNOT on hardware."""
    device = ExactDevice()
    gram(FidelityKernel(qklstm_feature_map(3), device, shots=10), samples(3, 3), seed=0)
    assert {gate.name for gate in device.jobs[0][0].gates} == {"h", "ry", "rz"}
    assert any(gate.name == "cx" for gate in qklstm_feature_map(3).circuit.gates)


def test_the_same_seed_gives_the_same_bits_on_any_number_of_workers() -> None:
    kernel = FidelityKernel(MAP, "simulated", shots=ShotPlan(100, max_circuits_per_job=37))
    x = samples(40)
    first = gram(kernel, x, seed=5)
    with InlinePool(1) as one, InlinePool(8) as eight, ProcessPool(2) as processes:
        for pool in (one, eight, processes):
            assert np.array_equal(gram(kernel, x, seed=5, executor=pool), first)
    assert not np.array_equal(gram(kernel, x, seed=6), first)


@pytest.mark.parametrize("feature_map", [zz_feature_map(3), qklstm_feature_map(3, bandwidth=2.0), bsp_feature_map(3)])
def test_unbiased_with_right_standard_errors_and_intervals(feature_map) -> None:
    """A standard error covers 95 % where shots min(p, 1 - p) is at least 50, Wilson's interval at least 90 % elsewhere."""
    shots, x = 400, samples(120, 3)
    exact = upper(FidelityKernel(feature_map)(x))
    inside, deviations, where = [], [], shots * np.minimum(exact, 1 - exact) >= 50
    for seed in range(8):
        k, errors = gram(
            FidelityKernel(feature_map, "simulated", shots=ShotPlan(shots)), x, seed=seed, return_std_error=True
        )
        k, errors = upper(k), upper(errors)
        inside.append(np.abs(k - exact)[where] <= 1.959964 * errors[where])
        deviations.append((k - exact) / np.sqrt(exact * (1 - exact) / shots))
    assert abs(np.mean(inside) - 0.95) < 0.01
    z = np.concatenate(deviations)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    # Each z squared has mean 1 and is bounded, so that the sum is chi-square to a good approximation.
    assert 1e-4 < chi2.cdf((z**2).sum(), z.size) < 1 - 1e-4


def test_bounds_beside_the_matrix_cover_small_probabilities(tmp_path) -> None:
    x = samples(80, 4) * 3
    feature_map = reuploading_feature_map(4, layers=2)
    exact, shots = upper(FidelityKernel(feature_map)(x)), 200
    few = shots * np.minimum(exact, 1 - exact) < 50
    assert few.sum() > 2000
    kernel, covered = FidelityKernel(feature_map, "simulated", shots=ShotPlan(shots)), []
    for seed in range(4):
        found = gram(kernel, x, seed=seed, store=tmp_path / f"{seed}.zarr")
        low, high = (upper(found.beside(name)[:]) for name in ("low", "high"))
        covered.append(((low <= exact) & (exact <= high))[few])
    assert np.mean(covered) >= 0.9
    hits = np.rint(upper(np.asarray(found)) * shots).astype(int)
    for entry in np.flatnonzero((hits > 3) & (hits < shots - 3))[::100]:  # and are no wider than Wilson's
        interval = binomtest(hits[entry], shots).proportion_ci(method="wilson")
        assert (low[entry], high[entry]) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert (found.beside("shots")[:][np.triu_indices(80, 1)] == shots).all()


def test_simulated_shots_of_exact_backends_have_standard_errors(tmp_path) -> None:
    x = samples(20)
    k, errors = gram(FidelityKernel(MAP, shots=100), x, seed=1, return_std_error=True)
    assert np.allclose(errors, np.sqrt(k * (1 - k) / 100))
    found = gram(FidelityKernel(MAP, shots=100), x, seed=1, store=tmp_path / "K.zarr")
    assert np.array_equal(np.asarray(found), k) and np.allclose(found.std_error, errors)


def test_allocation_by_variance_and_by_weight() -> None:
    x, rng = samples(40) * 0.5, np.random.default_rng(3)
    pairs = 40 * 39 // 2
    exact, budget = FidelityKernel(MAP)(x), 400 * pairs
    weights = np.zeros((40, 40))
    weights[:5] = rng.uniform(0, 1, (5, 40))
    counted = weights + weights.T
    plans = {
        "uniform": ShotPlan(budget=budget),
        "variance": ShotPlan(budget=budget, allocation="variance"),
        "weighted": ShotPlan(budget=budget, allocation="weighted", weights=weights),
        "both": ShotPlan(budget=budget, allocation="variance", weights=weights),
    }
    plain, by_weight = {}, {}
    for name, plan in plans.items():
        device, squared = ExactDevice(100), []
        for seed in range(5):
            device.jobs.clear()
            k, errors = gram(FidelityKernel(MAP, device, shots=plan), x, seed=seed, return_std_error=True)
            assert sum(rows * shots for _, rows, shots in device.jobs) <= budget
            squared.append((k - exact) ** 2)
            use = np.ones_like(k) if plan.weights is None else counted**2  # one shot tells no error
            assert 0.5 < np.sum(use * squared[-1]) / np.sum(use * errors**2) < 2
        plain[name] = np.mean(squared)
        by_weight[name] = np.mean(counted**2 * np.mean(squared, axis=0))
    assert plain["variance"] < 0.97 * plain["uniform"]
    assert by_weight["weighted"] < 0.6 * by_weight["uniform"] and by_weight["both"] < 0.6 * by_weight["uniform"]


@pytest.mark.parametrize("options", [{}, {"trainable": "rotations"}])
def test_gradients_are_those_of_the_statevector(options) -> None:
    feature_map = reuploading_feature_map(2, layers=2, **options)
    x, y = (torch.tensor(samples(4, 2, seed), requires_grad=True) for seed in (1, 2))
    for arguments in ((x,), (x, y)):
        found = []
        for backend in ("statevector", "simulated"):
            torch.manual_seed(0)
            kernel = FidelityKernel(feature_map, backend)
            k = gram(kernel, *arguments, executor="inline")
            weights = torch.linspace(-1, 2, k.numel(), dtype=torch.float64).view_as(k)
            found.append(torch.autograd.grad((k * weights).sum(), [*arguments, *kernel.parameters()]))
        assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) < 1e-10


def test_gradients_of_shots_scatter_around_the_exact_ones() -> None:
    x = torch.tensor(samples(3), requires_grad=True)
    (exact,) = torch.autograd.grad(FidelityKernel(MAP)(x).sum(), x)
    found = []
    for seed in range(20):
        k = gram(FidelityKernel(MAP, "simulated", shots=ShotPlan(2000)), x, seed=seed)
        found.append(torch.autograd.grad(k.sum(), x)[0])
    mean, spread = torch.stack(found).mean(0), torch.stack(found).std(0)
    assert ((mean - exact).abs() < 4 * spread / 20**0.5).all() and (spread > 0).all()


def logs(store: Path) -> list[dict]:
    return [json.loads(line) for path in (store / "jobs").iterdir() for line in path.read_text().splitlines()]


class Stop(Observer):
    """Ends a run after so many results, as a crash would."""

    def __init__(self, after: int):
        self.after = after

    def progressed(self, statistics, remaining) -> None:
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


PLANS = [
    ShotPlan(30, max_circuits_per_job=20),
    ShotPlan(budget=40_000, allocation="variance", max_circuits_per_job=20),
]


@pytest.mark.parametrize("plan", PLANS, ids=["uniform", "variance"])
def test_a_crash_loses_no_job(plan, tmp_path) -> None:
    """What was lost on the way is paid for twice, since this device does not know its jobs."""
    x, device, path = samples(40), ExactDevice(), tmp_path / "K.zarr"
    kernel = FidelityKernel(MAP, device, shots=plan)
    whole = gram(kernel, x, seed=2, store=tmp_path / "whole.zarr")
    jobs = len(device.jobs)
    device.jobs.clear()
    with InlinePool(1) as pool, pytest.raises(KeyboardInterrupt):
        gram(kernel, x, seed=2, store=path, progress=Stop(11), executor=pool)
    if plan.budget:
        with pytest.raises(BudgetError, match="give a larger budget"):
            gram(kernel, x, seed=2, store=path)
        kernel.shots = replace(plan, budget=2 * plan.budget)
    before, known = len(device.jobs), sum("result" in line for line in logs(path))
    assert 11 <= known < jobs and before <= sum("tag" in line for line in logs(path))
    found = gram(kernel, x, seed=2, store=path)
    assert found.digest == whole.digest and np.array_equal(found.std_error, whole.std_error)
    assert len(device.jobs) - before == jobs - known


class Recovering(ExactDevice):
    """Knows jobs by their tags."""

    @property
    def limits(self) -> DeviceLimits:
        return DeviceLimits(20, seeded=True, recovers=True)

    def run(self, *given, tag=None, **more):
        self.tags = [*getattr(self, "tags", []), tag]
        return super().run(*given, tag=tag, **more)


def test_what_may_have_run_is_asked_for_by_its_tag_and_costs_nothing_again(tmp_path) -> None:
    x, device = samples(20), Recovering()
    kernel = FidelityKernel(MAP, device, shots=ShotPlan(30, budget=30 * 190))
    with InlinePool(1) as pool, pytest.raises(KeyboardInterrupt):
        gram(kernel, x, seed=2, store=tmp_path / "K.zarr", progress=Stop(3), executor=pool)
    logged = logs(tmp_path / "K.zarr")
    known = {line["result"] for line in logged if "result" in line}
    doubtful = {line["tag"] for line in logged if "tag" in line and line["job"] not in known}
    before = len(device.tags)
    found = gram(kernel, x, seed=2, store=tmp_path / "K.zarr")  # the budget has no shot to spare
    assert doubtful and doubtful <= set(device.tags[before:])
    assert len(set(device.tags) | doubtful) == 10 and found.digest
    assert StoredGram(tmp_path / "K.zarr").done == found.total


def test_a_budget_is_never_exceeded(tmp_path) -> None:
    x, device = samples(40), ExactDevice(100)
    with pytest.raises(InvalidInputError, match=r"780 entries with 100 shots each need 78,000, the budget is 77,999"):
        gram(FidelityKernel(MAP, device, shots=ShotPlan(100, budget=77_999)), x, seed=1)
    assert not device.jobs

    class Timed(ExactDevice):
        limits = DeviceLimits(100, seeded=True, job_s=1.0, shot_s=1e-4)

    device = Timed()
    kernel = FidelityKernel(MAP, device, shots=ShotPlan(100, budget_s=15.7))  # 7 jobs of 2 s and one of 1.8 s
    with pytest.raises(
        BudgetError, match=r"nothing was submitted.*\(8 jobs\) needs 15.8 s of the device, and of 15.7 s 0 s"
    ):
        gram(kernel, x, seed=1, store=tmp_path / "K.zarr")
    assert not device.jobs
    kernel.shots = ShotPlan(100, budget_s=15.8)
    gram(kernel, x, seed=1, store=tmp_path / "K.zarr")
    assert len(device.jobs) == 8


class Failing(ExactDevice):
    """Fails every third job."""

    def run(self, *given, **more):
        self.count = getattr(self, "count", 0) + 1
        if self.count % 3 == 0:
            raise ClusterError("the fridge is warm")
        return super().run(*given, **more)


def test_failed_jobs_are_tried_again_and_what_keeps_failing_is_said() -> None:
    x, device = samples(20), Failing(10)
    with InlinePool(1) as pool:
        k = gram(FidelityKernel(MAP, device, shots=ShotPlan(50)), x, seed=1, executor=pool)
        assert np.array_equal(k, gram(FidelityKernel(MAP, ExactDevice(10), shots=ShotPlan(50)), x, seed=1))
        device.run = lambda *given, **more: (_ for _ in ()).throw(ClusterError("no helium"))  # type: ignore[method-assign]
        with pytest.raises(TileError, match="ClusterError: no helium"):
            gram(FidelityKernel(MAP, device, shots=ShotPlan(50)), x, seed=1, executor=pool)


def test_a_store_of_other_measurements_is_refused(tmp_path) -> None:
    x, path = samples(10), tmp_path / "K.zarr"
    gram(FidelityKernel(MAP, "simulated", shots=ShotPlan(50)), x, seed=1, store=path)
    for plan, seed, what in (
        (ShotPlan(51), 1, "shots is 50 there, 51 now"),
        (ShotPlan(50), 2, "seed is 1 there, 2 now"),
    ):
        with pytest.raises(StoreError, match=what):
            gram(FidelityKernel(MAP, "simulated", shots=plan), x, seed=seed, store=path)
    with pytest.raises(StoreError, match="a job has 1024 circuits there, 3 now"):
        gram(FidelityKernel(MAP, "simulated", shots=ShotPlan(50, max_circuits_per_job=3)), x, seed=1, store=path)
    grown = gram(FidelityKernel(MAP, "simulated", shots=ShotPlan(50)), samples(70), seed=1, store=path)
    assert grown.digest and not np.isnan(np.asarray(grown)).any() and not np.isnan(grown.std_error).any()


def test_refusals(tmp_path) -> None:
    x, kernel = samples(4), FidelityKernel(MAP, "simulated", shots=ShotPlan(10))
    with pytest.raises(UnsupportedError, match="a relative frequency can be 0"):
        gram(kernel, x, seed=0, log=True)
    with pytest.raises(InvalidInputError, match="this kernel is exact"):
        gram(FidelityKernel(MAP), x, return_std_error=True)
    with pytest.raises(InvalidInputError, match=r"read them with found\.std_error"):
        gram(kernel, x, seed=0, store=tmp_path / "K.zarr", return_std_error=True)
    with (
        ProcessPool(1) as pool,
        pytest.raises(TileError, match="is an object, which stays in the process that made it"),
    ):
        gram(FidelityKernel(MAP, ExactDevice(), shots=10), x, seed=0, executor=pool)
    with pytest.raises(InvalidInputError, match=r"weights of shape \(2, 2\), the kernel matrix has \(4, 4\)"):
        gram(
            FidelityKernel(MAP, shots=ShotPlan(budget=1000, allocation="weighted", weights=np.ones((2, 2)))), x, seed=0
        )
    with pytest.raises(InvalidInputError) as caught:
        ShotPlan(0, allocation="best", weights=[-1], max_circuits_per_job=0, evaluate_duplicates="some", budget_s=-1)
    assert len(str(caught.value).splitlines()) == 6
    for wrong in ({}, {"shots": 5, "allocation": "variance"}, {"budget": 5, "allocation": "weighted"}):
        with pytest.raises(InvalidInputError, match="neither shots nor budget|shares out a budget|needs weights"):
            ShotPlan(**wrong)
