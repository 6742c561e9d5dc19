"""How many e-bits (entangled pairs) a circuit needs once its qubits are assigned to QPUs.

Choose it to price an assignment; `partition` finds one. What is counted (cat-entanglement, Eisert et al., quant-ph/0005101, and
Yimsiriwattana & Lomonaco, quant-ph/0402148; the distribution problem is that of arXiv 2408.01424):

- A two-qubit gate that commutes with a Pauli P of one of its qubits is controlled by that qubit in the basis of P. One e-bit shares
  the qubit in that basis with another QPU, where the gate is then local. CX is controlled by Z of the one and X of the other qubit,
  so either of them may be shared; CZ, CP, CRZ, RZZ by both Z, RXX by both X, CRX by Z and X, and so on.
- A share serves all gates with qubits of that QPU until something acts on the shared qubit that does not commute with P (of
  constant one-qubit gates those that anticommute do, too: X flips both copies). Such gates are a *packet*, which costs one e-bit.
- A gate of operator-Schmidt rank above 2, such as SWAP, costs two: its first qubit is teleported there and back.
- Each non-local gate needs one of its two packets. Those of a pair of QPUs form a bipartite graph, so the fewest are its
  minimum vertex cover, as large as its maximum matching (König; arXiv 2212.12688 for two QPUs). The count is therefore
  the least for the assignment, as long as gates keep their order, shares start from the qubit itself and no qubit moves for good.
  (Letting shares outlive gates that do not commute, "embedding" in arXiv 2212.12688, could save more.)
- QPUs without a link of their own swap entanglement on the way: an e-bit over h links counts h.

The qubits that hold e-bits come on top of a QPU's capacity.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dqk.circuit import Circuit, Gate, data
from dqk.circuit.simplify import commute

_PAULIS = {"x": np.array([[0, 1], [1, 0]]), "y": np.array([[0, -1j], [1j, 0]]), "z": np.diag([1, -1])}
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Interactions:
    """The gates of a circuit that can need e-bits, and how they may share them.

    Attributes:
        n_qubits: of the circuit.
        wires: of the gates that are controlled by both of their qubits, shape (G, 2).
        packets: number of the packet of each of the two, shape (G, 2).
        roots: the qubit that a packet shares, shape (P,).
        heavy: wires of the gates that cost two e-bits, shape (H, 2).
    """

    n_qubits: int
    wires: np.ndarray
    packets: np.ndarray
    roots: np.ndarray
    heavy: np.ndarray

    @classmethod
    def of(cls, circuit: Circuit) -> Interactions:
        """Those of a circuit, for all values of its angles. Gates that are products of one-qubit gates need nothing."""
        wires: list[tuple[int, ...]] = []
        packets: list[list[int]] = []
        heavy: list[tuple[int, ...]] = []
        roots: list[int] = []
        numbers: dict[tuple[int, str, int], int] = {}
        ended: dict[tuple[int, str], int] = defaultdict(int)  # how many shares of a qubit in a basis have ended so far

        def packet(gate: int, wire: int, basis: str | None) -> int:
            # A basis that is none of the Paulis makes a packet of this gate alone.
            key = (wire, "", gate) if basis is None else (wire, basis, ended[wire, basis])
            if key not in numbers:
                numbers[key] = len(roots)
                roots.append(wire)
            return numbers[key]

        for index, gate in enumerate(circuit.gates):
            kind = _kind(replace(gate, wires=tuple(range(len(gate.wires)))))
            for wire, kept in zip(gate.wires, kind.kept, strict=True):
                for basis in _PAULIS.keys() - kept:
                    ended[wire, basis] += 1
            if kind.rank == 2:
                wires.append(gate.wires)
                packets.append([packet(index, wire, basis) for wire, basis in zip(gate.wires, kind.bases, strict=True)])
            elif kind.rank > 2:
                heavy.append(gate.wires)
        rows = [np.array(pairs, dtype=int).reshape(-1, 2) for pairs in (wires, packets, heavy)]
        return cls(circuit.n_qubits, rows[0], rows[1], np.array(roots, dtype=int), rows[2])

    @property
    def weights(self) -> np.ndarray:
        """How many e-bits two qubits need apart if nothing is shared: symmetric, shape (n, n)."""
        found = np.zeros((self.n_qubits, self.n_qubits), dtype=int)
        for rows, each in ((self.wires, 1), (self.heavy, 2)):
            np.add.at(found, (rows[:, 0], rows[:, 1]), each)
        return found + found.T


@dataclass(frozen=True)
class EBits:
    """What an assignment costs.

    Attributes:
        total: e-bits, each counted once for every link on its way.
        between: e-bits of each pair of QPUs, whatever the way: symmetric, shape (k, k).
        nonlocal_gates: gates between QPUs; without sharing each would cost one e-bit, or two (SWAP).
        shared: the packets that e-bits are spent on, as pairs (packet, QPU that it is shared with).
    """

    total: int
    between: np.ndarray
    nonlocal_gates: int
    shared: frozenset[tuple[int, int]]


def count_ebits(interactions: Interactions, assignment: np.ndarray, hops: np.ndarray) -> EBits:
    """The fewest e-bits for an assignment.

    Args:
        interactions: those of the circuit.
        assignment: QPU of each qubit, shape (n,).
        hops: links between two QPUs, shape (k, k), 0 on the diagonal.
    """
    between = np.zeros(hops.shape, dtype=int)
    homes = assignment[interactions.wires]
    apart = np.flatnonzero(homes[:, 0] != homes[:, 1])
    pairs: dict[tuple[int, int], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for (a, b), (p, q) in zip(homes[apart].tolist(), interactions.packets[apart].tolist(), strict=True):
        left, right = (p, q) if a < b else (q, p)  # left: shared by the QPU of the lower number
        pairs[min(a, b), max(a, b)][left].add(right)
    shared = set()
    for (a, b), edges in pairs.items():
        lefts, rights = vertex_cover(edges)
        between[a, b] += len(lefts) + len(rights)
        shared |= {(packet, b) for packet in lefts} | {(packet, a) for packet in rights}
    heavy = assignment[interactions.heavy]
    heavy = np.sort(heavy[heavy[:, 0] != heavy[:, 1]], axis=1)
    np.add.at(between, (heavy[:, 0], heavy[:, 1]), 2)
    total = int((between * hops).sum())
    return EBits(total, between + between.T, len(apart) + len(heavy), frozenset(shared))


def vertex_cover(edges: dict[int, set[int]]) -> tuple[set[int], set[int]]:
    """A smallest set of left and right vertices that touches every edge of a bipartite graph, by König's theorem.

    Args:
        edges: the right vertices that each left vertex is joined with.
    """
    partner: dict[int, int] = {}  # of a right vertex
    matched: dict[int, int] = {}  # of a left vertex
    neighbours = {left: sorted(rights) for left, rights in edges.items()}
    for start in neighbours:
        _augment(start, neighbours, matched, partner)
    # What alternating paths from unmatched left vertices reach.
    reached, seen = deque(left for left in neighbours if left not in matched), set[int]()
    lefts = set(reached)
    while reached:
        for right in neighbours[reached.popleft()]:
            if right not in seen:
                seen.add(right)
                if partner[right] not in lefts:
                    lefts.add(partner[right])
                    reached.append(partner[right])
    return set(neighbours) - lefts, seen


def _augment(start: int, neighbours: dict[int, list[int]], matched: dict[int, int], partner: dict[int, int]) -> None:
    """Matches one more left vertex if it can be, along a shortest alternating path."""
    came: dict[int, int] = {}  # to a right vertex from a left one
    queue = deque([start])
    while queue:
        left = queue.popleft()
        for right in neighbours[left]:
            if right in came:
                continue
            came[right] = left
            if right in partner:
                queue.append(partner[right])
                continue
            end: int | None = right
            while end is not None:
                left = came[end]
                following = matched.get(left)
                partner[end], matched[left] = left, end
                end = following if left != start else None
            return


@dataclass(frozen=True)
class _Kind:
    rank: int  # operator-Schmidt rank; 1 for gates on one qubit
    kept: tuple[frozenset[str], ...]  # of each wire: the bases whose shares survive the gate
    bases: tuple[str | None, ...]  # of each wire: the basis in which it controls the gate


@lru_cache(maxsize=4096)
def _kind(gate: Gate) -> _Kind:
    kept = [frozenset(basis for basis in _PAULIS if _keeps(gate, wire, basis)) for wire in gate.wires]
    if len(gate.wires) == 1:
        return _Kind(1, tuple(kept), ())
    variable = gate.operand is not None and gate.operand.kind != "constant"
    rank = int(np.sum(schmidt_coefficients(gate.unitary(1.0) if variable else gate.unitary()) > _TOLERANCE))
    return _Kind(rank, tuple(kept), tuple(min(bases, default=None) for bases in kept))


def _keeps(gate: Gate, wire: int, basis: str) -> bool:
    if commute(gate, Gate(f"r{basis}", (wire,), data(0))):
        return True
    if len(gate.wires) > 1 or (gate.operand is not None and gate.operand.kind != "constant"):
        return False
    matrix, pauli = gate.unitary(), _PAULIS[basis]
    return bool(np.abs(matrix @ pauli + pauli @ matrix).max() < _TOLERANCE)


def schmidt_coefficients(matrix: np.ndarray) -> np.ndarray:
    """Operator-Schmidt coefficients of a two-qubit unitary, shape (4,), descending; their squares add up to 1."""
    shuffled = matrix.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    return np.linalg.svd(shuffled, compute_uv=False) / 2
