"""The backend contract: circuits and angles in, kernel values and cotangents out.

A backend sees no feature map, no kernel and no scheduler. Public methods check, private hooks compute.
Most exact backends first encode each sample and then overlap the encodings: they derive from `EncodingBackend`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dqk._cost import Effort
from dqk._resources import memory_bound
from dqk.backends.efforts import dense_effort
from dqk.backends.shifts import Jacobian, shift_terms
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, UnsupportedError

Parallel = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        exact: values are exact up to rounding; otherwise they are sampled.
        differentiable: the vector-Jacobian products work.
        expectations: expectation values of Pauli strings work.
        device: `cpu`, `cuda` or `qpu`.
        max_qubits: widest circuit; None if only memory bounds it.
        noisy: values are those of a noisy device: k(x, y) and k(y, x) may differ, and k(x, x) be below 1, where they are
            measured.
    """

    exact: bool
    differentiable: bool
    expectations: bool
    device: str = "cpu"
    max_qubits: int | None = None
    noisy: bool = False


class Backend(abc.ABC):
    """How kernel values are computed. Instances are stateless and cheap to make.

    Notation: `psi(a, w) = U(a, w) |0...0>` with data angles `a` (one row per sample) and shared angles `w`.
    """

    name: str
    capabilities: Capabilities
    parallel_tiles: bool = False
    """Whether tiles may run on several threads of one process at once (compiled code that releases the GIL)."""

    def fidelity(self, circuit: Circuit, ax: Tensor, ay: Tensor | None = None, shared: Tensor | None = None) -> Tensor:
        """`K[i, j] = |<psi(ay_j, w)|psi(ax_i, w)>|^2`.

        Args:
            circuit: any circuit; gates that cannot influence the fidelity are left out first.
            ax: data angles, shape (N, A_d), radians.
            ay: data angles, shape (M, A_d); None for ax itself, which gives an exactly symmetric K with a unit diagonal.
            shared: shared angles, shape (A_s,); None if the circuit has none.

        Returns:
            K, shape (N, M), of the dtype of `ax`.

        Raises:
            InvalidInputError: if shapes do not fit the circuit.
            UnsupportedError: if this backend cannot run the circuit.
        """
        shared = self._check(circuit, ax, ay, shared)
        return self._fidelity(simplify_for_fidelity(circuit).circuit, ax, ay, shared)

    def fidelity_vjp(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor | None, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Cotangents of the angles: `sum_ij cotangent[i, j] dK[i, j] / d(angle)`.

        Args:
            circuit: as in `fidelity`.
            ax: as in `fidelity`.
            ay: as in `fidelity`; if None, both roles of `ax` are counted and the diagonal contributes nothing.
            shared: as in `fidelity`.
            cotangent: dL/dK, shape (N, M).

        Returns:
            Cotangents of `ax` (N, A_d), of `ay` (M, A_d) or None, and of `shared` (A_s,).
        """
        shared = self._check(circuit, ax, ay, shared)
        expected = (len(ax), len(ax if ay is None else ay))
        if cotangent.shape != expected:
            raise InvalidInputError(f"cotangent of shape {tuple(cotangent.shape)}, expected {expected}")
        if not self.capabilities.differentiable:
            raise UnsupportedError(
                f"backend {self.name!r} is not differentiable; use one that is, such as 'statevector'"
            )
        return self._fidelity_vjp(simplify_for_fidelity(circuit).circuit, ax, ay, shared, cotangent)

    def fidelity_jacobian(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None = None, shared: Tensor | None = None
    ) -> Jacobian[Tensor]:
        """Derivatives of every entry by every angle, by shift rules: from kernel values alone.

        Args:
            circuit: as in `fidelity`.
            ax: as in `fidelity`.
            ay: as in `fidelity`; if None, the derivatives are those of k(x_i, x_j) with two samples of their own, and
                zero on the diagonal.
            shared: as in `fidelity`.

        Returns:
            `dK[i, j] / d(angle)` by the angles of x_i (N, M, A_d), of y_j (N, M, A_d) and by shared ones (N, M, A_s).
        """
        shared = self._check(circuit, ax, ay, shared)
        return self._fidelity_jacobian(simplify_for_fidelity(circuit).circuit, ax, ay, shared)

    def expectations(
        self, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor | None = None
    ) -> Tensor:
        """`E[i, k] = <psi(ax_i, w)| P_k |psi(ax_i, w)>` for Pauli strings `P_k`. The circuit is not simplified.

        Args:
            circuit: any circuit.
            ax: data angles, shape (N, A_d).
            observables: O Pauli strings over I, X, Y, Z, one letter per qubit, qubit 0 first.
            shared: shared angles, shape (A_s,).

        Returns:
            Expectation values, shape (N, O), in [-1, 1].
        """
        shared = self._check(circuit, ax, None, shared)
        self._check_observables(circuit, observables)
        return self._expectations(circuit, ax, tuple(observables), shared)

    def expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor | None, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cotangents of `ax` (N, A_d) and `shared` (A_s,) for a cotangent of shape (N, O)."""
        shared = self._check(circuit, ax, None, shared)
        self._check_observables(circuit, observables)
        if cotangent.shape != (len(ax), len(observables)):
            raise InvalidInputError(
                f"cotangent of shape {tuple(cotangent.shape)}, expected {(len(ax), len(observables))}"
            )
        return self._expectations_vjp(circuit, ax, tuple(observables), shared, cotangent)

    def on(self, device: str) -> Backend:
        """The backend for samples on a type of device; this one, unless it has another for them."""
        return self

    def check_supported(self, circuit: Circuit) -> None:
        """Raises UnsupportedError, with the reason and an alternative, if this backend cannot run the circuit."""
        limit = self.capabilities.max_qubits
        if limit is not None and circuit.n_qubits > limit:
            raise UnsupportedError(
                f"backend {self.name!r} runs at most {limit} qubits, the circuit has {circuit.n_qubits}"
            )

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Side of a tile of K: a multiple of 8 that depends on circuit, dtype and backend alone, never on N or workers."""
        return 64

    def tile_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Memory that one tile in flight takes."""
        return 4 * self.tile_side(circuit, dtype) ** 2 * dtype.itemsize

    def _check(self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor | None) -> Tensor:
        for name, angles in (("ax", ax), ("ay", ay)):
            if angles is not None and (angles.dim() != 2 or angles.shape[1] != circuit.n_data):
                raise InvalidInputError(f"{name} has shape {tuple(angles.shape)}, expected (N, {circuit.n_data})")
        if shared is None:
            shared = ax.new_empty(0)
        if shared.shape != (circuit.n_shared,):
            raise InvalidInputError(f"shared has shape {tuple(shared.shape)}, expected ({circuit.n_shared},)")
        return shared

    def _check_observables(self, circuit: Circuit, observables: Sequence[str]) -> None:
        if not self.capabilities.expectations:
            raise UnsupportedError(f"backend {self.name!r} gives no expectation values; use 'statevector'")
        self.check_supported(circuit)
        for word in observables:
            if len(word) != circuit.n_qubits or set(word) - set("IXYZ"):
                raise InvalidInputError(f"observable {word!r}, expected {circuit.n_qubits} letters from I, X, Y, Z")

    @abc.abstractmethod
    def _fidelity(self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _fidelity_vjp(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]: ...

    def _fidelity_jacobian(self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Jacobian[Tensor]:
        """One matrix for each shift; backends that run entries one by one override it."""
        terms = shift_terms(circuit)
        x, y = (torch.cat([a, shared.expand(len(a), -1)], dim=1) for a in (ax, ax if ay is None else ay))
        shape = (len(x), len(y), terms.weights.shape[1])
        total = ax.new_zeros(shape)
        for left, right, weights in zip(terms.left, terms.right, terms.weights, strict=True):
            values = self._fidelity(terms.circuit, x + x.new_tensor(left), y + y.new_tensor(right), x.new_empty(0))
            total += values[:, :, None] * values.new_tensor(weights)
        if ay is None:
            total.diagonal().zero_()
        return Jacobian(*total.split([circuit.n_data, circuit.n_data, circuit.n_shared], dim=2))

    @abc.abstractmethod
    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]: ...


class EncodingBackend(Backend):
    """A backend whose kernel is an overlap of encodings: `K[i, j] = f(e(a_i), e(a_j))`.

    An encoding is a real tensor whose last axis is the sample, so that a batch is `encoding[..., rows]`. Cotangents have the
    shape of what they belong to.
    """

    @abc.abstractmethod
    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """Encodings of the samples, shape (..., N), real. The circuit is taken as it is, not simplified."""

    @abc.abstractmethod
    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cotangents of `angles` (N, A_d) and `shared` (A_s,) from one of the encodings. `encoded` is `encode`'s result."""

    @abc.abstractmethod
    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """Kernel values (N, M) of prepared encodings `a` (..., N) and `b` (..., M)."""

    @abc.abstractmethod
    def overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents of the *encodings* of `a` and `b`, given prepared ones, for a cotangent of shape (N, M)."""

    def first_overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor, log: bool) -> Tensor:
        """The first of the cotangents of `overlap_vjp` or `log_overlap_vjp`; backends override it that can leave out the second."""
        return (self.log_overlap_vjp if log else self.overlap_vjp)(a, b, cotangent)[0]

    def self_overlap_vjp(self, a: Tensor, cotangent: Tensor) -> Tensor:
        """Cotangent of the encodings of `a` in `overlap(a, a)`, in which they stand on both sides."""
        first, second = self.overlap_vjp(a, a, cotangent)
        return first + second

    def encode_block(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map
    ) -> tuple[Tensor, Tensor]:
        """An encoding and what `prepare` makes of it.

        Backends override it that can write both at once, or split the work: `parallel(function, items)` is `map` on the
        caller's threads.
        """
        encoded = self.encode(circuit, angles, shared)
        return encoded, self.prepare(encoded)

    def forward_block(self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map) -> Any:
        """What `forward_tile` reads of a block; backends override both where values alone can be had faster."""
        return self.encode_block(circuit, angles, shared, parallel)[1]

    def forward_tile(self, a: Any, b: Any, log: bool) -> Tensor:
        """Kernel values or their logarithms, shape (N, M). With `a is b` only the part above the diagonal is read."""
        return self.log_overlap(a, b) if log else self.overlap(a, b)

    def encode_s(self, circuit: Circuit) -> float:
        """Predicted seconds to encode one sample, by backends whose encodings may take longer to make than to send; else 0."""
        return 0.0

    def adopt_block(self, circuit: Circuit, encoded: Tensor, gradients: bool) -> Any:
        """What `encode_block`, for gradients, or `forward_block` would give, from an encoding that another process made.

        Backends that override those override it; it is asked for where `encode_s` is not 0.
        """
        prepared = self.prepare(encoded)
        return (encoded, prepared) if gradients else prepared

    def recycle(self, block: Any) -> None:
        """Takes back what `forward_block` gave, or the second part of `encode_block`'s, for nobody reads it any more."""

    def log_overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """Natural logarithm of `overlap`; backends that would underflow override it."""
        return self.overlap(a, b).log()

    def log_overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents of the encodings for a cotangent of `log_overlap`."""
        return self.overlap_vjp(a, b, self._log_slopes(a, b, cotangent))

    def _log_slopes(self, a: Tensor, b: Tensor, cotangent: Tensor) -> Tensor:
        """The cotangent of `overlap` from that of its logarithm."""
        # An entry that nobody asks for contributes nothing, also where K is zero.
        return torch.where(cotangent == 0, cotangent, cotangent / self.overlap(a, b))

    def encoding_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Memory of one sample's encoding and of what `prepare` adds to it."""
        return 4 * 2**circuit.n_qubits * dtype.itemsize

    def effort(self, circuit: Circuit, dtype: torch.dtype) -> Effort:
        """What a sample and an entry cost, in counts of which `dqk._cost` knows the speed: here of dense states, gate by gate."""
        return dense_effort(circuit, self.name.partition(":")[0])

    def memory_bound(self) -> int:
        """Bytes that encoded blocks and tiles in flight may take, where this backend keeps them."""
        return memory_bound()

    def prepare(self, encoded: Tensor) -> Tensor:
        """What `overlap` reads, made once per encoded block; the encoding itself unless a backend adds to it."""
        return encoded

    def _fidelity(self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Tensor:
        self.check_supported(circuit)
        _, a = self.encode_block(circuit, ax, shared)
        if ay is not None:
            return self.overlap(a, self.encode_block(circuit, ay, shared)[1])
        return mirror(self.overlap(a, a))

    def _fidelity_vjp(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        self.check_supported(circuit)
        ex, a = self.encode_block(circuit, ax, shared)
        if ay is None:
            total = self.self_overlap_vjp(a, without_diagonal(cotangent))
            dax, dshared = self.encode_vjp(circuit, ax, shared, ex, total)
            return dax, None, dshared
        ey, b = self.encode_block(circuit, ay, shared)
        da, db = self.overlap_vjp(a, b, cotangent)
        dax, dx_shared = self.encode_vjp(circuit, ax, shared, ex, da)
        day, dy_shared = self.encode_vjp(circuit, ay, shared, ey, db)
        return dax, day, dx_shared + dy_shared


def mirror(square: Tensor, diagonal: float = 1.0) -> Tensor:
    """The exactly symmetric matrix with the upper triangle of `square` and a constant diagonal."""
    upper = torch.triu(square, 1)
    return (upper + upper.T).fill_diagonal_(diagonal)


def without_diagonal(square: Tensor) -> Tensor:
    """A copy with a zero diagonal."""
    return square.clone().fill_diagonal_(0.0)
