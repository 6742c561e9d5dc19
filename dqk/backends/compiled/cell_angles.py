"""Declared angles on vectors of samples: from features and parameters to cosines and sines, and their cotangents."""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dqk.backends.compiled.cell_math import ahead, lanes_of, load, splat, store
from dqk.backends.compiled.jit import inner

NONE = -1


class Angles(NamedTuple):
    """Distinct angles `(offset0 + slope0 * z[f0]) * (offset1 + slope1 * z[f1]) * params[w]` of a circuit.

    Attributes:
        n_angles: number of them, A.
        sources: (A, 3) int64 rows f0, f1, w; -1 for a factor that there is not (of the first one its offset remains).
        numbers: four for each angle: offset0, slope0, offset1, slope1.
    """

    n_angles: int
    sources: np.ndarray
    numbers: np.ndarray


@inner
def _factor(numbers, feature, z):
    """An affine factor of an angle."""
    value = splat(numbers, 0)
    if feature != NONE:
        value = value + splat(numbers, 1) * load(z, feature * lanes_of(z))
    return value


@inner
def evaluate(angles, z, params, active, part, trig):
    """Cosine and sine of `part` times every angle, two vectors each; lanes from `active` on get angle 0.

    Args:
        angles: see `Angles`.
        z: vectors of features.
        params: parameters of the feature map.
        active: number of lanes with a sample.
        part: 1, or 1/2 for what acts on amplitudes.
        trig: for each angle a vector of cosines and one of sines.
    """
    lanes = lanes_of(z)
    for a in range(angles.n_angles):
        one, other, weight = angles.sources[3 * a], angles.sources[3 * a + 1], angles.sources[3 * a + 2]
        value = _factor(ahead(angles.numbers, 4 * a), one, z)
        if other != NONE:
            value = value * _factor(ahead(angles.numbers, 4 * a + 2), other, z)
        if weight != NONE:
            value = value * splat(params, weight)
        at = 2 * a * lanes
        store(trig, at, value)
        for lane in range(active):
            angle = part * trig[at + lane]
            trig[at + lane] = math.cos(angle)
            trig[at + lanes + lane] = math.sin(angle)
        for lane in range(active, lanes):
            trig[at + lane] = 1.0
            trig[at + lanes + lane] = 0.0


@inner
def evaluate_vjp(angles, z, params, d_angles, d_z, d_params):
    """Adds the cotangents of features, `d_z`, and lane by lane those of parameters, `d_params`."""
    lanes = lanes_of(z)
    for a in range(angles.n_angles):
        one, other, weight = angles.sources[3 * a], angles.sources[3 * a + 1], angles.sources[3 * a + 2]
        cotangent, numbers = load(d_angles, a * lanes), ahead(angles.numbers, 4 * a)
        first, second = _factor(numbers, one, z), _factor(ahead(numbers, 2), other, z)
        if weight != NONE:
            store(d_params, weight * lanes, load(d_params, weight * lanes) + cotangent * first * second)
            cotangent = cotangent * splat(params, weight)
        if one != NONE:
            at = one * lanes
            store(d_z, at, load(d_z, at) + cotangent * splat(numbers, 1) * second)
        if other != NONE:
            at = other * lanes
            store(d_z, at, load(d_z, at) + cotangent * splat(numbers, 3) * first)
