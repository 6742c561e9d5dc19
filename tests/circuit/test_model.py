"""The circuit as data: checks, inverse, joins, depth, factors, JSON."""

import json

import numpy as np
import pytest
from hypothesis import given

from dqk.circuit import Circuit, Gate, Operand, constant, data, shared, unitary
from dqk.errors import InvalidInputError
from tests.cases import CIRCUITS, random_unitary
from tests.circuit.strategies import circuits, matrix_of, random_angles


@given(circuits())
def test_inverse_undoes(circuit):
    angles = random_angles(circuit)
    product = matrix_of(circuit.inverse(), *angles) @ matrix_of(circuit, *angles)
    np.testing.assert_allclose(product, np.eye(2**circuit.n_qubits), atol=1e-13)
    assert circuit.inverse().inverse() == circuit


@given(circuits(max_qubits=2, max_gates=6), circuits(max_qubits=2, max_gates=6))
def test_then_applies_the_second_circuit_after_the_first(first, second):
    if first.n_qubits != second.n_qubits:
        with pytest.raises(InvalidInputError, match="cannot join circuits on"):
            first.then(second)
        return
    (x, w), (y, v) = random_angles(first, 1), random_angles(second, 2)
    joined = matrix_of(first.then(second), np.concatenate([x, y]), np.concatenate([w, v]))
    np.testing.assert_allclose(joined, matrix_of(second, y, v) @ matrix_of(first, x, w), atol=1e-13)


@given(circuits())
def test_compute_uncompute_gives_the_overlap(circuit):
    (x, w), (y, _) = random_angles(circuit, 1), random_angles(circuit, 2)
    there_and_back = matrix_of(circuit.compute_uncompute(), np.concatenate([x, y]), np.concatenate([w, w]))
    overlap = np.vdot(matrix_of(circuit, y, w)[:, 0], matrix_of(circuit, x, w)[:, 0])
    assert there_and_back[0, 0] == pytest.approx(overlap, abs=1e-13)


def test_two_shifts_need_one_column_per_occurrence():
    """A parameter that stands in U(x) and in the inverse of U(y) has two columns; shifting both at once is wrong."""
    gates = (Gate("ry", (0,), shared(0)), Gate("rx", (0,), data(0)), Gate("ry", (0,), data(1)))
    circuit = Circuit(1, gates, n_data=2, n_shared=1)
    both, angles = circuit.compute_uncompute(), np.array([0.3, 1.1, -0.4, 0.8])

    def k(w: float, v: float) -> float:
        return abs(matrix_of(both, angles, np.array([w, v]))[0, 0]) ** 2

    w, step, half = 0.6, 1e-3, np.pi / 2
    near, far = (k(w + h, w + h) - k(w - h, w - h) for h in (step, 2 * step))
    slope = (8 * near - far) / (12 * step)
    each = (k(w + half, w) - k(w - half, w)) / 2 + (k(w, w + half) - k(w, w - half)) / 2
    together = (k(w + half, w + half) - k(w - half, w - half)) / 2
    assert each == pytest.approx(slope, abs=1e-10)
    assert abs(together - slope) > 0.01


def test_depth_and_layers():
    gates = (Gate("h", (0,)), Gate("h", (1,)), Gate("cx", (0, 1)), Gate("h", (2,)), Gate("cx", (2, 1)), Gate("x", (0,)))
    circuit = Circuit(3, gates)
    assert [layer for layer, _ in circuit.layers()] == [0, 0, 1, 0, 2, 2]
    assert circuit.depth == 3
    assert Circuit(3, ()).depth == 0
    assert CIRCUITS["qklstm_feature_map-5"].depth == 3 + 4


def test_factors():
    gates = (Gate("cx", (3, 1)), Gate("h", (0,)), Gate("cz", (4, 5)), Gate("rxx", (1, 5), data(0)))
    circuit = Circuit(7, gates, n_data=1)
    assert sorted(circuit.factors()) == [(0,), (1, 3, 4, 5), (2,), (6,)]
    assert not circuit.is_product
    assert Circuit(2, gates[1:2]).is_product
    assert Circuit(2, ()).factors() == [(0,), (1,)]


def test_columns_and_equality():
    circuit = Circuit(1, (Gate("rx", (0,), data(4)), Gate("rz", (0,), data(1)), Gate("p", (0,), shared(2))), 5, 3)
    assert (circuit.columns("data"), circuit.columns("shared")) == ([1, 4], [2])
    same = Circuit(1, list(circuit.gates), 5, 3)
    assert circuit == same and hash(circuit) == hash(same) and circuit.digest == same.digest
    other = Circuit(1, circuit.gates, 5, 4)
    assert circuit != other and circuit.digest != other.digest


@given(circuits())
def test_json_round_trip(circuit):
    text = circuit.to_json()
    again = Circuit.from_json(text)
    assert again == circuit and hash(again) == hash(circuit)
    assert again.to_json() == text and again.digest == circuit.digest
    assert Circuit.from_dict(json.loads(json.dumps(circuit.to_dict()))) == circuit


def test_equal_circuits_have_equal_json():
    zero = Circuit(1, (Gate("rx", (0,), constant(0.0)), unitary([[1, 0], [0, 1j]], 0)))
    minus_zero = Circuit(1, (Gate("rx", (0,), constant(-0.0)), unitary([[1, -0.0], [-0.0, 1j]], 0)))
    assert zero == minus_zero and zero.to_json() == minus_zero.to_json()
    assert zero.inverse().inverse().to_json() == zero.to_json()
    from_numpy = Circuit(1, (Gate("rx", tuple(np.arange(1)), constant(np.float64(0.0))), zero.gates[1]))
    assert from_numpy.to_json() == zero.to_json()


GOOD = {"n_qubits": 2, "n_data": 1, "n_shared": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["rq", [0]], "unknown gate 'rq'.*Known: 'cp'"),
        (["ryx", [0], "data", 1.0, 0], "did you mean 'ry'"),
        (["ry", [0]], "gate 0: ry needs an angle"),
        (["h", [0], "data", 1.0, 0], "h takes no angle"),
        (["ry", [2], "data", 1.0, 0], r"ry on wires \(2,\), expected distinct wires from 0 to 1"),
        (["ry", [-1], "data", 1.0, 0], "distinct wires from 0 to 1"),
        (["cx", [1, 1]], "distinct wires"),
        (["cx", [1]], "cx acts on 1 wires, expected 2"),
        (["ry", [0], "data", 1.0, 1], "ry uses data column 1, expected 0 to 0"),
        (["ry", [0], "shared", 1.0, -1], "shared column -1"),
        (["ry", [0], "data", 0.5, 0], r"times 0.5, expected \+1 or -1"),
        (["ry", [0], "constant", float("nan"), -1], "angle nan, expected a finite number"),
        (["ry", [0], "datum", 1.0, 0], "unknown kind of operand 'datum'.*did you mean 'data'"),
        (["ry", [0.0], "data", 1.0, 0], r"ry on wires \(0.0,\), expected a tuple of whole numbers"),
        (["ry", [0], "data", 1.0], "has 4 entries"),
        (["ry", 0, "data", 1.0, 0], "not a circuit document"),
        (["unitary", [0], [[[1, 0], [1, 0]], [[0, 0], [1, 0]]]], "is not unitary"),
        (["unitary", [0, 1], [[[1, 0], [0, 0]], [[0, 0], [1, 0]]]], r"unitary of shape \(2, 2\) on 2 wires"),
        (["unitary", [0], [[[1, 0], [0, 0]], [[0, 0]]]], "not a matrix"),
        (["unitary", [0], [[["1", 0]]]], "not a circuit document"),
        ([], "not a circuit document"),
        (None, "not a circuit document"),
    ],
)
def test_damaged_gate_is_refused(row, message):
    with pytest.raises(InvalidInputError, match=message):
        Circuit.from_dict({**GOOD, "gates": [row]})


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"n_qubits": 2}', '{"n_qubits":"2","gates":[],"n_data":0,"n_shared":0}']
)
def test_damaged_document_is_refused(text):
    with pytest.raises(InvalidInputError, match="not a circuit"):
        Circuit.from_json(text)


def test_all_problems_are_told_at_once():
    gates = (Gate("ry", (0,), data(0)), Gate("rz", (0,), data(0)), Gate("foo", (0,)), Gate("cx", (0, 5)))
    with pytest.raises(InvalidInputError) as caught:
        Circuit(2, gates, n_data=1)
    for part in ("data column 0 occurs twice", "gate 2: unknown gate 'foo'", "gate 3: cx on wires (0, 5)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("counts", [(0, 0, 0), (1.0, 0, 0), (1, -1, 0), (1, 0, 0.5), ("1", 0, 0), (True, 0, 0)])
def test_counts_are_whole_numbers(counts):
    with pytest.raises(InvalidInputError, match="expected a whole number of at least"):
        Circuit(counts[0], (), counts[1], counts[2])


@pytest.mark.parametrize("matrix", [[1, 2], [[1, 0], [0]], "x", [[1, "y"], [0, 1]]])
def test_unitary_needs_a_matrix(matrix):
    with pytest.raises(InvalidInputError, match="not a matrix on wires"):
        unitary(matrix, 0)


def test_a_matrix_belongs_to_unitaries_only():
    matrix = unitary(random_unitary(2, 0), 0).matrix
    for gate in (Gate("h", (0,), matrix=matrix), Gate("unitary", (0,)), Gate("unitary", (0,), constant(1.0), matrix)):
        with pytest.raises(InvalidInputError, match="a unitary has a matrix and no angle"):
            Circuit(1, (gate,))


def test_operands():
    assert data(3).negated == Operand("data", -1.0, 3) and data(3).negated.negated == data(3)
    assert constant(0.5).negated == constant(-0.5)
    assert Gate("h", (0,)).inverse() == Gate("h", (0,))


def test_every_kind_of_integer_counts():
    made = Circuit(np.int64(2), [Gate("ry", (np.int8(1),), data(np.int64(0)))], np.int64(1), np.int64(0))
    assert made.to_json() == Circuit(2, (Gate("ry", (1,), data(0)),), 1, 0).to_json()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Circuit(2, None), "gate 0 is None, expected a Gate"),
        (lambda: Circuit(2, "hx"), "gate 0 is 'h', expected a Gate; gate 1 is 'x'"),
        (lambda: Gate("h", 0), r"h on wires 0, expected a tuple of whole numbers such as \(0, 1\)"),
        (lambda: Gate("h", "0"), "h on wires '0', expected a tuple"),
        (lambda: Gate("rx", (0,), 0.3), r"rx with the angle 0.3, expected constant\(angle\), data\(column\)"),
        (lambda: constant("0.3"), "angle is '0.3', expected a finite number"),
        (lambda: data(0.0), "data column is 0.0, expected a whole number of at least 0"),
        (lambda: shared(-1), "shared column is -1"),
    ],
)
def test_parts_of_another_kind_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
