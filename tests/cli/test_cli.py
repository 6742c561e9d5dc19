"""The command line: one JSON document on standard output, messages on standard error, exit codes, no tracebacks."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dqk
from dqk.cli import main
from dqk.training.config import OPTIONS
from dqk.training.options import TASKS
from tests.training.corpus import write_corpus

QUICK = ["train", "pos", "--model", "lstm", "--epochs", "2"]


class Result:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the program in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(end.value.code or 0), captured.out, captured.err)

    return run


def test_the_main_job_as_a_program(tmp_path: Path) -> None:
    """`python -m dqk` in a fresh process: JSON alone on standard output."""
    command = [sys.executable, "-m", "dqk", "train", "pos", "--seed", "0", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model"], result["parameters"], result["accuracy"]) == ("qklstm", 183, 1.0)
    assert result["loss"] < 0.01
    assert (tmp_path / result["run_dir"]).parent == tmp_path / "runs"
    assert "product of 4 one-qubit kernels" in done.stderr
    assert (tmp_path / result["run_dir"] / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_train_predict_resume(run) -> None:
    trained = run("train", "pos", "--out", "r")
    assert trained.code == 0 and "9 of 9 words right" in trained.out and "r/curves.png" in trained.out
    shown = run("predict", "r", "Everybody eat the book")
    assert shown.code == 0
    assert [word in shown.out for word in ("Everybody", "eat", "the", "book")] == [True] * 4
    predicted = json.loads(run("predict", "r", "The dog eat the ice", "--json").out)
    assert predicted["words"] == ["The", "dog", "eat", "the", "ice"]
    assert predicted["tags"] == ["DET", "NN", "V", "DET", "NN"]
    assert all(0.5 < probability <= 1 for probability in predicted["probabilities"])
    unknown = run("predict", "r", "Everybody eat the cake")
    assert unknown.code == 2 and unknown.out == ""
    assert "'cake'" in unknown.err and "Everybody, The, book" in unknown.err
    again = run("train", "pos", "--resume", "r", "--json")
    assert again.code == 0 and json.loads(again.out)["accuracy"] == 1.0
    other = run("train", "pos", "--resume", "r", "--hidden-dim", "7")
    assert other.code == 2 and "--hidden-dim: 7, but the run has 6" in other.err
    occupied = run("train", "pos", "--out", "r")
    assert occupied.code == 2 and "--resume r" in occupied.err
    both = run("train", "pos", "--resume", "r", "--out", "s")
    assert both.code == 2 and "leave one" in both.err
    assert run("train", "pos", "--resume", "r", "--out", "r").code == 0


def test_files_with_held_out_and_test_accuracy(run, tmp_path: Path) -> None:
    write_corpus(tmp_path / "a.conllu", 30)
    write_corpus(tmp_path / "b.conllu", 10, seed=1)
    done = run(*QUICK, "--data", "a.conllu", "--test", "b.conllu", "--json", "--out", "r")
    result = json.loads(done.out)
    assert done.code == 0 and result["preset"] == "treebank"
    assert 0 <= result["held_out_accuracy"] <= 1 and 0 <= result["test_accuracy"] <= 1
    table = run("train", "pos", "--resume", "r")
    assert "test file" in table.out and "held-out sentences" in table.out
    assert "(unknown)" in run("predict", "r", "the unicorn verb1 .").out


def test_toml_and_command_line(run, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('model = "lstm"\nepochs = 1\nlearning-rate = 0.05\nhidden_dim = 5\nout = "r"\n')
    result = json.loads(run("train", "pos", "--config", "c.toml", "--epochs", "3", "--json").out)
    assert (result["run_dir"], result["epochs"]) == ("r", 3)
    other = json.loads(run("train", "pos", "--config", "c.toml", "--out", "s", "--json").out)
    assert other["run_dir"] == "s"
    options = json.loads((tmp_path / "r" / "config.json").read_text())["options"]
    assert (options["learning_rate"], options["hidden_dim"], options["embedding_dim"]) == (0.05, 5, 8)


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (
            "colour = 1\nmodle = 2\nepochs = 0",
            2,
            ["colour: there is", "modle: there is", "epochs: 0, expected at least 1"],
        ),
        ("out = 3", 2, ["--out: 3, expected the path of a folder"]),
        ("[table]\na = 1", 2, ["table: there is no such option"]),
        ("epochs =\n", 1, ["c.toml is not TOML", "line 1"]),
    ],
)
def test_bad_toml(run, tmp_path: Path, content: str, code: int, says: list[str]) -> None:
    (tmp_path / "c.toml").write_text(content)
    done = run("train", "pos", "--config", "c.toml", "--json")
    assert (done.code, done.out) == (code, "")
    assert [part for part in says if part not in done.err] == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--epochs", "many", "--seed", "-1", "--model", "lst"], 2, ["'many'", "seed: -1", "did you mean 'lstm'?"]),
        (["--model", "lstm", "--n-qubits", "4"], 2, ["--n-qubits: has no meaning for the model 'lstm'"]),
        (
            ["--gate-kernel", "shared"],
            2,
            ["--gate-kernel shared with --readout shared: nothing", "another --gate-kernel"],
        ),
        (
            ["--gate-kernel", "circuit"],
            2,
            ["--gate-kernel circuit gives", "(0 parameters); use --feature-map reuploading --trainable rotations\n"],
        ),
        (
            ["--gate-kernel", "circuit", "--kernel", "rbf"],
            2,
            ["kernel 'rbf' has none; use --kernel fidelity with --feature-map reuploading --trainable rotations\n"],
        ),
        (["--feature-map", "iqp", "--n-qubits", "40"], 1, ["truncate (--backend mps:max_bond=32; "]),
        (["--backend", "abacus"], 2, ["abacus"]),
        (["--colour", "red"], 2, ["--colour"]),
        (["--data", "none.conllu"], 1, ["none.conllu"]),
        (["--data", "bad.conllu"], 1, ["bad.conllu, line 1: 2 columns, expected 10"]),
        (["--config", "none.toml"], 1, ["none.toml"]),
        (["--resume", "nowhere"], 1, ["nowhere is not a run folder"]),
    ],
)
def test_bad_usage_and_failures(run, tmp_path: Path, arguments: list[str], code: int, says: list[str]) -> None:
    (tmp_path / "bad.conllu").write_text("a\tb\n")
    done = run("train", "pos", *arguments, "--json")
    assert (done.code, done.out) == (code, "")
    assert [part for part in says if part not in done.err] == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.conllu"]


def pasted(message: str) -> list[str]:
    """The words of a command line that ends a message, without the program that they are for."""
    program, *words = shlex.split(message.strip().splitlines()[-1].rpartition(": ")[2])
    assert Path(program).samefile(Path(sys.executable).with_name("dqk"))
    return words


def test_a_damaged_model_is_named(run, tmp_path: Path) -> None:
    run(*QUICK, "--out", "my run")
    assert run("predict", "my run", "  ").code == 2
    best = tmp_path / "my run" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-8])
    done = run("predict", "my run", "The dog")
    assert done.code == 1 and "my run/best.safetensors is damaged" in done.err
    advice = [word.replace("SENTENCE", "The dog") for word in pasted(done.err)]
    assert run(*advice).code == 0  # with the parameters of the last epoch
    resumed = run("train", "pos", "--resume", "my run", "--epochs", "3")  # at once, not after the epochs
    assert resumed.code == 1 and "my run/best.safetensors is damaged" in resumed.err and "epoch 3" not in resumed.err


def test_the_last_line_can_be_pasted(run) -> None:
    done = run(*QUICK, "--out", "it's mine")
    predicted = run(*pasted(done.out))
    assert predicted.code == 0 and "Everybody" in predicted.out


def test_a_folder_that_cannot_be_written(run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(*QUICK, "--out", "file/run")
    assert done.code == 1 and "file/run" in done.err


def test_reproduce_table1(run) -> None:
    done = run("reproduce", "table1", "--json")
    counts = {row["name"]: row["parameters"] for row in json.loads(done.out)["rows"]}
    assert (counts["LSTM"], counts["QK-LSTM"], counts["QLSTM"]) == (477, 183, 199)
    shown = run("reproduce", "table1")
    assert shown.code == 0
    assert [count for count in (477, 183, 199, 273, 113, 213, 289, 337) if str(count) not in shown.out] == []
    assert "2411.13225" in shown.out


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["train", "pos"],
        ["train", "forecast"],
        ["predict"],
        ["reproduce"],
        ["reproduce", "table1"],
        ["reproduce", "fig3"],
        ["qpu"],
        ["launch"],
        ["store"],
        ["compare"],
        ["compare", "pos"],
        ["compare", "forecast"],
    ],
)
def test_every_help_has_an_example(run, command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.code == 0 and "Example" in done.out
    assert "dqk " + " ".join(command) in done.out.partition("Example")[2]


def test_every_option_is_in_the_help(run) -> None:
    for task in TASKS:
        shown = run("train", task, "--help").out
        listed = {name for name in OPTIONS if f"--{name.replace('_', '-')} " in shown}
        assert listed == {name for name, option in OPTIONS.items() if task in option.tasks}
    shown = run("train", "pos", "--help").out
    assert "bool" not in shown + run("--help").out + run("predict", "--help").out  # a switch takes no value


def test_help_shows_nothing_that_is_not_there(run) -> None:
    """Brackets are no markup, and a preset is named only where it can be chosen."""
    assert "`qpu` table" in " ".join(run("qpu", "up", "--help").out.split())
    named = {task: "for table1" in run(*task, "--help").out for task in (("train", "pos"), ("compare", "pos"))}
    assert named == {("train", "pos"): True, ("compare", "pos"): False}


def test_a_switch_of_the_table_of_options(run, tmp_path: Path) -> None:
    one, both = (json.loads(run(*QUICK, *more, "--json").out) for more in ([], ["--bidirectional"]))
    assert both["parameters"] == one["parameters"] + 384 + 6 * 3  # another LSTM(8, 6), and its part of the head
    (tmp_path / "c.toml").write_text("bidirectional = true\nmodel = 'lstm'\nepochs = 1\n")
    assert json.loads(run("train", "pos", "--config", "c.toml", "--json").out)["parameters"] == both["parameters"]
    (tmp_path / "c.toml").write_text("bidirectional = 'yes'\n")
    assert "--bidirectional: 'yes', expected true or false" in run("train", "pos", "--config", "c.toml").err


def test_completion(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DQK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "dqk train pos --bidir")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert run().out.split() == ["--bidirectional"]


def test_the_bar_never_shows_a_number_that_there_is_not(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first batch, while code is compiled, there is no loss yet."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run(*QUICK, "--out", "r")
    assert "first batch" in done.err and "elapsed" in done.err and "loss" in done.err
    assert "nan" not in done.err


def test_large_circuits(run, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("train", "pos", "--n-qubits", "1000000", "--kernel-scale", "auto")
    assert refused.code == 2 and "--kernel-scale: 'auto' is 2^(n_qubits/2), too large" in refused.err
    monkeypatch.setenv("DQK_MEMORY_MIB", "1000")
    refused = run("train", "pos", "--n-qubits", "1000000")
    assert refused.code == 1 and "preparing circuits of 1,000,000 qubits" in refused.err
    assert (
        "the 4,000,000 gates of a feature map on 1,000,000 qubits need 1,525 MiB, the bound is 1,000 MiB" in refused.err
    )


def test_version(run) -> None:
    assert run("--version").out == f"dqk {dqk.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "pos", "--help"], ["gram", "--help"]])
def test_what_only_talks_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'numba', 'matplotlib', 'numpy', 'zarr'}\n"
        "atexit.register(lambda: print(*heavy & set(sys.modules), file=sys.stderr))\n"
        "from dqk.cli import main\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    assert done.stdout and done.stderr.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--distributed",), "torchrun --nproc-per-node 2 -m dqk train pos"),
        (("--distributed", "--ranks", "2"), "--ranks: is for --launcher ray"),
        (("--max-failures", "2"), "--max-failures: is for --launcher ray"),
        (("--distributed", "--launcher", "slurm"), "--launcher: 'slurm', expected 'ray'"),
        (("--launcher", "ray"), "--launcher ray: needs --distributed"),
        (("--distributed", "--launcher", "ray", "--ranks", "0"), "--ranks: '0', expected a whole number of at least 1"),
        (("--distributed", "--launcher", "ray", "--max-failures", "x"), "--max-failures: 'x'"),
    ],
)
def test_launchers_that_cannot_be_meant(arguments, message, run, monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    done = run("train", "pos", *arguments)
    assert done.code == 2 and message in done.err and done.out == ""
    assert not Path("runs").exists()


def test_one_rank_under_a_launcher_works_and_says_so(run, monkeypatch) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    done = run("train", "pos", "--distributed", "--epochs", "1", "--json")
    assert done.code == 0 and json.loads(done.out)["ranks"] == 1
    assert "1 rank started by torchrun, so that it trains alone" in done.err
