"""Compiled entry points: tensors of matrix-product states from angles, and cotangents of the angles from those of the tensors.

A few samples at a time, next to each other, go through the steps of a `dqk.backends.chain.Program`.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from dqk.backends.compiled.jit import inner, jit


@inner
def _factor(step, scale, coefficients, angles, shared, first, table, trig):
    """The entries of a step's factor for the samples from `first` on: `table` (entries, 2, width), cosines in `trig`."""
    width = table.shape[2]
    kind, column = step[5], step[6]
    if kind:
        for s in range(width):
            value = angles[min(first + s, len(angles) - 1), column] if kind == 1 else shared[column]
            trig[0, s], trig[1, s] = math.cos(scale * value), math.sin(scale * value)
    for e in range(step[4]):
        row = coefficients[step[3] + e]
        for part in range(2):
            still, cosine, sine = row[part], row[2 + part], row[4 + part]
            if kind:
                for s in range(width):
                    table[e, part, s] = still + cosine * trig[0, s] + sine * trig[1, s]
            else:
                table[e, part] = still


@inner
def _apply(step, products, table, source, target):
    """One step: `target[o] = sum of source[i] * table[f]`; arrays of shape (entries, 2, width)."""
    width, at = table.shape[2], step[2]
    for o in range(step[0]):
        re, im = target[o, 0], target[o, 1]
        for k in range(step[1]):
            x, y = source[products[at, 0]], table[products[at, 1]]
            xr, xi, yr, yi = x[0], x[1], y[0], y[1]
            if k == 0:
                for s in range(width):
                    re[s], im[s] = xr[s] * yr[s] - xi[s] * yi[s], xr[s] * yi[s] + xi[s] * yr[s]
            else:
                for s in range(width):
                    re[s] += xr[s] * yr[s] - xi[s] * yi[s]
                    im[s] += xr[s] * yi[s] + xi[s] * yr[s]
            at += 1


@inner
def _sizes(steps, sites):
    """Most entries of a factor, of a step, and of all steps of a site, with one for its start."""
    most, largest, all_of_a_site = 1, 1, 1
    for row in steps:
        most, largest = max(most, row[4]), max(largest, row[0])
    for site in sites:
        total = 1
        for s in range(site[0], site[1]):
            total += steps[s, 0]
        all_of_a_site = max(all_of_a_site, total)
    return most, largest, all_of_a_site


@jit
def encode_chain(steps, sites, products, coefficients, scales, angles, shared, first, width, out):
    """Writes the tensors of `width` samples from `first` on, fewer at the end.

    Args:
        steps: and the four arrays that follow, see `Program`; coefficients and scales in the dtype of the samples.
        sites: see `Program`.
        products: see `Program`.
        coefficients: see `Program`.
        scales: see `Program`.
        angles: data angles, shape (N, A_d).
        shared: shared angles, shape (A_s,).
        first: first sample.
        width: number of samples at a time.
        out: shape (V, N).
    """
    most, largest, _ = _sizes(steps, sites)
    table, trig = np.empty((most, 2, width), out.dtype), np.empty((2, width), out.dtype)
    here, there = np.empty((largest, 2, width), out.dtype), np.empty((largest, 2, width), out.dtype)
    count = min(width, out.shape[1] - first)
    for t in range(len(sites)):
        here[0, 0], here[0, 1] = 1.0, 0.0
        for s in range(sites[t, 0], sites[t, 1]):
            _factor(steps[s], scales[s], coefficients, angles, shared, first, table, trig)
            _apply(steps[s], products, table, here, there)
            here, there = there, here
        at = sites[t, 2]
        for e in range(steps[sites[t, 1] - 1, 0]):
            for part in range(2):
                for k in range(count):
                    out[at + 2 * e + part, first + k] = here[e, part, k]


@jit
def encode_chain_vjp(
    steps, sites, products, coefficients, scales, angles, shared, cotangent, first, width, out_angles, out_shared
):
    """Adds cotangents of the angles of `width` samples from `first` on, from those of their tensors, shape (V, N)."""
    most, largest, everything = _sizes(steps, sites)
    count = min(width, cotangent.shape[1] - first)
    dtype = cotangent.dtype
    table, slopes = np.empty((most, 2, width), dtype), np.empty((most, 2, width), dtype)
    trig, total = np.empty((2, width), dtype), np.empty(width, dtype)
    kept = np.empty((everything, 2, width), dtype)
    here, before = np.zeros((largest, 2, width), dtype), np.zeros((largest, 2, width), dtype)
    for t in range(len(sites)):
        start, stop = sites[t, 0], sites[t, 1]
        kept[0, 0], kept[0, 1] = 1.0, 0.0
        at, size = 0, 1
        for s in range(start, stop):
            _factor(steps[s], scales[s], coefficients, angles, shared, first, table, trig)
            _apply(steps[s], products, table, kept[at : at + size], kept[at + size :])
            at, size = at + size, steps[s, 0]
        for e in range(size):
            for part in range(2):
                for k in range(width):
                    inside = k < count
                    here[e, part, k] = cotangent[sites[t, 2] + 2 * e + part, first + k] if inside else 0.0
        for s in range(stop - 1, start - 1, -1):
            size = steps[s - 1, 0] if s > start else 1
            at -= size
            _factor(steps[s], scales[s], coefficients, angles, shared, first, table, trig)
            before[:size] = 0.0
            slopes[: steps[s, 4]] = 0.0
            _reverse(steps[s], products, table, kept[at : at + size], here, before, slopes)
            if steps[s, 5]:
                _slope(steps[s], scales[s], coefficients, trig, slopes, total)
                for k in range(count):
                    if steps[s, 5] == 1:
                        out_angles[first + k, steps[s, 6]] += total[k]
                    else:
                        out_shared[steps[s, 6]] += total[k]
            here, before = before, here


@inner
def _reverse(step, products, table, source, cotangent, before, slopes):
    """Adds the cotangents of a step's source and factor."""
    width, at = table.shape[2], step[2]
    for o in range(step[0]):
        gr, gi = cotangent[o, 0], cotangent[o, 1]
        for _ in range(step[1]):
            i, f = products[at]
            xr, xi, yr, yi = source[i, 0], source[i, 1], table[f, 0], table[f, 1]
            dr, di, er, ei = before[i, 0], before[i, 1], slopes[f, 0], slopes[f, 1]
            for s in range(width):
                dr[s] += gr[s] * yr[s] + gi[s] * yi[s]
                di[s] += gi[s] * yr[s] - gr[s] * yi[s]
            if step[5]:
                for s in range(width):
                    er[s] += gr[s] * xr[s] + gi[s] * xi[s]
                    ei[s] += gi[s] * xr[s] - gr[s] * xi[s]
            at += 1


@inner
def _slope(step, scale, coefficients, trig, slopes, total):
    """The derivative by the angle: by cosine and sine of every entry of the factor."""
    total[:] = 0.0
    for e in range(step[4]):
        row = coefficients[step[3] + e]
        for part in range(2):
            for s in range(len(total)):
                total[s] += scale * slopes[e, part, s] * (row[4 + part] * trig[0, s] - row[2 + part] * trig[1, s])
