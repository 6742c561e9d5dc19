"""Text drawings of circuits: one line per qubit, one column per layer.

    q0: ─H─RY(x0)─╭●─
    q1: ─H─RY(x1)─╰X─

A layer takes several columns where the spans of its gates would overlap. `x` are data columns, `w` shared ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dqk.circuit.model import Circuit, Gate, Operand

_CONTROLLED = {"cx": "X", "cz": "Z", "cp": "P", "crx": "RX", "cry": "RY", "crz": "RZ"}
_Cells = dict[int, str]


def draw(circuit: Circuit, width: int = 120) -> str:
    """The circuit as text, wrapped into blocks of at most `width` characters (more where a single gate needs it).

    Args:
        circuit: the circuit.
        width: length of a line in characters.

    Returns:
        Lines without trailing newline; blocks are separated by an empty line. The wires of a two-qubit unitary are
        marked `U:0` and `U:1` in the order of its matrix.

    Example:
        >>> from dqk.kernels.feature_maps import bsp_feature_map
        >>> print(draw(bsp_feature_map(2).circuit))
        q0: ─H─RZ(x0)─RY(x1)─╭●─RZ(x4)─
        q1: ─H─RZ(x2)─RY(x3)─╰X─RZ(x5)─
    """
    names = [f"q{qubit}: " for qubit in range(circuit.n_qubits)]
    indent = max(map(len, names))
    blocks: list[list[list[str]]] = [[]]
    used = indent + 1
    for column in _columns(circuit):
        cells = _pad(column, circuit.n_qubits)
        if blocks[-1] and used + len(cells[0]) > width:
            blocks.append([])
            used = indent + 1
        blocks[-1].append(cells)
        used += len(cells[0])
    texts = []
    for block in blocks:
        rows = ["".join(row) for row in zip(*block, strict=True)] or [""] * circuit.n_qubits
        texts.append("\n".join(name.ljust(indent) + "─" + row for name, row in zip(names, rows, strict=True)))
    return "\n\n".join(texts)


def _columns(circuit: Circuit) -> list[_Cells]:
    """What stands on which qubit, per column. A gate goes into the first column of its layer where its span is free."""
    layers: list[list[_Cells]] = [[] for _ in range(circuit.depth)]
    for layer, gate in circuit.layers():
        cells = _cells(gate)
        for column in layers[layer]:
            if column.keys().isdisjoint(cells):
                column.update(cells)
                break
        else:
            layers[layer].append(cells)
    return [column for columns in layers for column in columns]


def _cells(gate: Gate) -> _Cells:
    labels = _labels(gate)
    if len(gate.wires) == 1:
        return {gate.wires[0]: labels[0]}
    top, bottom = sorted(gate.wires)
    cells = {wire: "│" for wire in range(top + 1, bottom)}
    for wire, label in zip(gate.wires, labels, strict=True):
        cells[wire] = ("╭" if wire == top else "╰") + label
    return cells


def _labels(gate: Gate) -> tuple[str, ...]:
    """The text on each wire of the gate."""
    angle = "" if gate.operand is None else f"({_angle(gate.operand)})"
    if gate.name in _CONTROLLED:
        return "●", _CONTROLLED[gate.name] + angle
    if gate.name == "unitary":
        return ("U",) if len(gate.wires) == 1 else ("U:0", "U:1")
    return (gate.name.upper() + angle,) * len(gate.wires)


def _angle(operand: Operand) -> str:
    if operand.kind == "constant":
        return f"{operand.value:.3g}"
    return f"{'-' if operand.value < 0 else ''}{'x' if operand.kind == 'data' else 'w'}{operand.column}"


def _pad(column: _Cells, n_qubits: int) -> list[str]:
    """Cells of equal width, one per qubit. Where a gate has a bar in front, the labels beside it are indented."""
    joined = any(text[0] in "╭╰│" for text in column.values())
    texts = []
    for qubit in range(n_qubits):
        text = column.get(qubit, "")
        texts.append("─" + text if joined and not text.startswith(("╭", "╰", "│")) else text)
    longest = max(map(len, texts))
    return [text.ljust(longest, "─") + "─" for text in texts]
