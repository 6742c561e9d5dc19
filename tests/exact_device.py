"""A device that runs each row's circuit by the dense reference backend: exact, and frequencies of its own seed."""

from collections.abc import Callable

import numpy as np
import torch

from dqk.backends.base import Capabilities
from dqk.backends.reference import ReferenceBackend
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.circuit import Circuit

_REFERENCE = ReferenceBackend()


class ExactDevice(SampledBackend):
    """Remembers the jobs that it ran: (circuit, number of rows, shots)."""

    name = "exact-device"
    capabilities = Capabilities(exact=True, differentiable=True, expectations=False, max_qubits=8)

    def __init__(self, max_circuits_per_job: int | None = None):
        self.jobs: list[tuple[Circuit, int, int | None]] = []
        self._limits = DeviceLimits(max_circuits_per_job, seeded=True)

    @property
    def limits(self) -> DeviceLimits:
        return self._limits

    def run(
        self,
        circuit: Circuit,
        left: np.ndarray,
        right: np.ndarray,
        shared: np.ndarray,
        shots: int | None,
        *,
        seed: int | None = None,
        tag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        self.jobs.append((circuit, len(left), shots))
        angles, weights = torch.tensor(np.hstack([left, right])), torch.tensor(np.tile(shared, 2))
        states = _REFERENCE.encode(circuit.compute_uncompute(), angles, weights)
        p = (states[:, 0] ** 2).sum(dim=0).clamp(0, 1).numpy()
        return p if shots is None else np.random.default_rng(seed).binomial(shots, p) / shots
