"""Random circuits over the whole gate set, for tests that compare two ways of computing the same thing."""

from __future__ import annotations

import random

import numpy as np

from dqk.circuit import GATES, Circuit, Gate, Operand, unitary


def random_unitary(side: int, generator: np.random.Generator) -> np.ndarray:
    matrix = generator.normal(size=(side, side)) + 1j * generator.normal(size=(side, side))
    return np.linalg.qr(matrix)[0]


def random_circuit(seed: int, product: bool = False, most_gates: int = 40) -> Circuit:
    """Up to six qubits; every kind of gate and operand occurs, with both signs. `product`: one-qubit gates only."""
    pick, numbers = random.Random(seed), np.random.default_rng(seed)
    n = pick.randint(1, 6)
    names = [name for name, spec in GATES.items() if spec.n_wires <= (1 if product else n)] + ["unitary"]
    gates, columns = [], {"data": 0, "shared": 0}
    for _ in range(pick.randint(0, most_gates)):
        name = pick.choice(names)
        wires = 1 if product or n == 1 else pick.choice([1, 2])
        if name == "unitary":
            gates.append(unitary(random_unitary(2**wires, numbers), *pick.sample(range(n), wires)))
            continue
        operand = None
        if GATES[name].has_angle:
            kind = pick.choice(["constant", "data", "shared"])
            if kind == "constant":
                operand = Operand("constant", pick.uniform(-3, 3))
            else:
                operand = Operand(kind, pick.choice([1.0, -1.0]), columns[kind])
                columns[kind] += 1
        gates.append(Gate(name, tuple(pick.sample(range(n), GATES[name].n_wires)), operand))
    return Circuit(n, tuple(gates), columns["data"], columns["shared"])
