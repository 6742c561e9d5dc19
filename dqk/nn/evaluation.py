"""Kernel values between new samples and references that were encoded once.

A backend that encodes samples does so once for the references and once per time step; any other computes pairs.
"""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from dqk.backends import Backend, EncodingBackend, autograd
from dqk.circuit import Circuit


class Evaluator(abc.ABC):
    """`k(x, y) = |<phi(x)|phi(y)>|^2` in two steps: states of each side, then their kernel values."""

    @abc.abstractmethod
    def states(self, angles: Tensor, shared: Tensor) -> Any:
        """What can be done with one side alone; data angles (N, A_d), shared angles (A_s,)."""

    @abc.abstractmethod
    def values(self, new: Any, references: Any) -> Tensor:
        """`K[i, j] = k(new_i, reference_j)`, shape (N, M), from what `states` gave; differentiable in all angles."""


class EncodedEvaluator(Evaluator):
    """For backends that overlap encodings. The circuit is simplified already."""

    def __init__(self, backend: EncodingBackend, circuit: Circuit):
        self.backend = backend
        self.circuit = circuit

    def states(self, angles: Tensor, shared: Tensor) -> Tensor:
        """Encodings, shape (..., N)."""
        return autograd.encode(self.backend, self.circuit, angles, shared)

    def values(self, new: Tensor, references: Tensor) -> Tensor:
        """Overlaps of encodings."""
        return autograd.overlap(self.backend, new, references)


class PairwiseEvaluator(Evaluator):
    """For backends that take both samples of an entry at once, as hardware does."""

    def __init__(self, backend: Backend, circuit: Circuit):
        self.backend = backend
        self.circuit = circuit

    def states(self, angles: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """The angles themselves."""
        return angles, shared

    def values(self, new: tuple[Tensor, Tensor], references: tuple[Tensor, Tensor]) -> Tensor:
        """The backend's fidelities."""
        return autograd.fidelity(self.backend, self.circuit, new[0], references[0], new[1])


def evaluator(backend: Backend, circuit: Circuit) -> Evaluator:
    """The evaluator that fits a backend."""
    if isinstance(backend, EncodingBackend):
        return EncodedEvaluator(backend, circuit)
    return PairwiseEvaluator(backend, circuit)
