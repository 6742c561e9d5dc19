"""What a tile costs: predicted seconds, from the circuit, the precision and the backend.

Predictions size messages, balance work and tell a slow worker from a hung one. They change neither the grid nor a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from dqk.circuit import Circuit
from dqk.errors import InvalidInputError

_LARGEST = 60  # qubits of a state that anybody might hold; keeps the prediction finite
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
class Rates:
    """Speed of one backend in one precision on one thread.

    With `a` amplitudes (1 for a backend of matrix-product states), G gates and blocks of s samples, a block takes
    `s G (gate_s + a amplitude_s)`; with `b` numbers in an overlap (2**n; n for product states, the sum over sites of twice the
    product of both bonds for entangled ones) a tile takes `s**2 (entry_s + b overlap_s)`.

    Attributes:
        gate_s: seconds per sample and gate.
        amplitude_s: seconds per sample, gate and amplitude.
        entry_s: seconds per entry of K.
        overlap_s: seconds per entry and number in an overlap.
        product: whether states are matrix-product states, of bond dimension 1 if nothing entangles.
    """

    gate_s: float
    amplitude_s: float
    entry_s: float
    overlap_s: float
    product: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one circuit took.

    Attributes:
        circuit: simplified.
        side: samples in a block.
        encode_s: seconds for a block.
        tile_s: seconds for a tile.
    """

    circuit: Circuit
    side: int
    encode_s: float
    tile_s: float


# Xeon with AVX-512, one thread.
_DEFAULTS = {
    "statevector/float64": Rates(gate_s=1.5e-8, amplitude_s=6e-11, entry_s=1.3e-9, overlap_s=1.2e-10),
    "statevector/float32": Rates(gate_s=1.2e-8, amplitude_s=3e-11, entry_s=7e-10, overlap_s=6e-11),
    "mps/float64": Rates(gate_s=1.6e-8, amplitude_s=0.0, entry_s=1.5e-9, overlap_s=1.8e-10, product=True),
    "mps/float32": Rates(gate_s=1.4e-8, amplitude_s=0.0, entry_s=1.4e-9, overlap_s=1.0e-10, product=True),
    "reference/float64": Rates(gate_s=1.2e-6, amplitude_s=6e-9, entry_s=1e-8, overlap_s=2e-10),
    "reference/float32": Rates(gate_s=1.2e-6, amplitude_s=4e-9, entry_s=9e-9, overlap_s=1.1e-10),
}


@dataclass(frozen=True, slots=True)
class CostModel:
    """Speeds of backends.

    Attributes:
        rates: by the name of backend and dtype, as in `statevector/float64`.
    """

    rates: Mapping[str, Rates] = field(default_factory=lambda: MappingProxyType(_DEFAULTS))

    def of(self, circuit: Circuit, dtype: Any, backend: str, side: int) -> TileCost:
        """Predicted cost of one job; an unknown backend counts as `statevector`.

        Args:
            circuit: simplified.
            dtype: of the angles.
            backend: its name.
            side: samples in a block.
        """
        name = np.dtype(dtype).name
        backend = backend.partition(":")[0]  # without options
        rates = self.rates.get(f"{backend}/{name}") or self.rates.get(
            f"statevector/{name}", _DEFAULTS["statevector/float64"]
        )
        amplitudes, numbers = _sizes(circuit, rates.product)
        return TileCost(
            encode_s=side * len(circuit.gates) * (rates.gate_s + amplitudes * rates.amplitude_s),
            tile_s=side**2 * (rates.entry_s + numbers * rates.overlap_s) + _TASK_S,
        )

    def with_measured(self, backend: str, dtype: Any, product: bool, measured: Sequence[Measurement]) -> CostModel:
        """This model with the rates of one backend and dtype fitted to measurements, by least relative error.

        Args:
            backend: its name.
            dtype: of the angles.
            product: whether its states are products of one-qubit states.
            measured: circuits of at least two sizes.
        """
        amplitudes, numbers = np.array([_sizes(m.circuit, product) for m in measured]).T
        per_gate = np.array([m.encode_s / (m.side * len(m.circuit.gates)) for m in measured])
        per_entry = np.array([m.tile_s / m.side**2 for m in measured])
        rates = Rates(*_line(amplitudes, per_gate), *_line(numbers, per_entry), product)
        return CostModel(MappingProxyType({**self.rates, f"{backend}/{np.dtype(dtype).name}": rates}))

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


def _sizes(circuit: Circuit, product: bool) -> tuple[float, float]:
    """Amplitudes of a state, and numbers in an overlap."""
    if not product:
        return (2.0 ** min(circuit.n_qubits, _LARGEST),) * 2
    return 1.0, float(circuit.n_qubits) if circuit.is_product else _chain_numbers(circuit)


@lru_cache(maxsize=256)
def _chain_numbers(circuit: Circuit) -> float:
    """The sum over sites of twice the product of both bonds, each gate across a bond doubling it (a swap: four times)."""
    n = circuit.n_qubits
    crossing = np.zeros(n + 1)
    for gate in circuit.gates:
        crossing[min(gate.wires) + 1 : max(gate.wires) + 1] += 2 if gate.name in ("swap", "unitary") else 1
    beyond = np.minimum(np.arange(n + 1), n - np.arange(n + 1))
    bonds = 2.0 ** np.minimum(np.minimum(crossing, beyond), _LARGEST / 2)
    return float(2 * (bonds[:-1] * bonds[1:]).sum())


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Constant and slope of the line through positive points that is nearest in relative error, neither of them negative."""
    design, ones = np.stack([1 / y, x / y], axis=1), np.ones_like(y)
    line = np.linalg.lstsq(design, ones, rcond=None)[0]
    if min(line) < 0:  # the best line without a negative part has none of that part
        k = int(np.argmax(line))
        alone = float(design[:, k] @ ones / (design[:, k] @ design[:, k]))
        return (alone, 0.0) if k == 0 else (0.0, alone)
    return float(line[0]), float(line[1])
