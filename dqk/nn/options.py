"""The options of a QK-LSTM: what they may be, which of them contradict each other, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from dqk.backends import Backend
from dqk.backends.sampled import SampledBackend
from dqk.circuit import simplify_for_fidelity
from dqk.errors import InvalidInputError, unknown_name
from dqk.kernels import FeatureMap, FidelityKernel, Kernel, LinearKernel, RBFKernel
from dqk.kernels.feature_maps import qklstm_feature_map
from dqk.nn.evaluation import cell_backend
from dqk.nn.recurrent import whole_number, yes_or_no

GateKernel = Literal["references", "projection", "circuit", "shared"]
References = Literal["fixed", "data", "learned"]
ReferenceSpace = Literal["angle", "input"]
Readout = Literal["per_gate", "shared", "scalar"]

_CHOICES = {
    "gate_kernel": ("references", "projection", "circuit", "shared"),
    "references": ("fixed", "data", "learned"),
    "reference_space": ("angle", "input"),
    "readout": ("per_gate", "shared", "scalar"),
}
_TWINS: dict[str, type[RBFKernel] | type[LinearKernel]] = {"rbf": RBFKernel, "linear": LinearKernel}
TRAINABLE_MAP = "reuploading_feature_map(n_qubits, trainable='rotations')"
TRAINABLE_KERNEL = "a trainable one, such as RBFKernel(4, trainable='scale')"


@dataclass(frozen=True)
class QKOptions:
    """The options of `QKLSTM`, which documents them."""

    n_qubits: int | None
    n_references: int
    references: References
    readout: Readout
    gate_kernel: GateKernel
    kernel_scale: float | Literal["auto"]
    bandwidth: float
    reference_space: ReferenceSpace
    projection: bool
    feature_map: FeatureMap | None
    backend: str | Backend
    shots: int | None = None
    kernel: str | Kernel = "fidelity"

    def with_kernel(self, executor: Any) -> tuple[QKOptions, Any, list[str]]:
        """The options and the executor that a given `FidelityKernel` brings, and what contradicts it."""
        kernel = self.kernel
        if not isinstance(kernel, FidelityKernel):
            return self, executor, []
        given = {"feature_map": self.feature_map, "shots": self.shots, "executor": executor}
        given["backend"] = None if self.backend == "auto" else self.backend
        found = [f"{name} belongs to the kernel, which is given" for name, value in given.items() if value is not None]
        shots: Any = kernel.shots  # `problems` refuses a plan
        return (
            replace(self, feature_map=kernel.feature_map, backend=kernel.backend, shots=shots),
            kernel.executor,
            found,
        )

    @property
    def is_fidelity(self) -> bool:
        """Whether the kernel is that of a feature map's states."""
        return self.kernel == "fidelity" or isinstance(self.kernel, FidelityKernel)

    @property
    def n_reference_sets(self) -> int:
        """One set of references per gate, or one for all."""
        return 4 if self.gate_kernel == "references" else 1

    def map_for(self, n_inputs: int) -> FeatureMap:
        """The feature map of a cell with `n_inputs` = hidden + input features."""
        if self.feature_map is not None:
            # The map's own bandwidth stays; this one multiplies it.
            return self.feature_map.with_bandwidth(self.feature_map.bandwidth * self.bandwidth)
        n_qubits = self.n_qubits if self.n_qubits is not None else 4 if self.projection else n_inputs
        return qklstm_feature_map(n_qubits, bandwidth=self.bandwidth)

    def kernel_for(self, n_inputs: int) -> Kernel:
        """The kernel of a cell with `n_inputs` = hidden + input features, where it is not a fidelity."""
        if isinstance(self.kernel, Kernel):
            return self.kernel
        n_features = self.n_qubits if self.n_qubits is not None else 4 if self.projection else n_inputs
        return _TWINS[self.kernel](n_features, self.bandwidth)

    def scale_for(self, feature_map: FeatureMap) -> float:
        """The factor c on kernel values: `2**(n_qubits / 2)`, unless a number was given."""
        return self._power(feature_map.n_qubits) if self.kernel_scale == "auto" else float(self.kernel_scale)

    def scale_of(self, kernel: Kernel) -> float:
        """The factor c on values of another kernel."""
        if self.kernel_scale != "auto":
            return float(self.kernel_scale)
        if self.kernel == "linear":
            return math.sqrt(kernel.n_features)
        return self._power(kernel.n_features) if self.kernel == "rbf" else 1.0

    def _power(self, n_qubits: int) -> float:
        if n_qubits > 200:
            raise InvalidInputError(
                f"kernel_scale='auto' is 2**(n_qubits / 2), too large a number for {n_qubits} qubits; give a number"
            )
        return 2.0 ** (n_qubits / 2)

    def problems(self, cell_inputs: list[int]) -> list[str]:
        """Everything that is wrong.

        Args:
            cell_inputs: hidden + input features of each layer; empty if those sizes cannot be used.
        """
        found = [] if self.n_qubits is None else whole_number("n_qubits", self.n_qubits)
        found += whole_number("n_references", self.n_references)
        found += [] if self.shots is None else whole_number("shots", self.shots)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                found.append(str(unknown_name(name, getattr(self, name), known)))
        found += yes_or_no(projection=self.projection)
        if self.kernel_scale != "auto" and not _positive(self.kernel_scale):
            found.append(f"kernel_scale is {self.kernel_scale!r}, expected 'auto' or a finite number above 0")
        if not _positive(self.bandwidth):
            found.append(f"bandwidth is {self.bandwidth!r}, expected a finite number above 0")
        if self.feature_map is not None and not isinstance(self.feature_map, FeatureMap):
            found.append(
                f"feature_map is {self.feature_map!r}, expected a FeatureMap such as bsp_feature_map(4), or None"
            )
        found += self._contradictions() + self._kernel_problems()
        if found or self.is_fidelity:
            return found or self._map_problems(cell_inputs)
        return self._width_problems(cell_inputs, lambda n_inputs: self.kernel_for(n_inputs).n_features, "kernel")

    def _kernel_problems(self) -> list[str]:
        if not isinstance(self.kernel, Kernel) and self.kernel not in ("fidelity", *_TWINS):
            if isinstance(self.kernel, str):
                return [str(unknown_name("kernel", self.kernel, ("fidelity", *_TWINS)))]
            return [f"kernel is {self.kernel!r}, expected 'fidelity', 'rbf', 'linear' or a dqk kernel"]
        if self.kernel == "fidelity":
            return []
        name, found = self.kernel if isinstance(self.kernel, str) else type(self.kernel).__name__, []
        if not isinstance(self.kernel, FidelityKernel):
            set_apart = {"feature_map": self.feature_map, "shots": self.shots}
            found += [
                f"{n} is for kernel='fidelity', not for {name!r}; leave it out" for n, v in set_apart.items() if v
            ]
            if self.backend != "auto":
                found.append(f"backend is for kernel='fidelity', not for {name!r}; leave it out")
            trained = isinstance(self.kernel, Kernel) and any(True for _ in self.kernel.parameters())
            if self.gate_kernel == "circuit" and not trained:
                found.append(
                    f"gate_kernel='circuit' gives every gate its own kernel parameters, but kernel {name!r} has none; use "
                    f"{TRAINABLE_KERNEL}"
                )
        if isinstance(self.kernel, Kernel) and self.n_qubits not in (None, self._width):
            found.append(f"n_qubits is {self.n_qubits}, but the kernel is for {self._width}; leave n_qubits out")
        return found

    @property
    def _width(self) -> int:
        """Qubits of a given kernel, or its features if it has none."""
        feature_map = getattr(self.kernel, "feature_map", None)
        return self.kernel.n_features if feature_map is None else feature_map.n_qubits  # type: ignore[union-attr]

    def _width_problems(self, cell_inputs: list[int], takes: Callable[[int], int], what: str) -> list[str]:
        return [
            f"projection=False puts the {n_inputs} hidden and input features of a layer into the {what}, which takes "
            f"{takes(n_inputs)}; give a {what.removeprefix('feature ')} of {n_inputs} features (n_qubits={n_inputs} for the "
            "paper's), or leave projection=True"
            for n_inputs in dict.fromkeys(cell_inputs)
            if not self.projection and takes(n_inputs) != n_inputs
        ]

    def _contradictions(self) -> list[str]:
        found = []
        if self.gate_kernel == "shared" and self.readout == "shared":
            found.append(
                "gate_kernel='shared' with readout='shared': nothing differs between the gates, so forget, input and "
                "output gate would be one; use readout='per_gate', or another gate_kernel"
            )
        if self.gate_kernel == "projection" and self.projection is False:
            found.append(
                "gate_kernel='projection' with projection=False: no projection is left to differ between the gates"
            )
        if (self.references, self.gate_kernel, self.reference_space) == ("data", "projection", "angle"):
            found.append(
                "references='data' with gate_kernel='projection' needs reference_space='input': every gate projects "
                "the data in its own way, and in angle space the gates share one set of references"
            )
        return found

    def _map_problems(self, cell_inputs: list[int]) -> list[str]:
        given = self.feature_map
        if given is not None and self.n_qubits not in (None, given.n_qubits):
            return [
                f"n_qubits is {self.n_qubits}, but feature_map {given.name!r} has {given.n_qubits}; leave n_qubits out"
            ]
        found = self._width_problems(cell_inputs, lambda n_inputs: self.map_for(n_inputs).n_features, "feature map")
        if found or not cell_inputs:
            return found
        feature_map = self.map_for(cell_inputs[-1])
        kept = simplify_for_fidelity(feature_map.circuit)
        if not kept.circuit.columns("data"):
            found.append(
                f"no data gate of feature map {feature_map.name!r} can influence its kernel, which is 1 for all "
                f"inputs; {kept}"
            )
        if self.gate_kernel == "circuit" and not has_live_parameters(feature_map):
            found.append(
                "gate_kernel='circuit' gives every gate its own circuit parameters, but feature map "
                f"{feature_map.name!r} has none that can influence the kernel ({feature_map.n_params} parameters); use "
                f"{TRAINABLE_MAP}"
            )
        try:
            backend = cell_backend(self.backend, feature_map.circuit)
            if isinstance(backend, SampledBackend) and not backend.capabilities.exact and self.shots is None:
                found.append(f"backend {self.backend!r} measures, and how often is missing; give shots=2000, say")
        except InvalidInputError as error:
            found.append(str(error))
        return found


def has_live_parameters(feature_map: FeatureMap) -> bool:
    """Whether any trainable parameter can influence the fidelity kernel, seen at a generic point."""
    if not feature_map.n_params:
        return False
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2, feature_map.n_features, dtype=torch.float64, generator=generator)
    params = torch.rand(feature_map.n_params, dtype=torch.float64, generator=generator).requires_grad_()
    kept = simplify_for_fidelity(feature_map.circuit).circuit
    with torch.enable_grad():
        data, shared = feature_map.angles(samples, params)
        live = torch.cat((data[:, kept.columns("data")].flatten(), shared[kept.columns("shared")]))
        total = live @ torch.rand(len(live), dtype=torch.float64, generator=generator)
        if not total.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(total, params, allow_unused=True)
    return gradient is not None and bool(gradient.count_nonzero())


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
