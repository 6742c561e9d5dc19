"""Compiled entry point: states of many samples."""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from dqk.backends.compiled.jit import inner, jit
from dqk.backends.compiled.passes import aligned, fill_trig, start_qubits, start_state, step
from dqk.backends.compiled.simd import load, store


@inner
def constants(like):
    """Vectors of 1 and of sqrt(1/2), in an array."""
    lanes = 64 // like.itemsize
    values = aligned(like, 2 * lanes)
    values[:lanes] = 1.0
    values[lanes:] = math.sqrt(0.5)
    return values


@jit
def encode_states(steps, frames, slots, factors, starts, matrices, angles, shared, out):
    """Writes the states of all samples.

    Args:
        steps: and the five arrays that follow, see `Program`.
        frames: see `Program`.
        slots: see `Program`.
        factors: see `Program`.
        starts: see `Program`.
        matrices: see `Program`, in the dtype of the states.
        angles: data angles, shape (N, A_d).
        shared: shared angles, shape (A_s,).
        out: shape (2**n, P, N): planes of real and imaginary parts; with P = 4 also their sum and difference.
    """
    size, planes, count = out.shape
    n = int(round(math.log2(size)))
    lanes = 64 // out.itemsize
    w = 2 * lanes
    psi, scratch, qubits = aligned(out, size * w), aligned(out, 4 * w), aligned(out, 2 * n * w)
    low, high = aligned(out, (1 << (n // 2)) * w), aligned(out, (1 << (n - n // 2)) * w)
    trig = aligned(out, max(1, len(factors)) * w)
    units = constants(out)
    ones, root = load(units, 0), load(units, lanes)
    pair = np.arange(2).astype(np.int32)
    flat = out.reshape(-1)
    for start in range(0, count, lanes):
        fill_trig(trig, slots, factors, angles, shared, start, lanes)
        start_qubits(qubits, n, starts, trig, matrices, pair, ones, root, scratch)
        start_state(psi, n, qubits)
        for s in range(len(steps)):
            step(psi, n, steps[s], frames, slots, trig, matrices, low, high, ones, root, scratch)
        rows = frames[len(frames) - 1]
        if start + lanes <= count:
            for k in range(size):
                re, im = load(psi, rows[k] * w), load(psi, rows[k] * w + lanes)
                at = k * planes * count + start
                store(flat, at, re)
                store(flat, at + count, im)
                if planes == 4:
                    store(flat, at + 2 * count, re + im)
                    store(flat, at + 3 * count, re - im)
            continue
        for k in range(size):
            for lane in range(count - start):
                re, im = psi[rows[k] * w + lane], psi[rows[k] * w + lanes + lane]
                out[k, 0, start + lane] = re
                out[k, 1, start + lane] = im
                if planes == 4:
                    out[k, 2, start + lane] = re + im
                    out[k, 3, start + lane] = re - im
