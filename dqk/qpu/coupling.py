"""Which pairs of a device's qubits a gate can act on, and how many swaps a circuit needs there."""

from __future__ import annotations

import math

from dqk.circuit import Circuit

COUPLINGS = ("all", "line", "ring", "grid")


def swaps(circuit: Circuit, coupling: str) -> int:
    """Swaps that bring the two qubits of every gate together and back, with qubit q of the circuit at place q of the device's line.

    A gate over a distance d needs 2 (d - 1) of them. A router that chooses places and leaves qubits where they are needs fewer:
    this is an upper bound that is cheap to know.

    Args:
        circuit: whose gates act on one or two qubits.
        coupling: one of `COUPLINGS`. The line goes through a grid row by row, back and forth; the grid is as square as can be.
    """
    count = circuit.n_qubits
    side = math.isqrt(max(1, count - 1)) + 1
    pairs = [gate.wires for gate in circuit.gates if len(gate.wires) == 2]
    return sum(2 * (_distance(coupling, a, b, count, side) - 1) for a, b in pairs)


def _distance(coupling: str, a: int, b: int, count: int, side: int) -> int:
    if coupling == "all":
        return 1
    if coupling == "line":
        return abs(a - b)
    if coupling == "ring":
        return min(abs(a - b), count - abs(a - b))
    (r1, c1), (r2, c2) = ((p // side, side - 1 - p % side if (p // side) % 2 else p % side) for p in (a, b))
    return abs(r1 - r2) + abs(c1 - c2)
