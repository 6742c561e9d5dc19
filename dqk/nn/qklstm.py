"""The QK-LSTM: an LSTM whose gates are weighted sums of quantum-kernel values. A drop-in for `torch.nn.LSTM`."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from dqk.backends import Backend
from dqk.errors import InvalidInputError
from dqk.kernels import FeatureMap, Kernel
from dqk.kernels.inputs import to_samples
from dqk.nn.farm_rule import Farm, Farming, FarmOptions
from dqk.nn.kernel_cell import KernelCell
from dqk.nn.measured import Spent
from dqk.nn.options import GateKernel, QKOptions, Readout, References, ReferenceSpace
from dqk.nn.qk_cell import QKCell
from dqk.nn.recurrent import GatedRecurrence
from dqk.nn.reference_cell import ReferenceCell


class QKLSTM(GatedRecurrence):
    """The quantum-kernel LSTM of arXiv 2411.13225, with the arguments, inputs and outputs of `torch.nn.LSTM`.

    With `v_t = [h_{t-1}; x_t]` and `z_t = W v_t + b`, every gate g in {forget, input, output, cell} is

        pre_g = sum_j alpha_gj * c * k_g(z_t, r_gj) + b_g,    k(z, r) = |<phi(z)|phi(r)>|^2        (eq. 3 and 4)

    followed by the LSTM update `f, i, o = sigmoid(pre), g = tanh(pre), c_t = f c_{t-1} + i g, h_t = o tanh(c_t)`. The
    paper states neither a projection W nor a scale c; `projection=False`, `readout="scalar"`, `kernel_scale=1` is
    equation (3) word for word. Shapes below: N = n_references, H = hidden_size, D = input_size, F = features of the
    map.

    Args:
        input_size: number of features D of x_t.
        hidden_size: number of features H of h_t.
        num_layers: number of stacked layers.
        bias: whether the gates have biases b_g; the projection always has one.
        batch_first: whether padded input and output are (B, T, features) instead of (T, B, features).
        dropout: probability of dropout between layers, in training.
        bidirectional: whether a second cell per layer reads from the end; outputs then have 2 H features.
        n_qubits: of the paper's map; None for 4, or for H + D without projection. Given with `feature_map`, it has
            to fit.
        n_references: references N per gate.
        references: `learned`; `fixed`, drawn once; or `data`, taken from `reference_data` and fixed. References
            that are not learned are buffers: in the state dict, without gradient.
        readout: `per_gate`, alpha_g in R^{N x H} and b_g in R^H for each gate; `shared`, one such pair for all
            gates (Table I's 183 parameters); or `scalar`, one number per reference and one b_g per gate, so that all
            hidden units get the same value (eq. 3 word for word).
        gate_kernel: what differs between the gates beside a readout: `references` (N for each gate), `projection`
            (W and b for each gate), `circuit` (trainable circuit parameters for each gate) or `shared` (nothing).
        kernel_scale: the factor c; `auto` for 2**(n_qubits / 2). Values of a kernel shrink with the number of
            qubits, and unscaled ones starve the gradient.
        bandwidth: multiplies z and the references before the map's own bandwidth does (arXiv 2206.06686).
        reference_space: `angle`, references live in R^F beside z; `input`, in R^{H + D} beside v, and go through W.
        projection: whether there is a W; without it the map takes all H + D features.
        feature_map: None for the paper's, else any `FeatureMap`. Compiled code runs all time steps at once if its angles
            are declared; else they run in torch, with a warning. Its trainable parameters are trained, one copy for
            all gates (one for each with `gate_kernel="circuit"`).
        kernel: `fidelity`, of the map's states; `rbf` or `linear`, the classical twins of as many features as the map would have
            qubits (an automatic scale is 2**(n/2) and sqrt(n)); or any dqk kernel, of which each cell trains a copy
            (automatic scale 1). A `FidelityKernel` brings its feature map with trained parameters, backend, shots and executor.
            All but fidelities run their time steps in torch.
        backend: `auto`, the name of an installed backend, or a backend object; one that measures, such as
            `qpu:http://127.0.0.1:8000`, gives gradients by shift rules, all time steps' in one batch.
        shots: measurements of each kernel value; None for exact values, which a quantum processor cannot give.
        reference_data: for `references="data"`, training inputs x, shape (M, D), or rows [h; x], shape (M, H + D),
            NumPy or torch. As many as are needed (N, or 4 N with `gate_kernel="references"`) are taken in order; of
            more rows, a random subset. In angle space they are projected by the W of the start.
        device: of the parameters.
        dtype: of the parameters.
        executor: workers that may compute the kernel values of each time step, forward and backward: a name (`inline`,
            `processes`, `ray`), an open `WorkerPool` or any `concurrent.futures.Executor`. The numbers are the same to rounding,
            and the same bits on any number of workers.
        farm: `auto` uses the workers if one evaluation is predicted to cost more than a message; `always` uses them.
            `farming()` says which it is, and why.
        micro_batch: sequences whose values one task computes; None for a sixteenth of the batch.

    Raises:
        InvalidInputError: names everything about the arguments that cannot work.

    Example:
        >>> import torch
        >>> from dqk import QKLSTM
        >>> output, (h, c) = QKLSTM(8, 6, n_qubits=4, n_references=4, backend="reference")(torch.randn(5, 3, 8))
        >>> output.shape, h.shape
        (torch.Size([5, 3, 6]), torch.Size([1, 3, 6]))

    References:
        Hsu et al., "Quantum Kernel-Based Long Short-term Memory", arXiv 2411.13225, equations (3) to (8), figure 2,
        Table I.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        n_qubits: int | None = None,
        n_references: int = 4,
        references: References = "learned",
        readout: Readout = "per_gate",
        gate_kernel: GateKernel = "references",
        kernel_scale: float | Literal["auto"] = "auto",
        bandwidth: float = 1.0,
        reference_space: ReferenceSpace = "angle",
        projection: bool = True,
        feature_map: FeatureMap | None = None,
        backend: str | Backend = "auto",
        reference_data: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        executor: Any = None,
        farm: Farm = "auto",
        micro_batch: int | None = None,
        shots: int | None = None,
        kernel: Literal["fidelity", "rbf", "linear"] | Kernel = "fidelity",
    ):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        options = QKOptions(
            n_qubits=n_qubits,
            n_references=n_references,
            references=references,
            readout=readout,
            gate_kernel=gate_kernel,
            kernel_scale=kernel_scale,
            bandwidth=bandwidth,
            reference_space=reference_space,
            projection=projection,
            feature_map=feature_map,
            backend=backend,
            shots=shots,
            kernel=kernel,
        )
        self.options, executor, contradictions = options.with_kernel(executor)
        problems = self._problems() + contradictions
        problems += self.options.problems([] if problems else [hidden_size + n for n in self._layer_input_sizes()])
        data_problems, data = ([], None) if problems else self._reference_data(reference_data)
        workers = FarmOptions(executor, farm, micro_batch)
        if problems := problems + data_problems + workers.problems() + self._worker_problems(executor):
            raise InvalidInputError("QKLSTM cannot be built: " + "; ".join(problems))

        def cell(size: int) -> ReferenceCell:
            arguments = size, hidden_size, bias, self.options, self._choose(data), device, dtype
            return QKCell(*arguments, workers) if self.options.is_fidelity else KernelCell(*arguments)

        self._build(cell)
        _warn_of(self.options.feature_map)

    def _worker_problems(self, executor: Any) -> list[str]:
        if executor is None or self.options.is_fidelity:
            return []
        return ["executor is for fidelity kernels, whose circuits workers run; leave it out"]

    def set_executor(self, executor: Any, farm: Farm = "auto", micro_batch: int | None = None) -> None:
        """Has other workers compute the kernel values from now on, or this process (None); arguments as for the class.

        Raises:
            InvalidInputError: names everything about the arguments that cannot work.
        """
        workers = FarmOptions(executor, farm, micro_batch)
        if problems := workers.problems() + self._worker_problems(executor):
            raise InvalidInputError("; ".join(problems))
        for cell in self.cells:
            if isinstance(cell, QKCell):
                cell.set_farm(workers)

    def farming(self) -> Farming | None:
        """Who computes the kernel values of the first layer, and why; None without an executor, or where they are measured."""
        cell: QKCell = self.cells[0]  # type: ignore[assignment]
        return None if cell.farm is None or cell.measures else cell.farming

    def circuits_per_word(self) -> tuple[int, int] | None:
        """Circuits that a device runs for one time step of one sequence, all layers and directions together.

        Returns:
            Those for its kernel values, and those that a backward pass adds for their derivatives; None if nothing is measured.
        """
        cells: list[QKCell] = list(self.cells)  # type: ignore[arg-type]
        if not cells[0].measures:
            return None
        values, derivatives = zip(*(cell.circuits_per_row() for cell in cells), strict=True)
        return sum(values), sum(derivatives)

    def rehearse(self) -> None:
        """Refuses what a device would refuse of a forward pass, such as its shots; measures nothing.

        Raises:
            UnsupportedError: says what the device takes.
        """
        for cell in self.cells:
            if isinstance(cell, QKCell) and cell.measures:
                cell.rehearse()

    @property
    def spent(self) -> Spent:
        """What was submitted to devices so far."""
        cells: list[QKCell] = list(self.cells)  # type: ignore[arg-type]
        return sum((cell.spent for cell in cells), start=Spent())

    def _reference_data(self, given: Any) -> tuple[list[str], Tensor | None]:
        """What is wrong with `reference_data`, and the rows."""
        wanted, needed = self.options.references == "data", self.options.n_reference_sets * self.options.n_references
        if not wanted:
            extra = [] if given is None else ["reference_data is given, but only references='data' uses it"]
            return extra, None
        widths = f"(M, {self.input_size}) or (M, {self.hidden_size + self.input_size}) with M >= {needed}"
        if given is None:
            return [f"references='data' needs reference_data: training inputs of shape {widths}"], None
        if self.num_layers > 1:
            return [
                "references='data' needs num_layers=1: deeper layers read hidden states, which are no training data"
            ], None
        try:
            rows = to_samples("reference_data", given)
        except InvalidInputError as error:
            return [str(error)], None
        if rows.shape[1] not in (self.input_size, self.hidden_size + self.input_size) or len(rows) < needed:
            return [f"reference_data has shape {tuple(rows.shape)}, expected {widths}"], None
        return [], rows.detach()

    def _choose(self, rows: Tensor | None) -> Tensor | None:
        needed = self.options.n_reference_sets * self.options.n_references
        if rows is None or len(rows) == needed:
            return rows
        return rows[torch.randperm(len(rows))[:needed].to(rows.device)]

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        o = self.options
        cell: QKCell = self.cells[0]  # type: ignore[assignment]
        return (
            f"{super().extra_repr()}, {cell.describe()}, n_references={o.n_references}, references={o.references!r}, "
            f"readout={o.readout!r}, gate_kernel={o.gate_kernel!r}"
            + (f", time steps in torch: {cell.torch_because}" if cell.torch_because else "")
        )


def _warn_of(feature_map: FeatureMap | None) -> None:
    if feature_map is not None and feature_map.declared is None:
        warnings.warn(
            f"feature map {feature_map.name!r} has no declared angles, so every time step runs in torch, which is slower; "
            "declare its angles (dqk.kernels.Angle) for compiled time steps",
            stacklevel=3,
        )
