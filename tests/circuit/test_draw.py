"""Drawings, written by hand."""

import time

import numpy as np
from hypothesis import given

from dqk.circuit import Circuit, Gate, constant, data, shared, unitary
from dqk.circuit.draw import draw
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map, zz_feature_map
from tests.circuit.strategies import circuits


def test_the_papers_map():
    expected = """\
q0: ─H─RY(x0)─RZ(x1)─╭●────
q1: ─H─RY(x2)─RZ(x3)─╰X─╭●─
q2: ─H─RY(x4)─RZ(x5)────╰X─"""
    assert str(qklstm_feature_map(3).circuit) == expected


def test_every_kind_of_label():
    gates = (
        Gate("ry", (0,), data(0)),
        Gate("rz", (1,), shared(1).negated),
        Gate("p", (2,), constant(np.pi / 4)),
        Gate("cx", (2, 0)),
        Gate("swap", (0, 1)),
        unitary(np.eye(2), 2),
        unitary(np.eye(4), 2, 1),
        Gate("rxx", (0, 2), data(1).negated),
        Gate("crz", (1, 2), constant(-12.5)),
        Gate("cz", (0, 1)),
        Gate("cp", (1, 0), data(2)),
        Gate("x", (2,)),
    )
    expected = """\
q0: ─RY(x0)───╭X─╭SWAP──────╭RXX(-x1)────────────╭●─╭P(x2)─
q1: ─RZ(-w1)──│──╰SWAP─╭U:1─│─────────╭●─────────╰Z─╰●─────
q2: ─P(0.785)─╰●──U────╰U:0─╰RXX(-x1)─╰RZ(-12.5)──X────────"""
    assert str(Circuit(3, gates, 3, 2)) == expected


def test_gates_of_one_layer_whose_spans_cross_take_two_columns():
    gates = (Gate("cx", (0, 2)), Gate("cx", (3, 1)), Gate("h", (4,)))
    expected = """\
q0: ─╭●────
q1: ─│──╭X─
q2: ─╰X─│──
q3: ────╰●─
q4: ──H────"""
    assert draw(Circuit(5, gates)) == expected


def test_idle_and_empty():
    assert draw(Circuit(2, ())) == "q0: ─\nq1: ─"
    names = draw(Circuit(11, (Gate("h", (10,)),))).splitlines()
    assert names[0] == "q0:  ───" and names[10] == "q10: ─H─"


def test_wrapping():
    gates = tuple(Gate("rx", (q,), data(2 * k + q)) for k in range(3) for q in range(2))
    expected = """\
q0: ─RX(x0)─RX(x2)─
q1: ─RX(x1)─RX(x3)─

q0: ─RX(x4)─
q1: ─RX(x5)─"""
    assert draw(Circuit(2, gates, n_data=6), width=20) == expected
    assert draw(Circuit(2, gates, n_data=6), width=1).count("\n\n") == 2, "one column at least per block"


@given(circuits(max_qubits=4))
def test_lines_are_equally_long_and_hold_every_gate(circuit):
    for width in (30, 120):
        blocks = draw(circuit, width).split("\n\n")
        for block in blocks:
            lines = block.splitlines()
            assert len(lines) == circuit.n_qubits
            assert len({len(line) for line in lines}) == 1
            assert len(lines[0]) <= width
        text = "".join(blocks)
        assert text.count("╭") == text.count("╰") == sum(len(gate.wires) == 2 for gate in circuit.gates)
        assert text.count("H") == sum(gate.name == "h" for gate in circuit.gates)


def test_a_hundred_qubits_are_quick():
    start = time.perf_counter()
    text = str(reuploading_feature_map(100, layers=3).circuit)
    assert time.perf_counter() - start < 2.0
    assert len(text.split("\n\n")[0].splitlines()) == 100
    start = time.perf_counter()
    assert "RZZ" in str(zz_feature_map(60).circuit)
    assert time.perf_counter() - start < 5.0
