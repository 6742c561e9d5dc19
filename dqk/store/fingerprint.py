"""What a stored matrix is a matrix of. Work is resumed only where it is the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from dqk.errors import InvalidInputError
from dqk.store.digests import array_digest
from dqk.store.grid import Grid


@dataclass(frozen=True)
class Fingerprint:
    """Everything that values depend on, with digests in place of the data.

    Attributes:
        circuit: its JSON document (`Circuit.to_dict`).
        backend: name of the backend, never `auto`.
        dtype: of the values: `float64` or `float32`.
        side: of a full tile.
        log: whether values are natural logarithms.
        symmetric: whether rows and columns are the same samples.
        shots: per entry, None if exact.
        seed: of the samples; None if exact.
        shared: digest of the shared angles.
        rows: digest of the angles of each block of rows, so that a matrix can grow.
        columns: the same for columns; empty if symmetric.
        n_rows: N.
        n_columns: M.
        about: what it is, for people; may differ.
        sampling: how a device measures; None if none does.
        grown_from: shapes (N, M) that a measured matrix had before, oldest first. Full tiles keep what was measured then, so that
            the values are others than those of a matrix that was measured at once, though as sure; may differ.
        row_angles: data angles of the rows, by which growth is checked; not kept in the store.
        column_angles: the same for columns.
    """

    circuit: Mapping[str, Any]
    backend: str
    dtype: str
    side: int
    log: bool
    symmetric: bool
    shots: int | None
    seed: int | None
    shared: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    n_rows: int
    n_columns: int
    about: str = ""
    sampling: Mapping[str, Any] | None = None
    grown_from: tuple[tuple[int, int], ...] = ()
    row_angles: np.ndarray | None = field(default=None, repr=False, compare=False)
    column_angles: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        circuit: Mapping[str, Any],
        backend: str,
        side: int,
        ax: np.ndarray,
        ay: np.ndarray | None,
        shared: np.ndarray,
        *,
        log: bool = False,
        shots: int | None = None,
        seed: int | None = None,
        about: str = "",
        sampling: Mapping[str, Any] | None = None,
    ) -> Fingerprint:
        """The fingerprint of a problem.

        Args:
            circuit: see the class.
            backend: see the class.
            side: see the class.
            ax: data angles of the rows, shape (N, A_d); their precision is that of the values.
            ay: of the columns, shape (M, A_d); None for the symmetric matrix.
            shared: shared angles, shape (A_s,).
            log: see the class.
            shots: see the class.
            seed: see the class.
            about: see the class.
            sampling: see the class.
        """
        others = ax if ay is None else ay
        return cls(
            circuit=circuit,
            backend=backend,
            dtype=ax.dtype.name,
            side=side,
            log=log,
            symmetric=ay is None,
            shots=shots,
            seed=seed,
            shared=array_digest(shared),
            rows=block_digests(ax, side),
            columns=() if ay is None else block_digests(ay, side),
            n_rows=len(ax),
            n_columns=len(others),
            about=about,
            sampling=sampling,
            row_angles=ax,
            column_angles=others,
        )

    @classmethod
    def from_dict(cls, document: Any) -> Fingerprint:
        """What `to_dict` wrote.

        Raises:
            InvalidInputError: if the document is damaged.
        """
        try:
            grown_from = tuple((int(n), int(m)) for n, m in document.get("grown_from", ()))
            tuples = {"rows": tuple(document["rows"]), "columns": tuple(document["columns"]), "grown_from": grown_from}
            made = cls(**{**document, **tuples})
            numbers = (made.n_rows, made.n_columns, made.side)
            plausible = all(isinstance(number, int) for number in numbers) and made.side >= 1
            if not plausible or made.dtype not in ("float32", "float64"):
                raise ValueError(f"{made.dtype} values, shape ({made.n_rows}, {made.n_columns}), side {made.side}")
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"not a fingerprint of a matrix: {error}") from error
        return made

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.endswith("_angles")}

    @property
    def grid(self) -> Grid:
        """The tiles."""
        return Grid((self.n_rows, self.n_columns), self.side, self.symmetric, np.dtype(self.dtype))

    def conflicts(self, new: Fingerprint) -> list[str]:
        """Why work on `new` cannot go on in a store of this one; empty if it can: the same problem, or more samples of it."""
        found = [
            f"{name} is {_said(getattr(self, name))} there, {_said(getattr(new, name))} now"
            for name in ("backend", "dtype", "side", "log", "symmetric", "shots", "seed")
            if getattr(self, name) != getattr(new, name)
        ]
        found += _sampling_conflicts(self.sampling, new.sampling)
        found += _circuit_conflicts(self.circuit, new.circuit)
        if self.shared != new.shared:
            found.append("the shared angles (trained parameters) differ")
        if self.side == new.side and self.circuit == new.circuit:  # angles of another circuit differ anyway
            rows = self.n_rows, new.n_rows
            found += _data_conflicts("rows", self.rows, new.rows, *rows, self.side, new.row_angles)
            if not self.symmetric and not new.symmetric:
                columns = self.n_columns, new.n_columns
                found += _data_conflicts("columns", self.columns, new.columns, *columns, self.side, new.column_angles)
        return found

    def grown_to(self, new: Fingerprint) -> bool:
        """Whether `new` has more samples."""
        return (self.n_rows, self.n_columns) != (new.n_rows, new.n_columns)

    def after(self, old: Fingerprint) -> Fingerprint:
        """This one for a store that was of `old`, whose values may have been measured in several goes."""
        if self.sampling is None:
            return self
        shapes = ((old.n_rows, old.n_columns),) if old.grown_to(self) else ()
        return replace(self, grown_from=(*old.grown_from, *shapes))


def block_digests(angles: np.ndarray, side: int) -> tuple[str, ...]:
    """Digest of every block of `side` samples; the last one may be smaller."""
    return tuple(array_digest(angles[start : start + side]) for start in range(0, len(angles), side))


def _said(value: Any) -> str:
    return "that of any QPU" if value == "" else repr(value)  # a fleet's processors have no name in common


def _sampling_conflicts(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterable[str]:
    if old is None or new is None:
        if old != new:
            yield "entries are " + ("computed there, measured" if old is None else "measured there, computed") + " now"
        return
    for name in ("budget", "allocation", "duplicates"):
        default = {"allocation": "uniform"}.get(name)
        there, now = old.get(name, default), new.get(name, default)
        if there != now:
            yield f"{'evaluate_duplicates' if name == 'duplicates' else name} is {there!r} there, {now!r} now"
    if old.get("weights") != new.get("weights"):
        yield "the weights differ"
    there, now = old.get("rows"), new.get("rows")
    if there != now:
        yield (
            f"a job has {there} circuits there, {now} now: give --max-circuits-per-job {there} (max_circuits_per_job={there}) "
            "to a device that takes as many"
        )
    if old.get("seeded") != new.get("seeded"):
        yield f"counts {'followed' if old.get('seeded') else 'did not follow'} the seed there, now it is the other way round"


def _data_conflicts(
    what: str, old: tuple[str, ...], new: tuple[str, ...], n: int, m: int, side: int, angles: np.ndarray | None
) -> Iterable[str]:
    if m < n:
        yield f"{n} {what} are there, {m} now; a store grows but does not shrink"
    full = len(old) if n == m else min(n, m) // side
    wrong = [k for k, (a, b) in enumerate(zip(old[:full], new, strict=False)) if a != b]
    # The ragged block of a matrix that grows is computed again, but its samples have to be the same.
    if full < len(old) and m > n and angles is not None and array_digest(angles[full * side : n]) != old[full]:
        wrong.append(full)
    if wrong:
        spans = [f"{k * side}-{min((k + 1) * side, n, m) - 1}" for k in wrong]
        shown = ", ".join(spans[:3]) + (f" and {len(spans) - 3} more blocks" if len(spans) > 3 else "")
        yield f"data of {what} {shown} differ"


def _circuit_conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[str]:
    if old == new:
        return
    for name, label in (("n_qubits", "qubits"), ("n_data", "data angles"), ("n_shared", "shared angles")):
        if old.get(name) != new.get(name):
            yield f"the circuit has {old.get(name)} {label} there, {new.get(name)} now"
    a, b = old.get("gates", []), new.get("gates", [])
    if len(a) != len(b):
        yield f"the circuit has {len(a)} gates there, {len(b)} now"
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            yield f"gate {k} of the circuit is {x} there, {y} now"
            break
