"""Every feature map against circuits that are written out in PennyLane or made by Qiskit, and against closed forms."""

import json
import math

import numpy as np
import pennylane as qml
import pytest
import torch
from qiskit.circuit import library

from dqk import FidelityKernel, gram
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import (
    FEATURE_MAPS,
    bsp_feature_map,
    iqp_feature_map,
    ising_feature_map,
    qklstm_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from tests.cases import ENTANGLEMENTS
from tests.kernels.quantum import kernel_of, pennylane_kernel, pennylane_states, qiskit_kernel


def samples(n_features: int, n: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 2, (n, n_features))


def hadamards(n: int) -> None:
    for q in range(n):
        qml.Hadamard(q)


def chain(n: int) -> None:
    for q in range(n - 1):
        qml.CNOT([q, q + 1])


def paper(x, n, pair=False):
    hadamards(n)
    for q in range(n):
        qml.RY(x[2 * q if pair else q], q)
        qml.RZ(x[2 * q + 1 if pair else q], q)
    chain(n)


def bsp(x, n, pair=False):
    hadamards(n)
    for q in range(n):
        qml.RZ(x[2 * q if pair else q], q)
        qml.RY(x[2 * q + 1 if pair else q], q)
    chain(n)
    for q in range(n):
        qml.RZ(x[2 * q if pair else q], q)


def reuploading(x, n, layers, pair=False, scale=None, rotations=None):
    hadamards(n)
    scale, rotations = (None if v is None else iter(v) for v in (scale, rotations))
    for _ in range(layers):
        if rotations is not None:
            for q in range(n):
                qml.RY(next(rotations), q)
                qml.RZ(next(rotations), q)
        for q in range(n):
            qml.RY(x[2 * q if pair else q] * (1 if scale is None else next(scale)), q)
            qml.RZ(x[2 * q + 1 if pair else q] * (1 if scale is None else next(scale)), q)
        for q in range(n if n > 1 else 0):
            qml.CNOT([q, (q + 1) % n])


def ising(x, n, reps, gamma, distance):
    hadamards(n)
    for _ in range(reps):
        for q in range(n):
            qml.RZ(2 * gamma * x[q], q)
        for i in range(n):
            for j in range(i + 1, min(i + distance, n - 1) + 1):
                qml.IsingXX(math.pi * gamma**2 * (1 - x[i]) * (1 - x[j]), [i, j])


SIZES = (1, 2, 3, 5)
COMPARED = (
    [(f"qklstm {n}", qklstm_feature_map(n), lambda x, n=n: paper(x, n)) for n in SIZES]
    + [(f"bsp {n}", bsp_feature_map(n), lambda x, n=n: bsp(x, n)) for n in SIZES]
    + [(f"reuploading {n}", reuploading_feature_map(n), lambda x, n=n: reuploading(x, n, 3)) for n in SIZES]
    + [(f"ising {n}", ising_feature_map(n), lambda x, n=n: ising(x, n, 2, 0.1, 1)) for n in SIZES]
    + [(f"iqp {n}", iqp_feature_map(n), lambda x, n=n: qml.IQPEmbedding(x, range(n))) for n in SIZES]
    + [
        ("qklstm pair", qklstm_feature_map(3, encoding="pair"), lambda x: paper(x, 3, pair=True)),
        ("bsp pair", bsp_feature_map(3, encoding="pair"), lambda x: bsp(x, 3, pair=True)),
        ("reuploading pair", reuploading_feature_map(2, 1, encoding="pair"), lambda x: reuploading(x, 2, 1, pair=True)),
        ("ising wide", ising_feature_map(4, 3, 0.8, 2), lambda x: ising(x, 4, 3, 0.8, 2)),
        ("ising all", ising_feature_map(3, 1, 0.5, 9), lambda x: ising(x, 3, 1, 0.5, 9)),
        ("iqp reps", iqp_feature_map(3, reps=3), lambda x: qml.IQPEmbedding(x, range(3), n_repeats=3)),
    ]
)


@pytest.mark.parametrize(("feature_map", "f"), [case[1:] for case in COMPARED], ids=[case[0] for case in COMPARED])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_kernel_is_pennylanes(feature_map, f, backend):
    x = samples(feature_map.n_features)
    expected = pennylane_kernel(f, feature_map.n_qubits, x)
    np.testing.assert_allclose(FidelityKernel(feature_map, backend)(x), expected, atol=1e-12, rtol=1e-11)


@pytest.mark.parametrize("trainable", ["scale", "rotations"])
@pytest.mark.parametrize("encoding", ["same", "pair"])
def test_trainable_parameters_enter_where_they_should(trainable, encoding):
    feature_map = reuploading_feature_map(3, 2, trainable=trainable, encoding=encoding)
    kernel = FidelityKernel(feature_map).double()
    assert kernel.params.shape == (12,)
    with torch.no_grad():
        kernel.params.copy_(torch.as_tensor(samples(12, 1, seed=5)[0]))
    x = samples(feature_map.n_features)
    values = kernel.params.detach()
    expected = pennylane_kernel(lambda s: reuploading(s, 3, 2, encoding == "pair", **{trainable: values}), 3, x)
    np.testing.assert_allclose(kernel(x), expected, atol=1e-12, rtol=1e-11)


def test_start_values_of_parameters():
    scale = reuploading_feature_map(2, 2, trainable="scale")
    np.testing.assert_array_equal(scale.initial_params(), np.ones(8))
    x = samples(2)
    np.testing.assert_allclose(FidelityKernel(scale)(x), FidelityKernel(reuploading_feature_map(2, 2))(x), atol=1e-12)
    rotations = reuploading_feature_map(8, 8, trainable="rotations").initial_params()
    assert rotations.abs().max() <= math.pi and rotations.abs().max() > 3 and abs(rotations.mean()) < 0.6


def test_closed_form_of_the_papers_map():
    theta = samples(2 * 40, 6)[:, :, None]
    feature_map = qklstm_feature_map(40, encoding="pair")
    t, p = theta[:, 0::2, 0], theta[:, 1::2, 0]
    cosines = np.cos(t)[:, None] * np.cos(t)[None] * np.cos(p[:, None] - p[None])
    factors = (1 + cosines + np.sin(t)[:, None] * np.sin(t)[None]) / 2
    x = theta[:, :, 0]
    np.testing.assert_allclose(FidelityKernel(feature_map)(x), factors.prod(-1), atol=1e-12, rtol=1e-11)
    expected = np.log(factors).sum(-1)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(gram(FidelityKernel(feature_map), x, log=True), expected, atol=1e-11, rtol=1e-11)


def test_logarithm_does_not_underflow():
    """On 5,000 qubits K is far below the smallest double, its logarithm is not."""
    x = np.stack([np.full(5000, -1.5), np.full(5000, 1.5)])
    kernel = FidelityKernel(qklstm_feature_map(5000))
    assert kernel(x)[0, 1] == 0
    factor = (1 + np.cos(1.5) ** 2 * np.cos(3.0) - np.sin(1.5) ** 2) / 2
    assert gram(kernel, x, log=True)[0, 1] == pytest.approx(5000 * np.log(factor), rel=1e-12)


@pytest.mark.parametrize("entanglement", ENTANGLEMENTS)
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("reps", [1, 2, 3])
def test_zz_map_is_qiskits(entanglement, n, reps):
    x = samples(n, 4)
    expected = qiskit_kernel(library.zz_feature_map(n, reps, entanglement), x)
    np.testing.assert_allclose(
        FidelityKernel(zz_feature_map(n, reps, entanglement))(x), expected, atol=1e-12, rtol=1e-11
    )


def test_zz_map_on_one_qubit_is_qiskits_z_map():
    x = samples(1)
    expected = qiskit_kernel(library.z_feature_map(1, reps=2), x)
    np.testing.assert_allclose(FidelityKernel(zz_feature_map(1, reps=2))(x), expected, atol=1e-12)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_bandwidth_multiplies_the_data(name):
    x, build = samples(3), FEATURE_MAPS[name]
    expected = FidelityKernel(build(3))(0.37 * x)
    np.testing.assert_allclose(FidelityKernel(build(3, bandwidth=0.37))(x), expected, atol=1e-12)
    np.testing.assert_allclose(FidelityKernel(build(3).with_bandwidth(0.37))(x), expected, atol=1e-12)
    assert np.abs(expected - FidelityKernel(build(3))(x)).max() > 1e-3


def test_bandwidth_is_inside_the_products():
    """It multiplies x before pi - x is formed, not the product."""
    x = samples(2, 3)

    def f(s):
        hadamards(2)
        for q in range(2):
            qml.PhaseShift(2 * 0.5 * s[q], q)
        qml.CNOT([0, 1])
        qml.PhaseShift(2 * (math.pi - 0.5 * s[0]) * (math.pi - 0.5 * s[1]), 1)
        qml.CNOT([0, 1])

    found = FidelityKernel(zz_feature_map(2, reps=1, bandwidth=0.5))(x)
    np.testing.assert_allclose(found, pennylane_kernel(f, 2, x), atol=1e-12)


def test_same_encoding_does_not_tell_0_from_pi():
    """Hence the advice to keep data in (-pi/2, pi/2), or to use pairs."""
    for n in (1, 3):
        pair = np.array([[0.0] * n, [np.pi] * n])
        assert FidelityKernel(qklstm_feature_map(n))(pair)[0, 1] == pytest.approx(1)
    assert FidelityKernel(qklstm_feature_map(1, encoding="pair"))(np.array([[0.0, 0.0], [np.pi, 0.0]]))[0, 1] < 1e-12


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_gradient_is_pennylanes(name):
    """dK/dX and d(log K)/dX by backpropagation through default.qubit."""
    circuits = {
        "qklstm": lambda x: paper(x, 2),
        "bsp": lambda x: bsp(x, 2),
        "reuploading": lambda x: reuploading(x, 2, 3),
        "ising": lambda x: ising(x, 2, 2, 0.1, 1),
        "iqp": lambda x: qml.IQPEmbedding(x, range(2)),
        "zz": zz_by_hand,
    }
    kernel = FidelityKernel(FEATURE_MAPS[name](2))
    weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for log in (False, True):
        x, y = (torch.as_tensor(samples(2, 4, seed)).requires_grad_() for seed in (1, 2))
        ours = torch.autograd.grad((gram(kernel, x, y, log=log) * weights).sum(), [x, y])
        states = [pennylane_states(circuits[name], 2, part) for part in (x, y)]
        k = kernel_of(*states)
        theirs = torch.autograd.grad(((k.log() if log else k) * weights).sum(), [x, y])
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


def zz_by_hand(x):
    for _ in range(2):
        hadamards(2)
        for q in range(2):
            qml.PhaseShift(2 * x[q], q)
        qml.CNOT([0, 1])
        qml.PhaseShift(2 * (math.pi - x[0]) * (math.pi - x[1]), 1)
        qml.CNOT([0, 1])


def test_gradient_of_parameters_is_pennylanes():
    kernel = FidelityKernel(reuploading_feature_map(2, 2, trainable="rotations")).double()
    x, weights = torch.as_tensor(samples(2, 4)), torch.arange(16.0, dtype=torch.float64).reshape(4, 4)
    (ours,) = torch.autograd.grad((kernel(x) * weights).sum(), kernel.params)
    params = kernel.params.detach().requires_grad_()
    k = kernel_of(pennylane_states(lambda s: reuploading(s, 2, 2, rotations=params), 2, x))
    (theirs,) = torch.autograd.grad((k * weights).sum(), params)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)
    assert ours.abs().max() > 1e-2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qklstm_feature_map(0), "n_qubits is 0, expected a whole number of at least 1"),
        (lambda: bsp_feature_map(2.0), "n_qubits is 2.0"),
        (lambda: reuploading_feature_map(2, layers=0), "layers is 0"),
        (
            lambda: reuploading_feature_map(2, trainable="rotation"),
            "unknown trainable 'rotation'; did you mean 'rotations'",
        ),
        (lambda: qklstm_feature_map(2, encoding="paired"), "unknown encoding 'paired'; did you mean 'pair'"),
        (lambda: zz_feature_map(2, reps=0), "reps is 0"),
        (lambda: zz_feature_map(2, entanglement="line"), "unknown entanglement 'line'; did you mean 'linear'"),
        (lambda: ising_feature_map(2, distance=0), "distance is 0"),
        (lambda: iqp_feature_map(2, bandwidth=0), "bandwidth is 0, expected a finite number above 0"),
        (lambda: iqp_feature_map(2, bandwidth=float("nan")), "bandwidth is nan"),
        (lambda: iqp_feature_map(2).with_bandwidth(-1), "bandwidth is -1"),
        (lambda: iqp_feature_map(2, bandwidth="0.5"), "bandwidth is '0.5', expected a finite number above 0"),
        (lambda: iqp_feature_map(2).with_bandwidth("0.5"), "bandwidth is '0.5'"),
        (lambda: iqp_feature_map(2, bandwidth=torch.ones(2)), "bandwidth is tensor"),
        (lambda: ising_feature_map(2, gamma=1j), "gamma is 1j, expected a finite number"),
        (lambda: ising_feature_map(2, gamma=math.nan), "gamma is nan, expected a finite number"),
        (lambda: zz_feature_map(3, entanglement=[(0, 1)]), r"unknown entanglement \[\(0, 1\)\].*Known: 'circular'"),
        (lambda: zz_feature_map(3, entanglement={0: 1}), "unknown entanglement {0: 1}"),
        (lambda: qklstm_feature_map(True), "n_qubits is True, expected a whole number"),
        (lambda: qklstm_feature_map(np.bool_(True)), "n_qubits is .*True"),
        (lambda: qklstm_feature_map("2"), "n_qubits is '2'"),
        (lambda: zz_feature_map(2, reps=True), "reps is True"),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_every_kind_of_integer_counts(number):
    """A size often comes out of NumPy; nothing of it is left in the map, which has to become JSON."""
    for make in (qklstm_feature_map, bsp_feature_map, zz_feature_map, iqp_feature_map, ising_feature_map):
        assert make(number) == make(3)
        assert make(number).circuit.to_json() == make(3).circuit.to_json()
    made = reuploading_feature_map(3, number, trainable="scale", bandwidth=np.float32(0.5))
    assert made == reuploading_feature_map(3, 3, trainable="scale", bandwidth=0.5)
    json.dumps([made.n_features, made.n_params, made.bandwidth])
    assert ising_feature_map(4, distance=number) == ising_feature_map(4, distance=3)
