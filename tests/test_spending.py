"""What a budget pays for, and what is refused before anything is paid."""

import json
import re

import numpy as np
import pennylane as qml
import pytest
import torch

from dqk import QKLSTM, FidelityKernel, gram
from dqk._run import Observer
from dqk.backends.base import Capabilities
from dqk.backends.sampled import DeviceLimits
from dqk.cli.live import LiveDisplay
from dqk.cluster.inline import InlinePool
from dqk.errors import BudgetError, ClusterError, InvalidInputError, TileError, UnsupportedError
from dqk.kernels import ShotPlan
from dqk.kernels.feature_maps import zz_feature_map
from dqk.qpu.pool import QPUPool
from tests.exact_device import ExactDevice

MAP = zz_feature_map(2)


def samples(count: int, features: int = 2) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, features))


def spent(device: ExactDevice) -> int:
    return sum(rows * shots for _, rows, shots in device.jobs)


class Narrow(ExactDevice):
    """Two qubits wide."""

    capabilities = Capabilities(exact=False, differentiable=True, expectations=False, device="qpu", max_qubits=2)


@pytest.fixture
def processors(monkeypatch):
    """Has a pool's names stand for these devices."""
    known: dict[str, ExactDevice] = {}
    for place in ("dqk.qpu.pool.resolve", "dqk._entries.resolve"):
        monkeypatch.setattr(place, lambda name, circuit: known[name])
    return known


def test_a_circuit_that_is_too_wide_is_refused_before_anything_is_submitted(processors) -> None:
    x, wide = samples(4, 3), zz_feature_map(3)
    processors.update({"a:": ExactDevice(), "b:": Narrow()})
    with QPUPool(["a:", "b:"]) as pool, pytest.raises(UnsupportedError, match="at most 2 qubits, the circuit has 3"):
        gram(FidelityKernel(wide, shots=10), x, seed=0, executor=pool)
    assert not any(device.jobs for device in processors.values())
    for device in (Narrow(), qml.device("default.qubit", wires=2)):
        with pytest.raises(UnsupportedError, match="at most 2 qubits, the circuit has 3"):
            gram(FidelityKernel(wide, device, shots=10), x, seed=0)


def test_a_sampler_whose_processor_is_too_narrow_is_refused_before_anything_is_submitted() -> None:
    pytest.importorskip("qiskit")
    from qiskit.primitives import StatevectorSampler
    from qiskit.providers.fake_provider import GenericBackendV2

    from dqk.backends._sampler import SamplerBackend

    class Untouched(StatevectorSampler):
        def run(self, *given, **more):
            raise AssertionError("submitted")

    sampler = SamplerBackend(Untouched(), backend=GenericBackendV2(2))
    with pytest.raises(UnsupportedError, match="at most 2 qubits, the circuit has 3"):
        gram(FidelityKernel(zz_feature_map(3), sampler, shots=10), samples(4, 3), seed=0)


def test_what_only_the_device_knows_that_it_cannot_run_is_one_error_too() -> None:
    """Unless others of its jobs came back: then it is a failure of these jobs."""

    class Picky(ExactDevice):
        takes = 0

        def run(self, *given, **more):
            if len(self.jobs) >= self.takes:
                raise UnsupportedError("no rzz on Sundays")
            return super().run(*given, **more)

    device = Picky(10)
    kernel = FidelityKernel(MAP, device, shots=ShotPlan(10, budget=1900))
    with InlinePool(1) as pool:
        with pytest.raises(UnsupportedError, match="^no rzz on Sundays$"):
            gram(kernel, samples(20), seed=0, executor=pool)
        assert not device.jobs
        device.takes = 3
        with pytest.raises(TileError, match="16 of 19 jobs failed every time.*no rzz on Sundays"):
            gram(kernel, samples(20), seed=0, executor=pool)


class Timed(ExactDevice):
    limits = DeviceLimits(100, seeded=True, job_s=1.0, shot_s=1e-4)


@pytest.mark.parametrize("store", [None, "K.zarr"])
def test_seconds_of_both_stages_are_there_before_the_pilot_begins(store, tmp_path) -> None:
    """780 entries: 8 jobs of a second for each stage, and 78,000 shots of 0.1 ms."""
    device, place = Timed(), None if store is None else tmp_path / store
    for seconds, runs in ((23.7, False), (30.0, True)):
        plan = ShotPlan(budget=78_000, budget_s=seconds, allocation="variance")
        kernel = FidelityKernel(MAP, device, shots=plan)
        if runs:
            assert gram(kernel, samples(40), seed=1, store=place) is not None
        else:
            with pytest.raises(
                BudgetError,
                match=r"nothing was submitted.*\(16 jobs\) needs 23.8 s.*larger budget, at least 23.8 s in all",
            ):
                gram(kernel, samples(40), seed=1, store=place)
            assert not device.jobs


class Charging(ExactDevice):
    """Fails its fourth job, and charges for it."""

    def run(self, *given, **more):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 4:
            raise ClusterError("the fridge is warm")
        return super().run(*given, **more)


def test_what_was_measured_when_a_budget_runs_out_all_the_same(tmp_path) -> None:
    x, plan = samples(20), ShotPlan(10, budget=1900, max_circuits_per_job=19)  # not a shot to spare
    with InlinePool(1) as pool:
        with pytest.raises(BudgetError, match=r"171 of 190 circuits were measured, and are lost: measure into a store"):
            gram(FidelityKernel(MAP, Charging(), shots=plan), x, seed=1, executor=pool)
        kernel = FidelityKernel(MAP, Charging(), shots=plan)
        with pytest.raises(
            BudgetError, match=r"171 of 190 circuits were measured and are kept.*--resume \(resume=True\)"
        ):
            gram(kernel, x, seed=1, store=tmp_path / "K.zarr", executor=pool)
        kernel.shots = ShotPlan(10, budget=2090, max_circuits_per_job=19)
        found = gram(kernel, x, seed=1, store=tmp_path / "K.zarr", executor=pool)
    assert np.array_equal(np.asarray(found), gram(FidelityKernel(MAP, ExactDevice(19), shots=10), x, seed=1))
    assert spent(kernel.backend) == 1900  # what failed is not among the device's jobs


def test_seconds_of_failed_jobs_and_of_earlier_runs_count(tmp_path) -> None:
    """Ten jobs of a second, and one that fails and is charged."""

    class Timed(Charging):
        limits = DeviceLimits(19, seeded=True, job_s=1.0)

    x, device, path = samples(20), Timed(), tmp_path / "K.zarr"
    kernel = FidelityKernel(MAP, device, shots=ShotPlan(10, budget_s=10.0))
    with InlinePool(1) as pool:
        with pytest.raises(
            BudgetError, match=r"^the next job needs 1 s of the device, and of 10 s 10 s are spent; 171 of"
        ):
            gram(kernel, x, seed=1, store=path, executor=pool)
        kernel.shots = ShotPlan(10, budget_s=10.5)
        with pytest.raises(
            BudgetError,
            match=r"left to measure \(1 job\) needs 1 s of the device, and of 10.5 s 10 s are.* at least 11 s in all",
        ):
            gram(kernel, x, seed=1, store=path, executor=pool)
        assert device.count == 10
        kernel.shots = ShotPlan(10, budget_s=11.0)
        assert gram(kernel, x, seed=1, store=path, executor=pool).digest and device.count == 11


@pytest.mark.parametrize("budget", [{"budget_s": 10.0}, {"budget": 1900}])
def test_jobs_that_failed_and_cost_nothing_leave_their_budget_to_a_later_run(budget, tmp_path) -> None:
    """Ten jobs of a second and 190 shots, of which one fails every time; the budget pays for ten."""

    class Ill(ExactDevice):
        limits, well = DeviceLimits(19, seeded=True, job_s=1.0), False

        def run(self, *given, **more):
            if len(self.jobs) == 9 and not self.well:
                error = ClusterError("the fridge is warm")
                error.charged = False  # type: ignore[attr-defined]
                raise error
            return super().run(*given, **more)

    device, path = Ill(), tmp_path / "K.zarr"
    kernel = FidelityKernel(MAP, device, shots=ShotPlan(10, **budget))
    with InlinePool(1) as pool:
        with pytest.raises(TileError, match="1 of 10 jobs failed every time"):
            gram(kernel, samples(20), seed=1, store=path, executor=pool)
        device.well = True
        assert gram(kernel, samples(20), seed=1, store=path, executor=pool).digest
    assert spent(device) == 1900 and len(device.jobs) == 10


def test_the_budget_that_a_refusal_names_is_enough_and_a_smaller_one_is_not() -> None:
    """An hour and 0.0123456 s: three digits, rounded up."""
    for job_s, named in ((3600.0, "3.6e+03"), (0.0123456, "0.0124"), (99.99, "100"), (1.0, "1")):

        class Timed(ExactDevice):
            limits = DeviceLimits(100, seeded=True, job_s=job_s)

        device = Timed()
        with pytest.raises(
            BudgetError, match=rf"at least {re.escape(named)} s in all, or fewer shots; a budget for a part"
        ):
            gram(FidelityKernel(MAP, device, shots=ShotPlan(10, budget_s=job_s * 0.999)), samples(4), seed=1)
        assert not device.jobs
        gram(FidelityKernel(MAP, device, shots=ShotPlan(10, budget_s=float(named))), samples(4), seed=1)
        assert len(device.jobs) == 1


def test_a_closed_pool_of_processors_has_no_name_to_open_it_by(processors) -> None:
    processors["a:"] = ExactDevice()
    x = torch.tensor(samples(3), requires_grad=True)
    with QPUPool(["a:"]) as pool:
        k = gram(FidelityKernel(MAP, shots=10), x, seed=0, executor=pool)
    with pytest.raises(ClusterError, match=r"the qpu pool was closed.*backward\(\) inside its block$"):
        k.sum().backward()
    with InlinePool(1) as named:
        k = gram(FidelityKernel(MAP, ExactDevice(), shots=10), x, seed=0, executor=named)
    with pytest.raises(ClusterError, match=r"name the executor \(executor='inline'\)"):
        k.sum().backward()


class Counting(Observer):
    def __init__(self) -> None:
        self.shots = self.circuits = 0

    def submitted(self, circuits: int, shots: int, device_s: float) -> None:
        self.circuits += circuits
        self.shots += shots

    def refunded(self, circuits: int, shots: int, device_s: float) -> None:
        self.circuits -= circuits
        self.shots -= shots


@pytest.mark.parametrize("charged", [True, False])
def test_what_a_failed_job_does_not_cost_is_not_counted(charged) -> None:
    """Ten jobs of 19 circuits, and one more that fails: by a run's observers, and by a network's count of what it has spent."""

    class Ill(ExactDevice):
        limits, failed = DeviceLimits(19, seeded=True, job_s=2.0), 0

        def run(self, *given, **more):
            if len(self.jobs) == 3 and not self.failed:
                self.failed += 1
                error = ClusterError("the fridge is warm")
                error.charged = charged  # type: ignore[attr-defined]
                raise error
            return super().run(*given, **more)

    display, counting, device = LiveDisplay("jobs"), Counting(), Ill()
    plan = ShotPlan(10, max_circuits_per_job=19)
    gram(FidelityKernel(MAP, device, shots=plan), samples(20), seed=1, executor="inline", progress=[display, counting])
    more = int(charged)
    assert device.failed == 1 and spent(device) == 1900
    assert (counting.circuits, counting.shots) == (190 + 19 * more, 1900 + 190 * more)
    assert (display.jobs, display.circuits, display.shots) == (10 + more, 190 + 19 * more, 1900 + 190 * more)
    assert display.device_s == pytest.approx(2.0 * (10 + more))
    device = Ill()
    net = QKLSTM(2, 2, n_qubits=2, n_references=2, shots=10, backend=device, executor="inline", dtype=torch.float64)
    with torch.no_grad():
        net(torch.zeros(5, 1, 2, dtype=torch.float64))
    assert device.failed == 1
    assert net.spent.shots == spent(device) + more * device.jobs[3][1] * 10
    assert net.spent.jobs == len(device.jobs) + more and net.spent.device_s == pytest.approx(2.0 * net.spent.jobs)


def test_checks_of_calibration_are_paid_from_the_budget(processors, tmp_path) -> None:
    """One for each of two processors, 500 shots each, beside 190 entries of 10."""
    first, second = processors["a:"], processors["b:"] = ExactDevice(19), ExactDevice(19)
    x, path = samples(20), tmp_path / "K.zarr"
    with QPUPool(["a:", "b:"], least_fidelity=0.9) as pool:
        kernel = FidelityKernel(MAP, shots=ShotPlan(10, budget=2899))
        with pytest.raises(
            BudgetError, match=r"needs 2,900 shots, and of 2,899 0 are spent; .* at least 2,900 shots in all"
        ):
            gram(kernel, x, seed=1, store=path, executor=pool)
        assert not first.jobs and not second.jobs
        kernel.shots, counting = ShotPlan(10, budget=2900), Counting()
        assert gram(kernel, x, seed=1, store=path, executor=pool, progress=counting).digest
    assert spent(first) + spent(second) == counting.shots == 2900 and counting.circuits == 192
    logged = [json.loads(line) for file in (path / "jobs").iterdir() for line in file.read_text().splitlines()]
    assert sum(line["shots"] * line["rows"] for line in logged if "tag" in line) == 2900
    with QPUPool(["a:"], least_fidelity=0.9) as pool:  # what an earlier run's checks cost counts
        kernel.shots = ShotPlan(10, budget=2900)
        assert gram(kernel, x, seed=1, store=path, executor=pool).digest  # nothing is left, so nothing is checked
    assert spent(first) + spent(second) == 2900


def checks(device: ExactDevice) -> list[int]:
    """Places of the checks among a device's jobs."""
    return [place for place, (_, rows, shots) in enumerate(device.jobs) if (rows, shots) == (1, 500)]


def test_calibration_is_checked_before_the_first_job_and_then_at_its_interval(processors, monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("dqk.qpu.pool.time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))

    class Slow(ExactDevice):
        def run(self, *given, **more):
            now[0] += 1.0
            return super().run(*given, **more)

    device = processors["a:"] = Slow(10)
    monkeypatch.setattr("dqk.qpu.pool._IN_FLIGHT", 1)
    with QPUPool(["a:"], least_fidelity=0.9, check_s=8.0) as pool:
        assert pool.reports[0].fidelity is None and not device.jobs
        gram(FidelityKernel(MAP, shots=20), samples(20), seed=1, executor=pool)  # 19 jobs of a second
        found = checks(device)
        assert found[0] == 0 and pool.reports[0].fidelity == 1
        assert len(found) == 3 and all(8 <= b - a <= 11 for a, b in zip(found, found[1:], strict=False)), found
        before = len(device.jobs)
        now[0] += 8.0
        gram(FidelityKernel(MAP, shots=20), samples(3), seed=1, executor=pool)
        assert checks(device)[-1] == before


def test_a_pool_without_a_least_fidelity_checks_nothing(processors) -> None:
    device = processors["a:"] = ExactDevice(19)
    with QPUPool(["a:"]) as pool:
        gram(FidelityKernel(MAP, shots=20), samples(20), seed=1, executor=pool)
    assert not checks(device) and spent(device) == 20 * 190


def test_more_shots_than_a_processor_takes_name_the_pool(processors) -> None:
    class Small(ExactDevice):
        limits = DeviceLimits(50, max_shots=300, seeded=True)

    processors.update({"a:": ExactDevice(), "b:": Small()})
    with QPUPool(["a:", "b:"]) as pool:
        with pytest.raises(UnsupportedError, match="301 shots for one circuit, 'qpu' takes at most 300; give fewer"):
            gram(FidelityKernel(MAP, shots=301), samples(4), seed=1, executor=pool)
        with pytest.raises(InvalidInputError, match="leave backend out, or the pool"):
            gram(FidelityKernel(MAP, "simulated", shots=10), samples(3), seed=1, executor=pool)
    assert not any(device.jobs for device in processors.values())


def test_a_pools_limits_are_those_that_hold_for_every_processor(processors) -> None:
    class Other(ExactDevice):
        def __init__(self, limits: DeviceLimits):
            super().__init__()
            self._limits = limits

    a = DeviceLimits(100, 4000, True, True, False, 0.1, 0.02, 3e-4, 0.0, 0.5, 0.01)
    b = DeviceLimits(300, 2000, True, False, True, 0.2, 0.01, 2e-4, 2.0, 0.1, 0.02, "credits")
    processors.update({"a:": Other(a), "b:": Other(b), "c:": Other(DeviceLimits(None, None, False, True))})
    with QPUPool(["a:", "b:"]) as pool:
        assert pool.device.limits == DeviceLimits(
            100, 2000, True, False, True, 0.2, 0.02, 3e-4, 2.0, 0.5, 0.02, "credits"
        )
    with QPUPool(["c:", "a:"]) as pool:
        found = pool.device.limits
        assert (found.max_circuits_per_job, found.max_shots) == (100, 4000)
        assert not found.seeded and found.recovers and not found.priced
    processors["d:"] = Other(DeviceLimits(priced=True, currency="euros"))
    with pytest.raises(InvalidInputError, match="prices in credits and euros"), QPUPool(["b:", "d:"]):
        pass


def test_a_processor_is_drained_after_three_failures_in_a_row_and_not_before(processors, monkeypatch) -> None:
    monkeypatch.setattr("dqk.qpu.pool._IN_FLIGHT", 1)  # so that its jobs end in their order

    class Failing(ExactDevice):
        """Answers, and fails as a list says; then for ever."""

        def __init__(self, *fails: bool):
            super().__init__(10)
            self.fails, self.tried = list(fails), 0

        def run(self, *given, **more):
            self.tried += 1
            if self.fails.pop(0) if self.fails else True:
                raise ClusterError("no helium")
            return super().run(*given, **more)

    well = processors["b:"] = ExactDevice(10)
    ill = processors["a:"] = Failing(True, True, False, True, True, False)
    with QPUPool(["a:", "b:"]) as pool:
        k = gram(FidelityKernel(MAP, shots=20), samples(60), seed=1, executor=pool)
        assert "3 jobs in a row failed, the last one: ClusterError: no helium" in str(pool.reports[0].drained)
        assert pool.reports[1].drained is None and pool.reports[0].jobs == len(ill.jobs) == 2
        assert ill.tried == 9 and len(well.jobs) + 2 == 177
    assert np.array_equal(k, gram(FidelityKernel(MAP, ExactDevice(10), shots=20), samples(60), seed=1))
