"""Product states on vectors of samples: Bloch vectors, overlaps with references, and their cotangents.

The functions are those that `cell_program` describes. One qubit's Bloch vector is three vectors, x, y and z. References are
numbers: half of each coordinate, reference by reference, so that a factor of the kernel is `1/2 + half . r`.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

from dqk.backends.compiled.cell_math import (
    ahead,
    clear,
    copy,
    full,
    lane_sum,
    lanes_of,
    load,
    positive,
    splat,
    store,
)
from dqk.backends.compiled.jit import inner
from dqk.backends.compiled.product import MATRIX


class Product(NamedTuple):
    """A circuit without two-qubit gates as rotations of Bloch vectors.

    Attributes:
        qubits: number of qubits n.
        n_gates: number of gates G.
        gates: (G, 3) int64 rows: qubit, axis (0 x, 1 y, 2 z, 3 a matrix), number of the angle or of the matrix.
        matrices: constant rotations, nine numbers each.
    """

    qubits: int
    n_gates: int
    gates: int
    matrices: int


class Bloch(NamedTuple):
    """A panel's Bloch vectors, their cotangents, and the factors of one kernel value with the products before them."""

    state: int
    cotangent: int
    factors: int
    before: int


SPACE = 8
"""Vectors of `Bloch` for each qubit."""


@inner
def _bloch(program, space):
    size = program.qubits * lanes_of(space)
    return Bloch(space, ahead(space, 3 * size), ahead(space, 6 * size), ahead(space, 7 * size))


@inner
def _gate(program, g):
    return program.gates[3 * g], program.gates[3 * g + 1], program.gates[3 * g + 2]


@inner
def _multiply(program, number, vectors, at, transposed):
    """A constant rotation, or its inverse, of the Bloch vector at element `at`."""
    lanes = lanes_of(vectors)
    x, y, z = load(vectors, at), load(vectors, at + lanes), load(vectors, at + 2 * lanes)
    for k in range(3):
        first, step = (9 * number + k, 3) if transposed else (9 * number + 3 * k, 1)
        m = program.matrices
        value = splat(m, first) * x + splat(m, first + step) * y + splat(m, first + 2 * step) * z
        store(vectors, at + k * lanes, value)


@inner
def _rotate(vectors, u, v, c, s):
    x, y = load(vectors, u), load(vectors, v)
    store(vectors, u, c * x - s * y)
    store(vectors, v, s * x + c * y)


@inner
def encode(program, space, trig):
    """Bloch vectors from the cosines and sines of all angles."""
    lanes, state = lanes_of(trig), _bloch(program, space).state
    for q in range(program.qubits):
        store(state, 3 * q * lanes, full(trig, 0.0))
        store(state, (3 * q + 1) * lanes, full(trig, 0.0))
        store(state, (3 * q + 2) * lanes, full(trig, 1.0))
    for g in range(program.n_gates):
        qubit, axis, number = _gate(program, g)
        at = 3 * qubit * lanes
        if axis == MATRIX:
            _multiply(program, number, state, at, False)
            continue
        c, s = load(trig, 2 * number * lanes), load(trig, (2 * number + 1) * lanes)
        _rotate(state, at + (axis + 1) % 3 * lanes, at + (axis + 2) % 3 * lanes, c, s)


@inner
def encode_vjp(program, space, trig, d_angles):
    """Adds the cotangents of all angles; takes the gates back in the states and their cotangents."""
    lanes, own = lanes_of(trig), _bloch(program, space)
    state, cotangent = own.state, own.cotangent
    for g in range(program.n_gates - 1, -1, -1):
        qubit, axis, number = _gate(program, g)
        at = 3 * qubit * lanes
        if axis == MATRIX:
            _multiply(program, number, state, at, True)
            _multiply(program, number, cotangent, at, True)
            continue
        u, v = at + (axis + 1) % 3 * lanes, at + (axis + 2) % 3 * lanes
        gradient = load(cotangent, v) * load(state, u) - load(cotangent, u) * load(state, v)
        store(d_angles, number * lanes, load(d_angles, number * lanes) + gradient)
        c, s = load(trig, 2 * number * lanes), load(trig, (2 * number + 1) * lanes)
        _rotate(state, u, v, c, -s)
        _rotate(cotangent, u, v, c, -s)


@inner
def keep(program, space, references, first, count):
    """Writes the first `count` samples of a panel as references `first`, `first + 1`, ..."""
    lanes, width, state = lanes_of(references), 3 * program.qubits, _bloch(program, space).state
    for lane in range(count):
        for k in range(width):
            references[(first + lane) * width + k] = 0.5 * state[k * lanes + lane]


@inner
def _factor(references, at, state, q, lanes):
    value = full(state, 0.5) + splat(references, at + 3 * q) * load(state, 3 * q * lanes)
    value = value + splat(references, at + 3 * q + 1) * load(state, (3 * q + 1) * lanes)
    return value + splat(references, at + 3 * q + 2) * load(state, (3 * q + 2) * lanes)


@inner
def overlap(program, space, references, first, count, raw):
    """Kernel values, one vector each."""
    n, lanes, state = program.qubits, lanes_of(raw), _bloch(program, space).state
    for j in range(0, count, 4):
        # Four references at a time share the loads; past the end the last one is repeated.
        j1, j2, j3 = min(j + 1, count - 1), min(j + 2, count - 1), min(j + 3, count - 1)
        r0, r1, r2, r3 = (first + j) * 3 * n, (first + j1) * 3 * n, (first + j2) * 3 * n, (first + j3) * 3 * n
        p0 = p1 = p2 = p3 = full(raw, 1.0)
        for q in range(n):
            p0 = p0 * _factor(references, r0, state, q, lanes)
            p1 = p1 * _factor(references, r1, state, q, lanes)
            p2 = p2 * _factor(references, r2, state, q, lanes)
            p3 = p3 * _factor(references, r3, state, q, lanes)
        # Rounding can leave a factor of orthogonal states just below zero.
        store(raw, j3 * lanes, positive(p3))
        store(raw, j2 * lanes, positive(p2))
        store(raw, j1 * lanes, positive(p1))
        store(raw, j * lanes, positive(p0))


@inner
def kernel_values(program, raw, count, kernel):
    """What `overlap` gave."""
    copy(raw, count, kernel)


@inner
def overlap_vjp(program, space, references, first, count, raw, d_kernel, d_references):
    """By products of the factors before and after each one; of references lane by lane."""
    n, lanes, own = program.qubits, lanes_of(d_kernel), _bloch(program, space)
    state, cotangent = own.state, own.cotangent
    clear(cotangent, 3 * n)
    for j in range(count):
        row = (first + j) * 3 * n
        before = load(d_kernel, j * lanes)
        for q in range(n):
            factor = _factor(references, row, state, q, lanes)
            store(own.factors, q * lanes, factor)
            store(own.before, q * lanes, before)
            before = before * factor
        after = full(d_kernel, 1.0)
        for q in range(n - 1, -1, -1):
            other = after * load(own.before, q * lanes)
            after = after * load(own.factors, q * lanes)
            for k in range(3 * q, 3 * q + 3):
                to = k * lanes
                store(cotangent, to, load(cotangent, to) + other * splat(references, row + k))
                to = (row + k) * lanes
                store(d_references, to, load(d_references, to) + other * load(state, k * lanes))


@inner
def read_cotangent(program, space, d_references, first, count):
    """The cotangents of `keep`: sums over lanes of `d_references`."""
    lanes, width, cotangent = lanes_of(d_references), 3 * program.qubits, _bloch(program, space).cotangent
    clear(cotangent, width)
    for lane in range(count):
        for k in range(width):
            cotangent[k * lanes + lane] = 0.5 * lane_sum(d_references, ((first + lane) * width + k) * lanes)
