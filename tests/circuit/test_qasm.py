"""OpenQASM 3, read back by Qiskit's parser."""

import cmath
import re

import numpy as np
import pytest
import qiskit.qasm3
from hypothesis import given, settings
from qiskit.quantum_info import Operator

from dqk.circuit import Circuit, Gate, constant, data, unitary
from tests.cases import CIRCUITS, random_unitary
from tests.circuit.strategies import circuits, distance_up_to_phase, matrix_of, random_angles


def read_back(circuit: Circuit, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The program's unitary by Qiskit, with our order of qubits: Qiskit's qubit 0 is the least significant bit."""
    program = qiskit.qasm3.loads(circuit.to_openqasm())
    values = {p: (x if p.name[0] == "x" else w)[int(p.name[1:])] for p in program.parameters}
    return Operator(program.assign_parameters(values).reverse_bits()).data


@pytest.mark.parametrize("name", CIRCUITS)
def test_named_cases(name):
    circuit = CIRCUITS[name]
    angles = random_angles(circuit)
    assert distance_up_to_phase(read_back(circuit, *angles), matrix_of(circuit, *angles)) < 1e-12


@settings(max_examples=15)
@given(circuits())
def test_random_circuits_and_their_inverses(circuit):
    angles = random_angles(circuit)
    for each in (circuit, circuit.inverse()):
        assert distance_up_to_phase(read_back(each, *angles), matrix_of(each, *angles)) < 1e-12


SPECIAL = [
    np.eye(4),
    1j * np.eye(4),
    np.eye(4)[[0, 2, 1, 3]],
    np.eye(4)[[3, 2, 1, 0]],
    np.eye(4)[[1, 2, 3, 0]],
    np.diag([1, 1j, -1, -1j]),
    np.kron(random_unitary(2, 1), np.eye(2)),
    np.kron(np.eye(2), random_unitary(2, 2)),
    np.kron(random_unitary(2, 1), random_unitary(2, 2)),
    np.linalg.matrix_power(np.exp(2j * np.pi / 4) ** np.outer(range(4), range(4)) / 2, 1),
    *[random_unitary(4, seed) for seed in range(6)],
]


@pytest.mark.parametrize("k", range(len(SPECIAL)))
def test_two_qubit_unitaries_are_exact(k):
    for wires in ((0, 1), (1, 0)):
        circuit = Circuit(2, (unitary(SPECIAL[k], *wires),))
        none = np.empty(0)
        # Controlled gates leave no freedom: even the phase is right.
        np.testing.assert_allclose(read_back(circuit, none, none), matrix_of(circuit, none, none), atol=3e-15)


@pytest.mark.parametrize(
    "matrix",
    [np.eye(2), 1j * np.eye(2), np.eye(2)[::-1], np.diag([1j, 1]), *[random_unitary(2, seed) for seed in range(6)]],
)
def test_one_qubit_unitary_and_its_phase(matrix):
    circuit = Circuit(1, (unitary(matrix, 0),))
    none = np.empty(0)
    assert distance_up_to_phase(read_back(circuit, none, none), matrix) < 1e-15 * 4
    # The language's own definition of U, phase included (Qiskit's differs from it by a phase).
    number = r"(-?[\d.e+-]+)"
    theta, phi, lam = map(float, re.search(rf"U\({number}, {number}, {number}\)", circuit.to_openqasm()).groups())
    gamma = float(re.search(rf"gphase\({number}\)", circuit.to_openqasm()).group(1))
    plus, minus = 1 + cmath.exp(1j * theta), 1 - cmath.exp(1j * theta)
    defined = np.array(
        [
            [plus, -1j * cmath.exp(1j * lam) * minus],
            [1j * cmath.exp(1j * phi) * minus, cmath.exp(1j * (phi + lam)) * plus],
        ]
    )
    np.testing.assert_allclose(cmath.exp(1j * gamma) * defined / 2, matrix, atol=2e-15)


def test_text():
    circuit = Circuit(
        3,
        (
            Gate("ry", (2,), data(4).negated),
            Gate("rzz", (0, 2), constant(0.1 + 0.2)),
            Gate("cx", (1, 0)),
            Gate("crx", (0, 1), data(0)),
        ),
        n_data=6,
    )
    assert circuit.to_openqasm() == (
        "OPENQASM 3.0;\n"
        'include "stdgates.inc";\n'
        "gate rzz(t) a, b { cx a, b; rz(t) b; cx a, b; }\n"
        "input float[64] x0;\n"
        "input float[64] x4;\n"
        "qubit[3] q;\n"
        "ry(-x4) q[2];\n"
        "rzz(0.30000000000000004) q[0], q[2];\n"
        "cx q[1], q[0];\n"
        "crx(x0) q[0], q[1];\n"
    )
