"""The cost model: its formula, its fit, its file."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqk import _calibration
from dqk._cost import Effort
from dqk.backends.efforts import dense_effort, product_effort, statevector_effort
from dqk.backends.mps import MPSBackend
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import bsp_feature_map, ising_feature_map, qklstm_feature_map
from dqk.scheduler import CostModel, Measurement, Rates

positive = st.floats(1e-12, 1e-3)
SIZES = [Effort("mine", 10, 160, 1, 16), Effort("mine", 20, 2560, 1, 128), Effort("mine", 30, 30720, 1, 1024)]


def test_the_formula():
    model = CostModel({"x/float64": Rates(gate_s=1.0, amplitude_s=10.0, entry_s=2.0, overlap_s=3.0)})
    cost = model.of(Effort("x", 7, 90, 0.5, 16), np.float64, 8)
    assert cost.encode_s == 8 * (7 * 1.0 + 90 * 10.0)
    assert cost.tile_s == pytest.approx(64 * (0.5 * 2.0 + 16 * 3.0), rel=1e-4)


@given(positive, positive, positive, positive)
@settings(max_examples=50, deadline=None)
def test_the_fit_finds_the_rates_of_exact_measurements(gate_s, amplitude_s, entry_s, overlap_s):
    measured = []
    for e in SIZES:
        encode_s = 64 * (e.gates * gate_s + e.amplitudes * amplitude_s)
        measured.append(Measurement(e, 64, encode_s, 64**2 * (entry_s + e.numbers * overlap_s)))
    model = CostModel().with_measured(np.float32, measured)
    for m in measured:
        cost = model.of(m.effort, np.float32, 64)
        assert cost.encode_s == pytest.approx(m.encode_s, rel=1e-6)
        assert cost.tile_s - 5e-5 == pytest.approx(m.tile_s, rel=1e-6, abs=1e-12)
    assert model.rates["statevector/float64"] == CostModel().rates["statevector/float64"]


@given(st.lists(positive, min_size=3, max_size=3), st.lists(positive, min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_fit_to_noise_is_never_negative(encode, tile):
    measured = [Measurement(c, 64, e, t) for c, e, t in zip(SIZES, encode, tile, strict=True)]
    rates = CostModel().with_measured(np.float64, measured).rates["mine/float64"]
    assert min(rates.gate_s, rates.amplitude_s, rates.entry_s, rates.overlap_s) >= 0


def test_unknown_backends_and_hundreds_of_qubits_have_a_finite_cost():
    wide = Circuit(5000, ())
    for effort in (dense_effort(wide, "unheard of"), product_effort(wide), statevector_effort(wide, 8, 8)):
        cost = CostModel().of(effort, np.float64, 128)
        assert 0 < cost.tile_s < np.inf and 0 <= cost.encode_s < np.inf


def test_an_unknown_kind_has_the_speed_of_dense_states_in_its_precision():
    for dtype in (np.float64, np.float32):
        found, dense = (CostModel().of(Effort(kind, 7, 90, 1, 16), dtype, 8) for kind in ("unheard of", "statevector"))
        assert found == dense
    assert CostModel({}).of(Effort("unheard of", 7, 90, 1, 16), np.float64, 8).encode_s > 0


def test_a_fit_that_would_be_negative_leaves_that_part_out():
    """10 g + 100 a = 0.5 and 10 g + 1000 a = 10 make g negative. Without it: least squares of 200 a = 1 and 100 a = 1."""
    few, many = Effort("mine", 10, 100, 10, 100), Effort("mine", 10, 1000, 10, 1000)
    rates = CostModel().with_measured(np.float64, [Measurement(few, 1, 0.5, 0.5), Measurement(many, 1, 10.0, 10.0)])
    assert rates.rates["mine/float64"] == Rates(0.0, pytest.approx(0.006), 0.0, pytest.approx(0.006))
    # The other way round: 100 g + 10 a = 0.5 and 1000 g + 10 a = 10.
    few, many = Effort("mine", 100, 10, 100, 10), Effort("mine", 1000, 10, 1000, 10)
    rates = CostModel().with_measured(np.float64, [Measurement(few, 1, 0.5, 0.5), Measurement(many, 1, 10.0, 10.0)])
    assert rates.rates["mine/float64"] == Rates(pytest.approx(0.006), 0.0, pytest.approx(0.006), 0.0)


def test_counts_grow_with_what_has_to_be_done():
    """Twice the layers are about twice the passes; a qubit more is twice the amplitudes; a kind of code has one name."""
    of = lambda backend, feature_map: backend.effort(simplify_for_fidelity(feature_map.circuit).circuit, torch.float64)  # noqa: E731
    dense, mps = StatevectorBackend(), MPSBackend()
    few, many = (of(dense, ising_feature_map(8, reps=reps)) for reps in (3, 6))
    assert 1.7 < many.amplitudes / few.amplitudes < 2.1 and few.numbers == many.numbers == 2**8
    assert of(dense, ising_feature_map(9, reps=3)).numbers == 2**9
    assert of(mps, qklstm_feature_map(5)).kind == "mps" and of(mps, bsp_feature_map(5)).kind == "mps-chain"
    assert of(mps, ising_feature_map(16, reps=5)).kind == "mps-plain"
    assert of(MPSBackend(max_bond=2), ising_feature_map(16, reps=5)).kind == "mps-truncated"
    assert of(mps, bsp_feature_map(80)).numbers / of(mps, bsp_feature_map(40)).numbers == pytest.approx(2, rel=0.1)


def test_a_model_survives_json_and_nothing_else_passes_for_one():
    model = CostModel().with_measured(np.float64, [Measurement(c, 8, 1.0, 2.0) for c in SIZES])
    document = json.loads(json.dumps(model.to_dict()))
    assert CostModel.from_dict(document) == model
    assert CostModel.from_dict({}) == CostModel()
    for wrong in (
        {"mps/float64": {"gate_s": 1}},
        {"mps/float64": 3},
        [1],
        {"m": dataclasses.asdict(Rates(1, -1, 1, 1))},
        {"m": dataclasses.asdict(Rates(1, 1, float("inf"), 1))},
    ):
        with pytest.raises(InvalidInputError, match="not a cost model"):
            CostModel.from_dict(wrong)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_calibration, "cache_folder", lambda: tmp_path)  # not DQK_CACHE_DIR: compiled code stays cached
    _calibration.cost_model.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    _calibration.cost_model.cache_clear()


def test_a_measured_model_is_in_force_once_it_is_saved(folder, monkeypatch):
    monkeypatch.setattr(_calibration, "_VISIT_S", 0.0)
    monkeypatch.setattr(_calibration, "_ENTANGLED", (2, 3))
    monkeypatch.setattr(_calibration, "_PRODUCT", (2, 5))
    monkeypatch.setattr(_calibration, "_CHAINS", ((4, 1), (5, 2)))
    assert _calibration.cost_model() == CostModel()
    threads = torch.get_num_threads()
    told = []
    model = _calibration.calibrate(told.append)
    assert torch.get_num_threads() == threads
    assert {
        f"{name}, {dtype}" for name in ("mps", "reference", "statevector") for dtype in ("float32", "float64")
    } <= set(told)
    defaults = CostModel().rates
    apart = {kind for kind in defaults if kind.startswith(("mps-plain", "mps-truncated", "custatevec"))}
    assert all((model.rates[kind] != rates) == (kind not in apart) for kind, rates in defaults.items())
    path = _calibration.save(model)
    assert path.parent == folder and [p.name for p in folder.glob("cost-model*")] == [path.name]
    assert _calibration.cost_model() == model


def test_a_quick_measurement_is_made_once_and_kept(folder, monkeypatch):
    monkeypatch.setattr(_calibration, "_ENTANGLED", (2, 3))
    told = []
    model = _calibration.quick_model(told.append)
    defaults = CostModel().rates
    assert len(told) == 1 and model.rates["mps-chain/float64"] != defaults["mps-chain/float64"]
    assert model.rates["reference/float64"] == defaults["reference/float64"]
    monkeypatch.setattr(_calibration, "_measured", None)  # nothing is measured again
    assert _calibration.quick_model(told.append) == model and len(told) == 1


def test_a_folder_that_cannot_be_written_costs_a_remark(folder, monkeypatch):
    monkeypatch.setattr(_calibration, "_measured", lambda *arguments: CostModel())
    (folder / "file").write_text("")
    monkeypatch.setattr(_calibration, "cache_folder", lambda: folder / "file")
    told = []
    assert _calibration.quick_model(told.append) == CostModel() and "cannot be kept" in told[-1]


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 2}', '{"version": 2, "rates": {"a": 1}}', b"\xff"])
def test_a_damaged_file_is_named_and_the_defaults_hold(folder, capsys, content):
    path = _calibration.model_file()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert _calibration.cost_model() == CostModel()
    assert str(path) in capsys.readouterr().err


def test_a_file_of_another_version_is_not_read(folder, capsys):
    _calibration.model_file().write_text('{"version": 99, "rates": "?"}')
    assert _calibration.cost_model() == CostModel()
    assert capsys.readouterr().err == ""
