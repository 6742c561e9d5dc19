"""The ranks that train together: what they tell one another, and how they end together.

Rank 0 leads: it alone reads files, writes the run folder and speaks to the user. What went wrong travels through torch's
key-value store and not through collectives, which a failed rank no longer takes part in; so every rank ends, and one of them says
why.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from dqk.cluster.nodes import address_of
from dqk.errors import ClusterError, DQKError, exit_code
from dqk.training.gradients import sum_gradients
from dqk.training.interrupt import AgreedError, LostRankError, RankEnded
from dqk.training.rank import Rank

_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_MEETING = timedelta(minutes=5)  # for all ranks to be there
_PATIENCE = timedelta(minutes=30)  # for a rank that is there to take part; one that has died is noticed at once
_PARTING_S = 3.0  # for what rank 0 has to say, and for the others to hear it
_POLL_S = (0.002, 0.1)  # between two looks at the store, from and to
_GRACE_S = 2.0
_SIGNS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")  # torch raises a plain RuntimeError


class Group:
    """All ranks of a run, from one rank's view; a single process without `join`. Used as a context manager.

    Args:
        rank: number of this one.
        size: number of ranks.
        launcher: what started them; empty for a single process.
        store: torch's key-value store; None for a single process.

    Attributes:
        grace_s: see `StopRequest`.
    """

    def __init__(self, rank: int = 0, size: int = 1, launcher: str = "", store: Store | None = None):
        self.rank = rank
        self.size = size
        self.launcher = launcher
        self.grace_s = _GRACE_S if store is not None else 0.0
        self._store = store
        self._shares = 0

    @classmethod
    def join(cls, rank: Rank, device: str = "cpu") -> Group:
        """Meets the other ranks.

        Args:
            rank: this one. A group of torch's that is there already, as in Ray Train's workers, is used.
            device: where the model will be, `cpu` or `cuda`.

        Raises:
            ClusterError: if the others do not come.
            BackendUnavailableError: under MPI without mpi4py.
        """
        if rank.local_world_size > 1:
            os.environ.setdefault("DQK_NODE_WORKERS", str(rank.local_world_size))
        if rank.world_size == 1:
            return cls(launcher=rank.launcher)
        if dist.is_initialized():
            store = dist.distributed_c10d._get_default_store()
        else:
            store = _meet(rank, _BACKENDS[device])
        return cls(rank.rank, rank.world_size, rank.launcher, PrefixStore("dqk", store))

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum_gradients(self, model: nn.Module) -> None:
        """Replaces the gradients of a model's parameters by their sums over all ranks."""
        if self.size > 1:
            sum_gradients(model.parameters(), self.size)

    def gather(self, *values: float) -> Callable[[], list[tuple[float, ...]]]:
        """Starts to collect some numbers of every rank; the function that is returned waits for them, in rank order."""
        if self.size == 1:
            return lambda: [values]
        own = torch.tensor(values, dtype=torch.float64)
        everybody = [torch.empty_like(own) for _ in range(self.size)]
        work = dist.all_gather(everybody, own, async_op=True)

        def wait() -> list[tuple[float, ...]]:
            work.wait()
            return [tuple(numbers.tolist()) for numbers in everybody]

        return wait

    def gather_json(self, document: Any) -> list[Any]:
        """Every rank's plain data, in rank order; all ranks have to call it."""
        if self.size == 1:
            return [document]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, json.dumps(document))
        return [json.loads(text) for text in found]

    def share(self, content: bytes | None) -> bytes:
        """Gives rank 0's bytes to all ranks.

        Args:
            content: rank 0's; None on the others.

        Raises:
            RankEnded: on the others, if rank 0 failed instead.
        """
        if self._store is None:
            assert content is not None
            return content
        self._shares += 1
        key = f"share-{self._shares}"
        if self.leads:
            assert content is not None
            size = len(content)
            buffer = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
            self._store.set(key, str(size))
        else:
            found = self._wait_for((key, "outcome"), _PATIENCE.total_seconds())
            if found is None:
                raise LostRankError(f"lost another rank: rank 0 is silent for {_PATIENCE}")
            if found[0] == "outcome":
                raise RankEnded(json.loads(found[1]))
            size = int(found[1])
            buffer = torch.empty(max(1, size), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
        return buffer.numpy().tobytes()[:size]

    def share_json(self, document: Any = None) -> Any:
        """Gives rank 0's plain data to all ranks."""
        return json.loads(self.share(json.dumps(document).encode() if self.leads else None))

    def lost(self, error: BaseException) -> bool:
        """Whether an error of a collective means that another rank is gone."""
        text = str(error).lower()
        return (
            self.size > 1 and type(error) is not LostRankError and _from_torch(error) and any(s in text for s in _SIGNS)
        )

    def cause(self, error: BaseException) -> str:
        """Why a rank was lost: what it said itself, else what the network says."""
        said = self._wait_for(("failed",), 0.0)
        return said[1] if said else str(error).partition("] ")[2].partition(". ")[0] or str(error)

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends with the others: all well, or all with rank 0's exit code and one message.

        Raises:
            RankEnded: instead of this rank's error, if rank 0 speaks.
            LostRankError: instead of torch's error, if a rank is gone.
        """
        if self._store is None:
            return
        if error is None:
            with contextlib.suppress(RuntimeError):  # a rank that is lost now has done all its work
                dist.barrier()
            _let_go(None)
            _leave()
            return
        _let_go(error)
        if self.lost(error):
            error = LostRankError(f"lost another rank: {self.cause(error)}")
        if self.leads:
            self._end(error)
        else:
            self._end_after_rank_0(error)
        if not isinstance(error, kind or ()):
            raise error from None

    def _end(self, error: BaseException) -> None:
        """Rank 0: says how it ends, and stays until the others have heard it, as it may be the one that keeps the store."""
        with contextlib.suppress(RuntimeError):
            cast(Store, self._store).set("outcome", json.dumps(exit_code(error)))
        if isinstance(error, KeyboardInterrupt):
            return
        _leave()  # wakes those that wait for this rank
        gone = isinstance(error, LostRankError) and self._wait_for(("failed",), 0.0) is None
        others = self.size - 1 - gone
        deadline = time.monotonic() + _PARTING_S
        with contextlib.suppress(RuntimeError):
            while cast(Store, self._store).add("heard", 0) < others and time.monotonic() < deadline:
                time.sleep(_POLL_S[0])

    def _end_after_rank_0(self, error: BaseException) -> None:
        store = cast(Store, self._store)
        if isinstance(error, RankEnded):
            found: tuple[str, str] | None = ("outcome", str(error.exit_code))
        else:
            agreed = isinstance(error, AgreedError)
            if not agreed and not isinstance(error, LostRankError):
                with contextlib.suppress(RuntimeError):
                    store.set("failed", f"rank {self.rank} ended with {type(error).__name__}: {error}")
                _leave()
            found = self._wait_for(("outcome",), _PATIENCE.total_seconds() if agreed else _PARTING_S)
        with contextlib.suppress(RuntimeError):
            if found is not None:
                store.add("heard", 1)
            elif isinstance(error, LostRankError) and store.add("told", 1) > 1:
                found = ("outcome", "1")  # another one says it
        _leave()
        # Of anything else rank 0 does not know the traceback.
        told = isinstance(error, DQKError | OSError) or self.lost(error)
        if found is not None and told:
            raise RankEnded(json.loads(found[1])) from None

    def _wait_for(self, keys: Sequence[str], patience_s: float) -> tuple[str, str] | None:
        """The first key of the store that is there, with its value; None after the time, or if the store is gone."""
        store = cast(Store, self._store)
        deadline, pause = time.monotonic() + patience_s, _POLL_S[0]
        try:
            while True:  # not the store's own waiting, during which Python hears no signal
                for key in keys:
                    if store.check([key]):
                        return key, store.get(key).decode()
                if time.monotonic() >= deadline:
                    return None
                time.sleep(pause)
                pause = min(2 * pause, _POLL_S[1])
        except RuntimeError:
            return None


ALONE = Group()
"""A single process."""


def _meet(rank: Rank, backend: str) -> Store:
    address, port = rank.master_addr, rank.master_port
    if address is None or port is None:
        from dqk.training._mpi_address import agree_on_address

        address, port = agree_on_address()
    elif rank.launcher == "srun":
        address = address_of(address)
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    # It keeps the group that exists when it is imported, as a default argument, and optimisers import it. A group that is kept does
    # not close: others would not hear that this rank has failed, and torch's threads would abort the process at its end.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        store, _, _ = next(rendezvous("env://", rank.rank, rank.world_size, timeout=_MEETING))
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=rank.rank,
            world_size=rank.world_size,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ClusterError(
            f"rank {rank.rank} of {rank.world_size} ({rank.launcher}) has not met the others at {address}:{port}: {reason}; are "
            "all ranks running, and is that address the machine of rank 0? MASTER_ADDR and MASTER_PORT set another one"
        ) from error
    return store


def _let_go(error: BaseException | None) -> None:
    """Frees what an error's frames hold, such as messages under way.

    Torch's threads end only when nobody holds their group; one that runs while Python ends aborts the process.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def _leave() -> None:
    """Closes this rank's connections."""
    with contextlib.suppress(RuntimeError, ValueError, AssertionError):
        if dist.is_initialized():
            dist.destroy_process_group()


def _from_torch(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and (
        type(error) is RuntimeError or type(error).__module__.startswith("torch")
    )
