"""Statevectors on vectors of samples: overlaps with references and their cotangents, in register tiles.

The functions are those that `cell_program` describes. Amplitudes keep the order in which the last step of the program leaves
them, which overlaps do not notice. References are numbers: real and imaginary part of each amplitude, reference by reference.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from dqk.backends.compiled import simd
from dqk.backends.compiled.adjoint import _start_gradients, _undo_start, _undo_step
from dqk.backends.compiled.cell_math import ahead, clear, copy, full, lanes_of, load, pointer_to, splat, store
from dqk.backends.compiled.jit import inner
from dqk.backends.compiled.passes import start_qubits, start_state, step


class States(NamedTuple):
    """A circuit as `program.Program` has it, by pointers.

    Attributes:
        qubits: number of qubits n.
        n_steps: number of steps.
        n_frames: number of frames.
        n_slots: number of slots.
        n_starts: number of gates of the product state.
        steps: see `Program`.
        frames: see `Program`.
        slots: see `Program`.
        starts: see `Program`.
        matrices: see `Program`.
        sources: the number of the angle of each slot.
        pair: the identity order of two rows.
    """

    qubits: int
    n_steps: int
    n_frames: int
    n_slots: int
    n_starts: int
    steps: int
    frames: int
    slots: int
    starts: int
    matrices: int
    sources: int
    pair: int


class Tables(NamedTuple):
    """The tables of `States` as the arrays that the passes of a single vector of samples take."""

    steps: np.ndarray
    frames: np.ndarray
    slots: np.ndarray
    starts: np.ndarray
    matrices: np.ndarray
    pair: np.ndarray


@inner
def states_of(circuit, like):
    """`States` from the number of qubits and the arrays of a program, the sources of its slots and the identity order."""
    qubits, steps, frames, slots, starts, matrices, sources, pair = circuit
    return States(
        qubits,
        len(steps),
        len(frames),
        len(slots),
        len(starts),
        pointer_to(steps, like),
        pointer_to(frames, like),
        pointer_to(slots, like),
        pointer_to(starts, like),
        pointer_to(matrices, like),
        pointer_to(sources, like),
        pointer_to(pair, like),
    )


@inner
def _tables(program):
    return Tables(
        numba.carray(program.steps, (program.n_steps, 6)),
        numba.carray(program.frames, (program.n_frames, 1 << program.qubits)),
        numba.carray(program.slots, (program.n_slots, 3)),
        numba.carray(program.starts, (program.n_starts, 3)),
        numba.carray(program.matrices, (1,)),  # read without bounds
        numba.carray(program.pair, (2,)),
    )


class Places(NamedTuple):
    """Where the states of a panel and what they need start, in vectors.

    Attributes:
        psi: amplitudes, real and imaginary parts.
        lam: their cotangents.
        qubits: one-qubit states that start the run.
        d_qubits: their cotangents.
        low: table of a star over the lower half of the bits.
        high: over the upper half.
        sums_low: sums over the lower half.
        sums_high: over the upper half.
        trig: cosines and sines of all slots.
        gradients: of all slots.
        scratch: for dense gates.
        across: amplitudes across lanes, see `_exchange`.
        weights: of references in the cotangents of states, two vectors for each.
    """

    psi: int
    lam: int
    qubits: int
    d_qubits: int
    low: int
    high: int
    sums_low: int
    sums_high: int
    trig: int
    gradients: int
    scratch: int
    across: int
    weights: int


@inner
def places(n, slots, lanes):
    """`Places` for n qubits and so many slots."""
    half, rest, size = 1 << (n // 2), 1 << (n - n // 2), 1 << n
    qubits = 4 * size
    low = qubits + 8 * n
    sums_low = low + 2 * half + 2 * rest
    trig = sums_low + half + rest
    scratch = trig + 3 * slots
    across = scratch + 8
    return Places(
        0,
        2 * size,
        qubits,
        qubits + 4 * n,
        low,
        low + 2 * half,
        sums_low,
        sums_low + half,
        trig,
        trig + 2 * slots,
        scratch,
        across,
        across + 2 * max(size, lanes),
    )


@inner
def _array(space, first, last):
    """Vectors `first` to before `last` as an array, which the passes of a single state take."""
    lanes = lanes_of(space)
    return numba.carray(ahead(space, first * lanes), ((last - first) * lanes,))


@inner
def _at(program, space):
    return places(program.qubits, program.n_slots, lanes_of(space))


@inner
def encode(program, space, trig):
    """By the program's steps."""
    n, lanes, at = program.qubits, lanes_of(space), _at(program, space)
    for slot in range(program.n_slots):
        copy(ahead(trig, 2 * program.sources[slot] * lanes), 2, ahead(space, (at.trig + 2 * slot) * lanes))
    psi, qubits = _array(space, at.psi, at.lam), _array(space, at.qubits, at.d_qubits)
    low, high = _array(space, at.low, at.high), _array(space, at.high, at.sums_low)
    own, scratch = _array(space, at.trig, at.gradients), _array(space, at.scratch, at.across)
    ones, root, t = full(space, 1.0), full(space, math.sqrt(0.5)), _tables(program)
    start_qubits(qubits, n, t.starts, own, t.matrices, t.pair, ones, root, scratch)
    start_state(psi, n, qubits)
    for s in range(program.n_steps):
        step(psi, n, t.steps[s], t.frames, t.slots, own, t.matrices, low, high, ones, root, scratch)


@inner
def encode_vjp(program, space, trig, d_angles):
    """By one adjoint sweep."""
    n, lanes, at = program.qubits, lanes_of(space), _at(program, space)
    psi, lam = _array(space, at.psi, at.lam), _array(space, at.lam, at.qubits)
    qubits, d_qubits = _array(space, at.qubits, at.d_qubits), _array(space, at.d_qubits, at.low)
    tables = (
        _array(space, at.low, at.high),
        _array(space, at.high, at.sums_low),
        _array(space, at.sums_low, at.sums_high),
        _array(space, at.sums_high, at.trig),
    )
    own, scratch = _array(space, at.trig, at.gradients), _array(space, at.scratch, at.across)
    gradients = _array(space, at.gradients, at.scratch)
    ones, root, t = full(space, 1.0), full(space, math.sqrt(0.5)), _tables(program)
    clear(ahead(space, at.gradients * lanes), program.n_slots)
    for s in range(program.n_steps - 1, -1, -1):
        _undo_step(psi, lam, n, t.steps[s], t.frames, t.slots, own, t.matrices, tables, gradients, ones, root, scratch)
    start_qubits(qubits, n, t.starts, own, t.matrices, t.pair, ones, root, scratch)
    _undo_start(psi, lam, n, qubits, d_qubits)
    _start_gradients(gradients, qubits, d_qubits, t.starts, own, t.matrices, t.pair, root, scratch)
    half = full(space, 0.5)  # what the sweep sums is twice the cotangent of an angle
    for slot in range(program.n_slots):
        to = program.sources[slot] * lanes
        found = load(ahead(space, at.gradients * lanes), slot * lanes)
        store(d_angles, to, load(d_angles, to) + half * found)


@inner
def keep(program, space, references, first, count):
    """As they are."""
    lanes, width = lanes_of(space), 2 << program.qubits
    for lane in range(count):
        for k in range(width):
            references[(first + lane) * width + k] = space[k * lanes + lane]


@inner
def overlap(program, space, references, first, count, raw):
    """Real and imaginary part of <r|psi>, four references at a time."""
    lanes, size = lanes_of(raw), 1 << program.qubits
    for j in range(0, count, 4):
        # Past the end the last reference is repeated.
        j1, j2, j3 = min(j + 1, count - 1), min(j + 2, count - 1), min(j + 3, count - 1)
        r0, r1 = ahead(references, (first + j) * 2 * size), ahead(references, (first + j1) * 2 * size)
        r2, r3 = ahead(references, (first + j2) * 2 * size), ahead(references, (first + j3) * 2 * size)
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = full(raw, 0.0)
        for k in range(0, 2 * size, 2):
            x, y = load(space, k * lanes), load(space, (k + 1) * lanes)
            u, v = splat(r0, k), splat(r0, k + 1)
            a0, b0 = a0 + u * x + v * y, b0 + u * y - v * x
            u, v = splat(r1, k), splat(r1, k + 1)
            a1, b1 = a1 + u * x + v * y, b1 + u * y - v * x
            u, v = splat(r2, k), splat(r2, k + 1)
            a2, b2 = a2 + u * x + v * y, b2 + u * y - v * x
            u, v = splat(r3, k), splat(r3, k + 1)
            a3, b3 = a3 + u * x + v * y, b3 + u * y - v * x
        for place, a, b in ((j3, a3, b3), (j2, a2, b2), (j1, a1, b1), (j, a0, b0)):
            store(raw, 2 * place * lanes, a)
            store(raw, (2 * place + 1) * lanes, b)


@inner
def kernel_values(program, raw, count, kernel):
    """Squared moduli."""
    lanes = lanes_of(raw)
    for j in range(count):
        a, b = load(raw, 2 * j * lanes), load(raw, (2 * j + 1) * lanes)
        store(kernel, j * lanes, a * a + b * b)


@inner
def _exchange(program, space, across):
    """Copies the states: vector `(2 * block + part) * lanes + lane` holds whole vectors of one sample's amplitudes."""
    lanes, size = lanes_of(space), 1 << program.qubits
    for block in range(max(1, size // lanes)):
        for part in range(2):
            to = ahead(across, (2 * block + part) * lanes * lanes)
            for k in range(lanes):
                row = block * lanes + k
                store(to, k * lanes, load(space, (2 * row + part) * lanes) if row < size else full(space, 0.0))
            simd.transpose(numba.carray(to, (lanes * lanes,)))


@inner
def _states_vjp(references, count, weights, size, lam):
    """`lam = sum_j w_j r_j`, four amplitudes at a time (two of a single qubit)."""
    lanes = lanes_of(lam)
    for k in range(0, 2 * size, 8):
        k1, k2, k3 = k + 2, min(k + 4, 2 * size - 2), min(k + 6, 2 * size - 2)
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = full(lam, 0.0)
        for j in range(count):
            x, y = load(weights, 2 * j * lanes), load(weights, (2 * j + 1) * lanes)
            r = ahead(references, j * 2 * size)
            u, v = splat(r, k), splat(r, k + 1)
            a0, b0 = a0 + u * x - v * y, b0 + v * x + u * y
            u, v = splat(r, k1), splat(r, k1 + 1)
            a1, b1 = a1 + u * x - v * y, b1 + v * x + u * y
            u, v = splat(r, k2), splat(r, k2 + 1)
            a2, b2 = a2 + u * x - v * y, b2 + v * x + u * y
            u, v = splat(r, k3), splat(r, k3 + 1)
            a3, b3 = a3 + u * x - v * y, b3 + v * x + u * y
        for place, a, b in ((k3, a3, b3), (k2, a2, b2), (k1, a1, b1), (k, a0, b0)):
            store(lam, place * lanes, a)
            store(lam, (place + 1) * lanes, b)


@inner
def _references_vjp(across, blocks, count, weights, d_references):
    """Adds `sum over samples of conj(w_j) psi`, two references and two parts of one vector of amplitudes at a time."""
    lanes = lanes_of(across)
    for block in range(blocks):
        re, im = ahead(across, 2 * block * lanes * lanes), ahead(across, (2 * block + 1) * lanes * lanes)
        for j in range(0, count, 2):
            other = min(j + 1, count - 1)
            to, beside = (j * blocks + block) * 2 * lanes, (other * blocks + block) * 2 * lanes
            w, z = ahead(weights, 2 * j * lanes), ahead(weights, 2 * other * lanes)
            a0, b0 = load(d_references, to), load(d_references, to + lanes)
            a1, b1 = load(d_references, beside), load(d_references, beside + lanes)
            for lane in range(lanes):
                x, y = load(re, lane * lanes), load(im, lane * lanes)
                u, v = splat(w, lane), splat(w, lanes + lane)
                a0, b0 = a0 + u * x + v * y, b0 + u * y - v * x
                u, v = splat(z, lane), splat(z, lanes + lane)
                a1, b1 = a1 + u * x + v * y, b1 + u * y - v * x
            store(d_references, beside, a1)
            store(d_references, beside + lanes, b1)
            store(d_references, to, a0)
            store(d_references, to + lanes, b0)


@inner
def overlap_vjp(program, space, references, first, count, raw, d_kernel, d_references):
    """By weights `w_j = 2 dK_j <r_j|psi>`."""
    lanes, size, at = lanes_of(space), 1 << program.qubits, _at(program, space)
    weights, across = ahead(space, at.weights * lanes), ahead(space, at.across * lanes)
    for j in range(count):
        twice = load(d_kernel, j * lanes) + load(d_kernel, j * lanes)
        store(weights, 2 * j * lanes, twice * load(raw, 2 * j * lanes))
        store(weights, (2 * j + 1) * lanes, twice * load(raw, (2 * j + 1) * lanes))
    _states_vjp(ahead(references, first * 2 * size), count, weights, size, ahead(space, at.lam * lanes))
    _exchange(program, space, across)
    blocks = max(1, size // lanes)
    _references_vjp(across, blocks, count, weights, ahead(d_references, first * blocks * 2 * lanes))


@inner
def read_cotangent(program, space, d_references, first, count):
    """Takes vectors of amplitudes apart again."""
    lanes, size, at = lanes_of(space), 1 << program.qubits, _at(program, space)
    lam, blocks = ahead(space, at.lam * lanes), max(1, size // lanes)
    clear(lam, 2 * size)
    for lane in range(count):
        for k in range(size):
            found = ((first + lane) * blocks + k // lanes) * 2 * lanes + k % lanes
            lam[2 * k * lanes + lane] = d_references[found]
            lam[(2 * k + 1) * lanes + lane] = d_references[found + lanes]
