"""Measured matrices where things go wrong: devices that refuse, change or come back, other ranks, budgets of gradients."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pennylane as qml
import pytest
import torch

import dqk._gram
from dqk import QKLSTM, FidelityKernel, gram
from dqk._executors import executor_of
from dqk._run import Observer
from dqk.backends.sampled import DeviceLimits
from dqk.cluster.inline import InlinePool
from dqk.errors import BudgetError, ClusterError, InvalidInputError, StoreError, TileError, UnsupportedError
from dqk.kernels import ShotPlan
from dqk.kernels.feature_maps import zz_feature_map
from dqk.qpu.pool import QPUPool
from dqk.store import StoredGram
from tests.exact_device import ExactDevice

MAP = zz_feature_map(2)


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 2))


def logs(store: Path) -> list[dict]:
    return [json.loads(line) for path in (store / "jobs").iterdir() for line in path.read_text().splitlines()]


def test_a_pennylane_device_object_measures() -> None:
    device = qml.device("default.qubit", wires=2)
    k, errors = gram(FidelityKernel(MAP, device, shots=400), samples(6), seed=1, return_std_error=True)
    exact = FidelityKernel(MAP)(samples(6))
    assert np.abs(k - exact).max() < 0.15 and errors.max() > 0
    net = QKLSTM(2, 2, n_qubits=2, n_references=1, backend=device, shots=50)
    net(torch.zeros(2, 1, 2))[0].sum().backward()
    assert net.spent.circuits


class Tagged(ExactDevice):
    """Knows jobs by their tags, as a service does: one that failed stays failed. `broken` fails new ones, unpaid."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, np.ndarray | None] = {}
        self.broken = False

    @property
    def limits(self) -> DeviceLimits:
        return DeviceLimits(20, seeded=True, recovers=True)

    def run(self, *given, tag=None, **more):
        if tag not in self.known:
            self.known[tag] = None if self.broken else super().run(*given, tag=tag, **more)
        found = self.known[tag]
        if found is None:
            error = ClusterError("failed by its profile")
            error.charged = False  # type: ignore[attr-defined]
            raise error
        return found


def test_jobs_that_failed_on_every_try_run_when_the_device_is_well_again(tmp_path) -> None:
    x, device, path = samples(12), Tagged(), tmp_path / "K.zarr"
    kernel = FidelityKernel(MAP, device, shots=ShotPlan(30, budget=30 * 66))  # not a shot to spare
    device.broken = True
    with pytest.raises(TileError, match="4 of 4 jobs failed every time.*failed by its profile"):
        gram(kernel, x, seed=1, store=path)
    assert sum("refund" in line for line in logs(path)) == sum("tag" in line for line in logs(path)) > 0
    device.broken = False
    found = gram(kernel, x, seed=1, store=path)
    assert found.digest and sum(rows * shots for _, rows, shots in device.jobs) == 30 * 66


class Stop(Observer):
    def __init__(self, after: int):
        self.after = after

    def progressed(self, statistics, remaining) -> None:
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


def test_another_processor_does_not_know_the_first_ones_jobs(tmp_path, monkeypatch) -> None:
    """Its shots are new ones, and the budget counts them."""
    devices = {"a:": Tagged(), "b:": Tagged()}
    monkeypatch.setattr("dqk.qpu.pool.resolve", lambda name, circuit: devices[name])
    monkeypatch.setattr("dqk._entries.resolve", lambda name, circuit: devices[name])
    x, path = samples(20), tmp_path / "K.zarr"
    kernel = FidelityKernel(MAP, shots=ShotPlan(30, budget=30 * 190))
    with QPUPool(["a:"]) as pool, pytest.raises(KeyboardInterrupt):
        gram(kernel, x, seed=2, store=path, progress=Stop(3), executor=pool)
    with QPUPool(["b:"]) as pool, pytest.raises(BudgetError):
        gram(kernel, x, seed=2, store=path, executor=pool)
    spent = sum(rows * shots for device in devices.values() for _, rows, shots in device.jobs)
    assert spent <= 30 * 190
    kernel.shots = ShotPlan(30, budget=60 * 190)
    with QPUPool(["a:", "b:"]) as pool:
        found = gram(kernel, x, seed=2, store=path, executor=pool)
    assert found.digest and np.array_equal(np.asarray(found), gram(FidelityKernel(MAP, Tagged(), shots=30), x, seed=2))


@pytest.mark.parametrize("plan", [None, ShotPlan(50), ShotPlan(budget=20_000, allocation="variance")])
def test_ranks_that_do_not_drive_have_the_values(plan, monkeypatch) -> None:
    """What another rank of an MPI job gets is what `everywhere` gives, without a single arrival."""
    kept: list[dict] = []

    class Driver:
        compares = False

        def everywhere(self, digest, drive):
            kept.append(executor_of(None).everywhere(digest, drive))
            return kept[-1]

    class Other:
        compares = False

        def everywhere(self, digest, drive):
            return kept.pop(0)

    found = []
    for executor in (Driver(), Other()):
        monkeypatch.setattr(dqk._gram, "executor_of", lambda *_, executor=executor: executor)
        kernel = FidelityKernel(MAP, "simulated", shots=plan)
        seed = None if plan is None else 3
        found.append(gram(kernel, samples(9), seed=seed, executor="processes", return_std_error=plan is not None))
    assert np.array_equal(np.asarray(found[0]), np.asarray(found[1])) and not np.isnan(np.asarray(found[0])).any()


def test_a_gradient_is_paid_from_the_same_budget() -> None:
    x, device = torch.tensor(samples(4), requires_grad=True), ExactDevice(50)
    k = gram(FidelityKernel(MAP, device, shots=ShotPlan(100, budget=1500)), x, seed=1)
    with pytest.raises(BudgetError, match="of 1,500"):
        k.sum().backward()
    assert sum(rows * shots for _, rows, shots in device.jobs) <= 1500
    free = ExactDevice(50)
    gram(FidelityKernel(MAP, free, shots=ShotPlan(100)), x, seed=1).sum().backward()
    both = sum(rows * shots for _, rows, shots in free.jobs)  # 600 of the values, the rest of the gradient
    assert both > 600
    for budget in (both - 1, both):
        k = gram(FidelityKernel(MAP, ExactDevice(50), shots=ShotPlan(100, budget=budget)), x, seed=1)
        with pytest.raises(BudgetError, match="600 are spent") if budget < both else nullcontext():
            k.sum().backward()


def test_shots_above_what_a_device_takes_are_kept_below_or_refused(tmp_path) -> None:
    class Small(ExactDevice):
        limits = DeviceLimits(50, max_shots=300, seeded=True)

    with pytest.raises(
        UnsupportedError, match="301 shots for one circuit, 'exact-device' takes at most 300; give fewer"
    ):
        gram(FidelityKernel(MAP, Small(), shots=301), samples(4), seed=1)
    device, weights = Small(), np.zeros((8, 8))
    weights[0, 1] = 1.0
    for allocation in ("variance", "weighted"):
        plan = ShotPlan(budget=9000, allocation=allocation, weights=weights)
        device.jobs.clear()
        gram(FidelityKernel(MAP, device, shots=plan), samples(8), seed=1)
        assert max(shots for _, _, shots in device.jobs) == 300


def test_one_thread_at_a_time_where_a_device_asks_for_it() -> None:
    class Alone(ExactDevice):
        inside = most = 0

        def run(self, *given, **more):
            Alone.inside += 1
            Alone.most = max(Alone.most, Alone.inside)
            try:
                return super().run(*given, **more)
            finally:
                Alone.inside -= 1

    with InlinePool(4) as pool:
        gram(FidelityKernel(MAP, Alone(5), shots=10), samples(30), seed=1, executor=pool)
    assert Alone.most == 1


def test_more_refusals(tmp_path) -> None:
    with pytest.raises(UnsupportedError, match="a budget of 2 s, but 'simulated' names no times"):
        gram(FidelityKernel(MAP, shots=ShotPlan(10, budget_s=2)), samples(3), seed=1)
    with QPUPool(["simulated"]) as pool, pytest.raises(InvalidInputError, match="leave backend out, or the pool"):
        gram(FidelityKernel(MAP, "simulated", shots=10), samples(3), seed=1, executor=pool)
    plan, path = ShotPlan(budget=10_000, allocation="variance"), tmp_path / "K.zarr"
    gram(FidelityKernel(MAP, shots=plan), samples(8), seed=1, store=path)
    with pytest.raises(StoreError, match="do not grow with a matrix"):
        gram(FidelityKernel(MAP, shots=plan), samples(9), seed=1, store=path)


def test_a_measured_store_that_grew_keeps_what_it_had_and_says_so(tmp_path) -> None:
    """Two goes: as sure as one, but other values; a store of exact values is the same either way."""
    for shots, shapes in ((50, ((40, 40), (50, 50))), (None, ())):
        kernel, path = FidelityKernel(MAP, shots=None if shots is None else ShotPlan(shots)), tmp_path / f"{shots}.zarr"
        seed = None if shots is None else 1
        first = np.asarray(gram(kernel, samples(40), seed=seed, store=path))
        for size in (50, 70, 70):
            grown = gram(kernel, samples(size), seed=seed, store=path)
        fresh = gram(kernel, samples(70), seed=seed, store=tmp_path / f"fresh-{shots}.zarr")
        assert StoredGram(path).fingerprint.grown_from == grown.fingerprint.grown_from == shapes
        assert fresh.fingerprint.grown_from == ()
        assert np.array_equal(grown[:32, :32], first[:32, :32])  # the one full tile
        assert np.array_equal(np.asarray(grown), np.asarray(fresh)) == (shots is None)
    exact = FidelityKernel(MAP)(samples(70))
    measured = StoredGram(tmp_path / "50.zarr")
    inside = (measured.beside("low")[:] <= exact) & (exact <= measured.beside("high")[:])
    assert inside.mean() > 0.93 and (measured.beside("shots")[:][np.triu_indices(70, 1)] == 50).all()


def test_nothing_to_measure(tmp_path) -> None:
    """One sample, or equal ones: all entries are 1, and no job is submitted."""

    class Sampler(ExactDevice):
        capabilities = ExactDevice.capabilities.__class__(exact=False, differentiable=True, expectations=False)

    device, same = Sampler(), np.repeat(samples(1), 3, axis=0)
    assert gram(FidelityKernel(MAP, device, shots=10), samples(1), seed=1) == [[1.0]]
    plan = ShotPlan(10, evaluate_duplicates="none")
    k, errors = gram(FidelityKernel(MAP, device, shots=plan), same, seed=1, return_std_error=True)
    assert (k == 1).all() and not errors.any() and not device.jobs
    found = gram(FidelityKernel(MAP, device, shots=10), samples(1), seed=1, store=tmp_path / "K.zarr")
    assert np.asarray(found) == [[1.0]] and found.digest
