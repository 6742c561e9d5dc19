"""Defects that a review found, each with the case that showed it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from dqk import QKLSTM, FidelityKernel, gram
from dqk.circuit import Circuit, Gate, data
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels import Angle, FeatureMap
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map, zz_feature_map


def ry_map(n: int) -> FeatureMap:
    circuit = Circuit(n, tuple(Gate("ry", (q,), data(q)) for q in range(n)), n_data=n)
    return FeatureMap("ry", circuit, n, tuple(Angle(1.0, ((q, 0.0, 1.0),)) for q in range(n)))


@pytest.mark.parametrize("backend", ["mps", "statevector", "reference"])
@pytest.mark.parametrize("samples", [8, 9])
def test_log_gradients_ignore_padding_that_is_orthogonal_to_a_sample(backend, samples):
    """Blocks are padded with zero angles; a sample near pi is orthogonal to those."""
    x = (np.pi + 0.05 * np.random.default_rng(0).normal(size=(samples, 2))).astype(np.float64)
    x[0] = np.pi
    tensor = torch.from_numpy(x).requires_grad_()
    values = gram(FidelityKernel(ry_map(2), backend=backend), tensor, log=True)
    assert torch.isfinite(values).all()
    values.sum().backward()
    # log k = sum_q log cos^2((x - y) / 2), so d/dx_i is -2 sum_j tan((x_i - x_j) / 2): K[i, j] and K[j, i] both count.
    expected = -2 * np.tan((x[:, None] - x[None]) / 2).sum(axis=1)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["mps", "statevector", "reference"])
def test_log_gradient_of_one_entry_ignores_other_entries_that_are_zero(backend):
    tensor = torch.tensor([[0.0], [np.pi], [1.0]], dtype=torch.float64, requires_grad=True)
    gram(FidelityKernel(ry_map(1), backend=backend), tensor, log=True)[0, 2].backward()
    np.testing.assert_allclose(tensor.grad[:, 0].numpy(), [np.tan(0.5), 0.0, -np.tan(0.5)], rtol=1e-9, atol=1e-12)


def test_initial_states_that_are_overwritten_before_backward_are_noticed():
    rnn = QKLSTM(3, 2, n_qubits=2)
    h, c = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)
    out, (new_h, _) = rnn(torch.randn(4, 1, 3), (h, c))
    h.copy_(new_h.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def _in_child(queue) -> None:
    queue.put(float(FidelityKernel(reuploading_feature_map(3))(np.ones((300, 3)))[0, 299]))


def test_a_forked_child_computes_after_its_parent_did():
    FidelityKernel(reuploading_feature_map(3))(np.ones((300, 3)))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == pytest.approx(1.0)
    child.join(timeout=60)
    assert child.exitcode == 0


def test_a_circuit_hashes_alike_in_another_process():
    text = pickle.dumps(hash(c := qklstm_feature_map(2).circuit) and c).hex()
    code = (
        f"import pickle; from dqk.kernels.feature_maps import qklstm_feature_map as m; "
        f"c = pickle.loads(bytes.fromhex('{text}')); print(c in {{m(2).circuit}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "True"


def test_two_tensors_of_one_dimension_keep_their_graph():
    x, y = (torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    kernel = FidelityKernel(qklstm_feature_map(3))
    value = kernel(x, y)
    assert value.shape == ()
    value.backward()
    assert x.grad.abs().max() > 0
    assert isinstance(kernel(x.detach().numpy(), y.detach().numpy()), float)


def test_names_that_come_near_are_told_what_there_is():
    for name, message in (
        ("gpu", "did you mean 'custatevec'"),
        ("qpu:here", "expected one such as http://127.0.0.1:8000"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            FidelityKernel(qklstm_feature_map(2), backend=name)(np.zeros((2, 2)))


@pytest.mark.parametrize("case", ["kernel", "parameters", "qklstm"])
def test_second_derivatives_are_refused_however_they_are_asked_for(case):
    """`torch.autograd.grad` visits only nodes that lead to what it was asked for; the refusal has to be one of them."""
    if case == "qklstm":
        rnn = QKLSTM(3, 2, n_qubits=2)
        x = torch.randn(4, 1, 3, requires_grad=True)
        first = torch.autograd.grad(rnn(x)[0].sum(), x, create_graph=True)[0]
        targets = list(rnn.parameters())
    else:
        scale = "scale" if case == "parameters" else None
        feature_map = reuploading_feature_map(3, 2, trainable=scale) if scale else zz_feature_map(3)
        kernel = FidelityKernel(feature_map)
        x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
        first = torch.autograd.grad(kernel(x).sum(), x, create_graph=True)[0]
        targets = list(kernel.parameters()) if scale else [x]
    with pytest.raises(UnsupportedError, match="second derivatives"):
        torch.autograd.grad(first.square().sum(), targets, allow_unused=True)


def test_angles_that_overflow_are_refused():
    with pytest.raises(InvalidInputError, match=r"data angle \(0, \d\) of zz is"):
        FidelityKernel(zz_feature_map(3))(np.full((2, 3), 1e160))
    kernel = FidelityKernel(reuploading_feature_map(2, trainable="rotations"))
    with torch.no_grad():
        kernel.params[1] = torch.nan
    with pytest.raises(InvalidInputError, match=r"shared angle \(1,\) of reuploading is nan"):
        kernel(np.zeros((2, 2)))


def test_an_automatic_scale_that_is_no_number_is_refused():
    with pytest.raises(InvalidInputError, match="too large a number for 784 qubits"):
        QKLSTM(3, 4, n_qubits=784)


def test_damaged_compiled_code_is_compiled_anew(tmp_path):
    code = (
        "import numpy, dqk; from dqk.kernels.feature_maps import qklstm_feature_map as m; "
        "print(dqk.FidelityKernel(m(2))(numpy.zeros((1, 2)), numpy.ones((1, 2))))"
    )
    environment = {**os.environ, "DQK_CACHE_DIR": str(tmp_path)}
    run = lambda: subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)  # noqa: E731
    first = run()
    for pattern in ("*.nbi", "*.nbc"):
        for path in tmp_path.rglob(pattern):
            path.write_bytes(path.read_bytes()[:10])
        again = run()
        assert again.returncode == 0 and again.stdout == first.stdout, again.stderr
        assert "compiling" in again.stderr
