"""Nystroem features: 20,000 samples with 500 landmarks, and a linear SVM on them beside the SVM of the whole kernel matrix.

    python benchmarks/learning.py

Data are scikit-learn's digits; "digits-like" ones are digits drawn with replacement, with noise, 8 principal components. The SVMs
compare, on 12 principal components and 12 qubits, `KernelClassifier` (whole matrix, columns of support vectors when it predicts)
with `NystroemFeatures` and `LinearSVC`; each has the bandwidth and C that a cross-validation on the training part of split 0 chose
for it (bandwidths 0.25, 0.5, 1; C 10 and 100, or 3, 30, 300). Times are of fit and prediction on the same split, alternating;
accuracies are held out, means over five splits. Both SVMs encode every sample once, which bounds the ratio of times from below; a
device would run as many circuits as there are kernel values. The last figure is scikit-learn's `Nystroem`, called pair by pair.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from timing import alternate, machine

from dqk import FidelityKernel
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.learn import KernelClassifier, NystroemFeatures


def many_samples(count: int, landmarks: int) -> dict[str, float]:
    """Seconds of fit and transform, by the way in which landmarks are chosen; code is compiled before."""
    x, _ = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    drawn = x[rng.integers(0, len(x), count)] + rng.normal(scale=1.0, size=(count, x.shape[1]))
    samples = PCA(8, random_state=0).fit_transform(drawn / 16)
    kernel = FidelityKernel(reuploading_feature_map(8, layers=3, bandwidth=0.5))
    kernel(samples[:200], samples[:100])
    seconds = {}
    for way in ("random", "k-means++"):
        features = NystroemFeatures(kernel, landmarks, landmarks=way, random_state=0)
        start = time.perf_counter()
        found = features.fit_transform(samples)
        seconds[way] = time.perf_counter() - start
        assert found.shape == (count, landmarks) and np.isfinite(found).all()
    return seconds


def whole_matrix() -> Any:
    """The SVM of the whole kernel matrix."""
    return KernelClassifier(FidelityKernel(reuploading_feature_map(12, layers=2, bandwidth=1.0)), C=10.0)


def by_landmarks(count: int) -> Any:
    """The linear SVM on features."""
    kernel = FidelityKernel(reuploading_feature_map(12, layers=2, bandwidth=0.5))
    features = NystroemFeatures(kernel, count, landmarks="k-means++", random_state=0)
    return make_pipeline(features, LinearSVC(C=30.0, dual=False, tol=1e-2))


def split(seed: int) -> tuple[np.ndarray, ...]:
    """Training and held-out digits, 12 principal components of the former."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, test_size=0.3, random_state=seed, stratify=y)
    pca = PCA(12, random_state=0).fit(x_train)
    return pca.transform(x_train), pca.transform(x_test), y_train, y_test


def digits(landmarks: int, repeats: int) -> dict[str, Any]:
    """Accuracies, and the ratio of times and of kernel values."""
    models = {"whole": whole_matrix, "landmarks": lambda: by_landmarks(landmarks)}
    scores: dict[str, list[float]] = {name: [] for name in models}
    for seed in range(5):
        x_train, x_test, y_train, y_test = split(seed)
        for name, make in models.items():
            scores[name].append(make().fit(x_train, y_train).score(x_test, y_test))
    x_train, x_test, y_train, y_test = split(0)
    seconds = alternate(
        {name: lambda make=make: make().fit(x_train, y_train).predict(x_test) for name, make in models.items()}, repeats
    )
    support = len(whole_matrix().fit(x_train, y_train).support_vectors_)
    n, m = len(x_train), len(x_test)
    values = landmarks * (landmarks - 1) / 2 + landmarks * (n + m), n * (n - 1) / 2 + m * support
    return {
        "landmarks": landmarks,
        "accuracy_whole": float(np.mean(scores["whole"])),
        "accuracy_landmarks": float(np.mean(scores["landmarks"])),
        "seconds_whole": seconds["whole"],
        "seconds_landmarks": seconds["landmarks"],
        "time_ratio": seconds["landmarks"] / seconds["whole"],
        "kernel_values_ratio": values[0] / values[1],
    }


def pair_by_pair() -> float:
    """How many times longer scikit-learn's `Nystroem` takes, at 60 samples and 10 landmarks."""
    x = split(0)[0][:60]
    kernel = FidelityKernel(reuploading_feature_map(12, layers=2))
    sides = {
        "theirs": lambda: Nystroem(kernel=kernel, n_components=10, random_state=0).fit_transform(x),
        "ours": lambda: NystroemFeatures(kernel, 10, random_state=0).fit_transform(x),
    }
    seconds = alternate(sides, 3)
    return seconds["theirs"] / seconds["ours"]


def main() -> None:
    """Prints the figures, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    seconds = many_samples(given.samples, 500)
    for way, value in seconds.items():
        print(f"{given.samples:,} samples, 500 landmarks ({way}), 8 qubits: {value:.2f} s (to stay under: 10 s)")
    found = [digits(landmarks, given.repeats) for landmarks in (64, 96)]
    for d in found:
        gap = d["accuracy_whole"] - d["accuracy_landmarks"]
        print(
            f"digits, {d['landmarks']} landmarks: accuracy {d['accuracy_landmarks']:.4f}, whole matrix {d['accuracy_whole']:.4f}: "
            f"{100 * gap:.2f} % less (to stay under: 1 %); time {d['seconds_landmarks']:.3f} s over {d['seconds_whole']:.3f} s = "
            f"{d['time_ratio']:.2f} (to reach: 0.1); kernel values {d['kernel_values_ratio']:.2f}"
        )
    ratio = pair_by_pair()
    print(f"scikit-learn's Nystroem, pair by pair, over NystroemFeatures (60 samples, 10 landmarks): {ratio:.0f}")
    result = {"seconds": seconds, "digits": found, "pair_by_pair": ratio, "scikit-learn": sklearn.__version__}
    print(json.dumps({**result, **machine()}))


if __name__ == "__main__":
    main()
