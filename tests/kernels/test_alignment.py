"""Alignment and geometry of kernel matrices against closed forms, NumPy, PennyLane and finite differences."""

import numpy as np
import pennylane as qml
import pytest
import torch

from dqk import FidelityKernel, ProjectedKernel
from dqk.errors import InvalidInputError
from dqk.kernels import RBFKernel, effective_dimension, geometric_difference, target_alignment
from dqk.kernels.feature_maps import reuploading_feature_map
from tests.kernels.test_feature_maps import samples

X = samples(2, 8, 3)
Y = np.array([1, -1, -1, 1, 1, -1, 1, 1])
SIGNS = np.outer(Y, Y).astype(float)


def test_uncentred_is_pennylanes():
    kernel = RBFKernel(2)
    theirs = qml.kernels.target_alignment(X, Y, lambda a, b: kernel(a, b), rescale_class_labels=False)
    assert target_alignment(kernel(X), Y, centred=False) == pytest.approx(float(theirs), abs=1e-12)


def test_centred_is_numpys():
    k, h = RBFKernel(2)(X), np.eye(8) - 1 / 8
    for labels in (Y, np.array(list("aabbcabc"))):
        target = (labels[:, None] == labels[None, :]).astype(float)
        a, b = h @ k @ h, h @ target @ h
        expected = np.trace(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)
        assert target_alignment(k, labels) == pytest.approx(expected, abs=1e-12)
        assert target_alignment(3 * k + 5, labels) == pytest.approx(expected, abs=1e-12)


def test_closed_forms():
    assert target_alignment(SIGNS, Y) == target_alignment(SIGNS, Y, centred=False) == pytest.approx(1)
    assert target_alignment(-SIGNS, Y) == pytest.approx(-1)
    assert target_alignment(np.ones((8, 8)), Y) == 0.0
    assert target_alignment(np.eye(8), Y, centred=False) == pytest.approx(8 / np.sqrt(8) / 8)
    three = np.repeat([0, 1, 2], 2)  # equal classes: the target has no mean, and centring changes nothing
    k = np.equal.outer(three, three) * 1.5 - 0.5
    assert target_alignment(k, three, centred=False) == target_alignment(k, three) == pytest.approx(1)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("trainable", ["scale", "rotations"])
@pytest.mark.parametrize("kind", [FidelityKernel, ProjectedKernel])
def test_gradient_is_the_finite_difference(kind, trainable, centred):
    torch.manual_seed(1)
    kernel = kind(reuploading_feature_map(2, 2, trainable=trainable)).double()
    x, labels = torch.from_numpy(X).requires_grad_(), [0, 1, 2, 0, 1, 2, 0, 0]
    value = target_alignment(kernel(x), labels, centred)
    assert value.dim() == 0
    value.backward()
    for tensor in (x, kernel.params):
        flat, gradient = tensor.detach().view(-1), tensor.grad.view(-1)
        for k in range(0, len(flat), 3):
            found = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    flat[k] += step
                    found.append(float(target_alignment(kernel(x), labels, centred)))
                    flat[k] -= step
            assert float(gradient[k]) == pytest.approx((found[0] - found[1]) / 2e-5, abs=1e-8)


def test_a_constant_matrix_has_a_gradient_of_zero():
    k = torch.ones(8, 8, dtype=torch.float64, requires_grad=True)
    target_alignment(k, Y).backward()
    assert torch.equal(k.grad, torch.zeros(8, 8, dtype=torch.float64))


def test_a_constant_column_and_one_class():
    kernel, constant = RBFKernel(3), np.column_stack([X, np.full(8, 0.7)])
    assert target_alignment(kernel(constant), Y) == pytest.approx(target_alignment(RBFKernel(2)(X), Y))
    for labels, message in (
        (np.ones(8), "labels of one class"),
        (np.array([0, 1, 0, np.nan, 1, 0, 1, 1]), "label 3 is nan"),
        (np.arange(8) / 3, "all 8 labels are different"),
        (Y[:5], r"labels of shape \(5,\), expected \(8,\)"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            target_alignment(RBFKernel(2)(X), labels)
    with pytest.raises(InvalidInputError, match=r"K has shape \(8, 3\), expected a square"):
        target_alignment(RBFKernel(2)(X, X[:3]), Y)
    with pytest.raises(InvalidInputError, match="not finite"):
        target_alignment(np.full((8, 8), np.nan), Y)


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


class TestGeometricDifference:
    def test_of_diagonal_matrices(self):
        """`max_i t_i / s_i` for commuting matrices, with traces of N."""
        s, t = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
        assert geometric_difference(np.diag(s), np.diag(t)) == pytest.approx(np.sqrt(2.0))
        assert geometric_difference(np.diag(t), np.diag(s)) == pytest.approx(np.sqrt(1.5))
        assert geometric_difference(np.diag(10 * s), np.diag(7 * t)) == pytest.approx(np.sqrt(2.0))
        s, t = s / 2, t / 2
        expected = np.sqrt((t * s / (s + 0.1) ** 2).max())
        assert geometric_difference(np.diag(s), np.diag(t), 0.1) == pytest.approx(expected)

    @pytest.mark.parametrize("regularisation", [0.0, 0.05])
    def test_is_the_equation(self, regularisation):
        k1, k2 = RBFKernel(2, 2.0)(X), FidelityKernel(reuploading_feature_map(2))(X)
        regular = np.linalg.inv(k1 + regularisation * np.eye(8))
        inside = root(k2) @ root(k1) @ regular @ regular @ root(k1) @ root(k2)
        expected = np.sqrt(np.linalg.norm(inside, 2))
        assert geometric_difference(k1, k2, regularisation) == pytest.approx(expected, rel=1e-8)
        assert geometric_difference(torch.from_numpy(k1), k2, regularisation) == pytest.approx(expected, rel=1e-8)

    def test_of_a_kernel_with_itself_is_one(self):
        assert geometric_difference(RBFKernel(2, 2.0)(X), RBFKernel(2, 2.0)(X)) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((np.ones((3, 3)), np.eye(3)), "K1 is singular .* give regularisation"),
            ((np.eye(3), np.eye(4)), r"K1 has shape \(3, 3\) and K2 \(4, 4\)"),
            ((np.eye(3), np.eye(3), -1), "regularisation is -1"),
            ((np.eye(3)[:2], np.eye(3)), r"K1 has shape \(2, 3\)"),
            ((np.eye(3), np.triu(np.ones((3, 3)))), "K2 is no kernel matrix"),
            ((np.eye(3), np.diag([1.0, 1.0, -1.0])), "K2 has the eigenvalue -3, expected none below 0; repair_matrix"),
            ((np.eye(3), np.full((3, 3), np.inf)), "K2 has entries that are not finite"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(InvalidInputError, match=message):
            geometric_difference(*arguments)


@pytest.mark.parametrize("rank", [1, 2, 5, 10])
def test_effective_dimension_of_equal_eigenvalues(rank):
    """`sum_{k < r} (r - k) (N / r) / (N - k)` for r eigenvalues of N / r."""
    n = 10
    basis, _ = np.linalg.qr(np.random.default_rng(rank).normal(size=(n, rank)))
    expected = sum((rank - k) * (n / rank) / (n - k) for k in range(rank))
    assert effective_dimension(3.0 * basis @ basis.T) == pytest.approx(expected)


def test_effective_dimension_of_any_matrix():
    k = RBFKernel(2)(X)
    t = np.sort(np.linalg.eigvalsh(k))[::-1]
    assert effective_dimension(k) == pytest.approx(sum(t[i:].sum() / (8 - i) for i in range(8)))
