"""What a tile costs: predicted seconds, from the effort that a backend names and the speed of this kind of machine.

Predictions size messages, balance work, tell a slow worker from a hung one, and say which backend computes a circuit fastest. They
change neither the grid nor a result of a given backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from dqk.errors import InvalidInputError

_TASK_S = 5e-5  # what a worker does for a tile beside computing it


@dataclass(frozen=True, slots=True)
class TileCost:
    """Predicted cost of a job's full blocks and tiles on one thread.

    Attributes:
        encode_s: seconds to encode one block of samples.
        tile_s: seconds to overlap two encoded blocks.
    """

    encode_s: float
    tile_s: float


@dataclass(frozen=True, slots=True)
class Effort:
    """What a backend does for a circuit, in counts that are proportional to time.

    Attributes:
        kind: whose speed counts, such as `statevector`; one backend may have several kinds of code.
        gates: fixed parts of encoding, per sample.
        amplitudes: operations on numbers of encoding, per sample.
        entries: fixed parts of an overlap, per entry.
        numbers: operations on numbers of an overlap, per entry.
    """

    kind: str
    gates: float
    amplitudes: float
    entries: float
    numbers: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed of one kind of code in one precision on one thread: seconds for each of the counts of an `Effort`."""

    gate_s: float
    amplitude_s: float
    entry_s: float
    overlap_s: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one circuit took.

    Attributes:
        effort: what it counts.
        side: samples in a block.
        encode_s: seconds for a block.
        tile_s: seconds for a tile.
    """

    effort: Effort
    side: int
    encode_s: float
    tile_s: float


# Zen 5, one thread.
_DEFAULTS = {
    "statevector/float64": Rates(gate_s=2.0e-8, amplitude_s=2.2e-10, entry_s=4e-10, overlap_s=5.9e-11),
    "statevector/float32": Rates(gate_s=1.5e-8, amplitude_s=1.05e-10, entry_s=3e-10, overlap_s=2.8e-11),
    "mps/float64": Rates(gate_s=2.8e-8, amplitude_s=0.0, entry_s=4e-10, overlap_s=1.05e-10),
    "mps/float32": Rates(gate_s=2.3e-8, amplitude_s=0.0, entry_s=3e-10, overlap_s=5.8e-11),
    "mps-chain/float64": Rates(gate_s=1.15e-8, amplitude_s=2.9e-10, entry_s=1.2e-9, overlap_s=8.0e-11),
    "mps-chain/float32": Rates(gate_s=7.0e-9, amplitude_s=2.7e-10, entry_s=1.1e-9, overlap_s=4.1e-11),
    "mps-plain/float64": Rates(gate_s=1.0e-8, amplitude_s=3.2e-10, entry_s=4e-4, overlap_s=3.1e-10),
    "mps-plain/float32": Rates(gate_s=7.0e-9, amplitude_s=3.2e-10, entry_s=4e-4, overlap_s=1.7e-10),
    "mps-truncated/float64": Rates(gate_s=7.5e-6, amplitude_s=1.35e-9, entry_s=1.4e-7, overlap_s=3.4e-10),
    "mps-truncated/float32": Rates(gate_s=7.5e-6, amplitude_s=1.35e-9, entry_s=1.4e-7, overlap_s=1.7e-10),
    # Half of what an H100's data sheet has for memory and arithmetic: not measured.
    "custatevec/float64": Rates(gate_s=5e-9, amplitude_s=2e-11, entry_s=3e-11, overlap_s=3e-13),
    "custatevec/float32": Rates(gate_s=5e-9, amplitude_s=1e-11, entry_s=1.5e-11, overlap_s=2.5e-13),
    "reference/float64": Rates(gate_s=7e-7, amplitude_s=5e-9, entry_s=3e-9, overlap_s=2.2e-10),
    "reference/float32": Rates(gate_s=8e-7, amplitude_s=2.2e-9, entry_s=3e-9, overlap_s=1.1e-10),
}


@dataclass(frozen=True, slots=True)
class CostModel:
    """Speeds of backends.

    Attributes:
        rates: by the name of backend and dtype, as in `statevector/float64`.
    """

    rates: Mapping[str, Rates] = field(default_factory=lambda: MappingProxyType(_DEFAULTS))

    def of(self, effort: Effort, dtype: Any, side: int) -> TileCost:
        """Predicted cost of one job; an unknown kind of code counts as `statevector`.

        Args:
            effort: of circuit and backend.
            dtype: of the angles.
            side: samples in a block.
        """
        name = np.dtype(dtype).name
        rates = self.rates.get(f"{effort.kind}/{name}") or self.rates.get(
            f"statevector/{name}", _DEFAULTS["statevector/float64"]
        )
        return TileCost(
            encode_s=side * (effort.gates * rates.gate_s + effort.amplitudes * rates.amplitude_s),
            tile_s=side**2 * (effort.entries * rates.entry_s + effort.numbers * rates.overlap_s) + _TASK_S,
        )

    def with_measured(self, dtype: Any, measured: Sequence[Measurement]) -> CostModel:
        """This model with the rates of one kind of code and dtype fitted to measurements, by least relative error.

        Args:
            dtype: of the angles.
            measured: circuits of at least two sizes, of one kind.
        """
        efforts = [m.effort for m in measured]
        encode = _line(
            np.array([[e.gates, e.amplitudes] for e in efforts]), np.array([m.encode_s / m.side for m in measured])
        )
        overlap = _line(
            np.array([[e.entries, e.numbers] for e in efforts]), np.array([m.tile_s / m.side**2 for m in measured])
        )
        key = f"{efforts[0].kind}/{np.dtype(dtype).name}"
        return CostModel(MappingProxyType({**self.rates, key: Rates(*encode, *overlap)}))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: asdict(rates) for name, rates in sorted(self.rates.items())}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> CostModel:
        """From what `to_dict` gave; backends that it does not name keep their defaults.

        Raises:
            InvalidInputError: if it is something else.
        """
        try:
            given = {name: Rates(**values) for name, values in document.items()}
            if not all(0 <= float(v) < np.inf for rates in given.values() for v in asdict(rates).values()):
                raise ValueError("rates are seconds, none of them negative")
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidInputError(f"not a cost model: {error}") from error
        return cls(MappingProxyType({**_DEFAULTS, **given}))


def _line(counts: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Seconds for each of two counts, shape (K, 2), nearest in relative error to what was measured, neither of them negative."""
    design, ones = counts / seconds[:, None], np.ones_like(seconds)
    line = np.linalg.lstsq(design, ones, rcond=None)[0]
    if min(line) < 0:  # the best line without a negative part has none of that part
        k = int(np.argmax(line))
        alone = float(design[:, k] @ ones / (design[:, k] @ design[:, k]))
        return (alone, 0.0) if k == 0 else (0.0, alone)
    return float(line[0]), float(line[1])
