"""What a training run can be told: one table of options for the command line, TOML files and Python."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from dqk.errors import InvalidInputError, unknown_name

MODELS = ("qklstm", "lstm", "qlstm")
# Written out because the command line lists them, and should not wait for torch to do so.
FEATURE_MAPS = ("qklstm", "bsp", "reuploading", "zz", "iqp", "ising")
KERNELS = ("fidelity", "rbf", "linear")
_OF_CIRCUITS = ("feature_map", "trainable", "layers", "backend", "shots")
LAYERED_MAPS = {"reuploading": "layers", "zz": "reps", "iqp": "reps", "ising": "reps"}
"""Feature maps that `layers` applies to, with the name that it has there."""

_MOST_AUTO_QUBITS = 200  # for kernel_scale="auto"; the network says the same, but only once its circuits are made

KernelScale = float | Literal["auto"]


@dataclass(frozen=True)
class Option:
    """What is known about an option besides its name, type and default.

    Attributes:
        help: one line.
        group: heading under which `--help` lists it.
        models: the models that it applies to.
        choices: the values that it takes, if they can be listed.
        least: smallest value.
        above: value that it must exceed.
        below: value that it must stay under.
        most: largest value, where `below` is not given; beyond the usual one float32 has no numbers to compute with.
    """

    help: str
    group: str
    models: tuple[str, ...] = MODELS
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float = 1e30

    def problem(self, value: Any) -> str | None:
        """Why a value of the right type cannot be used; None if it can."""
        if self.choices and value not in self.choices:
            return str(unknown_name("value", value, self.choices)).removeprefix("unknown value ")
        if isinstance(value, str | bool):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return f"{value}, expected a finite number"
        if self.least is not None and value < self.least:
            return f"{value}, expected at least {self.least:g}"
        if self.above is not None and value <= self.above:
            return f"{value}, expected more than {self.above:g}"
        if self.below is not None and value >= self.below:
            return f"{value}, expected less than {self.below:g}"
        if self.below is None and value > self.most:
            return f"{value}, expected at most {self.most:g}"
        return None


def flag(name: str) -> str:
    """An option as it is typed on a command line, which is what messages call it."""
    return f"--{name.replace('_', '-')}"


def _option(default: Any, help: str, group: str, **details: Any) -> Any:
    return field(default=default, metadata={"option": Option(help, group, **details)})


_QUANTUM = ("qklstm", "qlstm")
_KERNEL = ("qklstm",)


@dataclass(frozen=True)
class TrainConfig:
    """A training run. The defaults are those for a treebank; `resolve` checks values and applies presets.

    Options that do not apply to the chosen model keep their defaults and are left out of `to_dict`.
    """

    data: str | None = _option(None, "CoNLL-U file to train on; without it, the paper's two sentences", "Data")
    test: str | None = _option(None, "CoNLL-U file for a final test; needs --data", "Data")
    held_out: float = _option(
        0.2, "Last part of the data that is kept for validation; 0 for none", "Data", least=0, below=1
    )
    model: str = _option("qklstm", "Recurrent network", "Model", choices=MODELS)
    preset: str = _option(
        "treebank",
        "Where defaults come from; without --data table1, the paper's 183 parameters",
        "Model",
        choices=("table1", "treebank"),
    )
    embedding_dim: int = _option(32, "Length of a word vector", "Model", least=1)
    embedding_std: float = _option(0.3, "Spread of the word vectors at the start", "Model", above=0)
    hidden_dim: int = _option(32, "Length of the hidden state", "Model", least=1)
    bidirectional: bool = _option(False, "Add a network that reads from the end of the sentence", "Model")
    n_qubits: int = _option(8, "Qubits of a circuit", "Model", models=_QUANTUM, least=1)
    n_references: int = _option(32, "Reference states per gate", "Model", models=_KERNEL, least=1)
    references: str = _option(
        "learned", "Where references come from", "Model", models=_KERNEL, choices=("fixed", "data", "learned")
    )
    reference_space: str = _option(
        "angle",
        "References are angles, or inputs of the projection",
        "Model",
        models=_KERNEL,
        choices=("angle", "input"),
    )
    readout: str = _option(
        "per_gate", "Weights of kernel values", "Model", models=_KERNEL, choices=("per_gate", "shared", "scalar")
    )
    gate_kernel: str = _option(
        "references",
        "What differs between the gates",
        "Model",
        models=_KERNEL,
        choices=("references", "projection", "circuit", "shared"),
    )
    kernel_scale: KernelScale = _option(
        "auto", "Factor on kernel values; auto is 2^(n_qubits/2)", "Model", models=_KERNEL, above=0
    )
    bandwidth: float = _option(0.5, "Factor on the features of the feature map", "Model", models=_KERNEL, above=0)
    kernel: str = _option(
        "fidelity", "Kernel; rbf and linear are classical twins", "Model", models=_KERNEL, choices=KERNELS
    )
    feature_map: str = _option(
        "qklstm", "Circuit that encodes the features", "Model", models=_KERNEL, choices=FEATURE_MAPS
    )
    trainable: str = _option(
        "none",
        "Trainable parameters in the reuploading map",
        "Model",
        models=_KERNEL,
        choices=("none", "scale", "rotations"),
    )
    layers: int | None = _option(
        None, f"Layers of the circuit; for {', '.join(LAYERED_MAPS)} and the QLSTM", "Model", models=_QUANTUM, least=1
    )
    backend: str = _option("auto", "What computes the circuits", "Model", models=_QUANTUM)
    shots: int | None = _option(
        None, "Measurements of a kernel value, where a device measures it", "Model", models=_KERNEL, least=1
    )
    dtype: str = _option("float32", "Precision", "Model", choices=("float32", "float64"))
    epochs: int = _option(10, "Passes over the data", "Training", least=1)
    batch_size: int = _option(32, "Sentences in a batch", "Training", least=1)
    learning_rate: float = _option(0.01, "Step size", "Training", above=0)
    circuit_learning_rate: float | None = _option(
        None,
        "Step size of what decides the circuits' angles; the same without it",
        "Training",
        models=_QUANTUM,
        above=0,
    )
    schedule: str = _option(
        "constant", "How step sizes change, to zero at the end", "Training", choices=("constant", "linear", "cosine")
    )
    warmup_steps: int = _option(0, "Batches in which step sizes rise from zero", "Training", least=0)
    bucketing: bool = _option(
        False, "Batches of sentences of similar length: less padding, and less accuracy on the treebank", "Training"
    )
    optimizer: str = _option("adam", "Optimiser", "Training", choices=("adam", "sgd"))
    accumulate: int = _option(
        1,
        "Parts in which a rank takes its sentences of a batch one after the other, to save memory",
        "Training",
        least=1,
    )
    dropout: float = _option(
        0.0, "Part of the word vectors' values that is left out at random", "Training", least=0, below=1
    )
    clip: float = _option(5.0, "Largest norm of a gradient; 0 for no clipping", "Training", least=0)
    patience: int = _option(0, "Stop after this many epochs without a better one; 0 for never", "Training", least=0)
    threads: int = _option(
        1, "CPU threads of torch; other numbers of threads change last digits", "Training", least=1, most=1024
    )
    seed: int = _option(0, "Seed of parameters and batches", "Training", least=0, below=2**31)
    checkpoint_steps: int = _option(
        0, "Save the state after so many batches, too, not after epochs only; 0 for never", "Checkpoints", least=0
    )
    checkpoint_minutes: float = _option(
        10.0, "Save the state after so many minutes, too; 0 for never", "Checkpoints", least=0
    )
    profile: bool = _option(False, "Measure in the end where the time of a step goes", "Insight")
    tensorboard: bool = _option(False, "Write the curves for TensorBoard, too", "Insight")

    def applies(self, name: str) -> bool:
        """Whether an option has a meaning for this run."""
        if self.model not in OPTIONS[name].models:
            return False
        if name == "held_out":
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
        return {name: value for name, value in asdict(self).items() if self.applies(name)}


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(TrainConfig)}
"""Every option by name, in the order of `--help`."""

TYPES: dict[str, Any] = typing.get_type_hints(TrainConfig)
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
}


def resolve(given: Mapping[str, Any]) -> TrainConfig:
    """The run that some options describe; the rest comes from the preset.

    Args:
        given: options by name, as a command line, a TOML file or Python code has them.

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
    preset = values.get("preset", "treebank" if "data" in given else "table1")
    config = TrainConfig(**{**PRESETS[preset], **values, "preset": preset})
    if not problems:  # what applies depends on values that are all in order
        problems = [_not_applicable(name, config) for name in values if not config.applies(name)]
        if config.test is not None and config.data is None:
            problems.append("--test: needs --data, since only then there are words that training has not seen")
        if config.applies("kernel_scale") and config.kernel_scale == "auto" and config.n_qubits > _MOST_AUTO_QUBITS:
            problems.append(
                f"--kernel-scale: 'auto' is 2^(n_qubits/2), too large a number for {config.n_qubits:,} qubits; give a number"
            )
    if problems:
        raise InvalidInputError("\n".join(problems))
    return config


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"{name}: there is no such option" + (f"; did you mean {flag(near[0])}?" if near else "")


def _checked(name: str, value: Any) -> Any:
    """The value in the option's type."""
    convert = _CONVERSIONS[TYPES[name]]
    value = convert(value)
    problem = OPTIONS[name].problem(value)
    if problem:
        raise InvalidInputError(problem)
    return value


def _whole(value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InvalidInputError(f"{value!r}, expected a whole number")


def _yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidInputError(f"{value!r}, expected true or false")


def _number(value: Any) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise InvalidInputError(f"{value!r}, expected a number")


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidInputError(f"{value!r}, expected a text")


def _scale(value: Any) -> KernelScale:
    if value == "auto":
        return "auto"
    try:
        return _number(float(value) if isinstance(value, str) else value)
    except (InvalidInputError, ValueError):
        raise InvalidInputError(f"{value!r}, expected a number or 'auto'") from None


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    bool: _yes_or_no,
    int: _whole,
    int | None: _whole,
    float: _number,
    float | None: _number,
    str: _text,
    str | None: _text,
    KernelScale: _scale,
}


def _not_applicable(name: str, config: TrainConfig) -> str:
    option = OPTIONS[name]
    if config.model not in option.models:
        return f"{flag(name)}: has no meaning for the model {config.model!r}, only for {' and '.join(option.models)}"
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
