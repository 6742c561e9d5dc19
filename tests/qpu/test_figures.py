"""What an emulated run's figures stand on: who is exact, what policies are told about devices, when devices are up."""

from pathlib import Path

import numpy as np
import pytest

from dqk.qpu._virtual import Device, VirtualRun
from dqk.qpu.emulate import VirtualMeasurement, _mixture, _Play, emulate
from dqk.qpu.experiment import Experiment
from dqk.qpu.fleet import QPU, Network
from dqk.qpu.models import JobKind, modelled
from dqk.qpu.profile import Failures, Outage, Queue
from dqk.qpu.report import report
from dqk.qpu.workload import workload
from tests.qpu.test_models import played

MIXED = """
[[qpu]]
name = "qpu"
job_s = 1.0
max_circuits_per_job = 5
noise = { depolarising_1q = 0.002, depolarising_2q = 0.01, readout_0 = 0.02, readout_1 = 0.05 }
drift = { per_hour = 1800 }
[[worker]]
name = "gpu"
entries_per_s = 5
at_qubits = 3
price = { per_job = 1.0 }
[experiment]
data = "random"
samples = 12
test_samples = 4
qubits = 3
repeats = 1
shots = 400
"""


def experiment(tmp_path: Path, text: str, *policies: str) -> Experiment:
    (tmp_path / "e.toml").write_text(text)
    return Experiment.read(tmp_path / "e.toml", {"experiment.policies": list(policies)})


def test_simulators_are_exact_and_processors_beside_them_have_their_own_errors(tmp_path) -> None:
    """Entry by entry, by who measured it, against the noise of that job's time by hand."""
    one = experiment(tmp_path, MIXED, "pull")
    work = workload(one.settings)
    part, count = work.train, 66
    play = _Play(one.fleet, one.settings, one.job_rows, one.variants[0], 3, list(one.fleet.devices()))
    measurement = VirtualMeasurement(play, part, work.circuit, 0)
    entries = part.entries
    found = measurement.frequencies(
        entries.left[entries.rows], entries.right[entries.columns], np.full(count, 400, np.int64)
    )
    ((outcome, _, _),) = play.outcomes
    z, simulated, exact = [], 0, part.response.exact
    for item, device, began in zip(outcome.log.item, outcome.log.device, outcome.log.started, strict=True):
        rows = np.arange(count)[5 * item : 5 * item + 5]
        if device == 1:
            assert np.abs(found[rows] - exact[rows]).max() < 1e-15
            simulated += len(rows)
            continue
        noise = one.fleet.qpu[0].noise.times(1 + 1800 * began / 3600)
        p = part.response.measured(rows, noise)
        z += ((found[rows] - p) / np.sqrt(p * (1 - p) / 400)).tolist()
        hits = found[rows] * 400
        assert np.allclose(hits, np.rint(hits)) and np.abs(p - exact[rows]).max() > 0.02
    assert simulated > 20 and len(z) > 20
    assert abs(np.mean(z)) < 4 / np.sqrt(len(z)) and 0.5 < np.std(z) < 1.5


def test_a_fleet_of_simulators_has_no_error_and_no_shots(tmp_path) -> None:
    """Also where a job has several parts of an entry: jobs of a thousand circuits have all."""
    alone = MIXED[MIXED.index("[[worker]]") :]
    for text, policy in ((alone, "pull"), (alone, "pull+split3"), (MIXED, "quality")):
        (run,) = emulate(experiment(tmp_path, text, policy)).runs
        assert run.figures["error"] < 1e-14 and run.figures["weighted_error"] < 1e-14
        assert run.figures["shots"] == 0 and run.figures["kept_shots"] == run.figures["planned_shots"] == 400 * (
            66 + 48
        )
        assert run.figures["accuracy"] == run.figures["exact_accuracy"]
    (run,) = emulate(experiment(tmp_path, MIXED, "pull")).runs
    assert run.figures["error"] > 0.01


def test_a_device_that_was_given_up_stays_away_from_the_next_matrix(tmp_path) -> None:
    text = '[[qpu]]\nname = "well"\njob_s = 1.0\nmax_circuits_per_job = 5\n'
    text += text.replace("well", "gone") + "outage = [{ start_s = 2.5, duration_s = 1e6 }]\n"
    text += '[experiment]\ndata = "random"\nsamples = 12\ntest_samples = 4\nrepeats = 1\n'
    (run,) = played(tmp_path, text, "pull")
    (first, *_), (second, *_) = run.stages
    assert set(first.log.device) == {0, 1} and set(first.log.lost) == {"gone"}
    assert set(second.log.device) == {0} and run.figures["done"] == 1


def test_a_mixture_has_each_device_as_often_as_it_has_measured_an_entry(tmp_path) -> None:
    """An entry is one measurement whatever the size of its job: a third of these jobs has one, the others have two."""
    one = experiment(tmp_path, MIXED.replace("max_circuits_per_job = 5", "max_circuits_per_job = 2"), "pull")
    play = _Play(one.fleet, one.settings, one.job_rows, one.variants[0], 3, list(one.fleet.devices()))
    kinds, kind = [JobKind(3, 2, 400), JobKind(3, 1, 400)], np.arange(90) % 3 // 2
    log = play.stage(kinds, kind, None, None).log
    rows = np.bincount(log.device, [2 - kind[item] for item in log.item])
    jobs = np.bincount(log.device)
    assert sum(rows) == 150 and abs(rows[0] / 150 - jobs[0] / 90) > 1e-3
    assert _mixture(play)._shares == pytest.approx(rows / 150)


def test_every_matrix_draws_its_own_hits(tmp_path) -> None:
    one = experiment(tmp_path, MIXED[: MIXED.index("[[worker]]")] + MIXED[MIXED.index("[experiment]") :], "pull")
    part, circuit, found = workload(one.settings).train, workload(one.settings).circuit, []
    for number in (0, 0, 1):
        play = _Play(one.fleet, one.settings, one.job_rows, one.variants[0], 3, list(one.fleet.devices()))
        left, right = part.entries.left[part.entries.rows], part.entries.right[part.entries.columns]
        shots = np.full(len(part.entries), 400, np.int64)
        found.append(VirtualMeasurement(play, part, circuit, number).frequencies(left, right, shots).tolist())
    assert found[0] == found[1] != found[2]


def test_a_policy_knows_how_long_others_keep_a_device(tmp_path) -> None:
    """Of 100 jobs of a second a device behind a queue of four has a fifth of a free one's; prices do not know of queues."""
    text = (
        '[[qpu]]\nname = "free"\njob_s = 1.0\nshot_rate_hz = 1e9\nmax_circuits_per_job = 1\nprice = { per_s = 2.0 }\n'
    )
    text += text.replace("free", "busy").replace("2.0", "1.9") + "queue = { mean_s = 4.0 }\n"
    text += "[experiment]\nrepeats = 1\n[[kernel]]\nsamples = 16\n"  # 120 entries
    (run,) = played(tmp_path, text, "by_speed")
    assert np.bincount(run.stages[0][0].log.device).tolist() == [100, 20]
    assert run.figures["makespan_s"] == pytest.approx(100.0, abs=0.01)
    (run,) = played(tmp_path, text, "price")
    assert np.bincount(run.stages[0][0].log.device, minlength=2).tolist() == [0, 120]


def test_outages_that_follow_or_overlap_are_one_after_the_other() -> None:
    device = Device("q", (1.0,), outages=(Outage(2.0, 3.0), Outage(4.0, 4.0), Outage(20.0, 1.0)), patience_s=30.0)
    assert [device.up_at(when) for when in (0.0, 1.9, 2.0, 4.5, 7.9, 8.0, 20.5)] == [0.0, 1.9, 8.0, 8.0, 8.0, 8.0, 21.0]
    starts = [device.run(0.0, 0)[1] for _ in range(16)]
    assert starts == [0.0, 1.0, *np.arange(8.0, 20.0).tolist(), 21.0, 22.0]


def test_devices_alike_draw_each_their_own(tmp_path) -> None:
    """Waits and failures of two of a kind, and of one with another seed of the experiment."""
    kind, network = [JobKind(2, 1, 1)], Network()
    qpus = [QPU("a", queue=Queue("exponential", 1.0, seed=k), failures=Failures(job=0.5, seed=k)) for k in (0, 1)]
    drawn = [modelled(qpu, network, kind, seed) for qpu, seed in ((qpus[0], 7), (qpus[1], 7), (qpus[0], 8))]
    for name in ("waits", "fails"):
        found = [[getattr(device, name)() for _ in range(40)] for device in drawn]
        assert found[0] != found[1] != found[2] != found[0]
        again = getattr(modelled(qpus[0], network, kind, 7), name)
        assert [again() for _ in range(40)] == found[0]


def test_what_policies_are_told_is_said_beside_the_table(tmp_path, capsys) -> None:
    from dqk.cli import main

    said = (
        "told how much each entry matters by a support-vector machine on the exact matrix, which nobody has beforehand"
    )
    for policies, names in (
        (["pull", "error_aware", "pull+weighted"], "error_aware, pull+weighted: "),
        (["pull"], None),
    ):
        one = experiment(tmp_path, MIXED, *policies)
        page = report(one, emulate(one))
        options = [word for policy in policies for word in ("--policy", policy)]
        with pytest.raises(SystemExit) as ended:
            main(["emulate", str(tmp_path / "e.toml"), "-o", str(tmp_path / "out"), *options])
        shown = capsys.readouterr().out
        assert not ended.value.code
        for text in (page, shown):
            assert (f"{names}{said}" in text) if names else said not in text
    timed = experiment(tmp_path, MIXED + "[[kernel]]\nsamples = 5\n", "error_aware")
    assert timed.told is None  # without values nothing matters more than the rest


def test_a_plan_without_a_device_is_not_a_run_that_hangs() -> None:
    from tests.qpu.test_virtual import POLICY, plan_of

    outcome = VirtualRun([], plan_of(np.ones(3)), np.zeros(3, int), POLICY).run()
    assert set(outcome.log.given_up) == {0, 1, 2} and outcome.end == 0.0
