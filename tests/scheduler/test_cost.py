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
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map
from dqk.scheduler import CostModel, Measurement, Rates

ENTANGLED = [simplify_for_fidelity(reuploading_feature_map(n).circuit).circuit for n in (4, 7, 10)]
PRODUCT = [simplify_for_fidelity(qklstm_feature_map(n).circuit).circuit for n in (4, 32, 128)]
positive = st.floats(1e-12, 1e-3)


def test_the_formula():
    circuit = ENTANGLED[0]
    model = CostModel({"x/float64": Rates(gate_s=1.0, amplitude_s=10.0, entry_s=2.0, overlap_s=3.0)})
    cost = model.of(circuit, np.float64, "x", 8)
    assert cost.encode_s == 8 * len(circuit.gates) * (1.0 + 16 * 10.0)
    assert cost.tile_s == pytest.approx(64 * (2.0 + 16 * 3.0), rel=1e-4)
    product = CostModel({"x/float32": Rates(1.0, 0.0, 2.0, 3.0, product=True)})
    assert product.of(PRODUCT[1], np.float32, "x", 8).tile_s == pytest.approx(64 * (2.0 + 32 * 3.0), rel=1e-4)


@given(positive, positive, positive, positive, st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_fit_finds_the_rates_of_exact_measurements(gate_s, amplitude_s, entry_s, overlap_s, product):
    circuits = PRODUCT if product else ENTANGLED
    measured = []
    for circuit in circuits:
        a, b = (1, circuit.n_qubits) if product else (2**circuit.n_qubits,) * 2
        encode_s = 64 * len(circuit.gates) * (gate_s + a * amplitude_s)
        measured.append(Measurement(circuit, 64, encode_s, 64**2 * (entry_s + b * overlap_s)))
    model = CostModel().with_measured("mine", np.float32, product, measured)
    for circuit, m in zip(circuits, measured, strict=True):
        cost = model.of(circuit, np.float32, "mine", 64)
        assert cost.encode_s == pytest.approx(m.encode_s, rel=1e-6)
        assert cost.tile_s - 5e-5 == pytest.approx(m.tile_s, rel=1e-6, abs=1e-12)
    assert model.rates["statevector/float64"] == CostModel().rates["statevector/float64"]


@given(st.lists(positive, min_size=3, max_size=3), st.lists(positive, min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_fit_to_noise_is_never_negative(encode, tile):
    measured = [Measurement(c, 64, e, t) for c, e, t in zip(ENTANGLED, encode, tile, strict=True)]
    rates = CostModel().with_measured("mine", np.float64, False, measured).rates["mine/float64"]
    assert min(rates.gate_s, rates.amplitude_s, rates.entry_s, rates.overlap_s) >= 0


def test_unknown_backends_and_hundreds_of_qubits_have_a_finite_cost():
    wide = Circuit(5000, ())
    for backend in ("unheard of", "mps", "statevector"):
        cost = CostModel().of(wide, np.float64, backend, 128)
        assert 0 < cost.tile_s < np.inf and 0 <= cost.encode_s < np.inf


def test_a_model_survives_json_and_nothing_else_passes_for_one():
    model = CostModel().with_measured("mine", np.float64, False, [Measurement(c, 8, 1.0, 2.0) for c in ENTANGLED])
    document = json.loads(json.dumps(model.to_dict()))
    assert CostModel.from_dict(document) == model
    assert CostModel.from_dict({}) == CostModel()
    for wrong in (
        {"mps/float64": {"gate_s": 1}},
        {"mps/float64": 3},
        [1],
        {"m": dataclasses.asdict(Rates(1, -1, 1, 1))},
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
    assert _calibration.cost_model() == CostModel()
    threads = torch.get_num_threads()
    told = []
    model = _calibration.calibrate(told.append)
    assert torch.get_num_threads() == threads
    assert {
        f"{name}, {dtype}" for name in ("mps", "reference", "statevector") for dtype in ("float32", "float64")
    } <= set(told)
    defaults = CostModel().rates
    assert all(model.rates[name] != rates for name, rates in defaults.items())
    assert all(model.rates[name].product == rates.product for name, rates in defaults.items())
    path = _calibration.save(model)
    assert path.parent == folder and [p.name for p in folder.glob("cost-model*")] == [path.name]
    assert _calibration.cost_model() == model


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}', '{"version": 1, "rates": {"a": 1}}', b"\xff"])
def test_a_damaged_file_is_named_and_the_defaults_hold(folder, capsys, content):
    path = folder / "cost-model.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert _calibration.cost_model() == CostModel()
    assert str(path) in capsys.readouterr().err


def test_a_file_of_another_version_is_not_read(folder, capsys):
    (folder / "cost-model.json").write_text('{"version": 99, "rates": "?"}')
    assert _calibration.cost_model() == CostModel()
    assert capsys.readouterr().err == ""
