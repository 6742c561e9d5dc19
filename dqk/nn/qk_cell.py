"""The QK-LSTM cell: gates that are weighted sums of quantum-kernel values against references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dqk._estimate import SampledJob
from dqk._executors import executor_of, gpus_for
from dqk._gram import job_of, sampled_job_of
from dqk._pooled import Executor, OnPool
from dqk._rehearsal import RehearsalPool
from dqk.backends import Backend, EncodingBackend, autograd
from dqk.backends.sampled import SampledBackend
from dqk.circuit import simplify_for_fidelity
from dqk.kernels import FeatureMap, ShotPlan
from dqk.nn.compiled import plan_of, run_compiled, why_not
from dqk.nn.evaluation import KernelValues, against_references, cell_backend
from dqk.nn.farm import FarmPlan, Heads, run_farmed
from dqk.nn.farm_rule import Farming, FarmOptions
from dqk.nn.fused import FusedPlan, run_fused
from dqk.nn.layout import Layout
from dqk.nn.measured import Measured, Spent, circuits_of
from dqk.nn.options import QKOptions
from dqk.nn.reference_cell import ReferenceCell, Values


class QKCell(ReferenceCell):
    """`pre_g = sum_j alpha_gj c k_g(z_t, r_gj) + b_g` with `z_t = W [h_{t-1}; x_t] + b`, arXiv 2411.13225 eq. (3).

    Args:
        input_size: number of features D of x_t.
        hidden_size: number of features H of h_t.
        bias: whether there is a b_g.
        options: checked options of the QK-LSTM.
        training_inputs: for references="data", the rows to start from, shape (sets * n_references, D) or
            (sets * n_references, H + D).
        device: of the parameters.
        dtype: of the parameters.
        farm: workers that may compute kernel values; None for none.

    Attributes:
        params: trainable parameters of the feature map, shape (copies, n_params); None if it has none.
        plan: how compiled code runs the cell, see `dqk.nn.compiled`; None if it does not.
        torch_because: why compiled code cannot run the cell; None if it can.
        fused: whether all time steps make one autograd node in torch, see `dqk.nn.fused`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        options: QKOptions,
        training_inputs: Tensor | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        farm: FarmOptions | None = None,
    ):
        super().__init__(input_size, hidden_size, options)
        self.set_farm(farm)
        self.feature_map = options.map_for(hidden_size + input_size)
        self.kernel_scale = options.scale_for(self.feature_map)
        self.circuit = simplify_for_fidelity(self.feature_map.circuit).circuit
        self.backend = cell_backend(options.backend, self.circuit)
        self.spent = Spent()
        self.measures = options.shots is not None or isinstance(self.backend, SampledBackend)
        self._make_parameters(self.feature_map.n_features, self.feature_map.n_params, bias, device, dtype)
        self.fused = not self._apart and isinstance(self.backend, EncodingBackend) and is_affine(self.feature_map)
        self.torch_because = why_not(self)
        self.plan = None if self.torch_because else plan_of(self)
        self._start(training_inputs)

    @property
    def _bandwidth(self) -> float:
        return self.feature_map.bandwidth

    def _reset_kernel(self) -> None:
        if self.params is None:
            return
        given = getattr(self.options.kernel, "params", None)
        for row in self.params:
            row.copy_(self.feature_map.initial_params(dtype=row.dtype) if given is None else given)
        if len(self.params) > 1 and self.feature_map.params_kind == "scale":
            # All scales start at 1: the gates would start equal.
            self.params.add_(torch.randn_like(self.params), alpha=0.1)

    def kernel_values(self, inputs: Tensor) -> tuple[Tensor, Values]:
        """See `ReferenceCell.kernel_values`."""
        params = self.params_of_groups()
        references = self.angles_of(self._placed_references(), params)
        values = [self._against(*group) for group in references]
        projected, hidden = self._projected(inputs)

        def kernel(x: Tensor, h: Tensor) -> list[Tensor]:
            groups = self.angles_of(self.features_of(x, h, hidden), params)
            return [of(angles) for of, (angles, _) in zip(values, groups, strict=True)]

        return projected, kernel

    def _against(self, references: Tensor, shared: Tensor) -> KernelValues:
        """What gives the kernel values of new samples: this process, or a device that measures them."""
        if not self.measures:
            return against_references(self.backend, self.circuit, references, shared)
        executor = self._executor
        seed = int(torch.randint(2**62, ()))  # `torch.manual_seed` makes measurements repeatable, where the device does
        return Measured(self._job(executor, seed), executor, references, shared, self.spent)

    @property
    def _executor(self) -> Executor:
        return executor_of(None if self.farm is None else self.farm.executor)

    def _job(self, executor: Executor, seed: int) -> SampledJob:
        plan = None if self.options.shots is None else ShotPlan(self.options.shots)
        job = sampled_job_of(self._named, self.circuit, plan, seed, executor)
        assert job is not None
        return job

    def rehearse(self) -> None:
        """Has one sample's time step refused, if the device would refuse it; measures nothing."""
        params, executor = self.params_of_groups(), self._executor
        references = self.angles_of(self._placed_references(), params)
        sample = self.angles_of(self.alpha.new_zeros(1, self._features), params)
        with torch.no_grad(), RehearsalPool(executor.pool if isinstance(executor, OnPool) else None) as pool:
            for (data, _), group in zip(sample, references, strict=True):
                Measured(self._job(executor, 0), OnPool(pool), *group, Spent())(data)

    def describe(self) -> str:
        """Kernel and scale, for `print(module)`."""
        name, n_qubits = self.feature_map.name, self.feature_map.n_qubits
        return f"feature_map={name}, n_qubits={n_qubits}, kernel_scale={self.kernel_scale:g}"

    def circuits_per_row(self) -> tuple[int, int]:
        """Circuits that a device runs for one sample's time step: for its kernel values, and for their derivatives."""
        params = self.params_of_groups()
        references = self.angles_of(self._placed_references(), params)
        sample = self.angles_of(self.alpha.new_zeros(1, self._features), params)
        pairs = [
            circuits_of(self.circuit, len(data), *group) for (data, _), group in zip(sample, references, strict=True)
        ]
        return sum(values for values, _ in pairs), sum(derivatives for _, derivatives in pairs)

    def run(
        self, x: Tensor, layout: Layout, h0: Tensor | None, c0: Tensor | None, reverse: bool, check: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """In compiled code where that applies, see `dqk.nn.compiled`."""
        if self.plan is None or self.measures or x.device.type != "cpu" or self._farms:
            return super().run(x, layout, h0, c0, reverse, check)
        return run_compiled(self.plan, layout, reverse, check, x, h0, c0, *self._tensors())

    def _tensors(self) -> tuple[Tensor | None, ...]:
        """W and b, references, params, alpha and b_g, with None for what the cell does not have."""
        own, linear = self._parameters, self._modules["projection"]
        weight: Tensor | None
        offset: Tensor | None
        references: Tensor | None
        try:  # the dictionaries, for attributes of modules take ten times as long, which counts in a small network
            weight, offset = (
                (None, None) if linear is None else (linear._parameters["weight"], linear._parameters["bias"])
            )
            references = own["references"] if "references" in own else self._buffers["references"]
            return weight, offset, references, own["params"], own["alpha"], own["gate_bias"]
        except KeyError:  # a parametrization has taken a parameter's place
            weight, offset = (None, None) if self.projection is None else (self.projection.weight, self.projection.bias)
            return weight, offset, self.references, self.params, self.alpha, self.gate_bias

    def run_rows(
        self, inputs: Tensor, batch_sizes: Sequence[int], h0: Tensor, c0: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As one autograd node where that applies, see `dqk.nn.fused`."""
        if self._farms:
            return self._run_farmed(inputs, batch_sizes, h0, c0, reverse)
        if self.measures or not self.fused:
            return super().run_rows(inputs, batch_sizes, h0, c0, reverse)
        backend: EncodingBackend = self.backend  # type: ignore[assignment]
        params = None if self.params is None else self.params[0]
        references, shared = self.feature_map.angles(self._placed_references(), params)
        encoded = autograd.encode(backend, self.circuit, references, shared)
        weight, bias = self._to_angles(params)
        hidden, visible = weight.split((self.hidden_size, self.input_size), dim=1)
        same_kernel = self.options.gate_kernel == "shared"
        plan = FusedPlan(backend, self.circuit, batch_sizes, reverse, same_kernel, torch.is_grad_enabled())
        alpha, gate_bias = self._readout()
        projected = F.linear(inputs, visible, bias)
        return run_fused(plan, projected, hidden.t(), alpha.contiguous(), gate_bias, encoded, shared, h0, c0)

    def set_farm(self, farm: FarmOptions | None) -> None:
        """Has workers compute kernel values from now on, or this process."""
        self.farm = farm if farm is not None and farm.executor is not None else None
        self.__dict__.pop("farming", None)

    @property
    def _named(self) -> str | Backend:
        """As workers are told: what `auto` was settled to, unless the executor's workers are devices of their own."""
        return self.backend.name if self.options.backend == "auto" and not self.measures else self.options.backend

    @property
    def _farms(self) -> bool:
        return not self.measures and self.farm is not None and self.farming.farms

    @cached_property
    def farming(self) -> Farming:
        """Who computes the kernel values, and why; for cells with workers."""
        assert self.farm is not None
        job = job_of(self._named, self.circuit)
        copies = 4 if self._apart or self.options.gate_kernel == "projection" else 1
        n_references = (1 if self.options.gate_kernel == "shared" else 4) * self.options.n_references
        return self.farm.decide(job, self.alpha.dtype, copies, n_references)

    def _run_farmed(
        self, inputs: Tensor, batch_sizes: Sequence[int], h0: Tensor, c0: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert self.farm is not None
        plan = FarmPlan(
            cell=self,
            job=job_of(self._named, self.circuit),
            executor=executor_of(self.farm.executor, gpus_for(self._named)),
            batch_sizes=batch_sizes,
            reverse=reverse,
            rows=self.farm.rows(len(h0)),
            seconds_per_row=self.farming.row_s,
            record=torch.is_grad_enabled(),
        )
        params = self.params_of_groups()
        projected, hidden = self._projected(inputs)
        references = self.angles_of(self._placed_references(), params)
        return run_farmed(plan, Heads(projected, *self._readout(), hidden, params, references), h0, c0)

    def _to_angles(self, params: Tensor | None) -> tuple[Tensor, Tensor]:
        """W and b followed by the angles of z: weight (P, H + D) and bias (P,), for angles that are affine in z."""
        slope, offset = affine_angles(self.feature_map, params, like=self.alpha)
        if self.projection is None:
            return slope.t(), offset
        if self.options.gate_kernel != "projection":
            return slope.t() @ self.projection.weight, torch.addmv(offset, slope.t(), self.projection.bias)
        # Every gate has a W, one below the other; their angles become rows of their own.
        weight = slope.t() @ self.projection.weight.unflatten(0, (4, -1))
        return weight.flatten(0, 1), torch.addmm(offset, self.projection.bias.view(4, -1), slope).flatten()

    def params_of_groups(self) -> list[Tensor | None]:
        """Parameters of the map in each evaluation of the kernel: one for all gates, or one for each gate."""
        if not self._apart:
            return [None if self.params is None else self.params[0]]
        return [None] * 4 if self.params is None else list(self.params.expand(4, -1).unbind(0))

    def angles_of(self, features: Tensor, params: list[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """Data and shared angles of each evaluation, for features (b, copies of W * n_features).

        One evaluation for all gates takes (b, A_d), or (4 b, A_d) if the gates project apart; else each gate has one.
        """
        n_features = self.feature_map.n_features
        if self._apart:
            parts = list(features.split(n_features, dim=1))
            rows = parts if len(parts) == 4 else parts * 4
        else:
            rows = [features.view(-1, n_features)]
        return [self.feature_map.angles(row, p) for row, p in zip(rows, params, strict=True)]


def is_affine(feature_map: FeatureMap) -> bool:
    """Whether every data angle is an affine function of the features."""
    return feature_map.declared is not None and all(len(angle.factors) < 2 for angle in feature_map.declared)


def affine_angles(feature_map: FeatureMap, params: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Slope S (n_features, A_d) and offset (A_d,) of angles that are affine: `angles(z) = z S + offset`."""
    n_features = feature_map.n_features
    points = torch.eye(n_features + 1, n_features, dtype=like.dtype, device=like.device)  # the unit vectors, then zero
    at_points = feature_map.angles(points, params)[0]
    return at_points[:-1] - at_points[-1], at_points[-1]
