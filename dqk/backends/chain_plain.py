"""Overlaps and expectation values of matrix-product states by torch's own contractions.

The plain path: any bond dimension (batched matrix products), differentiable by torch itself, and the check of the generated code.
Environments of all pairs of a tile are held at once, so tiles of large bonds must be small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dqk.backends.chain import Chain

_PAULI = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
}
_ROW, _COLUMN = 0, 1  # letters of the samples; variables follow


def tensors(chain: Chain, encoded: Tensor) -> list[Tensor]:
    """The tensor of each site, complex, shape (N, 2, ..., 2)."""
    found = []
    for site in chain.sites:
        count = 2 ** len(site.variables)
        part = encoded[site.offset : site.offset + 2 * count].reshape(count, 2, -1)
        found.append(torch.complex(part[:, 0], part[:, 1]).T.reshape(-1, *[2] * len(site.variables)))
    return found


def amplitudes(chain: Chain, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`<b_j|a_i>` as a number of modulus near 1 and the exponent of a power of two, both of shape (N, M)."""
    rows, columns = tensors(chain, a), [t.conj() for t in tensors(chain, b)]
    environment = torch.ones(a.shape[-1], b.shape[-1], dtype=rows[0].dtype, device=a.device)
    exponents = torch.zeros(environment.shape, dtype=torch.int32, device=a.device)
    held: list[int] = []
    hidden = lambda v: v if v in chain.physical else -1 - v  # noqa: E731  # the column's own copy
    for site, x, y in zip(chain.sites, rows, columns, strict=True):
        right = {*site.bond, *(hidden(v) for v in site.bond)}
        needed = right | {hidden(v) for v in site.variables}
        keep = sorted({v for v in {*held, *site.variables} if v in needed or v in chain.physical or v < 0})
        environment = _contract(environment, [_ROW, _COLUMN], held, x, [_ROW], site.variables, keep)
        others = [hidden(v) for v in site.variables]
        kept = sorted(v for v in {*keep, *others} if v in right)
        environment = _contract(environment, [_ROW, _COLUMN], keep, y, [_COLUMN], others, kept)
        held = kept
        environment, exponents = rescaled(environment, exponents)
    return environment, exponents


def rescaled(environment: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Environments (N, M, ...) times powers of two, so that their largest numbers are near 1, and the sums of the exponents."""
    parts = torch.view_as_real(environment.detach()).abs()
    exponent = torch.frexp(parts.flatten(2).amax(dim=2))[1]
    powers = _powers(-exponent, parts.dtype)
    return environment * powers.reshape(*exponent.shape, *[1] * (environment.dim() - 2)), exponents + exponent


def values(amplitude: Tensor, exponents: Tensor, log: bool) -> Tensor:
    """K or log K of what `amplitudes` gives."""
    return unscaled(amplitude.real**2 + amplitude.imag**2, exponents, log)


def unscaled(square: Tensor, exponents: Tensor, log: bool) -> Tensor:
    """`square 4**exponents` or its logarithm."""
    if log:
        return square.log() + (2 * math.log(2)) * exponents.to(square.dtype)
    power = _powers(exponents, square.dtype)
    return square * power * power


def weighted(amplitude: Tensor, exponents: Tensor, cotangent: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """What to differentiate, and with which cotangents, to get those of K or log K. What nobody asks for contributes nothing."""
    square = amplitude.real**2 + amplitude.imag**2
    if log:
        return square, torch.where(cotangent == 0, cotangent, cotangent / square.detach())
    power = _powers(exponents, square.dtype)
    return square, cotangent * power * power


def _powers(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """Powers of two, exactly; 0 for those that would be subnormal."""
    mantissa, bias, whole = (23, 127, torch.int32) if dtype == torch.float32 else (52, 1023, torch.int64)
    biased = (exponents.to(whole) + bias).clamp(0, 2 * bias)
    return (biased << mantissa).view(dtype)


def _contract(
    first: Tensor,
    axes: Sequence[int],
    variables: Sequence[int],
    second: Tensor,
    other_axes: Sequence[int],
    others: Sequence[int],
    keep: Sequence[int],
) -> Tensor:
    """The product of two tables, summed over all variables but those to keep; axes of samples come first and stay."""
    names: dict[int, int] = {}
    letters = lambda vs: [names.setdefault(v, 2 + len(names)) for v in vs]  # noqa: E731
    inputs = first, [*axes, *letters(variables)], second, [*other_axes, *letters(others)]
    return torch.einsum(*inputs, [*axes, *letters(keep)])


def expectations(chain: Chain, encoded: Tensor, words: Sequence[str]) -> Tensor:
    """`<psi_i|P_k|psi_i>`, shape (N, K)."""
    kets = tensors(chain, encoded)
    return torch.stack([_expectation(chain, kets, word) for word in words], dim=1)


def _expectation(chain: Chain, kets: list[Tensor], word: str) -> Tensor:
    """Where an operator stands, the bra has a variable of its own; the operator joins both at the variable's last site."""
    operators = {}
    for wire, letter in enumerate(word):
        if letter != "I":
            frame = chain.network.frames[wire]
            operators[chain.network.physical[wire]] = frame.conj().T @ _PAULI[letter] @ frame
    bra = lambda v: -1 - v if v in operators or v not in chain.physical else v  # noqa: E731
    environment, held = torch.ones(len(kets[0]), dtype=kets[0].dtype), list[int]()
    for site, ket in zip(chain.sites, kets, strict=True):
        right = {*site.bond, *(bra(v) for v in site.bond)}
        joined = [v for v in {*held, *site.variables} if v in operators and v not in right]
        needed = right | {bra(v) for v in site.variables} | set(joined)
        keep = sorted(v for v in {*held, *site.variables} if v in needed or v < 0)
        environment = _contract(environment, [_ROW], held, ket, [_ROW], site.variables, keep)
        others = [bra(v) for v in site.variables]
        kept = sorted(v for v in {*keep, *others} if v in right or v in joined or -1 - v in joined)
        environment = _contract(environment, [_ROW], keep, ket.conj(), [_ROW], others, kept)
        for v in joined:
            matrix = torch.as_tensor(operators[v]).to(environment)
            rest = [k for k in kept if k not in (v, -1 - v)]
            environment = _contract(environment, [_ROW], kept, matrix, [], [-1 - v, v], rest)
            kept = rest
        held = kept
    return environment.real
