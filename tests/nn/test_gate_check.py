"""Gates that cannot gate: told once, with the reason, and never of gates that can."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from dqk import QKLSTM
from dqk.cli import app
from dqk.kernels.feature_maps import bsp_feature_map, reuploading_feature_map
from dqk.nn.gate_check import warn_of_gates


def told(layer: QKLSTM, x: torch.Tensor) -> list[str]:
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


def test_training_says_it_and_resumed_training_does_not(tmp_path: Path) -> None:
    options = ["train", "pos", "--bandwidth", "1e-7", "--out", str(tmp_path / "run")]
    with pytest.warns(UserWarning, match="the kernel values of all gates are the same") as caught:
        app([*options, "--epochs", "2"], standalone_mode=False)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app(["train", "pos", "--epochs", "3", "--resume", str(tmp_path / "run")], standalone_mode=False)
