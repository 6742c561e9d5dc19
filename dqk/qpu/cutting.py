"""Circuit cutting: running a wide circuit on QPUs without entanglement, and how many more shots that takes.

Choose it where QPUs have no quantum links; `wide` compares. A cut replaces a gate or a piece of wire by a sum of local
operations with coefficients of both signs (a quasi-probability); `gamma` is the sum of their magnitudes. Gammas of cuts multiply,
and an estimate from samples needs `gamma**2` times the shots for the same statistical error.

- Cut *gates*: the qubits stay where an assignment puts them. `gamma = 2 (sum u)^2 - 1` with u the operator-Schmidt coefficients,
  the least for a single gate (Schmitt, Piveteau & Sutter, arXiv 2312.11638): 3 for CX and CZ (`gamma**2 = 9`), `1 + 2 |sin t|` for
  RXX(t), RYY(t), RZZ(t), 7 for SWAP. The decomposition of Mitarai & Fujii (arXiv 1909.07534, 2006.11174) reaches it for rotations.
- Cut *wires*: a qubit is measured on one QPU and prepared on another one, which needs a qubit more for each cut. `gamma = 4`, so
  `gamma**2 = 16` (Peng et al., arXiv 1904.00102); this is what `qml.cut_circuit` does, see `_cutting`. With classical messages
  between QPUs during a shot 3 and 9 are possible, less for several at once (Brenner, Piveteau & Sutter, arXiv 2302.03366).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dqk.circuit import Circuit, Gate
from dqk.errors import InvalidInputError
from dqk.qpu.ebits import schmidt_coefficients
from dqk.qpu.partition import checked_capacities, partition

WIRE_GAMMA = 4.0


@dataclass(frozen=True)
class GateCuts:
    """All gates between QPUs are cut.

    Attributes:
        gates: their positions in the circuit.
        gamma_log10: logarithm of the product of their gammas.
    """

    gates: tuple[int, ...]
    gamma_log10: float


@dataclass(frozen=True)
class WireCuts:
    """Wires are cut where a gate on another QPU follows.

    Attributes:
        cuts: (position of a gate, wire): the wire is cut before the gate.
        widths: qubits of each fragment, one for each piece of wire.
        circuits: that tell all about the fragments: for each four preparations to the power of the wires that come in, and three
            measurements to the power of those that go out. As many run for one value, each with shots of its own.
        gamma_log10: logarithm of 4 to the power of the cuts.
    """

    cuts: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    circuits: int
    gamma_log10: float


def gamma(gate: Gate, angle: float | None = None) -> float:
    """Sum of the magnitudes of the coefficients that replace a two-qubit gate.

    Args:
        gate: on two qubits.
        angle: in radians, of a data or shared column; None for the angle that is worst.

    Example:
        >>> from dqk.circuit import constant
        >>> gamma(Gate("cx", (0, 1)))
        3.0
        >>> print(round(gamma(Gate("rzz", (0, 1), constant(0.1))), 6), round(1 + 2 * math.sin(0.1), 6))
        1.199667 1.199667
    """
    if gate.operand is not None and gate.operand.kind != "constant" and angle is None:
        return 3.0  # these gates have rank 2, and equal coefficients at the worst angle
    return round(2 * float(schmidt_coefficients(gate.unitary(angle)).sum()) ** 2 - 1, 12)


def cut_gates(
    circuit: Circuit,
    assignment: Sequence[int],
    data: Sequence[float] | None = None,
    shared: Sequence[float] | None = None,
) -> GateCuts:
    """The gates that an assignment separates.

    Args:
        circuit: as it is run.
        assignment: number of each qubit's QPU.
        data: angles of the data columns, shape (A_d,); None for the worst ones.
        shared: angles of the shared columns, shape (A_s,); None for the worst ones.
    """
    known = {"data": data, "shared": shared}
    gates, total = [], 0.0
    for index, gate in enumerate(circuit.gates):
        if len(gate.wires) < 2 or assignment[gate.wires[0]] == assignment[gate.wires[1]]:
            continue
        columns = None if gate.operand is None else known.get(gate.operand.kind)
        each = gamma(gate, None if columns is None else float(columns[gate.operand.column]))  # type: ignore[union-attr]
        if each > 1:
            gates.append(index)
            total += math.log10(each)
    return GateCuts(tuple(gates), total)


def cut_wires(circuit: Circuit, capacities: Sequence[int], *, seed: int = 0) -> WireCuts | None:
    """Places to cut wires so that every fragment fits a QPU, few if possible.

    Partitions that leave room for the qubits that cuts add are tried; each gate between QPUs goes to the side with fewer cuts.

    Args:
        circuit: as it is run.
        capacities: qubits that each QPU has; fragments need none for e-bits.
        seed: of the partitions.

    Returns:
        None if no such places were found, as always where the QPUs together have fewer qubits than the circuit and its cuts.
    """
    room = checked_capacities(circuit, capacities)
    best: WireCuts | None = None
    for spared in range(max(room)):
        smaller = [max(0, size - spared) for size in room]
        if sum(smaller) < circuit.n_qubits:
            break
        homes = partition(circuit, smaller, restarts=4, seed=seed).assignment
        for found in _plans(circuit, homes, room):
            if best is None or (found.gamma_log10, found.circuits) < (best.gamma_log10, best.circuits):
                best = found
    return best


def fragments(circuit: Circuit, cuts: Sequence[tuple[int, int]]) -> WireCuts:
    """What certain cuts lead to.

    Args:
        circuit: as it is run.
        cuts: (position of a gate, wire): before that gate.

    Raises:
        InvalidInputError: if a cut is at no gate of its wire, or at its first.
    """
    segment = list(range(circuit.n_qubits))  # that each wire is in now
    members = list(range(circuit.n_qubits))  # a forest: segments point towards the one that stands for their fragment
    incoming, outgoing = defaultdict[int, int](int), defaultdict[int, int](int)
    touched: set[int] = set()
    wanted = set(cuts)

    def root(node: int) -> int:
        while members[node] != node:
            node = members[node]
        return node

    for index, gate in enumerate(circuit.gates):
        for wire in gate.wires:
            if (index, wire) in wanted and wire in touched:
                wanted.remove((index, wire))
                outgoing[segment[wire]] += 1
                segment[wire] = len(members)
                members.append(len(members))
                incoming[segment[wire]] += 1
            touched.add(wire)
        for wire in gate.wires[1:]:
            members[root(segment[wire])] = root(segment[gate.wires[0]])
    if wanted:
        raise InvalidInputError(
            f"cuts {sorted(wanted)}, expected pairs (position of a gate, one of its wires) with a gate on that wire before"
        )
    groups = defaultdict[int, list[int]](list)
    for node in range(len(members)):
        groups[root(node)].append(node)
    circuits = sum(
        4 ** sum(incoming[s] for s in group) * 3 ** sum(outgoing[s] for s in group) for group in groups.values()
    )
    widths = tuple(len(group) for group in groups.values())
    return WireCuts(tuple(sorted(set(cuts))), widths, circuits, len(set(cuts)) * math.log10(WIRE_GAMMA))


def _plans(circuit: Circuit, homes: Sequence[int], room: tuple[int, ...]) -> list[WireCuts]:
    """Cuts for an assignment, those whose fragments fit."""
    gates: dict[int, tuple[int, ...]] = {
        index: gate.wires for index, gate in enumerate(circuit.gates) if len(gate.wires) == 2
    }
    plans = []
    for prefer in (min, max):
        places = {index: prefer(homes[wires[0]], homes[wires[1]]) for index, wires in gates.items()}
        _settle(gates, homes, places)
        cuts = _changes(gates, places)
        found = fragments(circuit, cuts)
        if _fits(found.widths, room):
            plans.append(found)
    return plans


def _settle(gates: dict[int, tuple[int, ...]], homes: Sequence[int], places: dict[int, int]) -> None:
    """Moves gates between QPUs to the other side as long as that saves cuts."""
    neighbours = defaultdict[int, list[int]](list)  # the gates before and after it on its wires
    latest: dict[int, int] = {}
    for index, wires in gates.items():
        for wire in wires:
            if wire in latest:
                neighbours[index].append(latest[wire])
                neighbours[latest[wire]].append(index)
            latest[wire] = index
    moved = True
    while moved:
        moved = False
        for index, wires in gates.items():
            here = places[index]
            there = homes[wires[0]] + homes[wires[1]] - here
            saved = sum((places[n] == there) - (places[n] == here) for n in neighbours[index])
            if there != here and saved > 0:
                places[index], moved = there, True


def _changes(gates: dict[int, tuple[int, ...]], places: dict[int, int]) -> list[tuple[int, int]]:
    latest: dict[int, int] = {}
    cuts = []
    for index, wires in gates.items():
        for wire in wires:
            if latest.setdefault(wire, places[index]) != places[index]:
                cuts.append((index, wire))
                latest[wire] = places[index]
    return cuts


def _fits(widths: Sequence[int], room: Sequence[int]) -> bool:
    """Whether each fragment fits some QPU; they run one after another where there are more fragments than QPUs."""
    return max(widths) <= max(room)
