"""Named cases, listed once: feature maps, circuits, kernels and backends. Every law runs over all of them.

A key starts with the name of the function that made the case; `test_laws.py` checks that none is missing.
"""

import math
from collections.abc import Callable
from importlib.metadata import entry_points
from itertools import cycle

import numpy as np
import pennylane as qml
import torch
from torch import Tensor

from dqk import FidelityKernel, Kernel, ProjectedKernel
from dqk.backends import Backend
from dqk.backends._pennylane import PennyLaneBackend
from dqk.backends._sampler import open_sampler
from dqk.backends.mps_device import MPSOnDevice
from dqk.backends.sampled import SampledBackend
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import GATES, Circuit, Gate, constant, data, shared, unitary
from dqk.kernels import FeatureMap, LinearKernel, ProductKernel, RBFKernel, ScaledKernel, SumKernel
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    from_pennylane,
    iqp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)

ENTANGLEMENTS = ("full", "linear", "circular", "sca", "pairwise")


def random_unitary(side: int, seed: int) -> np.ndarray:
    """Haar-random: the Q factor of a complex Gaussian matrix."""
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.normal(size=(side, side)) + 1j * rng.normal(size=(side, side)))
    return q * (np.diag(r) / np.abs(np.diag(r)))


def templates(x: Tensor, params: Tensor) -> None:
    """A PennyLane function with angles of every kind."""
    qml.AngleEmbedding(x, wires=range(3))
    qml.StronglyEntanglingLayers(params.reshape(1, 3, 3), wires=range(3))
    qml.IQPEmbedding(x, wires=range(3))
    qml.CRot(x[..., 0] * params[0], 0.3, params[1], wires=[2, 0])
    qml.adjoint(qml.PauliRot)(x[..., 1] ** 2, "XY", wires=[0, 1])


def product_angles(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """An angle function that is neither affine nor a product of features."""
    return torch.stack([torch.sin(x[:, 0]) * params[0], x[:, 1].tanh(), x.sum(dim=1)], dim=1), params[1:] ** 2


def _feature_maps() -> dict[str, FeatureMap]:
    maps: dict[str, FeatureMap] = {}
    for n in (1, 2, 3, 5):
        maps[f"qklstm_feature_map-{n}"] = qklstm_feature_map(n)
        maps[f"bsp_feature_map-{n}"] = bsp_feature_map(n)
        maps[f"reuploading_feature_map-{n}"] = reuploading_feature_map(n, layers=2)
        maps[f"zz_feature_map-{n}"] = zz_feature_map(n, reps=1 if n == 5 else 2)
        maps[f"iqp_feature_map-{n}"] = iqp_feature_map(n)
        maps[f"ising_feature_map-{n}"] = ising_feature_map(n, gamma=0.7)
    maps["qklstm_feature_map-pair-bandwidth"] = qklstm_feature_map(2, encoding="pair", bandwidth=0.5)
    maps["bsp_feature_map-pair-bandwidth"] = bsp_feature_map(3, encoding="pair", bandwidth=1.7)
    maps["reuploading_feature_map-scale"] = reuploading_feature_map(3, layers=2, trainable="scale", bandwidth=0.4)
    maps["reuploading_feature_map-rotations"] = reuploading_feature_map(3, layers=2, trainable="rotations")
    maps["reuploading_feature_map-pair-rotations"] = reuploading_feature_map(
        2, layers=1, trainable="rotations", encoding="pair"
    )
    for entanglement in ENTANGLEMENTS:
        maps[f"zz_feature_map-{entanglement}"] = zz_feature_map(4, 1, entanglement, bandwidth=0.8)  # type: ignore[arg-type]
    maps["iqp_feature_map-reps"] = iqp_feature_map(3, reps=2, bandwidth=1.3)
    maps["ising_feature_map-distance"] = ising_feature_map(4, reps=1, gamma=0.5, distance=2, bandwidth=1.2)
    maps["from_pennylane-templates"] = from_pennylane(templates, 3, 3, 9, bandwidth=0.9)
    gates = [
        Gate("ry", (0,), data(2)),
        Gate("ry", (1,), data(0)),
        Gate("cry", (1, 0), shared(0)),
        Gate("rx", (0,), data(1)),
    ]
    custom = Circuit(2, tuple(gates), n_data=3, n_shared=1)
    maps["FeatureMap-custom"] = FeatureMap("custom", custom, 2, None, 2, "custom", 1.1, product_angles)
    return maps


def _one_gate(name: str) -> Circuit:
    """The gate with every kind and sign of operand, on wires in both orders, in a state where each of them matters."""
    gates = [Gate("ry", (q,), constant(0.4 + q)) for q in range(3)] + [
        Gate("rx", (q,), constant(0.9 - q)) for q in range(3)
    ]
    wires = cycle([(0, 1), (2, 0), (1, 2)] if GATES[name].n_wires == 2 else [(0,), (2,), (1,)])
    operands = [data(0), shared(0).negated, constant(-0.7), data(1).negated, shared(1), constant(2.1)]
    for k, operand in enumerate(operands if GATES[name].has_angle else [None] * 3):
        gates += [Gate(name, next(wires), operand), Gate("h", (k % 3,)), Gate("ry", (k % 3,), data(2 + k))]
    if not GATES[name].has_angle:
        return Circuit(3, tuple(gates), n_data=5)
    return Circuit(3, tuple(gates), n_data=8, n_shared=2)


def _hand_made() -> dict[str, Circuit]:
    circuits = {f"gate-{name}": _one_gate(name) for name in GATES}
    one, other, two, three = random_unitary(2, 1), random_unitary(2, 2), random_unitary(4, 3), random_unitary(4, 4)
    turn = [Gate("rx", (q,), data(q)) for q in range(3)]
    again = [Gate("ry", (q,), data(3 + q).negated) for q in range(3)]
    circuits["unitaries"] = Circuit(
        3,
        (
            *turn,
            unitary(one, 1),
            unitary(two, 0, 2),
            unitary(three, 2, 1),
            unitary(other, 0),
            *again,
            unitary(two, 1, 0),
        ),
        n_data=6,
    )
    circuits["leading-unitaries"] = Circuit(2, (unitary(one, 1), unitary(two, 1, 0), *turn[:2]), n_data=2)
    diagonals = (
        Gate("rz", (0,), data(3)),
        Gate("cz", (2, 0)),
        Gate("rzz", (0, 1), data(4)),
        Gate("p", (1,), shared(0)),
        Gate("cp", (2, 1), data(5).negated),
        Gate("crz", (1, 2), shared(1)),
        Gate("crz", (0, 2), data(6)),
        Gate("rzz", (2, 0), constant(0.3)),
    )
    hadamards = [Gate("h", (q,)) for q in range(3)]
    circuits["diagonal-run"] = Circuit(3, (*hadamards, *turn, *diagonals, *hadamards), n_data=7, n_shared=2)
    circuits["diagonal-last"] = Circuit(3, (*hadamards, *turn, *diagonals), n_data=7, n_shared=2)
    permutations = (Gate("x", (0,)), Gate("swap", (0, 2)), Gate("cx", (2, 1)), Gate("cx", (0, 1)), Gate("swap", (1, 0)))
    circuits["permutations"] = Circuit(
        3, (*turn, *permutations, *again, Gate("x", (1,)), Gate("rxx", (0, 2), data(6))), 7
    )
    circuits["product"] = Circuit(
        3,
        (*hadamards, *again, unitary(one, 2), Gate("p", (0,), shared(0)), *turn, Gate("rz", (1,), shared(1).negated))
        + (Gate("rx", (1,), data(6)), Gate("x", (1,)), Gate("rz", (1,), constant(-1.0)), Gate("ry", (1,), data(7))),
        n_data=8,
        n_shared=2,
    )
    circuits["idle-qubits"] = Circuit(4, (Gate("ry", (1,), data(0)), Gate("cx", (1, 3)), Gate("rx", (3,), data(1))), 2)
    circuits["unused-columns"] = Circuit(2, (Gate("ry", (1,), data(2)), Gate("rx", (1,), shared(1)), again[1]), 5, 3)
    circuits["no-gates"] = Circuit(2, ())
    circuits["no-gates-but-columns"] = Circuit(1, (), n_data=2, n_shared=1)
    circuits["no-data"] = Circuit(2, (Gate("h", (0,)), Gate("ry", (1,), shared(0)), Gate("cx", (0, 1))), n_shared=1)
    circuits["inverse"] = reuploading_feature_map(2, layers=2, trainable="rotations").circuit.inverse()
    circuits["there-and-back"] = zz_feature_map(2, reps=1).circuit.compute_uncompute()
    circuits["full-turn"] = Circuit(1, (Gate("rx", (0,), constant(2 * math.pi)), Gate("ry", (0,), data(0))), n_data=1)
    return circuits


FEATURE_MAPS: dict[str, FeatureMap] = _feature_maps()

CIRCUITS: dict[str, Circuit] = {name: feature_map.circuit for name, feature_map in FEATURE_MAPS.items()} | _hand_made()
"""At most 5 qubits, so that the dense reference is quick."""

KERNELS: dict[str, Callable[[], Kernel]] = {
    **{f"FidelityKernel-{name}": lambda m=feature_map: FidelityKernel(m) for name, feature_map in FEATURE_MAPS.items()},
    "FidelityKernel-reference": lambda: FidelityKernel(bsp_feature_map(3), backend="reference"),
    "FidelityKernel-statevector": lambda: FidelityKernel(qklstm_feature_map(3), backend="statevector"),
    "FidelityKernel-blas": lambda: FidelityKernel(
        FEATURE_MAPS["reuploading_feature_map-rotations"], backend=StatevectorBackend(panels=False)
    ),
    "FidelityKernel-backend-object": lambda: FidelityKernel(qklstm_feature_map(2), backend=BACKENDS["mps"]),
    "ProjectedKernel-qklstm": lambda: ProjectedKernel(qklstm_feature_map(3)),
    "ProjectedKernel-rotations": lambda: ProjectedKernel(FEATURE_MAPS["reuploading_feature_map-rotations"], gamma=0.3),
    "ProjectedKernel-custom": lambda: ProjectedKernel(
        FEATURE_MAPS["FeatureMap-custom"], gamma=2.0, backend="reference"
    ),
    "RBFKernel": lambda: RBFKernel(3, bandwidth=0.8),
    "RBFKernel-scale": lambda: RBFKernel(2, trainable="scale"),
    "LinearKernel": lambda: LinearKernel(3),
    "LinearKernel-scale": lambda: LinearKernel(2, bandwidth=1.7, trainable="scale"),
    "SumKernel": lambda: SumKernel(FidelityKernel(FEATURE_MAPS["reuploading_feature_map-rotations"]), LinearKernel(3)),
    "SumKernel-projected": lambda: ProjectedKernel(bsp_feature_map(2)) + FidelityKernel(bsp_feature_map(2)),
    "SumKernel-of-itself": lambda: (lambda k: SumKernel(k, k))(RBFKernel(2, trainable="scale")),
    "ProductKernel": lambda: ProductKernel(
        FidelityKernel(FEATURE_MAPS["reuploading_feature_map-scale"]), RBFKernel(3, 0.5, trainable="scale")
    ),
    "ProductKernel-linear": lambda: RBFKernel(2) * (2.0 * LinearKernel(2)),
    "ScaledKernel": lambda: ScaledKernel(3.0, FidelityKernel(qklstm_feature_map(2))),
}

ON_DEVICES = {"custatevec"}
"""Backends that need a device: `tests/gpu` runs their laws."""

_installed = {
    point.name: point.load()() for point in entry_points(group="dqk.backends") if point.name not in ON_DEVICES
}
BACKENDS: dict[str, Backend] = {
    name: backend for name, backend in _installed.items() if not isinstance(backend, SampledBackend)
} | {"mps@device": MPSOnDevice()}

SAMPLED_BACKENDS: dict[str, SampledBackend] = {
    **{name: backend for name, backend in _installed.items() if isinstance(backend, SampledBackend)},
    "pennylane:default.qubit": PennyLaneBackend("default.qubit"),
    "pennylane:lightning.qubit?shots=60": PennyLaneBackend("lightning.qubit", shots=60),
    "pennylane:default.mixed?shots=60": PennyLaneBackend("default.mixed", shots=60),
    "qiskit:statevector?shots=60": open_sampler("statevector?shots=60"),
    "qiskit:aer?shots=60": open_sampler("aer?shots=60"),
}
"""Local devices; `tests/backends` has objects, processors and noise."""

SAMPLED_CIRCUITS = (
    "qklstm_feature_map-3",
    "reuploading_feature_map-rotations",
    "gate-cp",
    "gate-crx",
    "unitaries",
    "unused-columns",
    "no-gates",
    "no-data",
)
"""Enough for every kind of operand and of shift rule; a law takes some thousand circuits."""
