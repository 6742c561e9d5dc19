"""One GPU: Gram matrices against cuBLAS alone, state preparation against its bounds, a training step against all CPU cores.

Run `make gpu-check`, or `python benchmarks/gpu.py` (some minutes; about 100 GiB of main memory for the largest part, `--scale 0.1`
for a tenth of the samples). `--json auto` keeps the figures in `benchmarks/results/gpu-<device>.json`. Float32, medians of
alternating runs in one process on an otherwise idle machine; the GPU is waited for before each clock is read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gram import console, show
from timing import alternate, machine

import dqk
from dqk.backends import gpu
from dqk.backends._custatevec import CuStateVecBackend
from dqk.backends.mps_device import MPSOnDevice
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.kernels.feature_maps import ising_feature_map, reuploading_feature_map

LAYERS = 3
TOLERANCE = 2e-5  # of an entry in float32, for up to 100 gates
RESULTS = Path(__file__).parent / "results"


def waited(run: Callable[[], Any]) -> Callable[[], Any]:
    def waiting() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return waiting


def once(run: Callable[[], Any]) -> tuple[float, Any]:
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = waited(run)()
    return time.perf_counter() - start, result


def samples(count: int, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, n, generator=generator) * 2 - 1


def kernel_of(n: int, backend: Any = "custatevec") -> dqk.FidelityKernel:
    return dqk.FidelityKernel(reuploading_feature_map(n, LAYERS), backend=backend)


def simplified(n: int) -> Circuit:
    return simplify_for_fidelity(reuploading_feature_map(n, LAYERS).circuit).circuit


def angles_of(n: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return kernel_of(n).feature_map.angles(x)


def agreeing(found: Any, n: int, x: torch.Tensor) -> float:
    """The largest difference of a corner of the matrix from the dense reference in float64."""
    few, feature_map = 40, reuploading_feature_map(n, LAYERS)
    angles, shared = feature_map.angles(x[:few].double().cpu())
    expected = ReferenceBackend().fidelity(feature_map.circuit, angles, None, shared)
    difference = float((torch.as_tensor(found[:few, :few]).cpu().double() - expected).abs().max())
    bound = TOLERANCE * max(1.0, len(feature_map.circuit.gates) / 100)
    if not difference <= bound:
        raise SystemExit(f"n={n}: entries differ from the reference by {difference}, more than {bound}")
    return difference


def on_device(scale: float, repeats: int) -> list[dict[str, Any]]:
    """The Gram matrix of samples on the GPU, against the product of its states alone."""
    n, count = 12, int(20_000 * scale)
    x = samples(count, n).cuda()
    kernel = kernel_of(n)
    states = torch.view_as_complex(CuStateVecBackend().encode(simplified(n), *angles_of(n, x)).permute(2, 1, 0))
    product = torch.empty(count, count, dtype=torch.complex64, device="cuda")
    multiply = lambda: torch.matmul(states, states.mH, out=product)  # noqa: E731
    seconds = alternate({"cublas": waited(multiply), "dqk": waited(lambda: dqk.gram(kernel, x))}, repeats)
    worst = agreeing(dqk.gram(kernel, x), n, x)
    ratio = seconds["dqk"] / seconds["cublas"]
    return [{"n": n, "N": count, **_named(seconds), "ratio": ratio, "goal": 1.5, "max_difference": worst}]


def streamed(scale: float) -> list[dict[str, Any]]:
    """A matrix larger than the GPU: into main memory, and into a store."""
    n, count = 10, int(100_000 * scale)
    x, kernel = samples(count, n), kernel_of(n)
    product_s, copy_s = bounds(n, x)
    parts = {"n": n, "N": count, "product_s": product_s, "copy_s": copy_s}
    seconds, matrix = once(lambda: dqk.gram(kernel, x))
    rows = [
        {"to": "memory", **parts, **_against(seconds, max(product_s, copy_s)), "max_difference": agreeing(matrix, n, x)}
    ]
    del matrix
    with tempfile.TemporaryDirectory(dir=os.environ.get("DQK_BENCH_FOLDER", ".")) as folder:
        rate = write_rate(Path(folder))
        seconds, stored = once(lambda: dqk.gram(kernel, x, store=f"{folder}/K.zarr"))
        # A symmetric store holds the tiles on and above the diagonal.
        written = sum(file.stat().st_size for file in Path(folder, "K.zarr").rglob("*") if file.is_file())
        bound = max(written / rate, product_s)
        rows.append({"to": "store", **parts, **_against(seconds, bound), "max_difference": agreeing(stored, n, x)})
    return rows


def _against(seconds: float, bound: float) -> dict[str, float]:
    return {"dqk_s": seconds, "bound_s": bound, "ratio": seconds / bound, "goal": 1.3}


def bounds(n: int, x: torch.Tensor) -> tuple[float, float]:
    """Seconds for the product of all states in bands, and for copying its values to pinned memory."""
    count, side = len(x), CuStateVecBackend().tile_side(simplified(n), torch.float32)
    states = torch.view_as_complex(CuStateVecBackend().encode(simplified(n), *angles_of(n, x.cuda())).permute(2, 1, 0))
    band = torch.empty(min(side, count), count, dtype=torch.complex64, device="cuda")
    pinned = torch.empty(len(band), count, pin_memory=True)
    values = torch.empty(len(band), count, device="cuda")

    def product() -> None:
        for start in range(0, count, side):
            rows = states[start : start + side]
            torch.matmul(rows, states.mH, out=band[: len(rows)])

    def copy() -> None:
        for start in range(0, count, side):
            rows = min(side, count - start)
            pinned[:rows].copy_(values[:rows], non_blocking=True)

    once(product)
    once(copy)
    dqk.gram(kernel_of(n), x[: 2 * side])  # compiles what has to be compiled
    return once(product)[0], once(copy)[0]


def write_rate(folder: Path) -> float:
    """Bytes per second that the disk takes, in files of 16 MiB that are synchronised one by one, as a store writes them."""
    block, count = np.random.default_rng(0).bytes(2**24), 64
    start = time.perf_counter()
    for k in range(count):
        with open(folder / str(k), "wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return count * len(block) / (time.perf_counter() - start)


def preparation(scale: float, repeats: int) -> list[dict[str, Any]]:
    """States alone, by both paths, against the time to write them and the time to compute them."""
    n, count = 10, int(100_000 * scale)
    x, circuit = samples(count, n).cuda(), simplified(n)
    angles, shared = angles_of(n, x)
    size = count * 2**n * 8
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    square = torch.rand(8192, 8192, device="cuda")
    fused, plain = CuStateVecBackend(fused=True), CuStateVecBackend(fused=False)
    sides = {
        "fused": waited(lambda: fused.encode(circuit, angles, shared)),
        "custatevec": waited(lambda: plain.encode(circuit, angles, shared)),
        "copy": waited(lambda: target.copy_(source)),
        "product": waited(lambda: square @ square),
    }
    seconds = alternate(sides, repeats)
    bytes_s = seconds["copy"] / 2  # a copy reads and writes; preparation only writes
    peak = 2 * 8192**3 / seconds["product"]
    # One complex 2x2 matrix takes 28 operations for each pair of amplitudes.
    operations_s = count * len([g for g in circuit.gates if g.name == "ry"]) * 2 ** (n - 1) * 28 / peak
    bound = max(bytes_s, operations_s)
    return [
        {"path": name, "n": n, "N": count, "dqk_s": seconds[name], "bytes_s": bytes_s, "operations_s": operations_s}
        | {"ratio": seconds[name] / bound, "goal": 3 if name == "fused" else None}
        for name in ("fused", "custatevec")
    ]


def training(repeats: int) -> list[dict[str, Any]]:
    """A step of a QK-LSTM: forward, backward, Adam; the GPU against all cores of this machine."""
    batch, steps, hidden, n = 256, 64, 128, 8
    sides, losses = {}, {}
    for device, backend in (("cpu", "auto"), ("cuda", "custatevec")):
        torch.manual_seed(0)
        model = dqk.QKLSTM(
            hidden, hidden, n_qubits=n, n_references=n, feature_map=reuploading_feature_map(n), backend=backend
        ).to(device)
        x = torch.randn(steps, batch, hidden, generator=torch.Generator().manual_seed(1)).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)

        def step(model: Any = model, x: torch.Tensor = x, optimizer: Any = optimizer) -> float:
            optimizer.zero_grad()
            loss = model(x)[0].square().mean()
            loss.backward()
            optimizer.step()
            return float(loss.item())

        sides[device], losses[device] = waited(step), step()
    if abs(losses["cpu"] - losses["cuda"]) > 1e-3 * abs(losses["cpu"]):
        raise SystemExit(f"losses differ: {losses}")
    seconds = alternate(sides, repeats)
    sizes = {"batch": batch, "steps": steps, "hidden": hidden, "n": n}
    return [{**sizes, **_named(seconds), "ratio": seconds["cpu"] / seconds["cuda"], "goal": 10}]


def one_by_one(scale: float, repeats: int) -> list[dict[str, Any]]:
    """Against programs that run one circuit after the other, at n = 10; their times are those of few samples, scaled."""
    n, count, few = 10, int(100_000 * scale), 50
    x, circuit = samples(count, n), simplified(n)
    angles, shared = (tensor.cuda() for tensor in angles_of(n, x))
    batched, single = CuStateVecBackend(), CuStateVecBackend(fused=False)

    def loop() -> None:
        for k in range(few):
            single.encode(circuit, angles[k : k + 1], shared)

    peers: dict[str, Callable[[], Any]] = {"cuStateVec, one circuit at a time": waited(loop)}
    try:
        peers["lightning.gpu"] = lightning(n, x[:few].numpy())
    except Exception as error:  # it is not there, or does not start
        console.print(f"[yellow]lightning.gpu: not measured: {error}")
    rows = []
    for name, run in peers.items():
        seconds = alternate({"peer": run, "dqk": waited(lambda: batched.encode(circuit, angles, shared))}, repeats)
        peer_s = seconds["peer"] * count / few
        rows.append(
            {"peer": name, "n": n, "N": count, "peer_s": peer_s, "dqk_s": seconds["dqk"]}
            | {"ratio": peer_s / seconds["dqk"], "goal": 100}
        )
    return rows


def lightning(n: int, x: np.ndarray) -> Callable[[], Any]:
    import pennylane as qml

    @qml.qnode(qml.device("lightning.gpu", wires=n, c_dtype=np.complex64))
    def state(sample: np.ndarray) -> Any:
        for q in range(n):
            qml.Hadamard(q)
        for _ in range(LAYERS):
            for q in range(n):
                qml.RY(sample[q], q)
                qml.RZ(sample[q], q)
            for q in range(n):
                qml.CNOT([q, (q + 1) % n])
        return qml.state()

    state(x[0])
    return lambda: [state(sample) for sample in x]


def chains(scale: float, repeats: int) -> list[dict[str, Any]]:
    """Matrix-product states: a published Gram matrix (see structure.py) on the GPU, against this machine's CPU cores."""
    count, feature_map = int(6400 * scale), ising_feature_map(165)
    kernel = dqk.FidelityKernel(feature_map, backend="mps")
    x = 2 * torch.rand(count, feature_map.n_features, generator=torch.Generator().manual_seed(0))
    on_gpu, few = x.cuda(), 100
    plain = dqk.FidelityKernel(feature_map, backend=MPSOnDevice(fused=False))
    sides = {"cpu": lambda: dqk.gram(kernel, x), "dqk": waited(lambda: dqk.gram(kernel, on_gpu))}
    seconds = alternate(sides | {"torch_path": waited(lambda: dqk.gram(plain, on_gpu))}, repeats)
    exact = dqk.gram(kernel, x[:few].double(), log=True)
    worst = float((dqk.gram(kernel, on_gpu[:few], log=True).cpu() - exact).abs().max())
    if not worst <= 1e-3:
        raise SystemExit(f"logarithms of entries differ from the CPU's in float64 by {worst}, more than 1e-3")
    ratio = seconds["cpu"] / seconds["dqk"]
    return [{"n": 165, "N": count, **_named(seconds), "times_faster": ratio, "max_log_difference": worst}]


def _named(seconds: dict[str, float]) -> dict[str, float]:
    return {f"{name}_s": value for name, value in seconds.items()}


def device_name() -> str:
    """Of the GPU, fit for a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower().removeprefix("nvidia ")).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether a GPU can be used")
    parser.add_argument("--only", choices=["on-device", "streamed", "preparation", "training", "chains", "one-by-one"])
    parser.add_argument("--scale", type=float, default=1.0, help="part of the samples, on smaller machines")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file; auto: named after the GPU")
    options = parser.parse_args()
    if why := gpu.missing():
        raise SystemExit(f"error: no GPU can be used here: {why}")
    if options.check:
        return
    parts: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
        "on-device": ("Gram matrix on the GPU against cuBLAS", lambda: on_device(options.scale, options.repeats)),
        "streamed": ("Gram matrix larger than the GPU", lambda: streamed(options.scale)),
        "preparation": ("State preparation", lambda: preparation(options.scale, options.repeats)),
        "training": ("QK-LSTM step against all CPU cores", lambda: training(options.repeats)),
        "chains": ("Matrix-product states against all CPU cores", lambda: chains(options.scale, options.repeats)),
        "one-by-one": ("Against one circuit at a time", lambda: one_by_one(options.scale, options.repeats)),
    }
    about = {"devices": gpu.devices(), "driver": gpu.driver_version(), "torch": torch.__version__}
    figures: dict[str, Any] = {
        "machine": machine(),
        "gpu": about | {"packages": gpu.packages()},
        "scale": options.scale,
    }
    for name, (title, run) in parts.items():
        if options.only in (None, name):
            figures[name] = run()
            show(title, figures[name])
            torch.cuda.empty_cache()
    if options.json:
        file = RESULTS / f"gpu-{device_name()}.json" if options.json == "auto" else Path(options.json)
        file.write_text(json.dumps(figures, indent=1) + "\n")
        console.print(f"figures: {file}")


if __name__ == "__main__":
    main()
