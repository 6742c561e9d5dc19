"""What QKLSTM and QLSTM share: the LSTM update, time steps, layers, directions, packed sequences: `nn.LSTM`'s contract.

A cell says how the four gates' pre-activations come from the input and the hidden state; everything else is here.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dqk.errors import InvalidInputError
from dqk.nn.layout import Layout

GATES = ("forget", "input", "output", "cell")
"""The order of the gates in every tensor that has an axis for them."""

_PRECISIONS = (torch.float32, torch.float64)

Step = Callable[[Tensor, Tensor], Tensor]
States = tuple[Tensor, Tensor]


def require_finite(data: Tensor) -> None:
    """Raises InvalidInputError with the place of the first number that is not finite."""
    # A sum costs a third of isfinite().all(), and NaN and infinity always show in it.
    if not math.isfinite(data.detach().sum()) and not torch.isfinite(data).all():
        place = torch.nonzero(~torch.isfinite(data))[0].tolist()
        raise InvalidInputError(f"input{place} is {data[tuple(place)].item()}, expected finite numbers")


class GateCell(nn.Module, abc.ABC):
    """The gates of one layer in one direction, with v_t = [h_{t-1}; x_t] as in arXiv 2411.13225.

    Args:
        input_size: number of features D of x_t.
        hidden_size: number of features H of h_t.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

    @abc.abstractmethod
    def begin(self, inputs: Tensor) -> tuple[Tensor, Step]:
        """Does once per forward pass what does not depend on the hidden state.

        Args:
            inputs: x_t of all time steps and samples, shape (S, D).

        Returns:
            Projected inputs, shape (S, P), and the step: from b rows of them (b, P) and hidden states (b, H) to the
            pre-activations (4, b, H) in the order of `GATES`.
        """

    @property
    @abc.abstractmethod
    def weight(self) -> Tensor:
        """A parameter that shows dtype and device."""

    @abc.abstractmethod
    def reset_parameters(self) -> None:
        """Draws the parameters anew."""

    def run(
        self, x: Tensor, layout: Layout, h0: Tensor | None, c0: Tensor | None, reverse: bool, check: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs over all time steps.

        Args:
            x: inputs, shape (..., D).
            layout: of the inputs.
            h0: initial hidden states, shape (1, B, H); None for zeros.
            c0: initial cell states, likewise.
            reverse: from the last time step to the first.
            check: whether the inputs are a user's, who has to know if they are not finite.

        Returns:
            Outputs (..., H), laid out as the inputs, and every sequence's last hidden and cell state, (1, B, H) each.

        Raises:
            InvalidInputError: for inputs that are not finite, if asked to check.
        """
        if check:
            require_finite(x)
        zeros = x.new_zeros(layout.batch, self.hidden_size)
        h, c = (zeros if state is None else state[0] for state in (h0, c0))
        rows, h, c = self.run_rows(layout.to_rows(x), layout.batch_sizes, h, c, reverse)
        return layout.from_rows(rows, x), h.unsqueeze(0), c.unsqueeze(0)

    def run_rows(
        self, inputs: Tensor, batch_sizes: Sequence[int], h0: Tensor, c0: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs over all time steps, one after the other.

        Args:
            inputs: time steps one after another, longest sequence first, shape (S, D) with S = sum(batch_sizes).
            batch_sizes: number of sequences that reach each time step; never growing.
            h0: initial hidden states, shape (B, H).
            c0: initial cell states, shape (B, H).
            reverse: from the last time step to the first.

        Returns:
            Outputs, laid out as the inputs, shape (S, H), and every sequence's last hidden and cell state, (B, H) each.
        """
        projected, step = self.begin(inputs)
        rows = projected.split(list(batch_sizes))
        outputs: list[Tensor] = [h0] * len(rows)
        h, c = h0, c0
        for t in range(len(rows) - 1, -1, -1) if reverse else range(len(rows)):
            size = batch_sizes[t]
            if size == len(h0):
                h, c = lstm_update(step(rows[t], h), c)
                outputs[t] = h
            else:  # the other sequences have ended, or begin later
                new, memory = lstm_update(step(rows[t], h[:size]), c[:size])
                outputs[t] = new
                h, c = torch.cat((new, h[size:])), torch.cat((memory, c[size:]))
        return torch.cat(outputs), h, c


def lstm_update(preactivations: Tensor, c: Tensor) -> States:
    """The LSTM update: `c' = f * c + i * g`, `h' = o * tanh(c')`.

    Args:
        preactivations: shape (4, b, H), in the order of `GATES`.
        c: cell states, shape (b, H).

    Returns:
        New hidden and cell states, shape (b, H) each.
    """
    switches, candidate = preactivations.split((3, 1))
    forget, write, show = switches.sigmoid().unbind(0)
    c = torch.addcmul(forget * c, write, candidate.tanh().squeeze(0))
    return show * c.tanh(), c


def whole_number(name: str, value: object, least: int = 1) -> list[str]:
    """What is wrong with a number of things; empty if nothing is."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return []
    return [f"{name} is {value!r}, expected a whole number of at least {least}"]


def yes_or_no(**values: object) -> list[str]:
    """What is wrong with some switches; empty if nothing is."""
    return [
        f"{name} is {value!r}, expected True or False" for name, value in values.items() if not isinstance(value, bool)
    ]


class GatedRecurrence(nn.Module, abc.ABC):
    """Layers and directions of cells behind `nn.LSTM`'s interface. Subclasses check their options, then call `_build`.

    Args:
        input_size: number of features of x_t.
        hidden_size: number of features of h_t.
        num_layers: number of stacked layers.
        bias: whether the gates have biases.
        batch_first: whether the batch is the first axis of padded input and output.
        dropout: probability of dropout on the output of every layer but the last, in training.
        bidirectional: whether a second cell per layer runs from the end to the beginning.
    """

    cells: nn.ModuleList

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
    ):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional

    def _problems(self) -> list[str]:
        problems = whole_number("input_size", self.input_size) + whole_number("hidden_size", self.hidden_size)
        problems += whole_number("num_layers", self.num_layers)
        problems += yes_or_no(bias=self.bias, batch_first=self.batch_first, bidirectional=self.bidirectional)
        number = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        if not (number and 0 <= self.dropout <= 1):
            problems.append(f"dropout is {self.dropout!r}, expected a probability from 0 to 1")
        return problems

    def _layer_input_sizes(self) -> list[int]:
        deeper = self.hidden_size * self._n_directions
        return [self.input_size, *[deeper] * (self.num_layers - 1)]

    def _build(self, make_cell: Callable[[int], GateCell]) -> None:
        """One cell per layer and direction; `make_cell` takes the layer's input size."""
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout={self.dropout} has no effect with num_layers=1: dropout acts between layers", stacklevel=3
            )
        sizes = [size for size in self._layer_input_sizes() for _ in range(self._n_directions)]
        self.cells = nn.ModuleList(make_cell(size) for size in sizes)

    @property
    def _first(self) -> GateCell:
        # `self.cells[0]` takes ten times as long, which counts in a small network.
        return self._modules["cells"]._modules["0"]  # type: ignore[union-attr, return-value]

    @property
    def _n_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        for cell in self.cells:
            cell.reset_parameters()  # type: ignore[operator]

    def flatten_parameters(self) -> None:
        """Does nothing; programs written for `nn.LSTM` call it."""

    def forward(
        self, input: Tensor | PackedSequence, hx: States | None = None
    ) -> tuple[Tensor | PackedSequence, States]:
        """Runs the network over sequences.

        Args:
            input: shape (T, B, input_size); (B, T, input_size) with `batch_first`; (T, input_size) for one sequence
                without a batch axis; or a `PackedSequence`.
            hx: initial (h_0, c_0), each of shape (num_layers * directions, B, hidden_size), without B for one sequence;
                None for zeros.

        Returns:
            The outputs h_t of the last layer, laid out as the input with directions * hidden_size features (forward
            direction first), and the last (h_n, c_n), shaped as `hx`.

        Under `torch.autocast` everything runs, and is returned, in the precision of the parameters.

        Raises:
            InvalidInputError: for another shape, dtype or device, or values that are not finite.
        """
        weight = self._first.weight
        if torch.is_autocast_enabled(weight.device.type):
            return self._without_autocast(input, hx)
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx)
        if not isinstance(input, Tensor):
            raise InvalidInputError(f"input is a {type(input).__name__}, expected a tensor or a PackedSequence")
        shape = input.shape
        if len(shape) not in (2, 3):
            raise InvalidInputError(f"input has shape {tuple(shape)}, expected {self._expected}")
        self._check_input(input, weight)
        if len(shape) == 2:
            h0, c0 = self._initial_states(hx, input, 1, batched=False)
            output, h, c = self._layers(input, Layout(len(input), 1), h0, c0)
            return output, (h.squeeze(1), c.squeeze(1))
        first, second, _ = shape
        layout = Layout(second, first, True) if self.batch_first else Layout(first, second)
        h0, c0 = self._initial_states(hx, input, layout.batch, batched=True)
        output, h, c = self._layers(input, layout, h0, c0)
        return output, (h, c)

    def _without_autocast(
        self, input: Tensor | PackedSequence, hx: States | None
    ) -> tuple[Tensor | PackedSequence, States]:
        """In the precision of the parameters: angles of 8 bits would be no angles."""
        weight = self._first.weight

        def cast(value: Any) -> Any:
            return value.to(weight.dtype) if isinstance(value, Tensor | PackedSequence) else value

        states: Any = tuple(map(cast, hx)) if isinstance(hx, tuple | list) else hx
        with torch.autocast(weight.device.type, enabled=False):
            return self.forward(cast(input), states)

    def _run_packed(self, input: PackedSequence, hx: States | None) -> tuple[PackedSequence, States]:
        rows, sizes, order, inverse = input
        self._check_input(rows, self._first.weight)
        batch = int(sizes[0])
        h0, c0 = self._initial_states(hx, rows, batch, batched=True)
        if order is not None and h0 is not None and c0 is not None:
            h0, c0 = h0.index_select(1, order), c0.index_select(1, order)
        output, h, c = self._layers(rows, Layout(len(sizes), batch, packed=sizes), h0, c0)
        if inverse is not None:
            h, c = h.index_select(1, inverse), c.index_select(1, inverse)
        return PackedSequence(output, sizes, order, inverse), (h, c)

    def _layers(self, x: Tensor, layout: Layout, h0: Tensor | None, c0: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if self.num_layers == self._n_directions == 1:
            return self._first.run(x, layout, h0, c0, False, True)
        last: list[tuple[Tensor, Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self._n_directions):
                index = layer * self._n_directions + direction
                cell: GateCell = self.cells[index]  # type: ignore[assignment]
                h, c = (None if state is None else state[index : index + 1] for state in (h0, c0))
                output, h, c = cell.run(x, layout, h, c, reverse=direction == 1, check=layer == 0)
                outputs.append(output)
                last.append((h, c))
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
            if self.dropout and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, torch.cat([h for h, _ in last]), torch.cat([c for _, c in last])

    @property
    def _expected(self) -> str:
        layout = "(B, T, {0})" if self.batch_first else "(T, B, {0})"
        return f"{layout.format(self.input_size)}, or (T, {self.input_size}) for one sequence without a batch axis"

    def _check_input(self, data: Tensor, weight: Tensor) -> None:
        if data.dtype not in _PRECISIONS:
            raise InvalidInputError(
                f"input is {data.dtype}, expected {' or '.join(map(str, _PRECISIONS))}; use model.float() and input.float()"
            )
        if data.dtype != weight.dtype or data.device != weight.device:
            raise InvalidInputError(
                f"input is {data.dtype} on {data.device}, the parameters are {weight.dtype} on {weight.device}; "
                f"convert one of them: input.to({weight.dtype}) or model.to({data.dtype}), and likewise for devices"
            )
        if data.shape[-1] != self.input_size:
            raise InvalidInputError(
                f"input has {data.shape[-1]} features (shape {tuple(data.shape)}), expected {self._expected}"
            )
        if data.numel() == 0:
            raise InvalidInputError(
                f"input has shape {tuple(data.shape)}, without time steps or sequences; expected {self._expected}"
            )

    def _initial_states(
        self, hx: States | None, like: Tensor, batch: int, batched: bool
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        if hx is None:
            return None, None
        if not (isinstance(hx, tuple | list) and len(hx) == 2):
            raise InvalidInputError(f"hx is a {type(hx).__name__}, expected a pair (h_0, c_0) of tensors")
        count = self.num_layers * self._n_directions
        expected = (count, batch, self.hidden_size) if batched else (count, self.hidden_size)
        for name, state in zip(("h_0", "c_0"), hx, strict=True):
            if not isinstance(state, Tensor):
                raise InvalidInputError(f"{name} is a {type(state).__name__}, expected a tensor")
            if tuple(state.shape) != expected:
                raise InvalidInputError(
                    f"{name} has shape {tuple(state.shape)}, expected {expected}: (num_layers * directions, "
                    f"{'B, ' if batched else ''}hidden_size) for this {'batch' if batched else 'single sequence'}"
                )
            if state.dtype != like.dtype or state.device != like.device:
                raise InvalidInputError(
                    f"{name} is {state.dtype} on {state.device}, the input {like.dtype} on {like.device}"
                )
            if not torch.isfinite(state.detach()).all():
                raise InvalidInputError(f"{name} has values that are not finite")
        h, c = hx
        return (h, c) if batched else (h.unsqueeze(1), c.unsqueeze(1))

    def extra_repr(self) -> str:
        """Shown by `print(module)`: the sizes, and what differs from the defaults."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        shown += [f"{k}={getattr(self, k)}" for k, default in defaults.items() if getattr(self, k) != default]
        return ", ".join(shown)
