"""A QK-LSTM cell with any kernel: the classical twins, projected kernels, sums and products. Time steps run in torch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dqk._gram import engine_of
from dqk.kernels import Kernel
from dqk.nn.measured import Spent
from dqk.nn.options import QKOptions
from dqk.nn.reference_cell import ReferenceCell, Values


class KernelCell(ReferenceCell):
    """The cell of `QKLSTM(kernel=...)` for kernels other than the fidelity.

    Args:
        input_size: number of features D of x_t.
        hidden_size: number of features H of h_t.
        bias: whether there is a b_g.
        options: checked options of the QK-LSTM.
        training_inputs: for references="data", the rows to start from, see `QKCell`.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        kernels: the kernel, or one copy for each gate with gate_kernel="circuit"; their parameters are trained.
        farm, measures, plan, spent, torch_because: as for `QKCell`; this one has neither workers nor devices nor compiled code.
    """

    farm, measures, plan, torch_because = None, False, None, None

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
        super().__init__(input_size, hidden_size, options)
        kernel = options.kernel_for(hidden_size + input_size)
        self.kernel_scale = options.scale_of(kernel)
        self.spent = Spent()
        self._make_parameters(kernel.n_features, 0, bias, device, dtype)
        copies = 4 if options.gate_kernel == "circuit" else 1
        self.kernels = nn.ModuleList(copy.deepcopy(kernel).to(self.alpha) for _ in range(copies))
        self._given = [parameter.detach().clone() for parameter in kernel.parameters()]
        self._start(training_inputs)

    @property
    def _bandwidth(self) -> float:
        own = getattr(self.kernels[0], "bandwidth", 1.0)
        return float(own) * self._times

    @property
    def _times(self) -> float:
        """What this cell multiplies features by; a kernel that was named has the bandwidth itself."""
        return self.options.bandwidth if isinstance(self.options.kernel, Kernel) else 1.0

    def _reset_kernel(self) -> None:
        for kernel in self.kernels:
            for parameter, given in zip(kernel.parameters(), self._given, strict=True):
                parameter.copy_(given)
                if len(self.kernels) > 1:  # the gates would start equal
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)

    def describe(self) -> str:
        """Kernel and scale, for `print(module)`."""
        kernel: Kernel = self.kernels[0]  # type: ignore[assignment]
        return f"kernel={type(kernel).__name__}, n_features={kernel.n_features}, kernel_scale={self.kernel_scale:g}"

    def kernel_values(self, inputs: Tensor) -> tuple[Tensor, Values]:
        """See `ReferenceCell.kernel_values`."""
        kernels: list[Kernel] = list(self.kernels)  # type: ignore[arg-type]
        kernels = kernels if len(kernels) == 4 or not self._apart else kernels * 4
        engines = [engine_of(kernel) for kernel in kernels]
        references = self._rows(self._placed_references())
        projected, hidden = self._projected(inputs)

        def values(x: Tensor, h: Tensor) -> list[Tensor]:
            rows = self._rows(self.features_of(x, h, hidden))
            return [
                kernel._matrix(engine, row, against, False)
                for kernel, engine, row, against in zip(kernels, engines, rows, references, strict=True)
            ]

        return projected, values

    def _rows(self, features: Tensor) -> list[Tensor]:
        """Samples of each evaluation of a kernel: one for all gates, or one for each."""
        kernel: Kernel = self.kernels[0]  # type: ignore[assignment]
        if self._times != 1.0:
            features = self._times * features
        if not self._apart:
            return [features.view(-1, kernel.n_features)]
        parts = list(features.split(kernel.n_features, dim=1))
        return parts if len(parts) == 4 else parts * 4
