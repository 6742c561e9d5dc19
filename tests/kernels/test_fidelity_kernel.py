"""What users of FidelityKernel meet: their tools, their arrays, their mistakes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVC

from dqk import FidelityKernel, ProjectedKernel, gram
from dqk.backends.reference import ReferenceBackend
from dqk.errors import InvalidInputError, MemoryBoundError, UnsupportedError
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map, reuploading_feature_map, zz_feature_map
from tests.kernels.quantum import pennylane_kernel
from tests.kernels.test_feature_maps import bsp

KERNEL = FidelityKernel(bsp_feature_map(2))
X = np.random.default_rng(0).uniform(-1, 1, (4, 2))


def iris() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_iris(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), y


def test_svc_takes_a_kernel():
    """The same predictions as with the matrix that PennyLane's states give."""
    x, y = iris()
    train, test = np.arange(0, 150, 2), np.arange(1, 150, 2)
    kernel = FidelityKernel(bsp_feature_map(4, bandwidth=0.4))
    model = SVC(kernel=kernel).fit(x[train], y[train])
    assert model.score(x[test], y[test]) > 0.9
    k = pennylane_kernel(lambda s: bsp(0.4 * s, 4), 4, x)
    precomputed = SVC(kernel="precomputed").fit(k[np.ix_(train, train)], y[train])
    np.testing.assert_array_equal(model.predict(x[test]), precomputed.predict(k[np.ix_(test, train)]))


def test_kernel_ridge_asks_for_pairs_of_vectors():
    x, y = iris()
    x, y = x[::10], y[::10].astype(float)
    kernel = FidelityKernel(qklstm_feature_map(4, bandwidth=0.5))
    by_pairs = KernelRidge(kernel=kernel).fit(x, y).predict(x)
    by_matrix = KernelRidge(kernel="precomputed").fit(kernel(x), y).predict(kernel(x))
    np.testing.assert_allclose(by_pairs, by_matrix, atol=1e-9)


def test_shapes_are_test_by_train():
    assert KERNEL(X, X[:3]).shape == (4, 3)
    assert KERNEL(X[:1]).shape == (1, 1) and KERNEL(X[:1])[0, 0] == 1


def test_mixed_inputs():
    """One tensor makes a tensor; the wider dtype wins; big-endian and integer arrays are read."""
    tensor = torch.as_tensor(X)
    assert isinstance(KERNEL(tensor, X[:2]), torch.Tensor) and isinstance(KERNEL(X, tensor), torch.Tensor)
    assert KERNEL(X.astype(np.float32), X).dtype == np.float64
    assert KERNEL(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_array_equal(KERNEL(X.astype(">f8")), KERNEL(X))
    assert KERNEL(np.array([[1, 0], [0, 1]])).dtype == np.float64
    assert KERNEL(np.array([[True, False]])).shape == (1, 1)
    assert gram(KERNEL, X, executor="inline").shape == (4, 4)


def test_float32_is_close():
    np.testing.assert_allclose(KERNEL(X.astype(np.float32)), KERNEL(X), atol=2e-5)


def test_a_backend_object_serves():
    by_object = FidelityKernel(bsp_feature_map(2), backend=ReferenceBackend())
    np.testing.assert_allclose(by_object(X), KERNEL(X), atol=1e-12)


def test_progress_goes_to_standard_error(capsys):
    gram(KERNEL, X, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "tiles" in captured.err


def test_kernels_are_modules():
    kernel = FidelityKernel(reuploading_feature_map(2, 1, trainable="rotations"))
    assert [name for name, _ in kernel.named_parameters()] == ["params"]
    twin = FidelityKernel(reuploading_feature_map(2, 1, trainable="rotations"))
    assert not np.array_equal(twin(X), kernel(X)), "start values are random"
    twin.load_state_dict(kernel.state_dict())
    np.testing.assert_array_equal(twin(X), kernel(X))
    assert "reuploading, n_qubits=2, backend='auto'" in repr(kernel)
    assert list(KERNEL.parameters()) == [] and KERNEL.n_features == 2


def test_training_a_parameter_lowers_a_loss():
    torch.manual_seed(0)
    kernel = FidelityKernel(reuploading_feature_map(2, 2, trainable="scale"))
    labels = torch.tensor([1.0, 1.0, -1.0, -1.0])
    ideal, optimizer = torch.outer(labels, labels), torch.optim.Adam(kernel.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = ((kernel(torch.as_tensor(X)) - ideal) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize("kernel", [KERNEL, ProjectedKernel(bsp_feature_map(2))])
def test_second_derivatives_are_refused(kernel):
    """Also where they would be a silent zero: a gradient penalty beside a loss."""
    x = torch.as_tensor(X).requires_grad_()
    k = kernel(x, x.detach() + 0.1)
    (first,) = torch.autograd.grad(k.sum(), x, create_graph=True)
    assert torch.equal(first.detach(), torch.autograd.grad(kernel(x, x.detach() + 0.1).sum(), x)[0])
    with pytest.raises(UnsupportedError, match="second derivatives of quantum kernels are not available"):
        (k.sum() + (first**2).sum()).backward()


NAN, INFINITE = X.copy(), X.copy()
NAN[2, 1], INFINITE[3, 0] = np.nan, -np.inf


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (NAN, r"X\[2, 1\] is nan, expected finite numbers; drop or fill such samples"),
        (torch.as_tensor(INFINITE), r"X\[3, 0\] is -inf, expected finite numbers"),
        (X + 1j, r"X is complex \(torch.complex128\), expected real features"),
        (torch.as_tensor(X).half(), "X has dtype torch.float16, expected float32 or float64"),
        (X.astype(np.float16), "X has dtype torch.float16, expected float32 or float64"),
        (torch.as_tensor(X).bfloat16(), "X has dtype torch.bfloat16, expected float32 or float64"),
        (np.ma.masked_array(X, X > 0.5), "X has .* masked entries, expected all of them; fill them"),
        (torch.as_tensor(X).to_sparse(), "X is a tensor of layout torch.sparse_coo.* expected a dense one"),
        (torch.as_tensor(X).to("meta"), "X is a tensor .* on meta, expected a dense one with values"),
        ([torch.zeros(2, requires_grad=True)], "X cannot be read as an array.*torch.stack"),
        (X[:0], r"X has shape \(0, 2\): there is nothing to compute"),
        (X[:, :0], r"X has shape \(4, 0\): there is nothing to compute"),
        (X[:, :1], "X has 1 features, expected 2; choose another n_qubits or reduce the features"),
        (X[0], r"X has shape \(2,\), expected two dimensions .*one sample is x\[None, :\]"),
        (X[None], r"X has shape \(1, 4, 2\), expected two dimensions \(samples, 2\)"),
        (3.0, "X has shape .*, expected two dimensions"),
        ("iris", "X has dtype <U4, expected numbers"),
        ([["a", "b"]], "expected numbers"),
        ([[1.0, 2.0], [3.0]], "X is not a rectangular array"),
        (None, "X has dtype object, expected numbers"),
    ],
)
def test_bad_samples_are_named(samples, message):
    with pytest.raises(InvalidInputError, match=message):
        KERNEL(samples)
    if samples is not None:
        with pytest.raises(InvalidInputError, match=message.replace("X", "Y", 1)):
            KERNEL(X, samples)


def test_masked_arrays_without_masked_entries_are_arrays():
    np.testing.assert_array_equal(KERNEL(np.ma.masked_array(X)), KERNEL(X))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FidelityKernel("zz"), "feature_map is 'zz', expected a FeatureMap such as zz_feature_map"),
        (lambda: FidelityKernel(zz_feature_map(2), shots=0), "shots is 0, expected None"),
        (lambda: FidelityKernel(zz_feature_map(2), shots=True), "shots is True, expected None"),
        (lambda: ProjectedKernel(zz_feature_map(2), gamma="1"), "gamma is '1', expected a finite number above 0"),
        (
            lambda: FidelityKernel(zz_feature_map(2), backend="statevectr")(X),
            "unknown backend 'statevectr'; did you mean",
        ),
        (lambda: FidelityKernel(zz_feature_map(2), backend=3)(X), "backend is 3, expected a name"),
        (lambda: gram(bsp_feature_map(2), X), "expected a dqk kernel such as FidelityKernel"),
        (lambda: gram(KERNEL, X, executor="rai"), "unknown executor 'rai'"),
        (lambda: ProjectedKernel(zz_feature_map(2), gamma=0), "gamma is 0, expected a finite number above 0"),
        (lambda: ProjectedKernel(None), "feature_map is None"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_what_this_version_cannot_do_is_said():
    with pytest.raises(InvalidInputError, match="seed=1, but this kernel is exact"):
        gram(KERNEL, X, seed=1)
    with pytest.raises(UnsupportedError, match="at most 20 qubits, the circuit has 21"):
        FidelityKernel(bsp_feature_map(21), backend="reference")(np.ones((2, 21)))


def test_memory_bound(monkeypatch):
    monkeypatch.setenv("DQK_MEMORY_MIB", "1")
    with pytest.raises(MemoryBoundError, match=r"on 18 qubits need .*MiB, the bound is 1 MiB.*DQK_MEMORY_MIB"):
        FidelityKernel(bsp_feature_map(18))(np.ones((2, 18)))
    monkeypatch.setenv("DQK_MEMORY_MIB", "plenty")
    with pytest.raises(InvalidInputError, match="DQK_MEMORY_MIB is 'plenty'"):
        FidelityKernel(bsp_feature_map(18))(np.ones((2, 18)))


def test_little_memory_gives_the_same_bits(monkeypatch):
    """Memory bounds the tiles in flight, never their side."""
    x = np.random.default_rng(1).uniform(-1, 1, (1200, 11))
    kernel = FidelityKernel(bsp_feature_map(11), backend="statevector")
    expected, general = kernel(x), kernel(x, x[:300] + 0.1)
    monkeypatch.setenv("DQK_MEMORY_MIB", "40")  # of about 80
    np.testing.assert_array_equal(kernel(x), expected)
    np.testing.assert_array_equal(kernel(x, x[:300] + 0.1), general)
    with pytest.raises(MemoryBoundError, match="in parts, or raise the bound"):
        kernel(torch.as_tensor(x).requires_grad_()).sum().backward()
