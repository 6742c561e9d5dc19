"""What long runs need: step sizes that change, batches of one length, and where the time goes."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dqk.data.batches import epoch_batches
from dqk.errors import BackendUnavailableError, InvalidInputError
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.nn import QKLSTM, QLSTM, SequenceTagger
from dqk.training.config import resolve
from dqk.training.interrupt import Interrupted
from dqk.training.optimisers import circuit_parameters, factor, make_optimizer
from dqk.training.pos import resume_pos, train_pos
from dqk.training.profiling import IN_TORCH, PHASES
from tests.training.test_resume import StopAfter, assert_same_run, numbers


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    """Two steps of warm-up, then from one to zero after the last of six."""
    assert [factor(schedule, step, 6, 2) for step in range(6)] == pytest.approx(expected)
    assert factor(schedule, 0, 1, 5) == 0.2  # a warm-up that is longer than the run


def test_step_sizes_of_a_run(small: dict, tmp_path: Path) -> None:
    """Three batches in each of three epochs; what is reported is the last one's."""
    options = {**small, "schedule": "linear", "warmup_steps": 1, "learning_rate": 0.1}
    train_pos(options, tmp_path / "run")
    assert [line["learning_rate"] for line in numbers(tmp_path / "run")] == pytest.approx(
        [0.1 * (1 - (step - 1) / 8) for step in (2, 5, 8)]
    )


def test_resumed_with_a_schedule(small: dict, tmp_path: Path) -> None:
    """To the same bits; with more epochs it would have been another schedule."""
    options = {**small, "schedule": "cosine", "warmup_steps": 2, "circuit_learning_rate": 0.003, "bucketing": True}
    train_pos(options, tmp_path / "whole")
    with pytest.raises(Interrupted, match="--resume"):
        train_pos(options, tmp_path / "parts", StopAfter(5, 2))
    resume_pos(tmp_path / "parts", {})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(InvalidInputError, match="cosine schedule ended with its 3 epochs"):
        resume_pos(tmp_path / "whole", {"epochs": 5})


def names_of(model: SequenceTagger, parameters: list[torch.nn.Parameter]) -> set[str]:
    own = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}


@pytest.mark.parametrize(
    ("recurrent", "expected"),
    [
        (
            QKLSTM(4, 3, n_qubits=2, batch_first=True),
            {f"recurrent.cells.0.{name}" for name in ("projection.weight", "projection.bias", "references")},
        ),
        (QKLSTM(4, 3, references="fixed", projection=False, batch_first=True), set()),
        (
            QKLSTM(
                4,
                2,
                references="fixed",
                projection=False,
                feature_map=reuploading_feature_map(6, 2, trainable="rotations"),
                batch_first=True,
            ),
            {"recurrent.cells.0.params"},
        ),
        (QLSTM(4, 3, n_qubits=2, batch_first=True), {"recurrent.cells.0.weights"}),
        (torch.nn.LSTM(4, 3, batch_first=True), set()),
    ],
)
def test_what_decides_the_circuits(recurrent: torch.nn.Module, expected: set[str]) -> None:
    """And the two groups hold every parameter once."""
    model = SequenceTagger(recurrent, 5, 4, 2)
    assert names_of(model, circuit_parameters(model)) == expected
    config = resolve({"circuit_learning_rate": 0.5, "learning_rate": 0.25})
    if not expected:
        with pytest.raises(InvalidInputError, match="no trainable parameter that decides an angle"):
            make_optimizer(config, model)
        return
    rest, circuit = make_optimizer(config, model).param_groups
    assert (rest["lr"], circuit["lr"]) == (0.25, 0.5)
    assert names_of(model, circuit["params"]) == expected
    assert len(rest["params"]) + len(circuit["params"]) == len(list(model.parameters()))


def test_an_lstm_has_no_circuit() -> None:
    """So that the option is refused."""
    with pytest.raises(InvalidInputError, match="--circuit-learning-rate: has no meaning for the model 'lstm'"):
        resolve({"model": "lstm", "circuit_learning_rate": 0.1})


def test_the_circuits_step_size_counts(small: dict, tmp_path: Path) -> None:
    """With none at all, references stay where they were."""
    runs = []
    for rate in (1e-30, 0.05):
        result = train_pos({**small, "epochs": 1, "circuit_learning_rate": rate}, tmp_path / str(rate))
        runs.append(Path(result["run_dir"]))
    from safetensors.torch import load_file

    first, second = (load_file(run / "last.safetensors") for run in runs)
    name, readout = "model.recurrent.cells.0.references", "model.recurrent.cells.0.alpha"
    assert (first[name] - second[name]).abs().max() > 1e-3
    assert (first[readout] - second[readout]).abs().max() < 0.2


def test_bucketing() -> None:
    """Every sentence once, the same for the same seed and epoch, in another order in another epoch; and less padding."""
    lengths = [1 + (7 * k) % 40 for k in range(530)]

    def padded(batches: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[k] for k in batch) for batch in batches)

    plain, bucketed = epoch_batches(530, 8, 1, 0), epoch_batches(530, 8, 1, 0, lengths)
    assert sorted(sum(bucketed, [])) == list(range(530)) and len(bucketed) == len(plain)
    assert bucketed == epoch_batches(530, 8, 1, 0, lengths) != epoch_batches(530, 8, 1, 1, lengths)
    assert padded(bucketed) < 0.7 * padded(plain)
    longest = [max(lengths[k] for k in batch) for batch in bucketed]
    assert longest != sorted(longest)


@pytest.mark.parametrize("model", ["qklstm", "lstm"])
def test_profile(model: str, small: dict, tmp_path: Path) -> None:
    """All phases, none negative; nothing else changes; a picture."""
    options = {name: value for name, value in small.items() if model == "qklstm" or not name.startswith("n_")}
    options["model"] = model
    train_pos(options, tmp_path / "plain")
    result = train_pos({**options, "profile": True}, tmp_path / "run")
    assert_same_run(tmp_path / "plain", tmp_path / "run")
    written = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert written == result["profile"]
    assert set(written["step"]) == set(PHASES) and min(written["step"].values()) >= 0
    assert written["step"]["forward"] > 0 and written["step"]["backward"] > 0
    assert ("in_torch" in written) == (model == "qklstm")
    if model == "qklstm":
        parts = written["in_torch"]
        assert set(parts) == set(IN_TORCH) and min(parts.values()) >= 0
        assert parts["forward: encode"] > 0 and parts["backward: sweep"] > 0 and parts["forward: overlap"] > 0
    assert (tmp_path / "run" / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard(small: dict, tmp_path: Path) -> None:
    """Read back by TensorBoard itself, an interrupted run once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options: dict[str, Any] = {**small, "tensorboard": True}
    with pytest.raises(Interrupted, match="--resume"):
        train_pos(options, tmp_path / "run", StopAfter(5, 2))
    resume_pos(tmp_path / "run", {})
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    curve = events.Scalars("loss/train")
    assert [event.step for event in curve] == [1, 2, 3]
    assert [event.value for event in curve] == pytest.approx([n["train_loss"] for n in numbers(tmp_path / "run")])
    assert {"accuracy/eval", "rate/learning"} <= set(events.Tags()["scalars"])


def test_without_tensorboard(small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that installs it, before anything is written."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'dqk\[tensorboard\]'"):
        train_pos({**small, "tensorboard": True}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
