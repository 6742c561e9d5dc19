"""A fleet as one device that measures: each row by one of its devices, as often as those have measured in an emulated run.

Choose it to see what the errors of a run do to something else than its matrix, such as a QK-LSTM whose kernel values it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dqk.backends.base import Capabilities
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.circuit import Circuit
from dqk.qpu.coupling import swaps
from dqk.qpu.noisy import response
from dqk.qpu.profile import Noise


class MixtureBackend(SampledBackend):
    """Rows at random devices.

    Args:
        shares: how likely each device measures a row; they sum to 1.
        devices: errors and coupling of each; None for one that computes exactly.
        seed: of what is drawn; a job's own seed is not used.
    """

    name = "mixture"
    capabilities = Capabilities(exact=False, differentiable=True, expectations=False, noisy=True)

    def __init__(self, shares: Sequence[float], devices: Sequence[tuple[Noise, str] | None], seed: int):
        self._shares, self._devices = np.asarray(shares), devices
        self._rng = np.random.default_rng(seed)

    @property
    def limits(self) -> DeviceLimits:
        """None but numbers' own."""
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
        assert shots is not None
        known = response(circuit, left, right, shared)
        found = known.exact.copy()
        who = self._rng.choice(len(self._shares), len(left), p=self._shares)
        for number, device in enumerate(self._devices):
            rows = np.flatnonzero(who == number)
            if device is not None and len(rows):
                noise, coupling = device
                p = known.measured(rows, noise, swaps(circuit.compute_uncompute(), coupling))
                found[rows] = self._rng.binomial(shots, np.clip(p, 0.0, 1.0)) / shots
        return found
