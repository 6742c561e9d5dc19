"""All ranks ask for one matrix with `auto`, and differ in the memory that they may use: rank 0 alone has little."""

import os
from hashlib import sha256

import numpy as np
import torch
from ranks import FOLDER, RANK, tell

from dqk import FidelityKernel, gram
from dqk.backends.choice import choose
from dqk.kernels.feature_maps import ising_feature_map
from dqk.store.files import read_description

os.environ["DQK_MEMORY_MIB"] = "7" if RANK == 0 else "1000"
kernel = FidelityKernel(ising_feature_map(10, reps=3))
x = np.random.default_rng(0).uniform(-1, 1, (140, 10))

tell(alone=choose(kernel.circuit, torch.float64))
found = gram(kernel, x, executor="mpi")
tell(digest=sha256(found.tobytes()).hexdigest())
stored = gram(kernel, x, executor="mpi", store=FOLDER / "K.zarr")
tell(
    stored=sha256(np.ascontiguousarray(stored[:, :]).tobytes()).hexdigest(),
    name=read_description(FOLDER / "K.zarr").backend,
)
os.environ["DQK_MEMORY_MIB"] = "1000"
again = gram(kernel, np.concatenate([x, x[:4] + 0.1]), executor="mpi", store=FOLDER / "K.zarr")
tell(grown=list(again.shape), still=read_description(FOLDER / "K.zarr").backend)
