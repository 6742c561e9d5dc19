"""Compiled entry point: states of many samples."""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from dqk.backends.compiled.jit import inner, jit
from dqk.backends.compiled.passes import aligned, fill_trig, start_qubits, start_state, step
from dqk.backends.compiled.simd import lanes_of, load, store, transpose


@inner
def constants(like):
    """Vectors of 1 and of sqrt(1/2), in an array."""
    lanes = lanes_of(like)
    values = aligned(like, 2 * lanes)
    values[:lanes] = 1.0
    values[lanes:] = math.sqrt(0.5)
    return values


@inner
def workspace(like, size, n_slots):
    """What `simulate` works on: the state, two tables, the one-qubit states, cosines and sines, a scratch and constants."""
    lanes = lanes_of(like)
    w = 2 * lanes
    n = int(round(math.log2(size)))
    return (
        aligned(like, size * w),
        aligned(like, (1 << (n // 2)) * w),
        aligned(like, (1 << (n - n // 2)) * w),
        aligned(like, 2 * n * w),
        aligned(like, max(1, n_slots) * w),
        aligned(like, 4 * w),
        constants(like),
        np.arange(2).astype(np.int32),
    )


@inner
def simulate(space, steps, frames, slots, factors, starts, matrices, angles, shared, start):
    """Runs the program on samples start, start + 1, ...; the states are in `space[0]`, in the order of the last frame."""
    psi, low, high, qubits, trig, scratch, units, pair = space
    lanes = lanes_of(psi)
    n = len(qubits) // (4 * lanes)
    ones, root = load(units, 0), load(units, lanes)
    fill_trig(trig, slots, factors, angles, shared, start, lanes)
    start_qubits(qubits, n, starts, trig, matrices, pair, ones, root, scratch)
    start_state(psi, n, qubits)
    for s in range(len(steps)):
        step(psi, n, steps[s], frames, slots, trig, matrices, low, high, ones, root, scratch)


@inner
def _write(psi, rows, out, start, square):
    """One vector of samples to `out`, a square of amplitudes and samples at a time so that whole cache lines are written."""
    planes, count, stride = out.shape
    size, lanes = len(rows), lanes_of(out)
    flat = out.reshape(-1)
    for plane in range(planes):
        for first in range(0, size, lanes):
            for k in range(min(lanes, size)):
                at = rows[first + k] * 2 * lanes
                re, im = load(psi, at), load(psi, at + lanes)
                store(square, k * lanes, re if plane == 0 else im if plane == 1 else re + im if plane == 2 else re - im)
            transpose(square)
            for lane in range(min(lanes, count - start)):
                at = (plane * count + start + lane) * stride + first
                if size >= lanes:
                    store(flat, at, load(square, lane * lanes))
                else:
                    for k in range(size):
                        flat[at + k] = square[lane * lanes + k]


@jit
def encode_states(steps, frames, slots, factors, starts, matrices, angles, shared, out, first, last):
    """Writes the states of the samples from `first`, a multiple of 16, to before `last`.

    Args:
        steps: and the five arrays that follow, see `Program`.
        frames: see `Program`.
        slots: see `Program`.
        factors: see `Program`.
        starts: see `Program`.
        matrices: see `Program`, in the dtype of the states.
        angles: data angles, shape (N, A_d).
        shared: shared angles, shape (A_s,).
        out: shape (P, N, 2**n or more): planes of real and imaginary parts; with P = 4 also their sum and difference.
        first: first sample.
        last: one past the last sample; may lie beyond the end.
    """
    lanes = lanes_of(out)
    space = workspace(out, frames.shape[1], len(factors))
    square = aligned(out, lanes * lanes)
    for start in range(first, min(last, out.shape[1]), lanes):
        simulate(space, steps, frames, slots, factors, starts, matrices, angles, shared, start)
        _write(space[0], frames[len(frames) - 1], out, start, square)
