"""dqk kernels inside scikit-learn: estimators, features and Gaussian processes. Needs `pip install 'dqk[sklearn]'`.

A kernel is a callable that `SVC(kernel=kernel)` takes as it is. What is here computes whole matrices where scikit-learn would call
a kernel for each pair of samples, passes its checks of estimators, and keeps `import dqk` free of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dqk.errors import BackendUnavailableError

if TYPE_CHECKING:
    from dqk.learn._classifier import KernelClassifier
    from dqk.learn._gaussian_process import GPKernel
    from dqk.learn._nystroem import NystroemFeatures
    from dqk.learn._regressor import KernelRegressor

__all__ = ["GPKernel", "KernelClassifier", "KernelRegressor", "NystroemFeatures"]

_HOMES = {
    "GPKernel": "_gaussian_process",
    "KernelClassifier": "_classifier",
    "KernelRegressor": "_regressor",
    "NystroemFeatures": "_nystroem",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dqk.learn' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"dqk.learn.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "sklearn":
            raise
        raise BackendUnavailableError(f"{name} needs scikit-learn: pip install 'dqk[sklearn]'") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
