"""The compiled QK-LSTM cell, forward: all time steps of one panel of samples after another.

What the backward pass needs is *recorded*: for each panel the initial h and c, then for each time step the activations of the
gates, the features z, what `overlap` wrote, and the new h and c, so that the old h and c lie just before each step's record.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

from dqk.backends.compiled.cell_angles import Angles, evaluate
from dqk.backends.compiled.cell_layout import Sizes, active_lanes, mask, panel_steps, read, row_of, write, z_rows
from dqk.backends.compiled.cell_math import ahead, copy, lanes_of, product, within
from dqk.backends.compiled.cell_program import encode, keep, kernel_values, overlap
from dqk.backends.compiled.cell_readout import expand_readout, update
from dqk.backends.compiled.jit import inner


class Weights(NamedTuple):
    """Pointers to the parameters of a cell; null for one that there is not.

    Attributes:
        projection: W, shape (copies * F, H + D).
        offset: b, shape (copies * F,).
        references: shape (block, F), or (block, H + D) if W places them.
        params: of the feature map, shape (param_copies, params).
        alpha: shape (readouts, N, units).
        bias: b_g, shape (readouts, units).
    """

    projection: int
    offset: int
    references: int
    params: int
    alpha: int
    bias: int


class Cell(NamedTuple):
    """A cell that is ready to run: what stays the same over all time steps, and room for one of them.

    Attributes:
        sizes: see `Sizes`.
        program: the circuit.
        angles: see `Angles`.
        weights: see `Weights`.
        part: what multiplies angles: 1, or 1/2 for circuits that act on amplitudes.
        alpha: the readout unit by unit, see `cell_readout`.
        bias: likewise.
        references: encoded references.
        space: the states of a panel.
        trig: cosines and sines of all angles.
        v: h, then x.
        kernel: kernel values.
        masks: see `mask`.
        z: features of references.
    """

    sizes: Sizes
    program: NamedTuple
    angles: Angles
    weights: Weights
    part: float
    alpha: int
    bias: int
    references: int
    space: int
    trig: int
    v: int
    kernel: int
    masks: int
    z: int


@inner
def whole_vectors(numbers, lanes):
    """Elements of as many vectors as so many numbers need."""
    return (numbers + lanes - 1) // lanes * lanes


@inner
def cell_places(sizes, n_angles, lanes):
    """Where everything of a cell starts in its workspace, in elements, in the order of `Cell`; last the end."""
    alpha = 0
    bias = alpha + whole_vectors(4 * sizes.hidden * sizes.references, lanes)
    references = bias + whole_vectors(4 * sizes.hidden, lanes)
    space = references + whole_vectors(sizes.blocks * sizes.block * sizes.reference, lanes)
    trig = space + sizes.space * lanes
    v = trig + 2 * n_angles * lanes
    kernel = v + (sizes.hidden + sizes.inputs) * lanes
    masks = kernel + sizes.kernels * sizes.references * lanes
    z = masks + 2 * lanes
    return alpha, bias, references, space, trig, v, kernel, masks, z, z + sizes.features * lanes


@within
def new_cell(sizes, program, angles, weights, part, scale, work):
    """Lays out the readout and encodes the references."""
    lanes = lanes_of(work)
    at = cell_places(sizes, angles.n_angles, lanes)
    cell = Cell(
        sizes,
        program,
        angles,
        weights,
        part,
        ahead(work, at[0]),
        ahead(work, at[1]),
        ahead(work, at[2]),
        ahead(work, at[3]),
        ahead(work, at[4]),
        ahead(work, at[5]),
        ahead(work, at[6]),
        ahead(work, at[7]),
        ahead(work, at[8]),
    )
    expand_readout(sizes, scale, weights.alpha, weights.bias, cell.alpha, cell.bias)
    for block in range(sizes.blocks):
        for first in range(0, sizes.block, lanes):
            count = min(lanes, sizes.block - first)
            place_references(cell, block, first, count)
            keep(program, cell.space, cell.references, block * sizes.block + first, count)
    return cell


@inner
def place_references(cell, block, first, count):
    """States of references `first` to before `first + count` of a block; `cell.z`, and `cell.v` if W places them."""
    sizes, weights = cell.sizes, cell.weights
    if sizes.placed:
        width, row = sizes.hidden + sizes.inputs, features_of(sizes, block)
        read(ahead(weights.references, first * width), width, count, width, cell.v)
        matrix, offset = ahead(weights.projection, row * width), ahead(weights.offset, row)
        product(matrix, offset, cell.v, width, sizes.features, cell.z)
    else:
        read(ahead(weights.references, first * sizes.features), sizes.features, count, sizes.features, cell.z)
    evaluate(cell.angles, cell.z, params_of(cell, block), count, cell.part, cell.trig)
    encode(cell.program, cell.space, cell.trig)


@inner
def params_of(cell, evaluation):
    """The parameters of an evaluation."""
    return ahead(cell.weights.params, evaluation * cell.sizes.params if cell.sizes.param_copies == 4 else 0)


@inner
def features_of(sizes, evaluation):
    """Where the features of an evaluation start among those of all copies of W."""
    return evaluation * sizes.features if sizes.copies == 4 else 0


class Record(NamedTuple):
    """Vectors of one time step: before it h and c, activations f, i, o, g of each unit, z, overlaps, then h and c after it."""

    before: int
    gates: int
    z: int
    raw: int
    after: int


@inner
def record_size(sizes):
    """Vectors of one time step's record."""
    return 6 * sizes.hidden + z_rows(sizes) + sizes.kernels * sizes.references * sizes.raw


@inner
def record_of(sizes, records, k):
    """The record of the k-th time step that runs."""
    lanes = lanes_of(records)
    before = ahead(records, k * record_size(sizes) * lanes)
    gates = ahead(before, 2 * sizes.hidden * lanes)
    z = ahead(gates, 4 * sizes.hidden * lanes)
    raw = ahead(z, z_rows(sizes) * lanes)
    return Record(before, gates, z, raw, ahead(raw, sizes.kernels * sizes.references * sizes.raw * lanes))


@inner
def evaluation_of(sizes, e):
    """Kernel values that an evaluation gives, the first of them, and the first reference."""
    count = sizes.kernels * sizes.references // sizes.evaluations
    return count, e * count, e * sizes.block if sizes.blocks == 4 else 0


@inner
def encode_evaluation(cell, z, evaluation, active):
    """States of one evaluation, from the features of all."""
    own = ahead(z, features_of(cell.sizes, evaluation) * lanes_of(z))
    evaluate(cell.angles, own, params_of(cell, evaluation), active, cell.part, cell.trig)
    encode(cell.program, cell.space, cell.trig)


@inner
def read_inputs(cell, h, x, stride, active):
    """v_t = [h; x_t] of a panel, and its masks. Returns 0, or NaN if not all inputs are finite."""
    sizes = cell.sizes
    copy(h, sizes.hidden, cell.v)
    mask(active, cell.masks)
    return read(x, stride, active, sizes.inputs, ahead(cell.v, sizes.hidden * lanes_of(cell.v)))


@within
def _step(cell, record, active):
    """One time step of a panel."""
    sizes, lanes = cell.sizes, lanes_of(record.z)
    if sizes.copies:
        weights, width = cell.weights, sizes.hidden + sizes.inputs
        product(weights.projection, weights.offset, cell.v, width, z_rows(sizes), record.z)
    else:
        copy(cell.v, z_rows(sizes), record.z)
    for e in range(sizes.evaluations):
        encode_evaluation(cell, record.z, e, active)
        count, at, first = evaluation_of(sizes, e)
        overlap(cell.program, cell.space, cell.references, first, count, ahead(record.raw, at * sizes.raw * lanes))
    kernel_values(cell.program, record.raw, sizes.kernels * sizes.references, cell.kernel)
    update(sizes, cell.alpha, cell.bias, cell.kernel, cell.masks, record.before, record.gates, record.after)


@within
def run_panel(cell, steps, x, first, initial, recording, records, out, last):
    """All time steps of a panel.

    Args:
        cell: see `Cell`.
        steps: see `Steps`.
        x: inputs, see `Rows`.
        first: first sample of the panel.
        initial: h_0 and c_0, (B, H) each, and whether there are any; else they are zero.
        recording: whether each time step keeps its record; else they share one.
        records: see the module.
        out: outputs, see `Rows`.
        last: h_n and c_n, (B, H) each.

    Returns:
        0, or NaN if not all inputs are finite.
    """
    sizes, lanes = cell.sizes, lanes_of(records)
    hidden, number, samples = sizes.hidden, panel_steps(steps, first), min(lanes, steps.batch - first)
    start, split = first * hidden, hidden * lanes
    h0, c0, given = initial
    check = 0.0
    read(ahead(h0, start), hidden, samples if given else 0, hidden, records)
    read(ahead(c0, start), hidden, samples if given else 0, hidden, ahead(records, split))
    for k in range(number):
        t = number - 1 - k if steps.reverse else k
        active, record = active_lanes(steps, t, first, lanes), record_of(sizes, records, k if recording else 0)
        check += read_inputs(cell, record.before, row_of(x, steps, t, first), x.stride, active)
        _step(cell, record, active)
        write(record.after, active, hidden, row_of(out, steps, t, first), out.stride)
        if not recording:
            copy(record.after, 2 * hidden, record.before)
    end = record_of(sizes, records, number if recording else 0).before
    write(end, samples, hidden, ahead(last[0], start), hidden)
    write(ahead(end, split), samples, hidden, ahead(last[1], start), hidden)
    return check
