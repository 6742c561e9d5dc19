"""What `auto` takes and why: choice, refusals, stores, ranks, predictions."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch

from dqk import FidelityKernel, gram
from dqk import _gram as module
from dqk._planner import Size, exact_rows, predict
from dqk._pooled import Executor
from dqk._stored import Destination
from dqk.backends import choice, gpu, resolve
from dqk.backends._custatevec import CuStateVecBackend
from dqk.backends.mps import MPSBackend
from dqk.backends.reference import ReferenceBackend
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit, Gate, data, simplify_for_fidelity
from dqk.cluster import InlinePool
from dqk.errors import MemoryBoundError, StoreError, TileError, UnsupportedError
from dqk.kernels import FeatureMap
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    iqp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from dqk.scheduler import CostModel, Rates
from dqk.store.files import read_description
from tests.random_circuits import random_circuit

F64, F32 = torch.float64, torch.float32


def kept(feature_map: FeatureMap) -> Circuit:
    return simplify_for_fidelity(feature_map.circuit).circuit


# --- choice -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("feature_map", "expected"),
    [
        (qklstm_feature_map(6), "mps"),  # a product
        (bsp_feature_map(4), "statevector"),
        (ising_feature_map(6, reps=6), "statevector"),
        (ising_feature_map(14, reps=6), "statevector"),  # bonds of 64 on 14 qubits are no help
        (ising_feature_map(16, reps=2), "mps"),
        (bsp_feature_map(16), "mps"),
        (ising_feature_map(20, reps=4), "mps"),
        (bsp_feature_map(300), "mps"),  # no dense state has so many qubits
        (zz_feature_map(18), "statevector"),  # bonds of 512
    ],
)
def test_far_from_the_crossover_the_choice_is_plain(feature_map, expected):
    assert choice.choose(kept(feature_map), F64) == expected == resolve("auto", feature_map.circuit).name


def test_the_choice_goes_by_default_speeds_and_not_by_the_model_of_this_machine(monkeypatch):
    """Otherwise nodes of a cluster, or a process before and one after a calibration, would compute other bits."""
    circuit = kept(ising_feature_map(12, reps=2))
    before = choice.choose(circuit, F64)
    slow = Rates(gate_s=1.0, amplitude_s=1.0, entry_s=1.0, overlap_s=1.0)
    monkeypatch.setattr("dqk._calibration.cost_model", lambda: CostModel({f"{before}-chain/float64": slow}))
    monkeypatch.setenv("DQK_THREADS", "7")
    choice.candidates.cache_clear()
    assert choice.choose(circuit, F64) == before == "mps"


def test_the_choice_does_not_depend_on_the_number_of_samples(monkeypatch):
    """So that a matrix that grows keeps the bits of its full tiles."""
    taken = []
    monkeypatch.setattr(module, "tiled_fidelity", lambda backend, *rest: taken.append(backend.name) or torch.eye(1))
    for count in (1, 30, 3000):
        FidelityKernel(ising_feature_map(12, reps=3))(np.zeros((count, 12)))
    assert taken == ["mps"] * 3


# --- never a backend that fails ---------------------------------------------------------------------------------------
def wide_circuit(seed: int) -> Circuit:
    """A chain of random width, depth and reach; about half are products, shallow or small, the others too wide for something."""
    pick, gates, columns = random.Random(seed), [], 0
    n, layers, reach = pick.choice([5, 9, 13, 17, 24, 40]), pick.randint(1, 4), pick.choice([1, 1, 2, 5])
    for _ in range(layers):
        for q in range(n):
            gates.append(Gate(pick.choice(["rx", "ry"]), (q,), data(columns)))
            columns += 1
        for q in range(n - 1):
            if pick.random() < 0.8:
                gates.append(Gate(pick.choice(["cx", "cz", "swap"]), (q, min(n - 1, q + pick.randint(1, reach)))))
    gates += [Gate("ry", (q,), data(columns + q)) for q in range(n)]
    return Circuit(n, tuple(gates), columns + n)


@pytest.mark.parametrize("memory_mib", [1, 4, 60, None])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_chosen_runs_and_what_is_refused_would_fail(seed, memory_mib, monkeypatch):
    if memory_mib is not None:
        monkeypatch.setenv("DQK_MEMORY_MIB", str(memory_mib))
    circuit = random_circuit(seed) if seed < 6 else wide_circuit(seed)
    dtype, n, m = (F64, F32)[seed % 2], 1 + seed % 5, 2 + seed % 3
    rows, columns = (torch.rand(k, circuit.n_data, dtype=dtype) for k in (n, m))
    shared = torch.rand(circuit.n_shared, dtype=dtype)
    engine = module._InlineEngine(False)
    try:
        name = choice.choose(simplify_for_fidelity(circuit).circuit, dtype)
    except (UnsupportedError, MemoryBoundError):
        for refused in ("mps", "statevector"):
            with pytest.raises((UnsupportedError, MemoryBoundError)):
                engine.fidelity(refused, circuit, rows, columns, shared, False)
        return
    found = engine.fidelity("auto", circuit, rows, columns, shared, False)
    assert torch.equal(found, engine.fidelity(name, circuit, rows, columns, shared, False))
    if circuit.n_qubits <= 13:
        exact = ReferenceBackend().fidelity(circuit, rows.double(), columns.double(), shared.double())
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-11 if dtype == F64 else 2e-5)


def test_little_memory_takes_the_backend_that_needs_little(monkeypatch):
    circuit = ising_feature_map(17, reps=3).circuit
    alone = {name: choice.bytes_needed(resolve(name, circuit), circuit, F64) for name in ("mps", "statevector")}
    assert alone["mps"] < alone["statevector"]
    monkeypatch.setattr(choice, "candidates", lambda *_: (choice.Candidate("statevector", StatevectorBackend()), mps))
    mps = choice.Candidate("mps", MPSBackend())
    for name, bound in (("statevector", alone["statevector"]), ("mps", alone["statevector"] - 1)):
        monkeypatch.setattr(choice, "memory_bound", lambda bound=bound: bound)
        monkeypatch.setattr("dqk.backends.base.memory_bound", lambda bound=bound: bound)
        assert choice.choose(kept(ising_feature_map(17, reps=3)), F64) == name


def test_a_gradient_that_keeps_all_states_takes_the_smaller_ones(monkeypatch):
    """By size dense states are preferred here; 200 of them with cotangents do not fit, and matrix-product states do."""
    feature_map = ising_feature_map(10, reps=3)
    assert choice.choose(kept(feature_map), F64) == "statevector"
    monkeypatch.setenv("DQK_MEMORY_MIB", "20")
    assert choice.choose(kept(feature_map), F64) == "statevector"
    x = torch.rand(600, 10, dtype=F64, requires_grad=True)
    FidelityKernel(feature_map)(x).sum().backward()
    with pytest.raises(MemoryBoundError, match="differentiate"):
        FidelityKernel(feature_map, "statevector")(x).sum().backward()
    numeric = torch.zeros(600, 10, dtype=F64)
    numeric[3, 4] = 1e-6
    with torch.no_grad():
        high, low = (FidelityKernel(feature_map)(x + sign * numeric).sum() for sign in (1, -1))
    assert x.grad[3, 4].item() == pytest.approx(((high - low) / 2e-6).item(), rel=1e-5)


# --- refusals ---------------------------------------------------------------------------------------------------------
def test_a_circuit_too_wide_for_all_is_refused_with_what_it_would_take():
    """40 qubits, all to all: 2**20 states on the middle bond; a dense state has 2**40 amplitudes of 16 bytes: 2**24 MiB."""
    kernel, x = FidelityKernel(zz_feature_map(40)), np.zeros((2, 40))
    with InlinePool(1) as pool:
        for executor in (None, pool):
            with pytest.raises(UnsupportedError, match="on 40 qubits") as refused:
                gram(kernel, x, executor=executor)
            text = str(refused.value)
            for part in ("bonds of dimension 1048576", "16,777,216 MiB", "mps:max_bond=32", "fewer layers"):
                assert part in text
            assert "DQK_MEMORY_MIB" not in text  # no memory would help


def test_a_circuit_too_wide_for_the_memory_says_so(monkeypatch):
    monkeypatch.setenv("DQK_MEMORY_MIB", "10")
    with pytest.raises(MemoryBoundError, match="the bound is 10 MiB") as refused:
        FidelityKernel(zz_feature_map(24))(np.zeros((2, 24)))
    assert "custatevec'; one state takes 256 MiB" in str(refused.value)  # 2**24 * 16 bytes
    assert "raise DQK_MEMORY_MIB" in str(refused.value) and "float32" in str(refused.value)


def test_the_truncation_that_a_refusal_offers_works():
    x = np.random.default_rng(0).uniform(-1, 1, (3, 40))
    feature_map = reuploading_feature_map(40, 6)
    with pytest.raises(UnsupportedError, match="mps:max_bond=32"):
        FidelityKernel(feature_map)(x)
    found = FidelityKernel(feature_map, "mps:max_bond=2")(x)
    assert found.shape == (3, 3) and np.isfinite(found).all()


def test_truncation_is_offered_where_it_helps(monkeypatch):
    """Bonds of 2 are not truncated to 32; what does not fit when truncated is not offered, either."""
    monkeypatch.setenv("DQK_MEMORY_MIB", "1")
    for feature_map in (bsp_feature_map(784), zz_feature_map(24)):
        with pytest.raises(MemoryBoundError) as refused:
            FidelityKernel(feature_map)(np.zeros((2, feature_map.n_features)))
        assert "mps:max_bond" not in str(refused.value) and "fewer layers" in str(refused.value)


def test_a_refusal_of_hundreds_of_qubits_is_quick_and_short():
    """All to all on 200: bonds of 2**100, not their digits."""
    start = time.process_time()
    with pytest.raises(
        UnsupportedError, match=r"bonds of dimension 2\*\*100 and tensors of 2\*\*\d+ numbers; "
    ) as refused:
        FidelityKernel(iqp_feature_map(200))(np.zeros((2, 200)))
    size = Size(20, None, F64)
    rows, _ = exact_rows(kept(iqp_feature_map(200)), size, "auto", CostModel())
    assert len(str(refused.value)) < 900 and [row.backend for row in rows if row.seconds] == ["mps:max_bond=32"]
    assert [row.bond for row in rows if row.backend == "mps"] == [None]  # many readers of JSON know no number so large
    assert time.process_time() - start < 20


# --- stores and ranks -------------------------------------------------------------------------------------------------
class Recorder(Executor):
    """Does what `OnPool` does, with ranks that agree by rank 0's word."""

    compares = True

    def __init__(self, answer: str):
        self.answer, self.asked = answer, []

    def everywhere(self, digest, drive):
        self.asked.append(digest)
        return {"name": np.frombuffer(self.answer.encode(), np.uint8)}


def test_ranks_take_rank_0s_word():
    executor = Recorder("reference")
    circuit = kept(bsp_feature_map(4))
    assert module.settled(circuit, F64, executor, None) == "reference"  # whatever this rank would have chosen
    assert executor.asked == [f"backend of {circuit.digest}"]


@pytest.mark.parametrize("begun", ["reference", "mps", "statevector"])
def test_a_store_keeps_the_backend_by_which_it_was_begun(begun, tmp_path, monkeypatch):
    """Also when it grows, and whatever is chosen by then."""
    x, path = np.random.default_rng(1).uniform(-1, 1, (150, 4)), tmp_path / "K.zarr"
    feature_map = bsp_feature_map(4)
    gram(FidelityKernel(feature_map, begun), x[:130], store=path)
    monkeypatch.setattr(module, "choose", lambda *_: pytest.fail("a planner was asked"))
    found = gram(FidelityKernel(feature_map), x, store=path)
    assert read_description(path).backend == begun
    assert np.array_equal(found[:, :], FidelityKernel(feature_map, begun)(x))


@pytest.mark.parametrize(
    ("memory_mib", "error"), [(20, MemoryBoundError), (70, TileError)]
)  # 64 for blocks, 4 for a tile
def test_where_memory_lacks_a_store_is_named_as_what_fixed_the_backend(memory_mib, error, tmp_path, monkeypatch):
    x, path = np.random.default_rng(0).uniform(-1, 1, (6, 14)), tmp_path / "K.zarr"
    feature_map = ising_feature_map(14, reps=2)
    gram(FidelityKernel(feature_map, "statevector"), x[:4], store=path)
    monkeypatch.setenv("DQK_MEMORY_MIB", str(memory_mib))
    monkeypatch.setenv("DQK_THREADS", "2")
    with pytest.raises(
        error, match="K.zarr was begun by backend 'statevector'.* in a new store it takes 'mps', which fits"
    ):
        gram(FidelityKernel(feature_map), x, store=path)
    gram(FidelityKernel(feature_map), x, store=tmp_path / "new.zarr")
    monkeypatch.setenv("DQK_MEMORY_MIB", "20")
    for path in (tmp_path / "new.zarr", tmp_path / "none.zarr"):  # begun by another, and by none
        with pytest.raises(MemoryBoundError) as refused:
            gram(FidelityKernel(feature_map, "statevector"), x, store=path)
        assert "was begun" not in str(refused.value)


def test_a_store_records_what_auto_stands_for_and_refuses_another_by_name(tmp_path):
    x, path = np.random.default_rng(1).uniform(-1, 1, (20, 4)), tmp_path / "K.zarr"
    gram(FidelityKernel(bsp_feature_map(4)), x, store=path)
    assert read_description(path).backend == "statevector"
    with pytest.raises(StoreError, match="backend is 'statevector' there, 'mps' now"):
        gram(FidelityKernel(bsp_feature_map(4), "mps"), x, store=path)


def test_a_store_of_truncated_values_is_not_gone_on_with_by_auto(tmp_path):
    x, path = np.random.default_rng(1).uniform(-1, 1, (20, 6)), tmp_path / "K.zarr"
    gram(FidelityKernel(ising_feature_map(6, reps=3), "mps:max_bond=2"), x, store=path)
    with pytest.raises(StoreError, match="backend is 'mps:max_bond=2' there, 'statevector' now"):
        gram(FidelityKernel(ising_feature_map(6, reps=3)), x, store=path)


def test_workers_are_told_a_name(monkeypatch):
    told = []
    original = module.job_of
    monkeypatch.setattr(module, "job_of", lambda backend, *rest: told.append(backend) or original(backend, *rest))
    with InlinePool(2) as pool:
        found = gram(
            FidelityKernel(bsp_feature_map(10)), X := np.random.default_rng(0).uniform(-1, 1, (9, 10)), executor=pool
        )
    assert told == ["mps"] and np.array_equal(found, FidelityKernel(bsp_feature_map(10), "mps")(X))


def test_a_damaged_store_is_named_when_it_is_opened(tmp_path):
    path = tmp_path / "K.zarr"
    gram(FidelityKernel(bsp_feature_map(3)), np.zeros((3, 3)), store=path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        gram(FidelityKernel(bsp_feature_map(3)), np.zeros((3, 3)), store=Destination(path))


# --- predictions ------------------------------------------------------------------------------------------------------
def test_predicted_times_are_sums_over_blocks_and_tiles(monkeypatch):
    """One thread, speeds of 1 s per count: full blocks, half a block of 64 samples, the upper half of the tiles."""
    monkeypatch.setattr("dqk._planner.cpu_threads", lambda: 1)
    circuit, backend = kept(bsp_feature_map(8)), MPSBackend()
    effort = backend.effort(circuit, F64)
    sample, entry = effort.gates + effort.amplitudes, effort.entries + effort.numbers
    model = CostModel({f"{effort.kind}/float64": Rates(1.0, 1.0, 1.0, 1.0)})
    general = predict(backend, circuit, Size(128, 192, F64), model)
    assert general["tiles"] == 2 and general["seconds"] == pytest.approx(320 * sample + 128 * 192 * entry, rel=1e-3)
    square = predict(backend, circuit, Size(1280, None, F64), model)
    assert square["tiles"] == 55 and square["seconds"] == pytest.approx(1280 * sample + 1280**2 / 2 * entry, rel=0.02)
    shared = predict(backend, circuit, Size(1280, None, F64, workers=11), model)
    assert shared["seconds"] == pytest.approx(6 * 128 * sample + 1280**2 / 2 / 11 * entry, rel=0.1)


def test_predicted_times_count_rounds_of_tiles_tasks_of_samples_padding_and_the_call(monkeypatch):
    """Blocks of 128 samples, by hand: 3 tiles keep 2 threads busy twice, and 4 once; 40 samples are two threads' work."""
    circuit, backend = kept(bsp_feature_map(8)), MPSBackend()
    effort = backend.effort(circuit, F64)
    sample, entry = effort.gates + effort.amplitudes, effort.entries + effort.numbers

    def seconds(threads, rows, columns, *rates):
        monkeypatch.setattr("dqk._planner.cpu_threads", lambda: threads)
        model = CostModel({f"{effort.kind}/float64": Rates(*rates)})
        return predict(backend, circuit, Size(rows, columns, F64), model)["seconds"]

    for threads, rounds in ((1, 3), (2, 2), (4, 1)):
        assert seconds(threads, 384, 128, 0.0, 0.0, 1.0, 1.0) == pytest.approx(rounds * 128**2 * entry, rel=1e-6)
    assert seconds(8, 40, 8, 1.0, 1.0, 0.0, 0.0) == pytest.approx((40 + 8) * sample / 2, rel=1e-4)
    assert seconds(1, 129, 128, 1.0, 1.0, 0.0, 0.0) == pytest.approx((136 + 128) * sample, rel=1e-4)
    assert seconds(1, 1, 1, 0.0, 0.0, 0.0, 0.0) == pytest.approx(4e-4, rel=0.01)


def test_a_worker_encodes_what_its_tiles_need():
    """16 x 16 tiles on 4 workers: squares of 8 x 8 tiles, hence 16 of the 32 blocks each."""
    backend, circuit = StatevectorBackend(), kept(reuploading_feature_map(4))
    model = CostModel({"statevector/float64": Rates(gate_s=1.0, amplitude_s=0.0, entry_s=0.0, overlap_s=0.0)})
    side = backend.tile_side(circuit, F64)
    block = model.of(backend.effort(circuit, F64), "float64", side).encode_s
    found = predict(backend, circuit, Size(16 * side, 16 * side, F64, 4), model)["seconds"]
    assert found == pytest.approx(16 * block, rel=1e-3)


def test_memory_is_that_of_all_blocks_as_far_as_the_bound_allows(monkeypatch):
    circuit, backend = kept(zz_feature_map(12)), StatevectorBackend()
    few, many = (predict(backend, circuit, Size(n, 8, F64), CostModel())["memory_mib"] for n in (256, 4096))
    assert 12 <= (many - few) / 30 <= 20  # a block of 128 states of 2**12 amplitudes in four planes: 16 MiB
    monkeypatch.setenv("DQK_MEMORY_MIB", "100")
    for size, result in ((Size(4096, 1024, F64), 32), (Size(4096, 1024, F32), 16), (Size(2048, None, F64), 32)):
        assert predict(backend, circuit, size, CostModel())["memory_mib"] == 100 + result


def test_every_other_choice_has_a_reason(monkeypatch):
    monkeypatch.setattr(gpu, "missing", lambda: "no driver")
    circuit, size = kept(ising_feature_map(14, reps=2)), Size(300, None, F64)
    rows, refused = exact_rows(circuit, size, "auto", CostModel())
    assert refused is None and [row.backend for row in rows if row.chosen] == ["mps"] == [rows[0].backend]
    why = {row.backend: row.why for row in rows}
    assert "times the time of mps" in why["statevector"] and "times the time of mps" in why["reference"]
    assert why["custatevec"] == "no driver" and "nothing to truncate: exact bonds are 4" in why["mps:max_bond=N"]
    assert all(row.why for row in rows)
    asked, _ = exact_rows(circuit, size, "statevector", CostModel())
    assert asked[0].backend == "statevector" and asked[0].why == "asked for"
    assert "statevector was asked for" in next(row.why for row in asked if row.backend == "mps")
    truncated, _ = exact_rows(circuit, size, "mps:max_bond=2", CostModel())
    assert truncated[0].backend == "mps:max_bond=2" and not truncated[0].exact and truncated[0].seconds > 0


def test_products_have_all_rows_too():
    rows, _ = exact_rows(kept(qklstm_feature_map(10)), Size(300, None, F64), "auto", CostModel())
    assert rows[0].backend == "mps" and rows[0].bond == 1
    assert {row.backend for row in rows if row.seconds} == {"mps", "statevector", "reference"}
    wide, _ = exact_rows(kept(qklstm_feature_map(2000)), Size(300, 20, F32), "auto", CostModel())
    assert [row.backend for row in wide if row.seconds] == ["mps"]


def test_a_faster_one_on_this_machine_is_named_and_not_taken():
    """A model by which dense states cost nothing: `auto` stays with default speeds and says how to have the other."""
    fast = Rates(1e-15, 1e-15, 1e-15, 1e-15)
    model = CostModel({**CostModel().rates, "statevector/float64": fast})
    rows, _ = exact_rows(kept(ising_feature_map(14, reps=2)), Size(300, None, F64), "auto", model)
    assert rows[0].backend == "mps" and "--backend statevector takes it" in rows[1].why


def test_a_gpu_is_a_row_with_its_own_memory(monkeypatch):
    monkeypatch.setattr(gpu, "missing", lambda: None)
    monkeypatch.setattr(gpu, "device_for", lambda samples: samples.device)
    monkeypatch.setattr(gpu, "total_bytes", lambda: 2**33)
    monkeypatch.setattr("dqk._planner.resolve", lambda name, circuit: CuStateVecBackend())  # `resolve` would keep it
    circuit, size = kept(zz_feature_map(12)), Size(300, None, F64)
    for free, expected in ((2**33, "predicted from a data sheet"), (2**20, "the bound is 0 MiB")):
        monkeypatch.setattr(gpu, "free_bytes", lambda device, free=free: free)
        rows, _ = exact_rows(circuit, size, "auto", CostModel())
        (row,) = [row for row in rows if row.backend == "custatevec"]
        assert expected in row.why and (row.seconds is not None) == (free == 2**33) and not row.chosen
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 2**33)
    rows, _ = exact_rows(circuit, size, "custatevec", CostModel())
    assert [(row.backend, row.chosen) for row in rows if "custatevec" in row.backend] == [("custatevec", True)]
