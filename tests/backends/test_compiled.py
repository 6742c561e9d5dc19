"""Facts of the compiled code: its cache, vectors, programs, and product states on many qubits."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dqk import FidelityKernel, gram
from dqk.backends import resolve
from dqk.backends.compiled import program
from dqk.backends.compiled.jit import cache_folder
from dqk.circuit import Circuit, Gate, data
from dqk.errors import InvalidInputError, MemoryBoundError, UnsupportedError
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map, reuploading_feature_map, zz_feature_map

_CHILD = """
import numpy, dqk
from dqk.kernels.feature_maps import qklstm_feature_map
print(dqk.FidelityKernel(qklstm_feature_map(2))(numpy.zeros((1, 2)), numpy.full((1, 2), 0.5))[0, 0].hex())
"""


def child(folder) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DQK_CACHE_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", _CHILD], env=environment, capture_output=True, text=True, check=True, timeout=120
    )


def test_compilation_is_announced_once_and_kept(tmp_path):
    first, second = child(tmp_path), child(tmp_path)
    assert first.stderr.count("compiling") == 1 and str(tmp_path) in first.stderr
    assert second.stderr == ""
    assert first.stdout == second.stdout
    assert list(tmp_path.rglob("*.nbc"))


def test_an_unwritable_cache_is_said_and_does_not_stop_the_work(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = child(blocked)
    assert "DQK_CACHE_DIR" in done.stderr
    assert float.fromhex(done.stdout.strip()) == pytest.approx(((1 + math.cos(0.5) ** 2) / 2) ** 2, rel=1e-12)


def test_the_cache_folder_changes_with_the_sources(monkeypatch, tmp_path):
    """Numba alone would keep stale code when a function that an entry point calls changes in another file."""
    monkeypatch.setenv("DQK_CACHE_DIR", str(tmp_path))
    cache_folder.cache_clear()
    before = cache_folder()
    monkeypatch.setattr("dqk.backends.compiled.jit.__file__", str(tmp_path / "jit.py"))
    (tmp_path / "passes.py").write_text("changed = True\n")
    cache_folder.cache_clear()
    assert cache_folder() != before
    monkeypatch.undo()
    cache_folder.cache_clear()


def test_permutations_cost_no_step_and_phases_are_collected():
    """Three layers on n qubits: RY two by two, one pass for all RZ, none for the CNOT rings."""
    n = 6
    kernel = FidelityKernel(reuploading_feature_map(n, 3))
    steps, frames, *_ = program.program_of(kernel.circuit, np.dtype("f8"))
    assert [row[0] for row in steps] == ([program.RY2] * (n // 2) + [program.STAR]) * 2
    assert len(frames) == 3


def test_programs_are_kept_up_to_a_bound_in_bytes():
    """A program on 10 qubits has four frames of 2**10 int32, 16 KiB, and less than 4 KiB of the rest: two fit into 40 KiB."""
    programs, dtype = program._Programs(most_bytes=40 * 2**10), np.dtype("f8")
    gates = reuploading_feature_map(10, 3).circuit.gates
    one, two, three = (Circuit(10, (*gates, Gate("x", (q,))), n_data=60) for q in range(3))
    first, second = programs(one, dtype), programs(two, dtype)
    assert 16 * 2**10 < sum(array.nbytes for array in first) < 20 * 2**10
    assert programs(one, dtype) is first
    programs(three, dtype)  # in place of the second, which was not used for longest
    assert programs.nbytes <= programs.most_bytes
    assert programs(one, dtype) is first
    assert programs(two, dtype) is not second
    wide = zz_feature_map(14).circuit  # more than the bound alone
    assert programs(wide, dtype) is programs(wide, dtype)


def test_full_zz_entanglement_takes_fewer_passes_than_pairs():
    kernel = FidelityKernel(zz_feature_map(6, reps=1))
    stars = program.program_of(kernel.circuit, np.dtype("f8"))[0]
    assert len(stars) <= 6  # 15 pairs and 6 single phases


def test_product_kernel_on_many_qubits_has_its_closed_form():
    x = np.random.default_rng(0).uniform(-0.3, 0.3, (20, 300))
    kernel = FidelityKernel(qklstm_feature_map(300))
    a, b = x[:, None, :], x[None, :, :]
    factors = (1 + np.cos(a) * np.cos(b) * np.cos(a - b) + np.sin(a) * np.sin(b)) / 2
    np.testing.assert_allclose(kernel(x), factors.prod(axis=2), rtol=1e-11)
    np.testing.assert_allclose(gram(kernel, x, log=True), np.log(factors).sum(axis=2), rtol=1e-11, atol=1e-12)


def test_logarithm_does_not_underflow_where_the_kernel_does():
    x = np.random.default_rng(1).uniform(-3, 3, (4, 3000))
    kernel = FidelityKernel(qklstm_feature_map(3000))
    a, b = x[0], x[1]
    expected = np.log((1 + np.cos(a) * np.cos(b) * np.cos(a - b) + np.sin(a) * np.sin(b)) / 2).sum()
    assert kernel(x)[0, 1] == 0.0
    assert gram(kernel, x, log=True)[0, 1] == pytest.approx(expected, rel=1e-11)


def test_logarithm_gradient_on_many_qubits_matches_differences():
    kernel = FidelityKernel(qklstm_feature_map(900))
    x = torch.from_numpy(np.random.default_rng(2).uniform(-2, 2, (2, 900))).requires_grad_()
    gram(kernel, x, log=True)[0, 1].backward()
    with torch.no_grad():
        for column in (0, 450, 899):
            step = torch.zeros_like(x)
            step[0, column] = 1e-6
            slope = (gram(kernel, x + step, log=True)[0, 1] - gram(kernel, x - step, log=True)[0, 1]) / 2e-6
            assert x.grad[0, column].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-6)


def test_auto_takes_the_closed_form_exactly_where_the_circuit_factorises():
    assert resolve("auto", qklstm_feature_map(4).circuit).name == "mps"
    assert resolve("auto", bsp_feature_map(4).circuit).name == "statevector"
    assert resolve("auto", bsp_feature_map(1).circuit).name == "mps"


def test_a_backend_that_cannot_run_the_circuit_says_what_can():
    with pytest.raises(UnsupportedError, match=r"on 40 qubits need bonds of dimension 1048576.*max_bond"):
        FidelityKernel(zz_feature_map(40), backend="mps")(np.zeros((2, 40)))
    with pytest.raises(UnsupportedError, match="at most 20 qubits, the circuit has 21"):
        FidelityKernel(bsp_feature_map(21), backend="reference")(np.zeros((2, 21)))
    with pytest.raises(InvalidInputError, match="did you mean 'statevector'"):
        FidelityKernel(bsp_feature_map(3), backend="statevectr")(np.zeros((2, 3)))
    with pytest.raises(InvalidInputError, match="expected a name"):
        FidelityKernel(bsp_feature_map(3), backend=7)(np.zeros((2, 3)))  # type: ignore[arg-type]


def test_gates_on_far_qubits_of_a_wide_register():
    """Bit arithmetic at both ends: 14 qubits, gates on the first and the last."""
    gates = (Gate("h", (0,)), Gate("cx", (0, 13)), Gate("ry", (13,), data(0)), Gate("rxx", (0, 13), data(1)))
    circuit = Circuit(14, gates, n_data=2)
    angles = torch.tensor([[0.3, 0.7], [1.1, -0.4]], dtype=torch.float64)
    ours = resolve("statevector", circuit).fidelity(circuit, angles)
    small = Circuit(2, tuple(Gate(g.name, tuple(min(w, 1) for w in g.wires), g.operand) for g in gates), n_data=2)
    torch.testing.assert_close(ours, resolve("reference", small).fidelity(small, angles), rtol=0, atol=1e-13)


def test_states_over_the_memory_bound_are_refused_with_the_sizes(monkeypatch):
    monkeypatch.setenv("DQK_MEMORY_MIB", "100")
    circuit = zz_feature_map(22).circuit
    with pytest.raises(MemoryBoundError, match=r"3 states of 22 qubits need \d+ MiB, the bound is 100 MiB"):
        resolve("statevector", circuit).encode(circuit, torch.zeros(3, circuit.n_data), torch.zeros(0))  # type: ignore
    monkeypatch.setenv("DQK_MEMORY_MIB", "60")
    with pytest.raises(MemoryBoundError, match="two blocks of 128 samples on 13 qubits need"):
        FidelityKernel(zz_feature_map(13))(np.zeros((300, 13)))
