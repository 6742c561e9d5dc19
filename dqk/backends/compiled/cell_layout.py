"""How the compiled QK-LSTM cell sees a sequence: sizes, rows of time steps, which lanes of a panel have a sample."""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

from dqk.backends.compiled.cell_math import ahead, lanes_of
from dqk.backends.compiled.jit import inner


class Sizes(NamedTuple):
    """Sizes of a cell.

    Attributes:
        inputs: features D of x_t.
        hidden: features H of h_t.
        features: features F of the map; z has as many for each copy of W.
        copies: of W: 1, 4 (one for each gate), or 0 without projection, where z = [h; x].
        references: N for each gate.
        evaluations: states for each sample and time step: 1, or 4 if the gates need one each.
        blocks: times that the references are encoded: 1, or 4 if each evaluation sees them in its own way.
        block: references of a block.
        kernels: gates with kernel values of their own: 4, or 1 if all read the same.
        placed: 1 if W places the references, else 0.
        params: parameters of the feature map, for each copy of them.
        param_copies: 1, or 4 (one for each gate).
        readouts: gates of alpha: 1 or 4.
        units: hidden units of alpha: 1 or H.
        biased: 1 if there is a b_g, else 0.
        raw: vectors that the backward pass needs of each overlap.
        space: vectors for the states of a panel.
        reference: numbers of an encoded reference.
        d_reference: vectors for the cotangent of an encoded reference.
    """

    inputs: int
    hidden: int
    features: int
    copies: int
    references: int
    evaluations: int
    blocks: int
    block: int
    kernels: int
    placed: int
    params: int
    param_copies: int
    readouts: int
    units: int
    biased: int
    raw: int
    space: int
    reference: int
    d_reference: int


@inner
def sizes_from(n):
    """`Sizes` from an array of its numbers, in their order."""
    return Sizes(
        n[0],
        n[1],
        n[2],
        n[3],
        n[4],
        n[5],
        n[6],
        n[7],
        n[8],
        n[9],
        n[10],
        n[11],
        n[12],
        n[13],
        n[14],
        n[15],
        n[16],
        n[17],
        n[18],
    )


@inner
def z_rows(sizes):
    """Features of all copies of W."""
    return max(1, sizes.copies) * sizes.features


class Steps(NamedTuple):
    """The time steps of a batch.

    Attributes:
        n_steps: number of time steps T.
        batch: number of sequences B.
        packed: whether rows are packed; if not, all sequences reach all time steps.
        batch_sizes: number of sequences that reach each time step, never growing, if packed.
        offsets: number of packed rows before each time step.
        reverse: from the last time step to the first.
    """

    n_steps: int
    batch: int
    packed: bool
    batch_sizes: int
    offsets: int
    reverse: bool


class Rows(NamedTuple):
    """A quantity of all time steps and samples; features are contiguous.

    Attributes:
        values: the first one.
        step: elements from one time step to the next, if not packed.
        stride: elements from one sample to the next.
    """

    values: int
    step: int
    stride: int


@inner
def row_of(rows, steps, t, sample):
    """The features of a sample at time step t."""
    start = steps.offsets[t] * rows.stride if steps.packed else t * rows.step
    return ahead(rows.values, start + sample * rows.stride)


@inner
def active_lanes(steps, t, first, lanes):
    """Lanes with a sample that reaches time step t, in the panel whose first sample is `first`."""
    reached = steps.batch_sizes[t] if steps.packed else steps.batch
    return max(0, min(reached - first, lanes))


@inner
def panel_steps(steps, first):
    """Time steps that any sample of a panel reaches: the first ones."""
    if not steps.packed:
        return steps.n_steps
    count = 0
    while count < steps.n_steps and steps.batch_sizes[count] > first:
        count += 1
    return count


@inner
def read(source, stride, active, count, out):
    """Rows of samples into lanes; other lanes become 0. Returns 0, or NaN if not all numbers are finite."""
    lanes = lanes_of(out)
    check = 0.0
    for k in range(count):
        for lane in range(active):
            value = source[lane * stride + k]
            check += value * 0.0
            out[k * lanes + lane] = value
        for lane in range(active, lanes):
            out[k * lanes + lane] = 0.0
    return check


@inner
def write(vectors, active, count, out, stride):
    """Lanes into rows of samples."""
    lanes = lanes_of(vectors)
    for lane in range(active):
        for k in range(count):
            out[lane * stride + k] = vectors[k * lanes + lane]


@inner
def add_read(source, stride, active, count, out):
    """Adds rows of samples to lanes."""
    lanes = lanes_of(out)
    for k in range(count):
        for lane in range(active):
            out[k * lanes + lane] += source[lane * stride + k]


@inner
def mask(active, out):
    """One vector of ones in active lanes, and one of the opposite."""
    lanes = lanes_of(out)
    for lane in range(lanes):
        out[lane] = 1.0 if lane < active else 0.0
        out[lanes + lane] = 0.0 if lane < active else 1.0
