"""What `auto` compares and what its refusals offer, by hand."""

from __future__ import annotations

import pytest
import torch

from dqk.backends import choice
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.kernels import FeatureMap
from dqk.kernels.feature_maps import ising_feature_map, zz_feature_map
from dqk.scheduler import CostModel

F64, F32 = torch.float64, torch.float32


def kept(feature_map: FeatureMap) -> Circuit:
    return simplify_for_fidelity(feature_map.circuit).circuit


def test_backends_are_compared_by_256_samples_the_upper_half_of_two_by_two_tiles():
    circuit = kept(ising_feature_map(8, reps=2))
    for one in choice.candidates(circuit, F64):
        assert one.backend.tile_side(circuit, F64) == 128
        cost = CostModel().of(one.backend.effort(circuit, F64), "float64", 128)
        assert one.seconds == pytest.approx(2 * cost.encode_s + 2 * cost.tile_s)


def test_a_gradient_keeps_states_and_cotangents_of_all_blocks():
    """600 and 200 samples are 5 and 2 blocks of 128; without a gradient two blocks have to fit."""
    circuit, backend = kept(zz_feature_map(6)), StatevectorBackend()
    more = choice.bytes_needed(backend, circuit, F64, (600, 200)) - choice.bytes_needed(backend, circuit, F64)
    assert more == (2 * (5 + 2) - 2) * 128 * backend.encoding_bytes(circuit, F64)


def test_only_what_helps_is_offered(monkeypatch):
    wide = kept(zz_feature_map(40))  # bonds of 2**20; a GPU has no room for 2**40 amplitudes
    assert "mps:max_bond=32" in str(choice.refusal(wide, F64)) and "custatevec" not in str(choice.refusal(wide, F64))
    assert "mps:max_bond" not in str(choice.refusal(wide, F64, (2,)))  # truncated states have no gradients
    monkeypatch.setenv("DQK_MEMORY_MIB", "10")
    large = kept(zz_feature_map(24))
    assert "custatevec" in str(choice.refusal(large, F64)) and "give float32" in str(choice.refusal(large, F64))
    assert "float32" not in str(choice.refusal(large, F32))


def test_a_gradient_is_taken_in_parts_only_where_that_helps(monkeypatch):
    monkeypatch.setenv("DQK_MEMORY_MIB", "10")
    large = kept(zz_feature_map(24))
    few, many = (str(choice.refusal(large, F64, (count,))) for count in (2, 6000))
    assert "two blocks of" in few and "differentiate" not in few and "differentiate K(X[a:b], Y) in parts" in many
