"""The QK-LSTM cell: gates that are weighted sums of quantum-kernel values against references."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dqk.backends import resolve
from dqk.circuit import simplify_for_fidelity
from dqk.nn.evaluation import evaluator
from dqk.nn.options import QKOptions
from dqk.nn.recurrent import GateCell, Step


class QKCell(GateCell):
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

    Attributes:
        projection: W and b; None if the map takes v_t as it is. Its rows are (gate, feature) if the gates project apart.
        references: shape (sets, N, n_features), or (sets, N, H + D) in input space; a parameter if learned, else a buffer.
        params: trainable parameters of the feature map, shape (copies, n_params); None if it has none.
        alpha: shape (gates, N, H); one gate if the readout is shared, one hidden unit if it is scalar.
        gate_bias: b_g, shape (gates, H) or as alpha; None without bias.
    """

    references: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        options: QKOptions,
        training_inputs: Tensor | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.options = options
        self.feature_map = options.map_for(hidden_size + input_size)
        self.kernel_scale = options.scale_for(self.feature_map)
        circuit = simplify_for_fidelity(self.feature_map.circuit).circuit
        self.evaluator = evaluator(resolve(options.backend, circuit), circuit)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        n_inputs, n_features, count = hidden_size + input_size, self.feature_map.n_features, options.n_references
        self.projection: nn.Linear | None = None
        if options.projection:
            copies = 4 if options.gate_kernel == "projection" else 1
            self.projection = nn.Linear(n_inputs, copies * n_features, **place)
        width = n_inputs if options.reference_space == "input" else n_features
        references = torch.empty(options.n_reference_sets, count, width, **place)
        if options.references == "learned":
            self.references = nn.Parameter(references)
        else:
            self.register_buffer("references", references)
        self.params: nn.Parameter | None = None
        if self.feature_map.n_params:
            copies = 4 if options.gate_kernel == "circuit" else 1
            self.params = nn.Parameter(torch.empty(copies, self.feature_map.n_params, **place))
        gates = 1 if options.readout == "shared" else 4
        units = 1 if options.readout == "scalar" else hidden_size
        self.alpha = nn.Parameter(torch.empty(gates, count, units, **place))
        self.gate_bias = nn.Parameter(torch.empty(gates, units, **place)) if bias else None
        self.reset_parameters()
        if training_inputs is not None:
            self._adopt(training_inputs)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W, b, alpha and b_g as `nn.Linear` draws them. References that come from data stay.

        Learned references are standard normal. Fixed ones are uniform in (-pi/2, pi/2), where a map that puts one feature into
        two rotations has no two points with the same state (narrower for a bandwidth above 1), and standard normal in input
        space, where W places them.
        """
        if self.projection is not None:
            self.projection.reset_parameters()
        if self.options.references == "fixed" and self.options.reference_space == "angle":
            bound = math.pi / 2 / max(1.0, self.feature_map.bandwidth)
            self.references.uniform_(-bound, bound)
        elif self.options.references != "data":
            self.references.normal_()
        if self.params is not None:
            for row in self.params:
                row.copy_(self.feature_map.initial_params(dtype=row.dtype))
            if len(self.params) > 1 and self.feature_map.params_kind == "scale":
                self.params += 0.1 * torch.randn_like(self.params)  # all scales start at 1: the gates would start equal
        bound = 1 / math.sqrt(self.options.n_references)
        self.alpha.uniform_(-bound, bound)
        if self.gate_bias is not None:
            self.gate_bias.uniform_(-bound, bound)

    @torch.no_grad()
    def _adopt(self, rows: Tensor) -> None:
        """Makes training inputs the references; where rows have no hidden state it is zero, as at the first time step."""
        rows = rows.to(self.references)
        if rows.shape[1] == self.input_size:
            rows = F.pad(rows, (self.hidden_size, 0))
        if self.options.reference_space == "angle" and self.projection is not None:
            rows = self.projection(rows)
        self.references.copy_(rows.view_as(self.references))

    def begin(self, inputs: Tensor) -> tuple[Tensor, Step]:
        """References encoded, inputs projected and readout laid out, once per forward pass; see `GateCell.begin`."""
        values = self._kernel_values()
        weight, bias = self._readout()
        units = self.alpha.shape[2]
        if self.projection is None:

            def step(x: Tensor, h: Tensor) -> Tensor:
                return torch.addmm(bias, values(torch.cat((h, x), dim=1)), weight).view(-1, 4, units)

            return inputs, step
        hidden = self.projection.weight[:, : self.hidden_size].t()
        projected = F.linear(inputs, self.projection.weight[:, self.hidden_size :], self.projection.bias)

        def projecting_step(x: Tensor, h: Tensor) -> Tensor:
            return torch.addmm(bias, values(torch.addmm(x, h, hidden)), weight).view(-1, 4, units)

        return projected, projecting_step

    def _kernel_values(self) -> Callable[[Tensor], Tensor]:
        """From z (b, n_features), or (b, 4 n_features) if the gates project apart, to kernel values (b, blocks * N).

        There is one block for all gates if nothing but the readout differs, else one block per gate.
        """
        kind, n_features = self.options.gate_kernel, self.feature_map.n_features
        references = self.references
        if self.options.reference_space == "input" and self.projection is not None:
            references = self.projection(references)  # (sets, N, copies * n_features)
        apart = kind == "projection" and references.shape[2] > n_features
        if kind == "circuit" or apart:
            return self._values_gate_by_gate(references)
        evaluator, params = self.evaluator, None if self.params is None else self.params[0]
        angles = self.feature_map.angles
        encoded = evaluator.states(*angles(references.reshape(-1, n_features), params))

        def values(z: Tensor) -> Tensor:
            # Projections that differ between gates give four rows per sample: (b, 4 N) comes out of (4 b, N).
            block = evaluator.values(evaluator.states(*angles(z.view(-1, n_features), params)), encoded)
            return block.reshape(len(z), -1)

        return values

    def _values_gate_by_gate(self, references: Tensor) -> Callable[[Tensor], Tensor]:
        """For gates with circuits of their own, or whose projections also place the references apart."""
        evaluator, angles, n_features = self.evaluator, self.feature_map.angles, self.feature_map.n_features
        params = [None] * 4 if self.params is None else list(self.params.expand(4, -1).unbind(0))
        per_gate = references[0].expand(-1, -1) if references.shape[2] == n_features else references[0]
        blocks = list(per_gate.split(n_features, dim=1)) * (4 if per_gate.shape[1] == n_features else 1)
        encoded = [evaluator.states(*angles(rows, p)) for rows, p in zip(blocks, params, strict=True)]

        def values(z: Tensor) -> Tensor:
            parts = list(z.split(n_features, dim=1)) * (4 if z.shape[1] == n_features else 1)
            gates = zip(parts, params, encoded, strict=True)
            return torch.cat([evaluator.values(evaluator.states(*angles(x, p)), e) for x, p, e in gates], dim=1)

        return values

    def _readout(self) -> tuple[Tensor, Tensor]:
        """c alpha as one matrix (blocks * N, 4 * units) and b_g as (4 * units,), so that a step is one product."""
        alpha = self.kernel_scale * self.alpha
        if self.options.gate_kernel == "shared":
            weight = alpha.transpose(0, 1).reshape(alpha.shape[1], -1)
        else:
            weight = torch.block_diag(*alpha.expand(4, -1, -1).unbind(0))
        if self.gate_bias is None:
            return weight, alpha.new_zeros(1)
        return weight, self.gate_bias.expand(4, -1).reshape(-1)
