"""Declared angles and the FeatureMap class."""

import copy
import pickle

import pytest
import torch

from dqk import FidelityKernel
from dqk.circuit import Circuit, Gate, data, shared
from dqk.errors import InvalidInputError
from dqk.kernels import Angle, FeatureMap
from dqk.kernels.feature_maps import reuploading_feature_map, zz_feature_map

CIRCUIT = Circuit(1, (Gate("rx", (0,), data(0)), Gate("ry", (0,), data(1)), Gate("rz", (0,), data(2))), n_data=3)
ANGLES = (Angle(1.5, ((1, 0.2, -1.0), (0, 1.0, 2.0))), Angle(-2.0, ((0, 0.0, 1.0),), weight=1), Angle(0.7, ()))


def test_declared_angles_are_their_formula():
    """coefficient * product of (offset + slope * x[feature]) * weight; no factor means a constant."""
    feature_map = FeatureMap("test", CIRCUIT, 2, ANGLES, n_params=2, bandwidth=0.5)
    x = torch.tensor([[0.3, -1.1], [2.0, 0.4]], dtype=torch.float64)
    params = torch.tensor([9.0, 3.0], dtype=torch.float64)
    found, weights = feature_map.angles(x, params)
    a, b = 0.5 * x.T
    expected = torch.stack([1.5 * (0.2 - b) * (1 + 2 * a), -2 * a * 3, torch.full_like(a, 0.7)], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=1e-14)
    assert weights.shape == (0,)
    assert feature_map.angles(x.float(), params.float())[0].dtype == torch.float32


def test_rotations_are_the_shared_columns():
    feature_map = reuploading_feature_map(2, 1, trainable="rotations")
    params = torch.randn(4, dtype=torch.float64)
    assert feature_map.angles(torch.zeros(3, 2, dtype=torch.float64), params)[1] is params


def test_angles_of_a_map_without_data_columns():
    """A constant circuit is a feature map too: its kernel is 1 everywhere."""
    constant_map = FeatureMap("constant", Circuit(1, (Gate("h", (0,)),)), 2, ())
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert constant_map.angles(x)[0].shape == (3, 0)
    torch.testing.assert_close(FidelityKernel(constant_map)(x), torch.ones(3, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"declared": ANGLES[:2]}, "2 declared angles for 3 data columns"),
        ({"declared": None}, "either declared angles or an angle_function"),
        ({"angle_function": lambda x, p: (x, p)}, "either declared angles or an angle_function"),
        ({"n_params": 1}, "needs parameter 1, but there are 1"),
        ({"n_features": 1}, "features from 0 to 0"),
        ({"bandwidth": float("inf")}, "bandwidth is inf"),
        ({"declared": (*ANGLES[:2], Angle(1.0, ((0, 0, 1), (0, 0, 1), (1, 0, 1))))}, "at most two features"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments, message):
    good = {"name": "test", "circuit": CIRCUIT, "n_features": 2, "declared": ANGLES, "n_params": 2}
    FeatureMap(**good)
    with pytest.raises(InvalidInputError, match=message):
        FeatureMap(**{**good, **arguments})


def test_shapes_are_checked():
    feature_map = FeatureMap("test", CIRCUIT, 2, ANGLES, n_params=2)
    with pytest.raises(
        InvalidInputError, match=r"samples of shape \(3, 4\), expected \(N, 2\): test on 1 qubits takes 2"
    ):
        feature_map.angles(torch.zeros(3, 4), torch.zeros(2))
    for params in (None, torch.zeros(3)):
        with pytest.raises(InvalidInputError, match=r"parameters of shape .*, expected \(2,\)"):
            feature_map.angles(torch.zeros(3, 2), params)


def test_copies_and_pickles():
    feature_map = zz_feature_map(3, bandwidth=0.3)
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = feature_map.angles(x)[0]
    for twin in (copy.deepcopy(feature_map), pickle.loads(pickle.dumps(feature_map))):
        assert twin == feature_map
        assert torch.equal(twin.angles(x)[0], expected)
    kernel = FidelityKernel(reuploading_feature_map(2, trainable="scale"))
    twin = pickle.loads(pickle.dumps(kernel))
    assert torch.equal(twin(x[:, :2]), kernel(x[:, :2]))


def test_a_custom_map_must_give_angles_of_the_right_shape():
    circuit = Circuit(1, (Gate("rx", (0,), data(0)), Gate("ry", (0,), shared(0))), n_data=1, n_shared=1)
    wrong = FeatureMap("wrong", circuit, 1, None, angle_function=lambda x, p: (x, x.new_zeros(2)))
    with pytest.raises(InvalidInputError, match="shape"):
        FidelityKernel(wrong, "reference")(torch.zeros(2, 1))
