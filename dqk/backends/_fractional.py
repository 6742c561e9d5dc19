"""RZZ gates whose angle a processor bounds: IBM's fractional RZZ takes [0, pi/2] and no other angle.

Choose it after the transpiler, which folds constants but not angles that come from a table. The circuit stays one circuit for
all rows: what a row's angle needs beside RZZ are rotations by 0 or pi, which are columns of the table like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dqk.errors import UnsupportedError


class Folded(NamedTuple):
    """A circuit whose RZZ gates take angles in [0, pi/2].

    Attributes:
        circuit: with three parameters for each RZZ that was folded: its angle, and the angles of RX and RZ around it.
        parameters: these parameters, three for each RZZ.
        offsets: the constant part of each folded RZZ's angle, shape (R,).
        slopes: how it depends on the old parameters, shape (R, A).
    """

    circuit: Any
    parameters: tuple[Any, ...]
    offsets: np.ndarray
    slopes: np.ndarray

    def columns(self, table: np.ndarray) -> np.ndarray:
        """The columns of `parameters` for a table of the old ones, shape (P, A): shape (P, 3 R)."""
        return np.stack(fold(table @ self.slopes.T + self.offsets), axis=2).reshape(len(table), 3 * len(self.offsets))


def fold(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RZZ(t) as RZZ with an angle in [0, pi/2], up to a global phase.

    `RZZ(t) ~ (RX(f) x 1) RZZ(phi) (RX(f) x 1) (RZ(z) x RZ(z))`, since RZZ(t + 2 pi) = -RZZ(t), RZZ(pi) = -i Z x Z, and X on one
    qubit turns RZZ(t) into RZZ(-t).

    Args:
        angles: t in radians, any shape.

    Returns:
        phi in [0, pi/2], f in {0, pi} and z in {0, pi}.
    """
    rest = np.mod(angles, 2 * np.pi)
    quarter = np.minimum(rest // (np.pi / 2), 3)
    phi = np.choose(quarter.astype(int), [rest, np.pi - rest, rest - np.pi, 2 * np.pi - rest])
    odd, middle = quarter % 2 == 1, (quarter == 1) | (quarter == 2)
    return np.clip(phi, 0, np.pi / 2), np.where(odd, np.pi, 0.0), np.where(middle, np.pi, 0.0)


def is_bounded(backend: Any) -> bool:
    """Whether the backend takes RZZ with some angles only: by its target, or because it is IBM's, whose targets do not say so."""
    target = backend.target
    if "rzz" not in target.operation_names:
        return False
    return target.gate_has_angle_bounds("rzz") or type(backend).__module__.startswith(("qiskit_ibm_runtime", "qrmi"))


def fold_rzz(circuit: Any, parameters: Sequence[Any]) -> Folded:
    """A transpiled circuit with every RZZ folded whose angle is not a constant in [0, pi/2].

    Args:
        circuit: Qiskit circuit in the backend's own gates, RX and RZ among them.
        parameters: its parameters, in the order of the table's columns.

    Raises:
        UnsupportedError: if an angle is no affine function of the parameters.
    """
    from qiskit.circuit import Parameter

    out = circuit.copy_empty_like()
    made: list[Any] = []
    offsets, slopes = [], []
    for instruction in circuit.data:
        operation, qubits = instruction.operation, instruction.qubits
        if operation.name != "rzz" or _fits(operation.params[0]):
            out.append(instruction)
            continue
        offset, slope = _affine(operation.params[0], parameters)
        offsets.append(offset)
        slopes.append(slope)
        angle, flip, turn = (Parameter(f"{name}{len(offsets) - 1}") for name in ("phi", "flip", "turn"))
        made += [angle, flip, turn]
        _append(out, qubits, angle, flip, turn)
    shape = (len(offsets), len(parameters))
    return Folded(
        out, tuple(made), np.array(offsets, dtype=np.float64), np.array(slopes, dtype=np.float64).reshape(shape)
    )


def wrap_rzz(angles: Sequence[float], _qubits: Any) -> Any:
    """RZZ of a constant angle, folded: what Qiskit's pass `WrapAngles` asks of a provider's package, which may not be installed.

    Returns:
        Qiskit DAGCircuit of two qubits.
    """
    from qiskit.circuit import QuantumCircuit
    from qiskit.converters import circuit_to_dag

    circuit = QuantumCircuit(2)
    _append(circuit, circuit.qubits, *(float(part) for part in fold(np.asarray(angles[0]))))
    return circuit_to_dag(circuit)


def _append(circuit: Any, qubits: Sequence[Any], angle: Any, flip: Any, turn: Any) -> None:
    """The gates that `fold` says, but for rotations by a constant 0."""
    if turn != 0.0:
        circuit.rz(turn, qubits)
    if flip != 0.0:
        circuit.rx(flip, qubits[0])
    circuit.rzz(angle, *qubits)
    if flip != 0.0:
        circuit.rx(flip, qubits[0])


def _fits(angle: Any) -> bool:
    return not getattr(angle, "parameters", None) and 0 <= float(angle) <= np.pi / 2


def _affine(angle: Any, parameters: Sequence[Any]) -> tuple[float, list[float]]:
    """Constant part and slopes of an angle."""
    used = set(getattr(angle, "parameters", ()))
    try:
        slopes = [float(angle.gradient(p)) if p in used else 0.0 for p in parameters]
        return float(angle.bind(dict.fromkeys(used, 0.0)) if used else angle), slopes
    except TypeError as error:
        raise UnsupportedError(
            f"the transpiler made the RZZ angle {angle}, which is no sum of multiples of angles and so cannot be folded into "
            "[0, pi/2]; use a lower optimization_level"
        ) from error
