"""A grid search over the bandwidth of a quantum kernel and of its classical twin, under one protocol, on a breast-cancer data set.

    python examples/grid_search.py
"""

from __future__ import annotations

from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dqk import FidelityKernel
from dqk.kernels import RBFKernel
from dqk.kernels.feature_maps import zz_feature_map
from dqk.learn import KernelClassifier

GRID = {"kernelclassifier__kernel__bandwidth": [0.03, 0.1, 0.3, 1.0], "kernelclassifier__C": [1.0, 10.0]}


def main() -> None:
    """Prints what was chosen by cross-validation, and the accuracy on held-out samples."""
    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
    for name, kernel in (("ZZ, 4 qubits", FidelityKernel(zz_feature_map(4))), ("RBF", RBFKernel(4))):
        model = make_pipeline(StandardScaler(), PCA(4, random_state=0), KernelClassifier(kernel))
        search = GridSearchCV(model, GRID, cv=4).fit(x_train, y_train)
        chosen = ", ".join(f"{key.rpartition('__')[2]} {value:g}" for key, value in search.best_params_.items())
        print(f"{name}: {chosen}, held-out accuracy {search.score(x_test, y_test):.3f}")


if __name__ == "__main__":
    main()
