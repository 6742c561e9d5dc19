"""A forecaster around any recurrent network with `nn.LSTM`'s interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dqk.errors import InvalidInputError
from dqk.nn.recurrent import whole_number


class SequenceForecaster(nn.Module):
    """Recurrent network, linear head on its last output: the next values of a series, all at once.

    Args:
        recurrent: `QKLSTM`, `QLSTM` or `nn.LSTM`, with `batch_first=True` and one direction.
        horizon: values to forecast.

    Raises:
        InvalidInputError: names everything about the arguments that cannot work.

    Example:
        >>> import torch
        >>> from dqk.nn import QKLSTM, SequenceForecaster
        >>> forecaster = SequenceForecaster(QKLSTM(1, 6, batch_first=True, backend="reference"), horizon=3)
        >>> forecaster(torch.randn(2, 10, 1)).shape
        torch.Size([2, 3])
    """

    def __init__(self, recurrent: nn.Module, horizon: int = 1):
        super().__init__()
        problems = whole_number("horizon", horizon)
        if not hasattr(recurrent, "hidden_size") or not hasattr(recurrent, "batch_first"):
            problems.append(f"recurrent is a {type(recurrent).__name__}, expected a QKLSTM, QLSTM or nn.LSTM")
        else:
            if not recurrent.batch_first:
                problems.append("recurrent has batch_first=False, expected True")
            if recurrent.bidirectional:
                problems.append(
                    "recurrent has bidirectional=True, expected False: the last output would have read one value"
                )
        if problems:
            raise InvalidInputError("SequenceForecaster cannot be built: " + "; ".join(problems))
        like = next(recurrent.parameters())
        width: Any = getattr(recurrent, "proj_size", 0) or recurrent.hidden_size
        self.recurrent = recurrent
        self.head = nn.Linear(width, horizon, device=like.device, dtype=like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Forecasts.

        Args:
            x: shape (B, T, features), oldest first.

        Returns:
            Shape (B, horizon).

        Raises:
            InvalidInputError: for another shape, dtype or device, or values that are not finite.
        """
        if x.dim() != 3:
            raise InvalidInputError(f"x has shape {tuple(x.shape)}, expected (B, T, features)")
        return self.head(self.recurrent(x)[0][:, -1])
