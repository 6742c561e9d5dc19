"""Improving an assignment of qubits to QPUs by moving one qubit after another (Fiduccia & Mattheyses, DAC 1982).

Used by `partition`. The cost that moves are chosen by is that of a *hypergraph*: each edge is a qubit (its root) with the qubits
of the gates that share it, and costs one e-bit for each foreign QPU that it reaches. With one edge per gate that is the weight
of the cut; with one per packet it is the number of e-bits as long as each gate keeps to the root that it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dqk.qpu.ebits import EBits, Interactions, count_ebits


@dataclass(frozen=True)
class Problem:
    """What an assignment is for.

    Attributes:
        interactions: of the circuit.
        capacities: qubits that each QPU has room for, shape (k,).
        hops: links between two QPUs, shape (k, k).
    """

    interactions: Interactions
    capacities: np.ndarray
    hops: np.ndarray

    def ebits(self, assignment: np.ndarray) -> EBits:
        """What it costs."""
        return count_ebits(self.interactions, assignment, self.hops)

    @cached_property
    def cut(self) -> Hypergraph:
        """An edge for each two qubits with gates."""
        first, second = np.nonzero(np.triu(self.interactions.weights))
        return Hypergraph(first, self.interactions.weights[first, second], np.arange(len(first)), second)

    def packed(self, assignment: np.ndarray, found: EBits) -> Hypergraph:
        """An edge for each packet, as they are used now: its cost here is that of `found`, elsewhere at least the true one."""
        gates, homes = self.interactions, assignment[self.interactions.wires]
        sizes = np.bincount(gates.packets.ravel(), minlength=len(gates.roots))
        used = {packet for packet, _ in found.shared}
        chosen, others = [], []
        for row, (p, q), (a, b) in zip(gates.wires.tolist(), gates.packets.tolist(), homes.tolist(), strict=True):
            if a != b:
                first = (p, b) in found.shared
            else:  # free to choose: with what is shared anyway, then with what more gates can share
                first = (p in used, sizes[p]) >= (q in used, sizes[q])
            chosen.append(p if first else q)
            others.append(row[1] if first else row[0])
        edges, pin_edges = np.unique(np.array(chosen, dtype=int), return_inverse=True)
        pins = np.unique(np.stack([pin_edges, np.array(others, dtype=int)]), axis=1)
        n, h = len(edges), len(gates.heavy)
        return Hypergraph(
            np.concatenate([gates.roots[edges], gates.heavy[:, 0]]),
            np.concatenate([np.ones(n, dtype=int), np.full(h, 2)]),
            np.concatenate([pins[0], n + np.arange(h)]),
            np.concatenate([pins[1], gates.heavy[:, 1]]),
        )


@dataclass(frozen=True)
class Hypergraph:
    """Edges with a root.

    Attributes:
        roots: qubit of each edge, shape (E,).
        weights: e-bits for each foreign QPU that an edge reaches, shape (E,).
        pin_edges: edge of each of its other ends, shape (M,).
        pins: qubit there, shape (M,); none occurs twice in an edge.
    """

    roots: np.ndarray
    weights: np.ndarray
    pin_edges: np.ndarray
    pins: np.ndarray

    def counts(self, assignment: np.ndarray, n_qpus: int) -> np.ndarray:
        """Ends of each edge on each QPU without the root, shape (E, k)."""
        found = np.zeros((len(self.roots), n_qpus), dtype=int)
        np.add.at(found, (self.pin_edges, assignment[self.pins]), 1)
        return found

    def gains(self, assignment: np.ndarray, counts: np.ndarray, hops: np.ndarray) -> np.ndarray:
        """What moving a qubit to a QPU saves, shape (n, k); 0 where it is."""
        root_homes = assignment[self.roots]
        by_home = ((counts > 0) @ hops) * self.weights[:, None]  # an edge's cost if its root were there, (E, k)
        saved = np.zeros((len(assignment), len(hops)), dtype=int)
        np.add.at(saved, self.roots, by_home[np.arange(len(root_homes)), root_homes][:, None] - by_home)
        reach = hops[root_homes] * self.weights[:, None]  # cost of reaching a QPU, (E, k)
        at, homes = self.pin_edges, assignment[self.pins]
        left = reach[at, homes] * (counts[at, homes] == 1)
        np.add.at(saved, self.pins, left[:, None] - reach[at] * (counts[at] == 0))
        saved[np.arange(len(assignment)), assignment] = 0
        return saved


def improve(problem: Problem, assignment: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Moves qubits until it helps no more; the number of e-bits never grows.

    First by the weight of the cut; then by packets: fix the cheapest packets of an assignment, move qubits for them, look for
    the cheapest packets again.

    Args:
        problem: what the assignment is for.
        assignment: one that fits, shape (n,).
        rng: for ties.

    Returns:
        The assignment and its e-bits.
    """
    best, found = assignment, problem.ebits(assignment)
    moved = _descend(problem, problem.cut, assignment, rng)
    if (cost := problem.ebits(moved)).total <= found.total:
        best, found = moved, cost
    while True:
        moved = _descend(problem, problem.packed(best, found), best, rng)
        cost = problem.ebits(moved)
        if cost.total >= found.total:
            return _exchanged(problem, best, found.total)
        best, found = moved, cost


def _exchanged(problem: Problem, assignment: np.ndarray, total: int) -> tuple[np.ndarray, int]:
    """Exchanges all qubits of two QPUs wherever that saves e-bits, which no move of one qubit shows."""
    k = len(problem.capacities)
    loads = np.bincount(assignment, minlength=k)
    for a in range(k):
        for b in range(a + 1, k):
            if loads[a] > problem.capacities[b] or loads[b] > problem.capacities[a]:
                continue
            order = np.arange(k)
            order[[a, b]] = b, a
            if (cost := problem.ebits(order[assignment]).total) < total:
                return _exchanged(problem, order[assignment], cost)
    return assignment, total


def _descend(problem: Problem, graph: Hypergraph, assignment: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    saved = 1
    while saved > 0:
        assignment, saved = _sweep(problem, graph, assignment, rng)
    return assignment


def _sweep(
    problem: Problem, graph: Hypergraph, assignment: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Moves each qubit once, the best first even if it costs, and keeps the best assignment on the way.

    One QPU at a time may have one qubit too many, so that qubits can change places; those assignments are not kept.
    """
    capacities, hops = problem.capacities, problem.hops
    current, best, saved, most = assignment.copy(), assignment, 0, 0
    counts = graph.counts(current, len(hops))
    loads = np.bincount(current, minlength=len(hops))
    free = np.ones(len(current), dtype=bool)
    while free.any():
        over = np.flatnonzero(loads > capacities)
        room = loads < capacities if len(over) else (loads <= capacities) & (capacities > 0)
        allowed = free[:, None] & room[None, :]
        allowed[np.arange(len(current)), current] = False
        if len(over):
            allowed &= (current == over[0])[:, None]
        if not allowed.any():
            break
        gains = graph.gains(current, counts, hops)
        # Ties are broken at random: gains are whole numbers.
        qubit, target = np.unravel_index(
            np.argmax(np.where(allowed, gains + rng.random(gains.shape) / 2, -np.inf)), gains.shape
        )
        ends = graph.pin_edges[graph.pins == qubit]
        counts[ends, current[qubit]] -= 1
        counts[ends, target] += 1
        loads[current[qubit]] -= 1
        loads[target] += 1
        saved += int(gains[qubit, target])
        current[qubit] = target
        free[qubit] = False
        if saved > most and (loads <= capacities).all():
            best, most = current.copy(), saved
    return best, most
