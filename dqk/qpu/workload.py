"""What an emulated experiment computes: samples of a data set, exact kernel matrices, and how their entries answer to errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from dqk._estimate import Entries
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import BackendUnavailableError, InvalidInputError
from dqk.kernels.feature_maps import FEATURE_MAPS
from dqk.qpu.experiment import Settings
from dqk.qpu.noisy import Response, response

_LEAST_WEIGHT = 0.05  # of an entry that no support vector needs, beside the largest


@dataclass(frozen=True, eq=False)
class Part:
    """One kernel matrix.

    Attributes:
        entries: that are measured.
        response: of them to errors.
        weights: how much each entry of the matrix counts, shape (N, M).
    """

    entries: Entries
    response: Response
    weights: np.ndarray

    @property
    def importance(self) -> np.ndarray:
        """Weight of each measured entry, shape (E,)."""
        return np.asarray(self.weights[self.entries.rows, self.entries.columns])

    def exact(self) -> np.ndarray:
        """The matrix without errors, shape (N, M)."""
        return self.entries.matrix(self.response.exact, 1.0)


@dataclass(frozen=True, eq=False)
class Workload:
    """The matrices of an experiment.

    Attributes:
        circuit: simplified.
        train: of the training samples, symmetric.
        test: of the test samples against those.
        labels: of the training and the test samples, 0 or 1.
        penalty: C of the support-vector machine.
    """

    circuit: Circuit
    train: Part
    test: Part
    labels: tuple[np.ndarray, np.ndarray]
    penalty: float

    def accuracy(self, train: np.ndarray, test: np.ndarray) -> float:
        """Of a support-vector machine with these matrices, on the test samples."""
        machine = _svc(self.penalty).fit(train, self.labels[0])
        return float(machine.score(test, self.labels[1]))


def workload(settings: Settings) -> Workload:
    """The matrices that settings ask for; the same settings give the same object while it is among the last ones."""
    return _workload(
        settings.data,
        settings.samples,
        settings.test_samples,
        settings.qubits,
        settings.feature_map,
        settings.bandwidth,
        settings.penalty,
        settings.seed,
    )


@lru_cache(maxsize=8)
def _workload(
    data: str, samples: int, tests: int, qubits: int, feature_map: str, bandwidth: float, penalty: float, seed: int
) -> Workload:
    x, y = _samples(data, samples + tests, qubits, seed)
    chosen = FEATURE_MAPS[feature_map](qubits, bandwidth=bandwidth)  # type: ignore[operator]
    angles, shared = (t.numpy() for t in chosen.angles(torch.from_numpy(x)))
    circuit = simplify_for_fidelity(chosen.circuit).circuit
    first, second = angles[:samples], angles[samples:]
    matrices = Entries(first, None, "off_diagonal"), Entries(second, first, "off_diagonal")
    answers = [response(circuit, e.left[e.rows], e.right[e.columns], shared) for e in matrices]
    exact = matrices[0].matrix(answers[0].exact, 1.0)
    alpha = _support(exact, y[:samples], penalty)
    weights = np.outer(alpha, alpha), np.tile(alpha, (tests, 1))
    train, test = (Part(*part) for part in zip(matrices, answers, weights, strict=True))
    return Workload(circuit, train, test, (y[:samples], y[samples:]), penalty)


def _support(kernel: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    """How much each training sample counts: its coefficient in a support-vector machine on the exact matrix, and a little more."""
    if len(np.unique(labels)) < 2:
        raise InvalidInputError(
            f"the {len(labels)} training samples are all of one class; give more samples, or another seed"
        )
    machine = _svc(penalty).fit(kernel, labels)
    found = np.zeros(len(kernel))
    found[machine.support_] = np.abs(machine.dual_coef_).sum(axis=0)
    found /= found.max()
    return np.maximum(found, _LEAST_WEIGHT)


def _svc(penalty: float) -> Any:
    return _sklearn("svm").SVC(kernel="precomputed", C=penalty)


def _samples(data: str, count: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples scaled to [-1, 1] on their principal components, and labels 0 and 1, as many of each as can be."""
    rng = np.random.default_rng(seed)
    if data == "random":
        x = rng.uniform(-1, 1, (count, features))
        y = (np.arange(count) % 2).astype(int)
        return x, y
    x, y = getattr(_sklearn("datasets"), f"load_{data}")(return_X_y=True)
    if data != "breast_cancer":
        kept = y < 2 if data == "wine" else (y == 3) | (y == 8)  # digits that are easily confused
        x, y = x[kept], (y[kept] == y[kept].max()).astype(int)
    if count > len(x):
        raise InvalidInputError(f"{count} samples and test samples of {data!r}, it has {len(x)}")
    if features > x.shape[1]:
        raise InvalidInputError(f"{features} qubits for {data!r}, whose samples have {x.shape[1]} features")
    order = np.concatenate([rng.permutation(np.flatnonzero(y == label)) for label in (0, 1)])
    turn = np.concatenate([np.arange((y == label).sum()) / (y == label).sum() for label in (0, 1)])
    chosen = order[np.argsort(turn, kind="stable")][:count]
    chosen = chosen[rng.permutation(count)]
    z = _sklearn("preprocessing").StandardScaler().fit_transform(x)
    z = _sklearn("decomposition").PCA(features, random_state=0).fit_transform(z)[chosen]
    return np.ascontiguousarray(2 * (z - z.min(axis=0)) / np.ptp(z, axis=0) - 1), y[chosen]


def _sklearn(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{name}")
    except ImportError as error:
        raise BackendUnavailableError(
            "data sets and support-vector machines need scikit-learn: pip install scikit-learn"
        ) from error
