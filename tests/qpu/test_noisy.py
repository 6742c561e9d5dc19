"""The noise model against PennyLane's default.mixed, which simulates every channel."""

import numpy as np
import pennylane as qml
import pytest
import torch

from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import UnsupportedError
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    iqp_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from dqk.qpu.coupling import routed, swaps
from dqk.qpu.noisy import response
from dqk.qpu.profile import Noise

MAPS = [
    zz_feature_map(2),
    zz_feature_map(4),
    zz_feature_map(3, bandwidth=0.3),
    reuploading_feature_map(4),
    qklstm_feature_map(3),
    bsp_feature_map(4),
    iqp_feature_map(3),
    reuploading_feature_map(3, layers=2, trainable="rotations"),
]
NAMES = {"h": "Hadamard", "x": "PauliX", "cx": "CNOT", "cz": "CZ", "swap": "SWAP", "rx": "RX", "ry": "RY", "rz": "RZ"}
NAMES |= {"p": "PhaseShift", "cp": "ControlledPhaseShift", "rxx": "IsingXX", "ryy": "IsingYY", "rzz": "IsingZZ"}


def mixed(circuit: Circuit, data: np.ndarray, shared: np.ndarray, noise: Noise) -> np.ndarray:
    """Probability of reading 0...0, by density matrices: a depolarising channel after each gate, bit flips when read."""
    operations = []
    for gate in circuit.gates:
        parameters = []
        if gate.operand is not None and gate.operand.kind != "constant":
            column = data[:, gate.operand.column] if gate.is_data else shared[gate.operand.column]
            parameters = [gate.operand.value * column]
        elif gate.operand is not None:
            parameters = [gate.operand.value]
        operations.append(getattr(qml, NAMES[gate.name])(*parameters, wires=gate.wires))
        p = noise.depolarising_1q if len(gate.wires) == 1 else noise.depolarising_2q
        operations += [qml.DepolarizingChannel(p, wires=wire) for wire in gate.wires]
    tape = qml.tape.QuantumScript(operations, [qml.probs(wires=range(circuit.n_qubits))])
    found = np.asarray(qml.device("default.mixed", wires=circuit.n_qubits).execute(tape))
    ones = np.array([bin(k).count("1") for k in range(2**circuit.n_qubits)])
    return found @ ((1 - noise.readout_0) ** (circuit.n_qubits - ones) * noise.readout_1**ones)


def problem(feature_map):
    circuit = simplify_for_fidelity(feature_map.circuit).circuit
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (7, feature_map.n_features)))
    params = feature_map.initial_params(torch.float64, torch.Generator().manual_seed(0))
    angles, shared = (part.detach().numpy() for part in feature_map.angles(x, params))
    i, j = (index.ravel() for index in np.indices((7, 7)))
    return circuit, angles[i], angles[j], shared, i == j


@pytest.mark.parametrize("feature_map", MAPS, ids=lambda one: f"{one.n_qubits}-{len(one.circuit.gates)}")
def test_exact_where_it_says_so(feature_map) -> None:
    """No errors; readout errors alone; the slope by small errors of gates."""
    circuit, left, right, shared, _ = problem(feature_map)
    both, table, twice = circuit.compute_uncompute(), np.hstack([left, right]), np.tile(shared, 2)
    found, rows = response(circuit, left, right, shared), np.arange(len(left))
    assert np.allclose(found.exact, mixed(both, table, twice, Noise()), atol=1e-12)
    readout = Noise(readout_0=0.03, readout_1=0.08)
    assert np.allclose(found.measured(rows, readout), mixed(both, table, twice, readout), atol=1e-12)
    for small in (Noise(depolarising_1q=1e-6), Noise(depolarising_2q=1e-6)):
        slope = (mixed(both, table, twice, small) - found.exact) / 1e-6
        ours = (found.measured(rows, small) - found.exact) / 1e-6
        assert np.allclose(ours, slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("feature_map", MAPS, ids=lambda one: f"{one.n_qubits}-{len(one.circuit.gates)}")
@pytest.mark.parametrize(
    "noise",
    [Noise(0.0003, 0.0015, 0.005, 0.01), Noise(0.001, 0.003, 0.01, 0.02), Noise(0.002, 0.006, 0.02, 0.04)],
    ids=["good", "middle", "bad"],
)
def test_within_a_twentieth_of_what_errors_do(feature_map, noise) -> None:
    """Errors of today's devices: the model is off by at most 5 % of the largest change that errors make, plus 1e-4."""
    circuit, left, right, shared, _ = problem(feature_map)
    truth = mixed(circuit.compute_uncompute(), np.hstack([left, right]), np.tile(shared, 2), noise)
    found = response(circuit, left, right, shared)
    ours = found.measured(np.arange(len(left)), noise)
    assert np.abs(ours - truth).max() <= 0.05 * np.abs(truth - found.exact).max() + 1e-4


@pytest.mark.parametrize("feature_map", [zz_feature_map(3), zz_feature_map(4), reuploading_feature_map(4)])
@pytest.mark.parametrize("coupling", ["line", "grid"])
def test_swaps_of_a_coupling(feature_map, coupling) -> None:
    """Against circuits with the swaps in them: off by at most a twelfth of what errors do."""
    circuit, left, right, shared, _ = problem(feature_map)
    both, noise = circuit.compute_uncompute(), Noise(0.001, 0.003, 0.01, 0.02)
    truth = mixed(routed(both, coupling), np.hstack([left, right]), np.tile(shared, 2), noise)
    found = response(circuit, left, right, shared)
    ours = found.measured(np.arange(len(left)), noise, swaps(both, coupling))
    assert np.abs(ours - truth).max() <= np.abs(truth - found.exact).max() / 12


def test_swaps_make_it_worse_and_wide_circuits_are_refused() -> None:
    circuit, left, right, shared, same = problem(zz_feature_map(3))
    found, noise = response(circuit, left, right, shared), Noise(depolarising_2q=0.003)
    values = [found.measured(np.flatnonzero(same), noise, count) for count in (0, 2, 10)]
    assert (values[0] > values[1]).all() and (values[1] > values[2]).all()
    wide = Circuit(13, ())
    with pytest.raises(UnsupportedError, match="emulate times alone"):
        response(wide, np.zeros((1, 0)), np.zeros((1, 0)), np.zeros(0))
