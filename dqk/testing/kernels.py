"""The laws of kernels, through `dqk.gram`: what a user relies on whatever the feature map and the backend."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._gram import gram
from dqk.backends.resolve import resolve
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels import FidelityKernel, Kernel
from dqk.testing.comparison import assert_close, assert_same_bits, derivative, use_threads
from dqk.testing.law import Law

_STEP = 5e-4  # kernels oscillate faster in their features than in their angles


def check_kernel(kernel: Kernel) -> list[str]:
    """Runs every law that binds the kernel, on samples that are uniform in (-1, 1).

    Args:
        kernel: the kernel; its parameters are left as they are.

    Returns:
        The names of the laws that were checked.

    Raises:
        AssertionError: names the law, the place and both values.
    """
    laws = [law for law in KERNEL_LAWS if law.applies(kernel)]
    for law in laws:
        law(kernel)
    return [law.name for law in laws]


def _data(kernel: Kernel, seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, kernel.n_features))


def input_and_output_have_one_kind(kernel: Kernel) -> None:
    """NumPy in, NumPy out; torch in, torch out; float32 and float64 are kept; lists and integers are read."""
    x, y = _data(kernel, 1, 5), _data(kernel, 2, 3)
    expected = kernel(x, y)
    assert isinstance(expected, np.ndarray), f"NumPy samples give a {type(expected).__name__}"
    for array_dtype, tensor_dtype, bound in ((np.float64, torch.float64, 1e-12), (np.float32, torch.float32, 1e-3)):
        from_array = kernel(x.astype(array_dtype), y.astype(array_dtype))
        from_tensor = kernel(torch.from_numpy(x).to(tensor_dtype), torch.from_numpy(y).to(tensor_dtype))
        assert isinstance(from_tensor, Tensor), f"tensors give a {type(from_tensor).__name__}"
        assert from_array.dtype == array_dtype, f"{np.dtype(array_dtype)} samples give {from_array.dtype}"
        assert from_tensor.dtype == tensor_dtype, f"{tensor_dtype} samples give {from_tensor.dtype}"
        assert_close(torch.from_numpy(from_array), torch.from_numpy(expected), str(np.dtype(array_dtype)), bound)
        assert_close(from_tensor, torch.from_numpy(from_array), "tensor and array", 0.0)
    assert_close(torch.from_numpy(kernel(x.tolist(), y.tolist())), torch.from_numpy(expected), "lists", 1e-12)
    whole = np.round(x)
    integers = torch.from_numpy(kernel(whole.astype(int), y))
    assert_close(integers, torch.from_numpy(kernel(whole, y)), "integers", 1e-12)


def symmetric_positive_with_unit_diagonal(kernel: Kernel) -> None:
    """K(X) is symmetric in every bit, has a diagonal of exactly 1, entries in [0, 1] and no negative eigenvalue."""
    k = _symmetric_and_positive(kernel)
    assert_same_bits(k.diagonal(), torch.ones(len(k), dtype=k.dtype), "diagonal of K(X)")
    assert k.min() >= -1e-12 and k.max() <= 1 + 1e-12, f"entries from {k.min().item()!r} to {k.max().item()!r}"


def symmetric_positive_with_its_diagonal(kernel: Kernel) -> None:
    """K(X) is symmetric in every bit, has `kernel.diagonal(X)`, no negative eigenvalue, and |K_ij|^2 <= K_ii K_jj."""
    k = _symmetric_and_positive(kernel)
    diagonal = torch.from_numpy(kernel.diagonal(_data(kernel, 3, 70)))
    assert_close(k.diagonal(), diagonal, "diagonal of K(X) and kernel.diagonal(X)", 1e-12, 1e-11)
    assert_close(torch.as_tensor(kernel.diagonal(torch.from_numpy(_data(kernel, 3, 70)))), diagonal, "of a tensor", 0.0)
    bound = torch.outer(diagonal, diagonal)
    assert (k.square() <= bound * (1 + 1e-9) + 1e-12).all(), "an entry is larger than its diagonal entries allow"


def _symmetric_and_positive(kernel: Kernel) -> Tensor:
    k = torch.from_numpy(kernel(_data(kernel, 3, 70)))
    assert_same_bits(k, k.T, "K(X) and its transpose")
    smallest = torch.linalg.eigvalsh(k)[0].item()
    assert smallest >= -1e-10 * max(1.0, k.diagonal().max().item()), f"smallest eigenvalue {smallest!r}"
    return k


def same_samples_in_any_role(kernel: Kernel) -> None:
    """K(Y, X) is K(X, Y)^T; K(X, copy of X) is K(X); a pair of vectors gives the entry; `evaluate` is the call."""
    x, y = _data(kernel, 1, 9), _data(kernel, 2, 70)
    k = torch.from_numpy(kernel(x, y))
    assert_close(torch.from_numpy(kernel(y, x)).T, k, "K(Y, X)^T", 1e-12, 1e-11)
    assert_close(torch.from_numpy(kernel(x, x.copy())), torch.from_numpy(kernel(x)), "K(X, copy of X)", 1e-12, 1e-11)
    assert_same_bits(torch.from_numpy(kernel(x, x)), torch.from_numpy(kernel(x)), "K(X, X)")
    assert_same_bits(torch.from_numpy(kernel.evaluate(x, y)), k, "evaluate(X, Y)")
    one = kernel(x[2], y[4])
    assert isinstance(one, float), f"two vectors give a {type(one).__name__}, expected a float"
    assert_close(torch.tensor(one, dtype=k.dtype), k[2, 4], "k(x, y) of two vectors", 1e-12, 1e-11)


def memory_layout_does_not_matter(kernel: Kernel) -> None:
    """Samples with gaps, reversed, in Fortran order or read-only give the same values and are left alone."""
    x = _data(kernel, 1, 9)
    k = torch.from_numpy(kernel(x))
    read_only = x.copy()
    read_only.flags.writeable = False
    layouts = {
        "every other row": np.repeat(x, 2, axis=0)[::2],
        "every other column": np.repeat(x, 2, axis=1)[:, ::2],
        "Fortran order": np.asfortranarray(x),
        "reversed twice": x[::-1].copy()[::-1],
        "read-only": read_only,
    }
    for name, layout in layouts.items():
        assert_close(torch.from_numpy(kernel(layout)), k, name, 1e-12, 1e-11)
    assert np.array_equal(x, _data(kernel, 1, 9)), "the samples were changed"


def logarithm_is_the_logarithm(kernel: Kernel) -> None:
    """gram(..., log=True) is the logarithm of K, with a diagonal of exactly 0 if K's is 1."""
    x, y = _data(kernel, 1, 9), _data(kernel, 2, 7)
    for which, ys in (("log K(X, Y)", y), ("log K(X)", None)):
        k, log_k = (torch.from_numpy(gram(kernel, x, ys, log=log)) for log in (False, True))
        readable = k > 1e-6  # below, rounding of K swamps its logarithm
        assert readable.any(), f"no entry of K is above 1e-6: {k}"
        assert_close(log_k[readable], k[readable].log(), which, 1e-8, 1e-8)
        if ys is None:
            assert_same_bits(log_k, log_k.T, "log K(X) and its transpose")
            if kernel.normalised:
                assert_same_bits(log_k.diagonal(), torch.zeros(len(x), dtype=k.dtype), "diagonal of log K(X)")


def logarithm_is_refused(kernel: Kernel) -> None:
    """gram(..., log=True) of a kernel that may be negative raises UnsupportedError."""
    try:
        gram(kernel, _data(kernel, 1, 3), log=True)
    except UnsupportedError as error:
        assert "log" in str(error), f"refused without a reason: {error}"
    else:
        raise AssertionError("accepted, expected UnsupportedError")


def gradient_is_the_finite_difference(kernel: Kernel) -> None:
    """Autograd's dK/dX, dK/dY and dK/dparameters along random directions, for K(X, Y) and K(X)."""
    for n_arguments in (1, 2):
        _check_gradient(kernel, n_arguments, log=False)


def gradient_of_the_logarithm_is_the_finite_difference(kernel: Kernel) -> None:
    """The same for log K, where K is above 0.01."""
    for n_arguments in (1, 2):
        _check_gradient(kernel, n_arguments, log=True)


def _check_gradient(kernel: Kernel, n_arguments: int, log: bool) -> None:
    kernel = copy.deepcopy(kernel).double()
    samples = [torch.from_numpy(_data(kernel, seed, n)).requires_grad_() for seed, n in ((1, 5), (2, 4))[:n_arguments]]
    k = _matrix(kernel, samples, False).detach()
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(k.shape, generator=generator, dtype=k.dtype)
    if log:
        weights = torch.where(k > 0.01, weights, torch.zeros_like(k))
    assert weights.any(), f"no entry of K is above 0.01: {k}"
    named = dict(zip(("X", "Y"), samples, strict=False)) | dict(kernel.named_parameters())
    total = (_matrix(kernel, samples, log) * weights).sum()
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    for (name, tensor), gradient in zip(named.items(), found, strict=True):
        for _ in range(3):
            e = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            e /= e.norm()
            along = torch.zeros_like(total) if gradient is None else (gradient * e).sum()
            what = f"{'log ' if log else ''}K({', '.join('XY'[:n_arguments])}) by {name}, along a random direction"
            with torch.no_grad():
                assert_close(along, _slope(kernel, samples, tensor, e, log, weights), what, 1e-7, 1e-7)


def _matrix(kernel: Kernel, samples: list[Tensor], log: bool) -> Tensor:
    result: Tensor = gram(kernel, samples[0], samples[1] if len(samples) > 1 else None, log=log)
    return result


def _slope(kernel: Kernel, samples: list[Tensor], moved: Tensor, e: Tensor, log: bool, weights: Tensor) -> Tensor:
    """Derivative of `sum weights * K` when `moved`, some samples or a parameter, goes along e."""
    start = moved.clone()

    def total(t: float) -> Tensor:
        moved.copy_(start + t * e)
        return (_matrix(kernel, samples, log) * weights).sum()

    result = derivative(total, _STEP)
    moved.copy_(start)
    return result


def diagonal_has_no_gradient(kernel: Kernel) -> None:
    """The diagonal of K(X) is constant: its cotangent never reaches samples or parameters."""
    x = torch.from_numpy(_data(kernel, 1, 9)).requires_grad_()
    gradients = torch.autograd.grad(kernel(x).diagonal().sum(), [x, *kernel.parameters()], allow_unused=True)
    assert not any(g is not None and g.any() for g in gradients), "the diagonal of K(X) has a gradient"


def copies_are_equal(kernel: Kernel) -> None:
    """A deep copy gives the same bits and has parameters of its own."""
    x = _data(kernel, 1, 9)
    twin = copy.deepcopy(kernel)
    assert_same_bits(torch.from_numpy(twin(x)), torch.from_numpy(kernel(x)), "K of a deep copy")
    own, other = ({p.data_ptr() for p in k.parameters()} for k in (kernel, twin))
    assert not own & other, "a deep copy shares its parameters"


def settings_can_be_read_and_set(kernel: Kernel) -> None:
    """What `get_params` gives can be set again and changes nothing; a setting that is not known is refused."""
    x = _data(kernel, 1, 9)
    twin = copy.deepcopy(kernel)
    assert twin.set_params(**twin.get_params()) is twin, "set_params does not give the kernel"
    assert_same_bits(torch.from_numpy(twin(x)), torch.from_numpy(kernel(x)), "K after its own settings were set")
    assert [*twin.state_dict()] == [*kernel.state_dict()], "parameters were lost or added"
    _expect_refusal("a setting that is not known", lambda: twin.set_params(no_such_setting=1))
    for name, value in twin.get_params().items():
        if name.rpartition("__")[2] == "bandwidth":
            twin.set_params(**{name: 1.5 * value})
            assert twin.get_params()[name] == 1.5 * value, f"{name} was not set"
            assert not np.array_equal(twin(x), kernel(x)), f"{name} has no influence"


def bad_samples_are_refused(kernel: Kernel) -> None:
    """NaN, infinity, complex numbers, text, no samples and a wrong number of features raise InvalidInputError."""
    good = _data(kernel, 1, 3)
    bad: dict[str, Any] = {
        "NaN": np.where(np.arange(3)[:, None] == 1, np.nan, good),
        "infinity": np.where(np.arange(3)[:, None] == 1, np.inf, good),
        "complex": good + 0j,
        "text": np.full(good.shape, "a"),
        "no samples": good[:0],
        "a feature too many": np.hstack([good, good[:, :1]]),
        "one dimension": good[0],
    }
    for name, samples in bad.items():
        for call in (lambda s=samples: kernel(s), lambda s=samples: kernel(good, s)):
            _expect_refusal(name, call)


def _expect_refusal(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except InvalidInputError as error:
        assert str(error), f"{name}: refused without a message"
    else:
        raise AssertionError(f"{name}: accepted, expected InvalidInputError")


def growing_keeps_full_tiles(kernel: FidelityKernel) -> None:
    """When samples are added, entries of full tiles keep every bit and those of the ragged edge their value."""
    side = resolve(kernel.backend, kernel.circuit).tile_side(kernel.circuit, torch.float64)
    x, y = _data(kernel, 5, 2 * side + 9), _data(kernel, 6, side + 3)
    square, general = torch.from_numpy(kernel(x)), torch.from_numpy(kernel(x, y))
    for n in (1, 7, 8, 9, side + 1, 2 * side):
        full = n - n % side
        few, few_rows = torch.from_numpy(kernel(x[:n])), torch.from_numpy(kernel(x[:n], y))
        assert_close(few, square[:n, :n], f"K of the first {n} of {len(x)} samples", 1e-12, 1e-11)
        assert_same_bits(few[:full, :full], square[:full, :full], f"full tiles of K, {n} of {len(x)} samples")
        assert_close(few_rows, general[:n], f"K(X, Y), first {n} of {len(x)} samples", 1e-12, 1e-11)
        assert_same_bits(few_rows[:full], general[:full], f"full tiles of K(X, Y), {n} of {len(x)} samples")


def threads_do_not_matter(kernel: Kernel) -> None:
    """One and two threads give the same bits, gradients included."""
    results = []
    for count in (1, 2):
        x, y = (torch.from_numpy(_data(kernel, seed, n)).requires_grad_() for seed, n in ((5, 200), (6, 70)))
        with use_threads(count):
            values = [kernel(x), kernel(x, y), gram(kernel, x, log=True)]
            values += torch.autograd.grad(values[1].sum() + values[0].sum(), [x, y, *kernel.parameters()])
        results.append(values)
    for one, two in zip(*results, strict=True):
        assert_same_bits(two, one, "two threads")


def _anybody(kernel: Kernel) -> bool:
    return True


def _normalised(kernel: Kernel) -> bool:
    return kernel.normalised


def _has_logarithm(kernel: Kernel) -> bool:
    return kernel.has_logarithm


def _has_none(kernel: Kernel) -> bool:
    return not kernel.has_logarithm


def _tiled(kernel: Kernel) -> bool:
    return isinstance(kernel, FidelityKernel)


KERNEL_LAWS: tuple[Law, ...] = (
    *(
        Law(check, binds)
        for check, binds in (
            (input_and_output_have_one_kind, _anybody),
            (symmetric_positive_with_unit_diagonal, _normalised),
            (symmetric_positive_with_its_diagonal, _anybody),
            (same_samples_in_any_role, _anybody),
            (memory_layout_does_not_matter, _anybody),
            (logarithm_is_the_logarithm, _has_logarithm),
            (logarithm_is_refused, _has_none),
            (gradient_is_the_finite_difference, _anybody),
            (gradient_of_the_logarithm_is_the_finite_difference, _has_logarithm),
            (diagonal_has_no_gradient, _normalised),
            (copies_are_equal, _anybody),
            (settings_can_be_read_and_set, _anybody),
            (bad_samples_are_refused, _anybody),
        )
    ),
    # Only a tiled kernel promises bits: other kernels may end in one large matrix product.
    *(Law(check, _tiled) for check in (growing_keeps_full_tiles, threads_do_not_matter)),
)
"""Every law of kernels, in the order in which `check_kernel` runs them."""
