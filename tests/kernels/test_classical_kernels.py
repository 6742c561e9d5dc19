"""The classical twins against scikit-learn, and sums, products and scalings of kernels against arithmetic on matrices."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel

from dqk import FidelityKernel, ProjectedKernel, gram
from dqk.cluster import open_pool
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels import LinearKernel, ProductKernel, RBFKernel, ScaledKernel, SumKernel
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map, reuploading_feature_map
from tests.kernels.test_feature_maps import samples

X, Y = samples(3, 7, 1), samples(3, 5, 2)


def test_rbf_is_scikit_learns():
    np.testing.assert_allclose(RBFKernel(3, bandwidth=0.7)(X, Y), rbf_kernel(X, Y, gamma=0.7**2 / 2), atol=1e-14)
    np.testing.assert_allclose(RBFKernel(3)(X), rbf_kernel(X, gamma=0.5), atol=1e-14)


def test_weights_stretch_features():
    kernel = RBFKernel(3, bandwidth=0.7, trainable="scale")
    with torch.no_grad():
        kernel.params.copy_(torch.tensor([0.5, 2.0, -1.0]))
    stretched = X * [0.5, 2.0, -1.0], Y * [0.5, 2.0, -1.0]
    np.testing.assert_allclose(kernel(X, Y), rbf_kernel(*stretched, gamma=0.7**2 / 2), atol=1e-14)
    linear = LinearKernel(3, trainable="scale")
    linear.params = kernel.params
    np.testing.assert_allclose(linear(X, Y), linear_kernel(*stretched) / 3, atol=1e-14)


def test_linear_is_scikit_learns_over_the_number_of_features():
    np.testing.assert_allclose(LinearKernel(3, bandwidth=2.0)(X, Y), 4 * linear_kernel(X, Y) / 3, atol=1e-14)
    np.testing.assert_allclose(LinearKernel(3)(X), linear_kernel(X) / 3, atol=1e-14)


@pytest.mark.parametrize("bandwidth", [1.0, 0.5])
def test_rbf_is_the_papers_kernel_near_the_origin(bandwidth):
    """Their difference is of fourth order in the features."""
    paper, twin = FidelityKernel(qklstm_feature_map(3, bandwidth=bandwidth)), RBFKernel(3, bandwidth)
    off = [np.abs(paper(step * X, step * Y) - twin(step * X, step * Y)).max() for step in (0.02, 0.01)]
    assert off[0] < 1e-6 and 14 < off[0] / off[1] < 18


FIDELITY = FidelityKernel(reuploading_feature_map(3, layers=2, trainable="rotations"))
PROJECTED = ProjectedKernel(bsp_feature_map(3), gamma=0.4)


def test_arithmetic_is_that_of_matrices():
    a, b = FIDELITY(X, Y), PROJECTED(X, Y)
    for kernel, kind, expected in (
        (FIDELITY + PROJECTED, SumKernel, a + b),
        (FIDELITY * PROJECTED, ProductKernel, a * b),
        (3.0 * FIDELITY, ScaledKernel, 3 * a),
        (FIDELITY * np.float32(0.5), ScaledKernel, a / 2),
        (FIDELITY + 2 * (PROJECTED * FIDELITY) + LinearKernel(3), SumKernel, a + 2 * b * a + linear_kernel(X, Y) / 3),
    ):
        assert type(kernel) is kind and kernel.n_features == 3
        np.testing.assert_allclose(kernel(X, Y), expected, atol=1e-13)
    np.testing.assert_array_equal((FIDELITY + PROJECTED)(X).diagonal(), np.full(len(X), 2.0))


def test_parameters_of_parts_are_trained():
    kernel = FIDELITY + 0.5 * RBFKernel(3, trainable="scale")
    assert [name for name, _ in kernel.named_parameters()] == ["k1.params", "k2.kernel.params"]
    kernel(torch.from_numpy(X)).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in kernel.parameters())


def test_parts_run_on_workers_with_the_same_bits():
    kernel = FIDELITY + PROJECTED * 0.5
    with open_pool("inline", 2) as pool:
        np.testing.assert_array_equal(gram(FIDELITY * RBFKernel(3), X, executor=pool), (FIDELITY * RBFKernel(3))(X))
        own = FidelityKernel(FIDELITY.feature_map, executor=pool)
        own.params = FIDELITY.params
        assert (own * RBFKernel(3)).executor is pool
        np.testing.assert_array_equal((own * RBFKernel(3))(X), (FIDELITY * RBFKernel(3))(X))
        with pytest.raises(UnsupportedError, match="a kernel of expectation values simulates every sample once"):
            gram(kernel, X, executor=pool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gram(RBFKernel(3), X, executor="processes"), UnsupportedError, "RBFKernel runs no circuits"),
        (lambda: gram(LinearKernel(3), X, store="K.zarr"), UnsupportedError, "LinearKernel runs no circuits"),
        (
            lambda: gram(FIDELITY + FIDELITY, X, store="K.zarr"),
            UnsupportedError,
            "a store keeps the tiles of one fidelity",
        ),
        (lambda: gram(2 * FIDELITY, X, store="K.zarr"), UnsupportedError, "store its parts"),
        (
            lambda: gram(2 * LinearKernel(3), X, log=True),
            UnsupportedError,
            "values of the linear kernel may be negative",
        ),
        (
            lambda: (FidelityKernel(bsp_feature_map(3), shots=9) + FIDELITY)(X),
            UnsupportedError,
            "a part of a SumKernel is measured with shots=9",
        ),
        (lambda: (2 * FIDELITY).diagnose(X), UnsupportedError, "ScaledKernel is not normalised"),
        (
            lambda: (
                FidelityKernel(bsp_feature_map(3), executor="ray")
                + FidelityKernel(bsp_feature_map(3), executor="inline")
            )(X),
            InvalidInputError,
            "different executors, 'ray' and 'inline'",
        ),
        (lambda: FIDELITY + RBFKernel(2), InvalidInputError, r"different lengths \(\{'k1': 3, 'k2': 2\}\)"),
        (lambda: ProductKernel(FIDELITY, "rbf"), InvalidInputError, "k2 is 'rbf', expected a dqk kernel"),
        (lambda: 0 * FIDELITY, InvalidInputError, "factor is 0, expected a finite number above 0"),
        (lambda: -1.5 * FIDELITY, InvalidInputError, "factor is -1.5"),
        (lambda: FIDELITY + 1, TypeError, "unsupported operand"),
        (lambda: RBFKernel(0), InvalidInputError, "n_features is 0"),
        (lambda: RBFKernel(3, bandwidth=0), InvalidInputError, "bandwidth is 0"),
        (lambda: LinearKernel(3, trainable="scales"), InvalidInputError, "did you mean 'scale'"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call()
    assert not list(tmp_path.iterdir())


class TestSettings:
    def test_have_the_names_of_the_arguments(self):
        feature_map = bsp_feature_map(2, bandwidth=0.5)
        kernel = FidelityKernel(feature_map)
        assert kernel.get_params() == {
            "feature_map": feature_map,
            "backend": "auto",
            "shots": None,
            "executor": None,
            "bandwidth": 0.5,
        }
        composed = kernel + 2.0 * RBFKernel(2)
        assert {"k1", "k2", "k1__bandwidth", "k2__factor", "k2__kernel__bandwidth"} <= {*composed.get_params()}
        assert {*composed.get_params(deep=False)} == {"k1", "k2"}

    def test_can_be_set(self):
        kernel = FIDELITY + 2.0 * RBFKernel(3)
        kernel.set_params(k1__bandwidth=0.25, k2__factor=np.float64(3.0), k2__kernel__bandwidth=0.5)
        try:
            assert FIDELITY.feature_map.bandwidth == 0.25  # the part itself, not a copy
            np.testing.assert_allclose(kernel(X, Y), FIDELITY(X, Y) + 3 * rbf_kernel(X, Y, gamma=0.125), atol=1e-14)
        finally:
            FIDELITY.bandwidth = 1.0

    def test_training_survives_unless_the_map_changes(self):
        kernel = FidelityKernel(reuploading_feature_map(2, trainable="scale"))
        trained = kernel.params
        with torch.no_grad():
            trained.mul_(1.5)
        assert kernel.set_params(bandwidth=0.5, backend="reference").params is trained
        assert kernel.backend == "reference" and kernel.bandwidth == 0.5
        kernel.set_params(feature_map=reuploading_feature_map(2, 1, trainable="scale"))
        assert kernel.params.shape == (4,) and (kernel.params == 1).all() and kernel.bandwidth == 1.0

    def test_bad_ones_are_refused(self):
        kernel = ProjectedKernel(bsp_feature_map(2))
        for given, message in (
            ({"bandwith": 1.0}, "did you mean 'bandwidth'"),
            ({"bandwidth": -1.0}, "bandwidth is -1.0"),
            ({"gamma": "wide"}, "gamma is 'wide'"),
            ({"feature_map": None}, "feature_map is None"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                kernel.set_params(**given)
        assert kernel.bandwidth == 1.0 and kernel.gamma == 1.0
