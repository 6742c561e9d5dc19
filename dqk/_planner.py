"""What a kernel matrix would take on each backend, which one `gram` takes, and why the others are not taken. Computes nothing.

Times are those of compiled code that has been compiled, by the cost model in force. What `auto` takes follows from default speeds
(`dqk.backends.choice`), so that a measured model changes predictions and never a result.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dqk._cost import CostModel
from dqk._resources import cpu_threads
from dqk.backends import gpu
from dqk.backends.base import EncodingBackend
from dqk.backends.chain import chain_of
from dqk.backends.choice import BOND, Candidate, bytes_needed, candidates, choose, why_not
from dqk.backends.mps import MPSBackend
from dqk.backends.reference import ReferenceBackend
from dqk.backends.resolve import resolve
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit
from dqk.errors import DQKError, MemoryBoundError, UnsupportedError

_MIB = 2**20
_CALL_S = 4e-4  # of a matrix of a few entries
_TASK = 32  # samples of a block that one thread encodes
_HALVED = ("statevector", "mps-chain")  # compute only the upper half of a diagonal tile


@dataclass(frozen=True)
class Size:
    """A matrix and who computes it.

    Attributes:
        rows: N.
        columns: M; None for a symmetric matrix.
        dtype: of the samples.
        workers: processes of one thread each; None for the threads of this one.
    """

    rows: int
    columns: int | None
    dtype: torch.dtype
    workers: int | None = None


@dataclass(frozen=True)
class Row:
    """One way to compute a matrix.

    Attributes:
        backend: its name.
        chosen: whether `gram` takes it.
        seconds: predicted; None if it cannot be had.
        memory_mib: predicted, with K, of each process; None as above.
        tiles: of the matrix; None as above.
        side: samples of a full tile.
        exact: whether values are exact up to rounding.
        bond: largest bond dimension of matrix-product states; None for other backends.
        why: why it is chosen, or not.
        price: of a device, in `currency`.
        currency: of the price.
    """

    backend: str
    chosen: bool = False
    seconds: float | None = None
    memory_mib: int | None = None
    tiles: int | None = None
    side: int | None = None
    exact: bool = True
    bond: int | None = None
    why: str = ""
    price: float | None = None
    currency: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def predict(backend: EncodingBackend, circuit: Circuit, size: Size, model: CostModel) -> dict[str, Any]:
    """Seconds, memory and tiles, as `Row` has them.

    Args:
        backend: that can run the circuit.
        circuit: simplified.
        size: of the matrix.
        model: speeds.
    """
    side, effort = backend.tile_side(circuit, size.dtype), backend.effort(circuit, size.dtype)
    cost = model.of(effort, str(size.dtype).removeprefix("torch."), side)
    blocks = [-(-n // side) for n in (size.rows, size.columns) if n is not None]
    # Full blocks, and what a ragged one is padded to.
    filled = [n // side + -(-(n % side) // 8) * 8 / side for n in (size.rows, size.columns) if n is not None]
    if size.columns is None:
        tiles, rest = blocks[0] * (blocks[0] + 1) // 2, filled[0] % 1
        diagonal = (int(filled[0]) + rest**2) * (0.55 if effort.kind in _HALVED else 1.0)
        area = (filled[0] ** 2 - int(filled[0]) - rest**2) / 2 + diagonal
    else:
        tiles, area = blocks[0] * blocks[1], filled[0] * filled[1]
    threads = cpu_threads() if size.workers is None else size.workers
    if size.workers is None:
        encode = sum(filled) * cost.encode_s / min(threads, max(1, -(-min(side, size.rows) // _TASK)))
    else:  # a worker's tiles are about a square, whose blocks nobody else encodes for it
        encode = min(sum(filled), 2 * math.sqrt(tiles / threads)) * cost.encode_s
    seconds = _CALL_S + encode + area * cost.tile_s * (-(-tiles // threads) / max(1, tiles))
    needed, bound = bytes_needed(backend, circuit, size.dtype), backend.memory_bound()
    every_block = needed + max(0, sum(blocks) - 2) * side * backend.encoding_bytes(circuit, size.dtype)
    memory = max(needed, min(every_block, bound)) + result_bytes(size)
    return {"seconds": seconds, "memory_mib": -(-memory // _MIB), "tiles": tiles, "side": side}


def result_bytes(size: Size) -> int:
    """Memory of K."""
    return size.rows * (size.rows if size.columns is None else size.columns) * size.dtype.itemsize


def exact_rows(circuit: Circuit, size: Size, backend: str, model: CostModel) -> tuple[list[Row], DQKError | None]:
    """A row for each backend that computes tiles, the one that `gram` takes first, and why none is taken if none is.

    Args:
        circuit: simplified.
        size: of the matrix.
        backend: as the user named it.
        model: speeds.
    """
    refused: DQKError | None = None
    asked = None if backend == "auto" else resolve(backend, circuit)
    try:
        taken = choose(circuit, size.dtype) if asked is None else asked.name
    except (MemoryBoundError, UnsupportedError) as error:
        taken, refused = "", error
    found = [_row(one, circuit, size, model) for one in _looked_at(circuit, size.dtype, asked)]
    chosen = next((row for row in found if row.backend == taken), None)
    if chosen is not None and chosen.seconds is None:
        refused, chosen = MemoryBoundError(f"{chosen.backend}: {chosen.why}"), None
    rows = [_with_reason(row, chosen, asked is not None) for row in found] + _apart(circuit, size, model, taken)
    return sorted(rows, key=lambda row: (not row.chosen, row.seconds is None, row.seconds or 0.0)), refused


def _looked_at(circuit: Circuit, dtype: torch.dtype, asked: Any) -> list[Candidate]:
    """Those that `auto` chooses from, the oracle, and the one that was asked for."""
    found = [*candidates(circuit, dtype), _candidate(ReferenceBackend(), circuit)]
    if circuit.is_product:  # where `auto` need not look
        found.append(_candidate(StatevectorBackend(), circuit))
    if asked is not None and asked.name not in [one.name for one in found]:
        if not isinstance(asked, EncodingBackend):
            raise UnsupportedError(f"backend {asked.name!r} measures: say how often with --shots, or take an exact one")
        found.append(Candidate(asked.name, asked))
    return found


def _candidate(backend: EncodingBackend, circuit: Circuit) -> Candidate:
    try:
        backend.check_supported(circuit)
    except DQKError as error:
        return Candidate(backend.name, None, str(error))
    return Candidate(backend.name, backend)


def _row(one: Candidate, circuit: Circuit, size: Size, model: CostModel) -> Row:
    bond = chain_of(circuit).bond if one.name == "mps" else None
    bond = bond if bond is None or bond < 2**53 else None  # JSON knows no larger ones
    why = why_not(one, circuit, size.dtype)
    if one.backend is None or why:
        return Row(one.name, bond=bond, why=why)
    exact = one.backend.capabilities.exact
    bond = bond or getattr(one.backend, "max_bond", None)
    return Row(one.name, exact=exact, bond=bond, **predict(one.backend, circuit, size, model))


def _with_reason(row: Row, chosen: Row | None, asked: bool) -> Row:
    if row is chosen:
        bond = f"; exact, bonds of {row.bond} follow from the circuit" if row.bond and row.exact else ""
        return _replaced(row, chosen=True, why=f"{'asked for' if asked else 'predicted to be the fastest'}{bond}")
    if row.seconds is None or chosen is None or chosen.seconds is None:
        return row
    ratio = row.seconds / chosen.seconds
    if ratio >= 1:
        return _replaced(row, why=f"{_times(ratio)} the time of {chosen.backend}")
    if asked:
        return _replaced(row, why=f"{_times(ratio)} the time, but {chosen.backend} was asked for")
    return _replaced(
        row,
        why=f"{_times(ratio)} the time for this size on this machine; auto compares default speeds at one size, so that results "
        f"keep their bits: --backend {row.backend} takes it",
    )


def _apart(circuit: Circuit, size: Size, model: CostModel, taken: str) -> list[Row]:
    """What `auto` never takes: truncated states, which are not exact, and a GPU, whose values have other bits."""
    found = []
    if not taken.startswith("mps:"):
        found.append(_truncated(circuit, size, model))
    if taken != "custatevec":
        found.append(_on_gpu(circuit, size, model))
    return found


def _on_gpu(circuit: Circuit, size: Size, model: CostModel) -> Row:
    missing = gpu.missing()
    if missing is not None:
        return Row("custatevec", why=missing)
    backend = resolve("custatevec", Circuit(1, ()))
    assert isinstance(backend, EncodingBackend)
    one = _candidate(backend, circuit)
    why = why_not(one, circuit, size.dtype)
    if one.backend is None or why:
        return Row("custatevec", why=why)
    why = "predicted from a data sheet; --backend custatevec takes the GPU, and auto for samples that lie there"
    return Row("custatevec", why=why, **predict(one.backend, circuit, size, model))


def _truncated(circuit: Circuit, size: Size, model: CostModel) -> Row:
    backend, bond = MPSBackend(max_bond=BOND), chain_of(circuit).bond if circuit.n_qubits > 1 else 1
    if bond <= BOND and candidates(circuit, size.dtype)[0].backend is not None:
        return Row("mps:max_bond=N", exact=False, why=f"nothing to truncate: exact bonds are {bond}")
    one = Candidate(backend.name, backend)
    why = why_not(one, circuit, size.dtype)
    if why:
        return Row(backend.name, exact=False, bond=BOND, why=why)
    why = f"not exact; --backend {backend.name} takes it, MPSBackend.error_bound says by how much it is off at most"
    return Row(backend.name, exact=False, bond=BOND, why=why, **predict(backend, circuit, size, model))


def _replaced(row: Row, **changes: Any) -> Row:
    return Row(**{**row.to_dict(), **changes})


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.2g} times"
