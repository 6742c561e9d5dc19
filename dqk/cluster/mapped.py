"""Named arrays in a file that many processes map into memory, instead of a copy in each."""

from __future__ import annotations

import json
import mmap
from typing import BinaryIO

import numpy as np

from dqk.cluster.base import Arrays

_ALIGNMENT = 64
_SIZE_BYTES = 8  # of the number in front that tells the length of the table of contents


def write_arrays(stream: BinaryIO, arrays: Arrays) -> None:
    """Writes a table of contents and the arrays, in C order."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    contents, offset = [], 0
    for name, array in contiguous.items():
        contents.append((name, array.dtype.str, array.shape, offset))
        offset += array.nbytes + -array.nbytes % _ALIGNMENT
    table = json.dumps(contents).encode()
    table += b" " * (-(_SIZE_BYTES + len(table)) % _ALIGNMENT)
    stream.write(len(table).to_bytes(_SIZE_BYTES, "little") + table)
    for array in contiguous.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
        stream.write(bytes(-array.nbytes % _ALIGNMENT))
    stream.flush()


def map_arrays(descriptor: int) -> dict[str, np.ndarray]:
    """The arrays of a file, read-only, without reading it; the descriptor may be closed and the file removed."""
    return read_arrays(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def read_arrays(memory: bytes | mmap.mmap) -> dict[str, np.ndarray]:
    """The arrays of what `write_arrays` wrote, as views of it."""
    start = _SIZE_BYTES + int.from_bytes(memory[:_SIZE_BYTES], "little")
    contents = json.loads(memory[_SIZE_BYTES:start])
    return {name: np.ndarray(shape, dtype, memory, start + offset) for name, dtype, shape, offset in contents}
