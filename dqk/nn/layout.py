"""Where the time steps and the samples of a sequence lie in a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class Layout:
    """The order of a sequence's rows.

    Args:
        n_steps: number of time steps T.
        batch: number of sequences B.
        batch_first: whether padded rows have the shape (B, T) instead of (T, B), or (T,) where B is 1.
        packed: None for padded rows. Else rows have the shape (S,): time steps one after another, longest sequence first,
            and this is the number of sequences that reach each time step, never growing, (T,) int64.

    Attributes:
        numbers: what compiled code takes, see `dqk.backends.compiled.cell.Call`, but for the direction.
    """

    __slots__ = ("_offsets", "batch", "batch_first", "n_steps", "numbers", "packed")

    def __init__(self, n_steps: int, batch: int, batch_first: bool = False, packed: Tensor | None = None):
        self.n_steps, self.batch, self.batch_first, self.packed = n_steps, batch, batch_first, packed
        if packed is None:
            self.numbers = n_steps, batch, batch_first, 0, 0
        else:
            self._offsets = packed.cumsum(0) - packed  # kept, for compiled code gets its address
            self.numbers = n_steps, batch, batch_first, packed.data_ptr(), self._offsets.data_ptr()

    @property
    def batch_sizes(self) -> Sequence[int]:
        """Number of sequences that reach each time step."""
        return [self.batch] * self.n_steps if self.packed is None else self.packed.tolist()

    def to_rows(self, x: Tensor) -> Tensor:
        """Rows of features, time steps one after another, shape (S, features)."""
        if self.batch_first and x.dim() == 3:
            x = x.transpose(0, 1)
        return x.reshape(-1, x.shape[-1])

    def from_rows(self, rows: Tensor, like: Tensor) -> Tensor:
        """Rows (S, features) laid out like a tensor of this layout."""
        if self.batch_first and like.dim() == 3:
            return rows.view(self.n_steps, self.batch, -1).transpose(0, 1)
        return rows.view(*like.shape[:-1], -1)
