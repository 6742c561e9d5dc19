"""Compiled entry points: tiles of |<b|a>|^2 straight from the vectors in which states are made.

A *panel* holds the states of one vector of samples: for each amplitude real parts, imaginary parts, their sum and
their difference. A microtile of 4 rows and 2 panels keeps its 24 sums in vector registers over a run of amplitudes.
Compared with BLAS nothing is packed, nothing below the diagonal of a symmetric K is computed, and the squared modulus
is taken from registers. It needs 32 registers of 64 bytes (AVX-512) to pay.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numba

from dqk.backends.compiled.encode import simulate, workspace
from dqk.backends.compiled.jit import inner, jit
from dqk.backends.compiled.passes import aligned
from dqk.backends.compiled.simd import lanes_of, load, splat, store

ROWS = 4
RUN = 128  # amplitudes between two visits of a microtile
within = numba.njit(nogil=True, error_model="numpy", inline="always")


@jit
def encode_panels(steps, frames, slots, factors, starts, matrices, angles, shared, out, first, last):
    """Writes panels `first` to before `last` of `out`, shape (panels, 2**n, 4, lanes); samples past the end have angles 0."""
    lanes = out.shape[3]
    space = workspace(out, frames.shape[1], len(factors))
    rows = frames[len(frames) - 1]
    flat = out.reshape(-1)
    for panel in range(first, min(last, out.shape[0])):
        simulate(space, steps, frames, slots, factors, starts, matrices, angles, shared, panel * lanes)
        psi = space[0]
        for k in range(frames.shape[1]):
            re, im = load(psi, rows[k] * 2 * lanes), load(psi, rows[k] * 2 * lanes + lanes)
            at = (panel * frames.shape[1] + k) * 4 * lanes
            store(flat, at, re)
            store(flat, at + lanes, im)
            store(flat, at + 2 * lanes, re + im)
            store(flat, at + 3 * lanes, re - im)


@within
def _more(sums, r0, r1, r2, r3, c0, c1):
    """Adds products of 4 row values and 2 vectors of columns."""
    return (
        sums[0] + r0 * c0,
        sums[1] + r0 * c1,
        sums[2] + r1 * c0,
        sums[3] + r1 * c1,
        sums[4] + r2 * c0,
        sums[5] + r2 * c1,
        sums[6] + r3 * c0,
        sums[7] + r3 * c1,
    )


@within
def _load8(array, at, lanes):
    return (
        load(array, at),
        load(array, at + lanes),
        load(array, at + 2 * lanes),
        load(array, at + 3 * lanes),
        load(array, at + 4 * lanes),
        load(array, at + 5 * lanes),
        load(array, at + 6 * lanes),
        load(array, at + 7 * lanes),
    )


@inner
def _microtile(a, at_a, b, at_b0, at_b1, size, sums, at):
    """Adds `size` amplitudes to three products of one microtile: re re, im im, and (re + im)(re - im)."""
    lanes = lanes_of(a)
    first, second, third = (
        _load8(sums, at, lanes),
        _load8(sums, at + 8 * lanes, lanes),
        _load8(sums, at + 16 * lanes, lanes),
    )
    for _ in range(size):
        p0, p1, p2, p3 = splat(a, at_a), splat(a, at_a + 1), splat(a, at_a + 2), splat(a, at_a + 3)
        first = _more(first, p0, p1, p2, p3, load(b, at_b0), load(b, at_b1))
        q = at_a + lanes
        p0, p1, p2, p3 = splat(a, q), splat(a, q + 1), splat(a, q + 2), splat(a, q + 3)
        second = _more(second, p0, p1, p2, p3, load(b, at_b0 + lanes), load(b, at_b1 + lanes))
        q += lanes
        p0, p1, p2, p3 = splat(a, q), splat(a, q + 1), splat(a, q + 2), splat(a, q + 3)
        third = _more(third, p0, p1, p2, p3, load(b, at_b0 + 3 * lanes), load(b, at_b1 + 3 * lanes))
        at_a += 4 * lanes
        at_b0 += 4 * lanes
        at_b1 += 4 * lanes
    for k in range(8):
        store(sums, at + k * lanes, first[k])
        store(sums, at + (8 + k) * lanes, second[k])
        store(sums, at + (16 + k) * lanes, third[k])


@jit
def tile_panels(a, b, symmetric, out):
    """`out[i, j] = |<b_j|a_i>|^2`.

    Args:
        a: panels of the rows, shape (panels, 2**n, 4, lanes), an even number of them.
        b: panels of the columns, likewise.
        symmetric: only microtiles that reach the diagonal or lie above it are written.
        out: contiguous, shape (rows, columns), as many as there are samples in the panels.
    """
    lanes, size = a.shape[3], a.shape[1]
    columns, wide = out.shape[1], 2 * lanes
    flat_a, flat_b, flat_out = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    panel = size * 4 * lanes
    groups, pairs = out.shape[0] // ROWS, columns // wide
    sums = aligned(flat_a, pairs * groups * 24 * lanes)
    sums[:] = 0.0
    for start in range(0, size, RUN):
        # One run of all rows stays in L2 while the columns pass by.
        run = min(RUN, size - start)
        for pair in range(pairs):
            at_b = 2 * pair * panel + start * 4 * lanes
            for group in range(_used(symmetric, groups, pair, wide)):
                at_a = (group * ROWS // lanes) * panel + start * 4 * lanes + group * ROWS % lanes
                at = (pair * groups + group) * 24 * lanes
                _microtile(flat_a, at_a, flat_b, at_b, at_b + panel, run, sums, at)
    for pair in range(pairs):
        for group in range(_used(symmetric, groups, pair, wide)):
            for k in range(8):
                at = ((pair * groups + group) * 24 + k) * lanes
                first, second, third = load(sums, at), load(sums, at + 8 * lanes), load(sums, at + 16 * lanes)
                # Gauss: re re + im im, and (re + im)(re - im) - re re + im im
                re, im = first + second, third - first + second
                store(flat_out, (group * ROWS + k // 2) * columns + pair * wide + k % 2 * lanes, re * re + im * im)


@inner
def _used(symmetric, groups, pair, wide):
    """Groups of rows of which something lies above the diagonal."""
    return min(groups, (pair + 1) * wide // ROWS) if symmetric else groups
