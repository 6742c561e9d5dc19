"""Backends that run one circuit for each entry: `k(x, y)` is how often `U(y)^dagger U(x)|0...0>` is found as 0...0.

Quantum processors and simulators of them are such backends. Entries go out in jobs: one circuit, a table of angles.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dqk.backends.base import Backend
from dqk.circuit import Circuit


@dataclass(frozen=True)
class DeviceLimits:
    """What a device accepts, and what it takes.

    Attributes:
        max_circuits_per_job: rows of a job's table; None if any number.
        max_shots: measurements of one circuit; None if any number.
        seeded: a job's counts are fixed by its seed.
        recovers: a job that was submitted can be found again, by its tag or its number.
        priced: running it costs something: nothing is submitted twice.
        job_s: seconds of the device that a job takes beside its shots.
        shot_s: seconds of the device that a shot takes.
    """

    max_circuits_per_job: int | None = None
    max_shots: int | None = None
    seeded: bool = False
    recovers: bool = False
    priced: bool = False
    job_s: float = 0.0
    shot_s: float = 0.0

    def seconds(self, jobs: int, shots: int) -> float:
        """Seconds of the device for so many jobs with so many shots in all."""
        return jobs * self.job_s + shots * self.shot_s


class SampledBackend(Backend):
    """A backend whose entries are frequencies. `capabilities.exact` says whether it can also give probabilities (shots=None)."""

    @property
    @abc.abstractmethod
    def limits(self) -> DeviceLimits:
        """What the device accepts; may ask the device once."""

    @abc.abstractmethod
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
        """One job: how often each row is found as 0...0.

        Args:
            circuit: simplified U; the device runs `circuit.compute_uncompute()`.
            left: data angles of x, shape (P, A_d), P at most `limits.max_circuits_per_job`.
            right: data angles of y, shape (P, A_d).
            shared: shared angles, shape (A_s,), the same in U(x) and U(y).
            shots: measurements of each row; None for probabilities, which a device without noise of sampling gives.
            seed: of the measurements, where the device takes one.
            tag: name of the job that the caller chose: the same tag never runs twice on a device that knows tags.
            told: is told the device's own name of the job, before its result is waited for.

        Returns:
            Relative frequencies or probabilities of 0...0, shape (P,), float64.

        Raises:
            UnsupportedError: if the device cannot run the circuit or these shots.
            ClusterError: if the device cannot be reached or gives no result; the job may then have run.
        """

    def attach(self, job: str) -> np.ndarray | None:
        """What `run` would have given, for a job that was submitted before, by the name that `told` heard; None if unknown."""
        return None
