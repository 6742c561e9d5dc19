"""Which qubit goes to which QPU, if a circuit is wider than each of them.

Choose it for QPUs that can entangle qubits with each other; `wide` compares with cutting the circuit. The cost is the
number of e-bits (see `ebits`). The assignment holds for the whole circuit; qubits do not move for good.

What to expect: on chains never more e-bits than contiguous blocks. On random circuits it depends on their density, since nothing
separates a dense one: with 50, 100, 200, 400, 800 CX on uniform pairs of 50 qubits, two QPUs need 0.12, 0.34, 0.53, 0.66, 0.76 of
the e-bits of a random balanced partition, five need 0.22, 0.46, 0.61, 0.74, 0.82: half of them up to some two gates a qubit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, whole_number
from dqk.qpu.ebits import Interactions
from dqk.qpu.moves import Problem, improve

_SMALL = 4096  # so many assignments are all tried
_KEPT = 0.85  # share of the qubits that a disturbed assignment leaves where they are


@dataclass(frozen=True)
class Partition:
    """An assignment of qubits to QPUs and what it costs.

    Attributes:
        assignment: number of each qubit's QPU.
        capacities: qubits that each QPU has room for.
        ebits: e-bits for one run of the circuit, each counted for every link on its way.
        between: e-bits of each pair of QPUs that has some, as ((a, b), e-bits), whatever the way.
        nonlocal_gates: gates between QPUs, before e-bits are shared.
        links: e-bits that each link has to deliver, as ((a, b), e-bits).
    """

    assignment: tuple[int, ...]
    capacities: tuple[int, ...]
    ebits: int
    between: tuple[tuple[tuple[int, int], int], ...]
    nonlocal_gates: int
    links: tuple[tuple[tuple[int, int], int], ...]

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Qubits of each QPU."""
        return tuple(
            tuple(q for q, home in enumerate(self.assignment) if home == qpu) for qpu in range(len(self.capacities))
        )


def kernel_circuit(circuit: Circuit) -> Circuit:
    """What a QPU runs for an entry of a fidelity kernel: what is left of U by simplification, then U^dagger.

    So every gate of U counts twice, and e-bits do, but for those that gates at the end of U share with their inverses.
    """
    return simplify_for_fidelity(circuit).circuit.compute_uncompute()


def partition(
    circuit: Circuit,
    capacities: Sequence[int],
    links: Sequence[tuple[int, int]] | None = None,
    *,
    restarts: int = 16,
    seed: int = 0,
) -> Partition:
    """Assigns the qubits of a circuit to QPUs so that few e-bits are needed.

    Up to 4096 assignments are all tried. More are searched: contiguous blocks, connected parts along their Fiedler vectors, and
    random ones are improved by moving qubits (see `moves`), then the best is disturbed and improved again. The result is never
    worse than contiguous blocks in the given order of the QPUs or by descending capacity.

    Args:
        circuit: as it is run; `kernel_circuit` for an entry of a fidelity kernel.
        capacities: qubits that each QPU has room for, beside those that hold e-bits.
        links: pairs of QPUs that can entangle qubits directly; None for all.
        restarts: random starts, and as many disturbances of the best.
        seed: the same seed gives the same assignment.

    Raises:
        InvalidInputError: if the qubits do not fit or the links do not join the QPUs.

    Example:
        >>> from dqk.kernels.feature_maps import reuploading_feature_map
        >>> found = partition(kernel_circuit(reuploading_feature_map(6, layers=2).circuit), [3, 3])
        >>> found.groups, found.ebits, found.nonlocal_gates
        (((0, 1, 2), (3, 4, 5)), 4, 4)
    """
    room = checked_capacities(circuit, capacities)
    restarts, seed = whole_number("restarts", restarts, 0), whole_number("seed", seed, 0)
    problem = Problem(Interactions.of(circuit), np.array(room), hops(len(room), links))
    used = sum(size > 0 for size in room)
    if used**circuit.n_qubits <= _SMALL:
        assignment = min(_all(circuit.n_qubits, room), key=lambda given: problem.ebits(given).total)
    else:
        assignment = _search(problem, restarts, np.random.default_rng(seed))
    return priced(circuit, assignment, room, links)


def priced(
    circuit: Circuit, assignment: Any, capacities: Sequence[int], links: Sequence[tuple[int, int]] | None = None
) -> Partition:
    """A given assignment with its e-bits.

    Args:
        circuit: as it is run.
        assignment: number of each qubit's QPU, shape (n,).
        capacities: qubits that each QPU has room for.
        links: as for `partition`.

    Raises:
        InvalidInputError: if it is none, or a QPU has more qubits than it has room for.
    """
    room = checked_capacities(circuit, capacities)
    homes = np.array([whole_number("a QPU of the assignment", qpu, 0) for qpu in assignment], dtype=int)
    loads = np.bincount(homes, minlength=len(room))
    if len(homes) != circuit.n_qubits or len(loads) > len(room) or (loads > room).any():
        raise InvalidInputError(
            f"the assignment is {homes.tolist()}, expected a QPU from 0 to {len(room) - 1} for each of {circuit.n_qubits} "
            f"qubits, and at most {list(room)} qubits on them"
        )
    distances = hops(len(room), links)
    found = Problem(Interactions.of(circuit), np.array(room), distances).ebits(homes)
    pairs = [(a, b) for a in range(len(room)) for b in range(a + 1, len(room)) if found.between[a, b]]
    between = tuple(((a, b), int(found.between[a, b])) for a, b in pairs)
    loads_of_links: dict[tuple[int, int], int] = {}
    for (a, b), count in between:
        for link in _route(a, b, distances):
            loads_of_links[link] = loads_of_links.get(link, 0) + count
    return Partition(
        tuple(homes.tolist()), room, found.total, between, found.nonlocal_gates, tuple(sorted(loads_of_links.items()))
    )


def checked_capacities(circuit: Circuit, capacities: Sequence[int]) -> tuple[int, ...]:
    """The capacities, if the qubits fit.

    Raises:
        InvalidInputError: if they are none, or too small.
    """
    if not isinstance(circuit, Circuit):
        raise InvalidInputError(f"circuit is {circuit!r}, expected a Circuit such as that of a feature map")
    try:
        room = tuple(whole_number("a capacity", size, 0) for size in capacities)
    except TypeError as error:
        raise InvalidInputError(f"capacities is {capacities!r}, expected a list such as [6, 6]") from error
    if sum(room) < circuit.n_qubits:
        raise InvalidInputError(
            f"{circuit.n_qubits} qubits do not fit: the QPUs have room for {' + '.join(map(str, room)) or 'none'}"
            f"{f' = {sum(room)}' if len(room) > 1 else ''}; add QPUs or take a narrower feature map"
        )
    return room


def hops(n_qpus: int, links: Sequence[tuple[int, int]] | None) -> np.ndarray:
    """Links on the shortest way between two QPUs, shape (k, k).

    Raises:
        InvalidInputError: names everything that is wrong with the links.
    """
    if links is None:
        return 1 - np.eye(n_qpus, dtype=int)
    near = np.eye(n_qpus, dtype=bool)
    problems = []
    for link in links:
        try:
            a, b = (whole_number("a QPU of a link", end, 0) for end in link)
        except (TypeError, ValueError):
            problems.append(f"link {link!r}, expected two numbers of QPUs such as (0, 1)")
            continue
        if a == b or max(a, b) >= n_qpus:
            problems.append(f"link {(a, b)}, expected two different QPUs from 0 to {n_qpus - 1}")
        else:
            near[a, b] = near[b, a] = True
    if problems:
        raise InvalidInputError("\n".join(problems))
    found = np.where(near, 1, 0) - np.eye(n_qpus, dtype=int)
    reached, steps = near, 1
    while not reached.all():
        further = (reached.astype(int) @ near.astype(int)) > 0
        steps += 1
        if (further == reached).all():
            a, b = (int(end) for end in np.argwhere(~reached)[0])
            raise InvalidInputError(f"no links lead from QPU {a} to QPU {b}; add one or leave a QPU out")
        found[further & ~reached] = steps
        reached = further
    return found


def _route(a: int, b: int, distances: np.ndarray) -> Iterator[tuple[int, int]]:
    """Links of a shortest way; of several the one over the lowest numbers."""
    while a != b:
        step = int(np.flatnonzero((distances[a] == 1) & (distances[:, b] == distances[a, b] - 1))[0])
        yield min(a, step), max(a, step)
        a = step


def _all(n_qubits: int, room: tuple[int, ...]) -> Iterator[np.ndarray]:
    """All assignments that fit."""
    assignment = np.zeros(n_qubits, dtype=int)

    def place(qubit: int, left: list[int]) -> Iterator[np.ndarray]:
        if qubit == n_qubits:
            yield assignment.copy()
            return
        for qpu, free in enumerate(left):
            if free:
                assignment[qubit] = qpu
                yield from place(qubit + 1, [size - (other == qpu) for other, size in enumerate(left)])

    return place(0, list(room))


def _search(problem: Problem, restarts: int, rng: np.random.Generator) -> np.ndarray:
    room = problem.capacities
    starts = [*_blocks(room, problem.interactions.n_qubits), _parts(problem)]
    starts += [_random(problem, rng) for _ in range(restarts)]
    best, total = min((improve(problem, start, rng) for start in starts), key=lambda found: found[1])
    for _ in range(restarts):
        if not total:
            break
        kept = rng.random(len(best)) < _KEPT
        loose = np.flatnonzero(~kept)
        disturbed = best.copy()
        seats = np.repeat(np.arange(len(room)), room - np.bincount(best[kept], minlength=len(room)))
        disturbed[loose] = rng.permutation(seats)[: len(loose)]
        other, cost = improve(problem, disturbed, rng)
        if cost <= total:
            best, total = other, cost
    return best


def _blocks(room: np.ndarray, n_qubits: int) -> Iterator[np.ndarray]:
    """Contiguous blocks that fill the QPUs in order, and by descending capacity."""
    for order in (np.arange(len(room)), np.argsort(-room, kind="stable")):
        yield np.repeat(order, room[order])[:n_qubits]


def _random(problem: Problem, rng: np.random.Generator) -> np.ndarray:
    seats = np.repeat(np.arange(len(problem.capacities)), problem.capacities)
    return rng.permutation(seats)[: problem.interactions.n_qubits]


def _parts(problem: Problem) -> np.ndarray:
    """Connected parts, the largest first, each on the fullest QPU with room for it, or else split along its Fiedler vector."""
    weights, left = problem.interactions.weights, problem.capacities.copy()
    assignment = np.full(len(weights), -1)
    for part in sorted(_connected(weights > 0), key=len, reverse=True):
        inner = weights[np.ix_(part, part)]
        _, vectors = np.linalg.eigh(np.diag(inner.sum(axis=0)) - inner)
        ordered = np.array(part)[np.argsort(vectors[:, min(1, len(part) - 1)], kind="stable")]
        while len(ordered):
            fits = np.flatnonzero(left >= len(ordered))
            qpu = int(fits[np.argmin(left[fits])]) if len(fits) else int(np.argmax(left))
            taken = min(int(left[qpu]), len(ordered))
            assignment[ordered[:taken]] = qpu
            left[qpu] -= taken
            ordered = ordered[taken:]
    return assignment


def _connected(near: np.ndarray) -> list[list[int]]:
    parts: list[list[int]] = []
    unseen = set(range(len(near)))
    while unseen:
        part = [min(unseen)]
        unseen.remove(part[0])
        for qubit in part:  # grows while it is read
            found = [int(other) for other in np.flatnonzero(near[qubit]) if other in unseen]
            part += found
            unseen.difference_update(found)
        parts.append(part)
    return parts
