"""The feature maps that come with dqk. Angles are in radians; qubit j reads feature j unless said otherwise.

With `encoding="same"` both rotations of a qubit read one feature and `k(0, pi) = 1`: keep data within (-pi/2, pi/2).
`encoding="pair"` gives qubit j the features 2j and 2j + 1.

Every map takes any kind of integer and real number for its sizes and factors (NumPy's, too), and raises `InvalidInputError`
for values and names that it does not know, `MemoryBoundError` if its gates do not fit into memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Literal

from dqk._resources import require_memory
from dqk.circuit import Circuit, Gate, data, shared
from dqk.errors import real_number, unknown_name, whole_number
from dqk.kernels.feature_map import Angle, FeatureMap

Encoding = Literal["same", "pair"]


_GATE_BYTES = 400  # a gate with its operand and its declared angle


class _Builder:
    """Collects gates and declared angles, one data column per gate occurrence.

    Args:
        n_qubits: number of qubits.
        n_gates: how many gates there will be, about.

    Raises:
        MemoryBoundError: if they do not fit into memory.
    """

    def __init__(self, n_qubits: int, n_gates: int):
        require_memory(n_gates * _GATE_BYTES, f"the {n_gates:,} gates of a feature map on {n_qubits:,} qubits")
        self.n_qubits = n_qubits
        self.gates: list[Gate] = []
        self.angles: list[Angle] = []
        self.n_shared = 0

    def fixed(self, name: str, *wires: int) -> None:
        self.gates.append(Gate(name, wires))

    def hadamards(self) -> None:
        for qubit in range(self.n_qubits):
            self.fixed("h", qubit)

    def chain(self) -> None:
        for qubit in range(self.n_qubits - 1):
            self.fixed("cx", qubit, qubit + 1)

    def encode(self, name: str, wires: tuple[int, ...], angle: Angle) -> None:
        self.gates.append(Gate(name, wires, data(len(self.angles))))
        self.angles.append(angle)

    def trainable(self, name: str, wire: int) -> None:
        self.gates.append(Gate(name, (wire,), shared(self.n_shared)))
        self.n_shared += 1

    def build(self, name: str, n_features: int, bandwidth: float, n_scales: int = 0) -> FeatureMap:
        circuit = Circuit(self.n_qubits, tuple(self.gates), len(self.angles), self.n_shared)
        n_params = n_scales or self.n_shared
        kind: Literal["scale", "rotations"] = "rotations" if self.n_shared else "scale"
        return FeatureMap(name, circuit, n_features, tuple(self.angles), n_params, kind, bandwidth)


def _feature(index: int, coefficient: float = 1.0, weight: int = -1) -> Angle:
    return Angle(coefficient, ((index, 0.0, 1.0),), weight)


def _pair_of_features(encoding: str, qubit: int) -> tuple[int, int]:
    if encoding not in ("same", "pair"):
        raise unknown_name("encoding", encoding, ["same", "pair"])
    return (qubit, qubit) if encoding == "same" else (2 * qubit, 2 * qubit + 1)


def qklstm_feature_map(n_qubits: int, *, bandwidth: float = 1.0, encoding: Encoding = "same") -> FeatureMap:
    """The QK-LSTM paper's map: H on all, RY(x_j), RZ(x_j), CNOT chain.

    The CNOT chain acts last and cancels in the fidelity: the kernel is a product of one-qubit kernels,
    `prod_j (1 + cos t cos t' cos(p - p') + sin t sin t') / 2` with t the RY and p the RZ angle.

    Args:
        n_qubits: number of qubits.
        bandwidth: multiplies x before anything else.
        encoding: `same` (n_qubits features) or `pair` (RY reads feature 2j, RZ feature 2j + 1).

    References:
        arXiv 2411.13225, figure 2 and equation (5).
    """
    n_qubits = whole_number("n_qubits", n_qubits, 1)
    b = _Builder(n_qubits, 4 * n_qubits)
    b.hadamards()
    for q in range(n_qubits):
        first, second = _pair_of_features(encoding, q)
        b.encode("ry", (q,), _feature(first))
        b.encode("rz", (q,), _feature(second))
    b.chain()
    return b.build("qklstm", n_qubits * (2 if encoding == "pair" else 1), bandwidth)


def bsp_feature_map(n_qubits: int, *, bandwidth: float = 1.0, encoding: Encoding = "same") -> FeatureMap:
    """The block-product-state map: H, RZ(x_j), RY(x_j), CNOT chain, RZ(x_j).

    The last RZ follows the entangler, so the kernel does not factorise; its exact bond dimension is 2. With
    `encoding="pair"` both RZ read feature 2j and RY reads feature 2j + 1.

    References:
        cuTN-QSVM (arXiv 2405.02630); also the published code of the QK-LSTM authors.
    """
    n_qubits = whole_number("n_qubits", n_qubits, 1)
    b = _Builder(n_qubits, 5 * n_qubits)
    b.hadamards()
    for q in range(n_qubits):
        first, second = _pair_of_features(encoding, q)
        b.encode("rz", (q,), _feature(first))
        b.encode("ry", (q,), _feature(second))
    b.chain()
    for q in range(n_qubits):
        b.encode("rz", (q,), _feature(_pair_of_features(encoding, q)[0]))
    return b.build("bsp", n_qubits * (2 if encoding == "pair" else 1), bandwidth)


def reuploading_feature_map(
    n_qubits: int,
    layers: int = 3,
    *,
    trainable: Literal["scale", "rotations"] | None = None,
    bandwidth: float = 1.0,
    encoding: Encoding = "same",
) -> FeatureMap:
    """Data re-uploading: H, then `layers` times [RY(x_j), RZ(x_j), CNOT ring (0,1), ..., (n-1,0)].

    Args:
        n_qubits: number of qubits.
        layers: number of times that the data are uploaded.
        trainable: None; `scale`, a trainable factor on each data angle (2 n layers of them, 1 at the start); or `rotations`,
            trainable RY and RZ on each qubit before the data of each layer (2 n layers of them), which all survive
            simplification because data rotations follow them.
        bandwidth: multiplies x before anything else.
        encoding: `same` or `pair`.

    References:
        Pérez-Salinas et al., arXiv 1907.02085.
    """
    layers = whole_number("layers", layers, 1)
    if trainable not in (None, "scale", "rotations"):
        raise unknown_name("trainable", trainable, ["None", "scale", "rotations"])
    n_qubits = whole_number("n_qubits", n_qubits, 1)
    b = _Builder(n_qubits, n_qubits * (1 + layers * (5 if trainable == "rotations" else 3)))
    b.hadamards()
    for _ in range(layers):
        if trainable == "rotations":
            for q in range(n_qubits):
                b.trainable("ry", q)
                b.trainable("rz", q)
        for q in range(n_qubits):
            for name, feature in zip(("ry", "rz"), _pair_of_features(encoding, q), strict=True):
                b.encode(name, (q,), _feature(feature, weight=len(b.angles) if trainable == "scale" else -1))
        for q in range(n_qubits if n_qubits > 1 else 0):
            b.fixed("cx", q, (q + 1) % n_qubits)
    n_features = n_qubits * (2 if encoding == "pair" else 1)
    return b.build("reuploading", n_features, bandwidth, len(b.angles) if trainable == "scale" else 0)


def _pairs(n_qubits: int, entanglement: str) -> Iterator[tuple[int, int]]:
    """Qiskit's entanglement patterns. The phases are symmetric in the two qubits, so sca equals circular."""
    linear = [(q, q + 1) for q in range(n_qubits - 1)]
    patterns: dict[str, Iterable[tuple[int, int]]] = {
        "full": combinations(range(n_qubits), 2),
        "linear": linear,
        "pairwise": linear[0::2] + linear[1::2],
        "circular": ([(n_qubits - 1, 0)] if n_qubits > 2 else []) + linear,
    }
    patterns["sca"] = patterns["circular"]
    if not isinstance(entanglement, str) or entanglement not in patterns:
        raise unknown_name("entanglement", entanglement, patterns)
    yield from patterns[entanglement]


def zz_feature_map(
    n_qubits: int,
    reps: int = 2,
    entanglement: Literal["full", "linear", "circular", "sca", "pairwise"] = "full",
    *,
    bandwidth: float = 1.0,
) -> FeatureMap:
    """Qiskit's ZZ feature map: `reps` times [H, P(2 x_i), P(2 (pi - x_i)(pi - x_j)) on the parity of i and j].

    The entangling phase CX P CX equals RZZ up to a global phase and is stored as such: no CNOT is left.

    Args:
        n_qubits: number of qubits.
        reps: number of repetitions.
        entanglement: which pairs (i, j), as in Qiskit.
        bandwidth: multiplies x before anything else, also inside pi - x.

    References:
        Havlíček et al., arXiv 1804.11326.
    """
    reps = whole_number("reps", reps, 1)
    n_qubits = whole_number("n_qubits", n_qubits, 1)
    b = _Builder(
        n_qubits, reps * (2 * n_qubits + (n_qubits * (n_qubits - 1) // 2 if entanglement == "full" else n_qubits))
    )
    for _ in range(reps):
        b.hadamards()
        for q in range(n_qubits):
            b.encode("p", (q,), _feature(q, 2.0))
        for i, j in _pairs(n_qubits, entanglement):
            b.encode("rzz", (i, j), Angle(2.0, ((i, math.pi, -1.0), (j, math.pi, -1.0))))
    return b.build("zz", n_qubits, bandwidth)


def iqp_feature_map(n_qubits: int, reps: int = 1, *, bandwidth: float = 1.0) -> FeatureMap:
    """PennyLane's IQPEmbedding: `reps` times [H, RZ(x_i), RZZ(x_i x_j) on all pairs].

    References:
        Havlíček et al., arXiv 1804.11326; `pennylane.IQPEmbedding`.
    """
    reps = whole_number("reps", reps, 1)
    n_qubits = whole_number("n_qubits", n_qubits, 1)
    b = _Builder(n_qubits, reps * (2 * n_qubits + n_qubits * (n_qubits - 1) // 2))
    for _ in range(reps):
        b.hadamards()
        for q in range(n_qubits):
            b.encode("rz", (q,), _feature(q))
        for i, j in combinations(range(n_qubits), 2):
            b.encode("rzz", (i, j), Angle(1.0, ((i, 0.0, 1.0), (j, 0.0, 1.0))))
    return b.build("iqp", n_qubits, bandwidth)


def ising_feature_map(
    n_qubits: int, reps: int = 2, gamma: float = 0.1, distance: int = 1, *, bandwidth: float = 1.0
) -> FeatureMap:
    """The Ising-chain map: H, then `reps` times [RZ(2 gamma x_i), RXX(pi gamma^2 (1-x_i)(1-x_j)) for |i-j| <= distance].

    Args:
        n_qubits: number of qubits.
        reps: number of repetitions r.
        gamma: interaction strength.
        distance: largest |i - j| of an interaction.
        bandwidth: multiplies x before anything else, also inside 1 - x.

    References:
        arXiv 2411.09336, section II.
    """
    reps = whole_number("reps", reps, 1)
    distance, gamma = whole_number("distance", distance, 1), real_number("gamma", gamma)
    n_qubits = whole_number("n_qubits", n_qubits, 1)
    b = _Builder(n_qubits, n_qubits * (1 + reps * (1 + min(distance, n_qubits))))
    b.hadamards()
    for _ in range(reps):
        for q in range(n_qubits):
            b.encode("rz", (q,), _feature(q, 2 * gamma))
        for step in range(1, distance + 1):
            for i in range(n_qubits - step):
                b.encode("rxx", (i, i + step), Angle(math.pi * gamma**2, ((i, 1.0, -1.0), (i + step, 1.0, -1.0))))
    return b.build("ising", n_qubits, bandwidth)


def from_pennylane(f, n_qubits: int, n_features: int, n_params: int = 0, *, bandwidth: float = 1.0) -> FeatureMap:  # type: ignore[no-untyped-def]
    """A feature map from a unitary PennyLane function `f(x)` or `f(x, params)`.

    See `dqk.kernels._pennylane_map.trace`, which does the work and needs PennyLane.
    """
    from dqk.kernels._pennylane_map import trace

    return trace(f, n_qubits, n_features, n_params, bandwidth)


FEATURE_MAPS = {
    "qklstm": qklstm_feature_map,
    "bsp": bsp_feature_map,
    "reuploading": reuploading_feature_map,
    "zz": zz_feature_map,
    "iqp": iqp_feature_map,
    "ising": ising_feature_map,
}
"""Feature maps by the name that the command line uses."""
