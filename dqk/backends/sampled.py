"""Backends that run one circuit for each entry: `k(x, y)` is how often `U(y)^dagger U(x)|0...0>` is found as 0...0.

Quantum processors and simulators of them are such backends. Entries go out in jobs: one circuit, a table of angles.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dqk.backends.base import Backend
from dqk.backends.shifts import Jacobian, shift_terms
from dqk.circuit import Circuit
from dqk.errors import UnsupportedError

SIDE = 32
"""Of a tile of a measured matrix."""

_ROWS = 4096  # of a job, where the device sets no limit: bounds the memory that its tables take


@dataclass(frozen=True)
class DeviceLimits:
    """What a device accepts, and what it takes.

    Attributes:
        max_circuits_per_job: rows of a job's table; None if any number.
        max_shots: measurements of one circuit; None if any number.
        seeded: a job's counts are fixed by its seed.
        recovers: a job that was submitted can be found again, by its tag or its number.
        priced: running it costs something: nothing is submitted twice.
        job_s: seconds of the device that a job takes beside its circuits.
        circuit_s: seconds of the device that a circuit takes beside its shots.
        shot_s: seconds of the device that a shot takes.
        price_per_job, price_per_s, price_per_shot: what a job costs, in `currency`.
        currency: of prices.
    """

    max_circuits_per_job: int | None = None
    max_shots: int | None = None
    seeded: bool = False
    recovers: bool = False
    priced: bool = False
    job_s: float = 0.0
    circuit_s: float = 0.0
    shot_s: float = 0.0
    price_per_job: float = 0.0
    price_per_s: float = 0.0
    price_per_shot: float = 0.0
    currency: str = ""

    def seconds(self, circuits: int, shots: int, jobs: int = 1) -> float:
        """Seconds of the device for jobs with so many circuits and shots in all."""
        return jobs * self.job_s + circuits * self.circuit_s + shots * self.shot_s

    def price(self, circuits: int, shots: int, jobs: int = 1) -> float:
        """What they cost, in `currency`."""
        return (
            jobs * self.price_per_job
            + self.price_per_s * self.seconds(circuits, shots, jobs)
            + self.price_per_shot * shots
        )


class SampledBackend(Backend):
    """A backend whose entries are frequencies. `capabilities.exact` says whether it can also give probabilities (shots=None).

    `fidelity`, `fidelity_vjp` and `fidelity_jacobian` measure each entry `default_shots` times, or ask for probabilities if
    that is None. K of one set of samples has a unit diagonal, which is not measured, and one value for (i, j) and (j, i).
    """

    parallel: bool = False
    """Whether several threads may call `run` at once."""
    default_shots: int | None = None
    """Measurements of an entry where the caller names no number."""

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

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Small: a tile is a unit of storage here, jobs are cut by the device's limit."""
        return SIDE

    def close(self) -> None:  # noqa: B027  # most devices hold nothing open
        """Lets go of connections; the next job opens them again."""

    def answers(self) -> bool:
        """Whether the device can be reached now."""
        return True

    def attach(self, job: str) -> np.ndarray | None:
        """What `run` would have given, for a job that was submitted before, by the name that `told` heard; None if unknown."""
        return None

    def _values(self, circuit: Circuit, left: np.ndarray, right: np.ndarray, shared: np.ndarray) -> np.ndarray:
        """Values of rows in jobs that the device accepts, shape (P,)."""
        self.check_supported(circuit)
        shots = self.default_shots
        if shots is None and not self.capabilities.exact:
            raise UnsupportedError(
                f"backend {self.name!r} gives frequencies, not probabilities, and the number of shots is missing; "
                "give shots=1000, say, where you make the kernel or the backend"
            )
        step = self.limits.max_circuits_per_job or _ROWS
        parts = [
            self.run(circuit, left[start : start + step], right[start : start + step], shared, shots)
            for start in range(0, len(left), step)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _fidelity(self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Tensor:
        rows, columns = _entries(len(ax), None if ay is None else len(ay))
        x, w = _array(ax), _array(shared)
        y = x if ay is None else _array(ay)
        values = ax.new_tensor(self._values(circuit, x[rows], y[columns], w))
        k = ax.new_ones(len(x), len(y))
        k[rows, columns] = values
        if ay is None:
            k[columns, rows] = values
        return k

    def _fidelity_vjp(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        weights = folded(_array(cotangent), ay is None)
        rows, columns = np.nonzero(weights)  # circuits cost something: none for entries that nobody asks for
        slopes = self._slopes(circuit, ax, ax if ay is None else ay, shared, rows, columns)
        shape = (len(ax), None if ay is None else len(ay))
        found = pulled_back(weights[rows, columns], slopes, rows, columns, shape)
        dax, day, dshared = (None if part is None else ax.new_tensor(part) for part in found)
        assert dax is not None and dshared is not None
        return dax, day, dshared

    def _fidelity_jacobian(self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Jacobian[Tensor]:
        rows, columns = _entries(len(ax), None if ay is None else len(ay))
        slopes = self._slopes(circuit, ax, ax if ay is None else ay, shared, rows, columns)
        parts = []
        for slope, mirrored in zip(slopes, (slopes.right, slopes.left, slopes.shared), strict=True):
            part = ax.new_zeros(len(ax), len(ax if ay is None else ay), slope.shape[1])
            part[rows, columns] = ax.new_tensor(slope)
            if ay is None:
                part[columns, rows] = ax.new_tensor(mirrored)
            parts.append(part)
        return Jacobian(*parts)

    def _slopes(
        self, circuit: Circuit, ax: Tensor, ay: Tensor, shared: Tensor, rows: np.ndarray, columns: np.ndarray
    ) -> Jacobian[np.ndarray]:
        terms = shift_terms(circuit)
        left, right = terms.shifted(_array(ax)[rows], _array(ay)[columns], _array(shared))
        return terms.jacobian(self._values(terms.circuit, left, right, np.empty(0)), len(rows))

    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor:
        raise UnsupportedError(f"backend {self.name!r} gives no expectation values; use 'statevector'")

    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        raise UnsupportedError(f"backend {self.name!r} gives no expectation values; use 'statevector'")


def folded(cotangent: np.ndarray, symmetric: bool) -> np.ndarray:
    """The weight of each entry's derivatives, shape (N, M): of a symmetric matrix those above the diagonal stand for both.

    The diagonal has none, for k(x, x) = 1 whatever x.
    """
    return np.triu(cotangent + cotangent.T, 1) if symmetric else cotangent


def pulled_back(
    weights: np.ndarray,
    slopes: Jacobian[np.ndarray],
    rows: np.ndarray,
    columns: np.ndarray,
    shape: tuple[int, int | None],
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Cotangents of the angles from the derivatives of some entries.

    Args:
        weights: of the entries, as in `folded`, shape (E,).
        slopes: derivatives of the entries, E rows each.
        rows: of the entries, shape (E,).
        columns: of the entries, shape (E,).
        shape: (N, M), or (N, None) for a symmetric matrix, of whose samples each entry has two.

    Returns:
        Cotangents of the angles of x (N, A_d), of y (M, A_d) or None, and of the shared ones (A_s,).
    """
    dax = np.zeros((shape[0], slopes.left.shape[1]))
    day = dax if shape[1] is None else np.zeros((shape[1], slopes.right.shape[1]))
    np.add.at(dax, rows, weights[:, None] * slopes.left)
    np.add.at(day, columns, weights[:, None] * slopes.right)
    return dax, None if shape[1] is None else day, weights @ slopes.shared


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().to(torch.float64).numpy()


def _entries(n: int, m: int | None) -> tuple[np.ndarray, ...]:
    """Rows and columns of the entries to measure: all of (N, M), or those above the diagonal of (N, N)."""
    return np.triu_indices(n, 1) if m is None else tuple(np.indices((n, m)).reshape(2, -1))
