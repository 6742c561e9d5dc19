"""dqk - distributed quantum kernels.

Gram matrices of quantum kernels, the QK-LSTM, and what they need to run on HPC systems.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dqk._gram import gram
    from dqk.kernels import FidelityKernel, Kernel, ProjectedKernel
    from dqk.nn import QKLSTM, QLSTM

__version__ = "0.1.0"
__all__ = ["QKLSTM", "QLSTM", "FidelityKernel", "Kernel", "ProjectedKernel", "__version__", "gram"]

# Where the public names are. They are loaded on first use: torch takes seconds, and `dqk --help` needs none of it.
_HOMES = {
    "QKLSTM": "dqk.nn",
    "QLSTM": "dqk.nn",
    "FidelityKernel": "dqk.kernels",
    "Kernel": "dqk.kernels",
    "ProjectedKernel": "dqk.kernels",
    "gram": "dqk._gram",
}
_PACKAGES = "backends circuit cluster data errors kernels learn nn scheduler testing training".split()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"dqk.{name}")
    raise AttributeError(f"module 'dqk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
