"""The projected kernel: a Gaussian of the distance between one-qubit reduced states.

Choose it where the fidelity kernel concentrates: it keeps a useful spread on many qubits.
"""

from __future__ import annotations

from torch import Tensor

from dqk.backends.base import Backend
from dqk.errors import real_number
from dqk.kernels.base import Engine
from dqk.kernels.encoded import EncodedKernel
from dqk.kernels.feature_map import FeatureMap
from dqk.kernels.rbf import gaussian


class ProjectedKernel(EncodedKernel):
    """`k(x, y) = exp(-gamma sum_q ||rho_q(x) - rho_q(y)||_F^2)` with one-qubit reduced density matrices `rho_q`.

    Args:
        feature_map: what encodes a sample. Its circuit is used whole: gates that cancel in a fidelity matter here.
        gamma: inverse width, above 0.
        backend: `auto` or the name of, or a, backend that gives expectation values.

    Raises:
        InvalidInputError: if the feature map is none, or gamma is no finite number above 0.

    References:
        Huang et al., "Power of data in quantum machine learning", arXiv 2011.01938, equation (9).
    """

    def __init__(self, feature_map: FeatureMap, gamma: float = 1.0, backend: str | Backend = "auto"):
        super().__init__(feature_map, backend)
        self.gamma = real_number("gamma", gamma, above=0)

    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        n = self.feature_map.n_qubits
        words = ["I" * q + letter + "I" * (n - q - 1) for q in range(n) for letter in "XYZ"]
        params = None if self.params is None else self.params.to(x)

        def bloch(samples: Tensor) -> Tensor:
            angles, shared = self.feature_map.finite_angles(samples, params)
            return engine.expectations(self.backend, self.feature_map.circuit, angles, words, shared)

        # ||rho - rho'||_F^2 = |r - r'|^2 / 2 for Bloch vectors r.
        return gaussian(bloch(x), None if y is None else bloch(y), self.gamma / 2, log)

    def extra_repr(self) -> str:
        """Shown by `print(kernel)`."""
        return f"{super().extra_repr()}, gamma={self.gamma:g}"
