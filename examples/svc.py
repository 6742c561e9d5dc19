"""A support-vector machine with a quantum kernel on iris, in three ways that are one, beside its classical twin.

    python examples/svc.py
"""

from __future__ import annotations

from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

from dqk import FidelityKernel
from dqk.kernels import RBFKernel
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.learn import KernelClassifier


def main() -> None:
    """Prints held-out accuracies."""
    x, y = load_iris(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)
    scaler = MinMaxScaler((-1, 1)).fit(x_train)
    x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
    kernel = FidelityKernel(reuploading_feature_map(4, layers=2, bandwidth=0.5))

    called = SVC(kernel=kernel).fit(x_train, y_train)
    given = SVC(kernel="precomputed").fit(kernel(x_train), y_train)
    ours = KernelClassifier(kernel).fit(x_train, y_train)
    print(f"a callable:       accuracy {called.score(x_test, y_test):.3f}")
    print(f"a matrix:         accuracy {given.score(kernel(x_test, x_train), y_test):.3f}")
    print(f"KernelClassifier: accuracy {ours.score(x_test, y_test):.3f}")
    twin = KernelClassifier(RBFKernel(4, bandwidth=0.5)).fit(x_train, y_train)
    print(f"the classical twin: accuracy {twin.score(x_test, y_test):.3f}")


if __name__ == "__main__":
    main()
