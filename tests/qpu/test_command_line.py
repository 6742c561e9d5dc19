"""`dqk gram` and `dqk train` against a real service, as somebody types them: prices, refusals, weights, names, files."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from dqk import FidelityKernel
from dqk.cli import main
from dqk.kernels.feature_maps import zz_feature_map
from dqk.store import StoredGram
from tests.qpu.server import Server
from tests.qpu.services import serving

pytestmark = [pytest.mark.qpu, pytest.mark.timeout(180)]

PROFILE = (
    "[limits]\nmax_circuits_per_job = 25\nmax_shots = 500\n[times]\njob_s = 0.01\ncircuit_s = 1e-4\nshot_s = 1e-7\n"
    "[price]\nper_job = 0.1\nper_s = 2.0\nper_shot = 0.0001\n"
)
X = np.random.default_rng(0).uniform(-1, 1, (20, 2))
X[5], X[7] = X[2], X[2]


@pytest.fixture(scope="module")
def services(tmp_path_factory) -> Iterator[list[Server]]:
    from tests.processes import session_long

    with session_long():
        manager = serving(tmp_path_factory.mktemp("qpus"), PROFILE, PROFILE)
        found = manager.__enter__()
    yield found
    manager.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    np.save("X.npy", X)
    np.save("Y.npy", X[:4] / 2)
    np.save("wide.npy", np.zeros((3, 9)))
    np.save("each.npy", [1.0, -3.0] * 10)


@pytest.fixture
def run(capsys):
    """Runs the program in this process; gives exit code, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def measure(run, services):
    """Runs `dqk gram` on the first service; gives its JSON document."""

    def measure(out, *more):
        code, found, err = run(
            "gram", "X.npy", "-o", out, "--feature-map", "zz", "--qpu", services[0].url, "--json", *more
        )
        assert code == 0, err
        return json.loads(found)

    return measure


def charged(services: list[Server]) -> np.ndarray:
    """Jobs, circuits, shots, seconds and price, as the services themselves have counted them."""
    names = 'jobs{state="done"}', "circuits_total", "shots_total", "seconds_total", "price_total"
    found = np.zeros(len(names))
    for service in services:
        lines = dict(line.rsplit(" ", 1) for line in httpx.get(f"{service.url}/metrics").text.splitlines())
        found += [float(lines[f"dqk_qpu_{name}"]) for name in names]
    return found


@pytest.mark.parametrize(
    "options",
    [
        ["--shots", "100"],
        ["--shots", "100", "--evaluate-duplicates", "all", "--max-circuits-per-job", "7"],
        ["--shots", "100", "--evaluate-duplicates", "none"],
        ["--shots", "70", "--y", "Y.npy"],
        ["--budget", "9000", "--budget-seconds", "1"],
        ["--budget", "9000", "--allocation", "weighted", "--weights", "each.npy"],
        ["--shots", "100", "--least-fidelity", "0.5"],
    ],
)
def test_a_dry_run_says_what_the_service_then_charges(options, measure, services) -> None:
    before = charged(services)
    said = measure("K.npy", *options, "--dry-run")
    assert not os.path.exists("K.npy") and (charged(services) == before).all()
    done = measure("K.npy", *options)
    paid = charged(services) - before
    assert np.allclose([said[name] for name in ("jobs", "circuits", "shots", "device_s", "price")], paid)
    assert [done[name] for name in ("jobs", "circuits", "shots")] == paid[:3].tolist()
    assert paid[1] > 10 and paid[3] > 0


def test_jobs_that_failed_and_cost_nothing_are_not_among_those_that_are_shown(run, tmp_path) -> None:
    """Of the nine jobs that the service takes the second one fails."""
    with serving(tmp_path, PROFILE + "[failures]\njob = 0.2\nseed = 37\n") as failing:
        command = [
            "gram",
            "X.npy",
            "-o",
            "K.npy",
            "--feature-map",
            "zz",
            "--qpu",
            failing[0].url,
            "--shots",
            "100",
            "--json",
        ]
        code, out, err = run(*command)
        paid = charged(failing)
        text = httpx.get(f"{failing[0].url}/metrics").text
    assert code == 0 and 'dqk_qpu_jobs{state="failed"} 1.0' in text, err
    shown = json.loads(out)
    assert [shown[name] for name in ("jobs", "circuits", "shots")] == paid[:3].tolist() == [8, 190, 19_000]
    assert shown["device_s"] == pytest.approx(paid[3], abs=1e-3)


def test_a_dry_run_of_a_store_that_grows_counts_what_is_left(measure, services) -> None:
    np.save("X.npy", X[:-3])
    measure("K.zarr", "--shots", "30")
    np.save("X.npy", np.concatenate([X, X / 3]))  # 40 samples: two blocks
    said = measure("K.zarr", "--shots", "30", "--resume", "--dry-run")
    before = charged(services)
    measure("K.zarr", "--shots", "30", "--resume")
    paid = charged(services) - before
    assert [said["jobs"], said["circuits"], said["shots"]] == paid[:3].tolist()
    assert measure("K.zarr", "--shots", "30", "--resume", "--dry-run")["jobs"] == 0
    assert StoredGram("K.zarr").digest


REFUSED = [
    (["X.npy", "--shots", "600"], 1, "600 shots for one circuit, 'qpu' takes at most 500"),
    (["wide.npy", "--shots", "10"], 1, "runs circuits of at most 8 qubits, this one has 9"),
    (["X.npy", "--shots", "10", "--budget", "1899"], 2, "need 1,900, the budget is 1,899"),
    (["X.npy", "--shots", "10", "--budget-seconds", "0.09"], 1, "s of the device, and of 0.09 s"),
    (["X.npy", "--shots", "10", "--log"], 2, "--log with --shots: a measured frequency can be 0"),
    (["X.npy", "--shots", "10", "-o", "old.npy"], 2, "--out old.npy exists"),
    (["X.npy", "--shots", "10", "-o", "new.npy", "--return-std-error"], 2, "new.std_error.npy exists"),
    (["X.npy", "--shots", "10", "-o", "old.zarr"], 1, "old.zarr is a folder with other files"),
]


@pytest.mark.parametrize(("options", "code", "message"), REFUSED)
def test_a_dry_run_refuses_what_the_run_refuses_and_nothing_is_left(options, code, message, run, services) -> None:
    for name in ("old.npy", "new.std_error.npy"):
        np.save(name, np.ones(1))
    os.mkdir("old.zarr")
    np.save("old.zarr/mine.npy", np.ones(1))
    there, before = sorted(Path().rglob("*")), charged(services)
    command = ["gram", "-o", "K.zarr", "--feature-map", "zz", "--qpu", services[0].url, *options]
    really, dry = run(*command), run(*command, "--dry-run")
    assert really == dry and really[:2] == (code, "") and message in really[2]
    assert sorted(Path().rglob("*")) == there and (charged(services) == before).all()


BAD = [
    (["--qpu", "URL"], "--qpu: measures, and how often is missing; give --shots 1000, say"),
    (["--backend", "qpu:URL"], "--backend qpu:URL: measures, and how often is missing; give --shots 1000, say"),
    (["--return-std-error"], "--return-std-error without --shots: exact values are not measured"),
    (["--seed", "3"], "--seed 3 without --shots: exact values are not measured"),
    (["--evaluate-duplicates", "all"], "--evaluate-duplicates all without --shots"),
    (["--max-circuits-per-job", "5"], "--max-circuits-per-job 5 without --shots"),
    (["--qpu", "URL", "--shots", "9", "--budget-seconds", "-1"], "--budget-seconds -1: expected a number of seconds above 0"),
    (["--qpu", "URL", "--shots", "9", "--budget-seconds", "nan"], "--budget-seconds nan: expected"),
    (["--qpu", "URL", "--shots", "9", "--least-fidelity", "2"], "--least-fidelity 2: expected a number above 0 and at most 1"),
    (["--shots", "9", "--least-fidelity", "0.5"], "--least-fidelity 0.5: is for --qpu"),
    (["--shots", "9", "--log"], "--log with --shots: a measured frequency can be 0"),
    (["--backend", "simulated", "--log"], "--log with --backend simulated: it measures entries"),
    (["--backend", "simulated", "--shard", "1/2", "-o", "K.zarr"], "--shard 1/2 with --backend simulated:"),
    (["--qpu", "URL", "--shots", "9", "--shard", "1/2", "-o", "K.zarr"], "--shard 1/2 with --qpu: one process drives"),
    (["--qpu", "URL", "--shots", "9", "--backend", "mps"], "--backend mps with --qpu: the processors measure"),
    (["--qpu", "URL", "--shots", "9", "--allocation", "wild"], "--allocation wild: expected uniform, variance or weighted"),
    (["--qpu", "URL", "--shots", "9", "--allocation", "variance"], "--allocation variance: shares out a budget; give --budget"),
    (["--budget", "9", "--allocation", "weighted"], "--allocation weighted: needs --weights FILE.npy"),
    (["--shots", "9", "--weights", "each.npy"], "--weights each.npy: is for --allocation weighted"),
    (["--shots", "9", "--evaluate-duplicates", "wild"], "--evaluate-duplicates wild: expected off_diagonal, all or none"),
    (["--shots", "9", "--seed", str(2**63)], "expected a whole number from 0 to 2**63 - 1"),
    (["--shots", str(2**53)], "--shots 9007199254740992: expected less than 2**53"),
    (["--qpu", "qpu.example.com:8000", "--shots", "9"], "write http://qpu.example.com:8000, or https://qpu.example.com:8000"),
    (["--qpu", "http:/127.0.0.1:8000", "--shots", "9"], "--qpu http:/127.0.0.1:8000: expected a URL such as http://127.0.0.1:8000"),
    (["--token-file", "t"], "--token-file t: is for --qpu and --backend qpu:URL"),
    (["--backend", "simulated", "--dry-run"], "--backend simulated: gives exact probabilities, which have no price"),
    (["--shots", "9", "--dry-run"], "--dry-run: no device measures here; give --qpu URL and --shots 1000, say"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_usage_is_told_in_the_words_of_the_command_line(options, message, run, services) -> None:
    url = services[0].url
    Path("t").write_text("token\n")
    code, out, err = run("gram", "X.npy", "-o", "K.npy", *(option.replace("URL", url) for option in options))
    assert (code, out) == (2, "") and message.replace("qpu:URL", f"qpu:{url}") in err.replace("qpu:URL", f"qpu:{url}")
    assert "=" not in err.replace("DQK_QPU_TOKEN", "") and not [n for n in os.listdir(".") if n.startswith("K.")]


def test_several_mistakes_are_told_at_once(run) -> None:
    code, _, err = run(
        "gram", "X.npy", "-o", "K.npy", "--shots", "9", "--log", "--allocation", "wild", "--least-fidelity", "0"
    )
    assert code == 2 and err.count("--") >= 4 and err.startswith("error:\n")


def test_weights_of_entries_of_samples_and_of_columns(measure) -> None:
    """Shots in proportion to what the entries count for: |a_i a_j|, twice as often where both places are one entry."""
    sizes = np.array([1.0, -3.0] * 10)
    entries = np.abs(np.outer(sizes, sizes))
    np.save("entries.npy", entries)
    budget = ["--budget", "40000", "--allocation", "weighted"]
    found = [measure(f"{name}.zarr", *budget, "--weights", f"{name}.npy") for name in ("each", "entries")]
    assert found[0]["digest"] == found[1]["digest"]
    shots = np.asarray(StoredGram("each.zarr").beside("shots")[:])
    above = np.triu_indices(20, 1)
    assert np.ptp((shots / entries)[above]) < 0.05 * (shots / entries)[above].mean()
    np.save("columns.npy", [1.0, 1.0, 2.0, 4.0])
    measure("R.zarr", "--y", "Y.npy", "--budget", "9000", *budget[2:], "--weights", "columns.npy")
    shots = np.asarray(StoredGram("R.zarr").beside("shots")[:])
    assert np.allclose(shots.mean(0) / shots.mean(), np.array([1, 1, 2, 4]) / 2, rtol=0.02)


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (np.ones(19), 2, "--weights W.npy: has shape (19,), expected (20, 20), one for each entry of K, or 20, one"),
        (np.full((20, 20), -1.0), 2, "--weights W.npy: expected numbers from 0"),
        (np.zeros(20), 2, "not all of them 0"),
        (np.full(20, np.nan), 1, "--weights W.npy: expected an .npy file of finite numbers"),
        (None, 1, "--weights W.npy: cannot be read: No such file"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_used(content, code, message, run) -> None:
    if content is not None:
        np.save("W.npy", content)
    options = ["--backend", "simulated", "--budget", "9000", "--allocation", "weighted", "--weights", "W.npy"]
    found, _, err = run("gram", "X.npy", "-o", "K.npy", *options)
    assert found == code and message in err


def test_host_and_port_alone_will_do_on_this_machine(run, services) -> None:
    bare = services[0].url.removeprefix("http://")
    code, out, err = run("gram", "X.npy", "-o", "K.npy", "--qpu", bare, "--shots", "9", "--json")
    assert code == 0, err
    assert list(json.loads(out)["qpus"]) == [f"qpu:{services[0].url}"]


def test_results_say_what_measured_them_and_where_their_errors_are(measure, run, services) -> None:
    names = [f"qpu:{service.url}" for service in services]
    found = measure("K.npy", "--qpu", services[1].url, "--shots", "200", "--return-std-error")
    assert (
        found["measured_by"] == names
        and "auto" not in found["kernel"]
        and all(name in found["kernel"] for name in names)
    )
    assert found["std_error"] == "K.std_error.npy"
    k, errors = np.load("K.npy"), np.load("K.std_error.npy")
    z = (k - FidelityKernel(zz_feature_map(2))(X))[errors > 0] / errors[errors > 0]
    assert 0.5 < z.std() < 2
    stored = measure("K.zarr", "--shots", "200")
    assert stored["measured_by"] == names[0] and names[0] in StoredGram("K.zarr").fingerprint.about
    assert json.loads(run("store", "info", "K.zarr", "--json")[1])["backend"] == "qpu"
    for options, said in (
        (["--backend", "pennylane:lightning.qubit", "--shots", "9"], "190 circuits, 1,710 shots in 1 job "),
        (["--backend", "simulated", "--shots", "9"], "190 circuits, 1,710 shots in 1 job "),
        (["--feature-map", "zz", "--shots", "9"], "9 shots of every entry, simulated by statevector"),
    ):
        code, out, err = run("gram", "X.npy", "-o", f"{len(said)}{options[1][:2]}.npy", *options)
        assert code == 0 and said in out, err


def test_a_pilot_and_what_follows_are_one_count(measure) -> None:
    found = measure("K.zarr", "--budget", "30000", "--allocation", "variance")
    assert found["computed"] == found["tiles"] == found["jobs"] == sum(found["workers"].values()) >= 16


def test_a_store_of_another_problem_is_told_in_words(measure, run, services) -> None:
    measure("K.zarr", "--shots", "30")
    command = ["gram", "X.npy", "-o", "K.zarr", "--feature-map", "zz", "--resume", "--qpu", services[0].url]
    code, _, err = run(*command, "--shots", "40", "--max-circuits-per-job", "9", "--evaluate-duplicates", "all")
    assert code == 1 and "{" not in err
    for said in ("shots is 30 there, 40 now", "a job has 25 circuits there, 9 now", "'off_diagonal' there, 'all' now"):
        assert said in err
    assert "give --max-circuits-per-job 25" in err
    _, _, other = run("gram", "X.npy", "-o", "K.zarr", "--feature-map", "zz", "--resume")
    assert "entries are measured there, computed now" in other and "backend is that of any QPU there" in other


def test_training_that_a_device_refuses_leaves_no_folder(run, services) -> None:
    train = ["train", "pos", "--epochs", "1", "--n-qubits", "3", "--out", "r", "--shots"]
    for device in (["--backend", f"qpu:{services[0].url}"], ["--qpu", services[0].url]):
        code, _, err = run(*train, "501", *device)
        assert code == 1 and "501 shots for one circuit" in err and "takes at most 500" in err
        assert not os.path.exists("r") and not os.path.exists("runs")
    code, out, err = run(*train, "1", "--qpu", services[0].url.removeprefix("http://"))
    assert code == 0 and "of 1 shot each" in err and f"jobs by qpu:{services[0].url}" in out


def test_a_file_is_no_folder_for_jobs(run) -> None:
    for data in ("X.npy", "X.npy/jobs"):
        code, out, err = run("qpu", "serve", "--data", data)
        assert (code, out) == (2, "") and f"--data {data}: X.npy is a file, expected a folder" in err


def test_folders_that_are_no_folders_of_jobs(run) -> None:
    os.makedirs("a/jobs.sqlite")
    os.mkdir("b")
    Path("b/jobs.sqlite").write_text("something else, which is no database at all")
    for data, why in (("a", "unable to open database file"), ("b", "file is not a database")):
        code, out, err = run("qpu", "serve", "--data", data)
        assert (code, out) == (1, "") and f"{data}/jobs.sqlite: {why}; choose another folder" in err


def test_a_run_that_ends_early_says_how_to_go_on(run, tmp_path_factory) -> None:
    """Three of four jobs fail: what is done stays, and the rest has its price."""
    with serving(
        tmp_path_factory.mktemp("dying"), "[limits]\nmax_circuits_per_job = 10\n[failures]\njob = 0.75\nseed = 3\n"
    ) as (service,):
        command = ["gram", "X.npy", "-o", "K.zarr", "--backend", f"qpu:{service.url}", "--shots", "20"]
        code, out, err = run(*command)
        assert code == 1 and not out
        assert "what is done is in K.zarr: the same command with --resume goes on" in err and " jobs " in err
        assert "tiles" not in err
        said = json.loads(run(*command, "--resume", "--dry-run", "--json")[1])
        failed = int(err.split(" of 19 jobs failed every time")[0].split()[-1])
        assert said["jobs"] == failed > 0 and said["shots"] == 20 * said["circuits"]
