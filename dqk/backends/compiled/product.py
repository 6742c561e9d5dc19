"""Compiled entry points for product states: Bloch vectors, products of one-qubit fidelities, and their cotangents."""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from dqk.backends.compiled.jit import inner, jit
from dqk.backends.compiled.passes import aligned
from dqk.backends.compiled.simd import lanes_of, load, splat, store

MATRIX = 3  # in place of an axis: a constant rotation matrix
LOG_RUN = 8  # factors multiplied before a logarithm is taken: eight of 1e-16 do not underflow


@inner
def _angle(row, factor, angles, shared, sample):
    kind, column = row[2], row[3]
    if kind == 0:
        return factor
    return factor * (angles[sample, column] if kind == 1 else shared[column])


@jit
def encode_bloch(gates, factors, matrices, angles, shared, out):
    """Writes Bloch vectors.

    Args:
        gates: (G, 4) int64 rows: qubit, axis (0 x, 1 y, 2 z, 3 a matrix), kind of operand (0 constant, 1 data, 2 shared),
            column or number of the matrix.
        factors: (G,) the angle is factor * column, or the factor itself if constant.
        matrices: (K, 3, 3) constant rotations.
        angles: data angles, shape (N, A_d).
        shared: shared angles, shape (A_s,).
        out: shape (n, 3, N).
    """
    out[:, :2] = 0.0
    out[:, 2] = 1.0
    for g in range(len(gates)):
        vectors, axis = out[gates[g, 0]], gates[g, 1]
        if axis == MATRIX:
            m = matrices[gates[g, 3]]
            for s in range(out.shape[2]):
                x, y, z = vectors[0, s], vectors[1, s], vectors[2, s]
                for k in range(3):
                    vectors[k, s] = m[k, 0] * x + m[k, 1] * y + m[k, 2] * z
            continue
        u, v = vectors[(axis + 1) % 3], vectors[(axis + 2) % 3]
        for s in range(out.shape[2]):
            angle = _angle(gates[g], factors[g], angles, shared, s)
            cosine, sine = math.cos(angle), math.sin(angle)
            u[s], v[s] = cosine * u[s] - sine * v[s], sine * u[s] + cosine * v[s]


@jit
def sweep_bloch(gates, factors, matrices, angles, shared, state, cotangent, out_angles, out_shared):
    """Adds the cotangents of the angles; overwrites `state` and `cotangent`, both of shape (n, 3, N)."""
    for g in range(len(gates) - 1, -1, -1):
        qubit, axis, kind, column = gates[g]
        if axis == MATRIX:
            m = matrices[column]
            for vectors in (state[qubit], cotangent[qubit]):
                for s in range(state.shape[2]):
                    x, y, z = vectors[0, s], vectors[1, s], vectors[2, s]
                    for k in range(3):
                        vectors[k, s] = m[0, k] * x + m[1, k] * y + m[2, k] * z
            continue
        first, second = (axis + 1) % 3, (axis + 2) % 3
        u, v, du, dv = state[qubit, first], state[qubit, second], cotangent[qubit, first], cotangent[qubit, second]
        for s in range(state.shape[2]):
            angle = _angle(gates[g], factors[g], angles, shared, s)
            gradient = factors[g] * (dv[s] * u[s] - du[s] * v[s])
            if kind == 1:
                out_angles[s, column] += gradient
            elif kind == 2:
                out_shared[column] += gradient
            cosine, sine = math.cos(angle), math.sin(angle)
            u[s], v[s] = cosine * u[s] + sine * v[s], cosine * v[s] - sine * u[s]
            du[s], dv[s] = cosine * du[s] + sine * dv[s], cosine * dv[s] - sine * du[s]


@inner
def padded(b):
    """Columns padded with zeros to whole vectors, as one flat array per coordinate; and the padded count."""
    n, _, count = b.shape
    lanes = lanes_of(b)
    full = (count + lanes - 1) // lanes * lanes
    flat = aligned(b, n * 3 * full)
    if full > count:
        flat[:] = 0.0
    for q in range(n):
        for k in range(3):
            at = (3 * q + k) * full
            for j in range(count):
                flat[at + j] = b[q, k, j]
    return flat, full


@inner
def halves(a):
    """Coordinates of the rows times 1/2, one row after the other, and 1/2 and 1 at the end."""
    n, _, count = a.shape
    flat = np.empty(count * 3 * n + 2, a.dtype)
    for i in range(count):
        for q in range(n):
            for k in range(3):
                flat[(i * n + q) * 3 + k] = 0.5 * a[q, k, i]
    flat[count * 3 * n] = 0.5
    flat[count * 3 * n + 1] = 1.0
    return flat


@inner
def _factor(rows, columns, at_row, at, full, half):
    """(1 + r . r') / 2 for one row and one vector of columns."""
    value = half + splat(rows, at_row) * load(columns, at)
    value = value + splat(rows, at_row + 1) * load(columns, at + full)
    return value + splat(rows, at_row + 2) * load(columns, at + 2 * full)


@jit
def overlap_bloch(a, b, out):
    """`out[i, j] = prod_q (1 + a_qi . b_qj) / 2` for Bloch vectors of shape (n, 3, N) and (n, 3, M)."""
    n, _, count = a.shape
    columns, full = padded(b)
    rows = halves(a)
    lanes = lanes_of(a)
    half, one = splat(rows, len(rows) - 2), splat(rows, len(rows) - 1)
    line = aligned(a, 4 * lanes)
    for j in range(0, full, lanes):
        stop = min(lanes, b.shape[2] - j)
        for i in range(0, count, 4):
            # Four rows at a time share the loads of the columns; past the end the last row is repeated.
            i0, i1, i2, i3 = i, min(i + 1, count - 1), min(i + 2, count - 1), min(i + 3, count - 1)
            p0 = p1 = p2 = p3 = one
            for q in range(n):
                at = 3 * q * full + j
                p0 = p0 * _factor(rows, columns, (i0 * n + q) * 3, at, full, half)
                p1 = p1 * _factor(rows, columns, (i1 * n + q) * 3, at, full, half)
                p2 = p2 * _factor(rows, columns, (i2 * n + q) * 3, at, full, half)
                p3 = p3 * _factor(rows, columns, (i3 * n + q) * 3, at, full, half)
            store(line, 0, p0)
            store(line, lanes, p1)
            store(line, 2 * lanes, p2)
            store(line, 3 * lanes, p3)
            for k in range(min(4, count - i)):
                for lane in range(stop):
                    # Rounding can leave a factor of orthogonal states just below zero.
                    out[i + k, j + lane] = max(line[k * lanes + lane], 0.0)


@jit
def log_overlap_bloch(a, b, out):
    """The natural logarithm of `overlap_bloch`, without underflow."""
    n, _, count = a.shape
    for i in range(count):
        for j in range(b.shape[2]):
            total, product = 0.0, 1.0
            for q in range(n):
                dot = a[q, 0, i] * b[q, 0, j] + a[q, 1, i] * b[q, 1, j] + a[q, 2, i] * b[q, 2, j]
                product *= 0.5 + 0.5 * max(float(dot), -1.0)
                if q % LOG_RUN == LOG_RUN - 1:
                    total += math.log(product)
                    product = 1.0
            out[i, j] = total + math.log(product)


@jit
def overlap_bloch_vjp(a, b, cotangent, log, out_a, out_b):
    """Adds the cotangents of both Bloch vectors. `log`: the cotangent is that of log K."""
    n, _, count = a.shape
    columns, full = padded(b)
    rows = halves(a)
    lanes = lanes_of(a)
    half, one = splat(rows, len(rows) - 2), splat(rows, len(rows) - 1)
    sums_b = aligned(a, n * 3 * full)
    sums_b[:] = 0.0
    sums_a = aligned(a, n * 3 * lanes)
    factors, before, weight = aligned(a, n * lanes), aligned(a, n * lanes), aligned(a, lanes)
    for i in range(count):
        sums_a[:] = 0.0
        for j in range(0, full, lanes):
            for lane in range(lanes):
                weight[lane] = cotangent[i, j + lane] if j + lane < b.shape[2] else 0.0
            product = one
            for q in range(n):
                factor = _factor(rows, columns, (i * n + q) * 3, 3 * q * full + j, full, half)
                store(factors, q * lanes, factor)
                store(before, q * lanes, product)
                product = product * factor
            if log:
                for k in range(n * lanes):
                    # An entry that nobody asks for contributes nothing, also where K is zero.
                    before[k] = 1.0 / factors[k] if weight[k % lanes] != 0.0 else 0.0
            after = load(weight, 0)
            for q in range(n - 1, -1, -1):
                # dL/d(factor q), times 1/2 for the coordinates: `rows` already holds halves.
                other = after * load(before, q * lanes)
                if not log:
                    after = after * load(factors, q * lanes)
                for k in range(3):
                    at, to = (3 * q + k) * full + j, (3 * q + k) * lanes
                    store(sums_b, at, load(sums_b, at) + other * splat(rows, (i * n + q) * 3 + k))
                    store(sums_a, to, load(sums_a, to) + other * load(columns, at))
        for q in range(n):
            for k in range(3):
                total = 0.0
                for lane in range(lanes):
                    total += sums_a[(3 * q + k) * lanes + lane]
                out_a[q, k, i] += 0.5 * total
    for q in range(n):
        for k in range(3):
            for j in range(b.shape[2]):
                out_b[q, k, j] += sums_b[(3 * q + k) * full + j]
