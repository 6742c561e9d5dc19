"""Programs that the service reads, against the circuits that Qiskit and PennyLane make of the same text; and what it refuses."""

import numpy as np
import pennylane as qml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqk.circuit import Circuit
from dqk.kernels.feature_maps import iqp_feature_map, reuploading_feature_map, zz_feature_map
from dqk.qpu._simulate import _probabilities
from dqk.qpu.expressions import QASMError
from dqk.qpu.profile import Noise
from dqk.qpu.qasm import Program, parse

HEAD = 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'


def probabilities(program: Program, table: np.ndarray) -> np.ndarray:
    return np.concatenate(list(_probabilities(program, program.angles(table), Noise())))


def qiskit_probabilities(text: str, row: dict[str, float]) -> np.ndarray:
    """Outcomes with qubit 0 first, which is last in Qiskit."""
    from qiskit import qasm3
    from qiskit.quantum_info import Statevector

    circuit = qasm3.loads(text)
    bound = circuit.assign_parameters({p: row[p.name] for p in circuit.parameters})
    return Statevector(bound.reverse_bits()).probabilities()


@pytest.mark.parametrize("n_wires", [1, 2, 3])
def test_every_gate_of_the_library_is_what_qiskit_takes_it_for(n_wires: int) -> None:
    gates = {
        1: "id x y z h s sdg t tdg sx rx(.3) ry(.4) rz(.5) p(.6) phase(.6) u1(.7) u2(.8,.9) u3(.1,.2,.3) U(.4,.5,.6)".split(),
        2: "cx cy cz ch swap cp(.3) cphase(.4) crx(.5) cry(.6) crz(.7) cu(.1,.2,.3,.4) CX".split(),
        3: ["ccx", "cswap"],
    }[n_wires]
    for gate in gates:
        for order in {tuple(range(n_wires)), tuple(reversed(range(n_wires)))}:
            wires = ", ".join(f"q[{wire}]" for wire in order)
            # What surrounds the gate makes phases visible.
            around = [f"u3(0.{k + 3}, 1.{k}, 0.{k + 1}) q[{k}];" for k in range(3)] + [
                "cx q[0], q[1];",
                "cx q[1], q[2];",
            ]
            text = "\n".join([HEAD, "qubit[3] q;", *around, f"{gate} {wires};", *around]) + "\n"
            found = probabilities(parse(text), np.zeros((1, 0)))[0]
            np.testing.assert_allclose(found, qiskit_probabilities(text, {}), atol=1e-12, err_msg=text)


@pytest.mark.parametrize("make", [zz_feature_map, iqp_feature_map, reuploading_feature_map])
def test_kernel_circuits_come_back(make) -> None:  # noqa: ANN001
    circuit = make(3).circuit.compute_uncompute()
    table = np.random.default_rng(1).normal(size=(3, circuit.n_data))
    program = parse(circuit.to_openqasm())
    assert program.inputs == tuple(f"x{k}" for k in circuit.columns("data"))
    found = probabilities(program, table)
    for row, p in zip(table, found, strict=True):
        values = {f"x{k}": value for k, value in enumerate(row)}
        np.testing.assert_allclose(p, qiskit_probabilities(circuit.to_openqasm(), values), atol=1e-12)


def test_rotations_of_two_qubits_stay_one_gate_where_their_definition_is_known() -> None:
    circuit = zz_feature_map(2).circuit
    ours = Circuit(2, parse(circuit.to_openqasm()).circuit.gates, n_data=circuit.n_data)
    assert [gate.name for gate in ours.gates] == [gate.name for gate in circuit.gates]
    other = parse(HEAD + "gate rzz(t) a, b { rz(t) b; }\nqubit[2] q;\nrzz(1) q[0], q[1];\n")
    assert [gate.name for gate in other.circuit.gates] == ["rz"]


def test_what_qiskit_writes_is_read() -> None:
    from qiskit import QuantumCircuit, qasm3
    from qiskit.circuit import Parameter

    a, b = Parameter("a"), Parameter("b")
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.rzz(a * b / 2 + 0.1, 0, 1)
    circuit.rxx(b, 1, 2)
    circuit.iswap(0, 2)
    circuit.u(a, -b, a**2, 1)
    circuit.barrier()
    circuit.ccx(0, 1, 2)
    circuit.ecr(0, 1)
    bare = circuit.copy()
    circuit.measure_all()
    values = {"a": 0.7, "b": -1.3}
    program = parse(qasm3.dumps(circuit))
    found = probabilities(program, np.array([[values[name] for name in program.inputs]]))[0]
    from qiskit.quantum_info import Statevector

    state = Statevector(bare.assign_parameters({a: 0.7, b: -1.3}).reverse_bits())
    np.testing.assert_allclose(found, state.probabilities(), atol=1e-12)


def test_what_pennylane_writes_is_read() -> None:
    @qml.qnode(qml.device("default.qubit", wires=3))
    def circuit() -> object:
        qml.RX(0.3, 0)
        qml.CRot(0.1, 0.2, 0.3, wires=[0, 1])
        qml.Toffoli([0, 1, 2])
        qml.IsingXX(0.4, [1, 2])
        qml.adjoint(qml.T(1))
        qml.PauliY(2)
        return qml.probs(wires=[0, 1, 2])

    program = parse(qml.to_openqasm(circuit)())
    np.testing.assert_allclose(probabilities(program, np.zeros((1, 0)))[0], circuit(), atol=1e-7)  # it writes 8 digits


def test_measurements_choose_and_order_the_qubits() -> None:
    flip = HEAD + "qubit[2] a; qubit b; bit[2] c; x a[1];"
    for measurements, outcome in (
        ("", "010"),
        ("c = measure a;", "01"),
        ("c[1] = measure a[0]; c[0] = measure a[1];", "10"),
        ("measure a -> c;", "01"),
        ("measure b; measure a;", "001"),
        ("bit d = measure a[1];", "1"),
    ):
        program = parse(flip + measurements)
        p = probabilities(program, np.zeros((1, 0)))[0]
        assert format(int(np.argmax(p)), f"0{len(program.measured)}b") == outcome, measurements


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("pi/2", np.pi / 2),
        ("-x**2", -4.0),
        ("2**-1", 0.5),
        ("2**3**2", 512.0),
        ("1 - 2 - 3", -4.0),
        ("8/2/2", 2.0),
        ("-(x + y)*3", -15.0),
        ("sin(x)*cos(y) + sqrt(y - 2)", np.sin(2) * np.cos(3) + 1),
        ("arctan(1) + ln(exp(x)) % 1.5", np.pi / 4 + 0.5),
        ("+x - -y", 5.0),
        ("τ", 2 * np.pi),
        (".5e1", 5.0),
    ],
)
def test_angles_are_arithmetic(text: str, value: float) -> None:
    program = parse(HEAD + f"input float[64] x; input float y; qubit q; rz({text}) q;")
    (gate,) = program.circuit.gates
    angle = gate.operand.value if not program.columns else program.angles(np.array([[2.0, 3.0]]))[0, 0]  # type: ignore[union-attr]
    assert angle == pytest.approx(value, abs=1e-15)


LINES = {
    "": "OPENQASM",
    "OPENQASM 4;": "OpenQASM 4",
    HEAD: "no qubit",
    HEAD + "qubit[2] q;\ncx q[0], q[0];": "qubit twice",
    HEAD + "qubit[2] q;\nfoo q[0];": "unknown gate 'foo'",
    HEAD + "qubit[2] q;\nrx q[0];": "takes 1 angles and 1 qubits",
    HEAD + "qubit[2] q;\nrx(y) q[0];": "'y' is not known here",
    HEAD + "qubit[2] q;\nrx(__import__) q[0];": "not known here",
    HEAD + "qubit[2] q;\nrx(1/0) q[0];": "not a number",
    HEAD + "qubit[2] q;\nrx(sqrt(-1)) q[0];": "not a number",
    HEAD + "qubit[2] q;\nrx(10**10**10) q[0];": "not a number",
    HEAD + f"qubit[2] q;\nrx({'9' * 400}) q[0];": "not a finite number",
    HEAD + f"qubit[2] q;\nrx({'(' * 3000}1) q[0];": "nested",
    HEAD + f"qubit[2] q;\nrx({'-' * 3000}1) q[0];": "nested",
    HEAD + "qubit[2] q;\nh q[2];": "q[2] does not exist",
    HEAD + "qubit[2] q;\nif (true) h q;": "'if' is not supported",
    HEAD + "qubit[2] q;\nctrl @ x q[0], q[1];": "'ctrl' is not supported",
    HEAD + "qubit[2] q;\nreset q;": "'reset' is not supported",
    HEAD + "qubit[99] q;": "register of 99",
    HEAD + "qubit q;\nqubit q;": "declared twice",
    HEAD + "qubit q; bit c;\nc = measure q; h q;": "measurements come last",
    HEAD + "qubit q; bit c;\nc = measure q; c = measure q;": "measured twice",
    HEAD + "qubit q;\n\x00": "no part of OpenQASM",
    HEAD + 'include "/etc/passwd";': "expected one of",
    HEAD + "input int x;": "type 'int'",
    HEAD + "gate g a { h b; }": "no qubit of this gate",
    HEAD + "gate g a { g a; }": "unknown gate 'g'",
    "OPENQASM 3.0;\nqubit q;\nh q;": "stdgates.inc",
}


@pytest.mark.parametrize("text", LINES, ids=lambda text: text[-30:])
def test_what_cannot_be_run_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(QASMError) as caught:
        parse(text)
    expected = max(1, text.count("\n") + 1)
    assert LINES[text] in str(caught.value) and str(caught.value).startswith(f"line {caught.value.line}: ")
    assert caught.value.line == expected


def test_definitions_that_blow_up_are_refused() -> None:
    doubling = "".join(f"gate g{k + 1} a {{ g{k} a; g{k} a; }}\n" for k in range(40))
    with pytest.raises(QASMError, match="more than 100000 gates"):
        parse(HEAD + "gate g0 a { }\n" + doubling + "qubit q; g40 q;")
    chain = "".join(f"gate g{k + 1} a {{ g{k} a; }}\n" for k in range(3000))
    with pytest.raises(QASMError, match="call 50 others in turn"):
        parse(HEAD + "gate g0 a { }\n" + chain + "qubit q; g3000 q;")
    growing = "".join(f"gate g{k + 1}(t) a {{ g{k}(t + t) a; }}\n" for k in range(30))
    with pytest.raises(QASMError, match="more than 200 parts"):
        parse(HEAD + "gate g0(t) a { rx(t) a; }\n" + growing + "input float x; qubit q; g30(x) q;")


def test_an_angle_that_is_not_finite_for_a_row_is_refused_with_its_line() -> None:
    program = parse(HEAD + "input float[64] x;\nqubit q;\nrx(1/x) q;")
    with pytest.raises(QASMError, match="line 5: .* row 1"):
        program.angles(np.array([[1.0], [0.0]]))


WORDS = (
    'OPENQASM 3.0 ; include "stdgates.inc" qubit [ 2 ] q , rx ( x ) input float bit c = measure h -> gate { } pi ** - 1'
).split()


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.booleans())
def test_no_text_does_more_than_be_refused(words: list[str], headed: bool) -> None:
    try:
        parse((HEAD + "qubit[2] q; bit[2] c;\n" if headed else "") + " ".join(words))
    except QASMError:
        pass


@given(st.text(max_size=60))
def test_no_characters_do_more_than_be_refused(text: str) -> None:
    with pytest.raises(QASMError):
        parse(HEAD + text)
