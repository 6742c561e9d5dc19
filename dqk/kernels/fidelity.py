"""The fidelity kernel: the squared overlap of two encoded samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dqk.backends.base import Backend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, whole_number
from dqk.kernels.base import Engine
from dqk.kernels.encoded import EncodedKernel
from dqk.kernels.feature_map import FeatureMap
from dqk.kernels.shot_plan import ShotPlan


class FidelityKernel(EncodedKernel):
    """`k(x, y) = |<phi(x)|phi(y)>|^2` for any feature map phi.

    Args:
        feature_map: what encodes a sample; its trainable parameters become `kernel.params`.
        backend: `auto`, the name of an installed backend, or a backend object.
        shots: measurements per entry, or a `ShotPlan`; None for exact values.
        executor: where tiles run; None for this process.

    Raises:
        InvalidInputError: if the feature map is none, or shots is no number of measurements.

    Example:
        >>> import numpy as np
        >>> from dqk import FidelityKernel
        >>> from dqk.kernels.feature_maps import qklstm_feature_map
        >>> kernel = FidelityKernel(qklstm_feature_map(1))
        >>> print(kernel(np.array([[0.0]]), np.array([[np.pi / 2]])).round(12))  # (1 + cos^2(pi/2) + 0) / 2
        [[0.5]]

    References:
        Havlíček et al., arXiv 1804.11326; QK-LSTM, arXiv 2411.13225, equation (4).
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        backend: str | Backend = "auto",
        shots: int | ShotPlan | None = None,
        executor: Any = None,
    ):
        super().__init__(feature_map, backend)
        if shots is not None and not isinstance(shots, ShotPlan):
            shots = whole_number("shots", shots, 1, "None (exact), a ShotPlan or ")
        self.shots = shots
        if isinstance(shots, int) and shots >= 2**53:
            raise InvalidInputError(f"shots is {shots}, expected less than 2**53: frequencies are float64")
        self.executor = executor

    @property
    def circuit(self) -> Circuit:
        """The part of the feature map's circuit that can influence the kernel."""
        return simplify_for_fidelity(self.feature_map.circuit).circuit

    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        params = None if self.params is None else self.params.to(x)
        ax, shared = self.feature_map.finite_angles(x, params)
        ay = None if y is None else self.feature_map.finite_angles(y, params)[0]
        return engine.fidelity(self.backend, self.circuit, ax, ay, shared, log)
