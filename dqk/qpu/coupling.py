"""Which pairs of a device's qubits a gate can act on, and what a circuit takes there: swaps, counted or carried out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dqk.circuit import Circuit, Gate

COUPLINGS = ("all", "line", "ring", "grid")


def swaps(circuit: Circuit, coupling: str) -> int:
    """Swaps that bring the two qubits of every gate together and back, with qubit q of the circuit at place q of the device's line.

    A gate over a distance d needs 2 (d - 1) of them. A router that chooses places and leaves qubits where they are needs fewer:
    this is an upper bound that is cheap to know.

    Args:
        circuit: whose gates act on one or two qubits.
        coupling: one of `COUPLINGS`. The line goes through a grid row by row, back and forth; the grid is as square as can be.
    """
    pairs = [gate.wires for gate in circuit.gates if len(gate.wires) == 2]
    return sum(2 * (len(path(coupling, a, b, circuit.n_qubits)) - 2) for a, b in pairs)


def routed(circuit: Circuit, coupling: str) -> Circuit:
    """The same circuit with these swaps in it, each as three CNOTs: every gate acts on neighbours, and on errors as it has them."""
    return circuit if coupling == "all" else replace(circuit, gates=tuple(_routed(circuit, coupling)))


def _routed(circuit: Circuit, coupling: str) -> Iterator[Gate]:
    for gate in circuit.gates:
        if len(gate.wires) == 1:
            yield gate
            continue
        first, second = gate.wires
        places = path(coupling, first, second, circuit.n_qubits)
        there = list(zip(places, places[1:-1], strict=False))
        for pair in there:
            yield from _swap(*pair)
        yield replace(gate, wires=(places[-2], places[-1]))
        for pair in reversed(there):
            yield from _swap(*pair)


def _swap(a: int, b: int) -> Iterator[Gate]:
    for wires in ((a, b), (b, a), (a, b)):
        yield Gate("cx", wires)


def path(coupling: str, a: int, b: int, count: int) -> list[int]:
    """Places from a to b, both included, each beside the one before it.

    Args:
        coupling: one of `COUPLINGS`.
        a: a place.
        b: another one.
        count: of places.
    """
    if coupling == "all":
        return [a, b]
    if coupling == "line":
        return _steps(a, b)
    if coupling == "ring":
        if abs(a - b) <= count - abs(a - b):
            return _steps(a, b)
        return [place % count for place in (_steps(a, b + count) if a > b else _steps(a + count, b))]
    if a > b:  # along the upper row first, which has no gaps
        return path(coupling, b, a, count)[::-1]
    side = math.isqrt(max(1, count - 1)) + 1
    (r1, c1), (r2, c2) = (_cell(place, side) for place in (a, b))
    along = [_place(r1, column, side) for column in _steps(c1, c2)]
    return along + [_place(row, c2, side) for row in range(r1 + 1, r2 + 1)]


def _steps(a: int, b: int) -> list[int]:
    return list(range(a, b + 1)) if a <= b else list(range(a, b - 1, -1))


def _cell(place: int, side: int) -> tuple[int, int]:
    row, column = divmod(place, side)
    return row, side - 1 - column if row % 2 else column


def _place(row: int, column: int, side: int) -> int:
    return row * side + (side - 1 - column if row % 2 else column)
