"""What a worker runs: `run_task(task, arrays) -> result`, all of them buffers, none a pickle.

A task names a job by digest. The job's circuit, backend and angles were shipped once, under that digest; encoded blocks of
samples are kept between tasks, within the memory bound. Any number of threads may run tasks.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._entries import run_entries
from dqk._resources import cpu_threads, one_blas_thread
from dqk._wire import pack, unpack
from dqk.backends.base import EncodingBackend, mirror
from dqk.backends.resolve import resolve
from dqk.circuit import Circuit
from dqk.errors import MemoryBoundError, StoreError, UnsupportedError, cause
from dqk.store import TileWriter

Arrays = Mapping[str, np.ndarray]
Header = dict[str, Any]
PAD = 8
"""Ragged blocks are padded to a multiple of this many samples."""

_JOBS_KEPT = 4
_MIB = 2**20


def run_task(
    task: bytes,
    arrays: Mapping[str, Arrays],
    gate: AbstractContextManager[object] = nullcontext(),  # noqa: B008  # shared: it does nothing
) -> bytes:
    """Runs one task inside a worker.

    Args:
        task: a message of `dqk._wire.pack` whose document has a `kind`: `probe`, `states`, `tiles`, `strips`, `rows` or
            `entries`.
        arrays: what was shipped to this worker, by digest.
        gate: held while the task computes, not while it waits for a disk: a worker runs twice as many tasks as it has slots, and
            its gate admits as many as it has slots.

    Returns:
        A message; its document depends on the kind. Failures of single tiles are part of it.

    Raises:
        DQKError: if the task as a whole cannot be run.
    """
    header, extra = unpack(task)
    kinds: dict[str, Callable[..., bytes | Callable[[], bytes]]] = {
        "probe": _probe,
        "states": _states,
        "tiles": _tiles,
        "strips": _strips,
        "rows": _rows,
        "entries": run_entries,
    }
    if header.get("kind") not in kinds:
        raise UnsupportedError(
            f"task of kind {header.get('kind')!r}, expected one of {', '.join(kinds)}; do all workers run the same dqk?"
        )
    with gate, torch.no_grad(), one_blas_thread():
        result = kinds[header["kind"]](header, extra, arrays)
    return result if isinstance(result, bytes) else result()


def _probe(header: Header, extra: Arrays, arrays: Mapping[str, Arrays]) -> bytes:
    """Says who the worker is; waits or raises on request; copies a nonce from file to file to show that a disk is shared."""
    time.sleep(header.get("sleep_s", 0.0))
    if "error" in header:
        raise UnsupportedError(header["error"])
    seen = {"pid": os.getpid(), "node": socket.gethostname(), "held": sorted(arrays)}
    if "nonce" in header:
        try:
            Path(header["reply"]).write_text(Path(header["nonce"]).read_text())
            seen["shared"] = True
        except OSError:
            seen["shared"] = False
    return pack(seen, extra)


class _Job:
    """A kernel matrix as a worker sees it."""

    def __init__(self, arrays: Arrays):
        spec = json.loads(arrays["spec"].tobytes())
        self.circuit = Circuit.from_dict(spec["circuit"])
        self.log: bool = spec["log"]
        self.symmetric: bool = spec["symmetric"]
        self.side: int = spec["side"]
        self.shots: int | None = spec["shots"]
        self.seed: int = spec["seed"]
        backend = resolve(spec["backend"], self.circuit)
        if not isinstance(backend, EncodingBackend):
            raise UnsupportedError(
                f"backend {backend.name!r} does not compute tiles; use 'statevector', 'mps' or 'reference'"
            )
        self.backend = backend
        self.shared = torch.from_numpy(np.array(arrays["shared"]))
        self.rows = torch.from_numpy(np.array(arrays["ax"]))
        self.columns = self.rows if self.symmetric else torch.from_numpy(np.array(arrays["ay"]))
        self.sent: Arrays = {}  # encodings that other workers made
        self._room = self._blocks_that_fit()
        self._blocks: OrderedDict[tuple[str, int, bool], Future[Any]] = OrderedDict()
        self._evicted: list[Any] = []  # blocks whose memory can be used again once no thread reads them
        self._readers = 0
        self._lock = threading.Lock()

    def _blocks_that_fit(self) -> int:
        """Blocks of states beside the tiles in flight; those for gradients count twice, being encoded and prepared.

        Raises:
            MemoryBoundError: if two do not fit.
        """
        dtype = self.rows.dtype
        block = self.side * self.backend.encoding_bytes(self.circuit, dtype)
        bound, in_flight = self.backend.memory_bound(), cpu_threads() * self.backend.tile_bytes(self.circuit, dtype)
        if bound < 2 * block + in_flight:
            needed = (2 * block + in_flight) // _MIB
            raise MemoryBoundError(
                f"two blocks of {self.side} samples on {self.circuit.n_qubits} qubits need {needed:,} MiB, "
                f"the bound of this worker is {bound // _MIB:,} MiB (DQK_MEMORY_MIB, or half of the free memory shared by the "
                "workers of a node); use fewer workers, fewer qubits or float32, or raise the bound"
            )
        return max(2, (bound - in_flight) // max(1, block))

    def angles(self, which: str, k: int) -> Tensor:
        """Angles of block k of the `rows` or `columns`, shape (at most side, A_d)."""
        return (self.rows if which == "rows" else self.columns)[k * self.side : (k + 1) * self.side]

    def block(self, which: str, k: int, gradients: bool = False) -> Any:
        """States of a block, padded: made by whoever asks first, kept while memory allows."""
        key = ("rows" if self.symmetric else which, k, gradients)
        with self._lock:
            mine = key not in self._blocks
            future = self._blocks.setdefault(key, Future())
            self._blocks.move_to_end(key)
            while sum(1 + key[2] for key in self._blocks) > self._room and len(self._blocks) > 2:
                (_, _, whole), old = self._blocks.popitem(last=False)
                if old.done() and old.exception() is None:
                    self._evicted.append(old.result()[1] if whole else old.result())
        if mine:
            try:
                future.set_result(self._made(*key))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(key, None)  # the next one tries again
                future.set_exception(error)
        return future.result()

    def _made(self, which: str, k: int, gradients: bool) -> Any:
        sent = self.sent.get(f"{which}.{k}")
        if sent is None:
            return self._encode(self.angles(which, k), gradients)
        return self.backend.adopt_block(self.circuit, torch.from_numpy(np.array(sent)), gradients)

    def encoding(self, which: str, k: int) -> np.ndarray:
        """Of a padded block, for other workers."""
        return np.ascontiguousarray(self._encode(self.angles(which, k), True)[0].numpy())

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Around all uses of blocks. Afterwards, if no other thread reads any, the memory of evicted ones is used again."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                evicted, self._evicted = self._evicted, []
                if self._readers:
                    evicted = []  # the system takes these back, as nobody knows when they are free
            for block in evicted:
                self.backend.recycle(block)

    def _encode(self, part: Tensor, gradients: bool) -> Any:
        missing = -len(part) % PAD
        if missing:
            part = torch.cat([part, part.new_zeros(missing, part.shape[1])])
        make = self.backend.encode_block if gradients else self.backend.forward_block
        return make(self.circuit, part, self.shared)

    def tile(self, row: int, column: int) -> np.ndarray:
        """Values of a tile without padding; a diagonal one of a symmetric matrix is mirrored, with an exact diagonal."""
        with self._reading():
            value = self.backend.forward_tile(self.block("rows", row), self.block("columns", column), self.log)
        value = value[: len(self.angles("rows", row)), : len(self.angles("columns", column))]
        if self.symmetric and row == column:
            value = mirror(value, 0.0 if self.log else 1.0)
        if self.shots is not None:
            value = self._measured(value, row, column)
        return np.ascontiguousarray(value.numpy())

    def _measured(self, value: Tensor, row: int, column: int) -> Tensor:
        """Relative frequencies of the outcome 0...0; the generator belongs to the tile, so that shots agree everywhere."""
        assert self.shots is not None
        random = np.random.Generator(np.random.Philox(key=[self.seed, row * 2**32 + column]))
        counts = random.binomial(self.shots, value.double().clamp(0.0, 1.0).numpy())
        found = torch.from_numpy(counts / self.shots).to(value.dtype)
        return mirror(found) if self.symmetric and row == column else found

    def strip(self, which: str, k: int, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents of the angles of one block, and its part of the shared ones', from its strip of dK, in column order."""
        with self._reading():
            return self._sweep(self.angles(which, k), self.block(which, k, gradients=True), which, cotangent)

    def values(self, angles: Tensor) -> Tensor:
        """Values (b, M) of samples (b, A_d) that a task brings, against all columns."""
        with self._reading():
            block, parts = self._encode(angles, False), []
            for j in range(-(-len(self.columns) // self.side)):
                part = self.backend.forward_tile(block, self.block("columns", j), self.log)
                parts.append(part[: len(angles), : len(self.angles("columns", j))])
            self.backend.recycle(block)
        return torch.cat(parts, dim=1)

    def cotangents(self, angles: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Of the angles of such samples, and their part of the shared ones', from the cotangent (b, M) of their values."""
        with self._reading():
            return self._sweep(angles, self._encode(angles, True), "rows", cotangent)

    def _sweep(
        self, angles: Tensor, block: tuple[Tensor, Tensor], which: str, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        other = "columns" if which == "rows" else "rows"
        encoded, prepared = block
        total = torch.zeros_like(encoded)
        for j in range(-(-cotangent.shape[1] // self.side)):
            facing = self.block(other, j, gradients=True)[1]
            part = cotangent[:, j * self.side : (j + 1) * self.side]
            padded = part.new_zeros(encoded.shape[-1], facing.shape[-1])
            padded[: part.shape[0], : part.shape[1]] = part
            total += self.backend.first_overlap_vjp(prepared, facing, padded, self.log)
        count = len(angles)
        return self.backend.encode_vjp(self.circuit, angles, self.shared, encoded[..., :count], total[..., :count])


_jobs: OrderedDict[str, Future[_Job]] = OrderedDict()
_jobs_lock = threading.Lock()


def _job(digest: str, arrays: Mapping[str, Arrays], states: str | None = None) -> _Job:
    """The job of this name, with the encodings of that name."""
    with _jobs_lock:
        for old in [known for known in _jobs if known not in arrays]:  # nobody will ask for them again
            del _jobs[old]
        mine = digest not in _jobs
        future = _jobs.setdefault(digest, Future())
        _jobs.move_to_end(digest)
        while len(_jobs) > _JOBS_KEPT:
            _jobs.popitem(last=False)
    if mine:
        try:
            future.set_result(_Job(arrays[digest]))
        except BaseException as error:
            with _jobs_lock:
                _jobs.pop(digest, None)
            future.set_exception(error)
    job = future.result()
    if states is not None:
        job.sent = arrays[states]
    return job


def forget(digest: str) -> None:
    """Lets go of the states of a job."""
    with _jobs_lock:
        _jobs.pop(digest, None)


def _after_fork() -> None:
    """A forked child has none of the threads that would finish what others wait for."""
    global _jobs_lock
    _jobs_lock = threading.Lock()
    _jobs.clear()


os.register_at_fork(after_in_child=_after_fork)


def _tiles(header: Header, extra: Arrays, arrays: Mapping[str, Arrays]) -> bytes | Callable[[], bytes]:
    """Values of tiles: `tiles` holds triples (item, row, column). What fails is listed with its cause, the rest is given.

    With a `store` the rest is committed there under the driver's `lease`, and only digests are given.
    """
    job = _job(header["job"], arrays, header.get("states"))
    values: dict[int, np.ndarray] = {}
    failed: list[tuple[int, str]] = []
    spans: list[tuple[str, int, float, float]] = []
    for item, row, column in header["tiles"]:
        began = time.time()
        try:
            job.block("rows", row), job.block("columns", column)
            encoded = time.time()
            values[item] = job.tile(row, column)
        except Exception as error:
            failed.append((item, cause(error)))
            continue
        spans += [("encode", item, began, encoded), ("overlap", item, encoded, time.time())]
    document = {"failed": failed, "spans": spans}
    if "store" not in header:
        return pack(document, {str(item): value for item, value in values.items()})
    return partial(_commit, header, document, values)


def _commit(header: Header, document: Header, values: dict[int, np.ndarray]) -> bytes:
    """Puts computed tiles into the store."""
    began, places = time.time(), {item: (row, column) for item, row, column in header["tiles"]}
    try:
        digests = _writer(header["store"], header["lease"]).commit(
            [(*places[item], value) for item, value in values.items()]
        )
    except StoreError as error:
        if error.transient:
            return pack({**document, "failed": [*document["failed"], *((item, cause(error)) for item in values)]})
        return pack({**document, "fatal": str(error)})
    document["spans"].append(("commit", -1, began, time.time()))
    return pack({**document, "digests": list(zip(values, digests, strict=True))})


_local = threading.local()


def _writer(path: str, lease: str) -> TileWriter:
    """This thread's writer for a store, with a journal of its own."""
    if getattr(_local, "key", None) != (path, lease):
        name = f"{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}"
        _local.writer, _local.key = TileWriter(path, name, lease), (path, lease)
    writer: TileWriter = _local.writer
    return writer


def _states(header: Header, extra: Arrays, arrays: Mapping[str, Arrays]) -> bytes:
    """Encodings of blocks of samples: `blocks` holds triples (item, which, block)."""
    job = _job(header["job"], arrays)
    return _each(header["blocks"], "encode", lambda item, which, k: {str(item): job.encoding(which, k)})


def _strips(header: Header, extra: Arrays, arrays: Mapping[str, Arrays]) -> bytes:
    """Cotangents of the angles of blocks of samples: `strips` holds triples (item, which, block), `extra` their rows of dK."""
    job = _job(header["job"], arrays, header.get("states"))

    def strip(item: int, which: str, k: int) -> Arrays:
        angles, shared = job.strip(which, k, torch.from_numpy(np.array(extra[str(item)])))
        return {f"{item}.angles": angles.numpy(), f"{item}.shared": shared.numpy()}

    return _each(header["strips"], "backward", strip)


def _rows(header: Header, extra: Arrays, arrays: Mapping[str, Arrays]) -> bytes:
    """Samples that come with the task, against the columns of one or more `jobs`: values, or cotangents where dK comes too."""
    jobs = [_job(digest, arrays) for digest in header["jobs"]]

    def row(item: int) -> Arrays:
        found: dict[str, np.ndarray] = {}
        for g, job in enumerate(jobs):
            name = f"{item}.{g}"
            angles = torch.from_numpy(np.array(extra[name]))
            if f"{name}.dK" in extra:
                of_angles, of_shared = job.cotangents(angles, torch.from_numpy(np.array(extra[f"{name}.dK"])))
                found[f"{name}.angles"], found[f"{name}.shared"] = of_angles.numpy(), of_shared.numpy()
            else:
                found[name] = job.values(angles).numpy()
        return found

    return _each([(item,) for item in header["items"]], "rows", row)


def _each(entries: Sequence[Sequence[Any]], span: str, compute: Callable[..., Arrays]) -> bytes:
    """What `compute` gives for each entry, which begins with its item; what fails is listed with its cause, the rest is given."""
    found: dict[str, np.ndarray] = {}
    failed: list[tuple[int, str]] = []
    spans: list[tuple[str, int, float, float]] = []
    for entry in entries:
        began = time.time()
        try:
            found.update(compute(*entry))
        except Exception as error:
            failed.append((entry[0], cause(error)))
            continue
        spans.append((span, entry[0], began, time.time()))
    return pack({"failed": failed, "spans": spans}, found)
