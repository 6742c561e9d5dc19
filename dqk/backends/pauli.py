"""Expectation values of Pauli strings of complex states, in torch on any device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def expectation_values(states: Tensor, words: tuple[str, ...]) -> Tensor:
    """`<psi_i| P_k |psi_i>`, shape (N, O), of states (N, 2**n)."""
    values = [(states.conj() * _image(states, word)).sum(1).real for word in words]
    return torch.stack(values, 1) if words else states.real.new_empty(len(states), 0)


def expectation_slopes(states: Tensor, words: tuple[str, ...], cotangent: Tensor) -> Tensor:
    """Cotangents of the states, shape (N, 2**n), for a cotangent (N, O) of the values."""
    total = torch.zeros_like(states)
    for k, word in enumerate(words):
        total += 2 * cotangent[:, k, None] * _image(states, word)
    return total


def _image(states: Tensor, word: str) -> Tensor:
    """P|psi>."""
    source, factors = _pauli(word, states.dtype, states.device)
    return states.index_select(1, source) * factors


@lru_cache(maxsize=128)
def _pauli(word: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """For P|psi>: the source of each amplitude and its factor. Y is `i X Z`: Z acts first, on the source."""
    n = len(word)
    index = torch.arange(2**n)
    flip = sum(1 << (n - 1 - wire) for wire, letter in enumerate(word) if letter in "XY")
    source, sign = index ^ flip, torch.ones(2**n)
    for wire, letter in enumerate(word):
        if letter in "YZ":
            sign = sign * (1 - 2 * (source >> (n - 1 - wire) & 1))
    return source.to(device), (1j ** word.count("Y") * sign).to(device=device, dtype=dtype)
