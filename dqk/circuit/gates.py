"""The gate set: matrices, generators and shift rules.

A parametrised gate is `exp(-i theta G)` with a Hermitian generator `G`; the differences of the eigenvalues of `G` are its
frequencies, which fix its parameter-shift rule (Wierichs et al., arXiv 2107.12390): {1} needs two shifts, {1/2, 1} four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_X = np.array([[0, 1], [1, 0]], dtype=complex)
_Y = np.array([[0, -1j], [1j, 0]])
_Z = np.diag([1.0 + 0j, -1.0])
_I = np.eye(2, dtype=complex)
_ONE = np.diag([0.0 + 0j, 1.0])  # |1><1|
_TWO_TERM = (1.0,)
_FOUR_TERM = (0.5, 1.0)


@dataclass(frozen=True, eq=False)
class GateSpec:
    """What is known about a gate name.

    Attributes:
        name: the name, in OpenQASM's spelling.
        n_wires: 1 or 2.
        generator: Hermitian `G` of shape (2**n_wires, 2**n_wires) with `U(theta) = exp(-i theta G)`; None if the gate has
            no angle.
        matrix: the unitary of a gate without an angle; None otherwise.
        frequencies: positive differences of the eigenvalues of the generator.
    """

    name: str
    n_wires: int
    generator: np.ndarray | None = None
    matrix: np.ndarray | None = None
    frequencies: tuple[float, ...] = ()

    @property
    def has_angle(self) -> bool:
        """Whether the gate takes an angle (in radians)."""
        return self.generator is not None


def _controlled(generator: np.ndarray) -> np.ndarray:
    return np.kron(_ONE, generator)


_SPECS = [
    GateSpec("h", 1, matrix=np.array([[1, 1], [1, -1]], dtype=complex) / np.sqrt(2)),
    GateSpec("x", 1, matrix=_X),
    GateSpec("cx", 2, matrix=np.eye(4, dtype=complex)[[0, 1, 3, 2]]),
    GateSpec("cz", 2, matrix=np.diag([1.0 + 0j, 1, 1, -1])),
    GateSpec("swap", 2, matrix=np.eye(4, dtype=complex)[[0, 2, 1, 3]]),
    GateSpec("rx", 1, generator=_X / 2, frequencies=_TWO_TERM),
    GateSpec("ry", 1, generator=_Y / 2, frequencies=_TWO_TERM),
    GateSpec("rz", 1, generator=_Z / 2, frequencies=_TWO_TERM),
    GateSpec("p", 1, generator=-_ONE, frequencies=_TWO_TERM),
    GateSpec("cp", 2, generator=-_controlled(_ONE), frequencies=_TWO_TERM),
    GateSpec("rxx", 2, generator=np.kron(_X, _X) / 2, frequencies=_TWO_TERM),
    GateSpec("ryy", 2, generator=np.kron(_Y, _Y) / 2, frequencies=_TWO_TERM),
    GateSpec("rzz", 2, generator=np.kron(_Z, _Z) / 2, frequencies=_TWO_TERM),
    GateSpec("crx", 2, generator=_controlled(_X / 2), frequencies=_FOUR_TERM),
    GateSpec("cry", 2, generator=_controlled(_Y / 2), frequencies=_FOUR_TERM),
    GateSpec("crz", 2, generator=_controlled(_Z / 2), frequencies=_FOUR_TERM),
]

GATES: dict[str, GateSpec] = {spec.name: spec for spec in _SPECS}
"""Every named gate. Constant unitaries on one or two wires have the name `unitary` and carry their matrix."""


def rotation(generator: np.ndarray, angle: float) -> np.ndarray:
    """`exp(-i angle G)` for a Hermitian generator, by its eigenvectors.

    Args:
        generator: Hermitian matrix `G`, shape (d, d).
        angle: in radians.

    Returns:
        The unitary, shape (d, d), complex128.
    """
    values, vectors = np.linalg.eigh(generator)
    return (vectors * np.exp(-1j * angle * values)) @ vectors.conj().T


def shift_rule(frequencies: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """The parameter-shift rule `f'(t) = sum_k c_k f(t + s_k)` of a gate with these frequencies.

    Args:
        frequencies: `(1.0,)` or `(0.5, 1.0)`, as a `GateSpec` declares them.

    Returns:
        Pairs (coefficient c_k, shift s_k in radians): two for `(1.0,)`, four for `(0.5, 1.0)`.

    References:
        Wierichs et al., "General parameter-shift rules for quantum gradients", arXiv 2107.12390, eq. (9) and (13).
    """
    if frequencies == _TWO_TERM:
        return ((0.5, np.pi / 2), (-0.5, -np.pi / 2))
    root = np.sqrt(2.0)
    # Equidistant frequencies {1/2, 1}: shifts pi/2 and 3 pi/2 of the angle.
    first, second = (root + 1) / (4 * root), (root - 1) / (4 * root)
    return ((first, np.pi / 2), (-first, -np.pi / 2), (-second, 3 * np.pi / 2), (second, -3 * np.pi / 2))
