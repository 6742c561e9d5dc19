"""Whole runs: they learn, report what they measured, and leave a complete folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dqk.data import read_conllu
from dqk.errors import CheckpointError, InvalidInputError, MemoryBoundError
from dqk.training import checkpoint
from dqk.training.config import resolve
from dqk.training.loop import DivergenceError, Reporter, State, Trainer
from dqk.training.models import build_tagger, count_parameters, describe_kernel, feature_map_of
from dqk.training.pos import load_corpus, resume_pos, train_pos
from dqk.training.predict import predict_tags
from dqk.training.run_folder import RunFolder
from tests.training.corpus import write_corpus

FILES = ["best.safetensors", "config.json", "curves.png", "last.safetensors", "metrics.jsonl", "result.json"]


@pytest.mark.parametrize(("model", "parameters"), [("qklstm", 183), ("lstm", 477), ("qlstm", 199)])
def test_the_papers_sentences_are_learned(model: str, parameters: int, tmp_path: Path) -> None:
    result = train_pos({"model": model}, tmp_path / "run")
    assert (result["parameters"], result["accuracy"], result["correct"], result["tokens"]) == (parameters, 1.0, 9, 9)
    assert result["loss"] < 0.01
    assert result["most_frequent_tag_accuracy"] == 1.0  # the task can be solved without reading: said, not hidden
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == sorted([*FILES, "vocabulary.json"])
    assert predict_tags(tmp_path / "run", "The dog eat the ice").tags == ("DET", "NN", "V", "DET", "NN")
    with pytest.raises(InvalidInputError, match="unknown word 'cake'"):
        predict_tags(tmp_path / "run", "Everybody eat the cake")


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_the_papers_sentences_are_learned_with_classical_twins(kernel: str, tmp_path: Path) -> None:
    result = train_pos({"kernel": kernel, "epochs": 60}, tmp_path / "run")
    assert (result["parameters"], result["accuracy"]) == (183, 1.0)
    assert "without circuits" in result["kernel"]
    assert predict_tags(tmp_path / "run", "The dog eat the ice").tags == ("DET", "NN", "V", "DET", "NN")
    with pytest.raises(InvalidInputError, match="--kernel: 'linear'|--kernel: 'rbf'"):
        resume_pos(tmp_path / "run", {"kernel": "rbf" if kernel == "linear" else "linear"})


@pytest.mark.parametrize("model", ["qklstm", "lstm", "qlstm"])
def test_files_are_learned_with_held_out_and_test_accuracy(model: str, small: dict, tmp_path: Path) -> None:
    test = write_corpus(tmp_path / "test.conllu", 20, seed=9)
    options = {name: value for name, value in small.items() if model != "lstm" or not name.startswith("n_")}
    options = {name: value for name, value in options.items() if model != "qlstm" or name != "n_references"}
    lines: list[dict[str, Any]] = []

    class Recorder(Reporter):
        def epoch(self, line: dict[str, Any]) -> None:
            lines.append(line)

    result = train_pos({**options, "model": model, "test": str(test), "epochs": 12}, tmp_path / "run", Recorder())
    assert result["evaluated_on"] == "held-out sentences"
    assert result["accuracy"] == result["held_out_accuracy"] == max(line["eval_accuracy"] for line in lines)
    assert result["accuracy"] > 0.7 and result["test_accuracy"] > 0.7  # the most frequent tag has 0.3
    assert [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == lines
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    # What predict says, word for word, is what the test accuracy counted.
    right = total = 0
    for sentence in read_conllu(test):
        tags = predict_tags(tmp_path / "run", " ".join(sentence.words)).tags
        right += sum(a == b for a, b in zip(tags, sentence.tags, strict=True))
        total += len(sentence)
    assert right / total == result["test_accuracy"]


def test_held_out_sentences_are_the_last_ones(corpus: Path) -> None:
    sentences = tuple(read_conllu(corpus))
    for part, n_train in ((0.2, 24), (0.0, 30), (0.99, 0), (0.35, 19)):
        config = resolve({"data": str(corpus), "held_out": part})
        if n_train == 0:
            with pytest.raises(InvalidInputError, match="leaves none to train on"):
                load_corpus(config)
            continue
        loaded = load_corpus(config)
        assert (loaded.train, loaded.held_out) == (sentences[:n_train], sentences[n_train:])


def test_without_held_out_sentences_the_training_sentences_decide(small: dict, tmp_path: Path) -> None:
    result = train_pos({**small, "held_out": 0.0, "epochs": 1}, tmp_path / "run")
    assert result["evaluated_on"] == "training sentences" and "held_out_accuracy" not in result


def test_a_test_file_with_other_tags_is_refused(small: dict, tmp_path: Path) -> None:
    other = tmp_path / "other.conllu"
    other.write_text("1\ta\ta\tNN\t_\t_\t_\t_\t_\t_\n\n")
    with pytest.raises(InvalidInputError, match="no tag of the test file"):
        train_pos({**small, "test": str(other)}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_seed_gives_the_same_run_and_another_does_not(small: dict, tmp_path: Path) -> None:
    def losses(name: str, seed: int) -> list[float]:
        train_pos({**small, "seed": seed, "epochs": 2}, tmp_path / name)
        return [json.loads(line)["eval_loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    first = losses("a", 0)
    torch.rand(5)
    assert losses("b", 0) == first
    assert losses("c", 1) != first


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "learning_rate": 0.5},
        {"dtype": "float64"},
        {"references": "data"},
        {"references": "fixed", "reference_space": "input"},
        {"gate_kernel": "projection"},
        {"gate_kernel": "circuit", "feature_map": "reuploading", "trainable": "rotations", "layers": 1},
        {"feature_map": "zz", "layers": 1, "kernel_scale": 3.0},
        {"feature_map": "bsp", "readout": "scalar", "backend": "reference"},
        {"clip": 0.0, "gate_kernel": "shared", "bandwidth": 1.0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_options_reach_the_network(options: dict, small: dict, tmp_path: Path) -> None:
    result = train_pos({**small, **options}, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert predict_tags(tmp_path / "run", "the noun1").model == "qklstm"
    assert result["kernel"]


def test_clipping_bounds_the_step(small: dict, tmp_path: Path) -> None:
    """With SGD and learning rate 1 a step is as long as the clipped gradient."""
    options = {**small, "optimizer": "sgd", "learning_rate": 1.0, "epochs": 1, "batch_size": 30, "held_out": 0.0}
    config = resolve({**options, "clip": 1e-3})
    train_pos({**options, "clip": 1e-3}, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    before = build_tagger(config, folder.read_setup()[1]).state_dict()
    after = checkpoint.unpack("model", checkpoint.load_checkpoint(folder.last, "")[0])
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before]).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_stops_early_when_nothing_gets_better(small: dict, tmp_path: Path) -> None:
    result = train_pos({**small, "learning_rate": 1e-30, "epochs": 20, "patience": 2}, tmp_path / "run")
    assert (result["best_epoch"], result["epochs"]) == (1, 3)


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss_then_is_first() -> None:
    def line(epoch: int, accuracy: float, loss: float) -> dict[str, Any]:
        return {"epoch": epoch, "eval_accuracy": accuracy, "eval_loss": loss}

    history = [line(1, 0.5, 0.1), line(2, 0.9, 0.4), line(3, 0.9, 0.3), line(4, 0.9, 0.3), line(5, 0.8, 0.0)]
    best = State(history=history).best
    assert best is not None and best["epoch"] == 3
    assert State().best is None


def test_a_loss_that_is_not_finite_is_reported_with_its_place(
    small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def break_second_batch(self: Trainer, indices: list[int]) -> None:
        if self.state.batch == 1:
            with torch.no_grad():
                self.model.head.weight.fill_(float("nan"))
        step(self, indices)

    monkeypatch.setattr(Trainer, "_step", break_second_batch)
    with pytest.raises(DivergenceError, match=r"nan in epoch 1, batch 2.*--learning-rate"):
        train_pos(small, tmp_path / "run")

    def break_after_last_batch(self: Trainer, indices: list[int]) -> None:
        step(self, indices)
        if self.state.batch == 3:
            with torch.no_grad():
                self.model.head.weight.fill_(float("inf"))

    monkeypatch.setattr(Trainer, "_step", break_after_last_batch)
    with pytest.raises(DivergenceError, match="after epoch 1"):
        train_pos(small, tmp_path / "run2")
    assert not (tmp_path / "run2" / "best.safetensors").exists()


def test_nothing_is_left_behind_by_a_mistake(tmp_path: Path) -> None:
    for options in ({"epochs": 0}, {"gate_kernel": "shared"}, {"backend": "abacus"}, {"data": str(tmp_path / "none")}):
        with pytest.raises(InvalidInputError):
            train_pos(options, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["lstm", "qklstm"])
def test_a_model_that_does_not_fit_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(MemoryBoundError, match="--embedding-dim=100000000000,"):
        train_pos({"model": model, "embedding_dim": 10**11}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_content_is_not_touched(small: dict, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("important")
    (tmp_path / "file").write_text("important")
    for name, kind in (("mine", InvalidInputError), ("file", CheckpointError)):
        with pytest.raises(kind) as error:
            train_pos(small, tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_run_folders_are_new_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {train_pos({"model": "lstm", "epochs": 1})["run_dir"] for _ in range(3)}
    assert len(folders) == 3
    assert all(Path(folder).parent == Path("runs") for folder in folders)


def test_what_is_said_about_kernels() -> None:
    product = describe_kernel(feature_map_of(resolve({})).circuit)
    assert (
        product == "3 of 15 gates cancel (3 cx): the kernel is a product of 4 one-qubit kernels, without entanglement"
    )
    entangled = feature_map_of(resolve({"feature_map": "reuploading", "layers": 2, "trainable": "rotations"})).circuit
    assert "product" not in describe_kernel(entangled)


def test_parameters_that_torch_does_not_train_are_not_counted() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert count_parameters(model) == 6
