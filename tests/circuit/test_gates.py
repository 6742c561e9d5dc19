"""Matrices against PennyLane and closed forms, shift rules against derivatives."""

import numpy as np
import pennylane as qml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqk.circuit import GATES, Gate, constant, data, shift_rule, unitary
from dqk.circuit.gates import rotation
from dqk.circuit.simplify import commute, embed
from dqk.errors import InvalidInputError
from tests.cases import random_unitary

PENNYLANE = {
    "h": qml.Hadamard,
    "x": qml.PauliX,
    "cx": qml.CNOT,
    "cz": qml.CZ,
    "swap": qml.SWAP,
    "rx": qml.RX,
    "ry": qml.RY,
    "rz": qml.RZ,
    "p": qml.PhaseShift,
    "cp": qml.ControlledPhaseShift,
    "rxx": qml.IsingXX,
    "ryy": qml.IsingYY,
    "rzz": qml.IsingZZ,
    "crx": qml.CRX,
    "cry": qml.CRY,
    "crz": qml.CRZ,
}
ROTATIONS = [name for name, spec in GATES.items() if spec.has_angle]
PAULI = {"x": np.array([[0, 1], [1, 0]]), "y": np.array([[0, -1j], [1j, 0]]), "z": np.diag([1, -1])}
ANGLES = [0.0, 0.3, -1.7, np.pi, 5.9, -12.0]


def make(name: str, angle: float | None = None) -> Gate:
    wires = tuple(range(GATES[name].n_wires))
    return Gate(name, wires, None if angle is None else constant(angle))


def test_pennylane_knows_every_gate():
    assert PENNYLANE.keys() == GATES.keys()


@pytest.mark.parametrize("name", GATES)
def test_matrix_is_pennylanes(name):
    for angle in ANGLES if GATES[name].has_angle else [None]:
        expected = PENNYLANE[name](*([] if angle is None else [angle]), wires=range(GATES[name].n_wires)).matrix()
        np.testing.assert_allclose(make(name, angle).unitary(), expected, atol=2e-15)


@pytest.mark.parametrize("name", ["rx", "ry", "rz", "rxx", "ryy", "rzz"])
def test_pauli_rotation_is_its_closed_form(name):
    pauli = PAULI[name[1]] if len(name) == 2 else np.kron(PAULI[name[1]], PAULI[name[1]])
    for angle in ANGLES:
        expected = np.cos(angle / 2) * np.eye(len(pauli)) - 1j * np.sin(angle / 2) * pauli
        np.testing.assert_allclose(make(name, angle).unitary(), expected, atol=2e-15)


@pytest.mark.parametrize("name", ROTATIONS)
def test_frequencies_are_the_differences_of_eigenvalues(name):
    spec = GATES[name]
    np.testing.assert_array_equal(spec.generator, spec.generator.conj().T)
    values = np.linalg.eigvalsh(spec.generator)
    differences = {round(abs(a - b), 12) for a in values for b in values} - {0.0}
    assert differences == set(spec.frequencies)


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_shift_rule_is_the_derivative(name, seed):
    """Exactly: d/dt <U(t)' O U(t)> = <U' i[G, O] U>."""
    spec, rng = GATES[name], np.random.default_rng(seed)
    side = len(spec.generator)
    state = random_unitary(side, seed)[:, 0]
    observable = rng.normal(size=(side, side)) + 1j * rng.normal(size=(side, side))
    observable = observable + observable.conj().T

    def value(angle: float, operator: np.ndarray = observable) -> float:
        moved = rotation(spec.generator, angle) @ state
        return float(np.vdot(moved, operator @ moved).real)

    commutator = 1j * (spec.generator @ observable - observable @ spec.generator)
    for angle in ANGLES:
        shifted = sum(c * value(angle + s) for c, s in shift_rule(spec.frequencies))
        assert shifted == pytest.approx(value(angle, commutator), abs=1e-12)
        near, far = (value(angle + h) - value(angle - h) for h in (1e-3, 2e-3))
        assert shifted == pytest.approx((8 * near - far) / 12e-3, abs=1e-9)


def test_number_of_shifts():
    assert len(shift_rule((1.0,))) == 2
    assert len(shift_rule((0.5, 1.0))) == 4


@pytest.mark.parametrize("name", ROTATIONS)
def test_generator_gives_the_gate(name):
    """U(s + t) = U(s) U(t) and U'(0) = -i G."""
    spec = GATES[name]
    np.testing.assert_allclose(
        make(name, 0.4).unitary() @ make(name, 1.1).unitary(), make(name, 1.5).unitary(), atol=1e-14
    )
    step = 1e-5
    slope = (make(name, step).unitary() - make(name, -step).unitary()) / (2 * step)
    np.testing.assert_allclose(slope, -1j * spec.generator, atol=1e-9)


def test_unitary_needs_the_value_of_a_variable_angle():
    gate = Gate("ry", (1,), data(0))
    with pytest.raises(InvalidInputError, match=r"gate ry on wires \(1,\) needs the value of its angle"):
        gate.unitary()
    np.testing.assert_allclose(gate.inverse().unitary(0.3), qml.RY(-0.3, 0).matrix(), atol=1e-15)
    assert gate.frequencies == (1.0,)
    assert make("h").frequencies == () and make("h").generator is None


@given(n=st.integers(1, 3), seed=st.integers(0, 99), data_=st.data())
def test_embed_is_pennylanes_expansion(n, seed, data_):
    wires = data_.draw(st.permutations(range(n)))[: data_.draw(st.integers(1, min(2, n)))]
    matrix = random_unitary(2 ** len(wires), seed)
    expected = qml.math.expand_matrix(matrix, wires, wire_order=range(n))
    np.testing.assert_allclose(embed(matrix, list(wires), n), expected, atol=1e-15)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Gate("cz", (0, 1)), Gate("rz", (1,), data(0)), True),
        (Gate("cz", (0, 1)), Gate("rx", (1,), data(0)), False),
        (Gate("cx", (0, 1)), Gate("rz", (0,), data(0)), True),
        (Gate("cx", (0, 1)), Gate("rx", (1,), data(0)), True),
        (Gate("cx", (0, 1)), Gate("rz", (1,), data(0)), False),
        (Gate("cx", (0, 1)), Gate("cx", (0, 2)), True),
        (Gate("cx", (0, 1)), Gate("cx", (2, 1)), True),
        (Gate("cx", (0, 1)), Gate("cx", (1, 2)), False),
        (Gate("rxx", (0, 1), data(0)), Gate("ryy", (1, 0), data(1)), True),
        (Gate("rxx", (0, 1), data(0)), Gate("ryy", (1, 2), data(1)), False),
        (Gate("swap", (0, 1)), Gate("rzz", (1, 0), data(0)), True),
        (Gate("swap", (0, 1)), Gate("ry", (0,), data(0)), False),
        (Gate("h", (0,)), Gate("h", (1,)), True),
        (Gate("rx", (0,), constant(2 * np.pi)), Gate("rz", (0,), data(0)), True),  # minus the identity
        (Gate("rx", (0,), constant(np.pi)), Gate("x", (0,)), True),
        (unitary(np.diag([1, 1j]), 1), Gate("crz", (0, 1), data(0)), True),
        (unitary(np.diag([1, 1j]), 1), Gate("crx", (0, 1), data(0)), False),
    ],
)
def test_commute(first, second, expected):
    assert commute(first, second) is expected
    assert commute(second, first) is expected
