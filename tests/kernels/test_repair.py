"""Repairs against PennyLane, Higham's alternating projections and finite differences."""

from __future__ import annotations

import warnings

import numpy as np
import pennylane as qml
import pytest
import torch
from torch.autograd import gradcheck

from dqk import FidelityKernel
from dqk.errors import DQKError, InvalidInputError
from dqk.kernels import (
    closest_psd_matrix,
    displace_matrix,
    flip_matrix,
    mitigate_depolarizing_noise,
    repair_matrix,
    symmetrise_matrix,
    threshold_matrix,
)
from dqk.kernels.feature_maps import zz_feature_map

SPECTRAL = {"threshold": threshold_matrix, "displace": displace_matrix, "flip": flip_matrix}
ALL = {**SPECTRAL, "symmetrise": symmetrise_matrix, "closest_psd": closest_psd_matrix}
each = pytest.mark.parametrize("name", ALL)


def noisy(n: int, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """A kernel matrix of rank 6 with noise that makes it indefinite."""
    rng = np.random.default_rng(seed)
    b = rng.standard_normal((n, 3))
    b /= np.linalg.norm(b, axis=1)[:, None]
    K = (b @ b.T) ** 2 + noise * rng.standard_normal((n, n))
    return (K + K.T) / 2


def with_spectrum(*values: float) -> np.ndarray:
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((len(values),) * 2))[0]
    return (q * values) @ q.T


def higham(K: np.ndarray, rounds: int = 20_000) -> np.ndarray:
    """Algorithm 3.3 of Higham (2002): alternating projections with Dykstra's correction."""
    y, correction = K.copy(), np.zeros_like(K)
    for _ in range(rounds):
        r = y - correction
        w, v = np.linalg.eigh(r)
        x = (v * w.clip(0)) @ v.T
        correction = x - r
        y = x.copy()
        np.fill_diagonal(y, 1.0)
        if np.linalg.norm(y - x) < 1e-12:
            break
    return y


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("K", [noisy(7), noisy(30), np.eye(4), with_spectrum(2, 1, 1, -1, -1), np.array([[-2.0]])])
def test_as_pennylane(name, K):
    assert SPECTRAL[name](K) == pytest.approx(getattr(qml.kernels, f"{name}_matrix")(K), abs=1e-13)


def test_the_example_of_higham():
    """Second differences; the published result has four digits."""
    K = 2 * np.eye(4) - np.eye(4, k=1) - np.eye(4, k=-1)
    expected = [
        [1.0, -0.8084, 0.1916, 0.1068],
        [-0.8084, 1.0, -0.6562, 0.1916],
        [0.1916, -0.6562, 1.0, -0.8084],
        [0.1068, 0.1916, -0.8084, 1.0],
    ]
    assert closest_psd_matrix(K) == pytest.approx(np.array(expected), abs=5e-5)


@pytest.mark.parametrize(
    "K",
    [
        noisy(5, 1.0),
        noisy(20),
        noisy(40, 0.05),
        -np.eye(3),
        np.zeros((4, 4)),
        -5 * np.ones((4, 4)),
        np.diag([100, 0.1, -3]) + 0.1,
    ],
)
def test_the_nearest_matrix_is_that_of_alternating_projections(K):
    X = closest_psd_matrix(K)
    assert X == pytest.approx(higham(K), abs=1e-8)
    assert (X.diagonal() == 1).all() and (X.T == X).all() and np.linalg.eigvalsh(X)[0] > -1e-13


def test_a_correlation_matrix_stays():
    for K in (np.eye(5), np.ones((5, 5)), higham(noisy(10))):
        assert closest_psd_matrix(K) == pytest.approx(K, abs=1e-9)
    assert (closest_psd_matrix(noisy(6), fix_diagonal=False) == threshold_matrix(noisy(6))).all()
    assert closest_psd_matrix([[0.3]]) == np.ones((1, 1))


@each
@pytest.mark.parametrize("K", [noisy(6), noisy(6) + 0.2 * np.random.default_rng(2).standard_normal((6, 6))])
def test_gradients_are_those_of_finite_differences(name, K):
    assert gradcheck(ALL[name], torch.tensor(K, requires_grad=True), atol=1e-6)


@each
@pytest.mark.parametrize(
    "K",
    [
        np.eye(4),
        with_spectrum(3, 1, 1, 1, -0.5),
        with_spectrum(2, 2, -1, -1, -3),
        1.5 * np.eye(3),
        with_spectrum(4, 0.7, 0.7, 0.2),
    ],
    ids=["identity", "one below", "both sides", "diagonal", "none below"],
)
def test_gradients_where_eigenvalues_coincide(name, K):
    """No repair here is at a kink. Plain autograd through eigh and a clip gives NaN at the identity."""
    assert gradcheck(ALL[name], torch.tensor(K, requires_grad=True), atol=1e-6)


@each
@pytest.mark.parametrize("K", [np.zeros((3, 3)), -np.eye(3), np.ones((4, 4)), with_spectrum(1, 0, 0, -1, -1)])
def test_gradients_are_finite_at_kinks(name, K):
    k = torch.tensor(K, requires_grad=True)
    ALL[name](k).pow(3).sum().backward()
    assert k.grad is not None and torch.isfinite(k.grad).all()
    assert k.grad == pytest.approx(k.grad.T, abs=1e-12)


def test_the_gradient_of_a_degenerate_shift_is_the_mean():
    k = torch.tensor(-2 * np.eye(4), requires_grad=True)
    displace_matrix(k)[0, 0].backward()
    assert k.grad is not None and k.grad.numpy() == pytest.approx(np.diag([0.75, -0.25, -0.25, -0.25]))


def test_gradients_reach_the_samples():
    X = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (5, 2)), requires_grad=True)
    kernel = FidelityKernel(zz_feature_map(2), backend="reference")
    noise = torch.tensor(noisy(5, 0.5) - noisy(5, 0.0))
    assert gradcheck(lambda x: closest_psd_matrix(kernel(x) + noise), X, atol=1e-6)


@each
def test_kind_and_precision_stay(name):
    K = noisy(9)
    assert isinstance(ALL[name](K), np.ndarray) and ALL[name](K).dtype == np.float64
    assert ALL[name](K.astype(np.float32)).dtype == np.float32
    assert ALL[name](K.tolist()) == pytest.approx(ALL[name](K), abs=0)
    found = ALL[name](torch.tensor(K, dtype=torch.float32))
    assert found.dtype == torch.float32 and found.numpy() == pytest.approx(ALL[name](K), abs=1e-5)


@each
def test_asymmetric_matrices_are_symmetrised_first(name):
    K = noisy(8) + 0.3 * np.random.default_rng(4).standard_normal((8, 8))
    before = K.copy()
    found = ALL[name](K)
    assert (
        found == pytest.approx(ALL[name]((K + K.T) / 2), abs=1e-12) and (found == found.T).all() and (before == K).all()
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [("threshold",), ("closest_psd",), ("symmetrise", "threshold")])
def test_a_sampled_matrix_gets_nearer_to_the_exact_one(steps, seed):
    """Both triangles sampled on their own and a diagonal of 1, as qiskit-machine-learning 0.9.1 does before its own repair,
    which makes the error eight times as large (Frobenius error 0.70 -> 5.8) and leaves K asymmetric and indefinite."""
    rng = np.random.default_rng(seed)
    exact = FidelityKernel(zz_feature_map(2), backend="reference")(rng.uniform(-1, 1, (40, 2)))
    sampled = rng.binomial(200, exact.clip(0, 1)) / 200
    np.fill_diagonal(sampled, 1.0)
    repaired, report = repair_matrix(sampled, *steps)
    assert (repaired == repaired.T).all() and np.linalg.eigvalsh(repaired)[0] > -1e-13
    assert np.linalg.norm(repaired - exact) < 0.75 * np.linalg.norm(sampled - exact)
    assert report.smallest_eigenvalue_before < -0.05
    assert report.smallest_eigenvalue_after == pytest.approx(np.linalg.eigvalsh(repaired)[0], abs=1e-13)
    assert report.distance == pytest.approx(np.linalg.norm(repaired - sampled))
    assert report.steps == steps and str(report).startswith(", ".join(steps) + ": smallest eigenvalue -")


# ---------------------------------------------------------------------------------------------------------- mitigation


def depolarised(K: np.ndarray, kept: np.ndarray, n_qubits: int) -> np.ndarray:
    """Global noise after each encoding."""
    kept = np.outer(kept, kept)
    return kept * K + (1 - kept) / 2**n_qubits


def global_noise_kernel(X: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact and noisy kernel of two qubits from `default.mixed`: all 15 Pauli errors alike after each encoding."""
    paulis = [
        qml.matrix(qml.pauli.string_to_pauli_word(a + b, {0: 0, 1: 1}), wire_order=[0, 1])
        for a in "IXYZ"
        for b in "IXYZ"
    ]

    def encode(x):
        qml.IQPEmbedding(x, wires=[0, 1], n_repeats=2)

    @qml.qnode(qml.device("default.mixed", wires=2))
    def circuit(x, y, s, t):
        encode(x)
        for p in (s, t):
            weights = [p + (1 - p) / 16] + [(1 - p) / 16] * 15
            qml.QubitChannel([np.sqrt(w) * P for w, P in zip(weights, paulis, strict=True)], wires=[0, 1])
        qml.adjoint(encode)(y)
        return qml.probs(wires=[0, 1])

    n = len(X)
    noisy_K = np.array([[float(circuit(X[i], X[j], kept[i], kept[j])[0]) for j in range(n)] for i in range(n)])
    exact = np.array([[float(circuit(X[i], X[j], 1.0, 1.0)[0]) for j in range(n)] for i in range(n)])
    return exact, noisy_K


def test_split_takes_back_what_a_mixed_state_simulator_did():
    rng = np.random.default_rng(0)
    X, kept = rng.uniform(-1, 1, (4, 2)), np.array([0.95, 0.8, 0.9, 0.7])
    exact, K = global_noise_kernel(X, kept)
    assert pytest.approx(depolarised(exact, kept, 2), abs=1e-12) == K
    for method in ("split", "split_channel"):
        assert mitigate_depolarizing_noise(K, 2, method) == pytest.approx(exact, abs=1e-10)
    # One rate for all is right only where all have the same.
    average = mitigate_depolarizing_noise(K, 2, "average")
    assert 1e-3 < np.abs(average - exact).max() < np.abs(K - exact).max()
    exact, K = global_noise_kernel(X, np.full(4, 0.85))
    for method in ("single", "average"):
        assert mitigate_depolarizing_noise(K, 2, method) == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("method", ["single", "average", "split"])
def test_mitigation_is_pennylanes(method):
    rng = np.random.default_rng(3)
    K = depolarised(higham(noisy(6)), rng.uniform(0.7, 0.99, 6), 3)
    theirs = {"split": "split_channel"}.get(method, method)
    assert mitigate_depolarizing_noise(K, 3, method) == pytest.approx(
        qml.kernels.mitigate_depolarizing_noise(K, 3, theirs), abs=1e-12
    )
    for entries in ((2,),) if method == "single" else ((0, 3), [5]) if method == "average" else ():
        assert mitigate_depolarizing_noise(K, 3, method, use_entries=entries) == pytest.approx(
            qml.kernels.mitigate_depolarizing_noise(K, 3, theirs, use_entries=entries), abs=1e-12
        )
    assert gradcheck(lambda k: mitigate_depolarizing_noise(k, 3, method), torch.tensor(K, requires_grad=True))
    found, report = repair_matrix(K, f"mitigate_{method}", "closest_psd", n_qubits=3)
    assert (found.diagonal() == 1).all() and report.steps == (f"mitigate_{method}", "closest_psd")


@pytest.mark.parametrize("method", ["single", "average", "split"])
def test_a_diagonal_that_was_not_measured_is_refused(method):
    """PennyLane's mitigations change nothing then, and say nothing."""
    K = depolarised(higham(noisy(4)), np.full(4, 0.8), 3)
    np.fill_diagonal(K, 1.0)
    theirs = {"split": "split_channel"}.get(method, method)
    assert qml.kernels.mitigate_depolarizing_noise(K, 3, theirs) == pytest.approx(K)
    with pytest.raises(InvalidInputError, match="exactly 1.*measure it"):
        mitigate_depolarizing_noise(K, 3, method)
    K[0, 0] = 1 / 8
    np.fill_diagonal(K[1:, 1:], 1 / 9)
    with pytest.raises(InvalidInputError, match="nothing but noise"):
        mitigate_depolarizing_noise(K, 3, method)


def test_some_lucky_diagonal_entries_are_no_reason_to_refuse():
    K = depolarised(higham(noisy(4)), np.full(4, 0.9), 3)
    K[1, 1] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(mitigate_depolarizing_noise(K, 3, "split")).all()


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "function", [*ALL.values(), lambda K: mitigate_depolarizing_noise(K, 2), lambda K: repair_matrix(K, "flip")]
)
def test_what_is_no_matrix_is_refused(function):
    with pytest.raises(InvalidInputError, match="shape \\(2, 3\\), expected a square matrix"):
        function(np.ones((2, 3)))
    with pytest.raises(InvalidInputError, match="expected a square matrix"):
        function([1.0, 2.0])
    with pytest.raises(InvalidInputError, match="expected a square matrix"):
        function(torch.ones(3))
    with pytest.raises(InvalidInputError, match="K\\[0, 1\\] is nan, expected finite"):
        function(np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(InvalidInputError, match="K is complex"):
        function(np.eye(2) * 1j)
    with pytest.raises(InvalidInputError, match="rectangular"):
        function([[1.0, 2.0], [3.0]])
    with pytest.raises(InvalidInputError, match="nothing to compute"):
        function(np.zeros((0, 0)))


def test_unknown_names_and_arguments_are_refused():
    K = 0.9 * np.eye(3)
    with pytest.raises(InvalidInputError, match="unknown repair 'treshold'; did you mean 'threshold'"):
        repair_matrix(K, "treshold")
    with pytest.raises(InvalidInputError, match="no step is given.*'closest_psd'"):
        repair_matrix(K)
    with pytest.raises(InvalidInputError, match="'mitigate_split' needs n_qubits="):
        repair_matrix(K, "threshold", "mitigate_split")
    with pytest.raises(InvalidInputError, match="unknown method 'mean'"):
        mitigate_depolarizing_noise(K, 2, "mean")
    with pytest.raises(InvalidInputError, match="n_qubits is 0"):
        mitigate_depolarizing_noise(K, 0)
    for method, entries, match in [
        ("split", [0], "needs every diagonal entry"),
        ("single", [0, 1], "one index"),
        ("average", [], "indices"),
        ("average", [3], "from 0 to 2"),
        ("average", [-1], "from 0 to 2"),
        ("average", [0.5], "indices"),
    ]:
        with pytest.raises(InvalidInputError, match=match):
            mitigate_depolarizing_noise(K, 2, method, use_entries=entries)


def test_what_does_not_converge_says_so():
    with pytest.raises(DQKError, match="scale K"):
        closest_psd_matrix(1e6 * noisy(10))
