"""Kernel values from workers: the numbers of the same module without them, whatever the workers, the cut and what dies."""

import gc
import itertools
import os
import pickle
import signal
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from dqk._executors import pools
from dqk._gram import job_of
from dqk.backends.reference import ReferenceBackend
from dqk.cluster import InlinePool
from dqk.cluster.processes import ProcessPool
from dqk.errors import InvalidInputError, TileError, UnsupportedError
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.nn import QKLSTM, farm_rule
from dqk.nn.farm_rule import FarmOptions
from dqk.nn.qk_cell import QKCell
from dqk.scheduler import CostModel
from tests.nn.variants import HIDDEN, INPUT, VARIANTS, build

BATCH, STEPS = 5, 4
BY_NAME = [name for name, (_, options) in VARIANTS.items() if "backend" not in options]


def farmed(name: str, pool: Any, rows: int | None = 2, **more: Any) -> QKLSTM:
    return build(name, executor=pool, farm="always", micro_batch=rows, **more)


def results(model: QKLSTM, packed: bool = False, h0: bool = False) -> list[Tensor]:
    """Outputs, states and all gradients of a loss that weighs every number differently."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64, generator=generator).requires_grad_()
    count = model.num_layers * (2 if model.bidirectional else 1)
    hx = tuple(
        torch.randn(count, BATCH, HIDDEN, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)
    )
    lengths = torch.tensor([2, 4, 1, 4, 3])
    given: Any = pack_padded_sequence(x, lengths, enforce_sorted=False) if packed else x
    output, (h, c) = model(given, hx if h0 else None)  # type: ignore[arg-type]
    output = output.data if packed else output
    loss = sum((t * torch.randn(t.shape, dtype=torch.float64, generator=generator)).sum() for t in (output, h, c))
    inputs = [x, *(hx if h0 else ()), *model.parameters()]
    return [output, h, c, *torch.autograd.grad(loss, inputs)]  # type: ignore[arg-type]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_variant(name: str) -> None:
    """Against the module without workers, whose values and gradients other tests compare with independent ones."""
    with InlinePool(2) as pool:
        assert_same(results(farmed(name, pool)), results(build(name)))


@pytest.mark.parametrize(
    ("packed", "bidirectional", "layers"), list(itertools.product((False, True), (False, True), (1, 2)))
)
def test_layouts(packed: bool, bidirectional: bool, layers: int) -> None:
    """Directions, layers, sequences of different lengths, initial states."""
    options = {"bidirectional": bidirectional, "num_layers": layers}
    with InlinePool(2) as pool:
        model = farmed("rotations", pool, **options)
        assert_same(results(model, packed, h0=True), results(build("rotations", **options), packed, h0=True))


def test_the_same_bits_on_any_workers() -> None:
    """One and three threads, two processes; and a second pass."""
    found = []
    for pool in (InlinePool(1), InlinePool(3), ProcessPool(2)):
        with pool:
            model = farmed("circuit", pool)
            found += [results(model, packed=True), results(model, packed=True)]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("rows", [1, 3, 5, 100, None])
def test_any_cut(rows: int | None) -> None:
    """Parts of any size."""
    with InlinePool(2) as pool:
        assert_same(results(farmed("reuploading", pool, rows), packed=True), results(build("reuploading"), packed=True))


def test_without_gradients_and_with_frozen_parts() -> None:
    """What needs no gradient is not differentiated."""
    with InlinePool(1) as pool:
        model, plain = farmed("rotations", pool), build("rotations")
        x = torch.randn(3, 2, INPUT, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(model(x)[0], plain(x)[0], atol=1e-12, rtol=0)
        for m in (model, plain):
            m.cells[0].references.requires_grad_(False)
            m.cells[0].params.requires_grad_(False)
            m(x)[0].sum().backward()
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None)
            if a.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, atol=1e-11, rtol=1e-10)
        with pytest.raises(UnsupportedError, match="second derivatives"):
            (g,) = torch.autograd.grad(model(x.requires_grad_())[0].sum(), x, create_graph=True)
            g.sum().backward()


def test_a_pass_is_freed() -> None:
    """With all its graphs, as soon as nobody has its results."""
    with InlinePool(1) as pool:
        output = farmed("default", pool)(torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64))[0]
        (node, _), *_ = output.grad_fn.next_functions  # type: ignore[union-attr]
        kept = weakref.ref(node.work.records[0])
        del node
        assert kept() is not None
        del output
        gc.collect()
        assert kept() is None


@pytest.mark.faults
def test_a_worker_dies() -> None:
    """Its task is computed by another one, with the same bits."""

    class Killing(ProcessPool):
        sent = 0

        def submit(self, worker: str, ticket: int, task: bytes) -> None:
            super().submit(worker, ticket, task)
            Killing.sent += 1
            if Killing.sent in (5, 30):
                os.kill(self._members[worker].process.pid, signal.SIGKILL)

    with ProcessPool(2) as pool:
        expected = results(farmed("circuit", pool, rows=1))
    with Killing(2) as pool:
        found = results(farmed("circuit", pool, rows=1))
    assert Killing.sent > 30
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_step_that_fails_ends_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its retries, with the cause, and nobody waits for what follows from it."""

    def broken(*arguments: Any) -> Tensor:
        raise ArithmeticError("no such overlap")

    monkeypatch.setattr(ReferenceBackend, "overlap", broken)
    with InlinePool(2) as pool:
        model = farmed("default", pool, backend="reference")
        with pytest.raises(TileError, match="ArithmeticError: no such overlap"):
            model(torch.randn(2, 3, INPUT, dtype=torch.float64))


def test_the_rule() -> None:
    """One evaluation has to cost more than a message."""
    small = QKLSTM(3, 2, n_qubits=4, executor="ray")
    assert small.farming() is not None and not small.farming().farms
    assert "in this process" in small.farming().because and "farm='always'" in small.farming().because
    wide = QKLSTM(3, 2, feature_map=reuploading_feature_map(20), executor="ray")
    assert wide.farming().farms and "computed by workers" in wide.farming().because
    always = QKLSTM(3, 2, n_qubits=4, executor="ray", farm="always")
    assert always.farming().farms and "this process would be faster" in always.farming().because
    assert QKLSTM(3, 2).farming() is None


class Named(InlinePool):
    name = "another"


@pytest.mark.parametrize(
    ("executor", "message_s"), [("ray", 1.5e-3), (InlinePool(1), 5e-4), (Named(1), 1e-3), ("processes", 6e-4)]
)
def test_what_the_rule_compares(executor: Any, message_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encodings and kernel values of one sample, by the cost model, with a message of the pool."""
    monkeypatch.setattr(farm_rule, "cost_model", lambda: CostModel())
    model = QKLSTM(3, 2, n_qubits=4, n_references=7, executor=executor)
    cell: Any = model.cells[0]
    job = job_of(cell.options.backend, cell.circuit)
    found = FarmOptions(executor, "auto", None).decide(job, torch.float32, 4, 7)
    cost = CostModel().of(job.backend.effort(job.circuit, torch.float32), "float32", side := job.side(torch.float32))
    assert found.row_s == pytest.approx(4 * cost.encode_s / side + 7 * cost.tile_s / side**2)
    assert found.message_s == message_s


def test_parts_of_a_batch() -> None:
    """A sixteenth, rounded up, if nothing else is said."""
    assert [FarmOptions(None, "auto", None).rows(batch) for batch in (1, 16, 17, 33)] == [1, 1, 2, 3]
    assert FarmOptions(None, "auto", 5).rows(33) == 5


def test_the_rule_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it says so, no worker is asked."""
    calls: list[str] = []
    monkeypatch.setattr(QKCell, "_run_farmed", lambda *a: calls.append("farmed") or (a[1], a[3], a[4]))
    x = torch.randn(2, 3, INPUT)
    QKLSTM(INPUT, INPUT, n_qubits=2, executor="inline")(x)
    assert not calls
    QKLSTM(INPUT, INPUT, n_qubits=2, executor="inline", farm="always")(x)
    assert calls == ["farmed"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"executor": "rya"}, "rya"),
        ({"executor": "mpi"}, "open an MPIPool on rank 0"),
        ({"executor": 7}, "executor is 7"),
        ({"executor": "ray", "farm": "never"}, "farm is 'never', expected 'auto' or 'always'"),
        ({"executor": "ray", "micro_batch": 0}, "micro_batch is 0"),
        ({"farm": "always"}, "belong to an executor"),
        ({"micro_batch": 3}, "belong to an executor"),
    ],
)
def test_refusals(options: dict[str, Any], text: str) -> None:
    """When it is built."""
    with pytest.raises(InvalidInputError, match=text):
        QKLSTM(3, 2, **options)


def test_backends_without_a_name_and_closedpools() -> None:
    """When it is used."""
    x = torch.randn(2, 3, INPUT)
    with InlinePool(1) as pool:
        with pytest.raises(UnsupportedError, match="workers open a backend by its name"):
            QKLSTM(INPUT, HIDDEN, backend=ReferenceBackend(), executor=pool, farm="always")(x)
        model = QKLSTM(INPUT, HIDDEN, n_qubits=2, executor=pool, farm="always")
        model(x)
        with pytest.raises(UnsupportedError, match="cannot be pickled"):
            pickle.dumps(model)
        plain = QKLSTM(INPUT, HIDDEN, n_qubits=2)
        plain.load_state_dict(model.state_dict())
    with pytest.raises(InvalidInputError, match="is not open"):
        model(x)


def test_workers_by_name() -> None:
    """The pool is opened once and kept."""
    model = farmed("default", "processes")
    try:
        assert_same(results(model), results(build("default")))
        pool = pools.get("processes")
        results(model)
        assert pools.get("processes") is pool and pool.opened
    finally:
        pools.close()
