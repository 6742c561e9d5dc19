"""Options: defaults of both presets, every mistake reported at once, nothing ignored in silence."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqk.errors import InvalidInputError
from dqk.kernels import feature_maps
from dqk.training import config as config_module
from dqk.training import options as options_module
from dqk.training.config import OPTIONS, TYPES, continued, resolve


def message(given: dict, *parts: str) -> str:
    with pytest.raises(InvalidInputError) as error:
        resolve(given)
    text = str(error.value)
    for part in parts:
        assert part in text
    return text


def test_without_data_the_papers_model() -> None:
    config = resolve({})
    paper = {"preset": "table1", "model": "qklstm", "embedding_dim": 8, "hidden_dim": 6, "n_qubits": 4, "seed": 0}
    paper |= {"learning_rate": 0.1, "epochs": 100, "optimizer": "adam", "references": "fixed", "readout": "shared"}
    assert config.to_dict().items() >= paper.items()


def test_with_data_the_defaults_for_treebanks() -> None:
    config = resolve({"data": "x.conllu"})
    expected = {"n_qubits": 8, "n_references": 32, "references": "learned", "readout": "per_gate", "bandwidth": 0.5}
    expected |= {"kernel_scale": "auto", "embedding_dim": 32, "hidden_dim": 32, "batch_size": 32, "epochs": 10}
    expected |= {"learning_rate": 0.01, "optimizer": "adam"}
    assert config.to_dict().items() >= expected.items()


def test_a_given_option_beats_the_preset() -> None:
    config = resolve({"data": "x", "preset": "table1", "hidden_dim": 9, "kernel_scale": "3.5"})
    assert (config.hidden_dim, config.embedding_dim, config.kernel_scale) == (9, 8, 3.5)


def test_all_mistakes_at_once() -> None:
    text = message(
        {
            "modle": "lstm",
            "colour": 1,
            "epochs": 0,
            "n_qubits": 2.5,
            "batch_size": True,
            "learning_rate": float("nan"),
            "held_out": 1.0,
            "kernel_scale": "big",
            "model": "lst",
            "data": 7,
        },
        "modle: there is no such option; did you mean --model?",
        "colour: there is no such option",
        "--epochs: 0, expected at least 1",
        "--n-qubits: 2.5, expected a whole number",
        "--batch-size: True, expected a whole number",
        "--learning-rate: nan, expected a finite number",
        "--held-out: 1.0, expected less than 1",
        "--kernel-scale: 'big', expected a number or 'auto'",
        "--model: 'lst'; did you mean 'lstm'?",
        "--data: 7, expected a text",
    )
    assert len(text.splitlines()) == 10


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": "lstm", "n_qubits": 4}, "--n-qubits: has no meaning for the model 'lstm'"),
        ({"model": "qlstm", "bandwidth": 1.0}, "--bandwidth: has no meaning for the model 'qlstm'"),
        ({"layers": 2}, "--layers: has no meaning for the feature map 'qklstm'"),
        ({"feature_map": "zz", "trainable": "scale"}, "--trainable: has no meaning for the feature map 'zz'"),
        (
            {"kernel": "rbf", "feature_map": "zz"},
            "--feature-map: has no meaning for the kernel 'rbf', which runs no circuits",
        ),
        ({"kernel": "linear", "backend": "mps"}, "--backend: has no meaning for the kernel 'linear'"),
        ({"model": "lstm", "kernel": "rbf"}, "--kernel: has no meaning for the model 'lstm'"),
        ({"held_out": 0.1}, "--held-out: has no meaning without --data"),
        ({"test": "t.conllu"}, "--test: needs --data"),
        ({"learning_rate": 1e300}, "--learning-rate: 1e+300, expected at most 1e+30"),
        ({"threads": 10**6}, "--threads: 1000000, expected at most 1024"),
        ({"warmup_steps": 10**400}, "expected at most 1e+30"),
    ],
)
def test_an_option_without_meaning_is_reported(given: dict, says: str) -> None:
    message(given, says)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "qlstm", "layers": 2},
        {"feature_map": "zz", "layers": 1},
        {"kernel": "rbf", "n_qubits": 3, "bandwidth": 0.7},
        {"feature_map": "reuploading", "trainable": "scale"},
    ],
)
def test_an_option_with_meaning_is_kept(given: dict) -> None:
    assert resolve(given).to_dict().items() >= given.items()


@given(st.sets(st.sampled_from(["model", "epochs", "seed", "clip", "kernel_scale", "n_qubits", "dtype", "data"])))
def test_stored_options_give_the_same_run(names: set[str]) -> None:
    values = {"model": "qklstm", "epochs": 3, "seed": 5, "clip": 0.5, "kernel_scale": 2.0, "n_qubits": 3}
    values |= {"dtype": "float64", "data": "x"}
    config = resolve({name: values[name] for name in names})
    stored = json.loads(json.dumps(config.to_dict()))
    assert resolve({name: value for name, value in stored.items() if value is not None}) == config


def test_feature_maps_are_those_of_the_kernels() -> None:
    assert set(config_module.FEATURE_MAPS) == set(feature_maps.FEATURE_MAPS)


def test_every_option_has_help_and_a_type_that_can_be_checked() -> None:
    for name, option in OPTIONS.items():
        assert option.help and option.group in ("Data", "Model", "Training", "Checkpoints", "Insight")
        assert TYPES[name] in options_module._CONVERSIONS


def test_going_on_allows_more_epochs_only() -> None:
    config = resolve({"model": "lstm", "epochs": 5})
    assert continued(config, {}) == config
    assert continued(config, {"epochs": 7, "model": "lstm", "seed": 0}) == replace(config, epochs=7)
    with pytest.raises(InvalidInputError) as error:
        continued(config, {"epochs": 4, "seed": 1, "hidden_dim": 6, "n_qubits": 4, "learning_rate": 0.2, "modle": "x"})
    text = str(error.value)
    assert "--epochs: 4, but the run has 5; a run can go on for more epochs, not for fewer" in text
    assert "--seed: 1, but the run has 0" in text and "--learning-rate: 0.2, but the run has 0.1" in text
    assert "--n-qubits: has no meaning" in text and "modle" in text and "--hidden-dim" not in text
