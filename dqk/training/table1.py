"""Parameter counts of Table I of arXiv 2411.13225: measured on models, and from the formula that explains each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from dqk.data import PAPER_SENTENCES, Vocabulary
from dqk.nn import QKLSTM, QLSTM, SequenceTagger
from dqk.training.models import count_parameters

SOURCE = "arXiv 2411.13225, Table I"
_EMBEDDING, _HIDDEN, _QUBITS, _REFERENCES, _GATES = 8, 6, 4, 4, 4
_INPUTS = _EMBEDDING + _HIDDEN


@dataclass(frozen=True)
class Term:
    """A part of a model.

    Attributes:
        part: what it is.
        formula: how its parameters are counted.
        value: their number.
    """

    part: str
    formula: str
    value: int


@dataclass(frozen=True)
class Row:
    """A model of the comparison.

    Attributes:
        name: of the model.
        parameters: measured: trainable values that torch registers.
        terms: the formula, part by part.
        paper: the number in the paper, None if it has none for this model.
        note: what it differs in and why.
    """

    name: str
    parameters: int
    terms: tuple[Term, ...]
    paper: int | None
    note: str

    @property
    def formula(self) -> str:
        """The whole formula."""
        return " + ".join(f"{term.formula} ({term.part})" for term in self.terms)

    @property
    def expected(self) -> int:
        """What the formula gives."""
        return sum(term.value for term in self.terms)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "formula": self.formula,
            "formula_value": self.expected,
            "paper": self.paper,
            "note": self.note,
        }


def _linear(part: str, n_inputs: int, n_outputs: int, copies: int = 1) -> Term:
    formula = f"{n_inputs}*{n_outputs} + {n_outputs}"
    value = n_inputs * n_outputs + n_outputs
    return Term(part, f"{copies}*({formula})" if copies > 1 else formula, copies * value)


def table1() -> list[Row]:
    """Builds every model and counts its parameters."""
    vocabulary = Vocabulary.of(PAPER_SENTENCES, open=False)
    n_words, n_tags = vocabulary.n_rows, len(vocabulary.tags)
    embedding = Term("embedding", f"{n_words}*{_EMBEDDING}", n_words * _EMBEDDING)
    head = _linear("head", _HIDDEN, n_tags)
    rows = []
    for (name, paper, note), (recurrent, terms) in zip(_TEXTS, _networks(), strict=True):
        tagger = SequenceTagger(recurrent, n_words, _EMBEDDING, n_tags)
        rows.append(Row(name, count_parameters(tagger), (embedding, *terms, head), paper, note))
    return rows


def _qklstm(**options: Any) -> QKLSTM:
    # Only counted, never run: the reference backend needs no compilation.
    options = {"n_references": _REFERENCES, "references": "fixed", "backend": "reference", **options}
    return QKLSTM(_EMBEDDING, _HIDDEN, batch_first=True, **options)


_TEXTS: tuple[tuple[str, int | None, str], ...] = (
    ("LSTM", 477, "torch.nn.LSTM, which has two biases per gate."),
    (
        "QK-LSTM",
        183,
        "The paper names neither a projection from 14 inputs to 4 qubits nor the number of references; 183 "
        "follows from one projection, 4 fixed references per gate and one readout that the gates share.",
    ),
    (
        "QLSTM",
        None,
        "A public QLSTM counts 183 because its 16 circuit angles are not registered, hence neither counted "
        "nor trained; registered they make 199.",
    ),
    (
        "QK-LSTM, readout per gate",
        None,
        "What equation (3) asks for, a weighting of its own for each gate: 90 more than Table I.",
    ),
    (
        "QK-LSTM, eq. (3) word for word",
        None,
        "No projection (14 qubits) and scalar alpha: all hidden units of a gate are equal. Not Table I's model.",
    ),
    (
        "QK-LSTM, eq. (3), vector alpha",
        None,
        "No projection (14 qubits), one alpha per hidden unit. Not Table I's model either.",
    ),
    (
        "QK-LSTM, learned references for all gates",
        None,
        "The paper allows learned references; its count leaves no room for them.",
    ),
    ("QK-LSTM, learned references per gate", None, "As before, with references of its own for each gate."),
)
"""Name, the paper's number, note."""


def _networks() -> list[tuple[nn.Module, list[Term]]]:
    """Recurrent network and its terms, in the order of `_TEXTS`."""
    four_biases = 4 * (_EMBEDDING * _HIDDEN + _HIDDEN * _HIDDEN + 2 * _HIDDEN)
    projection = _linear("projection", _INPUTS, _QUBITS)
    shared = _linear("readout for all gates", _REFERENCES, _HIDDEN)
    per_gate = _linear("readout per gate", _REFERENCES, _HIDDEN, copies=_GATES)
    scalar = Term("alpha and b per gate", f"4*({_REFERENCES} + 1)", _GATES * (_REFERENCES + 1))
    angles = Term("circuit angles", "4*4", _GATES * _QUBITS)
    one_set = Term("references", f"{_REFERENCES}*{_QUBITS}", _REFERENCES * _QUBITS)
    four_sets = Term("references per gate", f"4*{_REFERENCES}*{_QUBITS}", _GATES * _REFERENCES * _QUBITS)
    variational = QLSTM(_EMBEDDING, _HIDDEN, batch_first=True, n_qubits=_QUBITS, backend="reference")
    return [
        (nn.LSTM(_EMBEDDING, _HIDDEN, batch_first=True), [Term("LSTM", "4*(8*6 + 6*6 + 6 + 6)", four_biases)]),
        (_qklstm(readout="shared"), [projection, shared]),
        (variational, [projection, angles, _linear("readout for all gates", _QUBITS, _HIDDEN)]),
        (_qklstm(readout="per_gate"), [projection, per_gate]),
        (_qklstm(readout="scalar", projection=False, kernel_scale=1.0), [scalar]),
        (_qklstm(readout="per_gate", projection=False, kernel_scale=1.0), [per_gate]),
        (_qklstm(references="learned", gate_kernel="shared"), [projection, per_gate, one_set]),
        (_qklstm(references="learned"), [projection, per_gate, four_sets]),
    ]
