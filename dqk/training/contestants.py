"""What `dqk compare` compares: one table of models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dqk.errors import unknown_name

DECIDED = ("model", "preset", "kernel", "feature_map", "trainable", "learning_rate", "seed", "profile", "tensorboard")
"""Options of training runs that the protocol decides, or that make no sense in a comparison."""
REFERENCE = "linear"
"""The model that a quantum kernel has to beat: the same cell with the kernel of a linear map."""
RADIAL = "rbf"
"""The classical kernel that is no linear map, in the same cell."""
USUAL = "lstm"
"""What everybody uses."""
MATCHED_TO = "qklstm"
"""Whose parameters a matched model has as many of as it can."""


@dataclass(frozen=True)
class Contestant:
    """A model of the comparison.

    Attributes:
        title: what people call it.
        options: of the training configuration; all others are the same for all models, as far as they apply.
        quantum: whether it evaluates a quantum kernel or a quantum circuit.
        recurrent: whether it remembers.
        matched: whether its hidden size is chosen to have as many parameters as `MATCHED_TO`.
    """

    title: str
    options: dict[str, Any] = field(default_factory=dict)
    quantum: bool = False
    recurrent: bool = True
    matched: bool = False


CONTESTANTS: dict[str, Contestant] = {
    "qklstm": Contestant("QK-LSTM, the paper's map", {"model": "qklstm", "feature_map": "qklstm"}, quantum=True),
    "reuploading": Contestant(
        "QK-LSTM, re-uploading map", {"model": "qklstm", "feature_map": "reuploading"}, quantum=True
    ),
    "rbf": Contestant("RBF twin", {"model": "qklstm", "kernel": "rbf"}),
    "linear": Contestant("linear twin", {"model": "qklstm", "kernel": "linear"}),
    "lstm": Contestant("nn.LSTM", {"model": "lstm"}),
    "lstm-matched": Contestant("nn.LSTM, as many parameters as the QK-LSTM", {"model": "lstm"}, matched=True),
    "qlstm": Contestant("QLSTM", {"model": "qlstm"}, quantum=True),
    "no-recurrence": Contestant(
        "QK-LSTM without recurrence", {"model": "qklstm", "feature_map": "qklstm"}, quantum=True, recurrent=False
    ),
}


def chosen(names: list[str] | None) -> list[str]:
    """Names of models in the order of the table, all of them for None.

    Raises:
        InvalidInputError: for a name that is not in the table.
    """
    for name in names or ():
        if name not in CONTESTANTS:
            raise unknown_name("model", name, CONTESTANTS)
    return [name for name in CONTESTANTS if names is None or name in names]
