"""Kernel values of a QK-LSTM from a device that measures.

The forward pass asks for each time step's values when their turn comes. Which angles the derivatives need is known once it is
over, so the shifts of all time steps go out as one batch: the backward pass waits for the device once, not at every step.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from dqk._estimate import SampledJob
from dqk._pooled import Executor
from dqk._run import Observer
from dqk._sampled import slopes
from dqk.backends.autograd import first_derivative_only
from dqk.backends.shifts import circuits_for_gradient
from dqk.circuit import Circuit
from dqk.store.jobs import JobLog


@dataclass
class Spent(Observer):
    """What was submitted to devices, without what cost nothing after all.

    Attributes:
        jobs: how many.
        circuits: in them.
        shots: of all circuits.
        device_s: seconds of the device, as it predicts them.
    """

    jobs: int = 0
    circuits: int = 0
    shots: int = 0
    device_s: float = 0.0

    def submitted(self, circuits: int, shots: int, device_s: float) -> None:
        """Counts."""
        self.jobs += 1
        self.circuits += circuits
        self.shots += shots
        self.device_s += device_s

    def refunded(self, circuits: int, shots: int, device_s: float) -> None:
        """Takes back what was counted."""
        self.jobs -= 1
        self.circuits -= circuits
        self.shots -= shots
        self.device_s -= device_s

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Measured:
    """The values of new samples against references, for one forward pass. Calling it with data angles (b, A_d) gives (b, M).

    Args:
        job: circuit, device and shots; without a seed, or with one that no other pass has.
        executor: who runs the jobs.
        references: data angles of the references, shape (M, A_d).
        shared: shared angles of both sides, shape (A_s,).
        spent: counts what is submitted.
    """

    def __init__(self, job: SampledJob, executor: Executor, references: Tensor, shared: Tensor, spent: Spent):
        self.job, self.executor, self.references, self.shared = job, executor, references, shared
        self.observers = (spent,)
        self.steps: list[np.ndarray] = []
        self._slopes: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None] = []

    def __call__(self, angles: Tensor) -> Tensor:
        """Kernel values (b, M), differentiable in the angles, the references and the shared angles."""
        values: Tensor = _Step.apply(self, angles, self.references, self.shared)
        return values

    def measure(self, angles: Tensor) -> np.ndarray:
        """Values (b, M) of one time step."""
        left, right = self._pairs(_array(angles))
        measurement = self.job.measurement(self.executor, _array(self.shared), JobLog(None), self.observers)
        shots = None if self.job.plan is None else np.full(len(left), self.job.plan.per_entry(len(left)), np.int64)
        found = measurement.frequencies(left, right, shots, f"step-{len(self.steps)}")
        return found.reshape(len(angles), len(self.references))

    def slopes(self, step: int, right: bool, shared: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Derivatives of one step's values (b, M) by the angles of either side and the shared ones, shape (b, M, columns)."""
        if self._slopes[step] is None:
            wanted = [k for k, found in enumerate(self._slopes) if found is None]
            pairs = [self._pairs(self.steps[k]) for k in wanted]
            left, facing = (np.concatenate(side) for side in zip(*pairs, strict=True))
            which = ("left", *(["right"] if right else []), *(["shared"] if shared else []))
            found = slopes(self.job, self.executor, left, facing, _array(self.shared), self.observers, which)
            sizes = np.cumsum([len(pair[0]) for pair in pairs])[:-1]
            for k, parts in zip(wanted, zip(*(np.split(part, sizes) for part in found), strict=True), strict=True):
                shape = len(self.steps[k]), len(self.references)
                self._slopes[k] = tuple(part.reshape(*shape, -1) for part in parts)
        kept = self._slopes[step]
        assert kept is not None
        return kept

    def note(self, angles: Tensor) -> int:
        """Remembers a step for the backward pass, and gives its number."""
        self.steps.append(_array(angles))
        self._slopes.append(None)
        return len(self.steps) - 1

    def _pairs(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each sample against each reference: rows of angles, shape (b M, A_d)."""
        references = _array(self.references)
        return np.repeat(angles, len(references), axis=0), np.tile(references, (len(angles), 1))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, measured: Measured, angles: Tensor, references: Tensor, shared: Tensor) -> Tensor:
        values = measured.measure(angles)
        ctx.measured, ctx.number = measured, measured.note(angles)
        ctx.save_for_backward(angles, references, shared)
        return torch.from_numpy(values).to(angles)

    @staticmethod
    @first_derivative_only
    def backward(ctx, cotangent: Tensor):
        angles, references, shared = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:]
        weights = _array(cotangent)
        found = ctx.measured.slopes(ctx.number, needs[1], needs[2])
        sums = ("bm,bma->ba", "bm,bma->ma", "bm,bma->a")
        parts = [np.einsum(rule, weights, slope) for rule, slope in zip(sums, found, strict=True)]
        given = zip(needs, parts, (angles, references, shared), strict=True)
        return None, *(torch.from_numpy(part).to(like) if need else None for need, part, like in given)


def circuits_of(circuit: Circuit, rows: int, references: Tensor, shared: Tensor) -> tuple[int, int]:
    """Circuits that kernel values of so many samples take, and those that their derivatives take.

    Args:
        circuit: simplified.
        rows: number of samples.
        references: whose derivatives are asked for if they require gradients, shape (M, A_d).
        shared: the same, shape (A_s,).
    """
    which = ["left", *(["right"] if references.requires_grad else []), *(["shared"] if shared.requires_grad else [])]
    entries = rows * len(references)
    return entries, circuits_for_gradient(circuit, entries, tuple(which))


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().to(torch.float64).numpy())
