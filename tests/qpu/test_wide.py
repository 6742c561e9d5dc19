"""Cut circuits against statevectors, gammas against the literature, and the comparison of e-bits and cuts."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pennylane as qml
import pytest
import torch

from dqk.circuit import GATES, Circuit, Gate, constant, data, unitary
from dqk.cli import main
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import bsp_feature_map, ising_feature_map, reuploading_feature_map, zz_feature_map
from dqk.qpu._cutting import cut_value, sampled_cut_value
from dqk.qpu.cutting import cut_gates, cut_wires, fragments, gamma
from dqk.qpu.partition import kernel_circuit
from dqk.qpu.wide import compare

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {"h": "Hadamard", "cx": "CNOT", "ry": "RY", "rz": "RZ", "rx": "RX", "p": "PhaseShift", "rzz": "IsingZZ"} | {
    "rxx": "IsingXX"
}


def zero_probability(circuit: Circuit, angles: np.ndarray) -> float:
    """Of the whole circuit, by PennyLane's own gates."""

    @qml.qnode(qml.device("default.qubit"))
    def run():
        for gate in circuit.gates:
            angle = [] if gate.operand is None else [gate.operand.value * angles[gate.operand.column]]
            getattr(qml, NAMES[gate.name])(*angle, wires=list(gate.wires))
        return qml.probs(wires=range(circuit.n_qubits))

    return float(run()[0])


def kernel_problem(feature_map, seed=0, spread=1.0):
    """A kernel's circuit and the angles of two samples."""
    samples = torch.tensor(np.random.default_rng(seed).uniform(-spread, spread, (2, feature_map.n_features)))
    angles, _ = feature_map.finite_angles(samples, None)
    return kernel_circuit(feature_map.circuit), angles.numpy().ravel()


@pytest.mark.parametrize(
    ("feature_map", "capacities", "n_cuts", "circuits"),
    [
        # Two fragments, each with a wire that comes in (4 preparations) and one that goes out (3 measurements).
        (bsp_feature_map(4), [3, 3], 2, 24),
        (zz_feature_map(4, 1, "linear"), [3, 3], 2, 24),
        (bsp_feature_map(6), [4, 4], 2, 24),
        (ising_feature_map(4, 1, gamma=0.6), [3, 3], 2, 24),
        # The ring: cuts on both sides.
        (reuploading_feature_map(6, 2), [5, 5], 4, 288),
    ],
)
def test_cut_kernels_have_the_values_of_uncut_ones(feature_map, capacities, n_cuts, circuits):
    circuit, angles = kernel_problem(feature_map)
    cuts = cut_wires(circuit, capacities)
    assert cuts is not None and len(cuts.cuts) == n_cuts and max(cuts.widths) <= max(capacities)
    found = cut_value(circuit, cuts, angles)
    assert found.value == pytest.approx(zero_probability(circuit, angles), abs=1e-10)
    assert found.circuits == cuts.circuits == circuits
    assert found.widest == max(cuts.widths)


def test_shots_of_fragments_scatter_around_the_value():
    circuit, angles = kernel_problem(bsp_feature_map(4), spread=0.3)
    cuts = cut_wires(circuit, [3, 3])
    values = [cut_value(circuit, cuts, angles, shots=2000, seed=seed).value for seed in range(8)]
    exact = zero_probability(circuit, angles)
    assert np.std(values) > 0
    assert abs(np.mean(values) - exact) < 5 * np.std(values, ddof=1) / math.sqrt(8)
    assert abs(np.mean(values) - exact) < 0.05 < exact


def test_monte_carlo_over_one_cut():
    """Standard error below 4 / sqrt(1500) = 0.1."""
    gates = [Gate("ry", (q,), data(q)) for q in range(3)] + [
        Gate("cx", (0, 1)),
        Gate("ry", (1,), data(3)),
        Gate("cx", (1, 2)),
    ]
    circuit, angles = Circuit(3, tuple(gates), n_data=4), np.array([0.3, 0.5, -0.4, 0.6])
    cuts = fragments(circuit, [(5, 1)])
    found = sampled_cut_value(circuit, cuts, angles, shots=1500, seed=3)
    assert cuts.widths == (2, 2) and found.widest == 2
    assert found.circuits == 2 * 1500
    exact = zero_probability(circuit, angles)
    assert exact > 0.6  # an estimate that knows nothing is far from it
    assert abs(found.value - exact) < 0.3


def test_no_room_for_the_qubits_that_cuts_add():
    assert cut_wires(kernel_problem(bsp_feature_map(6))[0], [3, 3]) is None
    assert cut_wires(kernel_problem(zz_feature_map(6, 2))[0], [4, 4]) is None


def test_nothing_to_cut():
    circuit = Circuit(2, (Gate("h", (0,)), Gate("h", (1,))))
    cuts = cut_wires(circuit, [1, 1])
    assert cuts.cuts == () and cuts.widths == (1, 1)
    with pytest.raises(InvalidInputError, match="no wire is cut"):
        cut_value(circuit, cuts, ())


@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (9, 0)])
def test_cuts_that_are_none(cut):
    circuit = Circuit(3, (Gate("cx", (0, 1)), Gate("cx", (1, 2))))
    with pytest.raises(InvalidInputError, match="with a gate on that wire before"):
        fragments(circuit, [cut])


@pytest.mark.parametrize("angle", [0.0, 0.1, 1.0, -2.5, math.pi])
def test_gammas_of_the_literature(angle):
    """Mitarai & Fujii, arXiv 2006.11174: 1 + 2 |sin t|; a controlled rotation is one by half the angle, up to local ones."""
    whole, half = 1 + 2 * abs(math.sin(angle)), 1 + 2 * abs(math.sin(angle / 2))
    for name in ("rxx", "ryy", "rzz"):
        assert gamma(Gate(name, (0, 1), constant(angle))) == pytest.approx(whole)
        assert gamma(Gate(name, (0, 1), data(0)), angle) == pytest.approx(whole)
    for name in ("cp", "crx", "cry", "crz"):
        assert gamma(Gate(name, (0, 1), constant(angle))) == pytest.approx(half)
    assert gamma(Gate("cx", (0, 1))) == gamma(Gate("cz", (0, 1))) == pytest.approx(3)
    assert gamma(Gate("swap", (0, 1))) == pytest.approx(7)
    assert gamma(unitary(np.kron([[0, 1], [1, 0]], np.eye(2)), 0, 1)) == pytest.approx(1)


def test_the_worst_angle_of_a_column():
    for name, spec in GATES.items():
        if spec.n_wires == 2 and spec.has_angle:
            gate = Gate(name, (0, 1), data(0))
            assert gamma(gate) == pytest.approx(max(gamma(gate, a) for a in np.linspace(0, 2 * math.pi, 721)))


def test_cut_gates_multiply():
    gates = (Gate("cx", (0, 1)), Gate("rzz", (1, 2), data(0)), Gate("cx", (2, 3)), Gate("rzz", (0, 3), constant(0.0)))
    circuit = Circuit(4, gates, n_data=1)
    found = cut_gates(circuit, [0, 1, 0, 0], data=[0.3])
    assert found.gates == (0, 1)
    assert 10**found.gamma_log10 == pytest.approx(3 * (1 + 2 * math.sin(0.3)))
    assert 10 ** cut_gates(circuit, [0, 1, 0, 0]).gamma_log10 == pytest.approx(9)


def cancellation(fidelity: float) -> float:
    """Gamma of the inverse of a depolarising channel: Paulis whose signed sum undoes how it shrinks Paulis."""
    shrunk = [1, *[(4 * fidelity - 1) / 3] * 3]
    signs = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    return float(np.abs(np.linalg.solve(signs, 1 / np.array(shrunk))).sum())


def test_what_is_compared():
    circuit = kernel_problem(reuploading_feature_map(6, 2))[0]  # a ring in the middle of U and of U^dagger: 4 CX
    found = compare(circuit, [3, 3], 400, 0.98, 50.0, shot_s=0.002)
    assert found.partition.ebits == 4 and found.gate_cuts.gates == tuple(
        i for i, g in enumerate(circuit.gates) if g.name == "cx" and set(g.wires) in ({2, 3}, {0, 5})
    )
    assert found.bias == pytest.approx(1 - 0.98**4)
    assert found.corrected  # 0.078 against 0.025
    overhead = cancellation(0.98) ** 8
    assert 10**found.distributed.overhead_log10 == pytest.approx(overhead)
    assert found.distributed.time_s == pytest.approx(400 * overhead * (0.002 + 4 / 50))
    assert found.distributed.error == pytest.approx(0.5 / 20)
    assert found.distributed.error_at_shots == pytest.approx(math.hypot(0.025, found.bias))
    assert (found.cut_by, found.wire_cuts) == ("gates", None)
    assert found.cut.time_s == pytest.approx(400 * 9**4 * 0.002)
    assert found.cut.error_at_shots == pytest.approx(0.025 * 81)
    assert found.cheaper == "distributed" and "4 e-bits a shot" in found.recommendation


def test_perfect_links_need_no_correction():
    found = compare(kernel_problem(bsp_feature_map(6))[0], [3, 3], 1000, 1.0, 1e9)
    assert (found.bias, found.corrected, found.partition.ebits) == (0, False, 1)
    assert found.distributed.time_s == pytest.approx(1.0)


def test_entanglement_that_is_swapped_is_worse():
    """Two links: their Werner states' parameters multiply."""
    circuit = Circuit(2, (Gate("h", (0,)), Gate("cx", (0, 1))))
    found = compare(circuit, [1, 0, 1], 10**6, 0.9, 10.0, links=[(0, 1), (1, 2)])
    kept = ((4 * 0.9 - 1) / 3) ** 2
    assert found.partition.ebits == 2
    assert found.bias == pytest.approx(1 - (1 + 3 * kept) / 4)
    assert 10**found.distributed.overhead_log10 == pytest.approx(cancellation((1 + 3 * kept) / 4) ** 2)
    assert found.ebit_s == pytest.approx(0.1)  # both links work at once


def test_noisy_ebits_shift_a_value_by_at_most_the_bias():
    """CX by one Werner pair, simulated as a mixed state: the bound holds, and an error does show."""
    fidelity = 0.9

    @qml.qnode(qml.device("default.mixed", wires=4))
    def run(noisy):
        qml.RY(0.7, wires=0)
        qml.Hadamard(2)
        qml.CNOT([2, 3])
        if noisy:
            qml.DepolarizingChannel(1 - fidelity, wires=3)  # one of three Paulis with this probability
        qml.CNOT([0, 2])
        qml.cond(qml.measure(2), qml.PauliX)(wires=3)
        qml.CNOT([3, 1])
        qml.Hadamard(3)
        qml.cond(qml.measure(3), qml.PauliZ)(wires=0)
        qml.RY(-0.7, wires=0)
        return qml.probs(wires=[0, 1])

    exact, noisy = run(False)[0], run(True)[0]
    circuit = Circuit(2, (Gate("ry", (0,), constant(0.7)), Gate("cx", (0, 1)), Gate("ry", (0,), constant(-0.7))))
    bias = compare(circuit, [1, 1], link_fidelity=fidelity).bias
    assert bias == pytest.approx(0.1)
    assert 0.01 < abs(noisy - exact) <= bias


@pytest.mark.parametrize("fidelity", [0.9, 0.9999])
def test_both_ways_take_as_long_at_the_break_even_rate(fidelity):
    circuit = kernel_problem(bsp_feature_map(6))[0]
    even = compare(circuit, [3, 3], link_fidelity=fidelity).break_even_hz
    at, below, above = (compare(circuit, [3, 3], 1000, fidelity, even * factor) for factor in (1, 0.5, 2))
    assert at.distributed.time_s == pytest.approx(at.cut.time_s)
    assert (below.cheaper, above.cheaper) == ("cut", "distributed")


def test_small_angles_are_cheaper_cut_at_any_rate():
    circuit, angles = kernel_problem(ising_feature_map(6, 1, gamma=0.05))
    worst, known = (compare(circuit, [3, 3], link_fidelity=0.9, data=given) for given in (None, angles))
    assert worst.cheaper == "distributed"
    assert (known.cheaper, known.break_even_hz) == ("cut", None)
    assert known.cut.overhead_log10 < worst.cut.overhead_log10


def test_wire_cuts_where_many_gates_cross():
    """Two wires in one direction against six gates."""
    first = [Gate("cz", pair) for pair in ((0, 1), (1, 2), (0, 2))] * 2
    gates = [g for n, pair in enumerate([(2, 3), (2, 4), (2, 5)] * 2) for g in (Gate("h", (2,)), Gate("cz", pair))]
    found = compare(Circuit(6, (*[Gate("h", (q,)) for q in range(6)], *first, *gates)), [3, 4])
    assert found.cut_by == "wires" and len(found.wire_cuts.cuts) == 1
    assert 10**found.cut.overhead_log10 == pytest.approx(16)


def test_no_gate_between_qpus():
    found = compare(Circuit(2, (Gate("h", (0,)), Gate("h", (1,)))), [1, 1])
    assert (found.cheaper, found.break_even_hz) == ("neither", None)
    assert found.recommendation == "no gate is between QPUs: each runs its part, without e-bits or cuts"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"link_fidelity": 0.5}, "link_fidelity is 0.5, expected a finite number above 0.5"),
        ({"link_fidelity": 1.1}, "link_fidelity is 1.1, expected at most 1"),
        ({"ebit_rate_hz": 0}, "ebit_rate_hz is 0"),
        ({"shot_s": -1}, "shot_s is -1"),
        ({"shots": 0}, "shots is 0"),
        ({"data": [0.1]}, "data has 1 angles, expected one for each of"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InvalidInputError, match=message):
        compare(kernel_problem(bsp_feature_map(4))[0], [2, 2], **options)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["qpu", "partition", *arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


TWELVE = ["--feature-map", "reuploading", "--qubits", "12", "--capacity", "6", "--capacity", "6"]


def test_the_command(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run(*TWELVE, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    # Of three layers the last ring goes; U and U^dagger have two rings each, cut at two places.
    assert document["partition"]["ebits"] == document["partition"]["nonlocal_gates"] == 8
    assert sorted(map(len, document["partition"]["groups"])) == [6, 6]
    assert document["cut"]["overhead_log10"] == pytest.approx(8 * math.log10(9))
    code, out, _ = run(*TWELVE)
    assert code == 0 and "8 gates between QPUs, 8 e-bits a shot" in out and document["recommendation"] in out


def test_times_that_no_number_holds_are_null(run):
    code, out, _ = run("--feature-map", "zz", "--qubits", "30", "--capacity", "15", "--capacity", "15", "--json")
    document = json.loads(out)
    assert code == 0 and document["cut"]["time_s"] is None and document["cut"]["overhead_log10"] > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qubits", "9", "--capacity", "4"], "9 qubits do not fit"),
        ([*TWELVE, "--link", "0:1"], "--link is '0:1', expected two numbers of QPUs such as 0-1"),
        ([*TWELVE, "--feature-map", "zzz"], "unknown feature map 'zzz'; did you mean 'zz'?"),
        ([*TWELVE, "--feature-map", "bsp", "--layers", "2"], "--layers is 2, but bsp has none"),
    ],
)
def test_bad_usage(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2 and message in err


def test_the_example(tmp_path):
    program = [sys.executable, str(EXAMPLES / "wide_kernel.py"), "--circuits", "0"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 qubits on 3 + 3: 2 cuts, fragments of (3, 3), 24 circuits" in done.stdout
    assert re.search(r"iqp +72 gates +6 e-bits", done.stdout)
