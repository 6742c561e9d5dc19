"""Series of numbers in time: from CSV files, or those that statsmodels ships."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from dqk.errors import DataFileError, InvalidInputError

_DATES = ("date", "datetime", "time", "timestamp", "day", "week", "month", "year")
_MISSING = ("", "na", "n/a", "nan", "null", "none")
_LISTED = 5


@dataclass(frozen=True)
class Series:
    """Numbers in the order of time.

    Attributes:
        name: what they are.
        values: shape (n,), float64, finite.
        times: when each was, as written; numbers of rows where that is not known.
        filled: shape (n,), bool: whether a value was missing and is the one before it.
        season: values in a season, None if not known.
        note: what was done to the data, a sentence or nothing.
        unit: of the values, nothing if not known.
    """

    name: str
    values: np.ndarray
    times: tuple[str, ...]
    filled: np.ndarray
    season: int | None = None
    note: str = ""
    unit: str = ""

    @property
    def label(self) -> str:
        """Name and unit, for the axis of a picture."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def __len__(self) -> int:
        return len(self.values)

    @property
    def digest(self) -> str:
        """SHA-256 of the values and of which of them were missing."""
        return hashlib.sha256(self.values.tobytes() + self.filled.tobytes()).hexdigest()


def fill(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts the value before it in the place of each missing one (NaN): nothing is learned from later values.

    Args:
        values: shape (n,), the first one not missing.

    Returns:
        Values, and which of them were missing, both of shape (n,).
    """
    missing = np.isnan(values)
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))))
    return values[last], missing


def read_series(path: Path, column: str, date_column: str | None = None, missing: str = "refuse") -> Series:
    """A column of a CSV file whose first line has names.

    Args:
        path: of the file.
        column: its name.
        date_column: the column with dates (ISO) or numbers that grow; None for one with a name such as `date`, if there is one,
            else rows are taken in their order.
        missing: `refuse`, or `previous` to put the value before it in the place of a missing one.

    Raises:
        DataFileError: if the file cannot be read, or a value cannot be used; names the lines.
        InvalidInputError: if there is no such column.
    """
    names, rows = _table(path)
    wanted = [column] if date_column is None else [column, date_column]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise InvalidInputError(f"{path} has no column {', '.join(map(repr, absent))}; it has {', '.join(names)}")
    if date_column is None:
        date_column = next((name for name in names if name.strip().lower() in _DATES and name != column), None)
    lines = [line for line, _ in rows]
    values = np.array([_number(path, line, cells[names.index(column)]) for line, cells in rows])
    times = [str(number + 1) for number in range(len(rows))]
    if date_column is not None:
        times = [cells[names.index(date_column)].strip() for _, cells in rows]
        _check_order(path, date_column, times, lines)
    gaps = np.flatnonzero(np.isnan(values))
    note = ""
    if len(gaps):
        shown = ", ".join(str(lines[gap]) for gap in gaps[:_LISTED]) + (" ..." if len(gaps) > _LISTED else "")
        if missing == "refuse":
            raise DataFileError(
                f"{path}: {len(gaps)} of {len(values)} values in column {column!r} are missing (lines {shown}); fill them, or have "
                "the value before put there: --missing previous (missing='previous')"
            )
        if gaps[0] == 0:
            raise DataFileError(
                f"{path}, line {lines[0]}: the first value is missing, so that there is none to put there; remove the line"
            )
        note = f"{len(gaps)} missing values (lines {shown}) are the values before them, and are never forecast"
    filled_values, filled = fill(values)
    return Series(column, filled_values, tuple(times), filled, None, note)


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and (line, cells) of the rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}; expected a CSV file") from error
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is not UTF-8 text: {error}") from error
    reader = csv.reader(io.StringIO(text))
    try:
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataFileError(f"{path}, line {reader.line_num}: {error}") from error
    if len(rows) < 2:
        raise DataFileError(f"{path} has {len(rows)} lines, expected one with names of columns and others with values")
    names = [name.strip() for name in rows[0][1]]
    for line, cells in rows[1:]:
        if len(cells) != len(names):
            raise DataFileError(f"{path}, line {line}: {len(cells)} values, expected {len(names)} as in the first line")
    return names, rows[1:]


def _number(path: Path, line: int, text: str) -> float:
    """A cell as a number, NaN if it is missing."""
    if text.strip().lower() in _MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise DataFileError(f"{path}, line {line}: {text!r} is not a number") from None
    if not math.isfinite(value):
        raise DataFileError(f"{path}, line {line}: {text!r}, expected a finite number")
    return value


def _time(path: Path, line: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:  # a month alone is no date in ISO format's eyes
        moment = datetime.fromisoformat(text if text.count("-") != 1 else f"{text}-01")
    except ValueError:
        raise DataFileError(
            f"{path}, line {line}: {text!r} is not a date such as 1999-12-31, nor a number; name another column of dates"
        ) from None
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()


def _check_order(path: Path, column: str, times: Sequence[str], lines: Sequence[int]) -> None:
    """Raises DataFileError unless every date is later than the one before it."""
    numbers = [_time(path, line, text) for line, text in zip(lines, times, strict=True)]
    for k, (before, after) in enumerate(zip(numbers, numbers[1:], strict=False), start=1):
        if not after > before:
            what = "the same date as the line before" if after == before else f"earlier than {times[k - 1]} before it"
            raise DataFileError(
                f"{path}, line {lines[k]}: {column} is {times[k]}, {what}; dates are out of order: sort the lines, each date once"
            )
