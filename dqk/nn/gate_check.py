"""Gates that cannot gate: kernels that are constant over a batch, and gates that are the same function.

For a training loop of one's own: `warn_of_gates(model)` before the first batch. `dqk train` does so by itself.
"""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dqk.nn.qklstm import QKLSTM
from dqk.nn.recurrent import GATES
from dqk.nn.reference_cell import ReferenceCell

_MOST = 256  # rows of the batch that are looked at
_NOTHING = 1e-6  # what values times kernel_scale differ by where the gate cannot be said to depend on them


def warn_of_gates(model: nn.Module) -> None:
    """Has every `QKLSTM` in a model look at its gates at the next forward pass, once, and warn of those that cannot work.

    Kernels that a device measures are left alone, for looking costs shots.
    """
    for layer in model.modules():
        if isinstance(layer, QKLSTM) and not any(cell.measures for cell in layer.cells):
            _Watch(layer)


class _Watch:
    """Looks at one network's gates after one forward pass."""

    def __init__(self, layer: QKLSTM):
        self._hook = layer.register_forward_hook(self)

    def __call__(self, layer: QKLSTM, arguments: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        self._hook.remove()
        for text in gate_findings(layer, arguments[0], output[0]):
            warnings.warn(text, stacklevel=3)


@torch.no_grad()
def gate_findings(layer: QKLSTM, inputs: Tensor | PackedSequence, outputs: Tensor | PackedSequence) -> list[str]:
    """What is wrong with the gates of the first layer on a batch, in sentences.

    Args:
        layer: network whose kernels this process evaluates.
        inputs: as given to it.
        outputs: its outputs for them, which are hidden states that the gates see; those of more than one layer are not, and
            zeros take their place.
    """
    x = inputs.data if isinstance(inputs, PackedSequence) else inputs.flatten(0, -2)
    out = outputs.data if isinstance(outputs, PackedSequence) else outputs.flatten(0, -2)
    rows = torch.linspace(0, len(x) - 1, min(_MOST, len(x))).long().unique()
    x, h = x[rows], out[rows, : layer.hidden_size]
    if len(rows) < 2:
        return []
    cell: ReferenceCell = layer.cells[0]  # type: ignore[assignment]
    projected, values = cell.kernel_values(x)
    kernel = values(projected, torch.zeros_like(h) if layer.num_layers > 1 else h)
    by_gate = cell.by_gate(kernel)
    found = _constant(by_gate, cell.kernel_scale, len(rows))
    return found or _equal(cell.preactivations(kernel, *cell._readout()))


def _constant(values: Tensor, scale: float, n_rows: int) -> list[str]:
    """Of kernel values (4, b, N)."""
    spread = scale * (values.amax(dim=1) - values.amin(dim=1)).amax(dim=1)
    gates = [name for name, apart in zip(GATES, spread, strict=True) if apart <= _NOTHING]
    if not gates:
        return []
    those = values[spread <= _NOTHING]
    low, high = float(those.min()), float(those.max())
    if high < _NOTHING:
        remedy = (
            "all samples are far from all references: use a smaller bandwidth, fewer qubits or a larger kernel_scale"
        )
    elif low > 1 - 1e-3:
        remedy = (
            "all samples are close to all references: use a larger bandwidth, or look whether the inputs differ at all"
        )
    else:
        remedy = "look whether the inputs differ at all, and whether the feature map depends on them"
    return [
        f"the kernel values of {_named(gates)} are the same for all of {n_rows} inputs of the first batch (between {low:.3g} and "
        f"{high:.3g}; differences times kernel_scale={scale:g} are below {_NOTHING:g}): numbers, not functions of the "
        f"input; {remedy}; see `dqk inspect`"
    ]


def _equal(preactivations: Tensor) -> list[str]:
    """Of pre-activations (4, b, H)."""
    least = _NOTHING * (1 + preactivations.abs().amax())
    pairs = [
        f"{GATES[a]} and {GATES[b]}"
        for a, b in combinations(range(4), 2)
        if (preactivations[a] - preactivations[b]).abs().amax() <= least
    ]
    if not pairs:
        return []
    return [
        f"gates are the same function on the first batch: {', '.join(pairs)}; nothing that differs between them has an influence, "
        "so use readout='per_gate', or parameters that reach the kernel (`dqk inspect` names those that do not)"
    ]


def _named(gates: list[str]) -> str:
    if len(gates) == len(GATES):
        return "all gates"
    return f"the {gates[0]} gate" if len(gates) == 1 else f"the gates {', '.join(gates)}"
