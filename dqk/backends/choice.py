"""What `backend="auto"` takes: of the exact backends on CPUs that can compute a circuit's kernel, the fastest by prediction.

The choice depends on circuit and precision alone. It goes by default speeds, so that all processes and ranks agree, and by one
number of samples, so that entries keep their bits when a matrix grows (ADR 16). The memory bound only takes away what would fail.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from dqk._cost import CostModel
from dqk._resources import cpu_threads, memory_bound
from dqk.backends.base import EncodingBackend
from dqk.circuit import Circuit
from dqk.errors import DQKError, MemoryBoundError, UnsupportedError

SAMPLES = 256
"""Size of the symmetric matrix by which backends are compared."""
NAMES = ("mps", "statevector")
_SMALL = 64 * 2**20  # bytes that always fit
_MIB = 2**20
BOND = 32
"""To which truncation is offered and predicted if nobody asked for another."""


@dataclass(frozen=True)
class Candidate:
    """A backend that was looked at for a circuit.

    Attributes:
        name: its name.
        backend: it; None if it cannot run the circuit.
        why_not: why it cannot.
        seconds: predicted for `SAMPLES` samples on one thread, by default speeds.
    """

    name: str
    backend: EncodingBackend | None
    why_not: str = ""
    seconds: float = 0.0


@lru_cache(maxsize=256)
def candidates(circuit: Circuit, dtype: torch.dtype) -> tuple[Candidate, ...]:
    """The backends that `auto` chooses from, fastest first, those that cannot run the circuit last.

    Args:
        circuit: simplified.
        dtype: of the samples.
    """
    from dqk.backends.mps import MPSBackend
    from dqk.backends.statevector import StatevectorBackend

    if circuit.is_product:
        return (Candidate("mps", MPSBackend()),)
    found = [_looked_at(backend, circuit, dtype) for backend in (MPSBackend(), StatevectorBackend())]
    return tuple(sorted(found, key=lambda one: (one.backend is None, one.seconds)))


def _looked_at(backend: EncodingBackend, circuit: Circuit, dtype: torch.dtype) -> Candidate:
    try:
        backend.check_supported(circuit)
    except DQKError as error:
        return Candidate(backend.name, None, str(error))
    side = backend.tile_side(circuit, dtype)
    cost = CostModel().of(backend.effort(circuit, dtype), str(dtype).removeprefix("torch."), side)
    seconds = SAMPLES / side * (cost.encode_s + SAMPLES / side / 2 * cost.tile_s)
    return Candidate(backend.name, backend, seconds=seconds)


def bytes_needed(backend: EncodingBackend, circuit: Circuit, dtype: torch.dtype, gradients: Sequence[int] = ()) -> int:
    """Memory without which a matrix is refused: two blocks and a tile on each thread.

    Args:
        backend: which.
        circuit: simplified.
        dtype: of the samples.
        gradients: number of samples of both sides (one if symmetric) whose states a gradient keeps, with their cotangents.
    """
    side = backend.tile_side(circuit, dtype)
    blocks = max(2, 2 * sum(-(-count // side) for count in gradients))
    in_flight = cpu_threads() * backend.tile_bytes(circuit, dtype)
    return blocks * side * backend.encoding_bytes(circuit, dtype) + in_flight


def fits(needed: int) -> bool:
    """Whether the memory bound allows so many bytes. Asks the system only if need be."""
    return (needed < _SMALL and "DQK_MEMORY_MIB" not in os.environ) or needed <= memory_bound()


def choose(circuit: Circuit, dtype: torch.dtype, gradients: Sequence[int] = ()) -> str:
    """The name of the backend that `auto` stands for.

    Args:
        circuit: simplified.
        dtype: of the samples.
        gradients: see `bytes_needed`.

    Raises:
        UnsupportedError: if no exact backend can run the circuit; says what it would take, and what else there is.
        MemoryBoundError: the same, if more memory would do.
    """
    found = candidates(circuit, dtype)
    for one in found:
        if one.backend is not None and fits(bytes_needed(one.backend, circuit, dtype, gradients)):
            return one.name
    raise refusal(circuit, dtype, gradients)


def refusal(circuit: Circuit, dtype: torch.dtype, gradients: Sequence[int] = ()) -> DQKError:
    """Why no exact backend computes a circuit here, with qubits, bonds, memory, and what can be done."""
    found = candidates(circuit, dtype)
    reasons = [f"{one.name}: {why_not(one, circuit, dtype, gradients)}" for one in found]
    more_memory = any(one.backend is not None for one in found)
    kind = MemoryBoundError if more_memory else UnsupportedError
    text = f"no exact backend on this machine's processors runs this circuit on {circuit.n_qubits} qubits"
    return kind("\n".join([text, *reasons, _options(circuit, dtype, more_memory, bool(gradients))]))


def why_not(one: Candidate, circuit: Circuit, dtype: torch.dtype, gradients: Sequence[int] = ()) -> str:
    """Why a candidate cannot be taken; empty if it can."""
    if one.backend is None:
        reason = one.why_not.partition(". Use ")[0]  # what else there is, is said once
        return f"{reason}{_state_size(circuit, dtype)}" if one.name == "statevector" else reason
    needed = bytes_needed(one.backend, circuit, dtype, gradients)
    if one.backend.capabilities.device == "cpu" and fits(needed):
        return ""
    bound = one.backend.memory_bound()
    if needed <= bound:
        return ""
    what = f"two blocks of {one.backend.tile_side(circuit, dtype)} samples"
    if gradients and sum(gradients) > 2 * one.backend.tile_side(circuit, dtype):
        what = "the states of all samples, which a gradient keeps (differentiate K(X[a:b], Y) in parts, or raise the bound),"
    return (
        f"{what} on {circuit.n_qubits} qubits need {-(-needed // _MIB):,} MiB, the bound is {bound // _MIB:,} MiB "
        "(DQK_MEMORY_MIB, or half of the free memory)"
    )


def _state_size(circuit: Circuit, dtype: torch.dtype) -> str:
    """Of one dense state."""
    size = 2 * dtype.itemsize * 2**circuit.n_qubits
    shown = f"{size // _MIB:,} MiB" if circuit.n_qubits <= 60 else f"2**{circuit.n_qubits} amplitudes"
    return f"; one state takes {shown}"


def _truncation_helps(circuit: Circuit, dtype: torch.dtype) -> bool:
    """Whether truncated states fit, where exact ones do not; smaller bonds than `BOND` are the exact ones."""
    from dqk.backends.mps import MPSBackend

    return fits(bytes_needed(MPSBackend(max_bond=BOND), circuit, dtype))


def _options(circuit: Circuit, dtype: torch.dtype, more_memory: bool, gradients: bool) -> str:
    options = []
    if not gradients and _truncation_helps(circuit, dtype):
        options.append(f"truncate (backend='mps:max_bond={BOND}'; MPSBackend.error_bound says by how much at most)")
    if circuit.n_qubits <= 33:
        options.append(f"use a GPU (backend='custatevec'{_state_size(circuit, dtype)})")
    options.append("take fewer layers or qubits")
    if dtype == torch.float64 and more_memory:
        options.append("give float32 samples")
    if more_memory:
        options.append("raise DQK_MEMORY_MIB")
    return f"what can be done: {'; '.join(options)}"
