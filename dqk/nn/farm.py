"""Kernel values of a QK-LSTM computed by workers: the rows of a batch against the references, step by step, both ways.

Choose it where one kernel evaluation costs more than a message: wide circuits, later QPUs. The batch is cut into parts that walk
through the sequence on their own, so that workers compute for one part while this process updates another. The cut depends on the
batch alone, and everything is added up in the order of parts and time steps: any number of workers gives the same bits.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dqk._pooled import Executor, Job, StripWork, digest_of, shipped_all
from dqk._run import Work, run
from dqk._wire import pack
from dqk.backends.autograd import first_derivative_only
from dqk.cluster import Arrays, WorkerPool
from dqk.nn.recurrent import lstm_update
from dqk.scheduler import Plan, Policy

# One row-part a message, and nothing twice: each step is waited for anyway, and hardware has its price.
_POLICY = Policy(message_s=0.0, hedge=False)


class Cell(Protocol):
    """What is asked of a QK-LSTM cell, see `QKCell`."""

    @staticmethod
    def features_of(x: Tensor, h: Tensor, hidden: Tensor | None) -> Tensor:
        """Features of some rows."""
        ...

    def angles_of(self, features: Tensor, params: list[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """Data and shared angles of each evaluation."""
        ...

    def preactivations(self, kernel: list[Tensor], alpha: Tensor, gate_bias: Tensor) -> Tensor:
        """Pre-activations of the gates from each evaluation's kernel values."""
        ...


@dataclass(frozen=True)
class FarmPlan:
    """What a pass needs to know beside its tensors.

    Attributes:
        cell: gives features, angles and pre-activations.
        job: backend and circuit.
        executor: who drives the workers.
        batch_sizes: number of sequences that reach each time step; never growing.
        reverse: from the last time step to the first.
        rows: sequences of a part.
        seconds_per_row: predicted, of all values of one row.
        record: whether a backward pass may follow.
    """

    cell: Cell
    job: Job
    executor: Executor
    batch_sizes: Sequence[int]
    reverse: bool
    rows: int
    seconds_per_row: float
    record: bool


@dataclass(frozen=True)
class Heads:
    """What a pass reads, all made from the cell's parameters and its inputs once.

    Attributes:
        projected: what the inputs add to the features, shape (S, P).
        alpha: readout with the kernel scale, shape (4, N, H).
        gate_bias: b_g, shape (4, 1, H), or one zero.
        hidden: from hidden state to features, shape (H, P); None without projection.
        params: of the map, for each evaluation.
        references: data and shared angles (M, A_d), (A_s,) of the references, for each evaluation.
    """

    projected: Tensor
    alpha: Tensor
    gate_bias: Tensor
    hidden: Tensor | None
    params: list[Tensor | None]
    references: list[tuple[Tensor, Tensor]]

    def flat(self) -> list[Tensor | None]:
        """All tensors in one list."""
        angles = [tensor for group in self.references for tensor in group]
        return [self.projected, self.alpha, self.gate_bias, self.hidden, *self.params, *angles]

    @classmethod
    def from_flat(cls, tensors: Sequence[Any]) -> Heads:
        """From what `flat` gave."""
        projected, alpha, gate_bias, hidden, *rest = tensors
        n = len(rest) // 3
        return cls(projected, alpha, gate_bias, hidden, rest[:n], list(zip(rest[n::2], rest[n + 1 :: 2], strict=True)))


def run_farmed(plan: FarmPlan, heads: Heads, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One cell over all time steps; differentiable in every tensor.

    Args:
        plan: see `FarmPlan`.
        heads: see `Heads`.
        h0: initial hidden states, shape (B, H).
        c0: initial cell states, shape (B, H).

    Returns:
        Outputs (S, H) and the last hidden and cell states (B, H) of every sequence.

    Raises:
        TileError: if a step fails on every try.
        ClusterError: if no worker is left.
    """
    return _Farmed.apply(plan, h0, c0, *heads.flat())


@dataclass(slots=True, weakref_slot=True)
class _Record:
    """One part at one time step: inputs and results of two small graphs, from features to angles and from values to states."""

    x: Tensor
    h: Tensor
    c: Tensor
    angles: list[Tensor]
    kernel: list[Tensor] = field(default_factory=list)
    states: tuple[Tensor, Tensor] | None = None
    cotangents: list[np.ndarray] = field(default_factory=list)


class _Steps(Work):
    """Items are pairs (time step, part), numbered in the order of steps; each follows from the one before of its part."""

    held = True

    def __init__(self, plan: FarmPlan, heads: Heads, digests: list[str], batch: int):
        self.cell, self.heads, self.digests = plan.cell, heads, digests
        self.groups = range(len(digests))
        starts = range(0, batch, plan.rows)
        count = len(plan.batch_sizes)
        times = range(count - 1, -1, -1) if plan.reverse else range(count)
        offsets = np.cumsum([0, *plan.batch_sizes])
        self.places: list[tuple[int, slice]] = []  # of each item: part, and rows among all time steps'
        self.chains: list[list[int]] = [[] for _ in starts]
        for t in times:
            for part, start in enumerate(starts):
                stop = min(start + plan.rows, plan.batch_sizes[t])
                if stop > start:
                    self.chains[part].append(len(self.places))
                    self.places.append((part, slice(int(offsets[t]) + start, int(offsets[t]) + stop)))
        rows = np.array([where.stop - where.start for _, where in self.places])
        numbers = np.arange(len(rows), dtype=np.int32)
        self.plan = Plan(np.stack([numbers, numbers], axis=1), plan.seconds_per_row * rows, plan.rows)
        self.records: list[_Record] = [None] * len(rows)  # type: ignore[list-item]
        self.reached = [0] * len(self.chains)
        self.ready: list[int] = []

    def released(self) -> Sequence[int]:
        """What followed from the last results."""
        ready, self.ready = self.ready, []
        return ready

    def message(self, items: Sequence[int], arrays: dict[str, np.ndarray]) -> bytes:
        """A task for these items."""
        for item in items:
            for g in self.groups:
                arrays[f"{item}.{g}"] = self.records[item].angles[g].detach().numpy()
        return pack({"kind": "rows", "jobs": self.digests, "items": list(items)}, arrays)


class _Forward(_Steps):
    def __init__(self, plan: FarmPlan, heads: Heads, digests: list[str], h0: Tensor, c0: Tensor):
        super().__init__(plan, heads, digests, len(h0))
        self.record = plan.record
        self.outputs = h0.new_empty(len(heads.projected), h0.shape[1])
        self.states = list(zip(h0.split(plan.rows), c0.split(plan.rows), strict=True))
        for part in range(len(self.chains)):
            self._begin(part)

    def _begin(self, part: int) -> None:
        """The angles of a part's next step, if there is one."""
        if self.reached[part] == len(self.chains[part]):
            return
        item = self.chains[part][self.reached[part]]
        where, heads, record = self.places[item][1], self.heads, self.record
        count = where.stop - where.start
        with torch.set_grad_enabled(record):
            x = heads.projected[where].detach().requires_grad_(record)
            h, c = (state[:count].detach().requires_grad_(record) for state in self.states[part])
            angles = self.cell.angles_of(self.cell.features_of(x, h, heads.hidden), heads.params)
        self.records[item] = _Record(x, h, c, [data for data, _ in angles])
        self.ready.append(item)

    def task(self, worker: str, items: Sequence[int]) -> bytes:
        """Angles."""
        return self.message(items, {})

    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """The readout and the LSTM update."""
        for item in items:
            (part, where), r = self.places[item], self.records[item]
            with torch.set_grad_enabled(self.record):
                r.kernel = [
                    torch.from_numpy(np.array(arrays[f"{item}.{g}"])).requires_grad_(self.record) for g in self.groups
                ]
                new = lstm_update(self.cell.preactivations(r.kernel, self.heads.alpha, self.heads.gate_bias), r.c)
            r.states = new
            self.outputs[where] = new[0].detach()
            count = where.stop - where.start
            self.states[part] = tuple(  # type: ignore[assignment]
                torch.cat((fresh.detach(), old[count:])) for fresh, old in zip(new, self.states[part], strict=True)
            )
            self.reached[part] += 1
            self._begin(part)


class _Backward(_Steps):
    def __init__(
        self, plan: FarmPlan, forward: _Forward, digests: list[str], d_outputs: Tensor, d_h: Tensor, d_c: Tensor
    ):
        super().__init__(plan, forward.heads, digests, len(d_h))
        self.records, self.d_outputs = forward.records, d_outputs
        self.chains = [chain[::-1] for chain in self.chains]
        self.states = list(zip(d_h.split(plan.rows), d_c.split(plan.rows), strict=True))
        heads = self.heads
        self.d_projected = torch.zeros_like(heads.projected)
        self.readout = [t for t in (heads.alpha, heads.gate_bias) if t.requires_grad]
        self.inputs = [t for t in (heads.hidden, *heads.params) if t is not None and t.requires_grad]
        # Sums of each part, added up in the end: parts come in any order.
        self.sums = [[torch.zeros_like(t) for t in (*self.readout, *self.inputs)] for _ in self.chains]
        self.shared = [[torch.zeros_like(shared) for _, shared in heads.references] for _ in self.chains]
        for part in range(len(self.chains)):
            self._begin(part)

    def _begin(self, part: int) -> None:
        """From the cotangents of a step's states to those of its kernel values."""
        if self.reached[part] == len(self.chains[part]):
            return
        item = self.chains[part][self.reached[part]]
        where, r = self.places[item][1], self.records[item]
        count = where.stop - where.start
        d_h, d_c = (state[:count] for state in self.states[part])
        assert r.states is not None
        found = _gradients(r.states, [*r.kernel, r.c, *self.readout], [d_h + self.d_outputs[where], d_c])
        kernel, (d_c, *readout) = found[: len(r.kernel)], found[len(r.kernel) :]
        r.cotangents = [part.numpy() for part in kernel]
        self._add(part, readout, 0)
        self.states[part] = self.states[part][0], torch.cat((d_c, self.states[part][1][count:]))
        self.ready.append(item)

    def _add(self, part: int, values: Sequence[Tensor], first: int) -> None:
        for total, value in zip(self.sums[part][first:], values, strict=False):
            total += value

    def task(self, worker: str, items: Sequence[int]) -> bytes:
        """Angles and the cotangents of their values."""
        return self.message(items, {f"{i}.{g}.dK": self.records[i].cotangents[g] for i in items for g in self.groups})

    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """From the cotangents of angles to those of the states before the step."""
        for item in items:
            (part, where), r = self.places[item], self.records[item]
            d_angles = [torch.from_numpy(np.array(arrays[f"{item}.{g}.angles"])) for g in self.groups]
            d_x, d_h, *inputs = _gradients(r.angles, [r.x, r.h, *self.inputs], d_angles)
            self.d_projected[where] = d_x
            self._add(part, inputs, len(self.readout))
            for g in self.groups:
                self.shared[part][g] += torch.from_numpy(np.array(arrays[f"{item}.{g}.shared"]))
            count = where.stop - where.start
            self.states[part] = torch.cat((d_h, self.states[part][0][count:])), self.states[part][1]
            self.reached[part] += 1
            self._begin(part)

    def facing(self, g: int) -> tuple[Tensor, Tensor]:
        """All rows' angles (R, A_d) and cotangents of their values (R, M), in the order of items."""
        angles = torch.cat([r.angles[g].detach() for r in self.records])
        return angles, torch.from_numpy(np.concatenate([r.cotangents[g] for r in self.records]))


def _gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Cotangents of the inputs; zeros where nothing depends on them."""
    live = [(o, d) for o, d in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not live:
        return [torch.zeros_like(t) for t in inputs]
    found = torch.autograd.grad(
        [o for o, _ in live], list(inputs), [d for _, d in live], allow_unused=True, retain_graph=True
    )
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]


class _Farmed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: FarmPlan, h0: Tensor, c0: Tensor, *tensors):
        # Leaves of the graphs of single steps; torch itself goes on from the heads.
        leaves = [None if t is None else t.detach().requires_grad_(plan.record and t.requires_grad) for t in tensors]
        heads = Heads.from_flat(leaves)
        arrays = _references(plan.job, heads)
        digests = [digest_of(group) for group in arrays]
        work = _Forward(plan, heads, digests, h0, c0)

        def drive(pool: WorkerPool) -> Arrays:
            with shipped_all(pool, dict(zip(digests, arrays, strict=True))):
                run(pool, work.plan, work, _POLICY)
            return {}

        plan.executor.everywhere(digests[0], drive)
        ctx.plan, ctx.work, ctx.arrays = plan, work, arrays
        ctx.save_for_backward(h0, c0, *[t for t in tensors if t is not None])
        h, c = (torch.cat([state[k] for state in work.states]) for k in (0, 1))
        outputs, work.outputs = work.outputs, h0.new_empty(0)  # a node that keeps its own output is never freed
        return outputs, h, c

    @staticmethod
    @first_derivative_only
    def backward(ctx, d_outputs: Tensor, d_h: Tensor, d_c: Tensor):
        ctx.saved_tensors  # noqa: B018  # torch refuses if one was changed in place: workers have what it was
        plan, forward = ctx.plan, ctx.work
        digests, heads = forward.digests, forward.heads
        with torch.enable_grad():
            work = _Backward(plan, forward, digests, d_outputs, d_h, d_c)
        of_references: list[tuple[Tensor | None, Tensor | None]] = []

        def drive(pool: WorkerPool) -> Arrays:
            with shipped_all(pool, dict(zip(digests, ctx.arrays, strict=True))):
                run(pool, work.plan, work, _POLICY)
            for g, (data, shared) in enumerate(heads.references):
                if data.requires_grad or shared.requires_grad:
                    of_references.append(_columns(pool, plan.job, *work.facing(g), data, shared))
                else:
                    of_references.append((None, None))
            return {}

        plan.executor.everywhere(digests[0], drive)
        sums = [sum(parts[1:], start=parts[0]) for parts in zip(*work.sums, strict=True)]
        of = dict(zip(map(id, (*work.readout, *work.inputs)), sums, strict=True))
        references: list[Tensor | None] = []
        for g, (data, shared) in enumerate(of_references):
            rows = sum((part[g] for part in work.shared[1:]), start=work.shared[0][g])
            references += [data, None if shared is None else shared + rows]
        found = [
            None if t is None else of.get(id(t)) for t in (heads.alpha, heads.gate_bias, heads.hidden, *heads.params)
        ]
        h, c = (torch.cat([state[k] for state in work.states]) for k in (0, 1))
        return None, h, c, work.d_projected, *found, *references


def _references(job: Job, heads: Heads) -> list[dict[str, np.ndarray]]:
    """What is shipped for each evaluation: a matrix without rows, whose columns are the references."""
    return [job.arrays(data[:0], data, shared) for data, shared in heads.references]


def _columns(
    pool: WorkerPool, job: Job, rows: Tensor, cotangent: Tensor, data: Tensor, shared: Tensor
) -> tuple[Tensor, Tensor]:
    """Cotangents of the references' angles and their part of the shared ones', from all rows at once, by strips."""
    arrays = job.arrays(rows, data, shared)
    digest = digest_of(arrays)
    work = StripWork(digest, job, {"columns": (data, cotangent.T)})
    with shipped_all(pool, {digest: arrays}):
        run(pool, work.plan, work)
    flat = torch.from_numpy(work.flat(arrays["shared"]))
    return flat[: data.numel()].view_as(data), flat[data.numel() :].view_as(shared)
