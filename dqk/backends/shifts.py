"""Shift rules: the derivatives of k(x, y) by every angle from kernel values at shifted angles, and nothing else.

Choose them on quantum processors, which give no states to sweep back through. All shifts of all entries are known before the
first of them runs, so they go out as one batch; an exact simulator has a gradient for the price of about three values instead.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from dqk.circuit import Circuit, shift_rule, simplify_for_fidelity
from dqk.circuit.simplify import commute
from dqk.errors import unknown_name

WHICH = ("left", "right", "shared")
_Array = TypeVar("_Array")


class Jacobian(NamedTuple, Generic[_Array]):
    """Derivatives of entries k(x, y), or their standard errors.

    Attributes:
        left: by the data angles of x, shape (..., A_d).
        right: by the data angles of y, shape (..., A_d).
        shared: by the shared angles, which count both in U(x) and in U(y), shape (..., A_s).
    """

    left: _Array
    right: _Array
    shared: _Array


@dataclass(frozen=True, eq=False)
class ShiftTerms:
    """The circuits that one entry's derivatives take, and how their values add up.

    Attributes:
        circuit: U with a data column for every angle, see `shared_as_data`: rows of angles have A = A_d + A_s columns.
        left: what each term adds to the angles of x, shape (T, A), radians.
        right: what each term adds to the angles of y, shape (T, A).
        weights: how each term's value enters each derivative, shape (T, 2 A_d + A_s): by x, by y, by shared angles.
        n_data: A_d.
        rules: how many angles there are for each length of the rule.
    """

    circuit: Circuit
    left: np.ndarray
    right: np.ndarray
    weights: np.ndarray
    n_data: int
    rules: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        """T, the number of circuits for each entry."""
        return len(self.weights)

    def __str__(self) -> str:
        names = {2: "two-term", 4: "four-term"}
        parts = [f"{length} x {count} {names[length]}" for length, count in self.rules]
        return f"{' and '.join(parts) or 'no'} shifts: {len(self)} circuits an entry"

    def shifted(self, left: np.ndarray, right: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of angles to run `circuit` with, without shared angles.

        Args:
            left: data angles of x, shape (P, A_d).
            right: data angles of y, shape (P, A_d).
            shared: shared angles, shape (A_s,).

        Returns:
            Angles of x and of y, both of shape (P * T, A), float64; the terms of an entry follow each other.
        """
        return self._moved(left, shared, self.left), self._moved(right, shared, self.right)

    def jacobian(self, values: np.ndarray, n_entries: int) -> Jacobian[np.ndarray]:
        """Derivatives of P entries from the values of their P * T rows."""
        return self._split(values.reshape(n_entries, len(self)) @ self.weights)

    def std_error(self, variances: np.ndarray, n_entries: int) -> Jacobian[np.ndarray]:
        """Standard errors of the derivatives from the variances of the P * T values, which are independent."""
        return self._split(np.sqrt(variances.reshape(n_entries, len(self)) @ self.weights**2))

    def _moved(self, rows: np.ndarray, shared: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        return (with_shared(rows, shared)[:, None] + shifts).reshape(len(rows) * len(self), shifts.shape[1])

    def _split(self, derivatives: np.ndarray) -> Jacobian[np.ndarray]:
        return Jacobian(*np.split(derivatives, (self.n_data, 2 * self.n_data), axis=1))


def shared_as_data(circuit: Circuit) -> Circuit:
    """The circuit with shared column k as data column A_d + k: U(x) and U(y) may then differ in it."""
    gates = tuple(
        replace(gate, operand=replace(gate.operand, kind="data", column=circuit.n_data + gate.operand.column))
        if gate.operand is not None and gate.operand.kind == "shared"
        else gate
        for gate in circuit.gates
    )
    return Circuit(circuit.n_qubits, gates, circuit.n_data + circuit.n_shared)


def with_shared(rows: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Rows for `shared_as_data`: each row of data angles (P, A_d) followed by the shared ones. Shape (P, A), float64."""
    return np.hstack([rows, np.broadcast_to(shared, (len(rows), len(shared)))]).astype(np.float64, copy=False)


@lru_cache(maxsize=64)
def shift_terms(circuit: Circuit, which: tuple[str, ...] = WHICH) -> ShiftTerms:
    """The shifts that give an entry's derivatives.

    Each occurrence of an angle is shifted by itself. Shifting a shared angle in U(x) and U(y) at once, as arXiv 2411.13225
    eq. (9) and (10) read literally, would be wrong. A data gate that commutes with every later one meets its counterpart
    in U(y)^dagger, so that k depends on the difference of the two angles: one rule serves both.

    Args:
        circuit: a simplified circuit.
        which: the derivatives that are wanted, out of `left`, `right` and `shared`; the others come out as zero.

    Returns:
        The terms; none if no wanted angle occurs in the circuit.

    References:
        Wierichs et al., "General parameter-shift rules for quantum gradients", arXiv 2107.12390, eq. (9) and (13).

    Example:
        >>> from dqk.circuit import simplify_for_fidelity
        >>> from dqk.kernels.feature_maps import bsp_feature_map
        >>> print(shift_terms(simplify_for_fidelity(bsp_feature_map(2).circuit).circuit))
        2 x 10 two-term shifts: 20 circuits an entry
    """
    for name in which:
        if name not in WHICH:
            raise unknown_name("derivative", name, WHICH)
    wide, n_data = shared_as_data(circuit), circuit.n_data
    offsets = {"left": 0, "right": n_data, "shared": n_data}  # shared columns of `wide` start at n_data
    found: list[tuple[int, int, float, dict[int, float]]] = []  # (side, column, shift, weight of each derivative)
    rules: Counter[int] = Counter()
    for position, gate in enumerate(wide.gates):
        if not gate.is_data:
            continue
        column = gate.operand.column  # type: ignore[union-attr]
        if column >= n_data:
            groups = [[("shared", 0, 1.0)], [("shared", 1, 1.0)]] if "shared" in which else []
        else:
            groups = [[(name, side, 1.0)] for side, name in enumerate(WHICH[:2]) if name in which]
            if len(groups) == 2 and all(commute(gate, later) for later in wide.gates[position + 1 :]):
                groups = [[("left", 0, 1.0), ("right", 0, -1.0)]]
        rule = shift_rule(gate.frequencies)
        for group in groups:
            rules[len(rule)] += 1
            for coefficient, shift in rule:
                weights = {offsets[name] + column: sign * coefficient for name, _, sign in group}
                found.append((group[0][1], column, shift, weights))
    shifts = np.zeros((2, len(found), wide.n_data))
    weights_of = np.zeros((len(found), 2 * n_data + circuit.n_shared))
    for term, (side, column, shift, weights) in enumerate(found):
        shifts[side, term, column] = shift
        for derivative, weight in weights.items():
            weights_of[term, derivative] = weight
    for array in (shifts, weights_of):
        array.flags.writeable = False
    return ShiftTerms(wide, shifts[0], shifts[1], weights_of, n_data, tuple(sorted(rules.items())))


def circuits_for_gradient(circuit: Circuit, n_entries: int, which: tuple[str, ...] = WHICH) -> int:
    """How many circuits the derivatives of so many entries take, beside the circuits for the entries themselves."""
    return n_entries * len(shift_terms(simplify_for_fidelity(circuit).circuit, which))
