"""Plans that cannot be: every mistake is said, before anything is measured."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from dqk import FidelityKernel, gram
from dqk.errors import InvalidInputError, StoreError
from dqk.kernels import ShotPlan
from dqk.kernels.feature_maps import zz_feature_map
from tests.exact_device import ExactDevice

MAP = zz_feature_map(2)
X = np.random.default_rng(0).uniform(-1, 1, (4, 2))
ALLOCATIONS = pytest.mark.parametrize("allocation", ["weighted", "variance"])
HOLE, NEGATIVE = np.ones((4, 4)), np.ones((4, 4))
HOLE[1, 2], NEGATIVE[3, 0] = np.nan, -2


@ALLOCATIONS
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("abc", "weights have dtype <U3, expected a matrix"),
        ([["a", "b"]], "weights have dtype <U1"),
        ({"a": 1}, "weights have dtype object"),
        (np.ones((4, 4), complex), "weights have dtype complex128"),
        ([[1, 2], [3]], "weights are no array .*inhomogeneous"),
        (3.0, r"weights have shape \(\)"),
        (np.ones(4), r"weights have shape \(4,\)"),
        (np.ones((2, 2, 2)), r"weights have shape \(2, 2, 2\)"),
        (HOLE, r"weights\[1, 2\] is nan"),
        (HOLE * np.inf, r"weights\[0, 0\] is inf"),
        (NEGATIVE, r"weights\[3, 0\] is -2, expected a matrix \(N, M\) of numbers from 0"),
        (np.zeros((4, 4)), r"weights are all 0 \(shape \(4, 4\)\)"),
        (np.ones((0, 0)), "weights are all 0"),
    ],
)
def test_weights_of_a_wrong_kind(weights, message: str, allocation: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ShotPlan(budget=1000, allocation=allocation, weights=weights)


@ALLOCATIONS
def test_weights_that_do_not_fit_the_matrix_are_refused_before_a_pilot(allocation: str) -> None:
    device = ExactDevice()
    for weights, message in (
        (np.ones((4, 3)), r"weights of shape \(4, 3\), the kernel matrix has \(4, 4\)"),
        (np.eye(4), "weights are 0 at every entry that is measured.*evaluate_duplicates='all'"),
    ):
        plan = ShotPlan(budget=1000, allocation=allocation, weights=weights)
        with pytest.raises(InvalidInputError, match=message):
            gram(FidelityKernel(MAP, device, shots=plan), X, seed=0)
        assert not device.jobs
    plan = ShotPlan(budget=1000, allocation=allocation, weights=np.eye(4), evaluate_duplicates="all")
    gram(FidelityKernel(MAP, device, shots=plan), X, seed=0)
    assert sum(rows * shots for _, rows, shots in device.jobs) > 900


def test_a_pilot_that_leaves_nothing_is_refused_before_it_begins() -> None:
    device = ExactDevice()
    for plan, message in (
        (ShotPlan(10, budget=65, allocation="variance"), "a pilot of 10 shots for each of 6 entries.* need 66 shots"),
        (ShotPlan(budget=11, allocation="variance"), "a pilot for each of 6 entries.* need 12 shots, the budget is 11"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            gram(FidelityKernel(MAP, device, shots=plan), X, seed=0)
    assert not device.jobs
    for plan in (ShotPlan(10, budget=66, allocation="variance"), ShotPlan(budget=12, allocation="variance")):
        assert not np.isnan(gram(FidelityKernel(MAP, device, shots=plan), X, seed=0)).any()


def test_what_may_be_weights_is_copied() -> None:
    mine = np.ones((4, 4))
    for weights in (mine, mine.tolist(), mine.astype(bool), torch.ones(4, 4, requires_grad=True)):
        plan = ShotPlan(budget=1000, allocation="weighted", weights=weights)
        assert plan.weights.dtype == np.float64 and plan.weights.tolist() == mine.tolist()
    mine[0, 0] = 2  # the plan has not made it read-only
    assert plan.weights[0, 0] == 1


def test_a_cap_on_what_is_spent_is_not_part_of_what_a_store_is_of(tmp_path) -> None:
    device, digests = ExactDevice(), set()
    for plan in (ShotPlan(10), ShotPlan(10, budget=60), ShotPlan(10, budget=6000), ShotPlan(10)):
        digests.add(gram(FidelityKernel(MAP, device, shots=plan), X, seed=0, store=tmp_path / "K.zarr").digest)
    assert len(digests) == len(device.jobs) == 1
    for plan in (ShotPlan(11), ShotPlan(budget=60)):  # other shots, or shots that follow from the budget
        with pytest.raises(StoreError, match="shots"):
            gram(FidelityKernel(MAP, device, shots=plan), X, seed=0, store=tmp_path / "K.zarr")


@ALLOCATIONS
def test_a_store_of_other_weights_is_refused(allocation: str, tmp_path) -> None:
    one, other = np.ones((4, 4)), np.ones((4, 4))
    other[0, 1] = 2.0
    for weights, kept in ((one, True), (one, True), (other, False)):
        plan = ShotPlan(budget=1000, allocation=allocation, weights=weights)
        with nullcontext() if kept else pytest.raises(StoreError, match="weights"):
            gram(FidelityKernel(MAP, ExactDevice(), shots=plan), X, seed=0, store=tmp_path / "K.zarr")
