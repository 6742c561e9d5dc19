"""What a diagnosis says is true, and what it does not say is not there. Facts are checked against NumPy and scikit-learn."""

import json
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from dqk import FidelityKernel, ProjectedKernel
from dqk.circuit import Circuit, Gate, data, shared
from dqk.errors import InvalidInputError
from dqk.kernels import Angle, FeatureMap
from dqk.kernels.alignment import centred_alignment
from dqk.kernels.diagnosis import effective_rank
from dqk.kernels.diagnosis_plot import draw
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    iqp_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)


def samples(count: int, features: int, width: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(-width, width, (count, features))


def test_the_papers_map_factorises_and_says_what_cancels() -> None:
    found = FidelityKernel(qklstm_feature_map(4)).diagnose()
    assert found.circuit is not None and found.circuit.is_product and not found.warnings
    assert [(name, wires) for _, name, wires, _ in found.circuit.cancelled] == [("cx", (k, k + 1)) for k in range(3)]
    assert "it is a product of 4 one-qubit kernels, without entanglement" in str(found)
    document = json.loads(json.dumps(found.to_dict()))
    assert document["circuit"]["factorises"] and len(document["circuit"]["cancelled"]) == 3


@pytest.mark.parametrize(
    "feature_map", [bsp_feature_map(4), zz_feature_map(4), iqp_feature_map(4), reuploading_feature_map(4)]
)
def test_nothing_false_about_entangling_maps(feature_map) -> None:
    found = FidelityKernel(feature_map).diagnose(samples(60, 4, 0.7))
    assert found.circuit is not None and not found.circuit.is_product and found.circuit.factors == ((0, 1, 2, 3),)
    assert not found.circuit.dead_parameters and not found.circuit.dead_angles and not found.warnings
    assert "factorises" not in str(found) and "WARNING" not in str(found)


def test_a_trailing_trainable_layer_is_dead() -> None:
    gates = (Gate("ry", (0,), data(0)), Gate("ry", (1,), data(1)), Gate("cx", (0, 1)), Gate("rz", (0,), shared(0)))
    feature_map = FeatureMap(
        "trailing",
        Circuit(2, gates, 2, 1),
        2,
        (Angle(1.0, ((0, 0.0, 1.0),)), Angle(1.0, ((1, 0.0, 1.0),))),
        1,
        "rotations",
    )
    found = FidelityKernel(feature_map).diagnose()
    assert found.circuit is not None and found.circuit.dead_parameters == (0,)
    assert found.warnings == ("trainable angles 0 have no gradient: trainable layers belong before data gates",)


def test_u_and_its_inverse_on_one_sample_are_the_identity() -> None:
    """As in the only public code of a QK-LSTM author: every value is 1 whatever the input."""
    half = (Gate("h", (0,)), Gate("ry", (0,), data(0)), Gate("rz", (0,), data(1)))
    gates = (*half, Gate("rz", (0,), data(2).negated), Gate("ry", (0,), data(3).negated), Gate("h", (0,)))
    angles = tuple(Angle(1.0, ((0, 0.0, 1.0),)) for _ in range(4))
    found = FidelityKernel(FeatureMap("there and back", Circuit(1, gates, 4), 1, angles)).diagnose(samples(20, 1))
    assert found.data is not None and found.data.least > 1 - 1e-12
    assert any("is the circuit U(x) followed by its own inverse" in text for text in found.warnings)


def test_784_uniform_features_concentrate_and_the_proposed_bandwidth_cures_it() -> None:
    x = samples(150, 784)
    found = FidelityKernel(qklstm_feature_map(784)).diagnose(x)
    assert found.data is not None and found.data.largest < 1e-30 and found.data.log_mean < -100
    assert any("the kernel matrix is the identity" in text for text in found.warnings)
    assert found.bandwidth is not None
    cured = FidelityKernel(qklstm_feature_map(784, bandwidth=found.bandwidth)).diagnose(x)
    assert not cured.warnings and cured.bandwidth is None
    assert cured.data is not None and 0.1 < cured.data.mean < 0.9 and cured.data.effective_rank < 100


def test_zero_and_pi_collide() -> None:
    x = np.array([[0.0, 0.3], [np.pi, 0.3], [0.5, 0.1], [0.5, 0.1]])
    found = FidelityKernel(qklstm_feature_map(2)).diagnose(x)
    assert found.data is not None and found.data.collisions == ((0, 1),)  # the last two are one point
    assert any("1 pairs of different samples have k = 1, such as 0 and 1" in text for text in found.warnings)
    assert FidelityKernel(qklstm_feature_map(2)).diagnose(x / 3).warnings == ()


def test_constant_columns_are_named() -> None:
    x = samples(30, 4, 0.7)
    x[:, 2] = 0.25
    found = FidelityKernel(reuploading_feature_map(4)).diagnose(x)
    assert found.data is not None and found.data.constant_features == (2,)
    assert [text for text in found.warnings if text.startswith("the same in all samples: features 2 (counted from 0)")]


def test_samples_that_are_all_the_same_are_not_the_fault_of_the_circuit() -> None:
    found = FidelityKernel(reuploading_feature_map(3)).diagnose(np.full((20, 3), 0.4))
    assert found.warnings == ("all samples are the same, so that the kernel is 1 for all of them: look at the data",)


def test_facts_about_entries() -> None:
    x = samples(50, 3)
    kernel = FidelityKernel(zz_feature_map(3))
    found, k = kernel.diagnose(x).data, kernel(x)
    off = k[np.triu_indices(50, 1)]
    assert found is not None
    assert (found.mean, found.spread) == pytest.approx((off.mean(), off.std()))
    assert (found.least, found.largest) == pytest.approx((off.min(), off.max()))
    assert effective_rank(np.eye(7)) == pytest.approx(7) and effective_rank(np.ones((7, 7))) == pytest.approx(1)
    assert effective_rank(np.diag([1.0, 1.0, 0.0])) == pytest.approx(2)


def test_alignment_agrees_with_its_definition_by_projection() -> None:
    """H K H with the centring matrix H, Frobenius inner products."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(12, 4))
    k, labels = a @ a.T, rng.integers(0, 3, 12)
    h = np.eye(12) - 1 / 12
    centred, target = h @ k @ h, h @ np.equal.outer(labels, labels).astype(float) @ h
    expected = np.sum(centred * target) / np.linalg.norm(centred) / np.linalg.norm(target)
    assert centred_alignment(k, labels) == pytest.approx(expected)
    assert centred_alignment(np.equal.outer(labels, labels).astype(float), labels) == pytest.approx(1)


def test_the_suggested_bandwidth_classifies_better() -> None:
    x, y = load_digits(return_X_y=True)
    x, order = x[:, 20:28] / 4, np.random.default_rng(0).permutation(len(x))[:400]
    train, test = order[:200], order[200:]
    kernel = FidelityKernel(reuploading_feature_map(8))
    found = kernel.diagnose(x[train], y[train])
    assert found.data is not None and found.bandwidth is not None and found.bandwidth < 1

    def accuracy(bandwidth: float) -> float:
        k = FidelityKernel(reuploading_feature_map(8, bandwidth=bandwidth))
        return SVC(kernel="precomputed").fit(k(x[train]), y[train]).score(k(x[test], x[train]), y[test])

    assert accuracy(found.bandwidth) > accuracy(1.0) + 0.1
    assert kernel.feature_map.bandwidth == 1.0  # trying others leaves the kernel as it was


def test_large_samples_are_represented_and_quick() -> None:
    """The wall clock is generous: it catches a quadratic mistake, not a slow machine."""
    began = time.perf_counter()
    found = FidelityKernel(reuploading_feature_map(10)).diagnose(samples(2500, 10))
    assert found.data is not None and found.data.n_samples == 2000 and time.perf_counter() - began < 60


def test_other_kernels_and_bad_input() -> None:
    x = torch.tensor(samples(10, 2))
    found = ProjectedKernel(zz_feature_map(2)).diagnose(x)
    assert found.circuit is None and found.data is not None and found.trials
    kernel = FidelityKernel(zz_feature_map(2))
    for arguments, message in (
        ((x[:1],), "X has 1 sample, expected at least 2"),
        ((x, [0] * 9), r"labels of shape \(9,\), expected \(10,\)"),
        ((x, [1] * 10), r"labels of one class"),
        ((None, [0, 1]), "labels without samples"),
        ((x[:, :1],), "takes 2 features|expected"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            kernel.diagnose(*arguments)
    with pytest.raises(InvalidInputError, match="a circuit alone"):
        draw(kernel.diagnose(), "nowhere.png")


@pytest.mark.parametrize("labels", [None, [0, 1] * 15])
def test_a_picture(tmp_path, labels) -> None:
    kernel = FidelityKernel(qklstm_feature_map(2))
    draw(kernel.diagnose(samples(30, 2), labels), tmp_path / "k.png")
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
