"""In which order one kernel runs a plan: rounds, in each of which a few wires are local.

A thread holds the amplitudes of all settings of the local wires, so that their gates need no other thread; between rounds the
states go through memory, where a permutation costs nothing but other addresses. No device, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dqk.backends.batching import Diagonal, Matrices, Permutation, Plan, Step, slopes
from dqk.circuit import Circuit

Feature = tuple[int, ...]
"""Wires; its value at a basis state is the product of their bits, so 1 for no wires."""


@dataclass(eq=False)
class Round:
    """What happens between a load and a store.

    Attributes:
        local: the local wires.
        steps: matrices on local wires and diagonals on any, in order.
        moves: permutations, applied after the steps when states are stored.
    """

    local: tuple[int, ...] = ()
    steps: list[Matrices | Diagonal] = field(default_factory=list)
    moves: list[Permutation] = field(default_factory=list)


def rounds_of(steps: Sequence[Step], n_qubits: int, most: int) -> list[Round]:
    """Splits steps into rounds of at most so many local wires; steps on other wires may overtake each other.

    Args:
        steps: in the order in which they act.
        n_qubits: of the circuit.
        most: local wires, at least 2.
    """
    left, rounds = list(steps), list[Round]()
    while left or not rounds:
        chosen, local, blocked, later = Round(), set[int](), set[int](), list[Step]()
        for step in left:
            wires = set(step.wires)
            if wires & blocked:
                fits = False
            elif isinstance(step, Matrices):
                fits = len(local | wires) <= most
            else:
                fits = True
            if not fits:
                blocked |= wires
                later.append(step)
            elif isinstance(step, Permutation):
                blocked |= wires  # nothing else on these wires until the states are stored
                chosen.moves.append(step)
            else:
                chosen.steps.append(step)
                local |= wires if isinstance(step, Matrices) else set()
        spare = [wire for wire in range(n_qubits) if wire not in local]
        chosen.local = tuple(sorted([*local, *spare[: min(most, n_qubits) - len(local)]]))
        rounds.append(chosen)
        left = later
    return rounds


@dataclass(frozen=True)
class Affine:
    """An affine map of basis states over the field of two elements: the exclusive or of `offset` and a column for each set bit.

    Attributes:
        columns: image of each wire's bit, wire 0 first.
        offset: image of 0.
    """

    columns: tuple[int, ...]
    offset: int = 0


def destinations(moves: Sequence[Permutation], circuit: Circuit) -> Affine:
    """Where permutations put each basis state."""
    n = circuit.n_qubits
    columns, offset = [1 << (n - 1 - wire) for wire in range(n)], 0
    for position in [position for move in moves for position in move.gates]:
        gate = circuit.gates[position]
        bits = [n - 1 - wire for wire in gate.wires]
        if gate.name == "x":
            offset ^= 1 << bits[0]
            continue
        columns = [_moved(gate.name, bits, column) for column in columns]
        offset = _moved(gate.name, bits, offset)
    return Affine(tuple(columns), offset)


def _moved(name: str, bits: list[int], state: int) -> int:
    first, second = (state >> bit & 1 for bit in bits)
    if name == "cx":
        return state ^ first << bits[1]
    return state ^ (first ^ second) << bits[0] ^ (first ^ second) << bits[1]


def features_of(step: Diagonal, circuit: Circuit) -> list[Feature]:
    """The features of which the phases of a run are sums."""
    found: dict[Feature, None] = {}
    for position in step.gates:
        found.update(dict.fromkeys(gate_features(circuit, position)))
    return list(found)


def gate_features(circuit: Circuit, position: int) -> dict[Feature, float]:
    """A diagonal gate's slope as a sum of features with these factors; those of 0 are left out."""
    gate = circuit.gates[position]
    slope = slopes(gate)
    if len(gate.wires) == 1:
        found = {(): slope[0], gate.wires: slope[1] - slope[0]}
    else:
        first, second = gate.wires
        both = (min(first, second), max(first, second))
        found = {
            (): slope[0],
            (first,): slope[2] - slope[0],
            (second,): slope[1] - slope[0],
            both: slope[3] - slope[2] - slope[1] + slope[0],
        }
    return {feature: float(factor) for feature, factor in found.items() if factor}


def coefficients(plan: Plan) -> tuple[dict[int, dict[Feature, int]], list[tuple[int, int, float]]]:
    """Numbers the features of all diagonals of a plan.

    Returns:
        For each diagonal (by its place in `plan.steps`) the column of each feature; and triples (gate, column, factor): a column's
        coefficient is the sum of factor times angle of the gate.
    """
    columns: dict[int, dict[Feature, int]] = {}
    entries: list[tuple[int, int, float]] = []
    count = 0
    for place, step in enumerate(plan.steps):
        if isinstance(step, Diagonal):
            columns[place] = {feature: count + k for k, feature in enumerate(features_of(step, plan.circuit))}
            count += len(columns[place])
            for position in step.gates:
                for feature, factor in gate_features(plan.circuit, position).items():
                    entries.append((position, columns[place][feature], factor))
    return columns, entries
