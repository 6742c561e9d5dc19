"""What the cells of a QK-LSTM share, whatever their kernel: projection, references and readout."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dqk.nn.options import QKOptions
from dqk.nn.recurrent import GateCell, Step

Values = Callable[[Tensor, Tensor], list[Tensor]]


class ReferenceCell(GateCell):
    """`pre_g = sum_j alpha_gj c k_g(z_t, r_gj) + b_g` with `z_t = W [h_{t-1}; x_t] + b`, arXiv 2411.13225 eq. (3).

    Args:
        input_size: number of features D of x_t.
        hidden_size: number of features H of h_t.
        options: checked options of the QK-LSTM.

    Attributes:
        projection: W and b; None if the map takes v_t as it is. Its rows are (gate, feature) if the gates project
            apart.
        references: shape (sets, N, n_features), or (sets, N, H + D) in input space; a parameter if learned, else a
            buffer.
        alpha: shape (gates, N, H); one gate if the readout is shared, one hidden unit if it is scalar.
        gate_bias: b_g, shape (gates, H), or (gates, 1) if the readout is scalar; None without bias.
        kernel_scale: the factor c.
    """

    projection: nn.Linear | None
    references: Tensor
    params: nn.Parameter | None
    gate_bias: nn.Parameter | None
    kernel_scale: float

    def __init__(self, input_size: int, hidden_size: int, options: QKOptions):
        super().__init__(input_size, hidden_size)
        self.options = options

    def _make_parameters(
        self, n_features: int, n_params: int, bias: bool, device: Any, dtype: torch.dtype | None
    ) -> None:
        options, place = self.options, {"device": device, "dtype": dtype}
        n_inputs, count = self.hidden_size + self.input_size, options.n_references
        copies = 4 if options.gate_kernel == "projection" else 1
        linear = nn.Linear(n_inputs, copies * n_features, **place) if options.projection else None
        self.register_module("projection", linear)
        width = n_inputs if options.reference_space == "input" else n_features
        references = torch.empty(options.n_reference_sets, count, width, **place)
        if options.references == "learned":
            self.references = nn.Parameter(references)
        else:
            self.register_buffer("references", references)
        copies = 4 if options.gate_kernel == "circuit" else 1
        self.register_parameter("params", nn.Parameter(torch.empty(copies, n_params, **place)) if n_params else None)
        gates = 1 if options.readout == "shared" else 4
        units = 1 if options.readout == "scalar" else self.hidden_size
        self.alpha = nn.Parameter(torch.empty(gates, count, units, **place))
        self.register_parameter("gate_bias", nn.Parameter(torch.empty(gates, units, **place)) if bias else None)

    def _start(self, training_inputs: Tensor | None) -> None:
        self.reset_parameters()
        if training_inputs is not None:
            self._adopt(training_inputs)

    @property
    @abc.abstractmethod
    def _bandwidth(self) -> float:
        """What the kernel multiplies its features by."""

    @abc.abstractmethod
    def _reset_kernel(self) -> None:
        """Draws the kernel's own parameters."""

    @abc.abstractmethod
    def kernel_values(self, inputs: Tensor) -> tuple[Tensor, Values]:
        """References placed and encoded, inputs projected, once per forward pass.

        Args:
            inputs: x_t of all time steps and samples, shape (S, D).

        Returns:
            Projected inputs, shape (S, P), and what gives each evaluation's kernel values of b rows of them (b, P) and hidden
            states (b, H), see `preactivations`.
        """

    def begin(self, inputs: Tensor) -> tuple[Tensor, Step]:
        """Kernel values prepared and readout scaled, once per forward pass; see `GateCell.begin`."""
        projected, values = self.kernel_values(inputs)
        alpha, gate_bias = self._readout()
        return projected, lambda x, h: self.preactivations(values(x, h), alpha, gate_bias)

    @abc.abstractmethod
    def describe(self) -> str:
        """Kernel and scale, for `print(module)`."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """b, alpha and b_g as `nn.Linear` draws them, W with sqrt(6) times its spread. References that come from data stay.

        Learned references are standard normal. Fixed ones are uniform in (-pi/2, pi/2), where a map that puts one
        feature into two rotations has no two points with the same state (narrower for a bandwidth above 1), and
        standard normal in input space, where W places them.
        """
        if self.projection is not None:
            self.projection.reset_parameters()
            # Six times nn.Linear's variance, so that z spreads over angles of order one. On the treebank this is worth
            # something: 0.822 instead of 0.819, mean of 5 seeds (docs/adr/0005).
            self.projection.weight.mul_(math.sqrt(6))
        if self.options.references == "fixed" and self.options.reference_space == "angle":
            bound = math.pi / 2 / max(1.0, self._bandwidth)
            self.references.uniform_(-bound, bound)
        elif self.options.references != "data":
            self.references.normal_()
        self._reset_kernel()
        bound = 1 / math.sqrt(self.options.n_references)
        self.alpha.uniform_(-bound, bound)
        if self.gate_bias is not None:
            self.gate_bias.uniform_(-bound, bound)

    @torch.no_grad()
    def _adopt(self, rows: Tensor) -> None:
        """Makes training inputs the references; a hidden state that they lack is zero, as at the first time step."""
        rows = rows.to(self.references)
        if rows.shape[1] == self.input_size:
            rows = F.pad(rows, (self.hidden_size, 0))
        if self.options.reference_space == "angle" and self.projection is not None:
            rows = self.projection(rows)
        self.references.copy_(rows.view_as(self.references))

    @property
    def _features(self) -> int:
        """Copies of W times n_features."""
        linear = self.projection
        return self.hidden_size + self.input_size if linear is None else linear.out_features

    def _projected(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the inputs add to the features, shape (S, P), and from hidden state to features, shape (H, P)."""
        if self.projection is None:
            return inputs, None
        hidden, visible = self.projection.weight.split((self.hidden_size, self.input_size), dim=1)
        return F.linear(inputs, visible, self.projection.bias), hidden.t()

    @staticmethod
    def features_of(x: Tensor, h: Tensor, hidden: Tensor | None) -> Tensor:
        """Features z of some rows, shape (b, copies of W * n_features), from what `_projected` gave and h (b, H)."""
        return torch.cat((h, x), dim=1) if hidden is None else torch.addmm(x, h, hidden)

    def preactivations(self, kernel: list[Tensor], alpha: Tensor, gate_bias: Tensor) -> Tensor:
        """Pre-activations (4, b, H) from each evaluation's kernel values, and what `_readout` gave."""
        return torch.baddbmm(gate_bias, self.by_gate(kernel), alpha)

    def by_gate(self, kernel: list[Tensor]) -> Tensor:
        """Kernel values (4, b, N) from those of each evaluation: (b, N) if the gates share them, (b, 4 N), or four of (b, N)."""
        if self.options.gate_kernel == "shared":
            return kernel[0].expand(4, -1, -1)
        together = kernel[0] if len(kernel) == 1 else torch.cat(kernel, dim=1)
        return together.view(-1, 4, self.options.n_references).transpose(0, 1)

    @property
    def _apart(self) -> bool:
        """Whether the gates see the references in different ways, so that each needs an evaluation of its own."""
        o = self.options
        return o.gate_kernel == "circuit" or (o.gate_kernel == "projection" and o.reference_space == "input")

    def _readout(self) -> tuple[Tensor, Tensor]:
        """The scaled alpha, shape (4, N, H), and b_g, shape (4, 1, H), or one zero."""
        alpha = (self.kernel_scale * self.alpha).expand(4, -1, self.hidden_size)
        if self.gate_bias is None:
            return alpha, alpha.new_zeros(1)
        return alpha, self.gate_bias.expand(4, self.hidden_size).unsqueeze(1)

    def _placed_references(self) -> Tensor:
        """References in angle space, shape (sets * N, copies of W * n_features)."""
        references = self.references.flatten(0, 1)
        if self.options.reference_space == "input" and self.projection is not None:
            references = self.projection(references)
        return references

    @property
    def weight(self) -> Tensor:
        """A parameter that shows dtype and device."""
        own = self._parameters
        return own["alpha"] if "alpha" in own else self.alpha  # type: ignore[return-value]  # as in `_tensors`
