"""What simplification removes, what it leaves, and that values stay."""

import numpy as np
from hypothesis import given

from dqk.circuit import Circuit, Gate, constant, data, shared, simplify_for_fidelity, unitary
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from tests.cases import random_unitary
from tests.circuit.strategies import circuits, matrix_of, random_angles

TURN = Gate("ry", (0,), data(0))


def kept(*gates: Gate, n_qubits: int = 2) -> list[str]:
    columns = {"constant": 0, "data": 0, "shared": 0}
    for gate in gates:
        if gate.operand is not None:
            columns[gate.operand.kind] = max(columns[gate.operand.kind], gate.operand.column + 1)
    circuit = Circuit(n_qubits, gates, columns["data"], columns["shared"])
    return [gate.name for gate in simplify_for_fidelity(circuit).circuit.gates]


def test_the_papers_chain_cancels():
    circuit = qklstm_feature_map(4).circuit
    result = simplify_for_fidelity(circuit)
    assert [entry.gate.name for entry in result.removed] == ["cx"] * 3
    assert [entry.index for entry in result.removed] == [12, 13, 14]
    assert all("cancels in U(y)^dagger U(x)" in entry.reason for entry in result.removed)
    assert result.circuit.is_product and result.circuit.factors() == [(0,), (1,), (2,), (3,)]
    assert result.original == circuit


def test_nothing_of_the_bsp_map_cancels():
    circuit = bsp_feature_map(3).circuit
    result = simplify_for_fidelity(circuit)
    assert result.circuit == circuit and result.removed == ()
    assert str(result) == f"all {len(circuit.gates)} gates matter"


def test_last_ring_of_reuploading_cancels():
    for layers in (1, 2, 3):
        removed = simplify_for_fidelity(reuploading_feature_map(3, layers).circuit).removed
        assert [entry.gate.name for entry in removed] == ["cx"] * 3


def test_feature_maps_that_end_in_data_stay_whole():
    for feature_map in (zz_feature_map(3), ising_feature_map(3)):
        assert simplify_for_fidelity(feature_map.circuit).removed == ()


def test_cz_before_data_rz_goes():
    assert kept(TURN, Gate("cz", (0, 1)), Gate("rz", (1,), data(1))) == ["ry"]  # then RZ stands first on qubit 1
    assert kept(TURN, Gate("h", (1,)), Gate("cz", (0, 1)), Gate("rz", (1,), data(1))) == ["ry", "h", "rz"]
    assert kept(TURN, Gate("h", (1,)), Gate("cz", (0, 1)), Gate("rx", (1,), data(1))) == ["ry", "h", "cz", "rx"]


def test_trailing_data_diagonals_stay():
    assert kept(TURN, Gate("rz", (0,), data(1))) == ["ry", "rz"]
    assert kept(TURN, Gate("rz", (0,), data(1)), Gate("rz", (0,), shared(0))) == ["ry", "rz"]


def test_leading_phases_go():
    assert kept(Gate("rz", (0,), data(1)), TURN) == ["ry"]
    assert kept(Gate("cz", (0, 1)), Gate("p", (0,), shared(0)), Gate("rzz", (0, 1), data(1)), TURN) == ["ry"]
    assert kept(Gate("cx", (0, 1)), Gate("swap", (0, 1)), Gate("crx", (0, 1), data(1)), TURN) == ["ry"]
    assert kept(Gate("rz", (1,), data(1)), TURN, Gate("rz", (0,), data(2))) == ["ry", "rz"]
    assert kept(Gate("x", (0,)), TURN) == ["x", "ry"]
    assert kept(Gate("x", (0,)), Gate("cx", (0, 1)), TURN) == ["x", "cx", "ry"]


def test_a_trainable_layer_that_comes_last_is_dead():
    layer = (Gate("ry", (0,), shared(0)), Gate("rx", (1,), shared(1)), Gate("cx", (0, 1)))
    gates = (TURN, Gate("cx", (0, 1)), Gate("ry", (1,), data(1)), *layer)
    result = simplify_for_fidelity(Circuit(2, gates, n_data=3, n_shared=2))
    assert result.dead_shared == [0, 1] and result.dead_data == []
    assert [gate.name for gate in result.circuit.gates] == ["ry", "cx", "ry"]
    assert (result.circuit.n_data, result.circuit.n_shared) == (3, 2), "columns keep their numbers"
    before = simplify_for_fidelity(Circuit(2, layer + gates[:3], n_data=2, n_shared=2))
    assert before.dead_shared == [], "trainable layers before the data stay"


def test_dead_data_and_text():
    result = simplify_for_fidelity(Circuit(1, (Gate("rz", (0,), data(1)), TURN, Gate("h", (0,))), n_data=2))
    assert result.dead_data == [1]
    text = str(result)
    assert text.startswith("2 of 3 gates cannot influence the fidelity:")
    assert "gate 0: rz on (0,) - acts first and maps |0...0> to a phase" in text
    assert "gate 2: h on (0,) - constant and commutes with every later gate that remains" in text


def test_one_removal_makes_way_for_another():
    # The CZ goes because only a diagonal follows; then the RZ stands first on its qubit and goes too.
    gates = (TURN, Gate("cz", (0, 1)), Gate("rz", (1,), data(1)), Gate("cx", (1, 0)))
    assert kept(*gates) == ["ry"]
    assert kept(Gate("h", (0,)), Gate("x", (0,)), unitary(random_unitary(4, 1), 0, 1)) == []


def test_constants_without_data_go():
    assert kept(Gate("h", (0,)), Gate("ry", (1,), shared(0)), Gate("cx", (0, 1)), Gate("rx", (0,), constant(1.0))) == []


def fidelity(circuit: Circuit, w: np.ndarray) -> float:
    (x, _), (y, _) = random_angles(circuit, 1), random_angles(circuit, 2)
    return abs(np.vdot(matrix_of(circuit, y, w)[:, 0], matrix_of(circuit, x, w)[:, 0])) ** 2


@given(circuits())
def test_values_stay_and_what_is_removed_is_told(circuit):
    result = simplify_for_fidelity(circuit)
    _, w = random_angles(circuit, 3)
    assert abs(fidelity(result.circuit, w) - fidelity(circuit, w)) < 1e-12
    gone = {entry.index for entry in result.removed}
    assert all(entry.gate == circuit.gates[entry.index] for entry in result.removed)
    assert result.circuit.gates == tuple(gate for k, gate in enumerate(circuit.gates) if k not in gone)
    assert simplify_for_fidelity(result.circuit).circuit == result.circuit


@given(circuits())
def test_what_remains_has_a_reason(circuit):
    """A constant or shared gate has a later one that it does not commute with; no gate starts as a phase of |0...0>."""
    remaining = simplify_for_fidelity(circuit).circuit
    gates, touched = remaining.gates, set()
    for k, gate in enumerate(gates):
        if not gate.is_data:
            assert any(not numerically_commute(gate, later) for later in gates[k + 1 :]), f"gate {k} {gate} has none"
        if touched.isdisjoint(gate.wires):
            column = _matrix(gate, len(gate.wires), {wire: q for q, wire in enumerate(gate.wires)}, 0.7)[:, 0]
            assert np.abs(column[1:]).max() > 1e-9, f"gate {k} {gate} only turns the phase of |0...0>"
        touched.update(gate.wires)


def numerically_commute(first: Gate, second: Gate) -> bool:
    """At several generic angles, rather than by generators."""
    wires = sorted({*first.wires, *second.wires})
    places = {wire: q for q, wire in enumerate(wires)}
    for s, t in ((0.7, 1.9), (-2.3, 0.4)):
        a, b = _matrix(first, len(wires), places, s), _matrix(second, len(wires), places, t)
        if np.abs(a @ b - b @ a).max() > 1e-9:
            return False
    return True


def _matrix(gate: Gate, n: int, places: dict[int, int], angle: float) -> np.ndarray:
    moved = Gate(gate.name, tuple(places[wire] for wire in gate.wires), gate.operand, gate.matrix)
    size = 0 if gate.operand is None else gate.operand.column + 1
    return matrix_of(Circuit(n, (moved,), size, size), np.full(size, angle), np.full(size, angle))
