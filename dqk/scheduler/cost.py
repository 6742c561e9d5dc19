"""What a tile costs: predicted seconds, from the circuit, the precision and the backend.

Predictions size messages, balance shards and tell a slow worker from a hung one. They never change the grid or a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from dqk.circuit import Circuit


@dataclass(frozen=True, slots=True)
class TileCost:
    """Predicted cost of a job's full tiles and blocks on one thread.

    Attributes:
        encode_s: seconds to encode one block of `side` samples.
        tile_s: seconds to overlap two encoded blocks.
    """

    encode_s: float
    tile_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of one backend on one thread in float64; float32 takes half.

    Attributes:
        gate_s: per gate, sample and amplitude (per gate and sample where states do not grow with 2**n).
        overlap_s: per entry of K and amplitude (per entry and qubit).
        tile_s: per tile, whatever its size.
        exponential: whether states have 2**n amplitudes; otherwise n parts.
    """

    gate_s: float
    overlap_s: float
    tile_s: float
    exponential: bool


DEFAULTS: Mapping[str, Rates] = MappingProxyType(
    {
        "statevector": Rates(gate_s=4e-10, overlap_s=2e-10, tile_s=1e-4, exponential=True),
        "reference": Rates(gate_s=2e-8, overlap_s=1e-9, tile_s=3e-4, exponential=True),
        "mps": Rates(gate_s=1e-8, overlap_s=1e-9, tile_s=1e-4, exponential=False),
    }
)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Rates of the backends, from measurements on some machine.

    Attributes:
        rates: by the backend's name.
    """

    rates: Mapping[str, Rates] = field(default_factory=lambda: DEFAULTS)

    @classmethod
    def load(cls) -> CostModel:
        """The model in force on this machine."""
        return cls()

    def of(self, circuit: Circuit, dtype: Any, backend: str, side: int) -> TileCost:
        """Predicted cost of one job; a backend that is not known counts as a statevector.

        Args:
            circuit: simplified.
            dtype: of the angles.
            backend: its name.
            side: samples in a block.
        """
        rates = self.rates.get(backend, self.rates["statevector"])
        size = float(2**circuit.n_qubits) if rates.exponential else float(circuit.n_qubits)
        width = np.dtype(dtype).itemsize / 8
        per_gate = size if rates.exponential else 1.0
        return TileCost(
            encode_s=width * rates.gate_s * len(circuit.gates) * side * per_gate,
            tile_s=rates.tile_s + width * rates.overlap_s * side * side * size,
        )
