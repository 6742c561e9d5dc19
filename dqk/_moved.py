"""Encodings that travel: each block of samples is encoded once, by one worker, and given to all, before tiles are computed.

Only where that is quicker than that every worker encodes what its tiles need: matrix-product states that are truncated, or whose
tensors are sums of many products. docs/adr/0017 has the figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dqk._resources import memory_bound
from dqk._run import Work, run
from dqk._wire import pack
from dqk.cluster import WorkerPool
from dqk.scheduler import Plan

if TYPE_CHECKING:
    from dqk._pooled import Job

_SENT_S = 1e-8  # for a byte that is gathered and handed out; networks of clusters take a tenth of it
_SHARE = 4  # of the memory bound


@contextlib.contextmanager
def moved(
    pool: WorkerPool, job: Job, digest: str, dtype: torch.dtype, blocks: Collection[tuple[str, int]]
) -> Iterator[str | None]:
    """Encodes blocks and gives all workers the encodings, for as long as somebody is inside.

    Args:
        pool: has the job's arrays.
        job: what is to be computed.
        digest: of its arrays.
        dtype: of the angles.
        blocks: pairs of `rows` or `columns` and a number.

    Yields:
        The name by which tasks find the encodings; None where each worker had better make its own.
    """
    if not worthwhile(pool, job, dtype, len(blocks)):
        yield None
        return
    work = _BlockWork(digest, job, dtype, sorted(blocks))
    run(pool, work.plan, work)
    name = f"{digest} states"
    pool.put(name, work.encodings)
    work.encodings = {}
    try:
        yield name
    finally:
        pool.drop(name)


def worthwhile(pool: WorkerPool, job: Job, dtype: torch.dtype, count: int) -> bool:
    """Whether blocks should travel: bits do not depend on it."""
    if pool.one_memory or count < 2:
        return False
    size = job.backend.encoding_bytes(job.circuit, dtype)
    needed = count * job.side(dtype) * size
    return job.backend.encode_s(job.circuit) > _SENT_S * size and needed <= memory_bound() // _SHARE


class _BlockWork(Work):
    """Blocks that are encoded by one worker each."""

    def __init__(self, digest: str, job: Job, dtype: torch.dtype, blocks: Sequence[tuple[str, int]]):
        self.digest, self.blocks = digest, blocks
        numbers, side = np.arange(len(blocks), dtype=np.int32), job.side(dtype)
        seconds = np.full(len(blocks), side * job.backend.encode_s(job.circuit))
        self.plan = Plan(np.stack([numbers, numbers], axis=1), seconds, side)
        self.encodings: dict[str, np.ndarray] = {}

    def task(self, worker: str, items: Sequence[int]) -> bytes:
        """Triples of item, side and block."""
        return pack({"kind": "states", "job": self.digest, "blocks": [(item, *self.blocks[item]) for item in items]})

    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Keeps the encodings."""
        for item in items:
            which, k = self.blocks[item]
            self.encodings[f"{which}.{k}"] = arrays[str(item)]
