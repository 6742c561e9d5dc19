"""All ranks ask for the gradient of a weighted kernel matrix, and each writes what it got."""

import sys
from pathlib import Path

import numpy as np
import torch

from dqk import FidelityKernel, gram
from dqk.kernels.feature_maps import reuploading_feature_map


def gradients_on(executor, samples, backend="auto", layers=3):
    """Gradients of sum(W * K(X, Y)) with respect to X, Y and the parameters of the kernel."""
    feature_map = reuploading_feature_map(samples.shape[1], layers, trainable="rotations")
    kernel = FidelityKernel(feature_map, backend=backend).double()
    with torch.no_grad():
        kernel.params.copy_(torch.linspace(-1, 1, kernel.params.numel()).view_as(kernel.params))
    half = len(samples) // 2
    leaves = [torch.from_numpy(part.copy()).requires_grad_() for part in (samples[:half], samples[half:])]
    k = gram(kernel, *leaves, executor=executor)
    weights = torch.cos(torch.arange(k.numel(), dtype=torch.float64)).view_as(k)
    return [found.numpy() for found in torch.autograd.grad((weights * k).sum(), [*leaves, kernel.params])]


if __name__ == "__main__":
    from mpi4py import MPI

    folder = Path(sys.argv[1])
    x, y, params = gradients_on("mpi", np.load(folder / "X.npy"), *sys.argv[2:3], *map(int, sys.argv[3:]))
    np.savez(folder / f"rank{MPI.COMM_WORLD.Get_rank()}.npz", x=x, y=y, params=params)
