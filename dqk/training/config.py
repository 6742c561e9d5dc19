"""What a training run can be told: one table of options for the command line, TOML files and Python."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from dqk.errors import InvalidInputError
from dqk.training.options import MODELS, KernelScale, Option, converted, flag, option

SERIES = ("co2", "sunspots")
# Written out because the command line lists them, and should not wait for torch to do so.
FEATURE_MAPS = ("qklstm", "bsp", "reuploading", "zz", "iqp", "ising")
KERNELS = ("fidelity", "rbf", "linear")
_OF_CIRCUITS = ("feature_map", "trainable", "layers", "backend", "shots")
LAYERED_MAPS = {"reuploading": "layers", "zz": "reps", "iqp": "reps", "ising": "reps"}
"""Feature maps that `layers` applies to, with the name that it has there."""

_MOST_AUTO_QUBITS = 200  # for kernel_scale="auto"; the network says the same, but only once its circuits are made

_QUANTUM = ("qklstm", "qlstm")
_KERNEL = ("qklstm",)
_POS = ("pos",)
_FORECAST = ("forecast",)


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults are those for a treebank; `resolve` checks values and applies presets.

    Options that do not apply to the task or the chosen model keep their defaults and are left out of `to_dict`.

    Attributes:
        task: `pos` or `forecast`, which is no option but the command.
    """

    data: str | None = option(
        None, "File to train on: CoNLL-U (without it, the paper's two sentences), or CSV for forecasts", "Data"
    )
    test: str | None = option(None, "CoNLL-U file for a final test; needs --data", "Data", tasks=_POS)
    series: str | None = option(
        None, "A series that statsmodels ships, instead of --data", "Data", tasks=_FORECAST, choices=SERIES
    )
    column: str | None = option(None, "Column of --data to forecast", "Data", tasks=_FORECAST)
    date_column: str | None = option(
        None, "Column of --data with dates; without it one that is named so, if there is one", "Data", tasks=_FORECAST
    )
    missing: str = option(
        "refuse",
        "Missing values of --data: refuse them, or put the previous value there, and forecast no such value",
        "Data",
        tasks=_FORECAST,
        choices=("refuse", "previous"),
    )
    held_out: float = option(
        0.2,
        "Last part of the data that is kept for validation; 0 for none; for forecasts, the part before the test part",
        "Data",
        least=0,
        below=1,
    )
    test_part: float = option(
        0.2, "Last part of the series, kept for one test", "Data", tasks=_FORECAST, above=0, below=1
    )
    window: int = option(24, "Values that a forecast is made from", "Data", tasks=_FORECAST, least=1)
    horizon: int = option(6, "Values to forecast, the next ones", "Data", tasks=_FORECAST, least=1)
    season: int | None = option(
        None,
        "Values in a season, for the seasonal-naive baseline; known for --series",
        "Data",
        tasks=_FORECAST,
        least=1,
    )
    target: str = option(
        "change",
        "Read steps and forecast changes since the last value, or read and forecast levels",
        "Data",
        tasks=_FORECAST,
        choices=("change", "level"),
    )
    model: str = option("qklstm", "Recurrent network", "Model", choices=MODELS)
    preset: str = option(
        "treebank",
        "Where defaults come from; without --data table1, the paper's 183 parameters",
        "Model",
        tasks=_POS,
        choices=("table1", "treebank"),
    )
    embedding_dim: int = option(32, "Length of a word vector", "Model", tasks=_POS, least=1)
    embedding_std: float = option(0.3, "Spread of the word vectors at the start", "Model", tasks=_POS, above=0)
    hidden_dim: int = option(32, "Length of the hidden state", "Model", least=1)
    bidirectional: bool = option(False, "Add a network that reads from the end of the sentence", "Model", tasks=_POS)
    n_qubits: int = option(8, "Qubits of a circuit", "Model", models=_QUANTUM, least=1)
    n_references: int = option(32, "Reference states per gate", "Model", models=_KERNEL, least=1)
    references: str = option(
        "learned", "Where references come from", "Model", models=_KERNEL, choices=("fixed", "data", "learned")
    )
    reference_space: str = option(
        "angle",
        "References are angles, or inputs of the projection",
        "Model",
        models=_KERNEL,
        choices=("angle", "input"),
    )
    readout: str = option(
        "per_gate", "Weights of kernel values", "Model", models=_KERNEL, choices=("per_gate", "shared", "scalar")
    )
    gate_kernel: str = option(
        "references",
        "What differs between the gates",
        "Model",
        models=_KERNEL,
        choices=("references", "projection", "circuit", "shared"),
    )
    kernel_scale: KernelScale = option(
        "auto", "Factor on kernel values; auto is 2^(n_qubits/2)", "Model", models=_KERNEL, above=0
    )
    bandwidth: float = option(0.5, "Factor on the features of the feature map", "Model", models=_KERNEL, above=0)
    kernel: str = option(
        "fidelity", "Kernel; rbf and linear are classical twins", "Model", models=_KERNEL, choices=KERNELS
    )
    feature_map: str = option(
        "qklstm", "Circuit that encodes the features", "Model", models=_KERNEL, choices=FEATURE_MAPS
    )
    trainable: str = option(
        "none",
        "Trainable parameters in the reuploading map",
        "Model",
        models=_KERNEL,
        choices=("none", "scale", "rotations"),
    )
    layers: int | None = option(
        None, f"Layers of the circuit; for {', '.join(LAYERED_MAPS)} and the QLSTM", "Model", models=_QUANTUM, least=1
    )
    backend: str = option("auto", "What computes the circuits", "Model", models=_QUANTUM)
    shots: int | None = option(
        None, "Measurements of a kernel value, where a device measures it", "Model", models=_KERNEL, least=1
    )
    dtype: str = option("float32", "Precision", "Model", choices=("float32", "float64"))
    epochs: int = option(10, "Passes over the data", "Training", least=1)
    batch_size: int = option(32, "Sentences, or windows of a series, in a batch", "Training", least=1)
    learning_rate: float = option(0.01, "Step size", "Training", above=0)
    circuit_learning_rate: float | None = option(
        None,
        "Step size of what decides the circuits' angles; the same without it",
        "Training",
        models=_QUANTUM,
        above=0,
    )
    schedule: str = option(
        "constant", "How step sizes change, to zero at the end", "Training", choices=("constant", "linear", "cosine")
    )
    warmup_steps: int = option(0, "Batches in which step sizes rise from zero", "Training", least=0)
    bucketing: bool = option(
        False,
        "Batches of sentences of similar length: less padding, and less accuracy on the treebank",
        "Training",
        tasks=_POS,
    )
    optimizer: str = option("adam", "Optimiser", "Training", choices=("adam", "sgd"))
    accumulate: int = option(
        1,
        "Parts in which a rank takes its sentences of a batch one after the other, to save memory",
        "Training",
        tasks=_POS,
        least=1,
    )
    dropout: float = option(
        0.0, "Part of the word vectors' values that is left out at random", "Training", tasks=_POS, least=0, below=1
    )
    clip: float = option(5.0, "Largest norm of a gradient; 0 for no clipping", "Training", least=0)
    patience: int = option(0, "Stop after this many epochs without a better one; 0 for never", "Training", least=0)
    threads: int = option(
        1, "CPU threads of torch; other numbers of threads change last digits", "Training", least=1, most=1024
    )
    seed: int = option(0, "Seed of parameters and batches", "Training", least=0, below=2**31)
    checkpoint_steps: int = option(
        0, "Save the state after so many batches, too, not after epochs only; 0 for never", "Checkpoints", least=0
    )
    checkpoint_minutes: float = option(
        10.0, "Save the state after so many minutes, too; 0 for never", "Checkpoints", least=0
    )
    profile: bool = option(False, "Measure in the end where the time of a step goes", "Insight")
    tensorboard: bool = option(False, "Write the curves for TensorBoard, too", "Insight")
    task: str = "pos"

    def applies(self, name: str) -> bool:
        """Whether an option has a meaning for this run."""
        if self.model not in OPTIONS[name].models or self.task not in OPTIONS[name].tasks:
            return False
        if name in ("column", "date_column", "missing") or name == "held_out" and self.task == "pos":
            return self.data is not None
        if self.model != "qklstm":
            return True
        if self.kernel != "fidelity" and name in _OF_CIRCUITS:
            return False
        if name == "trainable":
            return self.feature_map == "reuploading"
        return name != "layers" or self.feature_map in LAYERED_MAPS

    def to_dict(self) -> dict[str, Any]:
        """The options that apply, as plain data for JSON."""
        return {name: getattr(self, name) for name in OPTIONS if self.applies(name)}


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(TrainConfig) if "option" in f.metadata}
"""Every option by name, in the order of `--help`."""

TYPES: dict[str, Any] = {name: kind for name, kind in typing.get_type_hints(TrainConfig).items() if name in OPTIONS}
"""The type of every option."""

FREE = ("accumulate", "checkpoint_steps", "checkpoint_minutes", "profile", "tensorboard")
"""Options that a run may change when it goes on: they say how it is computed and kept, not what."""

PRESETS: dict[str, dict[str, Any]] = {
    # The paper leaves references and scale open; these give its 183 parameters. One batch holds both sentences.
    "table1": {
        "embedding_dim": 8,
        "embedding_std": 1.0,
        "hidden_dim": 6,
        "n_qubits": 4,
        "n_references": 4,
        "references": "fixed",
        "readout": "shared",
        "kernel_scale": 1.0,
        "bandwidth": 1.0,
        "epochs": 100,
        "batch_size": 2,
        "learning_rate": 0.1,
        "clip": 0.0,
    },
    "treebank": {},
    "forecast": {"hidden_dim": 16, "n_qubits": 4, "n_references": 16, "epochs": 50},
}
"""Defaults of `--preset`, and of other tasks."""


def resolve(given: Mapping[str, Any], task: str = "pos") -> TrainConfig:
    """The run that some options describe; the rest comes from the preset.

    Args:
        given: options by name, as a command line, a TOML file or Python code has them.
        task: `pos` or `forecast`.

    Raises:
        InvalidInputError: lists every unknown name, unusable value and option that does not apply to the model.
    """
    problems = [_unknown(name) for name in given if name not in OPTIONS]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in OPTIONS:
            try:
                values[name] = _checked(name, value)
            except InvalidInputError as error:
                problems.append(f"{flag(name)}: {error}")
    if task == "pos":
        values.setdefault("preset", "treebank" if "data" in given else "table1")
    config = TrainConfig(**{**PRESETS[values.get("preset", task)], **values, "task": task})
    if not problems:  # what applies depends on values that are all in order
        problems = [_not_applicable(name, config) for name in values if not config.applies(name)]
        problems += _task_problems(config)
        if config.applies("kernel_scale") and config.kernel_scale == "auto" and config.n_qubits > _MOST_AUTO_QUBITS:
            problems.append(
                f"--kernel-scale: 'auto' is 2^(n_qubits/2), too large a number for {config.n_qubits:,} qubits; give a number"
            )
    if problems:
        raise InvalidInputError("\n".join(problems))
    return config


def _task_problems(config: TrainConfig) -> list[str]:
    """What is wrong with the data that a run is asked to use."""
    if config.task == "pos":
        lost = config.test is not None and config.data is None
        return ["--test: needs --data, since only then there are words that training has not seen"] if lost else []
    if (config.data is None) == (config.series is None):
        which = "neither" if config.data is None else "both"
        return [f"--data and --series: {which} given, expected one of them: a CSV file, or {' or '.join(SERIES)}"]
    found = []
    if config.data is not None and config.column is None:
        found.append(f"--column: missing, expected the column of {config.data} to forecast")
    if not config.held_out:
        found.append("--held-out: 0, but a forecaster's best epoch is chosen on values that it was not trained on")
    if config.held_out + config.test_part >= 1:
        found.append(
            f"--held-out {config.held_out:g} and --test-part {config.test_part:g} leave nothing to train on; make them smaller"
        )
    return found


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"{name}: there is no such option" + (f"; did you mean {flag(near[0])}?" if near else "")


def _checked(name: str, value: Any) -> Any:
    """The value in the option's type."""
    value = converted(value, TYPES[name])
    problem = OPTIONS[name].problem(value)
    if problem:
        raise InvalidInputError(problem)
    return value


def _not_applicable(name: str, config: TrainConfig) -> str:
    known = OPTIONS[name]
    if config.task not in known.tasks:
        return f"{flag(name)}: has no meaning for `dqk train {config.task}`, only for {' and '.join(known.tasks)}"
    if name in ("column", "date_column", "missing"):
        return f"{flag(name)}: has no meaning without --data"
    if config.model not in known.models:
        return f"{flag(name)}: has no meaning for the model {config.model!r}, only for {' and '.join(known.models)}"
    if name == "held_out":
        return f"{flag(name)}: has no meaning without --data, the paper's two sentences are all trained on"
    if config.kernel != "fidelity" and name in _OF_CIRCUITS:
        return f"{flag(name)}: has no meaning for the kernel {config.kernel!r}, which runs no circuits"
    maps = ["reuploading"] if name == "trainable" else list(LAYERED_MAPS)
    return f"{flag(name)}: has no meaning for the feature map {config.feature_map!r}, only for {', '.join(maps)}"


def continued(config: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run that goes on.

    Args:
        config: of the run.
        given: options; `epochs` may grow and those in `FREE` change, the others must say what they said. Data are compared by
            content, elsewhere.

    Raises:
        InvalidInputError: lists every option that contradicts the run.
    """
    problems = [_unknown(name) for name in given if name not in OPTIONS]
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name not in OPTIONS:
            continue
        try:
            value, before = _checked(name, value), getattr(config, name)
        except InvalidInputError as error:
            problems.append(f"{flag(name)}: {error}")
            continue
        if not config.applies(name):
            problems.append(_not_applicable(name, config))
        elif name == "epochs" and value > before and config.schedule != "constant":
            problems.append(
                f"{flag(name)}: {value!r}, but the run's {config.schedule} schedule ended with its {before} epochs"
            )
        elif name == "epochs" and value >= before or name in ("data", "test") and before is not None or name in FREE:
            changes[name] = value
        elif value != before:
            more = "; a run can go on for more epochs, not for fewer" if name == "epochs" else ""
            problems.append(f"{flag(name)}: {value!r}, but the run has {before!r}{more}")
    if problems:
        raise InvalidInputError("\n".join(problems))
    return replace(config, **changes)
