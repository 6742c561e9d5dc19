"""How often the entries of a kernel matrix are measured on a quantum processor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from dqk.errors import InvalidInputError, real_number, whole_number

Duplicates = Literal["off_diagonal", "all", "none"]


@dataclass(frozen=True, eq=False)
class ShotPlan:
    """Measurements of the entries of a kernel matrix; `FidelityKernel(..., shots=1000)` is `shots=ShotPlan(1000)`.

    Args:
        shots: measurements of each entry. With `allocation="variance"` those of the pilot, which every entry gets; None for a
            number that suits the budget.
        allocation: `uniform`: the same for all. `weighted`: in proportion to the weights. `variance`: a pilot, then what is left
            of the budget where it lowers the error of K most, weights counted, see `dqk.scheduler.variance_driven`.
        budget: measurements in all, checks of calibration included, never exceeded; None for `shots` times the number of entries.
            What is sure to cost more is refused before the first job.
        budget_s: seconds of the device in all, as the device's own figures predict them, never exceeded; None for any.
        weights: how much each entry counts, shape (N, M), from 0: such as |alpha_i alpha_j| of a support vector machine.
        max_circuits_per_job: fewer than the device takes; smaller jobs share work among devices more evenly.
        evaluate_duplicates: entries of equal samples, as in qiskit-machine-learning: `off_diagonal` measures all but the diagonal
            of a symmetric matrix, which is 1; `all` measures it too; `none` measures no entry of two equal samples.

    Raises:
        InvalidInputError: with everything that is wrong.
    """

    shots: int | None = None
    allocation: Literal["uniform", "variance", "weighted"] = "uniform"
    budget: int | None = None
    budget_s: float | None = None
    weights: Any = None
    max_circuits_per_job: int | None = None
    evaluate_duplicates: Duplicates = "off_diagonal"

    def __post_init__(self) -> None:
        problems = []
        for name in ("shots", "budget", "max_circuits_per_job"):
            if getattr(self, name) is not None:
                try:
                    object.__setattr__(self, name, whole_number(name, getattr(self, name), 1, "None or "))
                except InvalidInputError as error:
                    problems.append(str(error))
        if self.budget_s is not None:
            try:
                object.__setattr__(self, "budget_s", real_number("budget_s", self.budget_s, 0.0))
            except InvalidInputError as error:
                problems.append(str(error))
        if self.allocation not in ("uniform", "variance", "weighted"):
            problems.append(f"allocation is {self.allocation!r}, expected 'uniform', 'variance' or 'weighted'")
        elif self.allocation != "uniform" and self.budget is None:
            problems.append(f"allocation={self.allocation!r} shares out a budget, and none is given")
        elif (self.allocation == "weighted") > (self.weights is not None):
            problems.append("allocation='weighted' needs weights")
        if self.evaluate_duplicates not in ("off_diagonal", "all", "none"):
            problems.append(
                f"evaluate_duplicates is {self.evaluate_duplicates!r}, expected 'off_diagonal', 'all' or 'none'"
            )
        if self.shots is None and self.budget is None:
            problems.append("neither shots nor budget is given: ShotPlan(1000), or ShotPlan(budget=1_000_000)")
        if self.weights is not None:
            if self.allocation == "uniform":
                problems.append("weights are for allocation='weighted' or 'variance'")
            try:
                object.__setattr__(self, "weights", _weights(self.weights))
            except InvalidInputError as error:
                problems.append(str(error))
        if problems:
            raise InvalidInputError("\n".join(problems))

    def total(self, entries: int) -> int:
        """Measurements in all that so many entries may take."""
        return self.budget if self.budget is not None else (self.shots or 0) * entries

    def per_entry(self, entries: int) -> int:
        """Measurements of every entry, if all get the same.

        Raises:
            InvalidInputError: if the budget is too small for that.
        """
        wanted = self.shots or max(1, self.total(entries) // max(1, entries))
        if wanted * entries > self.total(entries):
            raise InvalidInputError(
                f"{entries:,} entries with {wanted:,} shot{'s' * (wanted > 1)} each need {entries * wanted:,}, the budget is "
                f"{self.budget:,}; give a larger budget or fewer shots"
            )
        return wanted

    def to_dict(self) -> dict[str, Any]:
        """What values depend on, for JSON: a cap on what is spent is not part of it."""
        found: dict[str, Any] = {"shots": self.shots, "duplicates": self.evaluate_duplicates}
        if self.shots is None or self.allocation != "uniform":
            found["budget"] = self.budget
        if self.allocation != "uniform":
            found["allocation"] = self.allocation
        if self.weights is not None:
            found["weights"] = hashlib.blake2b(self.weights.tobytes(), digest_size=8).hexdigest()
        return found


def _weights(given: Any) -> np.ndarray:
    expected = "expected a matrix (N, M) of numbers from 0, one for each entry"
    try:
        array = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
    except (ValueError, RuntimeError) as error:  # ragged; tensors in a list
        raise InvalidInputError(f"weights are no array ({error}), {expected}") from error
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(f"weights have dtype {array.dtype}, {expected}")
    if array.ndim != 2:
        raise InvalidInputError(f"weights have shape {array.shape}, {expected}")
    weights = np.array(array, np.float64)  # a copy: it is not to be written to any more
    wrong = np.argwhere(~((weights >= 0) & (weights < np.inf)))
    if len(wrong):
        i, j = wrong[0]
        raise InvalidInputError(f"weights[{i}, {j}] is {weights[i, j]:g}, {expected}")
    if not weights.any():
        raise InvalidInputError(f"weights are all 0 (shape {weights.shape}), {expected}, and some above 0")
    weights.setflags(write=False)
    return weights
