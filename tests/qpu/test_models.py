"""From a fleet file to what virtual time runs: nothing that the file says is lost on the way. Times by hand."""

from pathlib import Path

import numpy as np
import pytest

from dqk._measure import cut_jobs
from dqk.circuit import Circuit, Gate
from dqk.qpu.coupling import swaps
from dqk.qpu.emulate import emulate
from dqk.qpu.experiment import Experiment
from dqk.qpu.fleet import QPU, Network, Session, Simulator
from dqk.qpu.models import JobKind, error_of, modelled, seconds_of
from dqk.qpu.profile import Failures, Noise, Outage, Queue
from dqk.qpu.workload import workload

KIND = JobKind(4, 10, 100, angles=48)


def played(tmp_path: Path, text: str, *policies: str, **changes):
    (tmp_path / "e.toml").write_text(text)
    return emulate(Experiment.read(tmp_path / "e.toml", {"experiment.policies": list(policies), **changes})).runs


def test_a_device_has_what_its_file_says() -> None:
    qpu = QPU(
        "q",
        job_s=2.0,
        circuit_s=0.1,
        shot_rate_hz=1000.0,
        session=Session(job_s=0.5, length_s=7.0),
        outage=(Outage(5.0, 3.0),),
        queue=Queue("exponential", 4.0, seed=3),
        failures=Failures(job=0.25, seed=5),
    )
    network = Network(latency_s=0.3, bandwidth_mib_s=48 * 8 * 4 / 3 * 10 / 2**20, overhead_s=0.2, patience_s=9.0)
    device = modelled(qpu, network, [KIND], 1, sessions=True)
    assert device.seconds == [2.0 + 10 * (0.1 + 0.1)] and device.follows == [0.5 + 10 * (0.1 + 0.1)]
    assert device.transfer_s == [pytest.approx(1.0)]
    assert (device.latency_s, device.overhead_s, device.patience_s, device.session_s) == (0.3, 0.2, 9.0, 7.0)
    assert device.outages == qpu.outage
    assert device.waits is not None and device.fails is not None
    assert np.mean([device.waits() for _ in range(4000)]) == pytest.approx(4.0, rel=0.08)
    assert np.mean([device.fails() for _ in range(4000)]) == pytest.approx(0.25, abs=0.03)
    plain = modelled(qpu, network, [KIND], 1)
    assert plain.follows is None
    # What a service draws, for real time beside virtual time.
    ours, its = modelled(qpu, network, [KIND], None), qpu.profile().queue.waits()
    assert ours.waits is not None and [ours.waits() for _ in range(5)] == [its() for _ in range(5)]


def test_a_gpu_is_half_as_fast_for_each_qubit_more() -> None:
    gpu = Simulator("g", entries_per_s=100.0, at_qubits=8, most_entries_per_s=300.0, job_s=0.5, qubits=12)
    seconds = [seconds_of(gpu, JobKind(qubits, 10, 1)) for qubits in (4, 7, 8, 10, 13)]
    assert seconds == [0.5 + 10 / 300, 0.5 + 10 / 200, 0.5 + 10 / 100, 0.5 + 10 / 25, float("inf")]


def test_errors_that_a_policy_expects_have_the_swaps() -> None:
    """CX on qubits 0 and 2, and its inverse: on a line with two swaps each, that is 2 + 4 * 3 two-qubit gates."""
    circuit = Circuit(3, (Gate("cx", (0, 2)),))
    noise = Noise(depolarising_2q=0.01)
    assert error_of(QPU("q", noise=noise), circuit) == pytest.approx(1 - 0.99**4)
    assert error_of(QPU("q", noise=noise, coupling="line"), circuit) == pytest.approx(1 - 0.99**28)
    readout = Noise(readout_0=0.01, readout_1=0.03)  # of three qubits
    assert error_of(QPU("q", noise=readout), circuit) == pytest.approx(1 - 0.98**3)


NETWORK = """
[network]
latency_s = 0.5
bandwidth_mib_s = {bandwidth}
overhead_s = 0.25
[[qpu]]
name = "q"
job_s = 1.0
shot_rate_hz = 1e9
max_circuits_per_job = 10
[experiment]
data = "random"
samples = 2
test_samples = 1
repeats = 1
shots = 1
"""


def test_a_way_there_and_back(tmp_path) -> None:
    """A matrix of one entry and one of two; 48 angles of 32/3 bytes take a second."""
    text = NETWORK.format(bandwidth=48 * 32 / 3 / 2**20)
    (run,) = played(tmp_path, text, "pull")
    first = 0.5 + 1.0 + 1.0 + 0.5
    assert run.figures["makespan_s"] == pytest.approx(first + 0.5 + 2.0 + 1.0 + 0.5)
    # Two are on their way at once; the last is given away only when it is known who has time for it.
    (run,) = played(tmp_path, text + "[[kernel]]\nsamples = 7\n", "pull")  # 21 entries, three jobs, no angles
    assert run.figures["makespan_s"] == pytest.approx((0.5 + 1.0 + 0.25 + 1.0 + 0.5) + first - 1.0)


DRIFTING = """
[[qpu]]
name = "q"
coupling = "line"
job_s = 10.0
max_circuits_per_job = 7
noise = { depolarising_2q = 0.001, readout_0 = 0.002, readout_1 = 0.002 }
drift = { per_hour = 600, calibrate_every_s = 55 }
[experiment]
data = "random"
samples = 9
test_samples = 1
repeats = 1
shots = 1_000_000
"""


def test_errors_are_those_of_the_time_at_which_a_job_begins(tmp_path) -> None:
    """Six jobs of 10 s; after 55 s the device is calibrated. The error is that of the noise by hand, with swaps."""
    (run,) = played(tmp_path, DRIFTING, "pull", **{"qpu.shot_rate_hz": 1e9})
    one = Experiment.read(tmp_path / "e.toml")
    work = workload(one.settings)
    part, count = work.train, 36
    (log,) = (outcome.log for outcome, _, _ in run.stages[:1])
    assert list(log.item) == list(range(6))
    p = np.zeros(count)
    crossed = swaps(work.circuit.compute_uncompute(), "line")
    assert crossed > 0
    for rows, start in zip(cut_jobs(np.full(count, 10**6), count, 7), log.started, strict=True):
        factor = 1 + 600 * (start % 55) / 3600
        noise = Noise(depolarising_2q=0.001 * factor, readout_0=0.002 * factor, readout_1=0.002 * factor)
        p[rows] = part.response.measured(rows, noise, crossed)
    exact = part.response.exact
    expected = np.linalg.norm(p - exact) / np.linalg.norm(exact)
    assert run.figures["error"] == pytest.approx(expected, rel=0.01)
    fresh = part.response.measured(np.arange(count), Noise(depolarising_2q=0.001, readout_0=0.002, readout_1=0.002))
    assert expected > 2 * np.linalg.norm(fresh - exact) / np.linalg.norm(exact)


def test_queues_failures_and_sessions_come_through(tmp_path) -> None:
    text = '[[qpu]]\nname = "q"\njob_s = 1.0\nshot_rate_hz = 1e9\nmax_circuits_per_job = 5\n{more}\n[[kernel]]\nsamples = 11\n'
    text += "[experiment]\nrepeats = 1\n"  # 55 entries, 11 jobs
    (run,) = played(tmp_path, text.format(more='queue = { model = "fixed", mean_s = 2.0 }'), "pull")
    assert run.figures["makespan_s"] == pytest.approx(33.0, abs=0.1)
    assert run.figures["queue_share"] == pytest.approx(2 / 3, abs=0.01)
    more = 'queue = { model = "fixed", mean_s = 2.0 }\nsession = { job_s = 0.5, length_s = 5.2 }'
    (run,) = played(tmp_path, text.format(more=more), "pull+session")
    # A session of 5.2 s has the job that opened it, 2 + 1 s, and those of 0.5 s that begin within it: five; then again.
    assert run.figures["makespan_s"] == pytest.approx(2 * (2 + 1) + 9 * 0.5, abs=0.1)
    (run,) = played(tmp_path, text.format(more="failures = { job = 0.3 }\nprice = { per_job = 1.0 }"), "pull")
    failed = run.figures["jobs"] - 11
    assert failed > 0 and run.figures["retries"] == failed and run.figures["done"] == 1
    assert run.figures["price"] == 11  # what failed costs nothing, and half a job's time
    assert run.figures["makespan_s"] == pytest.approx(11 + failed / 2, abs=0.1)


def test_energy_and_time_down(tmp_path) -> None:
    """10 s of work at 1 kW and 4 s of an outage at 0.1 kW, which comes back after 9 s."""
    text = (
        '[[qpu]]\nname = "q"\njob_s = 1.0\nshot_rate_hz = 1e9\nmax_circuits_per_job = 5\npower_w = 1000\nidle_w = 100\n'
    )
    text += (
        "outage = [{ start_s = 2, duration_s = 2, every_s = 9 }]\n[[kernel]]\nsamples = 11\n[experiment]\nrepeats = 1\n"
    )
    (run,) = played(tmp_path, text, "pull")
    # 0-2 work, 2-4 down, 4-11 work, 11-13 down, 13-15 work
    assert run.figures["makespan_s"] == pytest.approx(15.0, abs=0.05)
    assert run.figures["down_share"] == pytest.approx(4 / 15, abs=0.01)
    assert run.figures["energy_kwh"] == pytest.approx((11 * 1000 + 4 * 100) / 3.6e6, rel=0.01)


UNLIKE = """
[[qpu]]
name = "good"
max_circuits_per_job = 6
[[qpu]]
name = "bad"
max_circuits_per_job = 6
noise = { readout_0 = 0.05, readout_1 = 0.05 }
[experiment]
samples = 20
test_samples = 10
shots = 100_000
repeats = 1
"""


def test_error_aware_has_what_matters_on_the_good_device(tmp_path) -> None:
    """Jobs have entries of like weight: with jobs of mixed ones the weighted error is four times as large."""
    aware, pull = played(tmp_path, UNLIKE, "error_aware", "pull")
    assert aware.figures["weighted_error"] < 0.08 * pull.figures["weighted_error"]
    assert aware.figures["error"] > 0.5 * pull.figures["error"]  # half of the entries are on the bad one in any case


def test_copies_are_made_by_those_who_hedge(tmp_path) -> None:
    text = '[[qpu]]\nname = "fast"\njob_s = 1.0\nmax_circuits_per_job = 5\n'
    text += '[[qpu]]\nname = "slow"\njob_s = 9.0\nmax_circuits_per_job = 5\n[[kernel]]\nsamples = 11\n[experiment]\nrepeats = 1\n'
    hedged, pull = played(tmp_path, text, "hedged", "pull")
    assert hedged.figures["jobs"] > 11 == pull.figures["jobs"]
    assert hedged.figures["makespan_s"] < pull.figures["makespan_s"]


def test_shots_are_split_and_weighted(tmp_path) -> None:
    runs = played(tmp_path, UNLIKE.replace("100_000", "90"), "pull", "pull+split3", "pull+weighted", "pull+variance")
    shots = {}
    for run in runs:
        stages = run.stages
        shots[run.policy] = {k.shots for _, kinds, kind in stages for k in (kinds[i] for i in np.unique(kind))}
    entries = 190 + 200
    assert shots["pull"] == {90} and shots["pull+split3"] == {30}
    assert sum(len(kind) for _, _, kind in runs[1].stages) == 3 * entries // 6
    assert len(shots["pull+weighted"]) > 4 and len(runs[3].stages) == 4  # a pilot and the rest, for both matrices


def test_repeats_differ_in_what_is_drawn_and_matrices_go_on_drawing(tmp_path) -> None:
    """One job of each matrix, and a wait before each: four waits, none like another."""
    text = '[[qpu]]\nname = "q"\nqueue = { model = "exponential", mean_s = 5.0 }\n'
    text += '[experiment]\ndata = "random"\nsamples = 4\ntest_samples = 2\nrepeats = 2\n'
    (tmp_path / "e.toml").write_text(text)
    one = Experiment.read(tmp_path / "e.toml", {"experiment.policies": ["pull"]})
    from dqk.qpu.emulate import _Play, _values

    waits = []
    for run in emulate(one).runs:
        waits.append(run.figures["queue_share"] * run.figures["makespan_s"])
    assert waits[0] != pytest.approx(waits[1])
    play = _Play(one.fleet, one.settings, one.job_rows, one.variants[0], 3, list(one.fleet.devices()))
    _values(play, workload(one.settings))
    first, second = (outcome.log.started[0] - outcome.log.taken[0] for outcome, _, _ in play.outcomes)
    assert first != pytest.approx(second)


def test_a_deadline_and_the_size_of_jobs_come_from_the_experiment(tmp_path) -> None:
    """Of four processors as many as a deadline asks for; jobs of fewer circuits than processors take."""
    text = "".join(
        f'[[qpu]]\nname = "q{k}"\njob_s = 1.0\nshot_rate_hz = 1e9\nprice = {{ per_job = {k + 1} }}\n' for k in range(4)
    )
    text += "[experiment]\nrepeats = 1\nmax_circuits_per_job = 5\ndeadline_s = DEADLINE\n[[kernel]]\nsamples = 11\n"
    used = []
    for deadline_s in (100, 6, 1):
        (run,) = played(tmp_path, text.replace("DEADLINE", str(deadline_s)), "deadline")
        assert run.figures["jobs"] == 11
        used.append(len(set(run.stages[0][0].log.device)))
    assert used == [1, 2, 4]
