"""The GPU backend without a GPU: its plans on an emulation of cuStateVec's documented behaviour, and what it refuses."""

from __future__ import annotations

import inspect
import random
import sys

import numpy as np
import pytest
import torch

from dqk import QKLSTM, FidelityKernel, gram
from dqk.backends import _custatevec, _custatevec_library, gpu, resolve, resolve_expectations
from dqk.backends._custatevec import CuStateVecBackend
from dqk.backends.arrays import require_cpu
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit, Gate, data
from dqk.cluster import open_pool
from dqk.errors import BackendUnavailableError, InvalidInputError, MemoryBoundError, UnsupportedError
from dqk.kernels.feature_maps import bsp_feature_map, reuploading_feature_map
from dqk.testing import BACKEND_LAWS
from tests.backends.fake_custatevec import ComputeType, FakeCuStateVec, cudaDataType
from tests.cases import CIRCUITS
from tests.random_circuits import random_circuit

REFERENCE = ReferenceBackend()
resolve_module = sys.modules["dqk.backends.resolve"]  # the package has a function of this name


@pytest.fixture
def library(monkeypatch):
    """A machine whose GPU is the CPU: torch's tensors stay where they are, cuStateVec is emulated."""
    fake = FakeCuStateVec()
    monkeypatch.setattr(_custatevec_library, "load_library", lambda: (fake, cudaDataType, ComputeType))
    monkeypatch.setattr(_custatevec_library, "_libraries", {})
    monkeypatch.setattr(gpu, "missing", lambda: None)
    monkeypatch.setattr(gpu, "device_for", lambda samples: samples.device)
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 2**26)
    monkeypatch.setattr(gpu, "total_bytes", lambda: 2**30)
    return fake


def arguments(circuit: Circuit, count: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(count, circuit.n_data).to(dtype), draw(circuit.n_shared).to(dtype)


@pytest.mark.parametrize("name", CIRCUITS)
def test_states_are_the_references(library, name):
    """Amplitudes with their phases, gates that cancel in a fidelity included."""
    circuit, backend = CIRCUITS[name], CuStateVecBackend(fused=False)
    angles, shared = arguments(circuit, 5)
    torch.testing.assert_close(
        torch.complex(*backend.encode(circuit, angles, shared)),
        torch.complex(*REFERENCE.encode(circuit, angles, shared)),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("law", BACKEND_LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("name", ["reuploading_feature_map-rotations", "diagonal-run", "permutations", "gate-crx"])
def test_laws(library, name, law):
    law(CuStateVecBackend(fused=False), CIRCUITS[name])


@pytest.mark.parametrize("seed", range(25))
def test_random_circuits(library, seed):
    circuit, backend = random_circuit(seed), CuStateVecBackend(fused=False)
    angles, shared = arguments(circuit, 6)
    cotangent = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ours = backend.fidelity_vjp(circuit, angles[:4], angles[4:], shared, cotangent)
    theirs = REFERENCE.fidelity_vjp(circuit, angles[:4], angles[4:], shared, cotangent)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    pick = random.Random(seed)
    words = ["".join(pick.choice("IXYZ") for _ in range(circuit.n_qubits)) for _ in range(3)]
    values = backend.expectations(circuit, angles, words, shared)
    torch.testing.assert_close(values, REFERENCE.expectations(circuit, angles, words, shared), rtol=0, atol=1e-12)


def test_without_tables_every_gate_is_a_matrix(library, monkeypatch):
    """As on more than 20 qubits, where a table of basis states would be as large as the states."""
    monkeypatch.setattr("dqk.backends.batching.TABLE_QUBITS", 0)
    for name in ("diagonal-run", "permutations", "unitaries", "zz_feature_map-3"):
        circuit = Circuit.from_dict(CIRCUITS[name].to_dict())
        circuit = Circuit(circuit.n_qubits, circuit.gates, circuit.n_data + 1, circuit.n_shared)  # not planned before
        angles, shared = arguments(circuit, 3)
        found = CuStateVecBackend(fused=False).encode(circuit, angles, shared)
        torch.testing.assert_close(found, REFERENCE.encode(circuit, angles, shared), rtol=0, atol=1e-12)


def test_cuquantum_is_called_as_its_binding_is_written():
    """The emulation has the parameters of `cuquantum.bindings.custatevec` 26.9, in their order."""
    size = (
        "handle sv_data_type n_index_bits n_svs sv_stride map_type matrix_indices matrices matrix_data_type layout adjoint "
        "n_matrices n_targets n_controls compute_type"
    )
    apply = (
        "handle batched_sv sv_data_type n_index_bits n_svs sv_stride map_type matrix_indices matrices matrix_data_type layout "
        "adjoint n_matrices targets n_targets controls control_bit_values n_controls compute_type extra_workspace "
        "extra_workspace_size_in_bytes"
    )
    for name, expected in (("apply_matrix_batched_get_workspace_size", size), ("apply_matrix_batched", apply)):
        parameters = list(inspect.signature(getattr(FakeCuStateVec, name)).parameters)
        assert parameters[1:] == expected.split()


def test_data_gates_are_indexed_and_shared_ones_broadcast(library):
    circuit = CIRCUITS["reuploading_feature_map-rotations"]
    angles, shared = arguments(circuit, 7)
    CuStateVecBackend(fused=False).encode(circuit, angles, shared)
    kinds = {(kind, n) for _, kind, _, n in library.applied}
    # RY(data) RZ(data) and the trainable rotations after them are one matrix for each sample.
    assert kinds == {(1, 7)} and len(library.applied) == circuit.n_qubits  # layers after the product state
    assert len(library.asked) == 1, "the workspace of one call shape is asked for once"
    both = Circuit(2, (Gate("cx", (0, 1)), Gate("h", (0,)), Gate("cx", (0, 1)), Gate("ry", (1,), data(0))), n_data=1)
    library.applied.clear()
    CuStateVecBackend(fused=False).encode(both, angles[:, :1], shared[:0])
    assert [(kind, n) for _, kind, _, n in library.applied] == [(0, 1), (1, 7)]


def test_a_library_without_workspace_gets_none(library):
    library.workspace = 0
    circuit = CIRCUITS["unitaries"]
    angles, shared = arguments(circuit, 2)
    torch.testing.assert_close(
        CuStateVecBackend(fused=False).encode(circuit, angles, shared), REFERENCE.encode(circuit, angles, shared)
    )


def test_chunks_give_the_same(library, monkeypatch):
    circuit = CIRCUITS["diagonal-run"]
    angles, shared = arguments(circuit, 37)
    backend = CuStateVecBackend(fused=False)
    whole = backend.encode(circuit, angles, shared)
    gradient = backend.encode_vjp(circuit, angles, shared, whole, whole.flip(2))
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 10_000)
    library.asked.clear()
    torch.testing.assert_close(backend.encode(circuit, angles, shared), whole, rtol=0, atol=0)
    assert {shape[2] for shape in library.asked} == {20, 17}  # 0.8 x 10,000 bytes over 3 x 128 bytes
    again = backend.encode_vjp(circuit, angles, shared, whole, whole.flip(2))
    torch.testing.assert_close(again, gradient, rtol=0, atol=1e-13)


def test_lack_of_memory_halves_the_chunk_and_then_says_what_is_needed(library, monkeypatch):
    circuit = CIRCUITS["unitaries"]
    angles, shared = arguments(circuit, 13)
    backend, apply, room = CuStateVecBackend(fused=False), library.apply_matrix_batched, 3

    def crowded(*given):
        if given[4] > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        apply(*given)

    monkeypatch.setattr(library, "apply_matrix_batched", crowded)
    found = backend.encode(circuit, angles, shared)
    torch.testing.assert_close(found, REFERENCE.encode(circuit, angles, shared), rtol=0, atol=1e-12)
    room = 0
    with pytest.raises(MemoryBoundError, match=r"1 states of 3 qubits need 384 bytes .* 67,108,864 free"):
        backend.encode(circuit, angles, shared)


def test_a_state_larger_than_the_gpu_is_refused(library):
    with pytest.raises(UnsupportedError, match="one state of 28 qubits takes 2,147,483,648 bytes .* has 1,073,741,824"):
        resolve(CuStateVecBackend(), Circuit(28, (Gate("h", (0,)), Gate("rx", (0,), data(0))), n_data=1))


def test_small_states_are_padded_to_128_bytes(library):
    for dtype, stride in ((torch.float32, 16), (torch.float64, 8)):
        circuit = CIRCUITS["unitaries"]
        angles, shared = arguments(circuit, 3, dtype)
        encoded = CuStateVecBackend(fused=False).encode(circuit, angles, shared)
        assert encoded.shape == (2, 8, 3) and encoded.stride() == (1, 2, 2 * stride) and encoded.dtype == dtype


def test_values_for_main_memory_have_their_own_copy(library):
    circuit = CIRCUITS["bsp_feature_map-3"]
    angles, shared = arguments(circuit, 4)
    backend = CuStateVecBackend(fused=False)
    block = backend.forward_block(circuit, angles, shared)
    elsewhere = _custatevec._Block(block.states, torch.device("cpu", 0), block.place)
    assert elsewhere.home != block.home
    expected = REFERENCE.overlap(*[REFERENCE.encode(circuit, angles, shared)] * 2)
    for log in (False, True):
        found = backend.forward_tile(elsewhere, elsewhere, log)
        torch.testing.assert_close(found, expected.log() if log else expected, rtol=0, atol=1e-11)


def test_tf32_only_inside_and_only_if_asked(library):
    seen = []
    for wanted in (False, True):
        with CuStateVecBackend(tf32=wanted)._products():
            seen.append(torch.get_float32_matmul_precision())
    assert seen == ["highest", "high"] and torch.get_float32_matmul_precision() == "highest"


def test_wrong_options(library):
    for options in ({"fused": "yes"}, {"chunk_mib": 0}):
        with pytest.raises(InvalidInputError, match="expected True, False or None, and at least 1"):
            CuStateVecBackend(**options)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_cpu_build_of_torch_is_the_reason():
    with pytest.raises(BackendUnavailableError, match=r"build without CUDA; pip install 'dqk\[cuda13\]'"):
        resolve("custatevec", CIRCUITS["product"])


@pytest.mark.parametrize(
    ("driver", "packages", "visible", "says"),
    [
        (None, {}, None, "no NVIDIA driver"),
        ("570.1", {}, "", "CUDA_VISIBLE_DEVICES is ''"),
        ("450.1", {}, None, "the driver 450.1 may be too old for CUDA 13.0"),
        ("580", {}, "0", "cuquantum-python-cu13 and custatevec-cu13 are not installed; pip install 'dqk[cuda13]'"),
        ("580", {"custatevec-cu13": "1.15"}, "0", "cuquantum-python-cu13 are not installed"),
        (
            "580",
            {"custatevec-cu12": "1.15"},
            "0",
            "belong to another CUDA than torch's 13.0: pip uninstall custatevec-cu12",
        ),
        ("580", {"custatevec-cu13": "1", "cuquantum-python-cu13": "26"}, "0", None),
    ],
)
def test_what_is_missing_is_said(monkeypatch, driver, packages, visible, says):
    seen = visible == "0"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    monkeypatch.setattr(gpu, "driver_version", lambda: driver)
    monkeypatch.setattr(gpu, "packages", lambda: packages)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (gpu.missing() is None) if says is None else (says in (gpu.missing() or ""))


def test_a_binding_that_does_not_load_is_unavailable(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuquantum", None)
    with pytest.raises(BackendUnavailableError, match="cuQuantum cannot be loaded .* LD_LIBRARY_PATH"):
        _custatevec_library.load_library()


def test_driver_version_is_read(monkeypatch, tmp_path):
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 02:00:00\n"
    )
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "version")
    assert gpu.driver_version() == "570.124.06"
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "none")
    assert gpu.driver_version() is None


def test_expected_norm_of_numpy_states(library):
    """A closed form: RY(t) on wire 1 of 2 gives cos(t/2) |00> + sin(t/2) |01>, wire 0 being the most significant bit."""
    circuit = Circuit(2, (Gate("ry", (1,), data(0)),), n_data=1)
    angles = torch.tensor([[0.3], [1.1]], dtype=torch.float64)
    found = CuStateVecBackend(fused=False).encode(circuit, angles, angles.new_empty(0)).numpy()
    np.testing.assert_allclose(found[0, :, 0], [np.cos(0.15), np.sin(0.15), 0, 0], atol=1e-15)
    np.testing.assert_allclose(found[0, :, 1], [np.cos(0.55), np.sin(0.55), 0, 0], atol=1e-15)


def test_samples_on_a_gpu_choose_it(library, monkeypatch):
    assert resolve("auto", CIRCUITS["unitaries"], "cuda").name == "custatevec"
    assert resolve_expectations("auto", CIRCUITS["unitaries"], "cuda").name == "custatevec"
    assert resolve("auto", CIRCUITS["unitaries"]).name == "statevector"


@pytest.mark.parametrize("name", ["cuda", "gpu", "cuquantum"])
def test_other_names_of_it_are_not_guessed(name):
    with pytest.raises(InvalidInputError, match="did you mean 'custatevec'"):
        resolve(name, CIRCUITS["product"])


def test_cpu_backends_name_it_for_samples_on_a_gpu():
    with pytest.raises(UnsupportedError, match="samples are on meta; use backend='custatevec'"):
        require_cpu("statevector", torch.empty(1, device="meta"))


def test_gram_its_gradient_and_workers_tiles(library, monkeypatch):
    """The engine's whole way, with several tiles: values, gradients, and tiles of the inline pool."""
    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(40, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    feature_map, found = reuploading_feature_map(3, layers=2), []
    backend = CuStateVecBackend(fused=False)
    backend.tile_side = lambda circuit, dtype: 16  # type: ignore[method-assign]
    for choice in ("reference", backend):
        k = gram(FidelityKernel(feature_map, backend=choice), x)
        found.append((k.detach(), *torch.autograd.grad(k, x, cotangent)))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-11)
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 2**31)
    resolve_module._load.cache_clear()
    try:
        circuit = feature_map.circuit
        assert resolve("custatevec", circuit).name == "custatevec"
        kernel = FidelityKernel(bsp_feature_map(12), backend="custatevec")  # wider than what is fused
        few = torch.rand(10, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        expected = gram(FidelityKernel(bsp_feature_map(12), backend="reference"), few)
        with open_pool("inline", 2) as pool:
            torch.testing.assert_close(gram(kernel, few, executor=pool), expected, rtol=0, atol=1e-12)
    finally:
        resolve_module._load.cache_clear()


def test_a_recurrent_network_learns_the_same(library):
    outputs = []
    for backend in ("reference", CuStateVecBackend(fused=False)):
        torch.manual_seed(0)
        model = QKLSTM(3, 4, n_qubits=3, feature_map=reuploading_feature_map(3, layers=1), backend=backend).double()
        out, _ = model(torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        out.square().mean().backward()
        outputs.append([out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)
