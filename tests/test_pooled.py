"""Kernel matrices on pools of workers, here threads: the bits of the inline path, gradients, failures and shots."""

import os
import pickle

import numpy as np
import pytest
import torch

import dqk._task
from dqk import FidelityKernel, ProjectedKernel, gram
from dqk.backends import resolve
from dqk.cluster import InlinePool
from dqk.errors import ClusterError, InvalidInputError, UnsupportedError
from dqk.kernels.feature_maps import zz_feature_map
from tests.pooled import MAPS, RANDOM, break_tile, samples


@pytest.fixture(params=[1, 2])
def pool(request):
    with InlinePool(request.param) as pool:
        yield pool


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_pool_computes_the_bits_of_the_inline_path(name, dtype, pool):
    kernel, x, y = FidelityKernel(MAPS[name]), samples(300).astype(dtype), samples(150).astype(dtype)
    assert np.array_equal(gram(kernel, x, executor=pool), kernel(x))
    assert np.array_equal(gram(kernel, x, executor=pool, log=True), gram(kernel, x, log=True))
    assert np.array_equal(gram(kernel, x, y, executor=pool), kernel(x, y))
    assert np.array_equal(gram(kernel, x, y, executor=pool, log=True), gram(kernel, x, y, log=True))


@pytest.mark.parametrize("name", MAPS)
def test_gradients_are_those_of_the_reference_backend(name, pool):
    x, y = (torch.from_numpy(samples(n)) for n in (140, 130))
    weights = torch.from_numpy(RANDOM.normal(size=(140, 140)))
    for other, log in ((None, False), (y, False), (y, True)):
        found, expected = (
            _gradients(FidelityKernel(MAPS[name], backend=backend).double(), x, other, weights, log, executor)
            for backend, executor in (("auto", pool), ("reference", None))
        )
        for ours, reference in zip(found, expected, strict=True):
            assert torch.allclose(ours, reference, rtol=1e-9, atol=1e-10)


def _gradients(kernel, x, y, weights, log, executor):
    torch.manual_seed(0)
    leaves = [x.clone().requires_grad_()] + ([] if y is None else [y.clone().requires_grad_()])
    if kernel.params is not None:
        with torch.no_grad():
            kernel.params.copy_(torch.linspace(-1, 1, len(kernel.params)))
        leaves.append(kernel.params)
    k = gram(kernel, *leaves[: 1 if y is None else 2], executor=executor, log=log)
    return torch.autograd.grad((k * weights[:, : k.shape[1]]).sum(), leaves)


def test_a_gradient_that_nobody_asks_for_costs_no_strips(pool, monkeypatch):
    asked = []
    strip = dqk._task._Job.strip
    monkeypatch.setattr(
        dqk._task._Job, "strip", lambda job, which, *rest: (asked.append(which), strip(job, which, *rest))[1]
    )
    x, y = torch.from_numpy(samples(140)), torch.from_numpy(samples(10)).requires_grad_()
    gram(FidelityKernel(MAPS["reuploading"]), x, y, executor=pool).sum().backward()
    assert asked == ["columns"]


def test_a_second_derivative_is_refused(pool):
    x = torch.from_numpy(samples(10)).requires_grad_()
    (first,) = torch.autograd.grad(gram(FidelityKernel(MAPS["product"]), x, executor=pool).sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError):
        first.sum().backward()


def test_a_tile_that_fails_once_is_tried_again(pool, monkeypatch):
    failures = iter([RuntimeError("a cosmic ray")])
    break_tile(monkeypatch, (0, 1), lambda: next(failures, None))
    kernel, x = FidelityKernel(MAPS["reuploading"]), samples(300)
    expected = kernel(x)
    assert np.array_equal(gram(kernel, x, executor=pool), expected)
    assert next(failures, None) is None  # it did fail


def test_a_strip_that_fails_once_is_tried_again(pool, monkeypatch):
    failures = iter([RuntimeError("a cosmic ray")])
    strip = dqk._task._Job.strip

    def sometimes(job, which, k, cotangent):
        if k == 1 and (error := next(failures, None)):
            raise error
        return strip(job, which, k, cotangent)

    kernel, x = FidelityKernel(MAPS["reuploading"]), torch.from_numpy(samples(300))
    weights = torch.ones(300, 300, dtype=torch.float64)
    expected = _gradients(kernel, x, None, weights, False, pool)
    monkeypatch.setattr(dqk._task._Job, "strip", sometimes)
    found = _gradients(kernel, x, None, weights, False, pool)
    assert torch.equal(found[0], expected[0])
    assert next(failures, None) is None  # it did fail


@pytest.mark.parametrize("threads", [1, 4])
def test_memory_of_evicted_blocks_is_used_again_only_when_nobody_reads_it(threads, monkeypatch):
    """With room for two blocks every tile evicts one; the next states are written where it was."""
    kernel, x = FidelityKernel(MAPS["reuploading"]), samples(700)
    expected = kernel(x)
    recycled = []
    recycle = type(resolve("statevector", kernel.circuit)).recycle
    monkeypatch.setattr(
        type(resolve("statevector", kernel.circuit)),
        "recycle",
        lambda backend, block: (recycled.append(1), recycle(backend, block))[1],
    )
    monkeypatch.setattr(dqk._task._Job, "_blocks_that_fit", lambda job: 2)
    with InlinePool(threads) as pool:
        for _ in range(5):
            assert np.array_equal(gram(kernel, x, executor=pool), expected)
    assert recycled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"progress": None}, "progress is None, expected True, False"),
        ({"progress": "yes"}, "progress is 'yes', expected True, False"),
        ({"store": 123}, "store is 123, expected a path"),
        ({"store": True}, "store is True, expected a path"),
        ({"store": ""}, "store is '', expected a path"),
    ],
)
def test_arguments_of_other_types(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        gram(FidelityKernel(MAPS["product"]), samples(4), **arguments)


def test_a_seed_may_be_a_numpy_integer():
    kernel, x = FidelityKernel(MAPS["product"], shots=20), samples(9)
    assert np.array_equal(gram(kernel, x, seed=np.int64(3)), gram(kernel, x, seed=3))


def test_a_pool_is_opened_once_and_by_the_process_that_uses_it(pool, monkeypatch):
    with pytest.raises(InvalidInputError, match="open already"):
        pool.__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)  # as in a forked child
        with pytest.raises(ClusterError, match="forked off"):
            gram(FidelityKernel(MAPS["product"]), samples(9), executor=pool)
        pool.__exit__(None, None, None)
    assert gram(FidelityKernel(MAPS["product"]), samples(9), executor=pool).shape == (9, 9)


def test_a_pool_in_a_kernel_that_is_pickled(pool):
    kernel = FidelityKernel(MAPS["product"], executor=pool)
    with pytest.raises(UnsupportedError, match="cannot be pickled; give the kernel the executor's name"):
        pickle.dumps(kernel)


def test_shots_are_binomial_and_agree_everywhere():
    x, shots = samples(200), 400
    exact = FidelityKernel(MAPS["reuploading"])(x)
    kernel = FidelityKernel(MAPS["reuploading"], shots=shots)
    found = []
    for threads in (1, 2):
        with InlinePool(threads) as pool:
            found.append(gram(kernel, x, executor=pool, seed=3))
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], gram(kernel, x, seed=4))
    assert np.array_equal(found[0], found[0].T) and np.array_equal(np.diag(found[0]), np.ones(200))
    above = np.triu(shots * exact * (1 - exact) > 5, 1)
    k, p = found[0][above] * shots, exact[above]
    assert np.allclose(k, np.round(k), rtol=0, atol=1e-9) and len(k) > 10000
    scores = (k - shots * p) / np.sqrt(shots * p * (1 - p))
    # Of so many independent scores the mean is within 5 / sqrt(10000), the mean square within about 5 sqrt(2.2 / 10000) of 1.
    assert abs(scores.mean()) < 0.05 and abs((scores**2).mean() - 1) < 0.075


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, x: gram(k, x, executor=InlinePool(1)), InvalidInputError, "the inline pool is not open"),
        (lambda k, x: gram(k, x, executor=3), InvalidInputError, "executor is 3, expected a name"),
        (lambda k, x: gram(k, x, executor="rya"), InvalidInputError, "did you mean 'ray'"),
        (
            lambda k, x: gram(k, torch.from_numpy(x).requires_grad_(), store="K.zarr"),
            UnsupportedError,
            "not differentiable",
        ),
        (
            lambda k, x: gram(ProjectedKernel(k.feature_map), x, store="K.zarr"),
            UnsupportedError,
            "once, in this process",
        ),
        (
            lambda k, x: gram(FidelityKernel(k.feature_map, shots=9), torch.from_numpy(x).requires_grad_()),
            UnsupportedError,
            "shots cannot be differentiated",
        ),
        (
            lambda k, x: gram(FidelityKernel(k.feature_map, shots=9), x, log=True),
            UnsupportedError,
            "log=True with shots",
        ),
        (
            lambda k, x: gram(FidelityKernel(k.feature_map, shots=9), x, store="K.zarr"),
            InvalidInputError,
            "needs a seed=",
        ),
        (lambda k, x: gram(FidelityKernel(k.feature_map, shots=9), x, seed=-1), InvalidInputError, "seed is -1"),
    ],
)
def test_what_cannot_be_is_said(call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call(FidelityKernel(zz_feature_map(2)), samples(5, 2))
    assert not list(tmp_path.iterdir())


def test_a_backend_object_does_not_travel():
    from dqk.backends.statevector import StatevectorBackend

    with InlinePool(1) as pool, pytest.raises(UnsupportedError, match="workers open a backend by its name"):
        gram(FidelityKernel(zz_feature_map(2), backend=StatevectorBackend()), samples(5, 2), executor=pool)


def test_every_tile_has_shots_of_its_own(pool):
    """Where two tiles have the same probabilities, in a row or in a column, their frequencies differ."""
    block, other = samples(128), samples(128)
    kernel = FidelityKernel(MAPS["reuploading"])
    for x, first, second in (
        (np.concatenate([other, block, block]), (0, 1), (0, 2)),
        (np.concatenate([block, block, other]), (0, 2), (1, 2)),
    ):
        exact, found = kernel(x), gram(FidelityKernel(kernel.feature_map, shots=50), x, executor=pool, seed=1)
        a, b = (tuple(slice(128 * k, 128 * k + 128) for k in place) for place in (first, second))
        assert np.array_equal(exact[a], exact[b]) and not np.array_equal(found[a], found[b])


def test_gradients_need_the_pool_to_be_open():
    from dqk.errors import ClusterError

    x = torch.from_numpy(samples(10)).requires_grad_()
    with InlinePool(1) as pool:
        k = gram(FidelityKernel(MAPS["product"]), x, executor=pool)
    with pytest.raises(ClusterError, match="the inline pool was closed"):
        k.sum().backward()


def test_an_observer_cannot_use_the_pool_that_it_watches():
    from dqk._run import Observer

    class Greedy(Observer):
        def progressed(self, statistics, remaining):
            gram(FidelityKernel(MAPS["product"]), samples(5), executor=pool)

    with InlinePool(1) as pool, pytest.raises(InvalidInputError, match="an observer cannot use it"):
        gram(FidelityKernel(MAPS["product"]), samples(5), executor=pool, progress=Greedy())


def test_states_are_let_go_with_their_job():
    with InlinePool(1) as pool:
        gram(FidelityKernel(MAPS["reuploading"]), samples(200), executor=pool)
        assert not dqk._task._jobs
