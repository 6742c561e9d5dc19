"""The projected kernel against reduced density matrices by PennyLane."""

import numpy as np
import pennylane as qml
import pytest
import torch

from dqk import ProjectedKernel, gram
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map, zz_feature_map
from tests.kernels.quantum import pennylane_states
from tests.kernels.test_feature_maps import bsp, paper, samples, zz_by_hand

CASES = {
    "qklstm": (qklstm_feature_map(3), lambda x: paper(x, 3), 3),
    "bsp": (bsp_feature_map(3), lambda x: bsp(x, 3), 3),
    "zz": (zz_feature_map(2), zz_by_hand, 2),
    "one qubit": (bsp_feature_map(1), lambda x: bsp(x, 1), 1),
}


def projected(f, n: int, x: torch.Tensor, y: torch.Tensor, gamma: float) -> torch.Tensor:
    """`exp(-gamma sum_q ||rho_q(x) - rho_q(y)||_F^2)`."""
    reduced = [
        torch.stack([qml.math.reduce_statevector(pennylane_states(f, n, part), [q]) for q in range(n)])
        for part in (x, y)
    ]
    difference = reduced[0][:, :, None] - reduced[1][:, None, :]
    return torch.exp(-gamma * (difference.abs() ** 2).sum(dim=(0, 3, 4)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_values_are_pennylanes(name, backend):
    feature_map, f, n = CASES[name]
    x, y = samples(n, 5, 1), samples(n, 4, 2)
    kernel = ProjectedKernel(feature_map, gamma=0.7, backend=backend)
    expected = projected(f, n, *map(torch.as_tensor, (x, y)), 0.7).numpy()
    np.testing.assert_allclose(kernel(x, y), expected, atol=1e-12, rtol=1e-11)
    np.testing.assert_allclose(gram(kernel, x, y, log=True), np.log(expected), atol=1e-11)
    square = projected(f, n, *[torch.as_tensor(x)] * 2, 0.7).numpy()
    np.testing.assert_allclose(kernel(x), square, atol=1e-12, rtol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_pennylanes(name):
    feature_map, f, n = CASES[name]
    x, y = (torch.as_tensor(samples(n, 3, seed)).requires_grad_() for seed in (1, 2))
    weights = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    ours = torch.autograd.grad((ProjectedKernel(feature_map)(x, y) * weights).sum(), [x, y])
    theirs = torch.autograd.grad((projected(f, n, x, y, 1.0) * weights).sum(), [x, y])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


def test_gates_that_cancel_in_a_fidelity_count_here():
    """Without the final CNOT chain of the paper's map the reduced states are others."""
    x = samples(3, 5)
    whole = ProjectedKernel(qklstm_feature_map(3))(x)

    def without_chain(s):
        for q in range(3):
            qml.Hadamard(q)
            qml.RY(s[q], q)
            qml.RZ(s[q], q)

    product = projected(without_chain, 3, *[torch.as_tensor(x)] * 2, 1.0).numpy()
    assert np.abs(whole - product).max() > 0.01
