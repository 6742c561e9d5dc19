"""A Gaussian process whose quantum kernel gets its bandwidth, and its noise, from the data: the marginal likelihood decides.

    python examples/gaussian_process.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from dqk import FidelityKernel
from dqk.kernels import RBFKernel
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.learn import GPKernel


def main() -> None:
    """Prints hyperparameters, and how good mean and error bars are on held-out patients."""
    x, y = load_diabetes(return_X_y=True)
    x = StandardScaler().fit_transform(x[:, [2, 3, 8]])  # body-mass index, blood pressure, a serum value
    x_train, x_test, y_train, y_test = train_test_split(x, y, train_size=150, random_state=0)
    kernels = ("re-uploading, 3 qubits", FidelityKernel(reuploading_feature_map(3, layers=1))), ("RBF", RBFKernel(3))
    for name, kernel in kernels:
        chosen = ConstantKernel(1.0) * GPKernel(kernel, bandwidth=0.3) + WhiteKernel(1.0)
        model = GaussianProcessRegressor(chosen, normalize_y=True, random_state=0).fit(x_train, y_train)
        mean, deviation = model.predict(x_test, return_std=True)
        inside = np.mean(np.abs(y_test - mean) < 1.96 * deviation)
        print(f"{name}: {model.kernel_}")
        print(f"  held-out R^2 {model.score(x_test, y_test):.3f}, {100 * inside:.0f} % inside the 95 % intervals")


if __name__ == "__main__":
    main()
