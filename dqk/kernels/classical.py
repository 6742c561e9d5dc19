"""What the classical twins share: samples times a bandwidth and, if they are to be trained, a weight for each feature."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dqk.errors import real_number, unknown_name, whole_number
from dqk.kernels.base import Kernel


class ClassicalKernel(Kernel):
    """A kernel of `b w x`, computed in this process.

    Args:
        n_features: length d of a sample.
        bandwidth: b, above 0.
        trainable: `scale` for trainable weights w, 1 at the start; None for none.

    Attributes:
        params: the weights w, shape (d,); None if they are not trainable.

    Raises:
        InvalidInputError: for arguments that cannot be used.
    """

    params_kind = "scale"
    runs_circuits = False

    def __init__(self, n_features: int, bandwidth: float = 1.0, trainable: Literal["scale"] | None = None):
        super().__init__()
        if trainable not in (None, "scale"):
            raise unknown_name("trainable", trainable, ["None", "scale"])
        self._n_features = whole_number("n_features", n_features, 1)
        self.bandwidth = real_number("bandwidth", bandwidth, above=0)
        self.trainable = trainable
        self.params = nn.Parameter(torch.ones(self._n_features)) if trainable else None

    @property
    def n_features(self) -> int:
        """Length d of a sample."""
        return self._n_features

    def _scaled(self, x: Tensor) -> Tensor:
        x = x if self.bandwidth == 1.0 else self.bandwidth * x
        return x if self.params is None else self.params.to(x) * x

    def _keep_training(self, before: Kernel, changed: set[str]) -> None:
        if not changed & {"n_features", "trainable"}:
            self.params = getattr(before, "params", None)

    def extra_repr(self) -> str:
        """Shown by `print(kernel)`."""
        return f"n_features={self._n_features}, bandwidth={self.bandwidth:g}"
