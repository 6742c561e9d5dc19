"""Counts against probabilities from PennyLane: without noise, with noise in gates and readout, and as it drifts."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pennylane as qml
import pytest
from scipy.stats import binomtest, chisquare

from dqk.circuit import Circuit, Gate, data
from dqk.kernels.feature_maps import zz_feature_map
from dqk.qpu import QPUClient
from dqk.qpu._simulate import _probabilities, measure
from dqk.qpu.profile import Drift, Noise, Outage, Profile
from dqk.qpu.qasm import parse
from tests.qpu.server import serving

QASM = """OPENQASM 3.0;
include "stdgates.inc";
input float[64] a;
input float[64] b;
qubit[3] q;
h q[0];
ry(a) q[1];
cx q[0], q[1];
crz(b) q[1], q[2];
rx(a + b) q[2];
cp(-a) q[0], q[2];
ry(0.4) q[0];
cx q[2], q[0];
"""
TABLE = np.array([[0.3, 1.1], [2.0, -0.7]])
NOISE = Noise(depolarising_1q=0.01, depolarising_2q=0.03, readout_0=0.02, readout_1=0.07)
SHOTS = 20_000


def expected(a: float, b: float, noise: Noise) -> np.ndarray:
    """Probabilities from `default.mixed`, written down independently of the service."""

    operations: list[object] = []
    for gate in (
        qml.Hadamard(0),
        qml.RY(a, 1),
        qml.CNOT([0, 1]),
        qml.CRZ(b, [1, 2]),
        qml.RX(a + b, 2),
        qml.ControlledPhaseShift(-a, [0, 2]),
        qml.RY(0.4, 0),
        qml.CNOT([2, 0]),
    ):
        rate = noise.depolarising_1q if len(gate.wires) == 1 else noise.depolarising_2q
        operations += [gate, *(qml.DepolarizingChannel(rate, wires=wire) for wire in gate.wires)]
    tape = qml.tape.QuantumScript(operations, [qml.probs(wires=[0, 1, 2])])
    p = np.array(qml.device("default.mixed", wires=3).execute(tape))
    confusion = np.array([[1 - noise.readout_0, noise.readout_1], [noise.readout_0, 1 - noise.readout_1]])
    return np.kron(np.kron(confusion, confusion), confusion) @ p


def expected_on_a_line(a: float, b: float, noise: Noise) -> np.ndarray:
    """The same where qubits 0 and 2 are no neighbours: qubit 0 goes to place 1 and back, by CNOTs with their errors."""
    swap = [qml.CNOT([0, 1]), qml.CNOT([1, 0]), qml.CNOT([0, 1])]
    back = [qml.CNOT([2, 1]), qml.CNOT([1, 2]), qml.CNOT([2, 1])]  # the last gate's control, qubit 2, goes to place 1
    gates = [qml.Hadamard(0), qml.RY(a, 1), qml.CNOT([0, 1]), qml.CRZ(b, [1, 2]), qml.RX(a + b, 2)]
    gates += [*swap, qml.ControlledPhaseShift(-a, [1, 2]), *swap, qml.RY(0.4, 0), *back, qml.CNOT([1, 0]), *back]
    operations: list[object] = []
    for gate in gates:
        rate = noise.depolarising_1q if len(gate.wires) == 1 else noise.depolarising_2q
        operations += [gate, *(qml.DepolarizingChannel(rate, wires=wire) for wire in gate.wires)]
    tape = qml.tape.QuantumScript(operations, [qml.probs(wires=[0, 1, 2])])
    return np.array(qml.device("default.mixed", wires=3).execute(tape))


def test_a_device_whose_qubits_are_in_a_line() -> None:
    """What swaps cost; without errors of gates they cost nothing."""
    program, gates = parse(QASM), Noise(depolarising_1q=0.01, depolarising_2q=0.03)
    for row in TABLE:
        angles = program.angles(row[None])
        (found,) = _probabilities(program, angles, gates, "line")
        assert np.allclose(found[0], expected_on_a_line(*row, gates), atol=1e-10)
        assert np.abs(found[0] - expected(*row, gates)).max() > 0.02
        (ideal,) = _probabilities(program, angles, Noise(), "line")
        assert np.allclose(ideal[0], expected(*row, Noise()), atol=1e-10)
    p = expected_on_a_line(*TABLE[0], gates)
    (counted,) = measure(program, program.angles(TABLE[:1]), SHOTS, 1, False, gates, "line")
    assert agrees(counted[0], p) and not agrees(counted[0], expected(*TABLE[0], gates))


@pytest.mark.qpu
def test_a_service_whose_qubits_are_in_a_line(tmp_path: Path) -> None:
    profile = 'coupling = "line"\nnoise = { depolarising_1q = 0.01, depolarising_2q = 0.03 }'
    with serving(tmp_path, profile) as server, QPUClient(server.url) as client:
        counts = client.result(client.submit(QASM, TABLE, SHOTS, seed=3)).counts
    assert counts is not None
    for row, found in zip(TABLE, counts, strict=True):
        assert agrees(found, expected_on_a_line(*row, Noise(depolarising_1q=0.01, depolarising_2q=0.03)))


def agrees(counts: dict[str, int], p: np.ndarray) -> bool:
    found = np.array([counts.get(format(k, f"0{len(p).bit_length() - 1}b"), 0) for k in range(len(p))])
    return bool(chisquare(found, p * found.sum()).pvalue > 1e-3)


def test_counts_follow_exact_probabilities(client: QPUClient) -> None:
    found = client.result(client.submit(QASM, TABLE, SHOTS, seed=11)).counts
    assert found is not None
    for row, counts in zip(TABLE, found, strict=True):
        assert sum(counts.values()) == SHOTS
        assert agrees(counts, expected(*row, Noise()))
        assert not agrees(counts, expected(*(row + 0.1), Noise()))  # the test can fail


@pytest.mark.qpu
def test_counts_of_a_noisy_device_follow_the_mixed_state(tmp_path: Path) -> None:
    rates = "".join(f"{name} = {value}\n" for name, value in vars(NOISE).items())
    with serving(tmp_path, f"[noise]\n{rates}") as server, QPUClient(server.url) as client:
        assert client.limits.noisy and client.calibration() == {
            "calibrated_s_ago": pytest.approx(0, abs=60),
            **vars(NOISE),
        }
        found = client.result(client.submit(QASM, TABLE, SHOTS, seed=11)).counts
        zeros = client.result(client.submit(QASM, TABLE, SHOTS, seed=12, outcome="zeros")).zeros
    assert found is not None
    for row, counts, zero in zip(TABLE, found, zeros, strict=True):
        p = expected(*row, NOISE)
        assert agrees(counts, p)
        assert not agrees(counts, expected(*row, Noise()))
        assert binomtest(int(zero), SHOTS, p[0]).pvalue > 1e-3


def test_a_kernel_is_the_share_of_zeros(client: QPUClient) -> None:
    circuit = zz_feature_map(3).circuit
    angles = np.random.default_rng(3).normal(size=(8, circuit.n_data))
    zeros = client.result(
        client.submit(
            circuit.compute_uncompute().to_openqasm(), np.hstack([angles, angles[::-1]]), SHOTS, outcome="zeros", seed=5
        )
    ).zeros
    states = []
    for row in angles:

        @qml.qnode(qml.device("default.qubit", wires=3))
        def state(row: np.ndarray = row) -> object:
            for gate in circuit.gates:
                qml.QubitUnitary(gate.unitary(row[gate.operand.column] if gate.is_data else None), wires=gate.wires)  # type: ignore[union-attr]
            return qml.state()

        states.append(state())
    for k, zero in enumerate(zeros):
        exact = abs(np.vdot(states[k], states[7 - k])) ** 2
        assert binomtest(int(zero), SHOTS, min(1.0, exact)).pvalue > 1e-3


def test_rows_in_several_chunks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    program, table = parse(QASM), np.random.default_rng(0).normal(size=(7, 2))
    for noise in (Noise(), NOISE):
        whole = [row for chunk in measure(program, program.angles(table), 500, 3, False, noise) for row in chunk]
        monkeypatch.setattr("dqk.qpu._simulate._CHUNK_BYTES", 1)
        parts = list(measure(program, program.angles(table), 500, 3, False, noise))
        monkeypatch.undo()
        assert [row for chunk in parts for row in chunk] == whole and len(whole) == 7


@pytest.mark.parametrize("gate", ["rx", "ry", "rz", "p", "crx", "cry", "crz", "cp", "rxx", "ryy", "rzz"])
def test_one_row_with_noise_is_as_good_as_two(gate: str) -> None:
    """PennyLane's diagonal gates take no batch of one."""
    build = [Gate("h", (0,)), Gate(gate, (0,) if gate in ("rx", "ry", "rz", "p") else (0, 1), data(0)), Gate("h", (0,))]
    program = parse(Circuit(2, build, 1).to_openqasm())
    table = np.array([[0.7], [1.9]])
    one, two = (
        [row for chunk in measure(program, program.angles(rows), 500, 3, False, NOISE) for row in chunk]
        for rows in (table[:1], table)
    )
    assert one == two[:1] and len(one[0]) > 1


def test_errors_grow_until_the_next_calibration() -> None:
    profile = Profile(noise=NOISE, drift=Drift(per_hour=2.0, calibrate_every_s=1000.0))
    ages = np.arange(0.0, 1000.0, 50.0)
    rates = [profile.noise_at(age).depolarising_2q for age in ages]
    np.testing.assert_allclose(rates, NOISE.depolarising_2q * (1 + 2.0 * ages / 3600))
    assert all(a < b for a, b in pairwise(rates)) and profile.noise_at(1000.0) == NOISE
    assert profile.noise_at(1500.0) == profile.noise_at(500.0)
    strong = replace(profile, drift=Drift(per_hour=1e6, calibrate_every_s=1e6))
    assert vars(strong.noise_at(9e5)) == {
        "depolarising_1q": 0.75, "depolarising_2q": 0.75, "readout_0": 0.5, "readout_1": 0.5,
    }  # fmt: skip


@pytest.mark.qpu
def test_a_service_drifts(tmp_path: Path) -> None:
    with serving(tmp_path, "[noise]\nreadout_1 = 0.01\n[drift]\nper_hour = 36000.0\n") as server:  # tenfold in a second
        with QPUClient(server.url) as client:
            first, second = client.calibration(), client.calibration()
            assert 0.01 < first["readout_1"] < second["readout_1"] or second["readout_1"] == 0.5
            assert second["readout_1"] == pytest.approx(
                min(0.5, 0.01 * (1 + 10 * second["calibrated_s_ago"])), rel=0.05
            )
        assert 'dqk_qpu_error_probability{error="readout_1"}' in httpx.get(f"{server.url}/metrics").text


def test_outages_come_and_come_again() -> None:
    once, daily = Outage(10.0, 5.0), Outage(10.0, 5.0, every_s=100.0)
    assert [once.left_s(age) for age in (0.0, 10.0, 14.0, 15.0, 111.0)] == [0.0, 5.0, 1.0, 0.0, 0.0]
    assert [daily.left_s(age) for age in (0.0, 10.0, 15.0, 111.0, 116.0)] == [0.0, 5.0, 0.0, 4.0, 0.0]
    assert Profile(outage=(once, daily)).outage_left_s(12.0) == 3.0
