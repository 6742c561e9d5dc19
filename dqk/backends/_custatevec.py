"""Batched statevectors on a GPU: every sample's state in one allocation, then complex products by cuBLAS.

Choose it for entangling circuits where an NVIDIA GPU is at hand. Up to `FUSED_QUBITS` qubits one kernel prepares a state without
leaving the processor (`dqk.backends._triton_states`); above, cuStateVec applies one matrix for each sample at a time
(MATRIX_INDEXED) or one for all (BROADCAST). Samples may lie in main memory: values and gradients then go there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dqk.backends import gpu
from dqk.backends._custatevec_library import library_for
from dqk.backends.base import Capabilities, EncodingBackend, Parallel
from dqk.backends.batched_states import run_plan, sweep_plan
from dqk.backends.batching import Plan, in_chunks, plan_of, stride_of
from dqk.backends.gate_matrices import Operands, complex_of
from dqk.backends.pauli import expectation_slopes, expectation_values
from dqk.circuit import Circuit
from dqk.errors import InvalidInputError, MemoryBoundError, UnsupportedError

FUSED_QUBITS = 10
_SHARE = 0.8  # of the free device memory
_WORK = {"run": 3, "sweep": 8}  # states' worth of memory that a sample takes while it is worked on
_MIB = 2**20


@dataclass(frozen=True, eq=False)
class _Block:
    """States on the device.

    Attributes:
        states: complex, shape (N, 2**n).
        home: device of the samples, to which values go.
        place: device of the encodings, to which their cotangents go.
        ready: event after which other streams may read the states; None without a GPU.
    """

    states: Tensor
    home: torch.device
    place: torch.device
    ready: Any = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the encoding, as for other backends."""
        return 2, self.states.shape[1], len(self.states)


class CuStateVecBackend(EncodingBackend):
    """Dense statevectors on the GPU of the samples, or on this process's current one.

    Args:
        fused: whether one kernel prepares each state; None for up to `FUSED_QUBITS` qubits.
        tf32: whether float32 products may round their factors to 10 bits.
        chunk_mib: most memory that is worked on at once besides the states; None for what the device has free.

    An encoding has shape (2, 2**n, N): real and imaginary parts of the amplitudes, qubit 0 the most significant bit. In memory a
    sample's amplitudes are contiguous, real and imaginary parts side by side. A prepared one is a block on the device. What
    `encode_block` gives lies on the device wherever the samples are.

    Raises:
        BackendUnavailableError: without a GPU, its driver, a CUDA build of torch or cuQuantum; says what is missing.
    """

    name = "custatevec"
    capabilities = Capabilities(exact=True, differentiable=True, expectations=True, device="cuda")
    parallel_tiles = True

    def __init__(self, fused: bool | None = None, tf32: bool = False, chunk_mib: int | None = None):
        if fused not in (None, True, False) or not (chunk_mib is None or chunk_mib >= 1):
            raise InvalidInputError(
                f"fused={fused!r} and chunk_mib={chunk_mib!r}, expected True, False or None, and at least 1"
            )
        gpu.require_gpu(self.name)
        self.fused, self.tf32, self.chunk_mib = fused, tf32, chunk_mib

    def check_supported(self, circuit: Circuit) -> None:
        """Refuses circuits of which not even one float32 state fits into the device's memory."""
        needed, total = self.encoding_bytes(circuit, torch.float32), gpu.total_bytes()
        if needed > total:
            raise UnsupportedError(
                f"one state of {circuit.n_qubits} qubits takes {needed:,} bytes in float32, and the GPU has {total:,}; use fewer "
                "qubits, or backend='mps' if the gates connect no qubits"
            )

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """2048 samples, fewer from 13 qubits on to bound a block's memory at 256 MiB."""
        return max(8, min(2048, 2**24 // 2**circuit.n_qubits))

    def tile_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Complex products of one tile, their squares and the values."""
        return 6 * self.tile_side(circuit, dtype) ** 2 * dtype.itemsize

    def encoding_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """One state."""
        return 2 * dtype.itemsize * stride_of(circuit.n_qubits, 2 * dtype.itemsize)

    def memory_bound(self) -> int:
        """A share of the current GPU's free memory."""
        return int(_SHARE * gpu.free_bytes(gpu.device_for(torch.empty(0))))

    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """States of the samples, shape (2, 2**n, N), on their device."""
        return _encoding(self._states(circuit, angles, shared)).to(angles.device)

    def encode_block(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map
    ) -> tuple[Tensor, Any]:
        """States on the GPU, as encodings and as a block."""
        states = self._states(circuit, angles, shared)
        return _encoding(states), _Block(states, angles.device, states.device, _ready(states.device))

    def forward_block(self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map) -> Any:
        """States on the GPU, as a block."""
        return self.encode_block(circuit, angles, shared)[1]

    def forward_tile(self, a: Any, b: Any, log: bool) -> Tensor:
        """Values of two blocks; those for main memory have a stream of each thread's own, so that copies and products overlap."""
        device = a.states.device
        if a.home == device:
            values = self._values(a.states, b.states)
            return values.log() if log else values
        with gpu.on_stream(device, _own_stream(device)):
            _wait(device, a.ready, b.ready)
            values = self._values(a.states, b.states)
            values = values.log() if log else values
            found = torch.empty(values.shape, dtype=values.dtype, device=a.home, pin_memory=device.type == "cuda")
            found.copy_(values, non_blocking=True)
            _finish(device)  # before anybody reads the copy or frees the blocks
        return found

    def prepare(self, encoded: Tensor) -> Any:
        """The states as a block on the device."""
        device = gpu.device_for(encoded)
        return _Block(_complex(encoded.to(device)), encoded.device, encoded.device)

    def overlap(self, a: Any, b: Any) -> Tensor:
        """`|<b|a>|^2`, shape (N, M)."""
        return self._values(a.states, b.states).to(a.home)

    def overlap_vjp(self, a: Any, b: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """By the chain rule through <b|a>."""
        with self._products():
            # With W = 2 dK <b|a>: d(a) = W b, and d(b) = W^dagger a.
            weights = _weighted(a, b, cotangent)
            of_a, of_b = weights @ b.states, weights.mH @ a.states
        return _encoding(of_a).to(a.place), _encoding(of_b).to(b.place)

    def first_overlap_vjp(self, a: Any, b: Any, cotangent: Tensor, log: bool) -> Tensor:
        """One of the two products."""
        cotangent = self._log_slopes(a, b, cotangent) if log else cotangent
        with self._products():
            return _encoding(_weighted(a, b, cotangent) @ b.states).to(a.place)

    def self_overlap_vjp(self, a: Any, cotangent: Tensor) -> Tensor:
        """One product, for K[i, j] and K[j, i] are one number."""
        return self.first_overlap_vjp(a, a, cotangent + cotangent.T, False)

    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By one adjoint sweep for all samples of a chunk; the chain rule through the small matrices is torch's."""
        device = gpu.device_for(angles)
        plan = plan_of(circuit)
        x, w = angles.detach().to(device), shared.detach().to(device)
        final, pulled = _complex(encoded.detach().to(device)), _complex(cotangent.detach().to(device))
        of_angles, of_shared = torch.zeros_like(x), torch.zeros_like(w)

        def run(rows: slice) -> None:
            with torch.enable_grad():
                leaves = x[rows].clone().requires_grad_(), w.clone().requires_grad_()
                operands = Operands(plan, *leaves)
            with torch.no_grad(), self._products():
                stacks, gate_angles = self._sweep(plan, operands, final[rows], pulled[rows])
            groups = [group for group in operands.stacks if operands.stacks[group].requires_grad]
            outputs = [operands.stacks[group] for group in groups]
            cotangents = [stacks[group] for group in groups]
            if operands.angles.requires_grad:
                outputs, cotangents = [*outputs, operands.angles], [*cotangents, gate_angles]
            found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True) if outputs else (None, None)
            if found[0] is not None:
                of_angles[rows] = found[0]
            if found[1] is not None:
                of_shared.add_(found[1])

        self._in_chunks(circuit, angles.dtype, device, len(angles), "sweep", run)
        return of_angles.to(angles.device), of_shared.to(shared.device)

    def _fidelity_vjp(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        device = gpu.device_for(ax)
        with gpu.current(device):
            return super()._fidelity_vjp(circuit, ax, ay, shared, cotangent.to(device))

    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor:
        return expectation_values(self._states(circuit, ax, shared), observables).to(ax.device)

    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        states = self._states(circuit, ax, shared)
        slopes = expectation_slopes(states, observables, cotangent.to(states.device))
        return self.encode_vjp(circuit, ax, shared, _encoding(states), _encoding(slopes))

    def _values(self, a: Tensor, b: Tensor) -> Tensor:
        with self._products():
            return torch.view_as_real(a @ b.mH).square_().sum(-1)

    def _products(self) -> AbstractContextManager[None]:
        return gpu.float32_products(self.tf32)

    def _states(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """Final states, shape (N, 2**n), on the GPU."""
        device, n = gpu.device_for(angles), circuit.n_qubits
        plan, dtype = plan_of(circuit), complex_of(angles.dtype)
        x, w = angles.detach().to(device), shared.detach().to(device)
        needed = self.encoding_bytes(circuit, angles.dtype)
        try:
            out = torch.empty(len(angles), stride_of(n, dtype.itemsize), dtype=dtype, device=device)
        except torch.cuda.OutOfMemoryError as error:
            raise self._too_large(circuit, needed, len(angles), device) from error

        def run(rows: slice) -> None:
            with torch.no_grad(), self._products():
                self._run(plan, Operands(plan, x[rows], w), out[rows])

        self._in_chunks(circuit, angles.dtype, device, len(angles), "run", run)
        return out[:, : 2**n]

    def _run(self, plan: Plan, operands: Operands, out: Tensor) -> None:
        if self._is_fused(plan.circuit):
            from dqk.backends._triton_states import run_fused

            run_fused(plan, operands, out)
            return
        library = library_for(out.device)
        with library.lock:
            run_plan(plan, operands, library.applier(plan.circuit.n_qubits, len(out)), out)

    def _sweep(self, plan: Plan, operands: Operands, final: Tensor, pulled: Tensor) -> tuple[dict[Any, Tensor], Tensor]:
        n = plan.circuit.n_qubits
        states = final.new_empty(2 * len(final), stride_of(n, final.dtype.itemsize))
        states[: len(final), : 2**n], states[len(final) :, : 2**n] = final, pulled
        if self._is_fused(plan.circuit):
            from dqk.backends._triton_states import sweep_fused

            return sweep_fused(plan, operands, states)
        library = library_for(final.device)
        with library.lock:
            return sweep_plan(plan, operands, library.applier(n, len(final)), states)

    def _is_fused(self, circuit: Circuit) -> bool:
        return circuit.n_qubits <= FUSED_QUBITS if self.fused is None else self.fused

    def _in_chunks(
        self,
        circuit: Circuit,
        dtype: torch.dtype,
        device: torch.device,
        count: int,
        work: str,
        run: Callable[[slice], None],
    ) -> None:
        """Runs slices of samples, smaller ones after each lack of memory."""
        each = _WORK[work] * self.encoding_bytes(circuit, dtype)
        free = int(_SHARE * gpu.free_bytes(device)) if self.chunk_mib is None else self.chunk_mib * _MIB
        with gpu.current(device):
            in_chunks(count, each, free, run, lambda: self._too_large(circuit, each, 1, device))

    def _too_large(self, circuit: Circuit, each: int, count: int, device: torch.device) -> MemoryBoundError:
        return MemoryBoundError(
            f"{count:,} states of {circuit.n_qubits} qubits need {count * each:,} bytes on {device}, which has "
            f"{gpu.free_bytes(device):,} free; use fewer samples at a time, fewer qubits or float32"
        )


_threads = threading.local()


def _encoding(states: Tensor) -> Tensor:
    """Shape (2, 2**n, N) of states (N, 2**n), without a copy."""
    return torch.view_as_real(states).permute(2, 1, 0)


def _complex(encoded: Tensor) -> Tensor:
    """States (N, 2**n) of an encoding, without a copy if it has the layout of `_encoding`."""
    parts = encoded.permute(2, 1, 0)
    if parts.stride(2) != 1 or parts.stride(0) % 2 or parts.stride(1) != 2 or parts.storage_offset() % 2:
        parts = parts.contiguous()
    return torch.view_as_complex(parts)


def _weighted(a: _Block, b: _Block, cotangent: Tensor) -> Tensor:
    """`2 cotangent <b|a>`, elementwise."""
    return (a.states @ b.states.mH).mul_(2 * cotangent.detach().to(a.states.device))


def _ready(device: torch.device) -> Any:
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _own_stream(device: torch.device) -> Any:
    """The calling thread's stream on a device."""
    if device.type != "cuda":
        return None
    streams = _threads.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]


def _wait(device: torch.device, *events: Any) -> None:
    for event in events:
        if event is not None:
            torch.cuda.current_stream(device).wait_event(event)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
