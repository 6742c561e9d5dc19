"""Samples from files: NumPy, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dqk.errors import BackendUnavailableError, DataFileError


def read_samples(path: Path) -> np.ndarray:
    """Reads a table of samples, one per row.

    Args:
        path: `.npy`; `.npz` with one array; `.csv` (a first line of names is skipped); `.parquet`.

    Returns:
        Shape (N, d), float32 if the file has that, else float64.

    Raises:
        DataFileError: if the file cannot be read or is not a table of numbers; names the place.
        BackendUnavailableError: if reading it needs a package that is not installed.
    """
    readers: dict[str, Callable[..., Any]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise DataFileError(f"{path} ends in {path.suffix!r}, expected one of {', '.join(readers)}")
    try:
        table = readers[path.suffix](path)
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}") from error
    if not (table.ndim == 2 and table.dtype.kind in "fiub"):
        raise DataFileError(
            f"{path} holds an array of shape {table.shape} and dtype {table.dtype}, expected real numbers of shape "
            "(samples, features)"
        )
    if 0 in table.shape:
        raise DataFileError(
            f"{path} holds {table.shape[0]} samples of {table.shape[1]} features; expected at least one of each"
        )
    single = table.dtype.kind == "f" and table.dtype.itemsize == 4
    return np.ascontiguousarray(table, np.float32 if single else np.float64)


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise DataFileError(f"{path} is not an .npy file of numbers: {error}") from error


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive)
            if len(names) != 1:
                raise DataFileError(
                    f"{path} has {len(names)} arrays ({', '.join(names)}), expected one; save the samples alone"
                )
            return np.asarray(archive[names[0]])
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"{path} is not an .npz file of numbers: {error}") from error


def _read_csv(path: Path) -> np.ndarray:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not UTF-8 text: {error}") from error
    rows: list[list[float]] = []
    width = None
    reader = csv.reader(io.StringIO(text))
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataFileError(f"{path}, line {reader.line_num}: {error}") from error
        number = reader.line_num
        if not cells:
            continue
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            if number == 1 and not any(map(_is_number, cells)):
                continue  # names of the columns
            bad = next(cell for cell in cells if not _is_number(cell))
            raise DataFileError(f"{path}, line {number}: {bad!r} is not a number") from None
        width = len(row) if width is None else width
        if len(row) != width:
            raise DataFileError(f"{path}, line {number}: {len(row)} values, the lines before have {width}")
        rows.append(row)
    return np.array(rows, np.float64).reshape(len(rows), width or 0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_parquet(path: Path) -> np.ndarray:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BackendUnavailableError(f"reading {path} needs pyarrow: pip install 'dqk[parquet]'") from error
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataFileError(f"{path} is not a Parquet file: {error}") from error
    types = pyarrow.types
    wrong = [f.name for f in table.schema if not (types.is_floating(f.type) or types.is_integer(f.type))]
    if wrong:
        raise DataFileError(f"{path}: columns {', '.join(wrong)} hold no numbers; keep the features alone in the file")
    return np.column_stack([column.to_numpy() for column in table.columns])
