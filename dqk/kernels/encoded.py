"""What kernels that encode samples in circuits share: a feature map, its trainable parameters and its bandwidth."""

from __future__ import annotations

from torch import nn

from dqk.backends.base import Backend
from dqk.errors import InvalidInputError, real_number
from dqk.kernels.base import Kernel
from dqk.kernels.feature_map import FeatureMap


class EncodedKernel(Kernel):
    """A kernel of the states that a feature map makes of samples.

    Args:
        feature_map: what encodes a sample; its trainable parameters become `kernel.params`.
        backend: `auto`, the name of an installed backend, or a backend object.

    Attributes:
        params: trainable parameters of the map, shape (n_params,); None if it has none.

    Raises:
        InvalidInputError: if the feature map is none.
    """

    _settings = ("bandwidth",)

    def __init__(self, feature_map: FeatureMap, backend: str | Backend = "auto"):
        super().__init__()
        if not isinstance(feature_map, FeatureMap):
            raise InvalidInputError(
                f"feature_map is {feature_map!r}, expected a FeatureMap such as zz_feature_map(4) from dqk.kernels.feature_maps"
            )
        self.feature_map = feature_map
        self.backend = backend
        self.params = nn.Parameter(feature_map.initial_params()) if feature_map.n_params else None

    @property
    def n_features(self) -> int:
        """Length d of a sample."""
        return self.feature_map.n_features

    @property
    def params_kind(self) -> str:
        """What the trainable parameters are, see `FeatureMap`."""
        return self.feature_map.params_kind

    @property
    def bandwidth(self) -> float:
        """Multiplies samples before anything else. Trained parameters stay when it is set."""
        return self.feature_map.bandwidth

    @bandwidth.setter
    def bandwidth(self, value: float) -> None:
        self.feature_map = self.feature_map.with_bandwidth(real_number("bandwidth", value, above=0))

    def _keep_training(self, before: Kernel, changed: set[str]) -> None:
        if "feature_map" not in changed:
            self.params = getattr(before, "params", None)

    def extra_repr(self) -> str:
        """Shown by `print(kernel)`."""
        return f"{self.feature_map.name}, n_qubits={self.feature_map.n_qubits}, backend={self.backend!r}"
