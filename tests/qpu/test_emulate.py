"""Emulated experiments: shots accounted for, what policies gain, sweeps, reports, wrong experiments, and real time beside it."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dqk.cli import main
from dqk.cli.emulate import _show
from dqk.errors import InvalidInputError
from dqk.qpu.emulate import emulate
from dqk.qpu.experiment import Experiment, Variant
from dqk.qpu.fleet import Fleet
from dqk.qpu.pictures import pareto, short
from dqk.qpu.profile import Outage
from dqk.qpu.realtime import compare
from dqk.qpu.report import report
from dqk.qpu.results import mean_and_margin
from tests.requirements import browser, require

FLEETS = Path(__file__).parent.parent.parent / "examples" / "fleets"
QUIET = '[[qpu]]\nname = "q"\ncount = 3\nqubits = 6\nmax_circuits_per_job = 10\n'
SMALL = '[experiment]\ndata = "random"\nsamples = 8\ntest_samples = 4\nrepeats = 2\nshots = 100\n'


def experiment(tmp_path: Path, text: str, changes=None, sweep=None) -> Experiment:
    (tmp_path / "experiment.toml").write_text(text)
    return Experiment.read(tmp_path / "experiment.toml", changes, sweep)


@pytest.fixture(scope="module")
def hetero():
    names = ["round_robin", "by_speed", "pull", "hedged", "hedged+variance", "pull+weighted", "pull+split3", "price"]
    changes = {"experiment.policies": names, "experiment.repeats": 3, "experiment.downstream": "svc"}
    return emulate(Experiment.read(FLEETS / "hetero6.toml", changes))


def test_every_shot_is_accounted_for(hetero) -> None:
    """What was asked for is in the result; devices measured that, and what came late or failed."""
    for run in hetero.runs:
        figures, entries = run.figures, 40 * 39 // 2 + 40 * 40
        assert figures["done"] == 1 and not run.not_done
        assert figures["planned_shots"] == figures["kept_shots"] <= entries * 500
        assert figures["planned_shots"] > 0.97 * entries * 500
        if not figures["duplicates"] and run.policy in ("round_robin", "by_speed", "pull", "price"):
            assert figures["shots"] == figures["kept_shots"] == entries * 500
        assert figures["shots"] >= figures["kept_shots"]
        parts = [figures[name] for name in ("utilisation", "queue_share", "down_share", "idle_share")]
        assert all(0 <= part <= 1 for part in parts) and sum(parts) == pytest.approx(1.0)


def test_jobs_in_the_log_are_the_shots(hetero) -> None:
    for run in (run for run in hetero.runs if run.stages):
        measured = wanted = price = 0
        for outcome, kinds, kind in run.stages:
            log = outcome.log
            assert sorted(i for i, ok in zip(log.item, log.accepted, strict=True) if ok) == list(range(len(kind)))
            measured += sum(kinds[kind[item]].measurements for item in log.item)
            wanted += sum(kinds[k].measurements for k in kind)
            for item, device, start, end in zip(log.item, log.device, log.started, log.ended, strict=True):
                fast, exact = device < 2, device >= 4
                per_s = 0.5 if fast else 0.0 if exact else 0.3
                price += per_s * (end - start) + (0.01 + 1e-4 * kinds[kind[item]].measurements if exact else 0.0)
        assert measured == run.figures["shots"] and wanted == run.figures["planned_shots"]
        assert price == pytest.approx(run.figures["price"])


def test_the_best_policy_beats_round_robin_at_equal_error(hetero) -> None:
    rows = {row.policy: row for row in hetero.rows}
    still, best = rows["round_robin"], rows["hedged"]
    assert still.mean["makespan_s"] / best.mean["makespan_s"] >= 1.5
    assert best.mean["error"] <= still.mean["error"] + still.margin["error"]
    assert rows["price"].mean["price"] == min(row.mean["price"] for row in hetero.rows)
    assert rows["pull+weighted"].mean["weighted_error"] < rows["pull"].mean["weighted_error"] * 1.05


def test_the_same_seed_gives_the_same_figures(tmp_path) -> None:
    found = [emulate(experiment(tmp_path, QUIET + SMALL)) for _ in range(2)]
    assert [run.figures for run in found[0].runs] == [run.figures for run in found[1].runs]
    other = emulate(experiment(tmp_path, QUIET + SMALL, {"experiment.seed": 1}))
    assert other.runs[0].figures["error"] != found[0].runs[0].figures["error"]


def test_an_error_of_sampling_alone_is_that_of_binomials(tmp_path) -> None:
    """Without noise: E |K' - K|^2 = sum k (1 - k) / shots."""
    text = QUIET + SMALL.replace("repeats = 2", "repeats = 40").replace("samples = 8", "samples = 12", 1)
    one = experiment(tmp_path, text + 'policies = ["pull"]\n')
    from dqk.qpu.workload import workload

    exact = workload(one.settings).train.exact()
    k = exact[~np.eye(len(exact), dtype=bool)]
    expected = np.sqrt((k * (1 - k) / 100).sum() / (k**2).sum())
    found = [run.figures["error"] for run in emulate(one).runs]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(expected, rel=0.1)


def test_times_alone_of_kernels_of_several_widths(tmp_path) -> None:
    """By hand: 8 and 12 qubits, a GPU that halves its rate with each qubit, and jobs of 100."""
    text = (
        '[[qpu]]\nname = "q"\nqubits = 12\nshot_rate_hz = 1000\nmax_circuits_per_job = 100\n'
        '[[worker]]\nname = "gpu"\nqubits = 10\nentries_per_s = 1000\nat_qubits = 8\n'
        '[experiment]\nshots = 10\nrepeats = 1\npolicies = ["mixed", "pull"]\n'
        "[[kernel]]\nqubits = 8\nsamples = 50\n[[kernel]]\nqubits = 12\nsamples = 25\n[[kernel]]\nqubits = 20\nsamples = 25\n"
    )
    for run in emulate(experiment(tmp_path, text)).runs:
        assert run.not_done == {"circuits of 20 qubits fit nowhere: the widest device, q, has 12": 3}
        (outcome, kinds, kind) = run.stages[0]
        done = [
            kinds[kind[item]] for item, device in zip(outcome.log.item, outcome.log.device, strict=True) if device == 1
        ]
        assert {k.qubits for k in done} == {8}  # on the GPU
        assert run.figures["done"] == pytest.approx(16 / 19)
        # 300 entries of 12 qubits on the QPU take 3 s; of 1225 of 8 qubits it takes some, at 1 s a job, the GPU does the rest
        assert 3.0 <= run.figures["makespan_s"] <= 4.0


def test_wrong_experiments_say_everything(tmp_path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        experiment(
            tmp_path,
            '[[qpu]]\nname = "a"\nshot_rate_hz = -1\n[experiment]\npolicies = ["pul", "pull+varianz", "pull+split0"]\nshotz = 3\n'
            'data = "iris"\nsamples = 1\n[sweep]\nx = 3\n',
        )
    text = str(caught.value)
    for part in (
        "qpu 1.shot_rate_hz is -1",
        "unknown key of [experiment] 'shotz'; did you mean 'shots'?",
        "unknown name 'iris'",
        "experiment.samples is 1, expected a whole number of at least 2",
        "unknown policy 'pul'; did you mean 'pull'?",
        "did you mean 'variance'?",
        "'split0'",
        "sweep is {'x': 3}, expected lists of values by key",
    ):
        assert part in text, text
    with pytest.raises(InvalidInputError, match="the key 'qpu' is not there"):
        experiment(tmp_path, QUIET, {"qpu": 3})
    with pytest.raises(InvalidInputError, match="cannot be read"):
        experiment(tmp_path, 'fleet = "nowhere.toml"')
    assert Variant.parse("hedged+split4+session").split == 4


def test_every_wrong_value_of_a_sweep_is_said_before_anything_is_played(tmp_path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        sweep = {"experiment.shots": [10, -2, "x"], "experiment.shot": [1, 2], "experiment.qubits": [4, 30]}
        experiment(tmp_path, '[[qpu]]\nname = "q"\nqubits = 6\njob_s = -1\n', sweep=sweep)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5 and "qpu 1.job_s is -1" in lines[1]
    assert "experiment.shots is -2" in lines[2] and "experiment.shots is 'x'" in lines[3]
    assert "did you mean 'shots'?" in lines[4]
    with pytest.raises(InvalidInputError, match="sweep: circuits of 30 qubits fit nowhere"):
        experiment(tmp_path, QUIET, sweep={"experiment.qubits": [4, 30]})
    with pytest.raises(InvalidInputError, match="10,201 combinations"):
        experiment(tmp_path, QUIET, sweep={"experiment.shots": [1] * 101, "qpu.job_s": [1] * 101})


@pytest.mark.parametrize(
    "text, message",
    [
        (QUIET + SMALL + "qubits = 7\n", "circuits of 7 qubits fit nowhere: the widest device, q, has 6"),
        (QUIET + "[[kernel]]\nqubits = 7\n", "circuits of 7 qubits fit nowhere"),
        (QUIET + "max_shots = 99\n" + SMALL, "10 circuits with 100 shots on 4 qubits exceed every device's limits"),
        (QUIET + '[experiment]\ndata = "random"\nsamples = 3000', "4,618,500 entries, at most 2,000,000"),
        (QUIET + "[[kernel]]\nsamples = 1", "kernel 1.samples is 1, expected a whole number of at least 2"),
        (QUIET + "[[kernel]]\nsamples = 100_000", "jobs of 10 circuits, at most 5,000,000 can be emulated"),
        (QUIET + "[experiment]\nsamples = 2\ntest_samples = 1\nseed = 1", "training samples are all of one class"),
    ],
)
def test_what_cannot_be_played_at_all_is_bad_usage(tmp_path, text, message, capsys) -> None:
    (tmp_path / "experiment.toml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["emulate", str(tmp_path / "experiment.toml"), "-o", str(tmp_path / "out")])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_an_outage_of_everything(tmp_path) -> None:
    down = QUIET + "outage = [{ start_s = 0, duration_s = 1e6 }]\n" + SMALL
    for run in emulate(experiment(tmp_path, down)).runs:
        assert run.figures["done"] == 0 and "error" not in run.figures and run.figures["price"] == 0
        assert sum(run.not_done.values()) == 3 and run.figures["kept_shots"] == 0
    page = subprocess.run(
        [sys.executable, "-m", "dqk", "emulate", str(tmp_path / "experiment.toml"), "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert page.returncode == 0, page.stderr
    assert "not done by round_robin: " in page.stdout and "was down, for too long" in page.stdout
    assert "Not done" in (tmp_path / "out" / "report.html").read_text()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_the_command_its_report_and_its_tables(tmp_path, capsys) -> None:
    from pyarrow import parquet

    path = tmp_path / "experiment.toml"
    path.write_text(f'fleet = "{FLEETS / "hetero6.toml"}"\n{SMALL}')
    main_ = [
        "emulate",
        str(path),
        "-o",
        str(tmp_path / "out"),
        "--policy",
        "pull",
        "--policy",
        "hedged+split2",
        "--json",
    ]
    with pytest.raises(SystemExit) as ended:
        main([*main_, "--sweep", "qpu.fast.count=1,2,4", "--set", "network.latency_s=0.5"])
    assert not ended.value.code
    document = json.loads(capsys.readouterr().out)
    assert [(row["policy"], row["point"]) for row in document["rows"]] == [
        (policy, {"qpu.fast.count": count}) for count in (1, 2, 4) for policy in ("pull", "hedged+split2")
    ]
    assert all(row["mean"]["makespan_s"] > 2.0 for row in document["rows"])  # there and back, for two matrices
    text = (tmp_path / "out" / "report.html").read_text()
    links = Links()
    links.feed(text)
    assert not links.open and len(links.sources) >= 2
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in links.sources)
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)
    runs = parquet.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert len(runs) == 2 * 2 * 3 and {run["qpu.fast.count"] for run in runs} == {1, 2, 4}
    mean = np.mean([run["makespan_s"] for run in runs if run["policy"] == "pull" and run["qpu.fast.count"] == 4])
    assert mean == pytest.approx(document["rows"][4]["mean"]["makespan_s"])
    jobs = parquet.read_table(tmp_path / "out" / "jobs.parquet").to_pylist()
    kept = [job for job in jobs if job["policy"] == "pull" and job["accepted"] and job["qpu.fast.count"] == 1]
    assert sum(job["rows"] * job["shots"] for job in kept) == (28 + 32) * 100
    with pytest.raises(SystemExit) as ended:
        main([*main_, "--set", "experiment.shots"])
    assert ended.value.code == 2


def test_no_figure_of_the_table_is_cut_off(hetero, capsys, monkeypatch) -> None:
    """A file has them all; a narrow terminal as many columns as fit, and the names of the others."""
    _show(hetero, "a note")
    written = capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    _show(hetero, "a note")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in written + shown and "1,190,000" in written and "no room" not in written
    assert "makespan s" in shown and max(map(len, shown.splitlines()[:6])) <= 80
    assert "no room for" in shown and "SVC: the report has them" in shown


def test_a_browser_shows_the_report(tmp_path) -> None:
    """Without a network: the pictures' blue bars, the hatched outage's legend, text; nothing is wider than the window."""
    require("browser")
    image = pytest.importorskip("PIL.Image")
    changes = {"experiment.policies": ["round_robin", "pull"], "experiment.repeats": 1}
    one = Experiment.read(FLEETS / "outage4.toml", changes)
    page, picture, program = tmp_path / "report.html", tmp_path / "page.png", browser()
    page.write_text(report(one, emulate(one)), encoding="utf-8")
    assert program
    command = [program, "--headless", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,2400", f"--screenshot={picture}"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=60)
    with image.open(picture) as shown:
        pixels = np.array(shown.convert("RGB")).reshape(-1, 3)
    shape = (2400, 1200)
    blue = (pixels == (0x00, 0x72, 0xB2)).all(axis=1).reshape(shape)
    # Two bars of the makespans, then two charts of four devices each.
    assert blue.sum() > 100_000 and blue[:600].any() and blue[1200:].any()
    assert (pixels == (0x99, 0x99, 0x99)).all(axis=1).sum() > 1000  # down
    assert (pixels == (0x22, 0x22, 0x22)).all(axis=1).sum() > 1000  # text
    assert (pixels.reshape(*shape, 3)[:, -10:] == 255).all()  # nothing reaches the edge


def test_outages_in_a_picture_and_numbers_for_people() -> None:
    assert list(Outage(2.0, 1.0).spans(10.0)) == [(2.0, 1.0)] and not list(Outage(12.0, 1.0).spans(10.0))
    assert list(Outage(1.0, 2.0, 4.0).spans(10.0)) == [(1.0, 2.0), (5.0, 2.0), (9.0, 1.0)]
    assert [short(x) for x in (0.0354, 12.34, 999.4, 2763.0, 61740.0)] == ["0.0354", "12.3", "999", "2,760", "61,700"]
    assert short(1950.0, 1) == "2,000" and short(3e12) == "3e+12"


def test_confidence_intervals_and_fronts() -> None:
    """Against the textbook: 4 values, t = 3.182; and coverage of 95 %."""
    mean, margin = mean_and_margin([1.0, 2.0, 4.0, 5.0])
    assert mean == 3.0 and margin == pytest.approx(3.182 * np.std([1, 2, 4, 5], ddof=1) / 2, rel=1e-3)
    assert mean_and_margin([2.0]) == (2.0, 0.0)
    draws = np.random.default_rng(0).normal(0, 1, (4000, 5))
    inside = [abs(m) <= w for m, w in map(mean_and_margin, draws.tolist())]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)
    x, y = np.array([1.0, 2.0, 3.0, 2.5, 1.0]), np.array([5.0, 3.0, 1.0, 4.0, 6.0])
    assert pareto(x, y).tolist() == [0, 1, 2]


@pytest.mark.qpu
@pytest.mark.timeout(120)
def test_the_command_that_runs_an_experiment_in_real_time_beside_it(tmp_path, capsys, monkeypatch) -> None:
    """Two matrices, of 28 and 32 entries: by hand 0.2 s a job, 3 and 4 jobs, on two processors 0.4 s each."""
    from dqk.qpu import realtime
    from dqk.qpu.fleet import Network

    monkeypatch.setattr(realtime, "calibrated", lambda devices: Network(latency_s=0.005, overhead_s=0.005))
    path = tmp_path / "experiment.toml"
    path.write_text(
        '[[qpu]]\nname = "q"\ncount = 2\nmax_circuits_per_job = 10\njob_s = 0.2\nshot_rate_hz = 1e9\n' + SMALL
    )
    command = ["emulate", str(path), "--real-time", "--json", "--policy", "pull", "--policy", "pull+variance"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    (policy, found), *others = json.loads(capsys.readouterr().out).items()
    assert policy == "pull" and not others
    assert 0.8 <= found["virtual_s"] < 0.9 and 0.8 <= found["real_s"] < 20.0
    assert found["real_used"] == pytest.approx(7 * 0.2 / 2 / found["real_s"], rel=1e-3)
    assert found["virtual_used"] == pytest.approx(7 * 0.2 / 2 / found["virtual_s"], rel=1e-3)
    with pytest.raises(SystemExit) as ended:
        main([*command, "--sweep", "experiment.shots=10,20"])
    assert ended.value.code == 2 and "no [sweep]" in capsys.readouterr().err


@pytest.mark.qpu
@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("name, entries", [("homogeneous4", 2400), ("hetero6", 7200), ("outage4", 2400)])
def test_virtual_time_against_real_services(name, entries) -> None:
    """Makespan within 10 %, use of the devices within 5 points; the network is measured on the same machine just before.

    Who gets the last job of a slow device hangs on milliseconds and is worth a second, so runs are some twenty seconds long.
    """
    found = compare(Fleet.read(FLEETS / f"{name}.toml"), [entries], 300)
    assert abs(found.deviation) <= 0.10, found
    assert abs(found.virtual_used - found.real_used) <= 0.05, found


def test_no_line_of_the_scaling_leaves_its_axes(monkeypatch) -> None:
    """Better devices are added, so efficiencies are above 1."""
    from dqk.qpu import pictures

    drawn = []
    monkeypatch.setattr(pictures, "_png", lambda figure: drawn.append(figure) or b"")
    changes = {"experiment.policies": ["round_robin", "pull"], "experiment.repeats": 1, "experiment.downstream": "svc"}
    pictures.draw_scaling(emulate(Experiment.read(FLEETS / "hetero6.toml", changes, {"qpu.fast.count": [1, 8]})), "k")
    left, right = drawn[0].axes
    highest = max(max(line.get_ydata()) for line in right.lines)
    assert 1.1 < highest <= right.get_ylim()[1] and right.get_ylim()[0] == 0
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["5", "12"]
    assert left.get_legend() is None and len(drawn[0].legends) == 1
