"""Inputs, states and arguments that QKLSTM and QLSTM refuse, with the place and what was expected."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from dqk import QKLSTM, QLSTM
from dqk.errors import DQKError, InvalidInputError
from tests.nn.networks import Network, per_network, qklstm


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@per_network
def test_half_precision_is_refused(make: Callable[..., Network], dtype: torch.dtype) -> None:
    with pytest.raises(InvalidInputError, match=rf"input is {dtype}, expected torch.float32 or torch.float64; use"):
        make(3, 2).to(dtype)(torch.randn(4, 2, 3, dtype=dtype))


def _ones(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.ones(shape), torch.ones(shape)


BAD_INPUTS: dict[str, tuple[Any, Any, str]] = {
    "features": (torch.ones(4, 2, 5), None, r"input has 5 features \(shape \(4, 2, 5\)\), expected \(T, B, 3\)"),
    "dimensions": (torch.ones(4), None, r"input has shape \(4,\), expected \(T, B, 3\)"),
    "four dimensions": (torch.ones(1, 4, 2, 3), None, r"input has shape \(1, 4, 2, 3\), expected"),
    "dtype": (torch.ones(4, 2, 3).double(), None, "input is torch.float64 .* the parameters are torch.float32"),
    "integers": (torch.ones(4, 2, 3).long(), None, "input is torch.int64"),
    "no steps": (torch.ones(0, 2, 3), None, "without time steps or sequences"),
    "no sequences": (torch.ones(4, 0, 3), None, "without time steps or sequences"),
    "nan": (torch.tensor([[0.0, 1, 2], [0, float("nan"), 2]]), None, r"input\[1, 1\] is nan, expected finite"),
    "infinity": (torch.tensor([[0.0, 1, -float("inf")]]), None, r"input\[0, 2\] is -inf, expected finite"),
    "packed features": (pack_sequence([torch.ones(4, 5)]), None, "input has 5 features"),
    "state shape": (torch.ones(4, 2, 3), _ones(1, 3, 2), r"h_0 has shape \(1, 3, 2\), expected \(1, 2, 2\)"),
    "state for one": (
        torch.ones(4, 3),
        _ones(1, 1, 2),
        r"h_0 has shape \(1, 1, 2\), expected \(1, 2\).*single sequence",
    ),
    "one state": (torch.ones(4, 2, 3), torch.ones(1, 2, 2), r"hx is a Tensor, expected a pair \(h_0, c_0\)"),
    "c_0": (torch.ones(4, 2, 3), (torch.ones(1, 2, 2), torch.ones(1, 2, 1)), "c_0 has shape"),
    "a list": ([[1.0, 2.0, 3.0]], None, "input is a list, expected a tensor"),
    "numbers": (torch.ones(4, 2, 3), (1, 2), "h_0 is a int, expected a tensor"),
    "state nan": (
        torch.ones(4, 2, 3),
        (torch.ones(1, 2, 2), torch.full((1, 2, 2), math.nan)),
        "c_0 has values that are not",
    ),
    "state dtype": (torch.ones(4, 2, 3), (torch.ones(1, 2, 2).double(), torch.ones(1, 2, 2)), "h_0 is torch.float64"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@per_network
def test_bad_input_is_refused_with_its_place(make: Callable[..., Network], case: str) -> None:
    x, hx, message = BAD_INPUTS[case]
    with pytest.raises(InvalidInputError, match=message):
        make(3, 2)(x, hx)


def test_large_values_are_no_infinities() -> None:
    assert qklstm(3, 2)(torch.full((2, 2, 3), 3e38))[0].shape == (2, 2, 2)


BAD_SIZES = [
    ({"input_size": 0}, "input_size is 0, expected a whole number of at least 1"),
    ({"hidden_size": 2.5}, "hidden_size is 2.5"),
    ({"num_layers": 0}, "num_layers is 0"),
    ({"bias": 1}, "bias is 1, expected True or False"),
    ({"batch_first": "yes"}, "batch_first is 'yes'"),
    ({"bidirectional": None}, "bidirectional is None"),
    ({"dropout": 1.5}, "dropout is 1.5, expected a probability from 0 to 1"),
    ({"dropout": True}, "dropout is True"),
    ({"n_qubits": 0}, "n_qubits is 0"),
    ({"backend": "statevectr"}, "unknown backend 'statevectr'; did you mean 'statevector'"),
    ({"backend": 3}, "backend is 3, expected a name"),
]


@pytest.mark.parametrize(("options", "message"), BAD_SIZES, ids=str)
@pytest.mark.parametrize("network", [QKLSTM, QLSTM])
def test_bad_arguments_are_refused(network: type[Network], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        network(**{"input_size": 3, "hidden_size": 2, **options})


@pytest.mark.parametrize("network", [QKLSTM, QLSTM])
def test_all_mistakes_come_at_once(network: type[Network]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        network(0, -1, 0, n_qubits=0, dropout=2.0, bias="no")  # type: ignore[arg-type]
    for name in ("input_size", "hidden_size", "num_layers", "n_qubits", "dropout", "bias"):
        assert f"{name} is" in str(caught.value)
    assert isinstance(caught.value, DQKError)
