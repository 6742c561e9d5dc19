"""Kernel matrices of several tiles, on enough qubits for every run of amplitudes, against the dense reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dqk import FidelityKernel, gram
from dqk.backends.statevector import StatevectorBackend
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map, reuploading_feature_map, zz_feature_map

BACKENDS = {"panels": StatevectorBackend(panels=True), "blas": StatevectorBackend(panels=False)}


def samples(count: int, features: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1.5, 1.5, (count, features))).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "feature_map",
    [reuploading_feature_map(7, 2), zz_feature_map(8), bsp_feature_map(9), reuploading_feature_map(11, 2)],
    ids=lambda m: f"{m.name}-{m.n_qubits}",
)
def test_values_on_many_qubits(feature_map, backend):
    x, y = samples(150, feature_map.n_features, 0), samples(37, feature_map.n_features, 1)
    ours, oracle = (FidelityKernel(feature_map, backend=b) for b in (BACKENDS[backend], "reference"))
    torch.testing.assert_close(ours(x), oracle(x), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(ours(x, y), oracle(x, y), rtol=1e-11, atol=1e-12)
    narrow = ours(x.float(), y.float())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), oracle(x.float().double(), y.float().double()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("backend", [*BACKENDS, "mps"])
def test_several_tiles_and_their_gradients(backend, log):
    """N = 300 and M = 270 make tiles on, above and beside the diagonal, and ragged ones, for sides of 64 and 128."""
    feature_map = qklstm_feature_map(4) if backend == "mps" else reuploading_feature_map(4, 2, trainable="rotations")
    ours = FidelityKernel(feature_map, backend=BACKENDS.get(backend, backend))
    oracle = FidelityKernel(feature_map, backend="reference")
    if ours.params is not None:
        oracle.load_state_dict(ours.state_dict())
        ours.double(), oracle.double()
    x, y = samples(300, 4, 2), samples(270, 4, 3)
    generator = torch.Generator().manual_seed(4)
    for second in (None, y):
        results = []
        for kernel in (ours, oracle):
            leaves = [t.clone().requires_grad_() for t in (x, *([] if second is None else [second]))]
            matrix = gram(kernel, *leaves, log=log)
            generator.manual_seed(4)
            cotangent = torch.randn(
                matrix.shape, generator=generator, dtype=torch.float64
            ) / matrix.detach().abs().clamp(min=1)
            gradients = torch.autograd.grad(matrix, [*leaves, *kernel.parameters()], cotangent)
            results.append([matrix.detach(), *gradients])
        for mine, expected in zip(*results, strict=True):
            # Logarithms of small entries and their slopes lose digits in proportion.
            tolerance = {"rtol": 1e-7, "atol": 1e-7} if log else {"rtol": 1e-9, "atol": 1e-10}
            torch.testing.assert_close(mine, expected, **tolerance)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("asked", ["x", "y", "shared"])
def test_a_constant_argument_costs_no_sweep(asked, log, monkeypatch):
    """With a constant argument its cotangents and sweeps are left out; with shared angles both sides are swept."""
    feature_map = reuploading_feature_map(3, 2, trainable="rotations")
    ours, oracle = FidelityKernel(feature_map, backend="statevector"), FidelityKernel(feature_map, backend="reference")
    oracle.load_state_dict(ours.state_dict())
    swept, both = [], []
    sweep, pull = StatevectorBackend.encode_vjp, StatevectorBackend.overlap_vjp
    monkeypatch.setattr(
        StatevectorBackend,
        "encode_vjp",
        lambda self, c, angles, *rest: swept.append(angles) or sweep(self, c, angles, *rest),
    )
    monkeypatch.setattr(StatevectorBackend, "overlap_vjp", lambda self, *rest: both.append(rest) or pull(self, *rest))
    x, y = samples(150, 3, 5), samples(20, 3, 6)  # two blocks of rows, one of columns
    cotangent = samples(150, 20, 7)
    results = []
    for kernel in (ours, oracle):
        kernel.double().requires_grad_(asked == "shared")
        first, second = x.clone().requires_grad_(asked == "x"), y.clone().requires_grad_(asked == "y")
        leaf = {"x": first, "y": second, "shared": kernel.params}[asked]
        results.append(torch.autograd.grad(gram(kernel, first, second, log=log), leaf, cotangent)[0])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
    assert sum(map(len, swept)) == {"x": 150, "y": 20, "shared": 170}[asked]
    assert bool(both) == (asked == "shared")
