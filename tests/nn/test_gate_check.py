"""Gates that cannot gate: told once, with the reason, and never of gates that can."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from dqk import QKLSTM
from dqk.cli import app
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import bsp_feature_map, reuploading_feature_map
from dqk.nn.gate_check import warn_of_gates


def told(layer: QKLSTM, x: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_gates(layer)
        layer(x)
        layer(x)
    return [str(one.message) for one in caught]


def batch(size: int = 6, steps: int = 5, width: int = 3) -> torch.Tensor:
    return torch.randn(size, steps, width)


def network(**options: Any) -> QKLSTM:
    torch.manual_seed(1)
    return QKLSTM(3, 4, batch_first=True, **{"n_qubits": 3, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"readout": "shared"},
        {"readout": "scalar"},
        {"gate_kernel": "shared"},
        {"gate_kernel": "projection"},
        {"gate_kernel": "projection", "reference_space": "input"},
        {"gate_kernel": "circuit", "feature_map": reuploading_feature_map(3, trainable="scale")},
        {"n_references": 1},
        {"n_qubits": 12},
        {"bandwidth": 0.1},
        {"feature_map": bsp_feature_map(3)},
        {"kernel": "rbf"},
        {"kernel": "linear"},
        {"num_layers": 2},
        {"bidirectional": True},
        {"num_layers": 2, "bidirectional": True, "dtype": torch.float64},
    ],
)
def test_gates_that_work_are_not_spoken_of(options: dict[str, Any]) -> None:
    layer = network(**options)
    assert told(layer, batch().to(layer.cells[0].weight)) == []


def test_a_kernel_that_underflows() -> None:
    (text,) = told(network(n_qubits=150, kernel_scale=1.0), 3 * batch())
    assert (
        text.startswith("the kernel values of all gates are the same for all of 30 inputs")
        and "smaller bandwidth" in text
    )


def test_a_kernel_that_is_always_one() -> None:
    (text,) = told(network(bandwidth=1e-6), batch())
    assert "between 1 and 1;" in text and "larger bandwidth" in text


@pytest.mark.parametrize(("scale", "findings"), [(1.0, 1), (1e6, 0)])
def test_small_differences_count_as_much_as_they_are_scaled(scale: float, findings: int) -> None:
    layer = network(bandwidth=1e-4, kernel_scale=scale, dtype=torch.float64)
    assert len(told(layer, batch().double())) == findings


def test_inputs_that_do_not_differ() -> None:
    layer = network()
    assert told(layer, torch.ones(6, 1, 3))[0].endswith("whether the feature map depends on them; see `dqk inspect`")
    assert told(layer, torch.ones(1, 1, 3)) == [], "one input says nothing"


def test_only_the_gate_that_is_constant_is_named() -> None:
    layer = network(gate_kernel="circuit", feature_map=reuploading_feature_map(3, trainable="scale"))
    with torch.no_grad():
        layer.cells[0].params[2] = 0.0  # k = 1 wherever the samples lie
    (text,) = told(layer, batch())
    assert text.startswith("the kernel values of the output gate are the same")


def test_gates_that_are_the_same_function() -> None:
    layer = network(gate_kernel="circuit", feature_map=reuploading_feature_map(3, trainable="scale"), readout="shared")
    with torch.no_grad():
        layer.cells[0].params[3] = layer.cells[0].params[1]
    (text,) = told(layer, batch())
    assert text.startswith("gates are the same function on the first batch: input and cell;") and "per_gate" in text


def test_every_layer_and_direction_is_looked_at_with_what_it_is_given() -> None:
    """Projections of zero see no input, whatever it is; hidden states of a working first layer do differ."""
    layer = network(num_layers=2, bidirectional=True)
    with torch.no_grad():
        for cell in layer.cells[1:3]:
            cell.projection.weight.zero_()
    (text,) = told(layer, batch())
    assert text.startswith(
        "layer 1 of 2, backward direction: the kernel values of all gates are the same for all of 30 inputs"
    )
    assert "; layer 2 of 2, forward direction: the kernel values of all gates" in text and text.count("layer") == 2
    (text,) = told(network(num_layers=2, bidirectional=True, bandwidth=1e-6), batch())
    assert text.count("kernel values of all gates") == 4 and text.count("larger bandwidth") == 1
    only_hidden = network(num_layers=2)
    with torch.no_grad():
        only_hidden.cells[1].projection.weight[:, 4:] = 0  # of 4 hidden features and 4 inputs
    assert told(only_hidden, batch()) == []


def test_kinds_of_findings_are_told_apart_by_their_layer() -> None:
    options = {
        "feature_map": reuploading_feature_map(3, trainable="scale"),
        "gate_kernel": "circuit",
        "readout": "shared",
    }
    layer = network(num_layers=2, **options)
    with torch.no_grad():
        layer.cells[0].params[2] = 0.0
        layer.cells[1].params[3] = layer.cells[1].params[1]
    (text,) = told(layer, batch())
    constant, equal = text.splitlines()
    assert constant.startswith("layer 1 of 2: the kernel values of the output gate are the same")
    assert equal.startswith("layer 2 of 2: gates are the same function on the first batch: input and cell;")


def test_packed_sequences_and_a_pass_that_fails() -> None:
    layer = network(bidirectional=True, bandwidth=1e-6)
    packed = torch.nn.utils.rnn.pack_padded_sequence(batch(), [5, 4, 4, 2, 1, 1], batch_first=True)
    (text,) = told(layer, packed)
    assert "forward direction: the kernel values of all gates are the same for all of 17 inputs" in text
    warn_of_gates(layer)
    with warnings.catch_warnings(), pytest.raises(InvalidInputError):
        warnings.simplefilter("error")
        layer(batch(width=2))
    assert all("run" not in vars(cell) for cell in layer.cells) and copy.deepcopy(layer)(batch())[0].shape == (6, 5, 8)


def test_training_says_it_and_resumed_training_does_not(tmp_path: Path) -> None:
    options = ["train", "pos", "--bandwidth", "1e-7", "--out", str(tmp_path / "run")]
    with pytest.warns(UserWarning, match="the kernel values of all gates are the same") as caught:
        app([*options, "--epochs", "2"], standalone_mode=False)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app(["train", "pos", "--epochs", "3", "--resume", str(tmp_path / "run")], standalone_mode=False)
