"""Nystroem features of a quantum kernel with a linear model, beside the whole kernel matrix, on handwritten digits.

    python examples/nystroem.py

For so few samples and qubits the whole matrix is the quicker one; `benchmarks/learning.py` measures where it is not.
"""

from __future__ import annotations

import argparse
import time

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dqk import FidelityKernel
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.learn import KernelClassifier, NystroemFeatures


def main() -> None:
    """Prints accuracy on held-out digits, and seconds once code is compiled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landmarks", type=int, default=200)
    given = parser.parse_args()
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    kernel = FidelityKernel(reuploading_feature_map(8, layers=1, bandwidth=0.15))
    kernel(x_train[:2, :8])  # compiles code for this circuit's width, once on a machine: seconds below are without it
    features = NystroemFeatures(kernel, given.landmarks, landmarks="k-means++", random_state=0)
    for name, model in (
        (f"{given.landmarks} landmarks", make_pipeline(features, RidgeClassifier(alpha=0.01))),
        ("whole matrix", KernelClassifier(kernel, C=10.0)),
    ):
        start = time.perf_counter()
        fitted = make_pipeline(PCA(8, random_state=0, whiten=True), StandardScaler(), model).fit(x_train, y_train)
        accuracy = fitted.score(x_test, y_test)
        print(f"{name}: held-out accuracy {accuracy:.3f}, {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
