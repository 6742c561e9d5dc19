"""Forward passes over the states of one vector of samples.

Row r of `psi` holds the real parts of one amplitude for all samples of the vector, then the imaginary parts. `rows` maps logical
basis states to rows. `cos` and `sin` are of half the angle.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from dqk.backends.compiled import VECTOR_BYTES
from dqk.backends.compiled.jit import inner
from dqk.backends.compiled.program import (
    CRX,
    CRY,
    DENSE1,
    HADAMARD,
    NO_BIT,
    RX,
    RXX,
    RY,
    RY2,
    RYY,
    RZ,
    STAR,
)
from dqk.backends.compiled.simd import lanes_of, load, splat, store

_ROOT = math.sqrt(0.5)


@inner
def width(psi):
    """Elements of one row: real and imaginary vectors."""
    return 2 * lanes_of(psi)


@inner
def aligned(like, size):
    """An uninitialised array whose data start on a vector boundary."""
    buffer = np.empty(size + lanes_of(like), like.dtype)
    offset = (-buffer.ctypes.data % VECTOR_BYTES) // like.itemsize
    return buffer[offset : offset + size]


@inner
def insert_zero(k, bit):
    """Number k with a zero inserted at a bit position."""
    return ((k >> bit) << (bit + 1)) | (k & ((1 << bit) - 1))


@inner
def insert_zeros(k, bit, other):
    """Number k with zeros inserted at two bit positions."""
    return insert_zero(insert_zero(k, min(bit, other)), max(bit, other))


@inner
def real_pair(psi, i, j, c, s):
    """RY on one pair of amplitudes: (a, b) -> (c a - s b, s a + c b)."""
    h = width(psi) // 2
    ar, ai, br, bi = load(psi, i), load(psi, i + h), load(psi, j), load(psi, j + h)
    store(psi, i, c * ar - s * br)
    store(psi, i + h, c * ai - s * bi)
    store(psi, j, s * ar + c * br)
    store(psi, j + h, s * ai + c * bi)


@inner
def real_pairs(psi, rows, n, bit, other, c, s, d, t):
    """RY on two qubits in one pass, (c, s) on the first and (d, t) on the second: half the memory traffic of two passes."""
    w = width(psi)
    h = w // 2
    for k in range(1 << (n - 2)):
        zero = insert_zeros(k, bit, other)
        i00, i10 = rows[zero] * w, rows[zero | (1 << bit)] * w
        i01, i11 = rows[zero | (1 << other)] * w, rows[zero | (1 << bit) | (1 << other)] * w
        x00, x10, x01, x11 = load(psi, i00), load(psi, i10), load(psi, i01), load(psi, i11)
        u00, u10, u01, u11 = load(psi, i00 + h), load(psi, i10 + h), load(psi, i01 + h), load(psi, i11 + h)
        y00, y10, y01, y11 = c * x00 - s * x10, s * x00 + c * x10, c * x01 - s * x11, s * x01 + c * x11
        v00, v10, v01, v11 = c * u00 - s * u10, s * u00 + c * u10, c * u01 - s * u11, s * u01 + c * u11
        store(psi, i00, d * y00 - t * y01)
        store(psi, i01, t * y00 + d * y01)
        store(psi, i10, d * y10 - t * y11)
        store(psi, i11, t * y10 + d * y11)
        store(psi, i00 + h, d * v00 - t * v01)
        store(psi, i01 + h, t * v00 + d * v01)
        store(psi, i10 + h, d * v10 - t * v11)
        store(psi, i11 + h, t * v10 + d * v11)


@inner
def imaginary_pair(psi, i, j, c, s):
    """RX on one pair of amplitudes: (a, b) -> (c a - i s b, c b - i s a)."""
    h = width(psi) // 2
    ar, ai, br, bi = load(psi, i), load(psi, i + h), load(psi, j), load(psi, j + h)
    store(psi, i, c * ar + s * bi)
    store(psi, i + h, c * ai - s * br)
    store(psi, j, c * br + s * ai)
    store(psi, j + h, c * bi - s * ar)


@inner
def rotate(psi, rows, n, kind, bit, other, c, s):
    """One of the rotations RY, RX, CRY, CRX (control first), RXX, RYY."""
    w = width(psi)
    if kind == RY or kind == RX:
        for k in range(1 << (n - 1)):
            zero = insert_zero(k, bit)
            i, j = rows[zero] * w, rows[zero | (1 << bit)] * w
            if kind == RY:
                real_pair(psi, i, j, c, s)
            else:
                imaginary_pair(psi, i, j, c, s)
        return
    for k in range(1 << (n - 2)):
        zero = insert_zeros(k, bit, other)
        one, two, both = zero | (1 << bit), zero | (1 << other), zero | (1 << bit) | (1 << other)
        if kind == CRY:
            real_pair(psi, rows[one] * w, rows[both] * w, c, s)
        elif kind == CRX:
            imaginary_pair(psi, rows[one] * w, rows[both] * w, c, s)
        else:
            imaginary_pair(psi, rows[zero] * w, rows[both] * w, c, -s if kind == RYY else s)
            imaginary_pair(psi, rows[one] * w, rows[two] * w, c, s)


@inner
def hadamard(psi, rows, n, bit, root):
    """H on one qubit; `root` is a vector of sqrt(1/2)."""
    w = width(psi)
    h = w // 2
    for k in range(1 << (n - 1)):
        zero = insert_zero(k, bit)
        i, j = rows[zero] * w, rows[zero | (1 << bit)] * w
        ar, ai, br, bi = load(psi, i), load(psi, i + h), load(psi, j), load(psi, j + h)
        store(psi, i, root * (ar + br))
        store(psi, i + h, root * (ai + bi))
        store(psi, j, root * (ar - br))
        store(psi, j + h, root * (ai - bi))


@inner
def dense(psi, rows, n, bits, bit, other, matrices, offset, adjoint, scratch):
    """A constant unitary on one or two qubits, or its adjoint. Rare, so written for shortness."""
    w = width(psi)
    h = w // 2
    side = 1 << bits
    for k in range(1 << (n - bits)):
        zero = insert_zero(k, bit) if bits == 1 else insert_zeros(k, bit, other)
        for m in range(side):
            i = rows[_member(zero, m, bits, bit, other)] * w
            store(scratch, m * w, load(psi, i))
            store(scratch, m * w + h, load(psi, i + h))
        for r in range(side):
            real = imaginary = load(scratch, 0) - load(scratch, 0)
            for m in range(side):
                at = offset + 2 * (m * side + r if adjoint else r * side + m)
                mr, mi = splat(matrices, at), splat(matrices, at + 1)
                mi = -mi if adjoint else mi
                xr, xi = load(scratch, m * w), load(scratch, m * w + h)
                real = real + mr * xr - mi * xi
                imaginary = imaginary + mr * xi + mi * xr
            i = rows[_member(zero, r, bits, bit, other)] * w
            store(psi, i, real)
            store(psi, i + h, imaginary)


@inner
def _member(zero, m, bits, bit, other):
    if bits == 1:
        return zero | (m << bit)
    return zero | ((m >> 1) << bit) | ((m & 1) << other)


@inner
def star_tables(low, high, n, slots, trig, first, last, ones):
    """The phases of a star as two tables over the lower and upper half of the bits; their product is the phase."""
    w = width(low)
    h = w // 2
    half = n // 2
    store(low, 0, ones)
    store(low, h, ones - ones)
    store(high, 0, ones)
    store(high, h, ones - ones)
    for slot in range(first, last):
        if slots[slot, 2] == NO_BIT:
            _times(low, 0, load(trig, slot * w), -load(trig, slot * w + h))
    for bit in range(n):
        table = low if bit < half else high
        size = 1 << (bit if bit < half else bit - half)
        c, s = ones, ones - ones  # the product of exp(-i angle/2) over the slots of this bit, as c - i s
        for slot in range(first, last):
            if slots[slot, 2] == bit:
                tc, ts = load(trig, slot * w), load(trig, slot * w + h)
                c, s = c * tc - s * ts, c * ts + s * tc
        for k in range(size):
            store(table, (k + size) * w, load(table, k * w))
            store(table, (k + size) * w + h, load(table, k * w + h))
            _times(table, (k + size) * w, c, s)
            _times(table, k * w, c, -s)


@inner
def _times(table, at, c, s):
    """Multiplies one entry by c + i s."""
    h = width(table) // 2
    r, i = load(table, at), load(table, at + h)
    store(table, at, r * c - i * s)
    store(table, at + h, r * s + i * c)


@inner
def star(psi, rows, n, centre, low, high, sign):
    """Multiplies by the phases of a star (sign +1) or takes them back (-1); the centre qubit conjugates them where it is 1."""
    w = width(psi)
    h = w // 2
    half = n // 2
    for u in range(1 << (n - half)):
        ur, ui = load(high, u * w), load(high, u * w + h)
        for v in range(1 << half):
            logical = (u << half) | v
            vr, vi = load(low, v * w), load(low, v * w + h)
            c, s = ur * vr - ui * vi, ur * vi + ui * vr
            flipped = centre != NO_BIT and (logical >> centre) & 1
            if flipped != (sign < 0):
                s = -s
            i = rows[logical] * w
            r, m = load(psi, i), load(psi, i + h)
            store(psi, i, r * c - m * s)
            store(psi, i + h, r * s + m * c)


@inner
def fill_trig(trig, slots, factors, angles, shared, start, lanes):
    """Cosine and sine of half the angle of every slot, for samples start, start + 1, ...; missing samples get angle 0."""
    for slot in range(len(factors)):
        kind, column = slots[slot, 0], slots[slot, 1]
        at = slot * 2 * lanes
        if kind != 1:
            half = 0.5 * factors[slot] * (shared[column] if kind == 2 else 1.0)
            trig[at : at + lanes] = math.cos(half)
            trig[at + lanes : at + 2 * lanes] = math.sin(half)
            continue
        for lane in range(lanes):
            row = start + lane
            half = 0.5 * factors[slot] * angles[row, column] if row < len(angles) else 0.0
            trig[at + lane] = math.cos(half)
            trig[at + lanes + lane] = math.sin(half)


@inner
def start_qubits(qubits, n, starts, trig, matrices, pair, ones, root, scratch):
    """The one-qubit states that start the run; entry 2 * bit holds the amplitude of 0, the next one that of 1."""
    w = width(qubits)
    for bit in range(n):
        store(qubits, 2 * bit * w, ones)
        for k in range(1, 4):
            store(qubits, 2 * bit * w + k * w // 2, ones - ones)
    for row in range(len(starts)):
        bit, kind, slot = starts[row, 0], starts[row, 1], starts[row, 2]
        view = qubits[2 * bit * w : 2 * bit * w + 2 * w]
        one_qubit(view, kind, slot, trig, matrices, pair, root, scratch, False)


@inner
def one_qubit(view, kind, slot, trig, matrices, pair, root, scratch, inverse):
    """A gate, or its inverse, on a one-qubit state. `pair` is the identity order of two rows."""
    w = width(view)
    if kind == HADAMARD:
        hadamard(view, pair, 1, 0, root)
        return
    if kind == DENSE1:
        dense(view, pair, 1, 1, 0, NO_BIT, matrices, slot, inverse, scratch)
        return
    c, s = load(trig, slot * w), load(trig, slot * w + w // 2)
    s = -s if inverse else s
    if kind == RZ:
        _times(view, 0, c, -s)
        _times(view, w, c, s)
    else:
        rotate(view, pair, 1, kind, 0, NO_BIT, c, s)


@inner
def start_state(psi, n, qubits):
    """The product of the one-qubit states, by doubling."""
    w = width(psi)
    h = w // 2
    store(psi, 0, load(qubits, 0))
    store(psi, h, load(qubits, h))
    store(psi, w, load(qubits, w))
    store(psi, w + h, load(qubits, w + h))
    for bit in range(1, n):
        size = 1 << bit
        at = 2 * bit * w
        ar, ai, br, bi = load(qubits, at), load(qubits, at + h), load(qubits, at + w), load(qubits, at + w + h)
        for k in range(size):
            i, j = k * w, (k + size) * w
            r, m = load(psi, i), load(psi, i + h)
            store(psi, j, r * br - m * bi)
            store(psi, j + h, r * bi + m * br)
            store(psi, i, r * ar - m * ai)
            store(psi, i + h, r * ai + m * ar)


@inner
def step(psi, n, row, frames, slots, trig, matrices, low, high, ones, root, scratch):
    """One step of a program."""
    w = width(psi)
    kind, bit, other, first, last = row[0], row[1], row[2], row[3], row[4]
    rows = frames[row[5]]
    if kind == STAR:
        star_tables(low, high, n, slots, trig, first, last, ones)
        star(psi, rows, n, bit, low, high, 1)
    elif kind == RY2:
        c, s, d, t = (
            load(trig, first * w),
            load(trig, first * w + w // 2),
            load(trig, last * w),
            load(trig, last * w + w // 2),
        )
        real_pairs(psi, rows, n, bit, other, c, s, d, t)
    elif kind == HADAMARD:
        hadamard(psi, rows, n, bit, root)
    elif kind == RY or kind == RX or kind == RXX or kind == RYY or kind == CRY or kind == CRX:
        rotate(psi, rows, n, kind, bit, other, load(trig, first * w), load(trig, first * w + w // 2))
    else:
        dense(psi, rows, n, 1 if kind == DENSE1 else 2, bit, other, matrices, first, False, scratch)
