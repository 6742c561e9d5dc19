"""The compiled QK-LSTM cell, backward through time: exact cotangents of everything, panel by panel, last time step first.

Cotangents of what all samples share are kept lane by lane and summed at the end, always in the same order.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

from dqk.backends.compiled.cell_angles import evaluate_vjp
from dqk.backends.compiled.cell_forward import (
    encode_evaluation,
    evaluation_of,
    features_of,
    params_of,
    place_references,
    read_inputs,
    record_of,
)
from dqk.backends.compiled.cell_layout import active_lanes, add_read, panel_steps, row_of, write, z_rows
from dqk.backends.compiled.cell_math import ahead, clear, copy, lane_sum, lanes_of, load, product_vjp, store, within
from dqk.backends.compiled.cell_program import encode_vjp, kernel_values, overlap_vjp, read_cotangent
from dqk.backends.compiled.cell_readout import collect_readout, update_vjp
from dqk.backends.compiled.jit import inner


class Cotangents(NamedTuple):
    """Cotangents of a cell: sums lane by lane of what samples share, then what one time step of a panel needs.

    Attributes:
        projection: a vector for each element of W.
        offset: of b.
        params: of the feature map's parameters.
        alpha: of the readout, unit by unit.
        bias: likewise.
        references: of encoded references.
        state: of h and c.
        kernel: of kernel values.
        angles: of all angles.
        z: of the features of all copies of W.
        v: of [h; x].
    """

    projection: int
    offset: int
    params: int
    alpha: int
    bias: int
    references: int
    state: int
    kernel: int
    angles: int
    z: int
    v: int


@inner
def cotangent_places(sizes, n_angles, lanes):
    """Where the cotangents start in a workspace, in elements, in the order of `Cotangents`; last the end."""
    rows, width = z_rows(sizes), sizes.hidden + sizes.inputs
    projection = 0
    offset = projection + (rows * width * lanes if sizes.copies else 0)
    params = offset + rows * lanes
    alpha = params + sizes.params * sizes.param_copies * lanes
    bias = alpha + 4 * sizes.hidden * sizes.references * lanes
    references = bias + 4 * sizes.hidden * lanes
    state = references + sizes.blocks * sizes.block * sizes.d_reference * lanes
    kernel = state + 2 * sizes.hidden * lanes
    angles = kernel + sizes.kernels * sizes.references * lanes
    z = angles + n_angles * lanes
    v = z + rows * lanes
    return projection, offset, params, alpha, bias, references, state, kernel, angles, z, v, v + width * lanes


@within
def new_cotangents(cell, work):
    """Zeros."""
    lanes = lanes_of(work)
    at = cotangent_places(cell.sizes, cell.angles.n_angles, lanes)
    clear(work, at[11] // lanes)
    return Cotangents(
        ahead(work, at[0]),
        ahead(work, at[1]),
        ahead(work, at[2]),
        ahead(work, at[3]),
        ahead(work, at[4]),
        ahead(work, at[5]),
        ahead(work, at[6]),
        ahead(work, at[7]),
        ahead(work, at[8]),
        ahead(work, at[9]),
        ahead(work, at[10]),
    )


@inner
def _angles_vjp(cell, d, z, d_z, evaluation):
    """From the states' cotangents to those of the features and parameters of one evaluation."""
    clear(d.angles, cell.angles.n_angles)
    encode_vjp(cell.program, cell.space, cell.trig, d.angles)
    own = ahead(d.params, evaluation * cell.sizes.params * lanes_of(z) if cell.sizes.param_copies == 4 else 0)
    evaluate_vjp(cell.angles, z, params_of(cell, evaluation), d.angles, d_z, own)


@within
def _step_vjp(cell, d, record, active):
    """One time step of a panel: sets the cotangents of v, turns those of the states and adds to the others."""
    sizes, lanes, kernels = cell.sizes, lanes_of(record.z), cell.sizes.kernels * cell.sizes.references
    kernel_values(cell.program, record.raw, kernels, cell.kernel)
    clear(d.kernel, kernels)
    update_vjp(
        sizes,
        cell.alpha,
        cell.kernel,
        cell.masks,
        record.before,
        record.gates,
        record.after,
        d.state,
        d.alpha,
        d.bias,
        d.kernel,
    )
    clear(d.z, z_rows(sizes))
    for e in range(sizes.evaluations):
        encode_evaluation(cell, record.z, e, active)
        count, at, first = evaluation_of(sizes, e)
        raw, d_kernel = ahead(record.raw, at * sizes.raw * lanes), ahead(d.kernel, at * lanes)
        overlap_vjp(cell.program, cell.space, cell.references, first, count, raw, d_kernel, d.references)
        place = features_of(sizes, e) * lanes
        _angles_vjp(cell, d, ahead(record.z, place), ahead(d.z, place), e)
    if sizes.copies:
        width = sizes.hidden + sizes.inputs
        clear(d.v, width)
        product_vjp(cell.weights.projection, cell.v, width, z_rows(sizes), d.z, d.v, d.projection, d.offset)
    else:
        copy(d.z, z_rows(sizes), d.v)


@within
def run_panel_vjp(cell, d, steps, x, first, records, d_out, d_last, d_x, d_initial):
    """All time steps of a panel, from the last one back.

    Args:
        cell: see `Cell`.
        d: see `Cotangents`.
        steps: see `Steps`.
        x: inputs, see `Rows`.
        first: first sample of the panel.
        records: what `run_panel` recorded.
        d_out: cotangents of the outputs, and whether there are any.
        d_last: for h_n and c_n, pairs of the cotangents (B, H) and whether there are any.
        d_x: where to write the cotangents of the inputs, and whether to.
        d_initial: likewise for h_0 and c_0, (B, H) each.
    """
    sizes, lanes = cell.sizes, lanes_of(records)
    hidden, number, samples = sizes.hidden, panel_steps(steps, first), min(lanes, steps.batch - first)
    start, split = first * hidden, hidden * lanes
    clear(d.state, 2 * hidden)
    for i in range(2):
        given, there = d_last[i]
        if there:
            add_read(ahead(given, start), hidden, samples, hidden, ahead(d.state, i * split))
    for k in range(number - 1, -1, -1):
        t = number - 1 - k if steps.reverse else k
        active, record = active_lanes(steps, t, first, lanes), record_of(sizes, records, k)
        if d_out[1]:
            add_read(row_of(d_out[0], steps, t, first), d_out[0].stride, active, hidden, d.state)
        read_inputs(cell, record.before, row_of(x, steps, t, first), x.stride, active)
        _step_vjp(cell, d, record, active)
        for i in range(0, split, lanes):
            store(d.state, i, load(d.state, i) + load(d.v, i))
        if d_x[1]:
            write(ahead(d.v, split), active, sizes.inputs, row_of(d_x[0], steps, t, first), d_x[0].stride)
    for i in range(2):
        wanted, there = d_initial[i]
        if there:
            write(ahead(d.state, i * split), samples, hidden, ahead(wanted, start), hidden)


@within
def _references_vjp(cell, d, out):
    """From the cotangents of encoded references to those of what places them; `out` is flat like the references."""
    sizes, lanes = cell.sizes, lanes_of(out)
    width = sizes.hidden + sizes.inputs if sizes.placed else sizes.features
    for k in range(sizes.block * width):
        out[k] = 0.0
    for block in range(sizes.blocks):
        for first in range(0, sizes.block, lanes):
            count = min(lanes, sizes.block - first)
            place_references(cell, block, first, count)
            read_cotangent(cell.program, cell.space, d.references, block * sizes.block + first, count)
            clear(d.z, sizes.features)
            _angles_vjp(cell, d, cell.z, d.z, block)
            found = d.z
            if sizes.placed:
                found, weights, row = d.v, cell.weights, features_of(sizes, block)
                clear(d.v, width)
                product_vjp(
                    ahead(weights.projection, row * width),
                    cell.v,
                    width,
                    sizes.features,
                    d.z,
                    d.v,
                    ahead(d.projection, row * width * lanes),
                    ahead(d.offset, row * lanes),
                )
            for lane in range(count):
                for k in range(width):
                    out[(first + lane) * width + k] += found[k * lanes + lane]


@inner
def _sum_lanes(vectors, count, out):
    for k in range(count):
        out[k] = lane_sum(vectors, k * lanes_of(vectors))


@within
def collect(cell, d, scale, out):
    """Sums over lanes, to where `out` points, which is `Weights` for cotangents."""
    sizes = cell.sizes
    _references_vjp(cell, d, out.references)
    if sizes.copies:
        _sum_lanes(d.projection, z_rows(sizes) * (sizes.hidden + sizes.inputs), out.projection)
        _sum_lanes(d.offset, z_rows(sizes), out.offset)
    _sum_lanes(d.params, sizes.params * sizes.param_copies, out.params)
    collect_readout(sizes, scale, d.alpha, d.bias, out.alpha, out.bias)
