"""The products that move an environment over one site, as plain lists: what code is generated from.

An environment is a table over the variables of a bond: those of the final state once, hidden ones of the row's state and hidden
ones of the column's. Stage one multiplies by the row's tensor and adds over its hidden variables that end here; stage two
multiplies by the conjugate of the column's tensor and adds over everything else that ends here.
"""

from __future__ import annotations

from dataclasses import dataclass

from dqk.backends.chain import Chain, entries, variable_bits

Terms = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class Step:
    """One site, apart from where its numbers lie; equal sites share their code.

    Attributes:
        before: numbers in the environment on the left; 0 at the first site, where it is the number 1.
        after: numbers in the environment on the right.
        first: for each intermediate value the pairs (number of the environment, entry of the row's tensor).
        second: for each number on the right the pairs (intermediate value, entry of the column's tensor).
        entries: of a tensor.
    """

    before: int
    after: int
    first: Terms
    second: Terms
    entries: int

    @property
    def products(self) -> int:
        """Products of complex numbers."""
        stage_one = sum(map(len, self.first)) if self.before else 0
        return stage_one + sum(map(len, self.second))


def steps_of(chain: Chain) -> list[Step]:
    """One step for each site."""
    found: list[Step] = []
    left: tuple[int, ...] = ()
    for site in chain.sites:
        found.append(_step(chain.physical, left, site.variables, site.bond, is_first=not found))
        left = site.bond
    return found


def _step(
    physical: frozenset[int], left: tuple[int, ...], own: tuple[int, ...], right: tuple[int, ...], is_first: bool
) -> Step:
    copy = lambda names: tuple(v if v in physical else -1 - v for v in names)  # noqa: E731  # the column's
    before, after = (_environment(physical, bond) for bond in (left, right))
    others = copy(own)
    ends = [v for v in {*left, *own} if v not in physical and v not in right]
    kept = [v for v in {*before, *own} if v not in ends]
    # Values that one number on the right needs come one after the other, so that few sums are open at a time.
    kept.sort(key=lambda v: (v not in after or v not in physical, v not in physical, v < 0, abs(v)))
    done = tuple(v for v in {*kept, *others} if v not in after)
    return Step(
        0 if is_first else 2 ** len(before),
        2 ** len(after),
        _terms(tuple(kept), tuple(ends), before, own),
        _terms(after, tuple(sorted(done)), tuple(kept), others),
        2 ** len(own),
    )


def _environment(physical: frozenset[int], bond: tuple[int, ...]) -> tuple[int, ...]:
    hidden = [v for v in bond if v not in physical]
    return (*(v for v in bond if v in physical), *hidden, *(-1 - v for v in hidden))


def _terms(made: tuple[int, ...], summed: tuple[int, ...], one: tuple[int, ...], other: tuple[int, ...]) -> Terms:
    bits = variable_bits((*made, *summed))
    first, second = entries(one, bits).tolist(), entries(other, bits).tolist()
    width = 2 ** len(summed)
    pairs = list(zip(first, second, strict=True))
    return tuple(tuple(pairs[k : k + width]) for k in range(0, len(pairs), width))
