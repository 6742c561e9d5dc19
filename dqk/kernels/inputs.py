"""From what users pass (NumPy, lists, data frames, torch) to checked tensors, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk.errors import InvalidInputError

_FLOATS = (torch.float32, torch.float64)


def to_samples(name: str, values: Any, n_features: int | None = None) -> Tensor:
    """Samples as a float tensor of shape (N, d).

    Args:
        name: how messages call them.
        values: an array, list, data frame or tensor; integers become float64, float32 and float64 stay.
        n_features: expected d.

    Returns:
        A tensor of shape (N, d); it shares memory with the input where it can, and keeps a tensor's graph.

    Raises:
        InvalidInputError: for another shape, complex, half-precision or non-numeric values, sparse tensors, masked entries,
            no samples, NaN or infinity.
    """
    tensor = values if isinstance(values, Tensor) else _from_array(name, values)
    if tensor.layout != torch.strided or tensor.is_meta:
        raise InvalidInputError(
            f"{name} is a tensor of layout {tensor.layout} on {tensor.device}, expected a dense one with values, as "
            "to_dense() gives it"
        )
    if tensor.is_complex():
        raise InvalidInputError(
            f"{name} is complex ({tensor.dtype}), expected real features; pass real and imaginary parts"
        )
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    if tensor.dtype not in _FLOATS:
        raise InvalidInputError(
            f"{name} has dtype {tensor.dtype}, expected float32 or float64; half precision is not enough for angles and "
            "states: convert it first, for example to float32"
        )
    expected = f"(samples, {'features' if n_features is None else n_features})"
    if tensor.dim() != 2:
        hint = "; one sample is x[None, :]" if tensor.dim() == 1 else ""
        raise InvalidInputError(f"{name} has shape {tuple(tensor.shape)}, expected two dimensions {expected}{hint}")
    if 0 in tensor.shape:
        raise InvalidInputError(
            f"{name} has shape {tuple(tensor.shape)}: there is nothing to compute; expected {expected}"
        )
    if n_features is not None and tensor.shape[1] != n_features:
        raise InvalidInputError(
            f"{name} has {tensor.shape[1]} features, expected {n_features}; choose another n_qubits or reduce the features"
        )
    if not torch.isfinite(tensor).all():
        row, column = (int(i) for i in torch.nonzero(~torch.isfinite(tensor))[0])
        raise InvalidInputError(
            f"{name}[{row}, {column}] is {tensor[row, column].item()}, expected finite numbers; drop or fill such samples"
        )
    return tensor


def _from_array(name: str, values: Any) -> Tensor:
    if isinstance(values, np.ma.MaskedArray):
        n_masked = int(np.ma.count_masked(values))
        if n_masked:
            raise InvalidInputError(
                f"{name} has {n_masked} masked entries, expected all of them; fill them ({name}.filled(value)) or drop "
                f"their samples ({name}[~{name}.mask.any(axis=1)])"
            )
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInputError(f"{name} is not a rectangular array: {error}") from error
    except RuntimeError as error:  # torch, for tensors within a list
        raise InvalidInputError(f"{name} cannot be read as an array: {error}; torch.stack makes one tensor") from error
    if array.dtype.kind not in "fiubc":
        raise InvalidInputError(f"{name} has dtype {array.dtype}, expected numbers")
    if array.dtype.kind in "iub" or array.dtype == np.longdouble:
        array = array.astype(np.float64)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native if native.flags.writeable else native.copy()))
