"""Gram matrices: dqk against the tools that people use, against the matrix product alone, and its own gradient.

Run `python benchmarks/gram.py` (about two minutes); `--json FILE` keeps the figures. The peers come with
`pip install "dqk[bench]"`. Times are medians of alternating runs in one process on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import alternate, machine

import dqk
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map

LAYERS = 3
console = Console(width=110)


def samples(count: int, n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, n))


def qiskit_circuit(n: int) -> Any:
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector

    x = ParameterVector("x", n)
    circuit = QuantumCircuit(n)
    circuit.h(range(n))
    for _ in range(LAYERS):
        for q in range(n):
            circuit.ry(x[q], q)
            circuit.rz(x[q], q)
        for q in range(n):
            circuit.cx(q, (q + 1) % n)
    return circuit


def qiskit_ml(n: int) -> Callable[[np.ndarray], np.ndarray]:
    from qiskit_machine_learning.kernels import FidelityStatevectorKernel

    kernel = FidelityStatevectorKernel(feature_map=qiskit_circuit(n), enforce_psd=False, cache_size=None)

    def run(x: np.ndarray) -> np.ndarray:
        kernel._get_statevector.cache_clear() if hasattr(kernel._get_statevector, "cache_clear") else None
        return np.asarray(kernel.evaluate(x))

    return run


def squlearn_qulacs(n: int) -> Callable[[np.ndarray], np.ndarray]:
    from squlearn import Executor
    from squlearn.encoding_circuit import QiskitEncodingCircuit
    from squlearn.kernel import FidelityKernel

    encoding = QiskitEncodingCircuit(qiskit_circuit(n), mode="x")
    kernel = FidelityKernel(encoding_circuit=encoding, executor=Executor("qulacs"), evaluate_duplicates="off_diagonal")
    step = iter(range(1, 1_000_000))

    def run(x: np.ndarray) -> np.ndarray:
        # It keeps the states of samples that it has seen: a shift far below rounding of K makes them new.
        return np.asarray(kernel.evaluate(x + 1e-14 * next(step)))

    return run


def pennylane_lightning(n: int) -> Callable[[np.ndarray], np.ndarray]:
    import pennylane as qml

    def encode(x: np.ndarray) -> None:
        for q in range(n):
            qml.Hadamard(q)
        for _ in range(LAYERS):
            for q in range(n):
                qml.RY(x[q], q)
                qml.RZ(x[q], q)
            for q in range(n):
                qml.CNOT([q, (q + 1) % n])

    @qml.qnode(qml.device("lightning.qubit", wires=n))
    def overlap(x: np.ndarray, y: np.ndarray) -> Any:
        encode(x)
        qml.adjoint(encode)(y)
        return qml.probs(wires=range(n))

    return lambda x: np.asarray(
        qml.kernels.square_kernel_matrix(x, lambda a, b: overlap(a, b)[0], assume_normalized_kernel=True)
    )


def peers(repeats: int) -> list[dict[str, Any]]:
    """n = 12, N = 200, complex128: the whole symmetric matrix."""
    n, count, few = 12, 200, 20
    x = samples(count, n)
    kernel = dqk.FidelityKernel(reuploading_feature_map(n, LAYERS))
    exact = kernel(x)
    rows = []
    for name, make, needed in (
        ("qiskit-machine-learning FidelityStatevectorKernel", qiskit_ml, 60),
        ("sQUlearn FidelityKernel on qulacs", squlearn_qulacs, 20),
        ("PennyLane square_kernel_matrix, lightning.qubit", pennylane_lightning, 6000),
    ):
        scaled = "PennyLane" in name
        try:
            run = make(n)
        except ImportError as error:
            console.print(f"[yellow]{name}: not measured, {error}; install with: pip install 'dqk[bench]'")
            continue
        part = x[:few] if scaled else x
        difference = float(np.abs(run(part) - exact[: len(part), : len(part)]).max())
        if scaled:
            seconds = alternate({"peer": lambda run=run, part=part: run(part)}, 2)["peer"]
            seconds *= (count * (count - 1)) / (few * (few - 1))  # pairs above the diagonal
            own = alternate({"dqk": lambda: kernel(x)}, 4 * repeats)["dqk"]
        else:
            both = alternate({"peer": lambda run=run: run(x), "dqk": lambda: kernel(x)}, repeats)
            seconds, own = both["peer"], both["dqk"]
        label = f"{name} (scaled from {few} samples)" if scaled else name
        rows.append(
            {
                "peer": label,
                "peer_s": seconds,
                "dqk_s": own,
                "ratio": seconds / own,
                "goal": needed,
                "max_difference": agreeing(name, difference),
            }
        )
    return rows


def agreeing(name: str, difference: float) -> float:
    """The difference, if both sides computed the same matrix."""
    if difference > 1e-10:
        raise SystemExit(f"{name}: entries differ by {difference}: not the same kernel")
    return difference


def against_product(repeats: int) -> list[dict[str, Any]]:
    """The whole Gram matrix over a preallocated zherk of states of the same shape, both on all threads."""
    from scipy.linalg.blas import zherk

    from dqk.backends.statevector import StatevectorBackend

    rows = []
    for n, count, most in ((10, 2000, 1.15), (12, 200, 2.3)):
        x = samples(count, n)
        kernel = dqk.FidelityKernel(reuploading_feature_map(n, LAYERS), backend="statevector")
        angles, shared = kernel.feature_map.angles(torch.from_numpy(x))
        states = StatevectorBackend().encode(kernel.circuit, angles, shared).numpy()
        states = np.asfortranarray(states[0] + 1j * states[1])
        product = np.zeros((count, count), complex, order="F")
        herk = lambda a=states, c=product: zherk(1.0, a, trans=2, c=c, overwrite_c=1, lower=1)  # noqa: E731
        seconds = alternate({"zherk": herk, "dqk": lambda k=kernel, x=x: k(x)}, repeats)
        lower = np.tril_indices(count)
        difference = float(np.abs(np.abs(product[lower]) ** 2 - kernel(x)[lower]).max())
        ratio = seconds["dqk"] / seconds["zherk"]
        rows.append(
            {
                "n": n,
                "N": count,
                **{f"{k}_s": v for k, v in seconds.items()},
                "ratio": ratio,
                "goal": most,
                "max_difference": agreeing("zherk", difference),
            }
        )
    return rows


def gradients(repeats: int) -> list[dict[str, Any]]:
    """Backward of the Gram (dK to dX) over its forward."""
    rows = []
    for feature_map, count in (
        (reuploading_feature_map(4, LAYERS), 1000),
        (reuploading_feature_map(10, LAYERS), 1000),
        (reuploading_feature_map(12, LAYERS), 200),
        (qklstm_feature_map(10), 2000),
    ):
        kernel = dqk.FidelityKernel(feature_map)
        x = torch.from_numpy(samples(count, feature_map.n_features)).requires_grad_()
        cotangent = torch.randn(count, count, dtype=torch.float64)
        matrix = kernel(x)
        seconds = alternate(
            {
                "forward": lambda k=kernel, x=x: k(x),
                "backward": lambda x=x, m=matrix, c=cotangent: torch.autograd.grad(m, x, c, retain_graph=True),
            },
            repeats,
        )
        ratio = seconds["backward"] / seconds["forward"]
        rows.append(
            {
                "map": feature_map.name,
                "n": feature_map.n_qubits,
                "N": count,
                **{f"{k}_s": v for k, v in seconds.items()},
                "ratio": ratio,
                "goal": 4,
            }
        )
    return rows


_FIRST_USE = """
import time, numpy, torch
import dqk, numba
from dqk.kernels.feature_maps import reuploading_feature_map
start = time.perf_counter()
dqk.FidelityKernel(reuploading_feature_map(4))(numpy.zeros((3, 4)))
print(time.perf_counter() - start)
"""


def first_use() -> list[dict[str, Any]]:
    """The first kernel matrix of a process, with an empty cache and with a filled one; imports are not counted."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DQK_CACHE_DIR": folder}
        seconds = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", _FIRST_USE], env=environment, capture_output=True, text=True, check=True
            )
            seconds.append(float(done.stdout))
    return [{"first_s": seconds[0], "goal_first": 20, "later_s": seconds[1], "goal_later": 1}]


def large() -> list[dict[str, Any]]:
    """N = 20,000 at n = 10: time and peak memory of the process."""
    import resource

    x = samples(20_000, 10)
    start = time.perf_counter()
    matrix = dqk.gram(dqk.FidelityKernel(reuploading_feature_map(10, LAYERS)), x, progress=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [{"N": 20_000, "n": 10, "dqk_s": seconds, "result_gib": matrix.nbytes / 2**30, "peak_gib": peak}]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right" if name != "peer" else "left")
    for row in rows:
        table.add_row(*[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()])
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["peers", "product", "gradients", "first-use", "large"], help="one part")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    parts: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
        "peers": ("N = 200, n = 12, re-uploading map, complex128", lambda: peers(max(3, options.repeats // 2))),
        "product": ("Whole Gram matrix against a preallocated zherk", lambda: against_product(options.repeats)),
        "gradients": ("Backward against forward", lambda: gradients(options.repeats)),
        "first-use": ("First use in a process, seconds", first_use),
    }
    if options.only == "large":
        parts = {"large": ("A large Gram matrix", large)}
    figures: dict[str, Any] = {"machine": machine()}
    for name, (title, run) in parts.items():
        if options.only in (None, name):
            figures[name] = run()
            show(title, figures[name])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
