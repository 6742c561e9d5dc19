"""Kernel values of cut circuits by PennyLane: `qml.cut_circuit` and `qml.cut_circuit_mc`.

Choose it for circuits that are wider than the device, with cuts of wires from `cutting`. Both take the probability of 0...0 apart
into fragments: the one as an expectation value of a product of projectors, from every preparation and measurement at the cuts; the
other one from samples, each with preparations and measurements drawn at random. PennyLane cuts wires, not gates, and a wire that
comes back to a fragment is a qubit more there, since it does not reuse measured qubits. Its automatic cutter needs KaHyPar; here
it is told where to cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dqk.circuit import Circuit
from dqk.errors import BackendUnavailableError, InvalidInputError, whole_number
from dqk.qpu.cutting import WireCuts


@dataclass(frozen=True)
class CutValue:
    """A probability of 0...0 from fragments.

    Attributes:
        value: an estimate if there were shots; it may lie outside 0 to 1 then.
        circuits: that were run.
        widest: most qubits of one of them.
    """

    value: float
    circuits: int
    widest: int


def cut_value(
    circuit: Circuit,
    cuts: WireCuts,
    data: Sequence[float],
    shared: Sequence[float] = (),
    *,
    shots: int | None = None,
    seed: int | None = None,
) -> CutValue:
    """Probability of 0...0 by `qml.cut_circuit` on PennyLane's `default.qubit`.

    Args:
        circuit: as it is run; `kernel_circuit` for an entry of a fidelity kernel.
        cuts: where to cut its wires.
        data: angles of the data columns, shape (A_d,).
        shared: angles of the shared columns, shape (A_s,).
        shots: of each circuit; None for exact values of the fragments.
        seed: of the shots.

    Raises:
        BackendUnavailableError: if PennyLane is not installed.
        InvalidInputError: if there is nothing to cut, which PennyLane takes for a mistake.
    """
    qml = _pennylane()
    measured = qml.expval(qml.prod(*(qml.Projector([0], wires=q) for q in range(circuit.n_qubits))))
    tape = qml.tape.QuantumScript(_operations(circuit, cuts, data, shared), [measured])
    tapes, combine = qml.cut_circuit(tape, device_wires=qml.wires.Wires(range(max(cuts.widths))))
    tapes = [t.copy(shots=shots) for t in tapes]
    results = qml.execute(tapes, qml.device("default.qubit", seed=seed), diff_method=None)
    return CutValue(float(combine(results)), len(tapes), max(len(t.wires) for t in tapes))


def sampled_cut_value(
    circuit: Circuit, cuts: WireCuts, data: Sequence[float], shared: Sequence[float] = (), *, shots: int, seed: int = 0
) -> CutValue:
    """Probability of 0...0 by `qml.cut_circuit_mc`: each shot draws what is prepared and measured at the cuts.

    Args:
        circuit: as for `cut_value`, as are the next three.
        cuts: where to cut its wires, at least once.
        data: angles of the data columns.
        shared: angles of the shared columns.
        shots: of the whole; each is one circuit for each fragment.
        seed: of what is drawn and of the outcomes.

    Raises:
        BackendUnavailableError: if PennyLane is not installed.
        InvalidInputError: as for `cut_value`.
    """
    qml = _pennylane()
    shots = whole_number("shots", shots, 1)
    operations = _operations(circuit, cuts, data, shared)
    tape = qml.tape.QuantumScript(operations, [qml.sample(wires=range(circuit.n_qubits))], shots=shots)
    wires = qml.wires.Wires(range(max(cuts.widths)))
    tapes, combine = qml.cut_circuit_mc(tape, classical_processing_fn=_is_zero, device_wires=wires, seed=seed)
    results = qml.execute(tapes, qml.device("default.qubit", seed=seed), diff_method=None)
    return CutValue(float(combine(results)), len(tapes), max(len(t.wires) for t in tapes))


def _is_zero(bits: Any) -> float:
    return float(not np.any(bits))


def _operations(circuit: Circuit, cuts: WireCuts, data: Sequence[float], shared: Sequence[float]) -> list[Any]:
    if not cuts.cuts:
        raise InvalidInputError(
            "no wire is cut: every fragment is a circuit of its own already, whose probabilities of 0...0 are multiplied"
        )
    qml = _pennylane()
    columns, wanted = {"data": data, "shared": shared}, set(cuts.cuts)
    operations: list[Any] = [qml.Identity(wires=q) for q in range(circuit.n_qubits)]  # idle qubits are measured, too
    for index, gate in enumerate(circuit.gates):
        operations += [qml.WireCut(wires=wire) for wire in gate.wires if (index, wire) in wanted]
        variable = gate.operand is not None and gate.operand.kind != "constant"
        angle = float(columns[gate.operand.kind][gate.operand.column]) if variable else None  # type: ignore[union-attr]
        operations.append(qml.QubitUnitary(gate.unitary(angle), wires=list(gate.wires)))
    return operations


def _pennylane() -> Any:
    try:
        import pennylane
    except ImportError as error:
        raise BackendUnavailableError(
            f"cut circuits need PennyLane, which cannot be imported ({error}); install it with: pip install 'dqk[qpu]'"
        ) from error
    return pennylane
