"""Structure-exact kernels on this machine's cores, beside published figures from data-centre GPUs.

    python benchmarks/structure.py [--repeats 3] [--only bsp|ising|product] [--small] [--json FILE]

Three Gram matrices: the BSP map on 784 qubits (1000 samples), the Ising map on 165 (6400), the QK-LSTM paper's map on 50 (5000).
Every one is computed in full from random features: encoding, overlaps, result in memory. Errors are those of log K on random
off-diagonal entries. The overlaps alone are compared with the rate of a loop of nothing but fused multiply-adds, on one thread.
`--small` takes a tenth of the samples. Times are medians; `cpu_s` is processor time over the number of threads, for
machines on which other programs run. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import alternate, machine

import dqk
from dqk.backends.mps import MPSBackend
from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import bsp_feature_map, ising_feature_map, qklstm_feature_map

console = Console(width=120)
PUBLISHED = {
    "bsp": ("9,089 s on 8 H100, 4,560 s on 16", "cuTN-QSVM repository, figure3_mgpu_h100"),
    "ising": ("10,557 s on 32 A100", "qml-cutensornet, runtime_scaling: 328 s states, 10,039 s overlaps, 183 s MPI"),
    "product": ("closed form with numba, below", "same run"),
}
LIKENESS = {
    "bsp": "Same circuit, size and number of samples. Theirs contracts general tensor networks and all its inputs are zero (which "
    "does not change its work); ours uses that a CNOT chain has bond dimension 2, and random features.",
    "ising": "Same circuit, size and number of samples. Theirs truncates to a mean bond of 2.02 at 1e-16 on financial data; ours "
    "truncates nothing (bond 4) and computes one half of the symmetric matrix. Features here are uniform in [0, 2].",
    "product": "The kernel factorises, so nobody needs a GPU for it; the peer is a loop over the closed form.",
}


def seconds(run: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    taken = []
    for _ in range(repeats):
        start = clock()
        run()
        taken.append(clock() - start)
    return statistics.median(taken)


def both_clocks(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds, and of them the processor time of all threads over their number: what an idle machine would take at least."""
    from dqk._resources import cpu_threads

    busy: list[float] = []

    def timed() -> None:
        start = time.process_time()
        run()
        busy.append((time.process_time() - start) / cpu_threads())

    return {"dqk_s": seconds(timed, repeats), "cpu_s": statistics.median(busy)}


def peak(dtype: np.dtype) -> float:
    """GFLOP/s of fused multiply-adds that depend on nothing else, on one thread."""
    from dqk.backends.compiled.chain_code import Precision
    from dqk.backends.compiled.native import compiled

    p, chains, steps = Precision(dtype.itemsize), 16, 2_000_000
    v, half = p.vector, "<" + ", ".join([f"{p.scalar} 0.5"] * p.lanes) + ">"
    text = [f"declare {v} @llvm.fmuladd.{p.suffix}({v}, {v}, {v})", "define void @peak(ptr %out, i64 %n) {", "entry:"]
    text += ["  br label %more", "more:", "  %i = phi i64 [0, %entry], [%j, %more]"]
    text += [f"  %x{k} = phi {v} [{half}, %entry], [%y{k}, %more]" for k in range(chains)]
    text += [f"  %y{k} = call {v} @llvm.fmuladd.{p.suffix}({v} %x{k}, {v} {half}, {v} {half})" for k in range(chains)]
    text += ["  %j = add i64 %i, 1", "  %on = icmp slt i64 %j, %n", "  br i1 %on, label %more, label %end", "end:"]
    text += [f"  %s{k} = fadd {v} {f'%s{k - 1}' if k > 1 else '%y0'}, %y{k}" for k in range(1, chains)]
    text += [f"  store {v} %s{chains - 1}, ptr %out, align {p.bytes}", "  ret void", "}"]
    run, out = compiled("\n".join(text), "peak", 1, 1), np.empty(p.lanes, dtype)
    best = min(seconds(lambda: run(out.ctypes.data, steps), 1) for _ in range(7))
    return 2 * steps * chains * p.lanes / best / 1e9


def overlaps(feature_map: Any, x: np.ndarray, dtype: np.dtype) -> dict[str, float]:
    """Rate of the overlaps of one tile on one thread, beside the machine's."""
    from dqk.backends.chain import chain_of
    from dqk.backends.compiled.chain_terms import steps_of

    backend, circuit = MPSBackend(), simplify_for_fidelity(feature_map.circuit).circuit
    side = backend.tile_side(circuit, torch.float64)
    blocks = []
    for part in (x[:side], x[side : 2 * side]):
        angles, shared = feature_map.angles(torch.from_numpy(part.astype(dtype)))
        blocks.append(backend.forward_block(circuit, angles, shared))
    best = min(seconds(lambda: backend.forward_tile(*blocks, False), 1) for _ in range(9))
    operations = 8 * sum(
        step.products for step in steps_of(chain_of(circuit))
    )  # a complex product: 4 fused multiply-adds
    entry, most = best / math.prod(b.samples for b in blocks), peak(dtype)
    return {
        "overlap_us": 1e6 * entry,
        "gflops": operations / entry / 1e9,
        "peak_gflops": most,
        "fraction_of_peak": operations / entry / 1e9 / most,
    }


def off_diagonal(log_k: np.ndarray, exact: np.ndarray) -> float:
    """Largest error of log K."""
    return float(np.abs(log_k.astype(float) - exact).max())


def bsp(repeats: int, count: int) -> dict[str, Any]:
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.transfer_matrices import bsp_by_transfer_matrices

    feature_map = bsp_feature_map(784)
    x = np.random.default_rng(0).uniform(-1, 1, (count, 784))
    start = time.perf_counter()
    kernel = dqk.FidelityKernel(feature_map, backend="mps")
    kernel(x)
    first = time.perf_counter() - start
    taken = both_clocks(lambda: kernel(x), max(3, repeats))
    few, others = x[:16], x[-24:]
    error = off_diagonal(dqk.gram(kernel, few, others, log=True), bsp_by_transfer_matrices(few, others))
    return {
        "map": "bsp",
        "qubits": 784,
        "samples": count,
        "dtype": "float64",
        **taken,
        "goal_s": 0.8,
        "first_call_s": first,
        "log_k_error": error,
        **overlaps(feature_map, x, np.dtype(np.float64)),
    }


def ising(repeats: int, count: int) -> list[dict[str, Any]]:
    feature_map = ising_feature_map(165, reps=2, gamma=0.1, distance=1)
    x = np.random.default_rng(0).uniform(0, 2, (count, 165)).astype(np.float32)
    plain = dqk.FidelityKernel(feature_map, backend=MPSBackend(generated=False))
    exact = dqk.gram(plain, x[:16].astype(float), x[-24:].astype(float), log=True)
    rows = []
    for dtype, goal in ((np.float64, 12.0), (np.float32, 7.0)):
        y = x.astype(dtype)
        kernel = dqk.FidelityKernel(feature_map, backend="mps")
        start = time.perf_counter()
        kernel(y[:300])
        first = time.perf_counter() - start
        taken = both_clocks(lambda kernel=kernel, y=y: kernel(y), repeats)
        rows.append(
            {
                "map": "ising",
                "qubits": 165,
                "samples": count,
                "dtype": np.dtype(dtype).name,
                **taken,
                "goal_s": goal,
                "first_call_s": first,
                "log_k_error": off_diagonal(dqk.gram(kernel, y[:16], y[-24:], log=True), exact),
                **overlaps(feature_map, x, np.dtype(dtype)),
            }
        )
    return rows


def product(repeats: int, count: int) -> dict[str, Any]:
    os.environ.setdefault(
        "NUMBA_THREADING_LAYER", "workqueue"
    )  # two spinning pools on few cores would disturb each other
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def closed_form(vectors: np.ndarray) -> np.ndarray:
        """prod_q (1 + r_q . r'_q) / 2, the upper half and its mirror image; vectors of shape (n, 3, N)."""
        n, _, m = vectors.shape
        out = np.empty((m, m))
        for i in numba.prange(m):
            row = out[i]
            row[i:] = 1.0
            for q in range(n):
                a, b, c = vectors[q, 0, i], vectors[q, 1, i], vectors[q, 2, i]
                for j in range(i, m):
                    row[j] *= 0.5 + 0.5 * (a * vectors[q, 0, j] + b * vectors[q, 1, j] + c * vectors[q, 2, j])
        for i in numba.prange(m):
            for j in range(i):
                out[i, j] = out[j, i]
        return out

    feature_map = qklstm_feature_map(50)
    x = np.random.default_rng(0).uniform(-1, 1, (count, 50))

    def peer() -> np.ndarray:
        # RY(x) then RZ(x) after H: the vector (cos x cos x, cos x sin x, -sin x)
        return closed_form(
            np.ascontiguousarray(np.stack([np.cos(x) ** 2, np.cos(x) * np.sin(x), -np.sin(x)]).transpose(2, 0, 1))
        )

    kernel = dqk.FidelityKernel(feature_map, backend="mps")
    difference = np.abs(np.log(peer()[:50, 60:200]) - np.log(kernel(x)[:50, 60:200])).max()
    both = alternate({"dqk": lambda: kernel(x), "numba": peer}, max(3, repeats))
    return {
        "map": "product",
        "qubits": 50,
        "samples": count,
        "dtype": "float64",
        "dqk_s": both["dqk"],
        "goal_s": 2 * both["numba"],
        "numba_s": both["numba"],
        "ratio": both["dqk"] / both["numba"],
        "log_k_error": float(difference),
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Gram matrices, in full", title_justify="left")
    for name in (
        "map",
        "qubits",
        "samples",
        "dtype",
        "dqk_s",
        "cpu_s",
        "goal_s",
        "published",
        "error of log K",
        "of FMA peak",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        figures = [f"{row[name]:.3g}" if name in row else "" for name in ("dqk_s", "cpu_s", "goal_s")]
        fraction = f"{row['fraction_of_peak']:.2f}" if "fraction_of_peak" in row else ""
        published = PUBLISHED[row["map"]][0] if "numba_s" not in row else f"numba {row['numba_s']:.3g} s"
        size = [str(row["qubits"]), str(row["samples"])]
        table.add_row(row["map"], *size, row["dtype"], *figures, published, f"{row['log_k_error']:.1g}", fraction)
    console.print(table)
    for name in dict.fromkeys(row["map"] for row in rows):
        console.print(f"[bold]{name}[/] ({PUBLISHED[name][1]}): {LIKENESS[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["bsp", "ising", "product"])
    parser.add_argument("--small", action="store_true", help="a tenth of the samples")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    part = 10 if options.small else 1
    rows: list[dict[str, Any]] = []
    load = os.getloadavg()[0]
    if options.only in (None, "bsp"):
        rows.append(bsp(options.repeats, 1000 // part))
    if options.only in (None, "ising"):
        rows += ising(options.repeats, 6400 // part)
    if options.only in (None, "product"):
        rows.append(product(options.repeats, 5000 // part))
    show(rows)
    figures = {"machine": machine(), "load_before": load, "published": PUBLISHED, "likeness": LIKENESS, "rows": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
