"""Matrix-product states: their structure, values against dense states, quimb and transfer matrices, and gradients."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
import quimb.tensor as qtn
import torch

from dqk import FidelityKernel, gram
from dqk.backends import choice
from dqk.backends.chain import chain_of
from dqk.backends.compiled.chain_overlap import overlap_of
from dqk.backends.mps import MPSBackend
from dqk.backends.reference import ReferenceBackend
from dqk.backends.resolve import resolve
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import GATES, Circuit, Gate, data, shared, simplify_for_fidelity
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels import FeatureMap
from dqk.kernels.feature_maps import (
    FEATURE_MAPS,
    bsp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from tests.transfer_matrices import bsp_by_transfer_matrices

REFERENCE, GENERATED, PLAIN = ReferenceBackend(), MPSBackend(), MPSBackend(generated=False)
BOTH = pytest.mark.parametrize("backend", [GENERATED, PLAIN], ids=["generated", "plain"])
ENTANGLERS = ["cx", "cz", "cp", "rzz", "rxx", "ryy", "crx", "cry", "crz", "swap"]


def kept(feature_map: FeatureMap) -> Circuit:
    return simplify_for_fidelity(feature_map.circuit).circuit


def random_chain(seed: int, n: int, layers: int, reach: int = 1) -> Circuit:
    """Rotations on all qubits, then entanglers on qubits at most `reach` apart, several times; all angles are data."""
    pick, gates, columns = random.Random(seed), [], 0

    def add(name: str, *wires: int) -> None:
        nonlocal columns
        has_angle = GATES[name].has_angle
        gates.append(Gate(name, wires, data(columns) if has_angle else None))
        columns += has_angle

    for _ in range(layers):
        for q in range(n):
            add(pick.choice(["rx", "ry", "rz", "h"]), q)
            add(pick.choice(["rx", "ry"]), q)
        for q in range(n - 1):
            wires = [q, min(n - 1, q + pick.randint(1, reach))]
            pick.shuffle(wires)
            add(pick.choice(ENTANGLERS), *wires)
    for q in range(n):
        add("ry", q)
    return Circuit(n, tuple(gates), columns)


def angles(circuit: Circuit, count: int, seed: int, width: float = 1.0) -> torch.Tensor:
    return width * torch.randn(
        count, circuit.n_data, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


# --- structure --------------------------------------------------------------------------------------------------------
def test_a_cnot_chain_has_its_physical_index_as_bond():
    chain = chain_of(kept(bsp_feature_map(9)))
    assert chain.bond == 2 and [len(site.bond) for site in chain.sites] == [1] * 8 + [0]
    for site in chain.sites[:-1]:
        assert set(site.bond) <= set(site.variables) & chain.physical  # so an environment is a vector of 2


def test_two_ising_layers_need_bond_four_and_three_variables_of_an_environment():
    chain = chain_of(kept(ising_feature_map(20)))
    assert chain.bond == 4
    middle = chain.sites[8].bond
    assert len(middle) == 2 and len(set(middle) & chain.physical) == 1


@pytest.mark.parametrize(
    ("feature_map", "bond"),
    [
        (zz_feature_map(12, 1, "linear"), 2),
        (ising_feature_map(12, reps=1), 2),
        (ising_feature_map(12, reps=3), 8),
        (ising_feature_map(12, reps=1, distance=2), 4),
        (zz_feature_map(12), 64),
    ],
)
def test_bonds_are_known_from_the_circuit(feature_map, bond):
    assert chain_of(kept(feature_map)).bond == bond


def test_a_repeated_diagonal_gate_a_flip_and_a_swap_cost_nothing():
    h, turn = [Gate("h", (q,)) for q in range(4)], [Gate("ry", (q,), data(q)) for q in range(4)]
    twice = [Gate("cz", (1, 2)), Gate("rzz", (1, 2), data(4)), Gate("x", (1,)), Gate("crz", (2, 1), data(5))]
    last = [Gate("swap", (0, 1)), Gate("swap", (0, 1)), Gate("rx", (2,), data(6))]
    circuit = Circuit(4, (*h, *turn, *twice, *last), 7)
    assert chain_of(circuit).bond == 2
    ax, ay = angles(circuit, 3, 1), angles(circuit, 4, 2)
    torch.testing.assert_close(
        GENERATED.fidelity(circuit, ax, ay), REFERENCE.fidelity(circuit, ax, ay), rtol=0, atol=1e-14
    )


# --- values -----------------------------------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("name", sorted(FEATURE_MAPS))
@pytest.mark.parametrize("n", [4, 9, 12])
def test_every_feature_map_against_dense_states(name, n, backend):
    feature_map = FEATURE_MAPS[name](n)
    x = torch.rand(5, feature_map.n_features, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 2 - 1
    ax, w = feature_map.angles(x)
    found = backend.fidelity(feature_map.circuit, ax[:3], ax[2:], w)
    expected = REFERENCE.fidelity(feature_map.circuit, ax[:3], ax[2:], w)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", range(12))
def test_random_chains_against_dense_states(seed, backend):
    n, layers = 4 + seed % 9, 1 + seed % 3
    circuit = random_chain(seed, n, layers, reach=1 + seed % 2)
    ax, ay = angles(circuit, 9, 1), angles(circuit, 5, 2)
    expected = REFERENCE.fidelity(circuit, ax, ay)
    torch.testing.assert_close(backend.fidelity(circuit, ax, ay), expected, rtol=0, atol=1e-12)
    near = ax + 0.05 * angles(circuit, 9, 3)
    log = gram_of(backend, circuit, ax, near)
    dense = REFERENCE.fidelity(circuit, ax, near).log()
    readable = dense > math.log(1e-4)
    assert readable.any()
    torch.testing.assert_close(log[readable], dense[readable], rtol=0, atol=1e-9)


def gram_of(backend: MPSBackend, circuit: Circuit, ax: torch.Tensor, ay: torch.Tensor) -> torch.Tensor:
    circuit = simplify_for_fidelity(circuit).circuit
    return backend.log_overlap(*(backend.encode(circuit, a, ax.new_zeros(0)) for a in (ax, ay)))


def by_quimb(circuit: Circuit, row: np.ndarray) -> qtn.MatrixProductState:
    """The same circuit by quimb, which contracts and compresses in its own way."""
    state = qtn.MPS_computational_state("0" * circuit.n_qubits, dtype="complex128")
    for gate in circuit.gates:
        angle = None if gate.operand is None or not gate.is_data else float(row[gate.operand.column])
        state.gate_(
            gate.unitary(angle), gate.wires, contract="swap+split" if len(gate.wires) == 2 else True, cutoff=0.0
        )
    return state


@pytest.mark.parametrize(
    ("circuit", "width"),
    [
        (bsp_feature_map(100).circuit, 0.3),
        (ising_feature_map(40).circuit, 1.0),
        (random_chain(3, 40, 1), 0.6),
        (random_chain(4, 100, 1), 0.3),
    ],
    ids=["bsp-100", "ising-40", "random-40", "random-100"],
)
def test_wide_circuits_against_quimb(circuit, width):
    circuit = simplify_for_fidelity(circuit).circuit
    ax, ay = angles(circuit, 2, 1, width), angles(circuit, 3, 2, width)
    states = [[by_quimb(circuit, row) for row in a.numpy()] for a in (ax, ay)]
    expected = np.array([[2 * np.log(abs(b.H @ a)) for b in states[1]] for a in states[0]])
    assert expected.max() < -1
    for backend in (GENERATED, PLAIN):
        np.testing.assert_allclose(gram_of(backend, circuit, ax, ay).numpy(), expected, rtol=0, atol=1e-9)


def test_bsp_on_784_qubits_against_transfer_matrices():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (11, 784)), rng.uniform(-1, 1, (13, 784))
    expected = bsp_by_transfer_matrices(x, y)
    assert np.exp(expected.max()) < 1e-100  # float32 would underflow
    kernel = FidelityKernel(bsp_feature_map(784), backend="mps")
    np.testing.assert_allclose(gram(kernel, x, y, log=True), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.asarray(kernel(x, y)), np.exp(expected), rtol=1e-9, atol=0)
    narrow = gram(kernel, x.astype(np.float32), y.astype(np.float32), log=True)
    rounded = bsp_by_transfer_matrices(x.astype(np.float32).astype(float), y.astype(np.float32).astype(float))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, rounded, rtol=0, atol=1e-3)


def test_ising_on_165_qubits_in_float32():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2, (24, 165)).astype(np.float32)
    kernel = FidelityKernel(ising_feature_map(165), backend="mps")
    wide, narrow = (gram(kernel, a, log=True) for a in (x.astype(float), x))
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=1e-3)


# --- gradients --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("feature_map", [ising_feature_map(8, gamma=0.5), reuploading_feature_map(8, 2)])
def test_gradients_against_the_statevectors(feature_map, log):
    circuit = kept(feature_map)
    ax, ay = angles(circuit, 11, 1), angles(circuit, 9, 2)
    weights = torch.randn(11, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for backend in (StatevectorBackend(), GENERATED, PLAIN):
        none = ax.new_zeros(0)
        (ex, a), (ey, b) = (backend.encode_block(circuit, angles_, none) for angles_ in (ax, ay))
        k = backend.overlap(a, b)
        g = weights * k.clamp(min=1e-3) if log else weights
        da, db = (backend.log_overlap_vjp if log else backend.overlap_vjp)(a, b, g)
        found.append(
            [backend.encode_vjp(circuit, ax, none, ex, da)[0], backend.encode_vjp(circuit, ay, none, ey, db)[0]]
        )
    for other in found[1:]:
        for mine, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("feature_map", [bsp_feature_map(60), ising_feature_map(40, gamma=0.4)], ids=["bsp", "ising"])
def test_gradients_of_wide_circuits_are_finite_differences(feature_map):
    kernel = FidelityKernel(feature_map, backend="mps")
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.uniform(-1, 1, (n, feature_map.n_features))) for n in (9, 10))
    weights = torch.tensor(rng.normal(size=(9, 10)))
    leaf = x.clone().requires_grad_()
    (gram(kernel, leaf, y, log=True) * weights).sum().backward()
    for row, column in ((0, 0), (3, 17), (8, feature_map.n_features - 1)):
        step = torch.zeros_like(x)
        step[row, column] = 1e-4
        slope = ((gram(kernel, x + step, y, log=True) - gram(kernel, x - step, y, log=True)) * weights).sum() / 2e-4
        assert leaf.grad[row, column].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-6)


# --- limits -----------------------------------------------------------------------------------------------------------
def test_too_large_a_bond_is_refused_with_the_numbers_and_the_way_out():
    with pytest.raises(
        UnsupportedError, match=r"on 40 qubits need bonds of dimension 1048576.*MiB a sample.*max_bond"
    ) as e:
        FidelityKernel(zz_feature_map(40), backend="mps")(np.zeros((2, 40)))
    assert re.search("statevector.*GPU.*fewer layers", str(e.value))


def test_options_of_the_name():
    circuit = bsp_feature_map(3).circuit
    assert resolve("mps:max_bond=16", circuit).name == "mps:max_bond=16"
    for wrong in ("mps:", "mps:bond=3", "mps:max_bond=two", "mps:max_bond=0"):
        with pytest.raises(InvalidInputError, match="max_bond"):
            resolve(wrong, circuit)


def test_long_code_takes_the_plain_path():
    circuit = kept(reuploading_feature_map(14, 3))
    assert overlap_of(chain_of(circuit), np.dtype(np.float64)) is None
    ax = angles(circuit, 5, 1)
    expected = StatevectorBackend().fidelity(circuit, ax)
    torch.testing.assert_close(GENERATED.fidelity(circuit, ax), expected, rtol=0, atol=1e-12)


def test_memory_of_a_tile_is_its_values_and_on_the_plain_path_all_environments(monkeypatch):
    """BSP on 3 qubits: from bond 1 to 2 an environment has 2, 4 and 4 complex numbers for each pair of 128 x 128 samples.

    An encoding has 2, 4 and 4 of them as well, and the number of its circuit, in two copies.
    """
    circuit, pairs = kept(bsp_feature_map(3)), 128 * 128
    values, environments = 4 * pairs * 8, (2 + 4 + 4) * 16 * pairs
    assert GENERATED.tile_bytes(circuit, torch.float64) == values
    assert PLAIN.tile_bytes(circuit, torch.float64) == values + environments
    assert PLAIN.tile_bytes(circuit, torch.float32) == (values + environments) // 2
    blocks = 2 * 128 * 2 * (20 + 1) * 8
    monkeypatch.setattr(choice, "cpu_threads", lambda: 3)
    assert choice.bytes_needed(PLAIN, circuit, torch.float64) == blocks + 3 * (values + environments)


def test_shared_angles_and_products_stay_what_they_were():
    circuit = Circuit(
        3, (Gate("ry", (0,), data(0)), Gate("cx", (0, 2)), Gate("rx", (2,), shared(0)), Gate("ry", (2,), data(1))), 2, 1
    )
    ax, w = angles(circuit, 6, 1), torch.tensor([0.7], dtype=torch.float64)
    torch.testing.assert_close(GENERATED.fidelity(circuit, ax, None, w), REFERENCE.fidelity(circuit, ax, None, w))
    assert GENERATED.encode(kept(qklstm_feature_map(3)), angles(kept(qklstm_feature_map(3)), 2, 1), w[:0]).dim() == 3
