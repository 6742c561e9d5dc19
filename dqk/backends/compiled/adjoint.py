"""Compiled entry point: cotangents of all angles by one reverse sweep per vector of samples.

The sweep takes each gate back from the state `psi` and from its cotangent `lam`; memory does not grow with depth. With
dL = Re <lam|dpsi> and a gate exp(-i angle G), dL/dangle = Im <lam|G|psi>.

References:
    Jones and Gacon, "Efficient calculation of gradients in classical simulations of variational quantum algorithms",
    arXiv 2009.02823.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from dqk.backends.compiled.encode import constants
from dqk.backends.compiled.jit import inner, jit
from dqk.backends.compiled.passes import (
    aligned,
    dense,
    fill_trig,
    hadamard,
    imaginary_pair,
    insert_zero,
    insert_zeros,
    one_qubit,
    real_pair,
    star_tables,
    start_qubits,
    width,
)
from dqk.backends.compiled.program import CRX, CRY, DENSE1, DENSE2, HADAMARD, NO_BIT, RX, RY, RY2, RYY, RZ, STAR
from dqk.backends.compiled.simd import lanes_of, load, store, transpose


@inner
def _imaginary(lam, psi, i, j):
    """Im(conj(lam_i) psi_j)."""
    h = width(psi) // 2
    return load(lam, i) * load(psi, j + h) - load(lam, i + h) * load(psi, j)


@inner
def _real(lam, psi, i, j):
    """Re(conj(lam_i) psi_j)."""
    h = width(psi) // 2
    return load(lam, i) * load(psi, j) + load(lam, i + h) * load(psi, j + h)


@inner
def _undo_real(psi, lam, i, j, c, s):
    gradient = _real(lam, psi, j, i) - _real(lam, psi, i, j)
    real_pair(psi, i, j, c, -s)
    real_pair(lam, i, j, c, -s)
    return gradient


@inner
def _undo_imaginary(psi, lam, i, j, c, s):
    gradient = _imaginary(lam, psi, i, j) + _imaginary(lam, psi, j, i)
    imaginary_pair(psi, i, j, c, -s)
    imaginary_pair(lam, i, j, c, -s)
    return gradient


@inner
def _undo_rotation(psi, lam, rows, n, kind, bit, other, c, s):
    """Takes a rotation back; returns twice the cotangent of its angle."""
    w = width(psi)
    total = c - c
    if kind == RY or kind == RX:
        for k in range(1 << (n - 1)):
            zero = insert_zero(k, bit)
            i, j = rows[zero] * w, rows[zero | (1 << bit)] * w
            if kind == RY:
                total = total + _undo_real(psi, lam, i, j, c, s)
            else:
                total = total + _undo_imaginary(psi, lam, i, j, c, s)
        return total
    for k in range(1 << (n - 2)):
        zero = insert_zeros(k, bit, other)
        one, two, both = zero | (1 << bit), zero | (1 << other), zero | (1 << bit) | (1 << other)
        if kind == CRY:
            total = total + _undo_real(psi, lam, rows[one] * w, rows[both] * w, c, s)
        elif kind == CRX:
            total = total + _undo_imaginary(psi, lam, rows[one] * w, rows[both] * w, c, s)
        else:
            outer = _undo_imaginary(psi, lam, rows[zero] * w, rows[both] * w, c, -s if kind == RYY else s)
            total = total + (-outer if kind == RYY else outer)
            total = total + _undo_imaginary(psi, lam, rows[one] * w, rows[two] * w, c, s)
    return total


@inner
def _undo_real_pairs(psi, lam, rows, n, bit, other, c, s, d, t):
    """Takes RY on two qubits back in one pass, (c, s) on the first and (d, t) on the second; twice the cotangents of both."""
    w = width(psi)
    h = w // 2
    first = second = c - c
    for k in range(1 << (n - 2)):
        zero = insert_zeros(k, bit, other)
        i, j = rows[zero] * w, rows[zero | (1 << bit)] * w
        p, q = rows[zero | (1 << other)] * w, rows[zero | (1 << bit) | (1 << other)] * w
        for part in range(0, w, h):
            x00, x10, x01, x11 = _undo_four(psi, i + part, j + part, p + part, q + part, c, s, d, t)
            y00, y10, y01, y11 = _undo_four(lam, i + part, j + part, p + part, q + part, c, s, d, t)
            # Both generators commute with both rotations: the states before or after give the same cotangents.
            first = first + y10 * x00 - y00 * x10 + y11 * x01 - y01 * x11
            second = second + y01 * x00 - y00 * x01 + y11 * x10 - y10 * x11
    return first, second


@inner
def _undo_four(psi, i, j, p, q, c, s, d, t):
    """The inverse of RY on two qubits for four real or imaginary parts, stored and returned."""
    a, b, e, f = load(psi, i), load(psi, j), load(psi, p), load(psi, q)
    a, b, e, f = c * a + s * b, c * b - s * a, c * e + s * f, c * f - s * e
    a, b, e, f = d * a + t * e, d * b + t * f, d * e - t * a, d * f - t * b
    store(psi, i, a)
    store(psi, j, b)
    store(psi, p, e)
    store(psi, q, f)
    return a, b, e, f


@inner
def _undo_star(psi, lam, rows, n, centre, low, high, sums_low, sums_high):
    """Takes a star back and sums Im(conj(lam) psi), signed by the centre, over each half of the bits."""
    w = width(psi)
    h = w // 2
    half = n // 2
    for v in range(1 << half):
        store(sums_low, v * h, load(psi, 0) - load(psi, 0))
    for u in range(1 << (n - half)):
        ur, ui = load(high, u * w), load(high, u * w + h)
        total = ur - ur
        for v in range(1 << half):
            logical = (u << half) | v
            vr, vi = load(low, v * w), load(low, v * w + h)
            c, s = ur * vr - ui * vi, ur * vi + ui * vr
            i = rows[logical] * w
            product = _imaginary(lam, psi, i, i)
            if centre != NO_BIT and (logical >> centre) & 1:
                s = -s
                product = -product
            total = total + product
            store(sums_low, v * h, load(sums_low, v * h) + product)
            r, m = load(psi, i), load(psi, i + h)
            store(psi, i, r * c + m * s)
            store(psi, i + h, m * c - r * s)
            r, m = load(lam, i), load(lam, i + h)
            store(lam, i, r * c + m * s)
            store(lam, i + h, m * c - r * s)
        store(sums_high, u * h, total)


@inner
def _star_gradients(gradients, slots, first, last, n, sums_low, sums_high):
    """Sums of the products with the sign that each slot's partner has, added to the slot (twice the cotangent)."""
    h = width(gradients) // 2
    half = n // 2
    for slot in range(first, last):
        bit = slots[slot, 2]
        table, size, shift = (sums_low, 1 << half, bit) if bit < half else (sums_high, 1 << (n - half), bit - half)
        total = load(gradients, slot * h)
        for k in range(size):
            value = load(table, k * h)
            total = total - value if bit != NO_BIT and (k >> shift) & 1 else total + value
        store(gradients, slot * h, total)


@inner
def _undo_step(psi, lam, n, row, frames, slots, trig, matrices, tables, gradients, ones, root, scratch):
    w = width(psi)
    h = w // 2
    kind, bit, other, first, last = row[0], row[1], row[2], row[3], row[4]
    rows = frames[row[5]]
    if kind == STAR:
        low, high, sums_low, sums_high = tables
        star_tables(low, high, n, slots, trig, first, last, ones)
        _undo_star(psi, lam, rows, n, bit, low, high, sums_low, sums_high)
        _star_gradients(gradients, slots, first, last, n, sums_low, sums_high)
    elif kind == RY2:
        c, s, d, t = load(trig, first * w), load(trig, first * w + h), load(trig, last * w), load(trig, last * w + h)
        one, two = _undo_real_pairs(psi, lam, rows, n, bit, other, c, s, d, t)
        store(gradients, first * h, load(gradients, first * h) + one)
        store(gradients, last * h, load(gradients, last * h) + two)
    elif kind == HADAMARD:
        hadamard(psi, rows, n, bit, root)
        hadamard(lam, rows, n, bit, root)
    elif kind == DENSE1 or kind == DENSE2:
        bits = 1 if kind == DENSE1 else 2
        dense(psi, rows, n, bits, bit, other, matrices, first, True, scratch)
        dense(lam, rows, n, bits, bit, other, matrices, first, True, scratch)
    else:
        c, s = load(trig, first * w), load(trig, first * w + h)
        gradient = _undo_rotation(psi, lam, rows, n, kind, bit, other, c, s)
        store(gradients, first * h, load(gradients, first * h) + gradient)


@inner
def _undo_start(psi, lam, n, qubits, cotangents):
    """From the cotangent of a product state to those of its one-qubit states. Overwrites psi with partial products."""
    w = width(psi)
    h = w // 2
    store(psi, w, load(qubits, 0) - load(qubits, 0))
    store(psi, w + h, load(psi, w))
    psi[w : w + h] = 1.0  # partial product of no qubit; that of the first k qubits has rows 2**k to 2**(k + 1) - 1
    for bit in range(n - 1):
        size, at = 1 << bit, 2 * bit * w
        for k in range(size):
            r, m = load(psi, (size + k) * w), load(psi, (size + k) * w + h)
            for value in range(2):
                c, s = load(qubits, at + value * w), load(qubits, at + value * w + h)
                i = (2 * size + value * size + k) * w
                store(psi, i, r * c - m * s)
                store(psi, i + h, r * s + m * c)
    for bit in range(n - 1, -1, -1):
        size, at = 1 << bit, 2 * bit * w
        ar, ai, br, bi = load(qubits, at), load(qubits, at + h), load(qubits, at + w), load(qubits, at + w + h)
        dar = dai = dbr = dbi = ar - ar
        for k in range(size):
            i, j, p = k * w, (k + size) * w, (size + k) * w
            xr, xi, yr, yi = load(lam, i), load(lam, i + h), load(lam, j), load(lam, j + h)
            pr, pi = load(psi, p), load(psi, p + h)
            dar, dai = dar + pr * xr + pi * xi, dai + pr * xi - pi * xr
            dbr, dbi = dbr + pr * yr + pi * yi, dbi + pr * yi - pi * yr
            store(lam, i, ar * xr + ai * xi + br * yr + bi * yi)
            store(lam, i + h, ar * xi - ai * xr + br * yi - bi * yr)
        store(cotangents, at, dar)
        store(cotangents, at + h, dai)
        store(cotangents, at + w, dbr)
        store(cotangents, at + w + h, dbi)


@inner
def _start_gradients(gradients, qubits, cotangents, starts, trig, matrices, pair, root, scratch):
    """Sweeps back through the gates of each one-qubit state (twice the cotangent of each angle)."""
    w = width(qubits)
    for row in range(len(starts) - 1, -1, -1):
        bit, kind, slot = starts[row, 0], starts[row, 1], starts[row, 2]
        psi, lam = qubits[2 * bit * w : 2 * bit * w + 2 * w], cotangents[2 * bit * w : 2 * bit * w + 2 * w]
        if kind == RY or kind == RX or kind == RZ:
            if kind == RY:
                gradient = _real(lam, psi, w, 0) - _real(lam, psi, 0, w)
            elif kind == RX:
                gradient = _imaginary(lam, psi, 0, w) + _imaginary(lam, psi, w, 0)
            else:
                gradient = _imaginary(lam, psi, 0, 0) - _imaginary(lam, psi, w, w)
            store(gradients, slot * w // 2, load(gradients, slot * w // 2) + gradient)
        one_qubit(psi, kind, slot, trig, matrices, pair, root, scratch, True)
        one_qubit(lam, kind, slot, trig, matrices, pair, root, scratch, True)


@inner
def _read(psi, rows, source, strides, start, count, square):
    """One vector of `count` samples from `start` on; the lanes after the last sample repeat it.

    `strides` are the distances in `source` of imaginary from real parts and of a sample from the one before.
    """
    size, lanes = len(rows), lanes_of(psi)
    for part in range(2):
        for first in range(0, size, lanes):
            for lane in range(lanes):
                at = part * strides[0] + (start + min(lane, count - 1)) * strides[1] + first
                if size >= lanes:
                    store(square, lane * lanes, load(source, at))
                else:
                    for k in range(size):
                        square[lane * lanes + k] = source[at + k]
            transpose(square)
            for k in range(min(lanes, size)):
                store(psi, (2 * rows[first + k] + part) * lanes, load(square, k * lanes))


@inner
def _scatter(gradients, slots, factors, start, lanes, out_angles, out_shared):
    for slot in range(len(factors)):
        kind, column = slots[slot, 0], slots[slot, 1]
        for lane in range(min(lanes, len(out_angles) - start)):
            # dL/dangle is half of what the sweep summed: generators are Pauli strings over 2.
            value = 0.5 * factors[slot] * gradients[slot * lanes + lane]
            if kind == 1:
                out_angles[start + lane, column] += value
            elif kind == 2:
                out_shared[column] += value


@jit
def sweep_states(
    steps,
    frames,
    slots,
    factors,
    starts,
    matrices,
    angles,
    shared,
    encoded,
    encoded_strides,
    cotangent,
    cotangent_strides,
    out_angles,
    out_shared,
):
    """Adds the cotangents of all angles to `out_angles` (N, A_d) and `out_shared` (A_s,).

    `encoded` and `cotangent` are the memory of arrays of shape (2, N, 2**n) whose last axis is contiguous, and the strides of
    their other axes in elements; the other arguments are those of `encode_states`.
    """
    count, size = len(angles), frames.shape[1]
    n = int(round(math.log2(size)))
    lanes = lanes_of(encoded)
    w = 2 * lanes
    square = aligned(encoded, lanes * lanes)
    psi, lam, scratch = aligned(encoded, size * w), aligned(encoded, size * w), aligned(encoded, 4 * w)
    qubits, cotangents = aligned(encoded, 2 * n * w), aligned(encoded, 2 * n * w)
    half, rest = 1 << (n // 2), 1 << (n - n // 2)  # entries of the tables of a star and of sums over its halves
    tables = (
        aligned(encoded, half * w),
        aligned(encoded, rest * w),
        aligned(encoded, half * lanes),
        aligned(encoded, rest * lanes),
    )
    trig, gradients = aligned(encoded, max(1, len(factors)) * w), aligned(encoded, max(1, len(factors)) * lanes)
    units = constants(encoded)
    ones, root = load(units, 0), load(units, lanes)
    pair = np.arange(2).astype(np.int32)
    for start in range(0, count, lanes):
        fill_trig(trig, slots, factors, angles, shared, start, lanes)
        gradients[:] = 0.0
        rows = frames[len(frames) - 1]
        there = min(lanes, count - start)
        _read(psi, rows, encoded, encoded_strides, start, there, square)
        _read(lam, rows, cotangent, cotangent_strides, start, there, square)
        for s in range(len(steps) - 1, -1, -1):
            _undo_step(psi, lam, n, steps[s], frames, slots, trig, matrices, tables, gradients, ones, root, scratch)
        start_qubits(qubits, n, starts, trig, matrices, pair, ones, root, scratch)
        _undo_start(psi, lam, n, qubits, cotangents)
        _start_gradients(gradients, qubits, cotangents, starts, trig, matrices, pair, root, scratch)
        _scatter(gradients, slots, factors, start, lanes, out_angles, out_shared)
