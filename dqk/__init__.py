"""dqk - distributed quantum kernels.

Gram matrices of quantum kernels, the QK-LSTM, and what they need to run on HPC systems.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dqk._gram import gram
from dqk.kernels import FidelityKernel, Kernel, ProjectedKernel

if TYPE_CHECKING:
    from dqk.nn import QKLSTM, QLSTM

__version__ = "0.1.0"
__all__ = ["QKLSTM", "QLSTM", "FidelityKernel", "Kernel", "ProjectedKernel", "__version__", "gram"]


def __getattr__(name: str) -> Any:
    """Loads the networks on first use, so that Gram matrices alone start faster."""
    if name in ("QKLSTM", "QLSTM"):
        return getattr(importlib.import_module("dqk.nn"), name)
    raise AttributeError(f"module 'dqk' has no attribute {name!r}")
