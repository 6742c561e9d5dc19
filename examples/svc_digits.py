"""Handwritten digits with a quantum kernel on worker processes: PCA, a support-vector machine, and a grid search over C.

    python examples/svc_digits.py --executor processes --workers 2

Needs scikit-learn. The kernel is an ordinary callable to it; the matrices are computed by the workers.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

from dqk import FidelityKernel
from dqk.cluster import open_pool
from dqk.kernels.feature_maps import reuploading_feature_map


def main() -> None:
    """Prints the chosen C and the accuracy on held-out digits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executor", default="processes", help="inline, processes or ray")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--features", type=int, default=6, help="principal components, one qubit each")
    parser.add_argument("--samples", type=int, default=600)
    given = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(x))[: given.samples]
    x_train, x_test, y_train, y_test = train_test_split(x[chosen], y[chosen], test_size=0.25, random_state=0)
    with open_pool(given.executor, given.workers) as pool:
        kernel = FidelityKernel(reuploading_feature_map(given.features, layers=2, bandwidth=0.5), executor=pool)
        model = make_pipeline(PCA(given.features, random_state=0), MinMaxScaler((-1, 1)), SVC(kernel=kernel))
        search = GridSearchCV(model, {"svc__C": [1.0, 10.0, 100.0]}, cv=3).fit(x_train, y_train)
        print(f"C = {search.best_params_['svc__C']:g}, held-out accuracy {search.score(x_test, y_test):.3f}")


if __name__ == "__main__":
    main()
