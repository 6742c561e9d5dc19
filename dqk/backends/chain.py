"""Matrix-product states with the structure of their circuit: which variables each site's tensor and each bond have.

Every factor of a circuit (see `dqk.backends.variables`) is placed at a site. A variable is carried over all bonds between the sites
that need it, so `chi = 2**(variables carried)`. Variables of the final state are the same in both states of an overlap, so they
stand once in the environment: of a bond with `s` of them and `h` hidden ones it has `2**(s + 2 h)` numbers, not `4**(s + h)`.
Near the ends, where a bond would have more states than the qubits beyond it, their factors move inward: there the bond is the
basis of those qubits, which is the exact bound `chi <= min(2**left, 2**right)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from dqk.backends.variables import Factor, Network, network
from dqk.circuit import Circuit

_KINDS = {"constant": 0, "data": 1, "shared": 2}


@dataclass(frozen=True)
class Site:
    """One tensor of the chain.

    Attributes:
        variables: its indices, each with two values; the first is the most significant.
        bond: variables that the bond on its right carries.
        offset: first of its numbers in an encoding: real and imaginary part of each entry.
    """

    variables: tuple[int, ...]
    bond: tuple[int, ...]
    offset: int


@dataclass(frozen=True, eq=False)
class Program:
    """How a sample's tensors are made; what `dqk.backends.compiled.chain_encode` reads.

    Each step multiplies the entries at hand by those of a factor and adds over variables that nobody needs any more.

    Attributes:
        steps: (S, 7) int64 rows: entries made, products in each, first product, first entry of the factor, entries of the
            factor, kind of operand (0 constant, 1 data, 2 shared), column.
        sites: (T, 3) int64 rows: first step, one past the last, offset of the result.
        products: (P, 2) int32 rows: entry at hand, entry of the factor.
        coefficients: (F, 6) float64: real and imaginary parts of constant, cosine and sine of each entry of a factor.
        scales: (S,) float64: the angle is scale * column.
    """

    steps: np.ndarray
    sites: np.ndarray
    products: np.ndarray
    coefficients: np.ndarray
    scales: np.ndarray

    def arguments(self, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """What a compiled entry point takes, coefficients in the dtype of the samples."""
        return self.steps, self.sites, self.products, self.coefficients.astype(dtype), self.scales.astype(dtype)


@dataclass(frozen=True, eq=False)
class Chain:
    """A circuit's matrix-product structure, the same for all samples.

    Attributes:
        network: the circuit's factors.
        sites: the tensors, from left to right.
        groups: each site's factors.
        bond: largest bond dimension between neighbouring qubits.
    """

    network: Network
    sites: tuple[Site, ...]
    groups: tuple[tuple[Factor, ...], ...]
    bond: int

    @property
    def size(self) -> int:
        """Numbers in one sample's encoding."""
        last = self.sites[-1]
        return last.offset + 2 * 2 ** len(last.variables)

    @cached_property
    def physical(self) -> frozenset[int]:
        """Variables of the final state."""
        return frozenset(self.network.physical)

    @cached_property
    def widest(self) -> int:
        """Most variables that are at hand at once while a tensor is made: a step has `2**widest` products at most."""
        widest = 0
        for site, group in zip(self.sites, self.groups, strict=True):
            for at_hand, factor, _ in _eliminations(site, group):
                widest = max(widest, len(at_hand | set(factor.variables)))
        return widest

    @cached_property
    def work(self) -> int:
        """Products of complex numbers in one overlap."""
        total, left = 0, set[int]()
        for site in self.sites:
            right = set(site.bond)
            everything = left | right | set(site.variables)
            shared, hidden = len(everything & self.physical), len(everything - self.physical)
            for bond in (left, right):  # what the other state's tensor carries meanwhile
                total += 2 ** (shared + hidden + len(bond - self.physical))
            left = right
        return total

    @cached_property
    def environments(self) -> int:
        """Complex numbers in the environments of all bonds, and in what lies between them."""
        return sum(self._between)

    @cached_property
    def largest_environment(self) -> int:
        """Complex numbers in the largest of them."""
        return max(self._between)

    @cached_property
    def _between(self) -> list[int]:
        found, left = [], set[int]()
        for site in self.sites:
            everything = left | set(site.bond) | set(site.variables)
            found.append(2 ** (len(everything) + max(len(bond - self.physical) for bond in (left, set(site.bond)))))
            left = set(site.bond)
        return found

    @cached_property
    def most_entries(self) -> int:
        """Entries of all steps that make one tensor."""
        steps, sites = self.program.steps, self.program.sites
        return max(1 + int(steps[start:stop, 0].sum()) for start, stop, _ in sites)

    @cached_property
    def program(self) -> Program:
        """The steps of encoding."""
        return _program(self)


@lru_cache(maxsize=64)
def chain_of(circuit: Circuit) -> Chain:
    """The matrix-product structure of a circuit. Nothing of the size of a tensor is made."""
    found = network(circuit)
    place = _placed(found)
    width, hidden = _widths(found, place, circuit.n_qubits)
    place = _clamped(place, width, hidden, circuit.n_qubits)
    groups: dict[int, list[Factor]] = {}
    for factor, where in zip(found.factors, place, strict=True):
        groups.setdefault(where, []).append(factor)
    first, last = _spans(found.factors, place)
    physical, sites, offset, bond = set(found.physical), [], 0, set[int]()
    for where in sorted(groups):
        touched = {v for factor in groups[where] for v in factor.variables}
        kept = sorted(v for v in touched if v in physical or first[v] < where or last[v] > where)
        bond = {v for v in bond | touched if last[v] > where}
        sites.append(Site(tuple(kept), tuple(sorted(bond)), offset))
        offset += 2 * 2 ** len(kept)
    largest = max((min(w, most) for w, most in zip(width, _beyond(width), strict=True)), default=0)
    return Chain(found, tuple(sites), tuple(tuple(groups[where]) for where in sorted(groups)), 2**largest)


def _spans(factors: Iterable[Factor], place: list[int]) -> tuple[dict[int, int], dict[int, int]]:
    """First and last site of each variable."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for factor, site in zip(factors, place, strict=True):
        for v in factor.variables:
            first[v], last[v] = min(first.get(v, site), site), max(last.get(v, site), site)
    return first, last


def _placed(found: Network) -> list[int]:
    """A site for each factor: its wire; of two wires the one that makes bonds grow least, the right one if both are equal."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    place = [-1] * len(found.factors)
    physical = set(found.physical)

    def growth(factor: Factor, site: int) -> int:
        """Bonds that have to carry more, counted twice for hidden variables, which differ between two states."""
        total = 0
        for v in factor.variables:
            if v in first:
                weight = 1 if v in physical else 2
                total += weight * (max(0, first[v] - site) + max(0, site - last[v]))
        return total

    order = sorted(range(len(place)), key=lambda k: len(found.factors[k].wires))  # stable: what is fixed comes first
    for k in order:
        factor = found.factors[k]
        site = min(reversed(factor.wires), key=lambda wire, f=factor: growth(f, wire))  # type: ignore[misc]
        place[k] = site
        for v in factor.variables:
            first[v], last[v] = min(first.get(v, site), site), max(last.get(v, site), site)
    return place


def _widths(found: Network, place: list[int], n: int) -> tuple[list[int], list[int]]:
    """How many variables the bond right of each qubit carries, and how many of them are hidden."""
    first, last = _spans(found.factors, place)
    width, hidden, physical = np.zeros(n - 1, int), np.zeros(n - 1, int), set(found.physical)
    for v in first:
        width[first[v] : last[v]] += 1
        hidden[first[v] : last[v]] += v not in physical
    return width.tolist(), hidden.tolist()


def _beyond(bonds: list[int]) -> list[int]:
    """The smaller number of qubits on one side of each bond."""
    return [min(k + 1, len(bonds) - k) for k in range(len(bonds))]


def _clamped(place: list[int], width: list[int], hidden: list[int], n: int) -> list[int]:
    """The places, moved inward where a bond would have at least as many states as the qubits beyond it."""
    left = max((k + 1 for k in range(n - 1) if width[k] >= k + 1 and hidden[k]), default=0)
    right = min((k for k in range(n - 1) if width[k] >= n - 1 - k and hidden[k]), default=n - 1)
    if left > right:
        left = right = n // 2
    return [min(max(site, left), right) for site in place]


def _eliminations(site: Site, group: tuple[Factor, ...]) -> Iterable[tuple[set[int], Factor, set[int]]]:
    """For each factor of a site: variables at hand before, the factor, variables that are summed over after it."""
    last_use = {v: k for k, factor in enumerate(group) for v in factor.variables}
    kept, at_hand = set(site.variables), set[int]()
    for k, factor in enumerate(group):
        done = {v for v in factor.variables if last_use[v] == k and v not in kept}
        yield at_hand, factor, done
        at_hand = (at_hand | set(factor.variables)) - done


def _program(chain: Chain) -> Program:
    steps: list[tuple[int, ...]] = []
    sites: list[tuple[int, int, int]] = []
    scales: list[float] = []
    products: list[np.ndarray] = []
    coefficients: list[np.ndarray] = []
    n_products = n_coefficients = 0
    for site, group in zip(chain.sites, chain.groups, strict=True):
        start, known = len(steps), tuple[int, ...]()
        for at_hand, factor, done in _eliminations(site, group):
            made = tuple(sorted((at_hand | set(factor.variables)) - done))
            bits = variable_bits((*made, *sorted(done)))
            rows = np.stack([entries(known, bits), entries(factor.variables, bits)], axis=1)
            table = factor.table.reshape(3, -1).T
            kind = _KINDS[factor.operand.kind] if factor.operand is not None else 0
            column = factor.operand.column if factor.operand is not None else -1
            steps.append((2 ** len(made), 2 ** len(done), n_products, n_coefficients, len(table), kind, column))
            scales.append(factor.scale)
            products.append(rows.astype(np.int32))
            coefficients.append(np.stack([table.real, table.imag], axis=2).reshape(-1, 6))
            n_products, n_coefficients, known = n_products + len(rows), n_coefficients + len(table), made
        sites.append((start, len(steps), site.offset))
    return Program(
        np.array(steps, np.int64),
        np.array(sites, np.int64),
        np.concatenate(products),
        np.concatenate(coefficients),
        np.array(scales, np.float64),
    )


def variable_bits(variables: tuple[int, ...]) -> dict[int, np.ndarray]:
    """The value of each variable in each entry of a table over all of them, the first one most significant."""
    index = np.arange(2 ** len(variables))
    return {v: (index >> (len(variables) - 1 - k)) & 1 for k, v in enumerate(variables)}


def entries(variables: tuple[int, ...], bits: dict[int, np.ndarray]) -> np.ndarray:
    """Number of the entry of a table over some variables, for given values of all of them."""
    total = np.zeros(len(next(iter(bits.values()))) if bits else 1, np.int64)
    for v in variables:
        total = 2 * total + bits[v]
    return total
