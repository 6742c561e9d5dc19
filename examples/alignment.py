"""A feature map trained by kernel-target alignment before any model is fitted, and its classical twin trained the same way.

    python examples/alignment.py

The data are 569 biopsies (breast cancer or not), of which 60 are for training.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dqk import FidelityKernel, Kernel
from dqk.kernels import RBFKernel, target_alignment
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.learn import KernelClassifier


def train(kernel: Kernel, x: torch.Tensor, labels: object, steps: int = 40) -> float:
    """Raises the alignment with the labels; gives what it has become."""
    optimizer = torch.optim.Adam(kernel.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        alignment = target_alignment(kernel(x), labels)
        (-alignment).backward()
        optimizer.step()
    return alignment.item()


def main() -> None:
    """Prints alignment and held-out accuracy, before and after."""
    x_train, x_test, y_train, y_test = train_test_split(
        *load_breast_cancer(return_X_y=True), train_size=60, random_state=0
    )
    prepare = make_pipeline(StandardScaler(), PCA(5, random_state=0)).fit(x_train)
    x_train, x_test = prepare.transform(x_train), prepare.transform(x_test)
    quantum = FidelityKernel(reuploading_feature_map(5, layers=2, trainable="scale", bandwidth=0.5))
    for name, kernel in (("re-uploading", quantum), ("RBF", RBFKernel(5, bandwidth=0.5, trainable="scale"))):
        before = KernelClassifier(kernel).fit(x_train, y_train).score(x_test, y_test)
        start = target_alignment(kernel(x_train), y_train)
        end = train(kernel, torch.from_numpy(x_train), y_train)
        after = KernelClassifier(kernel).fit(x_train, y_train).score(x_test, y_test)
        print(f"{name}: alignment {start:.3f} -> {end:.3f}, held-out accuracy {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
