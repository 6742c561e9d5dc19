"""A quantum processor without noise, simulated: exact probabilities, then measurements.

Choose it to try out shots, budgets and fleets on a laptop. `FidelityKernel(..., shots=1000)` with a simulator gives such
frequencies faster, tile by tile; this one takes jobs, as a device does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dqk.backends.base import Capabilities
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit

_CHUNK = 256  # rows


class SimulatedBackend(SampledBackend):
    """Probabilities from statevectors, and binomial counts of them."""

    name = "simulated"
    parallel = True
    capabilities = Capabilities(exact=True, differentiable=True, expectations=False, max_qubits=20)

    def __init__(self) -> None:
        self._states = StatevectorBackend()

    @property
    def limits(self) -> DeviceLimits:
        """No limits but memory; a job is fixed by its seed."""
        return DeviceLimits(max_shots=2**53 - 1, seeded=True)

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
        """See `SampledBackend.run`."""
        self.check_supported(circuit)
        parts = [
            self._probabilities(circuit, left[start : start + _CHUNK], right[start : start + _CHUNK], shared)
            for start in range(0, len(left), _CHUNK)
        ]
        found = np.concatenate(parts) if parts else np.zeros(0)
        if shots is None:
            return found
        return np.random.default_rng(seed).binomial(shots, found) / shots

    def _probabilities(self, circuit: Circuit, left: np.ndarray, right: np.ndarray, shared: np.ndarray) -> np.ndarray:
        x, y = (self._states.encode(circuit, torch.tensor(angles), torch.tensor(shared)) for angles in (left, right))
        re, im = (x[0] * y[0] + x[1] * y[1]).sum(0), (x[1] * y[0] - x[0] * y[1]).sum(0)
        return (re**2 + im**2).clamp(0.0, 1.0).numpy()
