"""What is a circuit: gates, angle columns, simplification and export. Imports no other part of dqk."""

from dqk.circuit.gates import GATES, shift_rule
from dqk.circuit.model import Circuit, Gate, Operand, constant, data, shared, unitary
from dqk.circuit.simplify import Removed, Simplification, simplify_for_fidelity

__all__ = [
    "GATES",
    "Circuit",
    "Gate",
    "Operand",
    "Removed",
    "Simplification",
    "constant",
    "data",
    "shared",
    "shift_rule",
    "simplify_for_fidelity",
    "unitary",
]
