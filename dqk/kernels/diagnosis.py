"""What a kernel really does: on paper, from its circuit, and on somebody's data.

Nothing here is a matter of taste: each finding has its evidence, and each warning says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels.alignment import centred_alignment, classes_of
from dqk.kernels.base import Kernel, evaluated
from dqk.kernels.feature_map import FeatureMap
from dqk.kernels.fidelity import FidelityKernel
from dqk.kernels.inputs import to_samples

_SHOWN = 4  # gates that cancel
_MOST = 2000  # samples; more are represented by as many of them
_SCAN = 300  # samples at which bandwidths are tried
_WORTH = 1.1  # another bandwidth's alignment over the present one's, to be mentioned
_ALIKE = 1e-9
_APART = 1e-3  # of the spread of the data: samples nearer than this are one point
_TINY = -30 * np.log(10.0)  # log k; float32 ends at 1e-38


@dataclass(frozen=True)
class CircuitFacts:
    """What follows from the circuit alone.

    Attributes:
        n_qubits, n_gates: of the feature map.
        cancelled: gates that cannot influence the kernel, each with its reason.
        factors: groups of qubits that no remaining gate connects: the kernel is a product over them.
        dead_parameters: trainable angles without influence.
        dead_angles: data angles without influence.
        constant: no data gate is left: the kernel is 1 for all samples.
    """

    n_qubits: int
    n_gates: int
    cancelled: tuple[tuple[int, str, tuple[int, ...], str], ...]
    factors: tuple[tuple[int, ...], ...]
    dead_parameters: tuple[int, ...]
    dead_angles: tuple[int, ...]
    constant: bool

    @property
    def is_product(self) -> bool:
        """Whether the kernel is a product of one-qubit kernels."""
        return all(len(factor) == 1 for factor in self.factors)

    @classmethod
    def of(cls, circuit: Circuit) -> CircuitFacts:
        """Of a fidelity kernel's whole circuit."""
        found = simplify_for_fidelity(circuit)
        return cls(
            n_qubits=circuit.n_qubits,
            n_gates=len(circuit.gates),
            cancelled=tuple((r.index, r.gate.name, r.gate.wires, r.reason) for r in found.removed),
            factors=tuple(found.circuit.factors()),
            dead_parameters=tuple(found.dead_shared),
            dead_angles=tuple(found.dead_data),
            constant=not found.circuit.columns("data"),
        )

    def sentences(self) -> list[str]:
        """For people."""
        lines = []
        if self.cancelled:
            names = ", ".join(sorted({name for _, name, _, _ in self.cancelled}))
            lines.append(f"{len(self.cancelled)} of {self.n_gates} gates cannot influence the kernel ({names})")
        if self.constant:
            lines.append("no gate that depends on the data is left: k(x, y) = 1 for all samples")
        elif self.is_product:
            lines.append(
                f"the kernel factorises: it is a product of {len(self.factors)} one-qubit kernels, without entanglement"
            )
        elif len(self.factors) > 1:
            sizes = ", ".join(str(len(factor)) for factor in self.factors)
            lines.append(f"the kernel is a product over groups of {sizes} qubits that no gate connects")
        else:
            lines.append(f"gates connect all {self.n_qubits} qubits")
        if self.dead_parameters:
            lines.append(
                f"trainable angles {_list(self.dead_parameters)} cannot influence the kernel: their gradient is zero"
            )
        if self.dead_angles:
            lines.append(f"data angles {_list(self.dead_angles)} cannot influence the kernel")
        return lines


@dataclass(frozen=True)
class DataFacts:
    """What the kernel makes of some samples.

    Attributes:
        n_samples: that were looked at.
        mean, spread, least, largest: of the entries off the diagonal.
        log_mean: mean of their natural logarithms, which does not underflow.
        effective_rank: exponential of the entropy of the spectrum, 1 to N (Roy and Vetterli 2007).
        collisions: pairs of different samples (i, j) that the kernel takes for one.
        n_collisions: how many there are.
        alignment: with labels, centred kernel-target alignment (Cortes et al. 2012); None without.
        constant_features: columns that are the same in all of them.
    """

    n_samples: int
    mean: float
    spread: float
    least: float
    largest: float
    log_mean: float
    effective_rank: float
    collisions: tuple[tuple[int, int], ...]
    n_collisions: int
    alignment: float | None
    constant_features: tuple[int, ...]


@dataclass(frozen=True)
class BandwidthTrial:
    """A bandwidth and what it gives: see `DataFacts`."""

    bandwidth: float
    mean: float
    spread: float
    effective_rank: float
    alignment: float | None


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What a kernel really does.

    Attributes:
        kernel: as it prints itself.
        circuit: facts about a fidelity kernel's circuit; None for another kernel.
        data: facts about samples; None without any.
        warnings: what is wrong and what to do, one sentence each.
        trials: bandwidths that were tried on some of the samples.
        bandwidth: the one that is suggested, of the largest alignment or, without labels, the widest spread; None if the
            present one will do.
        logs: natural logarithms of the kernel matrix that was looked at, shape (N, N); None without samples.
        labels: of its samples; None without.
    """

    kernel: str
    circuit: CircuitFacts | None
    data: DataFacts | None
    warnings: tuple[str, ...]
    trials: tuple[BandwidthTrial, ...] = ()
    bandwidth: float | None = None
    logs: np.ndarray | None = field(default=None, repr=False)
    labels: np.ndarray | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the matrix."""
        circuit = None if self.circuit is None else {**asdict(self.circuit), "factorises": self.circuit.is_product}
        return {
            "kernel": self.kernel,
            "circuit": circuit,
            "data": None if self.data is None else asdict(self.data),
            "warnings": list(self.warnings),
            "trials": [asdict(trial) for trial in self.trials],
            "bandwidth": self.bandwidth,
        }

    def __str__(self) -> str:
        lines = [self.kernel, *(f"  {line}" for line in (self.circuit.sentences() if self.circuit else []))]
        if self.circuit is not None:
            cancelled = self.circuit.cancelled
            lines += [f"    gate {k}: {name} on {wires} - {why}" for k, name, wires, why in cancelled[:_SHOWN]]
            lines += [f"    and {len(cancelled) - _SHOWN} more"] if len(cancelled) > _SHOWN else []
        if self.data is not None:
            d = self.data
            lines.append(
                f"  {d.n_samples} samples: off the diagonal k is {d.mean:.3g} +- {d.spread:.3g}, from {d.least:.3g} to "
                f"{d.largest:.3g}; effective rank {d.effective_rank:.1f}"
            )
            if d.alignment is not None:
                lines.append(f"  alignment with the labels: {d.alignment:.3f}")
        lines += [f"  WARNING: {text}" for text in self.warnings]
        if self.bandwidth is not None:
            best = next(trial for trial in self.trials if trial.bandwidth == self.bandwidth)
            lines.append(
                f"  try bandwidth {self.bandwidth:g}: off the diagonal {best.mean:.3g} +- {best.spread:.3g}, effective rank "
                f"{best.effective_rank:.1f} of {min(_SCAN, self.data.n_samples if self.data else _SCAN)}"
                + (f", alignment {best.alignment:.3f}" if best.alignment is not None else "")
            )
        return "\n".join(lines)


def diagnose(kernel: Kernel, X: Any = None, y: Any = None, seed: int = 0) -> Diagnosis:
    """Finds out what a kernel really does.

    Args:
        kernel: any kernel; only a `FidelityKernel`'s circuit can be simplified.
        X: samples, shape (N, d); None for the circuit alone. Of more than 2,000 a random 2,000 are looked at.
        y: labels of the samples, shape (N,), two or more classes; None for none.
        seed: of that choice.

    Returns:
        Facts, warnings, and a bandwidth where another one would help.

    Raises:
        InvalidInputError: for samples or labels that cannot be used.
        UnsupportedError: for a kernel that is not normalised.
    """
    if not kernel.normalised:
        raise UnsupportedError(
            f"a {type(kernel).__name__} is not normalised: a diagnosis compares its values with k(x, x) = 1; diagnose its parts"
        )
    circuit = CircuitFacts.of(kernel.feature_map.circuit) if isinstance(kernel, FidelityKernel) else None
    if X is None:
        if y is not None:
            raise InvalidInputError("labels without samples: give X, too")
        return Diagnosis(str(kernel), circuit, None, tuple(_structural(circuit)))
    x = to_samples("X", X, kernel.n_features).detach()
    labels = None if y is None else classes_of(y, len(x))
    if len(x) < 2:
        raise InvalidInputError(f"X has {len(x)} sample, expected at least 2 to compare")
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:_MOST])
    x, labels = x[torch.from_numpy(rows)], None if labels is None else labels[rows]
    logs = _log_matrix(kernel, x)
    matrix = np.exp(logs)
    facts = _facts(matrix, logs, x, labels, rows)
    warnings = [*_structural(circuit), *_numerical(facts, circuit, x.shape[1])]
    trials = _scan(kernel, x, labels, facts, seed)
    best = _suggested(kernel, trials, bool(warnings)) if trials else None
    return Diagnosis(str(kernel), circuit, facts, tuple(warnings), trials, best, logs, labels)


def effective_rank(matrix: np.ndarray) -> float:
    """`exp(-sum_i p_i log p_i)` with the eigenvalues' parts p_i of the trace, from 1 to N.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    values = np.linalg.eigvalsh(matrix).clip(0)
    parts = values[values > 0] / values.sum()
    return float(np.exp(-(parts * np.log(parts)).sum()))


def _log_matrix(kernel: Kernel, x: Tensor) -> np.ndarray:
    """Log K, which keeps what underflows; of a kernel that measures, K's own."""
    if getattr(kernel, "shots", None) is None:
        with torch.no_grad():
            return np.asarray(evaluated(kernel, x, log=True))
    with torch.no_grad(), np.errstate(divide="ignore"):
        return np.log(np.asarray(evaluated(kernel, x)))


def _facts(matrix: np.ndarray, logs: np.ndarray, x: Tensor, labels: np.ndarray | None, rows: np.ndarray) -> DataFacts:
    upper = np.triu_indices(len(matrix), 1)
    off = matrix[upper]
    alike = np.flatnonzero(off > 1 - _ALIKE)
    points = x.double().numpy()
    scale = max(float(np.ptp(points, axis=0).max()), 1e-300)
    i, j = upper[0][alike], upper[1][alike]
    apart = np.abs(points[i] - points[j]).max(axis=1, initial=0.0) > _APART * scale
    pairs = [(int(rows[a]), int(rows[b])) for a, b in zip(i[apart], j[apart], strict=True)]
    return DataFacts(
        n_samples=len(matrix),
        mean=float(off.mean()),
        spread=float(off.std()),
        least=float(off.min()),
        largest=float(off.max()),
        log_mean=float(logs[upper].mean()),
        effective_rank=effective_rank(matrix),
        collisions=tuple(pairs[:5]),
        n_collisions=len(pairs),
        alignment=None if labels is None else centred_alignment(matrix, labels),
        constant_features=tuple(np.flatnonzero(np.ptp(points, axis=0) == 0).tolist()),
    )


def _structural(circuit: CircuitFacts | None) -> list[str]:
    if circuit is None:
        return []
    found = []
    if circuit.constant:
        found.append(
            "the kernel is 1 for all samples: put a gate that depends on the data behind the last constant one"
        )
    if circuit.dead_parameters and not circuit.constant:
        found.append(
            f"trainable angles {_list(circuit.dead_parameters)} have no gradient: trainable layers belong before data gates"
        )
    return found


def _numerical(facts: DataFacts, circuit: CircuitFacts | None, n_features: int) -> list[str]:
    found, n = [], facts.n_samples
    if facts.least > 1 - _ALIKE:
        if len(facts.constant_features) == n_features:
            found.append("all samples are the same, so that the kernel is 1 for all of them: look at the data")
        elif circuit is None or not circuit.constant:
            found.append(
                "the kernel is 1 for all of these samples: is the circuit U(x) followed by its own inverse, or the bandwidth far "
                "too small?"
            )
        return found
    if facts.largest < np.exp(_TINY):
        found.append(
            f"every entry off the diagonal is below 1e-30 (mean of log k {facts.log_mean:.0f}): the kernel matrix is the "
            "identity, float32 underflows, and a model can only memorise; lower the bandwidth"
        )
    elif facts.mean < 1 / n and facts.effective_rank > 0.9 * n:
        found.append(
            f"values concentrate: off the diagonal {facts.mean:.2g} +- {facts.spread:.2g}, effective rank "
            f"{facts.effective_rank:.0f} of {n}: samples are similar to themselves alone; lower the bandwidth"
        )
    elif facts.mean > 0.99 and facts.effective_rank < 1.1:
        found.append(
            f"values concentrate at 1 ({facts.mean:.4f} +- {facts.spread:.2g}): all samples look alike; raise the bandwidth"
        )
    if facts.n_collisions:
        pair = facts.collisions[0]
        found.append(
            f"{facts.n_collisions} pairs of different samples have k = 1, such as {pair[0]} and {pair[1]}: angles wrap around; "
            "scale the data into (-pi/2, pi/2), lower the bandwidth, or use encoding='pair'"
        )
    if facts.constant_features:
        found.append(
            f"the same in all samples: features {_list(facts.constant_features)} (counted from 0); they cost qubits and tell "
            "no samples apart: leave them out"
        )
    return found


def _scan(
    kernel: Kernel, x: Tensor, labels: np.ndarray | None, facts: DataFacts, seed: int
) -> tuple[BandwidthTrial, ...]:
    """Tries bandwidths on some samples."""
    feature_map = getattr(kernel, "feature_map", None)
    if not isinstance(feature_map, FeatureMap) or facts.least > 1 - _ALIKE:
        return ()
    some = np.sort(np.random.default_rng(seed).permutation(len(x))[:_SCAN])
    x, labels = x[torch.from_numpy(some)], None if labels is None else labels[some]
    before, trials = feature_map.bandwidth, []
    try:
        for factor in 2.0 ** np.arange(-9, 4):
            kernel.feature_map = feature_map.with_bandwidth(before * float(factor))  # type: ignore[assignment]
            logs = _log_matrix(kernel, x)
            found = _facts(np.exp(logs), logs, x, labels, some)
            trials.append(
                BandwidthTrial(before * float(factor), found.mean, found.spread, found.effective_rank, found.alignment)
            )
    finally:
        kernel.feature_map = feature_map  # type: ignore[assignment]
    return tuple(trials)


def _suggested(kernel: Any, trials: Sequence[BandwidthTrial], needed: bool) -> float | None:
    """The bandwidth of the largest alignment or, without labels and only where there is something to mend, of the widest spread."""
    now = next(trial for trial in trials if trial.bandwidth == kernel.feature_map.bandwidth)
    best = max(trials, key=_merit)
    if best is now or not (needed or (now.alignment is not None and _merit(best) > _WORTH * _merit(now))):
        return None
    return best.bandwidth


def _merit(trial: BandwidthTrial) -> float:
    return trial.spread if trial.alignment is None else trial.alignment


def _list(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"
