"""Compiled backends against the dense reference on random circuits, and the reference against PennyLane."""

from __future__ import annotations

import random

import numpy as np
import pennylane as qml
import pytest
import torch

from dqk.backends.mps import MPSBackend
from dqk.backends.reference import ReferenceBackend
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit
from tests.random_circuits import random_circuit

REFERENCE = ReferenceBackend()
CASES = [(StatevectorBackend(), False, seed) for seed in range(60)] + [(MPSBackend(), True, seed) for seed in range(40)]


def angles_for(
    circuit: Circuit, samples: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 2 * torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    return draw(samples, circuit.n_data), draw(5, circuit.n_data), draw(circuit.n_shared), draw(samples, 5)


def close(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(first, second, rtol=1e-11, atol=tolerance)


@pytest.mark.parametrize(("backend", "product", "seed"), CASES)
def test_agrees_with_the_reference(backend, product, seed):
    circuit = random_circuit(seed, product)
    ax, ay, shared, cotangent = angles_for(circuit, 1 + seed % 19, seed)
    close(backend.fidelity(circuit, ax, ay, shared), REFERENCE.fidelity(circuit, ax, ay, shared))
    close(backend.fidelity(circuit, ax, None, shared), REFERENCE.fidelity(circuit, ax, None, shared))
    ours = backend.fidelity_vjp(circuit, ax, ay, shared, cotangent)
    for first, second in zip(ours, REFERENCE.fidelity_vjp(circuit, ax, ay, shared, cotangent), strict=True):
        close(first, second, 1e-11)
    pick = random.Random(seed)
    words = ["".join(pick.choice("IXYZ") for _ in range(circuit.n_qubits)) for _ in range(5)]
    close(backend.expectations(circuit, ax, words, shared), REFERENCE.expectations(circuit, ax, words, shared))
    ours = backend.expectations_vjp(circuit, ax, words, shared, cotangent)
    for first, second in zip(ours, REFERENCE.expectations_vjp(circuit, ax, words, shared, cotangent), strict=True):
        close(first, second, 1e-11)


@pytest.mark.parametrize("panels", [True, False])
@pytest.mark.parametrize("seed", range(0, 60, 5))
def test_tiles_of_values_from_panels_and_from_blas(seed, panels):
    circuit, backend = random_circuit(seed), StatevectorBackend(panels=panels)
    ax, ay, shared, _ = angles_for(circuit, 1 + 7 * (seed % 9), seed)
    a, b = (backend.forward_block(circuit, angles, shared) for angles in (ax, ay))
    expected = REFERENCE.fidelity(circuit, ax, ay, shared)
    close(backend.forward_tile(a, b, log=False), expected)
    square = backend.forward_tile(a, a, log=False)
    close(torch.triu(square), torch.triu(REFERENCE.fidelity(circuit, ax, ax, shared)))


@pytest.mark.parametrize("seed", range(12))
def test_encoding_of_the_unsimplified_circuit_is_the_state(seed):
    """Gates that cancel in a fidelity are still applied by `encode`."""
    circuit = random_circuit(seed)
    ax, ay, shared, _ = angles_for(circuit, 9, seed)
    backend = StatevectorBackend()
    ours = torch.complex(*backend.encode(circuit, ax, shared))
    oracle = torch.complex(*REFERENCE.encode(circuit, ax, shared))
    # States agree up to a phase for each sample, which compiled diagonal gates drop.
    close((ours.conj() * oracle).sum(dim=0).abs(), torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize(("backend", "product", "seed"), [c for c in CASES if c[2] < 12])
def test_float32_stays_float32_and_close(backend, product, seed):
    circuit = random_circuit(seed, product)
    ax, ay, shared, cotangent = angles_for(circuit, 17, seed, torch.float32)
    value = backend.fidelity(circuit, ax, ay, shared)
    assert value.dtype == torch.float32
    wide = [t.double() for t in (ax, ay, shared, cotangent)]
    torch.testing.assert_close(value.double(), REFERENCE.fidelity(circuit, *wide[:3]), rtol=0, atol=2e-5)
    for first, second in zip(
        backend.fidelity_vjp(circuit, ax, ay, shared, cotangent), REFERENCE.fidelity_vjp(circuit, *wide), strict=True
    ):
        assert first.dtype == torch.float32
        torch.testing.assert_close(first.double(), second, rtol=2e-4, atol=2e-4)


_PENNYLANE = {
    "h": qml.Hadamard, "x": qml.PauliX, "cx": qml.CNOT, "cz": qml.CZ, "swap": qml.SWAP,
    "rx": qml.RX, "ry": qml.RY, "rz": qml.RZ,
    "p": qml.PhaseShift, "cp": qml.ControlledPhaseShift, "rxx": qml.IsingXX, "ryy": qml.IsingYY, "rzz": qml.IsingZZ,
    "crx": qml.CRX, "cry": qml.CRY, "crz": qml.CRZ,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_the_reference_agrees_with_pennylane(seed):
    circuit = random_circuit(seed)
    ax, ay, shared, _ = angles_for(circuit, 2, seed)

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits))
    def state(data):
        for gate in circuit.gates:
            if gate.matrix is not None:
                qml.QubitUnitary(np.array(gate.matrix), wires=gate.wires)
            elif gate.operand is None:
                _PENNYLANE[gate.name](wires=gate.wires)
            else:
                column = {"constant": [1.0], "data": data, "shared": shared}[gate.operand.kind]
                at = 0 if gate.operand.kind == "constant" else gate.operand.column
                _PENNYLANE[gate.name](gate.operand.value * float(column[at]), wires=gate.wires)
        return qml.state()

    x, y = (np.array([state(row) for row in angles]) for angles in (ax, ay))
    expected = np.abs(x @ y.conj().T) ** 2
    np.testing.assert_allclose(REFERENCE.fidelity(circuit, ax, ay, shared).numpy(), expected, rtol=1e-11, atol=1e-12)
