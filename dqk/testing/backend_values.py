"""Laws of exact backends: kernel values. The oracle is the reference backend on the circuit without simplification."""

from __future__ import annotations

from itertools import product

import torch

from dqk.backends.base import Backend, EncodingBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.testing.comparison import assert_close, assert_same_bits, tolerance
from dqk.testing.subjects import DTYPES, backend_law, oracle, samples, shared_angles, supports

RAGGED_SIZES = (1, 7, 8, 9, 65, 130)
"""Numbers of samples on both sides of a vector's lanes (8), of a tile (64) and of several tiles."""


@backend_law("exact")
def agrees_with_reference(backend: Backend, circuit: Circuit) -> None:
    """Values of K(X, Y) and K(X) in float64 and float32."""
    for dtype in DTYPES:
        ax, ay, shared = samples(circuit, 1, 9, dtype), samples(circuit, 2, 7, dtype), shared_angles(circuit, dtype)
        for which, y in ((f"K(X, Y), {dtype}", ay), (f"K(X), {dtype}", None)):
            expected = oracle(circuit, ax, ax if y is None else y, shared)
            assert_close(backend.fidelity(circuit, ax, y, shared), expected, which, *tolerance(dtype, circuit))


@backend_law("exact", "encoding")
def simplification_keeps_values(backend: EncodingBackend, circuit: Circuit) -> None:
    """Where the whole circuit is supported, its encodings overlap like those of the simplified one."""
    if not supports(backend, circuit):
        return  # `agrees_with_reference` has compared the simplified circuit with the whole one
    ax, ay, shared = samples(circuit, 1, 9), samples(circuit, 2, 7), shared_angles(circuit)
    whole = backend.overlap(*(backend.encode_block(circuit, angles, shared)[1] for angles in (ax, ay)))
    assert_close(backend.fidelity(circuit, ax, ay, shared), whole, "simplified K", *tolerance(ax.dtype))


@backend_law("exact")
def symmetric_with_unit_diagonal(backend: Backend, circuit: Circuit) -> None:
    """K(X) equals its transpose in every bit and its diagonal is exactly 1."""
    for dtype, n in product(DTYPES, (1, 9, 65)):
        k = backend.fidelity(circuit, samples(circuit, 3, n, dtype), None, shared_angles(circuit, dtype))
        assert_same_bits(k, k.T, f"K(X) and its transpose, {dtype}")
        assert_same_bits(k.diagonal(), torch.ones(n, dtype=dtype), f"diagonal of K(X), {dtype}")


@backend_law("exact")
def transposed_when_arguments_swap(backend: Backend, circuit: Circuit) -> None:
    """K(Y, X) is K(X, Y)^T up to rounding."""
    ax, ay, shared = samples(circuit, 1, 9), samples(circuit, 2, 20), shared_angles(circuit)
    forth, back = backend.fidelity(circuit, ax, ay, shared), backend.fidelity(circuit, ay, ax, shared)
    assert_close(back.T, forth, "K(Y, X)^T", *tolerance(ax.dtype))


@backend_law("exact")
def between_zero_and_one(backend: Backend, circuit: Circuit) -> None:
    """Entries lie in [0, 1] and eigenvalues are not negative, up to rounding."""
    for dtype in DTYPES:
        rounding = tolerance(dtype, circuit)[0]
        ax, shared = samples(circuit, 4, 40, dtype), shared_angles(circuit, dtype)
        square, general = backend.fidelity(circuit, ax, None, shared), backend.fidelity(circuit, ax, ax.clone(), shared)
        for k in (square, general):
            low, high = k.min().item(), k.max().item()
            assert low >= -rounding and high <= 1 + rounding, f"{dtype}: entries from {low!r} to {high!r}"
        smallest = torch.linalg.eigvalsh(square)[0].item()
        assert smallest >= -len(ax) * rounding, f"{dtype}: smallest eigenvalue {smallest!r}"


@backend_law("exact")
def independent_of_the_batch(backend: Backend, circuit: Circuit) -> None:
    """An entry depends on its two samples only, whatever the size of the batch."""
    ax, ay, shared = samples(circuit, 5, max(RAGGED_SIZES)), samples(circuit, 2, 9), shared_angles(circuit)
    whole = backend.fidelity(circuit, ax, ay, shared)
    for n in RAGGED_SIZES:
        part = backend.fidelity(circuit, ax[:n], ay, shared)
        assert_close(part, whole[:n], f"{n} of {len(ax)} samples", *tolerance(ax.dtype))
    alone = backend.fidelity(circuit, ax[40:41], ay[3:4], shared)
    assert_close(alone, whole[40:41, 3:4], "two samples alone", *tolerance(ax.dtype))


@backend_law("exact", "encoding")
def encodings_can_be_cut(backend: EncodingBackend, circuit: Circuit) -> None:
    """The last axis of a real encoding is the sample; a part of it, and the block form, overlap like the whole."""
    kept = simplify_for_fidelity(circuit).circuit
    ax, ay, shared = samples(circuit, 1, 9), samples(circuit, 2, 7), shared_angles(circuit)
    encoded, other = backend.encode(kept, ax, shared), backend.prepare(backend.encode(kept, ay, shared))
    assert encoded.shape[-1] == len(ax), f"encoding of {len(ax)} samples has shape {tuple(encoded.shape)}"
    assert not encoded.is_complex(), f"encoding of dtype {encoded.dtype}, expected a real one"
    bound = tolerance(ax.dtype)
    whole = backend.overlap(backend.prepare(encoded), other)
    assert_close(whole, backend.fidelity(circuit, ax, ay, shared), "overlap of encodings", *bound)
    part = backend.prepare(encoded[..., 2:5].contiguous())
    assert_close(backend.overlap(part, other), whole[2:5], "overlap of a part", *bound)
    plain, prepared = backend.encode_block(kept, ax, shared)
    assert_close(plain, encoded, "encoding of encode_block", *bound)
    assert_close(backend.overlap(prepared, other), whole, "overlap of encode_block", *bound)
    none = backend.encode(kept, ax[:0], shared)
    assert none.shape == (*encoded.shape[:-1], 0), f"encoding of no samples has shape {tuple(none.shape)}"


@backend_law("exact", "encoding")
def log_overlap_is_the_logarithm(backend: EncodingBackend, circuit: Circuit) -> None:
    """`log_overlap` is the logarithm of `overlap`."""
    kept = simplify_for_fidelity(circuit).circuit
    ax, shared = samples(circuit, 1, 6), shared_angles(circuit)
    a, b = (backend.encode_block(kept, angles, shared)[1] for angles in (ax, ax + 0.1))
    k = backend.overlap(a, b)
    readable = k > 1e-6  # below, rounding of K swamps its logarithm
    assert readable.diagonal().any(), f"no entry of K is above 1e-6: {k.diagonal()}"
    assert_close(backend.log_overlap(a, b)[readable], k[readable].log(), "log K", 1e-8, 1e-8)
