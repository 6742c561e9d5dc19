"""The kernel of overlaps, run by Triton's interpreter on the CPU, against other backends; and which circuits have one.

Triton decides when it is imported whether it interprets: the kernel runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from dqk.backends import _triton_chains, chain_source
from dqk.backends.chain import chain_of
from dqk.backends.compiled.chain_terms import steps_of
from dqk.backends.mps_device import MPSOnDevice
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)

_COMPARE = """
import json
import torch
from dqk.backends import _triton_chains, chain_plain, gpu
from dqk.backends.mps import MPSBackend
from dqk.backends.mps_device import MPSOnDevice
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import bsp_feature_map, ising_feature_map, reuploading_feature_map, zz_feature_map

def no_torch_path(*_):
    raise AssertionError("the kernel was to be used")

chain_plain.amplitudes = no_torch_path
found = {}
maps = {
    "one site": bsp_feature_map(2), "bond 2": bsp_feature_map(240), "bond 4": ising_feature_map(11, gamma=0.4), "four kinds":
    ising_feature_map(8, 1, distance=2), "wide sites": reuploading_feature_map(6, 2), "diagonal": zz_feature_map(6, 1, "linear"),
}
for name, feature_map in maps.items():
    circuit = simplify_for_fidelity(feature_map.circuit).circuit
    generator = torch.Generator().manual_seed(1)
    rows, scale = (8, 2.0) if name == "bond 2" else (10, 0.7)  # small amplitudes in one block of rows
    ax, ay = (scale * torch.randn(n, circuit.n_data, generator=generator, dtype=torch.float64) for n in (rows, 9))
    ay[:2] = ax[:2] + 0.05
    single = name in ("bond 2", "bond 4")  # the interpreter is slow
    for dtype in (torch.float64, torch.float32) if single else (torch.float64,):
        x, y, w = ax.to(dtype), ay.to(dtype), torch.zeros(0, dtype=dtype)
        wide = x.double(), y.double(), w.double()
        exact = MPSBackend() if circuit.n_qubits > 12 else ReferenceBackend()
        encoded = [exact.encode_block(circuit, each, wide[2])[1] for each in wide[:2]]
        backend = MPSOnDevice(fused=True, chunk_mib=1)
        a, b = (backend.forward_block(circuit, each, w) for each in (x, y))
        k, log_k = backend.forward_tile(a, b, False), backend.forward_tile(a, b, True)
        found[f"{name} {dtype}"] = [
            str(k.dtype), len(circuit.gates), float((k.double() - exact.overlap(*encoded)).abs().max()),
            float((log_k.double() - exact.log_overlap(*encoded)).abs().max()), float(k.max()), float(log_k.min()),
        ]
print(json.dumps(found))
"""


def environment(interpret: str) -> dict[str, str]:
    path = os.pathsep.join(part or "." for part in sys.path)
    return {**os.environ, "TRITON_INTERPRET": interpret, "PYTHONPATH": path}


def kept(circuit: Circuit) -> Circuit:
    return simplify_for_fidelity(circuit).circuit


def test_the_kernel_agrees_with_the_reference() -> None:
    """Values and logarithms in both precisions: dense states up to 12 qubits, the CPU's generated code above."""
    pytest.importorskip("triton", reason="Triton is there for Linux only")
    run = [sys.executable, "-c", _COMPARE]
    done = subprocess.run(run, env=environment("1"), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 8
    assert found["bond 2 torch.float32"][-1] < -210, "no amplitude that float32 cannot hold"
    for name, (dtype, gates, absolute, logarithm, largest, _) in found.items():
        double = name.endswith("float64")
        assert dtype == ("torch.float64" if double else "torch.float32")
        assert largest > 0.1, name
        assert absolute <= (1e-12 if double else 2e-5 * max(1, gates / 100)), f"{name}: values differ by {absolute}"
        assert logarithm <= (1e-9 if double else 1e-3), f"{name}: logarithms differ by {logarithm}"


_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dqk.backends._triton_chains import COLUMNS, ROWS, WARPS, _kernel
from dqk.backends.chain import chain_of
from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import bsp_feature_map

sizes = {"ROWS": ROWS, "COLUMNS": COLUMNS}
types = {"offsets": "*i64", "runs": "*i32", "exponents": "*i32"} | dict.fromkeys(sizes, "constexpr")
for real, itemsize in (("*fp32", 4), ("*fp64", 8)):
    kernel = _kernel(chain_of(simplify_for_fidelity(bsp_feature_map(784).circuit).circuit), itemsize)
    types |= dict.fromkeys(("a", "b", "space", "values"), real)
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    given = {(kernel.arg_names.index(name),): size for name, size in sizes.items()}
    source = ASTSource(kernel, signature, given)
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
    assert ".target sm_90" in found.asm["ptx"] and len(found.asm["cubin"]) > 1000
    assert "convert_layout" not in found.asm["ttgir"], "one pair for each thread"
"""


def test_the_kernel_compiles_for_a_gpu(tmp_path) -> None:
    """Triton needs no GPU for that, and its interpreter accepts more than its compiler."""
    pytest.importorskip("triton", reason="Triton is there for Linux only")
    given = {**environment("0"), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _COMPILE], env=given, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("circuit", "has_one"),
    [
        (bsp_feature_map(784).circuit, True),
        (ising_feature_map(165).circuit, True),
        (reuploading_feature_map(8, 2).circuit, True),
        (ising_feature_map(165, reps=3).circuit, False),  # bond 8: 512 products for a site
        (zz_feature_map(12).circuit, False),
    ],
)
def test_circuits_of_small_bonds_have_a_kernel(circuit, has_one):
    assert _triton_chains.fits(chain_of(kept(circuit))) is has_one


def test_runs_are_all_sites_in_order_and_the_source_depends_on_kinds_alone():
    wide, narrow = (steps_of(chain_of(kept(bsp_feature_map(n).circuit))) for n in (784, 9))
    runs = chain_source.runs_of(wide)
    assert [(start, stop) for _, start, stop in runs] == [(0, 1), (1, 783), (783, 784)]
    assert all(wide[k] == step for step, start, stop in runs for k in range(start, stop))
    assert chain_source.overlap_source(wide, 4) == chain_source.overlap_source(narrow, 4)


def test_the_kernel_is_for_cuda_tensors_unless_asked_for():
    circuit, none = kept(bsp_feature_map(3).circuit), torch.zeros(0, dtype=torch.float64)
    angles = torch.zeros(8, circuit.n_data, dtype=torch.float64)
    paths = {
        fused: MPSOnDevice(fused=fused)._path(MPSOnDevice().forward_block(circuit, angles, none))[0].__name__
        for fused in (None, True, False)
    }
    assert paths == {None: "_by_products", True: "_by_one_kernel", False: "_by_products"}
    product = kept(qklstm_feature_map(3).circuit)
    block = MPSOnDevice().forward_block(product, torch.zeros(8, product.n_data, dtype=torch.float64), none)
    assert MPSOnDevice(fused=True)._path(block)[0].__name__ == "_by_bloch_vectors"
