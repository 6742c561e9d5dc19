"""Matrix-product states with structure-exact bond dimension: hundreds of qubits, where gates reach few neighbours.

Choose it for chains of few layers, at any width: its bonds are known from the circuit, nothing is cut off, and an entry costs
O(n). Circuits without entangling gates, once what cannot matter is gone, are products of Bloch vectors. With `max_bond` larger
bonds are truncated, and `error_bound` says by how much at most.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dqk._cost import Effort
from dqk._resources import require_memory
from dqk.backends.arrays import contiguous, require_cpu
from dqk.backends.base import Capabilities, EncodingBackend, Parallel
from dqk.backends.chain import chain_of
from dqk.backends.chain_states import WIDEST, ChainStates
from dqk.backends.efforts import product_effort
from dqk.backends.product import ProductStates
from dqk.backends.truncated import TruncatedStates
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, whole_number

_PRODUCT = ProductStates()
_KEPT = 256  # circuits


class _Known:
    """The states of the circuits used last, and the numbers by which encodings name them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers: OrderedDict[Any, int] = OrderedDict()
        self._states: dict[int, Any] = {}
        self._last = 0

    def get(self, key: Any, make: Callable[[], Any]) -> tuple[int, Any]:
        """The number and the states of a key."""
        with self._lock:
            if key not in self._numbers:
                self._states[self._last + 1] = make()
                self._last += 1
                self._numbers[key] = self._last
                if len(self._numbers) > _KEPT:
                    del self._states[self._numbers.popitem(last=False)[1]]
            self._numbers.move_to_end(key)
            return self._numbers[key], self._states[self._numbers[key]]

    def of(self, *encoded: Tensor) -> Any:
        """The states that encodings belong to; None if they have no samples."""
        for tensor in encoded:
            if tensor.shape[-1]:
                return self._states[int(tensor[-1].max())]
        return None


_known = _Known()


class _Panels(NamedTuple):
    """Encodings of one block as `ChainStates.values` reads them.

    Attributes:
        states: what they belong to.
        data: what `ChainStates.prepare` made of them.
        samples: number of samples.
    """

    states: ChainStates
    data: Any
    samples: int


class MPSBackend(EncodingBackend):
    """Matrix-product states.

    An encoding of an entangling circuit has shape (V + 1, N): the numbers of all tensors, and a last row that says to which
    circuit they belong.

    Args:
        max_bond: largest bond dimension; None for exact states. Circuits that need more are truncated, see `error_bound`; they
            have no gradients.
        generated: whether overlaps run in code that is generated for the circuit; else by torch, which is slower and takes more
            memory.
    """

    name = "mps"
    capabilities = Capabilities(exact=True, differentiable=True, expectations=True)
    parallel_tiles = True

    def __init__(self, max_bond: int | None = None, generated: bool = True) -> None:
        self.max_bond, self.generated = None, generated
        if max_bond is not None:
            self.max_bond = whole_number("max_bond", max_bond, 1)
            self.name = f"mps:max_bond={self.max_bond}"  # by which workers open it
            self.capabilities = Capabilities(exact=False, differentiable=True, expectations=True)

    def on(self, device: str) -> MPSBackend:
        """For CUDA tensors the one that works where they are."""
        if device != "cuda":
            return self
        from dqk.backends.mps_device import MPSOnDevice

        return MPSOnDevice(self.max_bond)

    def check_supported(self, circuit: Circuit) -> None:
        """Refuses circuits whose exact states are too large, and names their bond."""
        if not circuit.is_product:
            self._states(circuit)

    def error_bound(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None = None, shared: Tensor | None = None
    ) -> Tensor:
        """How much each entry of `fidelity` may be off at most, by truncation; zero for exact states.

        With `|psi - psi'| <= e`, the sum over all truncations of the norm of what they cut off, `|<b|a> - <b'|a'>| <= d` for
        `d = e_a + e_b`, and so `|K - K'| <= d (2 sqrt(K') + d)`.

        Returns:
            Bounds, shape (N, M).
        """
        shared = self._check(circuit, ax, ay, shared)
        kept = simplify_for_fidelity(circuit).circuit
        if kept.is_product or not isinstance(self._states(kept)[1], TruncatedStates):
            return ax.new_zeros(len(ax), len(ax if ay is None else ay))
        a = self.encode(kept, ax, shared)
        b = a if ay is None else self.encode(kept, ay, shared)
        d = a[-2][:, None] + b[-2][None, :]
        return d * (2 * self.overlap(self.prepare(a), self.prepare(b)).sqrt() + d)

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """128 samples, fewer where states are large."""
        states = self._of(circuit)
        return _PRODUCT.tile_side(circuit, dtype) if states is _PRODUCT else int(states.tile_side(dtype))

    def encoding_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Memory of one sample's encoding, and of its copy in panels."""
        states = self._of(circuit)
        return _PRODUCT.encoding_bytes(circuit, dtype) if states is _PRODUCT else int(states.encoding_bytes(dtype))

    def tile_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Values of a tile, and what computing it takes beside them."""
        states, values = self._of(circuit), super().tile_bytes(circuit, dtype)
        return values if states is _PRODUCT else values + int(states.tile_bytes(dtype))

    def effort(self, circuit: Circuit, dtype: torch.dtype) -> Effort:
        """By the structure of the circuit's states."""
        states = self._of(circuit)
        return product_effort(circuit) if states is _PRODUCT else states.effort(dtype)

    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """Bloch vectors (n, 3, N) of a product circuit, else numbers of tensors (V + 1, N)."""
        return self.encode_block(circuit, angles, shared)[0]

    def encode_block(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map
    ) -> tuple[Tensor, Tensor]:
        """Both are the encoding; several threads write it."""
        require_cpu(self.name, angles)
        if circuit.is_product:
            encoded = _PRODUCT.encode(circuit, angles, shared)
            return encoded, encoded
        number, states = self._states(circuit)
        dtype = contiguous(angles[:0]).dtype
        require_memory(
            (states.size + 1) * len(angles) * dtype.itemsize, f"{len(angles)} states of {states.size} numbers"
        )
        out = np.empty((states.size + 1, len(angles)), dtype)
        states.encode(angles, shared, out[:-1], parallel)
        out[-1] = number
        encoded = torch.from_numpy(out)
        return encoded, encoded

    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By rotating Bloch vectors back, or through the steps that made the tensors."""
        if circuit.is_product:
            return _PRODUCT.encode_vjp(circuit, angles, shared, encoded, cotangent)
        found: tuple[Tensor, Tensor] = self._states(circuit)[1].encode_vjp(angles, shared, contiguous(cotangent[:-1]))
        return found

    def forward_block(self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map) -> Any:
        """Encodings in panels of vectors."""
        return self._panels(circuit, self.encode_block(circuit, angles, shared, parallel)[0])

    def encode_s(self, circuit: Circuit) -> float:
        """Of entangled states; those of products are made at once."""
        return 0.0 if circuit.is_product else float(self._states(circuit)[1].encode_s)

    def adopt_block(self, circuit: Circuit, encoded: Tensor, gradients: bool) -> Any:
        """The same numbers under this process's own name of the circuit."""
        if not circuit.is_product:
            encoded[-1] = self._states(circuit)[0]
        return (encoded, encoded) if gradients else self._panels(circuit, encoded)

    def forward_tile(self, a: Any, b: Any, log: bool) -> Tensor:
        """From panels, or from Bloch vectors."""
        if not isinstance(a, _Panels):
            return super().forward_tile(a, b, log)
        return a.states.values(a.data, b.data, (a.samples, b.samples), log)

    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """Kernel values, shape (N, M)."""
        return self._values(a, b, False)

    def log_overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """Their logarithms, without underflow."""
        return self._values(a, b, True)

    def overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """By environments from both sides."""
        return self._vjp(a, b, cotangent, False)

    def log_overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with cotangents divided by K."""
        return self._vjp(a, b, cotangent, True)

    def _panels(self, circuit: Circuit, encoded: Tensor) -> Any:
        if circuit.is_product:
            return encoded
        states = self._states(circuit)[1]
        return _Panels(states, states.prepare(contiguous(encoded[:-1])), encoded.shape[-1])

    def _values(self, a: Tensor, b: Tensor, log: bool) -> Tensor:
        if a.dim() == 3:
            return (_PRODUCT.log_overlap if log else _PRODUCT.overlap)(a, b)
        states = self._states_of(a, b)
        if states is None or not a.shape[-1] or not b.shape[-1]:
            return a.new_empty(a.shape[-1], b.shape[-1])
        prepared = [states.prepare(contiguous(x[:-1])) for x in (a, b)]
        found: Tensor = states.values(*prepared, (a.shape[-1], b.shape[-1]), log)
        return found

    def _vjp(self, a: Tensor, b: Tensor, cotangent: Tensor, log: bool) -> tuple[Tensor, Tensor]:
        if a.dim() == 3:
            return (_PRODUCT.log_overlap_vjp if log else _PRODUCT.overlap_vjp)(a, b, cotangent)
        found = torch.zeros_like(a), torch.zeros_like(b)
        if a.shape[-1] and b.shape[-1]:
            numbers = contiguous(a[:-1]), contiguous(b[:-1])
            parts = self._states_of(a, b).vjp(*numbers, contiguous(cotangent), log)
            for whole, part in zip(found, parts, strict=True):
                whole[:-1] = torch.from_numpy(np.ascontiguousarray(part))
        return found

    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor:
        encoded = self.encode(circuit, ax, shared)
        if circuit.is_product:
            return _PRODUCT.word_products(encoded, observables)
        found: Tensor = self._states(circuit)[1].expectations(encoded[:-1], observables)
        return found

    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        encoded = self.encode(circuit, ax, shared)
        read = _PRODUCT.word_products if circuit.is_product else self._states(circuit)[1].expectations
        with torch.enable_grad():
            leaf = encoded.detach().requires_grad_()
            values = read(leaf if circuit.is_product else leaf[:-1], observables)
            (total,) = torch.autograd.grad((values * cotangent).sum(), leaf)
        return self.encode_vjp(circuit, ax, shared, encoded, total)

    def _of(self, circuit: Circuit) -> Any:
        return _PRODUCT if circuit.is_product else self._states(circuit)[1]

    def _states(self, circuit: Circuit) -> tuple[int, Any]:
        return _known.get((circuit, self.max_bond, self.generated), lambda: self._make(circuit))

    def _states_of(self, *encoded: Tensor) -> Any:
        return _known.of(*encoded)

    def _make(self, circuit: Circuit) -> Any:
        if self.max_bond is not None:
            chain = chain_of(circuit)
            if chain.bond > self.max_bond or chain.widest > WIDEST:
                return TruncatedStates(circuit, self.max_bond)
        return ChainStates(circuit, self.generated)


def open_mps(options: str) -> MPSBackend:
    """The backend of a name such as `mps:max_bond=16`.

    Raises:
        InvalidInputError: for another option.
    """
    name, _, value = options.partition("=")
    if name != "max_bond" or not value.isdecimal():
        raise InvalidInputError(
            f"backend 'mps:{options}', expected mps or mps:max_bond=N with a whole number N above 0"
        )
    return MPSBackend(max_bond=int(value))
