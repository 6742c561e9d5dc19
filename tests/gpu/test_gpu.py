"""On a GPU, asked for with `-m gpu` (or `make gpu-check`): the laws, agreement with the CPU, memory, and whose GPU it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from dqk import QKLSTM, FidelityKernel, gram
from dqk.backends import gpu, resolve
from dqk.backends._custatevec import FUSED_QUBITS, CuStateVecBackend
from dqk.backends.mps_device import MPSOnDevice
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit, Gate, data
from dqk.errors import MemoryBoundError, UnsupportedError
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
)
from dqk.testing import BACKEND_LAWS
from tests.cases import CIRCUITS

pytestmark = pytest.mark.gpu

REFERENCE = ReferenceBackend()
both_paths = pytest.mark.parametrize("fused", [False, True], ids=["custatevec", "fused"])


def arguments(circuit: Circuit, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(count, circuit.n_data).to(dtype), draw(circuit.n_shared).to(dtype)


@both_paths
@pytest.mark.parametrize("law", BACKEND_LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("name", CIRCUITS)
def test_laws_for_samples_in_main_memory(fused, name, law):
    law(CuStateVecBackend(fused=fused), CIRCUITS[name])


@both_paths
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["complex128", "complex64"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_samples_on_the_gpu_agree_with_the_reference_on_the_cpu(fused, dtype, name):
    circuit, backend = CIRCUITS[name], CuStateVecBackend(fused=fused)
    angles, shared = arguments(circuit, 13, dtype)
    bound = 1e-12 if dtype == torch.float64 else 2e-5 * max(1, len(circuit.gates) / 100)
    found = backend.encode(circuit, angles.cuda(), shared.cuda())
    assert found.device.type == "cuda" and found.dtype == dtype
    wide = angles.double(), shared.double()
    expected = REFERENCE.encode(circuit, *wide)
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=bound)
    cotangent = torch.randn(6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = backend.fidelity_vjp(
        circuit, angles[:6].cuda(), angles[6:].cuda(), shared.cuda(), cotangent.to(dtype).cuda()
    )
    theirs = REFERENCE.fidelity_vjp(circuit, wide[0][:6], wide[0][6:], wide[1], cotangent)
    for a, b in zip(ours, theirs, strict=True):
        assert a.device.type == "cuda" and a.dtype == dtype
        torch.testing.assert_close(a.cpu().double(), b, rtol=0, atol=100 * bound)


@pytest.mark.parametrize("n", [1, 2, 5, 8, FUSED_QUBITS, FUSED_QUBITS + 1, 14, 21])
def test_both_paths_agree_at_every_size(n):
    circuit = reuploading_feature_map(n, layers=2).circuit
    angles, shared = arguments(circuit, 5, torch.float64)
    first = CuStateVecBackend(fused=False).encode(circuit, angles.cuda(), shared.cuda())
    if n <= FUSED_QUBITS:
        second = CuStateVecBackend(fused=True).encode(circuit, angles.cuda(), shared.cuda())
    else:
        second = resolve("statevector", circuit).encode(circuit, angles, shared).cuda()
        first, second = (torch.complex(*states).abs() for states in (first, second))  # up to each sample's phase
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_gram_and_its_gradient_are_the_cpus():
    x = torch.rand(3000, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cotangent = torch.randn(3000, 3000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for backend, device in (("statevector", "cpu"), ("custatevec", "cpu"), ("auto", "cuda")):
        leaf = x.to(device).requires_grad_()
        k = gram(FidelityKernel(reuploading_feature_map(6), backend=backend), leaf)
        (slope,) = torch.autograd.grad(k, leaf, cotangent.to(device))
        assert k.device.type == slope.device.type == device
        found.append((k.detach().cpu(), slope.cpu()))
    for k, slope in found[1:]:
        torch.testing.assert_close(k, found[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(slope, found[0][1], rtol=0, atol=1e-9)


def test_a_recurrent_network_learns_the_same():
    outputs = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = QKLSTM(5, 6, n_qubits=4, backend="statevector" if device == "cpu" else "custatevec").double().to(device)
        x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
        out, _ = model(x)
        out.square().mean().backward()
        outputs.append([out.detach().cpu(), *(p.grad.cpu() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-10)


@both_paths
def test_lack_of_memory_gives_smaller_chunks_and_the_same_states(fused):
    circuit = reuploading_feature_map(10, layers=2).circuit
    angles, shared = arguments(circuit, 4000, torch.float32)
    angles, shared = angles.cuda(), shared.cuda()
    expected = CuStateVecBackend(fused=fused).encode(circuit, angles, shared)
    torch.cuda.empty_cache()
    total, used = gpu.total_bytes(), torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (used + 60 * 2**20) / total))
    try:
        # Chunks as for an empty GPU, so that the first ones find too little.
        found = CuStateVecBackend(fused=fused, chunk_mib=total // 2**20).encode(circuit, angles, shared)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        with pytest.raises(MemoryBoundError, match="states of 10 qubits need"):
            CuStateVecBackend(fused=fused).encode(circuit, angles.repeat(10, 1), shared)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_state_larger_than_the_gpu_is_refused():
    n = 40
    with pytest.raises(UnsupportedError, match=f"one state of {n} qubits takes"):
        resolve("custatevec", Circuit(n, (Gate("h", (0,)), Gate("rx", (0,), data(0))), n_data=1))


@both_paths
def test_a_thousand_calls_leave_no_memory_behind(fused):
    circuit, backend = CIRCUITS["reuploading_feature_map-rotations"], CuStateVecBackend(fused=fused)
    angles, shared = (t.cuda() for t in arguments(circuit, 50, torch.float32))
    cotangent = torch.ones(50, 50, device="cuda")

    def call() -> None:
        backend.fidelity_vjp(circuit, angles, None, shared, cotangent)

    for _ in range(10):
        call()
    torch.cuda.synchronize()
    free, before = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    for _ in range(1000):
        call()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.mem_get_info()[0] >= free - 2**22


def test_cuda_visible_devices_is_respected():
    """The device of a process that sees the last GPU only, by its UUID."""
    last = gpu.devices()[-1]["uuid"]
    code = "from dqk.cluster.resources import own_gpu; print(own_gpu())"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": last}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == last, done.stderr


@pytest.mark.parametrize("law", BACKEND_LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("name", ["reuploading_feature_map-rotations", "bsp_feature_map-2", "diagonal-run", "gate-crx"])
def test_laws_of_matrix_product_states_beside_a_gpu(name, law):
    law(MPSOnDevice(), CIRCUITS[name])


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "torch"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    "feature_map",
    [bsp_feature_map(200), ising_feature_map(60), ising_feature_map(30, reps=3), qklstm_feature_map(50)],
    ids=["bond2", "bond4", "bond8", "product"],
)
def test_matrix_product_states_and_their_gradients_are_the_cpus(feature_map, dtype, log, fused):
    x = torch.rand(1300, feature_map.n_features, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cotangent = torch.randn(1300, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = []
    for device, used in (("cpu", torch.float64), ("cuda", dtype)):
        leaves = [x.to(dtype).to(device, used).requires_grad_(), x[:30].to(dtype).to(device, used).requires_grad_()]
        k = gram(
            FidelityKernel(feature_map, backend="mps" if fused is None else MPSOnDevice(fused=fused)), *leaves, log=log
        )
        slopes = torch.autograd.grad(k, leaves, cotangent.to(k))
        assert k.dtype == used and {t.device.type for t in (k, *slopes)} == {device}
        found.append([t.detach().cpu().double() for t in (k, *slopes)])
    double = dtype == torch.float64
    for ours, theirs in zip(found[1], found[0], strict=True):
        scale = theirs.abs().max().clamp(min=1.0)
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-9 if double else 1e-3)


def test_matrix_product_states_with_little_memory_give_the_same_and_leave_none_behind():
    circuit, few = ising_feature_map(60).circuit, MPSOnDevice(chunk_mib=64)
    angles = arguments(circuit, 300, torch.float32)[0].cuda()
    cotangent = torch.ones(300, 300, device="cuda")
    none = angles.new_empty(0)
    expected = MPSOnDevice().fidelity_vjp(circuit, angles, None, none, cotangent)[0]
    torch.testing.assert_close(few.fidelity_vjp(circuit, angles, None, none, cotangent)[0], expected)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        few.fidelity_vjp(circuit, angles, None, none, cotangent)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("log", [False, True])
def test_truncated_states_on_the_gpu_are_the_cpus(log):
    x = torch.rand(70, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kernel = FidelityKernel(ising_feature_map(12, reps=4, gamma=0.6), backend="mps:max_bond=4")
    found = gram(kernel, x.cuda(), log=log)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), gram(kernel, x, log=log), rtol=1e-9, atol=1e-12)
