"""A matrix with a known closed form, so that stores are tested without kernels."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dqk import _failpoint
from dqk.store import Fingerprint, GramStore, Grid
from dqk.store.journal import Tile

CIRCUIT: dict[str, Any] = {
    "n_qubits": 1,
    "n_data": 2,
    "n_shared": 0,
    "gates": [["RY", [0], "d", 0], ["RZ", [0], "d", 1]],
}


def angles(n: int, dtype: str = "float64") -> np.ndarray:
    """Angles of n samples, shape (n, 2); the first ones are the same for every n."""
    k = np.arange(n)
    return np.stack([np.sin(3 * k), np.cos(5 * k * k)], axis=1).astype(dtype)


def matrix(ax: np.ndarray, ay: np.ndarray | None = None) -> np.ndarray:
    """cos of inner products, entry by entry without a BLAS, whose bits depend on the shape."""
    ay = ax if ay is None else ay
    return np.cos(ax[:, None, 0] * ay[None, :, 0] + ax[:, None, 1] * ay[None, :, 1])


def fingerprint(ax: np.ndarray, ay: np.ndarray | None = None, side: int = 8, **changes: Any) -> Fingerprint:
    """Of the matrix of these angles."""
    shared = changes.pop("shared", np.zeros(0))
    backend, circuit = changes.pop("backend", "closed form"), changes.pop("circuit", CIRCUIT)
    return Fingerprint.of(circuit, backend, side, ax, ay, shared, about="cosines", **changes)


def part(k: np.ndarray, grid: Grid, tile: Tile) -> tuple[int, int, np.ndarray]:
    """A tile as `commit` takes it."""
    return *tile, k[slice(*grid.span(tile[0], 0)), slice(*grid.span(tile[1], 1))]


def fill(store: GramStore, k: np.ndarray, tiles: Iterable[Tile] | None = None, group: int = 3) -> int:
    """Computes what is missing (of some tiles), so many tiles in a commit; the number of tiles that were missing."""
    todo = [tile for tile in (store.grid.tiles() if tiles is None else tiles) if tile not in store.done]
    for start in range(0, len(todo), group):
        store.commit([part(k, store.grid, tile) for tile in todo[start : start + group]])
    return len(todo)


def compute(path: Path, n: int, m: int | None = None, **options: Any) -> str | None:
    """Opens a store and computes it; its digest."""
    ax, ay = angles(n), None if m is None else angles(m) + 1
    with GramStore.open(path, fingerprint(ax, ay), **{"resume": True, **options}) as store:
        fill(store, matrix(ax, ay))
        return store.digest()


def in_child(job: Callable[..., Any], *arguments: Any, failpoint: str | None = None, timeout_s: float = 120.0) -> int:
    """Runs a job in a child process; its exit code, negative after a signal."""

    def run() -> None:
        _failpoint.arm(failpoint)
        job(*arguments)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(timeout_s)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"the child still ran after {timeout_s} s")
    assert child.exitcode is not None
    return child.exitcode
