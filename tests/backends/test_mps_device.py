"""Matrix-product states on a device, here the CPU: what it does to lack of memory, and values against dense and wide references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dqk import FidelityKernel, gram
from dqk._tiled import tiled_fidelity
from dqk.backends import chain_plain, resolve, resolve_expectations
from dqk.backends.mps import MPSBackend
from dqk.backends.mps_device import MPSOnDevice
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, MemoryBoundError, UnsupportedError
from dqk.kernels import FeatureMap
from dqk.kernels.feature_maps import (
    FEATURE_MAPS,
    bsp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
)
from tests.transfer_matrices import bsp_by_transfer_matrices

REFERENCE, DEVICE = ReferenceBackend(), MPSOnDevice()


def kept(feature_map: FeatureMap) -> Circuit:
    return simplify_for_fidelity(feature_map.circuit).circuit


def drawn(circuit: Circuit, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, circuit.n_data, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(FEATURE_MAPS))
@pytest.mark.parametrize("n", [4, 10])
def test_every_feature_map_against_dense_states(name, n):
    feature_map = FEATURE_MAPS[name](n)
    x = torch.rand(5, feature_map.n_features, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 2 - 1
    ax, w = feature_map.angles(x)
    found = DEVICE.fidelity(feature_map.circuit, ax[:3], ax[2:], w)
    expected = REFERENCE.fidelity(feature_map.circuit, ax[:3], ax[2:], w)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("side", ["both", "rows", "columns", "same"])
@pytest.mark.parametrize(
    "feature_map", [ising_feature_map(6, gamma=0.5), qklstm_feature_map(4)], ids=["ising", "paper"]
)
def test_tiled_values_and_gradients_against_dense_states(feature_map, side, log, monkeypatch):
    """Several tiles of several chunks."""
    backend, circuit = MPSOnDevice(chunk_mib=1), kept(feature_map)
    monkeypatch.setattr(MPSOnDevice, "tile_side", lambda *_: 16)
    found = []
    for used in (backend, REFERENCE):
        ax = (0.5 * drawn(circuit, 41, 1)).requires_grad_(side != "columns")
        ay = None if side == "same" else (0.5 * drawn(circuit, 37, 2)).requires_grad_(side != "rows")
        k = tiled_fidelity(used, circuit, ax, ay, ax.new_zeros(0), log, False)
        weights = torch.cos(torch.arange(k.numel(), dtype=k.dtype)).view_as(k)
        (weights * k).sum().backward()
        found.append([k.detach(), *(t.grad for t in (ax, ay) if t is not None and t.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_bsp_on_784_qubits_against_transfer_matrices():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (9, 784)), rng.uniform(-1, 1, (7, 784))
    for dtype, bound in ((np.float64, 1e-9), (np.float32, 1e-3)):
        a, b = x.astype(dtype), y.astype(dtype)
        kernel = FidelityKernel(bsp_feature_map(784), backend=DEVICE)
        expected = bsp_by_transfer_matrices(a.astype(float), b.astype(float))
        assert np.exp(expected.max()) < 1e-100  # float32 would underflow
        # The kernel's own path gives samples in main memory to the backend for main memory.
        angles = [kernel.feature_map.angles(torch.from_numpy(t)) for t in (a, b)]
        circuit = kept(kernel.feature_map)
        blocks = [DEVICE.forward_block(circuit, *pair) for pair in angles]
        found = DEVICE.forward_tile(*blocks, True)
        assert found.dtype == angles[0][0].dtype
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=bound)
        narrow = DEVICE.forward_tile(*blocks, False).numpy()
        np.testing.assert_allclose(narrow, np.exp(expected) if dtype == np.float64 else 0, rtol=1e-9, atol=0)


def test_a_gradient_of_many_qubits_is_the_cpus():
    feature_map = ising_feature_map(40, gamma=0.4)
    circuit, none = kept(feature_map), torch.zeros(0, dtype=torch.float64)
    angles = [drawn(circuit, 6, 1), drawn(circuit, 5, 2)]
    cotangent, found = torch.cos(torch.arange(30, dtype=torch.float64)).view(6, 5), []
    for backend in (MPSBackend(), DEVICE):
        (ex, a), (_, b) = (backend.encode_block(circuit, each, none) for each in angles)
        of_a, of_b = backend.log_overlap_vjp(a, b, cotangent)
        assert of_a.shape == ex.shape
        first = backend.first_overlap_vjp(a, b, cotangent, True)
        found.append([of_a, of_b, first, *backend.encode_vjp(circuit, angles[0], none, ex, of_a)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_lack_of_memory_gives_smaller_chunks_then_a_clear_error(monkeypatch):
    circuit, none = kept(reuploading_feature_map(4, 2)), torch.zeros(0, dtype=torch.float64)
    a, b = (DEVICE.forward_block(circuit, drawn(circuit, 20, seed), none) for seed in (1, 2))
    cotangent = torch.ones(20, 20, dtype=torch.float64)
    expected = DEVICE.overlap(a, b), *DEVICE.overlap_vjp(a, b, cotangent)
    amplitudes, sizes, most = chain_plain.amplitudes, [], 3

    def short_of_memory(chain, x, y):
        sizes.append(x.shape[-1])
        if x.shape[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return amplitudes(chain, x, y)

    monkeypatch.setattr(chain_plain, "amplitudes", short_of_memory)
    found = DEVICE.overlap(a, b), *DEVICE.overlap_vjp(a, b, cotangent)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert sizes[:5] == [20, 10, 5, 2, 2]
    most = 0
    with pytest.raises(MemoryBoundError, match=r"of one matrix-product state with 20 others need [\d,]+ bytes on cpu"):
        DEVICE.overlap(a, b)


def test_chunks_are_sized_from_the_memory_that_they_may_take(monkeypatch):
    circuit, none = kept(ising_feature_map(30)), torch.zeros(0, dtype=torch.float64)
    backend = MPSOnDevice(chunk_mib=1)
    block = backend.forward_block(circuit, drawn(circuit, 64, 1), none)
    amplitudes, sizes = chain_plain.amplitudes, []
    monkeypatch.setattr(
        chain_plain, "amplitudes", lambda chain, x, y: (sizes.append(x.shape[-1]), amplitudes(chain, x, y))[1]
    )
    backend.overlap(block, block)
    wide = list(sizes)
    backend.overlap_vjp(block, block, torch.ones(64, 64, dtype=torch.float64))
    gradient = sizes[len(wide) :]
    assert sum(wide) == sum(gradient) == 64 and max(gradient) < max(wide) < 64
    # 16 bytes for a complex number; environments of 8 and what lies between them.
    assert max(wide) * 64 * 16 * 8 <= 2**20


def test_networks_that_allow_tf32_do_not_round_overlaps(monkeypatch):
    circuit, none = kept(ising_feature_map(4)), torch.zeros(0, dtype=torch.float32)
    block = DEVICE.forward_block(circuit, drawn(circuit, 8, 1).float(), none)
    amplitudes, seen = chain_plain.amplitudes, []

    def watched(*given):
        seen.append(torch.get_float32_matmul_precision())
        return amplitudes(*given)

    monkeypatch.setattr(chain_plain, "amplitudes", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        DEVICE.overlap(block, block)
        DEVICE.overlap_vjp(block, block, torch.ones(8, 8))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest", "highest"]


def test_cuda_tensors_are_given_to_it_by_name_and_as_an_object():
    circuit = bsp_feature_map(3).circuit
    for given in ("mps", MPSBackend(), "mps:max_bond=4", DEVICE):
        found = resolve(given, circuit, "cuda")
        assert isinstance(found, MPSOnDevice) and found.name.startswith("mps")
        assert isinstance(resolve_expectations(given, circuit, "cuda"), MPSOnDevice)
        assert type(resolve(given, circuit)) is MPSBackend
    assert resolve("statevector", circuit, "cuda").name == "statevector"


def test_what_it_cannot_do_is_refused():
    circuit, none = kept(ising_feature_map(8, reps=4)), torch.zeros(0, dtype=torch.float64)
    backend = MPSOnDevice(max_bond=4)
    block = backend.forward_block(circuit, drawn(circuit, 8, 1), none)
    with pytest.raises(UnsupportedError, match=r"truncated.*max_bond=4.*no gradients"):
        backend.overlap_vjp(block, block, torch.ones(8, 8, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="chunk_mib=0"):
        MPSOnDevice(chunk_mib=0)


@pytest.mark.parametrize("feature_map", [ising_feature_map(5), qklstm_feature_map(3)], ids=["ising", "paper"])
@pytest.mark.parametrize("log", [False, True])
def test_nothing_leaves_the_device(feature_map, log):
    """On torch's device without data, which refuses tensors of any other one."""
    circuit, none = kept(feature_map), torch.zeros(0, dtype=torch.float32)
    encoded = [DEVICE.encode(circuit, drawn(circuit, n, 1).float(), none) for n in (4, 3)]
    a, b = (DEVICE._block(circuit, each.to("meta")) for each in encoded)
    k = DEVICE.forward_tile(a, b, log)
    assert k.device.type == "meta" and k.shape == (4, 3) and k.dtype == torch.float32
    vjp = DEVICE.log_overlap_vjp if log else DEVICE.overlap_vjp
    for found, expected in zip(vjp(a, b, k), encoded, strict=True):
        assert found.device.type == "meta" and found.shape == expected.shape and found.dtype == torch.float32


@pytest.mark.parametrize("log", [False, True])
def test_truncated_states_are_those_of_main_memory_with_their_bound(log):
    circuit, none = kept(ising_feature_map(12, reps=4, gamma=0.6)), torch.zeros(0, dtype=torch.float64)
    ax, ay = drawn(circuit, 11, 1), drawn(circuit, 7, 2)
    found = []
    for backend in (MPSBackend(max_bond=4), MPSOnDevice(max_bond=4, chunk_mib=1)):
        assert not backend.capabilities.exact
        blocks = [backend.forward_block(circuit, angles, none) for angles in (ax, ay)]
        found.append((backend.forward_tile(*blocks, log), backend.error_bound(circuit, ax, ay)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    exact = REFERENCE.fidelity(circuit, ax, ay)
    assert (found[1][1] >= ((found[1][0].exp() if log else found[1][0]) - exact).abs()).all()


def test_no_samples_give_empty_matrices():
    circuit, none = kept(ising_feature_map(4)), torch.zeros(0, dtype=torch.float64)
    some, empty = (DEVICE.forward_block(circuit, drawn(circuit, n, 1), none) for n in (3, 0))
    assert DEVICE.overlap(some, empty).shape == (3, 0)
    of_some, of_empty = DEVICE.overlap_vjp(some, empty, torch.zeros(3, 0, dtype=torch.float64))
    assert of_some.shape[-1] == 3 and of_empty.shape[-1] == 0 and not of_some.any()


def test_numbers_of_a_device_are_those_of_gram():
    """The same kernel through `gram` in main memory, whose overlaps are generated code."""
    x = np.random.default_rng(3).uniform(0, 2, (30, 20))
    feature_map = ising_feature_map(20)
    expected = gram(FidelityKernel(feature_map, backend="mps"), x)
    found = DEVICE.fidelity(feature_map.circuit, feature_map.angles(torch.from_numpy(x))[0])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)
