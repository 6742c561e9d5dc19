"""What cuStateVec 26.9 documents of the two functions that dqk calls, on the CPU: states, matrices and indices by address.

Written from the library's header: bit 0 is the least significant; `targets[0]` is the least significant bit of a matrix's index;
states lie `sv_stride` amplitudes apart; row-major or column-major matrices; the adjoint on request.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

import numpy as np


class MatrixMapType(IntEnum):
    BROADCAST = 0
    MATRIX_INDEXED = 1


class MatrixLayout(IntEnum):
    COL = 0
    ROW = 1


class cudaDataType(IntEnum):  # noqa: N801
    CUDA_C_32F = 4
    CUDA_C_64F = 5


class ComputeType(IntEnum):
    COMPUTE_32F = 4
    COMPUTE_64F = 16


def at(address: int, count: int, dtype: type) -> np.ndarray:
    """The memory at an address."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)


class FakeCuStateVec:
    """Counts what it is asked for; `workspace` is the size that it wants."""

    MatrixMapType, MatrixLayout = MatrixMapType, MatrixLayout

    def __init__(self, workspace: int = 64):
        self.workspace, self.applied, self.asked, self.streams = workspace, [], [], []

    def create(self) -> int:
        return 4321

    def set_stream(self, handle: int, stream_id: int) -> None:
        assert handle == 4321
        self.streams.append(stream_id)

    def apply_matrix_batched_get_workspace_size(
        self, handle, sv_data_type, n_index_bits, n_svs, sv_stride, map_type, matrix_indices, matrices,
        matrix_data_type, layout, adjoint, n_matrices, n_targets, n_controls, compute_type,
    ) -> int:  # fmt: skip
        self.asked.append((sv_data_type, n_index_bits, n_svs, sv_stride, map_type, adjoint, n_matrices, n_targets))
        return self.workspace

    def apply_matrix_batched(
        self, handle, batched_sv, sv_data_type, n_index_bits, n_svs, sv_stride, map_type, matrix_indices, matrices,
        matrix_data_type, layout, adjoint, n_matrices, targets, n_targets, controls, control_bit_values, n_controls,
        compute_type, extra_workspace, extra_workspace_size_in_bytes,
    ) -> None:  # fmt: skip
        assert handle == 4321 and matrix_data_type == sv_data_type and n_controls == 0
        assert compute_type == {4: ComputeType.COMPUTE_32F, 5: ComputeType.COMPUTE_64F}[sv_data_type]
        assert extra_workspace_size_in_bytes >= self.workspace and (extra_workspace != 0) == (self.workspace > 0)
        dtype = {4: np.complex64, 5: np.complex128}[sv_data_type]
        assert batched_sv % 16 == 0 and sv_stride * np.dtype(dtype).itemsize % 128 == 0, "Blackwell needs 128 bytes"
        assert len(targets) == n_targets and all(0 <= bit < n_index_bits for bit in targets)
        side = 2**n_targets
        table = at(matrices, n_matrices * side * side, dtype).reshape(n_matrices, side, side)
        if layout == MatrixLayout.COL:
            table = table.transpose(0, 2, 1)
        if adjoint:
            table = table.conj().transpose(0, 2, 1)
        if map_type == MatrixMapType.BROADCAST:
            assert n_matrices == 1
            indices = np.zeros(n_svs, np.int32)
        else:
            indices = at(matrix_indices, n_svs, np.int32)
            assert indices.max() < n_matrices
        states = at(batched_sv, (n_svs - 1) * sv_stride + 2**n_index_bits, dtype)
        others = [bit for bit in range(n_index_bits) if bit not in targets]
        # Where the amplitudes are whose other bits are the same, in the order of the matrix's index.
        base = sum(((np.arange(2 ** len(others)) >> k & 1) << bit) for k, bit in enumerate(others))
        inside = sum(((np.arange(side) >> k & 1) << bit) for k, bit in enumerate(targets))
        places = np.asarray(base).reshape(-1, 1) + inside
        for k in range(n_svs):
            where = k * sv_stride + places
            states[where] = states[where] @ table[indices[k]].T
        self.applied.append((len(targets), map_type, adjoint, n_matrices))
