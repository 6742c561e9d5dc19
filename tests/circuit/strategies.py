"""Random circuits for hypothesis."""

import numpy as np
from hypothesis import strategies as st

from dqk.circuit import GATES, Circuit, Gate, constant, data, shared, unitary
from tests.cases import random_unitary

# Multiples of 0.001: what a tolerance of the code or of a test calls zero is zero.
ANGLES = st.integers(-6284, 6284).map(lambda k: k / 1000)


@st.composite
def circuits(draw, max_qubits: int = 3, max_gates: int = 12) -> Circuit:
    """Any gate on any wires with any operand; columns are used once each, in shuffled order, and some stay unused."""
    n_qubits = draw(st.integers(1, max_qubits))
    names = [name for name, spec in GATES.items() if spec.n_wires <= n_qubits] + ["unitary"]
    kinds = [draw(st.sampled_from(["constant", "data", "shared"])) for _ in range(draw(st.integers(0, max_gates)))]
    free = {kind: draw(st.permutations(range(kinds.count(kind) + 1))) for kind in ("data", "shared")}
    gates = []
    for kind in kinds:
        name = draw(st.sampled_from(names))
        n_wires = GATES[name].n_wires if name != "unitary" else draw(st.integers(1, min(2, n_qubits)))
        wires = draw(st.permutations(range(n_qubits)))[:n_wires]
        if name == "unitary":
            gates.append(unitary(random_unitary(2**n_wires, draw(st.integers(0, 999))), *wires))
        elif not GATES[name].has_angle:
            gates.append(Gate(name, tuple(wires)))
        else:
            if kind == "constant":
                operand = constant(draw(ANGLES))
            else:
                operand = (data if kind == "data" else shared)(free[kind].pop())
                operand = operand.negated if draw(st.booleans()) else operand
            gates.append(Gate(name, tuple(wires), operand))
    return Circuit(n_qubits, tuple(gates), kinds.count("data") + 1, kinds.count("shared") + 1)


def matrix_of(circuit: Circuit, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The circuit's unitary, wire 0 most significant: every gate spelled out over all basis states."""
    side, n = 2**circuit.n_qubits, circuit.n_qubits
    total = np.eye(side, dtype=complex)
    for gate in circuit.gates:
        column = None if gate.operand is None or gate.operand.kind == "constant" else gate.operand.column
        angle = None if column is None else (x if gate.is_data else w)[column]
        small, large = gate.unitary(angle), np.zeros((side, side), dtype=complex)
        shifts = [n - 1 - wire for wire in gate.wires]
        for state in range(side):
            source = sum((state >> shift & 1) << (len(shifts) - 1 - k) for k, shift in enumerate(shifts))
            rest = state & ~sum(1 << shift for shift in shifts)
            for image in range(len(small)):
                target = rest | sum((image >> (len(shifts) - 1 - k) & 1) << shift for k, shift in enumerate(shifts))
                large[target, state] = small[image, source]
        total = large @ total
    return total


def random_angles(circuit: Circuit, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One sample's data angles and the shared angles."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-3, 3, circuit.n_data), rng.uniform(-3, 3, circuit.n_shared)


def distance_up_to_phase(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two unitaries once b has a's phase."""
    phase = np.vdot(b, a)
    return float(np.abs(a - b * phase / abs(phase)).max())
