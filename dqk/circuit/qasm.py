"""OpenQASM 3 out: `stdgates.inc`, one `input` per angle column that occurs, no measurement.

Data column k is `xk`, shared column k is `wk`, qubit j is `q[j]`. Constant unitaries are written with `U`, `cu`, `x`
and `gphase`, exactly.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dqk.circuit.model import Circuit, Gate, Operand

# Not in stdgates.inc; the QPU service knows these texts.
DEFINITIONS = {
    "rxx": "gate rxx(t) a, b { h a; h b; cx a, b; rz(t) b; cx a, b; h a; h b; }",
    "ryy": "gate ryy(t) a, b { rx(pi/2) a; rx(pi/2) b; cx a, b; rz(t) b; cx a, b; rx(-pi/2) a; rx(-pi/2) b; }",
    "rzz": "gate rzz(t) a, b { cx a, b; rz(t) b; cx a, b; }",
}
_GRAY = (0, 1, 3, 2)  # neighbours differ in one wire


def to_openqasm(circuit: Circuit) -> str:
    """The circuit as an OpenQASM 3 program whose angles are inputs.

    Args:
        circuit: the circuit; wire 0 becomes `q[0]`.

    Returns:
        The program. Columns that no gate uses are not declared.

    References:
        OpenQASM 3.0 language specification, https://openqasm.com/versions/3.0/

    Example:
        >>> from dqk.circuit import Circuit, Gate, data
        >>> print(to_openqasm(Circuit(1, (Gate("ry", (0,), data(0).negated),), n_data=1)))
        OPENQASM 3.0;
        include "stdgates.inc";
        input float[64] x0;
        qubit[1] q;
        ry(-x0) q[0];
        <BLANKLINE>
    """
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";']
    used = {gate.name for gate in circuit.gates}
    lines += [text for name, text in DEFINITIONS.items() if name in used]
    lines += [f"input float[64] x{column};" for column in circuit.columns("data")]
    lines += [f"input float[64] w{column};" for column in circuit.columns("shared")]
    lines.append(f"qubit[{circuit.n_qubits}] q;")
    for gate in circuit.gates:
        lines += _statements(gate)
    return "\n".join(lines) + "\n"


def _statements(gate: Gate) -> Iterator[str]:
    wires = [f"q[{wire}]" for wire in gate.wires]
    if gate.name != "unitary":
        angle = "" if gate.operand is None else f"({_angle(gate.operand)})"
        yield f"{gate.name}{angle} {', '.join(wires)};"
    elif len(wires) == 1:
        theta, phi, lam, gamma = _euler(gate.unitary())
        yield f"U({theta!r}, {phi!r}, {lam!r}) {wires[0]};"
        # OpenQASM 3 defines U with the phase exp(i theta / 2) in front of the usual matrix.
        yield f"gphase({gamma - theta / 2!r});"
    else:
        yield from _two_qubit(gate.unitary(), wires)


def _angle(operand: Operand) -> str:
    if operand.kind == "constant":
        return repr(operand.value)
    return f"{'-' if operand.value < 0 else ''}{'x' if operand.kind == 'data' else 'w'}{operand.column}"


def _euler(matrix: np.ndarray) -> tuple[float, float, float, float]:
    """Angles of `exp(i gamma) [[cos t/2, -exp(i lam) sin t/2], [exp(i phi) sin t/2, exp(i (phi + lam)) cos t/2]]`."""
    (a, b), (c, d) = matrix.tolist()
    theta = 2 * math.atan2(abs(c), abs(a))
    gamma = cmath.phase(a)
    phi = cmath.phase(c) - gamma
    # lam comes from the larger element; the phases of vanishing elements are arbitrary and drop out.
    lam = cmath.phase(d) - gamma - phi if abs(a) > abs(c) else cmath.phase(-b) - gamma
    return theta, phi, lam, gamma


def _two_qubit(matrix: np.ndarray, wires: list[str]) -> Iterator[str]:
    """Two-level rotations between states that differ in one wire undo the matrix column by column.

    Each of them is a controlled one-qubit gate, so the exact circuit is their inverses in reverse order.
    """
    rest = np.array(matrix)
    steps = []
    for column in range(3):
        for row in range(2, column - 1, -1):
            upper, lower = _GRAY[row], _GRAY[row + 1]
            pair = rest[[upper, lower], _GRAY[column]]
            length = np.linalg.norm(pair)
            rotation = np.eye(2, dtype=complex)
            if length > 0:
                rotation = np.array([pair.conj(), [-pair[1], pair[0]]]) / length
            rest[[upper, lower]] = rotation @ rest[[upper, lower]]
            steps.append((upper, lower, rotation.conj().T))
    # What remains is diag(1, 1, 1, phase) in Gray order: it belongs to the last state.
    steps.append((_GRAY[2], _GRAY[3], np.diag([1.0, rest[_GRAY[3], _GRAY[3]]])))
    for upper, lower, step in reversed(steps):
        if np.abs(step - np.eye(2)).max() > 0:
            yield from _controlled(step, upper, lower, wires)


def _controlled(step: np.ndarray, upper: int, lower: int, wires: list[str]) -> Iterator[str]:
    """`step` on the basis states `upper` and `lower` (in this order), which differ in one wire."""
    target = 1 if upper ^ lower == 1 else 0
    control = 1 - target
    on_zero = not upper >> (1 - control) & 1
    if upper > lower:  # the matrix is in the order (upper, lower); the gate acts in the order (0, 1)
        step = step[::-1, ::-1]
    angles = ", ".join(repr(angle) for angle in _euler(step))
    if on_zero:
        yield f"x {wires[control]};"
    yield f"cu({angles}) {wires[control]}, {wires[target]};"
    if on_zero:
        yield f"x {wires[control]};"
