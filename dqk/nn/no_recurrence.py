"""A recurrent network that is not allowed to remember: what is learned from each time step alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class NoRecurrence(nn.Module):
    """Any recurrent network with h_{t-1} = c_{t-1} = 0 at every time step: the same parameters, no context.

    Args:
        recurrent: a network with `nn.LSTM`'s interface and `batch_first=True`.
    """

    def __init__(self, recurrent: nn.Module):
        super().__init__()
        inner: Any = recurrent
        self.recurrent = inner
        self.input_size, self.hidden_size = inner.input_size, inner.hidden_size
        self.batch_first, self.bidirectional = True, inner.bidirectional

    def forward(self, input: Tensor | PackedSequence) -> tuple[Tensor | PackedSequence, None]:
        """Outputs, laid out as the input, and no last state.

        Args:
            input: shape (B, T, features), or packed.
        """
        if isinstance(input, PackedSequence):
            output = self.recurrent(input.data.unsqueeze(1))[0].squeeze(1)
            return input._replace(data=output), None
        rows = input.reshape(-1, 1, input.shape[-1])
        return self.recurrent(rows)[0].view(*input.shape[:-1], -1), None
