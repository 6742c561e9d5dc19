"""cuStateVec's batched matrices on states that torch owns: one handle for each device and process.

Signatures of `cuquantum.bindings.custatevec` 26.9 (`dqk` passes all arguments by position):
apply_matrix_batched_get_workspace_size(handle, sv_data_type, n_index_bits, n_svs, sv_stride, map_type, matrix_indices, matrices,
matrix_data_type, layout, adjoint, n_matrices, n_targets, n_controls, compute_type) -> bytes;
apply_matrix_batched(handle, batched_sv, sv_data_type, n_index_bits, n_svs, sv_stride, map_type, matrix_indices, matrices,
matrix_data_type, layout, adjoint, n_matrices, targets, n_targets, controls, control_bit_values, n_controls, compute_type,
extra_workspace, extra_workspace_size_in_bytes). `matrix_indices` and `matrices` may be addresses on the device.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import torch
from torch import Tensor

from dqk.backends import gpu
from dqk.backends.batching import little_endian
from dqk.errors import BackendUnavailableError


def load_library() -> tuple[Any, Any, Any]:
    """The binding and its enumerations of data types and compute types.

    Raises:
        BackendUnavailableError: if a package or a library that it needs cannot be loaded; says which.
    """
    try:
        from cuquantum import ComputeType, cudaDataType
        from cuquantum.bindings import custatevec
    except Exception as error:  # besides ImportError, what the search for shared libraries raises
        raise BackendUnavailableError(
            f"backend 'custatevec': cuQuantum cannot be loaded ({type(error).__name__}: {error}); pip install 'dqk[cuda13]' (or "
            "cuda12) brings all that it needs; if packages were copied by hand, LD_LIBRARY_PATH has to name the folders of "
            "libcustatevec and libcublas"
        ) from error
    return custatevec, cudaDataType, ComputeType


class Library:
    """A handle on one device. Calls are queued on torch's current stream of that device.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.lock = threading.RLock()
        self._binding, data_types, compute_types = load_library()
        self._types = {
            torch.complex64: (int(data_types.CUDA_C_32F), int(compute_types.COMPUTE_32F)),
            torch.complex128: (int(data_types.CUDA_C_64F), int(compute_types.COMPUTE_64F)),
        }
        self._workspaces: dict[tuple[Any, ...], int] = {}
        with gpu.current(device):
            try:
                self._handle = self._binding.create()
            except Exception as error:
                raise BackendUnavailableError(
                    f"backend 'custatevec': cuStateVec does not start on {device}: {type(error).__name__}: {error}"
                ) from error

    def applier(self, n_qubits: int, count: int) -> Any:
        """What `dqk.backends.batched_states` calls for up to 2 x `count` states; takes the current stream."""
        indices = torch.arange(count, dtype=torch.int32, device=self.device).repeat(2)
        self._binding.set_stream(self._handle, _stream_address(self.device))

        def apply(states: Tensor, matrices: Tensor, wires: tuple[int, ...], adjoint: bool) -> None:
            self._apply(states, matrices, wires, adjoint, n_qubits, indices)

        return apply

    def _apply(
        self, states: Tensor, matrices: Tensor, wires: tuple[int, ...], adjoint: bool, n_qubits: int, indices: Tensor
    ) -> None:
        assert states.stride(1) == 1 and matrices.is_contiguous() and states.dtype == matrices.dtype
        data_type, compute_type = self._types[states.dtype]
        kinds = self._binding.MatrixMapType
        shared = len(matrices) == 1
        kind, table = (kinds.BROADCAST, 0) if shared else (kinds.MATRIX_INDEXED, indices.data_ptr())
        row, targets = self._binding.MatrixLayout.ROW, little_endian(wires, n_qubits)
        shape: tuple[Any, ...] = (
            *(data_type, n_qubits, len(states), states.stride(0), kind),
            *(table, matrices.data_ptr(), data_type, row, int(adjoint), len(matrices)),
        )
        key = (data_type, n_qubits, len(states), states.stride(0), shared, adjoint, len(matrices), len(targets))
        with gpu.current(self.device):
            if key not in self._workspaces:
                self._workspaces[key] = self._binding.apply_matrix_batched_get_workspace_size(
                    self._handle, *shape, len(targets), 0, compute_type
                )
            # Freed after the call is queued, and used again only by what is queued later on this stream.
            size = self._workspaces[key]
            space = torch.empty(size, dtype=torch.uint8, device=self.device)
            self._binding.apply_matrix_batched(
                self._handle,
                states.data_ptr(),
                *shape,
                targets,
                len(targets),
                [],
                [],
                0,
                compute_type,
                space.data_ptr() if size else 0,
                size,
            )


def _stream_address(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


_libraries: dict[tuple[int, torch.device], Library] = {}
_lock = threading.Lock()


def library_for(device: torch.device) -> Library:
    """The handle of this process on a device, made when it is first asked for. It lives as long as the process."""
    key = os.getpid(), device
    with _lock:
        if key not in _libraries:
            _libraries[key] = Library(device)
        return _libraries[key]


def _forget() -> None:
    """A forked child can use neither its parent's CUDA nor its lock."""
    global _lock
    _lock = threading.Lock()
    _libraries.clear()


os.register_at_fork(after_in_child=_forget)
