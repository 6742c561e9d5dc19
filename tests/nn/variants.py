"""The ways to build a QK-LSTM that the tests run over, listed once."""

from typing import Any

import torch
from torch import Tensor

from dqk.backends import Backend, Capabilities
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit, Gate, data
from dqk.kernels import Angle, FeatureMap
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    iqp_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from dqk.nn import QKLSTM

INPUT, HIDDEN = 3, 2


class PairsBackend(Backend):
    """A backend that computes pairs and encodes nothing, as hardware does."""

    name = "pairs"
    capabilities = Capabilities(exact=True, differentiable=True, expectations=True)
    _dense = ReferenceBackend()

    def _fidelity(self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Tensor:
        return self._dense._fidelity(circuit, ax, ay, shared)

    def _fidelity_vjp(
        self, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        return self._dense._fidelity_vjp(circuit, ax, ay, shared, cotangent)

    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor:
        return self._dense._expectations(circuit, ax, observables, shared)

    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._dense._expectations_vjp(circuit, ax, observables, shared, cotangent)


def offset_map(n_qubits: int) -> FeatureMap:
    """H, RY(0.5 + 1.5 x_j), RZ(-0.7 - x_j), CZ, RY(0.4): angles with constant parts, one of them nothing else."""
    gates, angles = [], []
    for q in range(n_qubits):
        gates += [Gate("h", (q,)), Gate("ry", (q,), data(3 * q)), Gate("rz", (q,), data(3 * q + 1))]
        angles += [Angle(0.5, ((q, 1.0, 3.0),)), Angle(-1.0, ((q, 0.7, 1.0),)), Angle(0.4, ())]
    gates += [Gate("cz", (q, q + 1)) for q in range(n_qubits - 1)]
    gates += [Gate("ry", (q,), data(3 * q + 2)) for q in range(n_qubits)]
    return FeatureMap("offset", Circuit(n_qubits, tuple(gates), len(angles)), n_qubits, tuple(angles))


# Options beside the sizes; the name of the map in `oracle.MAPS` comes first.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("qklstm", {"n_qubits": 3}),
    "table1": ("qklstm", {"n_qubits": 3, "references": "fixed", "readout": "shared"}),
    "equation3": ("qklstm", {"references": "fixed", "readout": "scalar", "projection": False, "kernel_scale": 1}),
    "vector_alpha": ("qklstm", {"references": "fixed", "projection": False}),
    "shared_kernel": ("qklstm", {"n_qubits": 3, "gate_kernel": "shared"}),
    "scalar_shared_kernel": ("qklstm", {"n_qubits": 2, "gate_kernel": "shared", "readout": "scalar"}),
    "no_bias": ("qklstm", {"n_qubits": 2, "bias": False}),
    "projection": ("qklstm", {"n_qubits": 3, "gate_kernel": "projection", "readout": "shared"}),
    "projection_input": ("qklstm", {"n_qubits": 2, "gate_kernel": "projection", "reference_space": "input"}),
    "input": ("qklstm", {"n_qubits": 3, "reference_space": "input"}),
    "input_fixed": ("qklstm", {"n_qubits": 3, "reference_space": "input", "references": "fixed"}),
    "pair_encoding": ("qklstm_pair", {"feature_map": qklstm_feature_map(2, encoding="pair")}),
    "offset": ("offset", {"feature_map": offset_map(2), "bandwidth": 0.8}),
    "offset_projection": ("offset", {"feature_map": offset_map(2), "gate_kernel": "projection"}),
    "offset_no_projection": ("offset", {"feature_map": offset_map(INPUT + HIDDEN), "projection": False}),
    "bsp": ("bsp", {"feature_map": bsp_feature_map(3), "bandwidth": 0.5, "kernel_scale": 3.0}),
    "zz": ("zz", {"feature_map": zz_feature_map(2), "bandwidth": 0.3, "n_references": 3}),
    "iqp": ("iqp", {"feature_map": iqp_feature_map(3, bandwidth=0.7), "readout": "shared"}),
    "reuploading": ("reuploading", {"feature_map": reuploading_feature_map(2, 2)}),
    "scales": ("scale", {"feature_map": reuploading_feature_map(2, 2, trainable="scale")}),
    "rotations": ("rotations", {"feature_map": reuploading_feature_map(2, 2, trainable="rotations")}),
    "circuit": (
        "rotations",
        {
            "feature_map": reuploading_feature_map(2, 2, trainable="rotations"),
            "gate_kernel": "circuit",
            "readout": "shared",
        },
    ),
    "circuit_scales_input": (
        "scale",
        {
            "feature_map": reuploading_feature_map(2, 2, trainable="scale"),
            "gate_kernel": "circuit",
            "reference_space": "input",
        },
    ),
    "pairs": ("qklstm", {"n_qubits": 2, "backend": PairsBackend()}),
    "circuit_pairs": (
        "rotations",
        {
            "feature_map": reuploading_feature_map(2, 1, trainable="rotations"),
            "gate_kernel": "circuit",
            "backend": PairsBackend(),
        },
    ),
}


def build(name: str, seed: int = 0, **more: Any) -> QKLSTM:
    """A small float64 QK-LSTM of a variant."""
    options = {"n_references": 2, "dtype": torch.float64, **VARIANTS[name][1], **more}
    torch.manual_seed(seed)
    return QKLSTM(INPUT, HIDDEN, **options)
