"""Truncated matrix-product states: the bound bounds, nothing is lost where nothing need be, and gradients are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dqk import FidelityKernel, ProjectedKernel, gram
from dqk.backends.mps import MPSBackend
from dqk.backends.reference import ReferenceBackend
from dqk.errors import UnsupportedError
from dqk.kernels.feature_maps import reuploading_feature_map
from tests.backends.test_mps import angles, random_chain

REFERENCE = ReferenceBackend()


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_bounds_the_error_on_random_deep_circuits(seed):
    circuit = random_chain(seed, 8, 4, reach=1 + seed % 3)
    ax = angles(circuit, 4, 1)
    ay = ax + 0.1 * angles(circuit, 4, 2)
    exact, biggest = REFERENCE.fidelity(circuit, ax, ay), []
    for max_bond in (2, 4, 8):
        backend = MPSBackend(max_bond=max_bond)
        error = (backend.fidelity(circuit, ax, ay) - exact).abs()
        bound = backend.error_bound(circuit, ax, ay)
        assert (error <= bound + 1e-12).all()
        biggest.append((error.max().item(), bound.max().item()))
    assert biggest[0][0] > 1e-3  # something was cut off
    assert biggest[2][1] < biggest[0][1]


def test_a_small_truncation_has_a_small_bound():
    circuit = random_chain(1, 10, 2)
    ax = 0.1 * angles(circuit, 3, 1)
    ay = ax + 0.02 * angles(circuit, 3, 2)
    backend = MPSBackend(max_bond=8)
    error = (backend.fidelity(circuit, ax, ay) - REFERENCE.fidelity(circuit, ax, ay)).abs()
    bound = backend.error_bound(circuit, ax, ay)
    assert (error <= bound + 1e-12).all()


@pytest.mark.parametrize("max_bond", [16, 64])
def test_bonds_that_fit_are_exact(max_bond):
    circuit = random_chain(2, 8, 3)
    ax, ay = angles(circuit, 5, 1), angles(circuit, 4, 2)
    backend = MPSBackend(max_bond=max_bond)
    torch.testing.assert_close(
        backend.fidelity(circuit, ax, ay), REFERENCE.fidelity(circuit, ax, ay), rtol=0, atol=1e-12
    )
    assert backend.error_bound(circuit, ax, ay).max() < 1e-12


def test_expectations_and_logarithms():
    circuit = random_chain(5, 6, 4)
    ax, words = angles(circuit, 3, 1), ["XIZIYI", "IIIIII", "ZZZZZZ", "IYIIII"]
    # Every cut of 6 qubits fits into 8, but the exact states would be allowed only up to 7.
    backend = MPSBackend(max_bond=7)
    error = backend.error_bound(circuit, ax).diagonal().sqrt().max().item()
    found, expected = backend.expectations(circuit, ax, words), REFERENCE.expectations(circuit, ax, words)
    assert (found - expected).abs().max() <= 4 * error + 1e-12
    x = np.random.default_rng(0).uniform(-1, 1, (40, 8))
    kernel = FidelityKernel(reuploading_feature_map(8, 3), backend="mps:max_bond=10")
    np.testing.assert_allclose(np.exp(gram(kernel, x, log=True)), kernel(x), rtol=1e-10)
    assert np.isfinite(ProjectedKernel(reuploading_feature_map(8, 3), backend="mps:max_bond=10")(x[:3])).all()


def test_wide_circuits_run_where_exact_states_are_refused():
    circuit = random_chain(7, 30, 8)
    ax = 0.2 * angles(circuit, 2, 1)
    with pytest.raises(UnsupportedError, match="on 30 qubits"):
        MPSBackend().fidelity(circuit, ax)
    backend = MPSBackend(max_bond=16)
    values, bound = backend.fidelity(circuit, ax), backend.error_bound(circuit, ax)
    assert torch.isfinite(values).all() and (bound >= 0).all()


def test_gradients_are_refused():
    x = torch.rand(3, 8, dtype=torch.float64, requires_grad=True)
    kernel = FidelityKernel(reuploading_feature_map(8, 3), backend="mps:max_bond=4")
    values = kernel(x)
    with pytest.raises(UnsupportedError, match=r"max_bond=4\) have no gradients"):
        values.sum().backward()
