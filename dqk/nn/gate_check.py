"""Gates that cannot gate: kernels that are constant over a batch, and gates that are the same function.

For a training loop of one's own: `warn_of_gates(model)` before the first batch. `dqk train` does so by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

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
    """Looks at one network's gates after one forward pass, with what its cells were given and gave."""

    def __init__(self, layer: QKLSTM):
        self._seen: list[tuple[Tensor, Tensor]] = []
        end = layer.register_forward_hook(self._end, always_call=True)
        self._hooks = [layer.register_forward_pre_hook(self._begin), end]

    def _begin(self, layer: QKLSTM, arguments: tuple[Any, ...]) -> None:
        for cell in layer.cells:
            cell.run = self._recorded(cell.run)  # type: ignore[assignment, arg-type]

    def _recorded(self, run: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Callable[..., Any]:
        def recorded(x: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
            found = run(x, *rest, **named)
            self._seen.append((x, found[0]))
            return found

        return recorded

    def _end(self, layer: QKLSTM, arguments: tuple[Any, ...], output: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        for cell in layer.cells:
            del cell.run
        if len(self._seen) == len(layer.cells):  # else the pass has failed
            text = gate_findings(layer, self._seen)
            if text:
                warnings.warn(text, stacklevel=3)


@torch.no_grad()
def gate_findings(layer: QKLSTM, seen: Sequence[tuple[Tensor, Tensor]]) -> str:
    """What is wrong with the gates on a batch, in sentences; empty if nothing is.

    Args:
        layer: network whose kernels this process evaluates.
        seen: inputs and outputs of each cell, shapes (..., D) and (..., H); outputs are hidden states that its gates see.
    """
    found: dict[str, list[str]] = {}  # what is wrong where, by what can be done
    for number, (cell, (inputs, outputs)) in enumerate(zip(layer.cells, seen, strict=True)):
        for what, remedy in _of_cell(cell, inputs.flatten(0, -2), outputs.flatten(0, -2)):  # type: ignore[arg-type]
            found.setdefault(remedy, []).append(f"{_place(layer, number)}{what}")
    return "\n".join(f"{'; '.join(whats)}{remedy}" for remedy, whats in found.items())


def _place(layer: QKLSTM, number: int) -> str:
    """Which cell this is, if there are several."""
    at, backward = divmod(number, 2) if layer.bidirectional else (number, 0)
    names = [f"layer {at + 1} of {layer.num_layers}"] if layer.num_layers > 1 else []
    names += [("forward", "backward")[backward] + " direction"] if layer.bidirectional else []
    return f"{', '.join(names)}: " if names else ""


def _of_cell(cell: ReferenceCell, x: Tensor, h: Tensor) -> list[tuple[str, str]]:
    """What is wrong with one cell's gates, and what can be done about it."""
    rows = torch.linspace(0, len(x) - 1, min(_MOST, len(x))).long().unique()
    if len(rows) < 2:
        return []
    projected, values = cell.kernel_values(x[rows])
    kernel = values(projected, h[rows])
    found = _constant(cell.by_gate(kernel), cell.kernel_scale, len(rows))
    return found or _equal(cell.preactivations(kernel, *cell._readout()))


def _constant(values: Tensor, scale: float, n_rows: int) -> list[tuple[str, str]]:
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
    what = (
        f"the kernel values of {_named(gates)} are the same for all of {n_rows} inputs of the first batch (between {low:.3g} and "
        f"{high:.3g}; differences times kernel_scale={scale:g} are below {_NOTHING:g})"
    )
    return [(what, f": numbers, not functions of the input; {remedy}; see `dqk inspect`")]


def _equal(preactivations: Tensor) -> list[tuple[str, str]]:
    """Of pre-activations (4, b, H)."""
    least = _NOTHING * (1 + preactivations.abs().amax())
    pairs = [
        f"{GATES[a]} and {GATES[b]}"
        for a, b in combinations(range(4), 2)
        if (preactivations[a] - preactivations[b]).abs().amax() <= least
    ]
    if not pairs:
        return []
    remedy = (
        "; nothing that differs between them has an influence, so use --readout per_gate (readout='per_gate'), or parameters that "
        "reach the kernel (`dqk inspect` names those that do not)"
    )
    return [(f"gates are the same function on the first batch: {', '.join(pairs)}", remedy)]


def _named(gates: list[str]) -> str:
    if len(gates) == len(GATES):
        return "all gates"
    return f"the {gates[0]} gate" if len(gates) == 1 else f"the gates {', '.join(gates)}"
