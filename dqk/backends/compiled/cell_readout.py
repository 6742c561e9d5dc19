"""From kernel values to the new states of an LSTM cell and back, on vectors of samples.

Numbers of the readout are kept unit by unit: alpha[u, gate, reference] with the kernel scale in it, bias[u, gate]. Gates are
ordered forget, input, output, cell.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from dqk.backends.compiled.cell_math import ahead, full, lane_sum, lanes_of, load, sigmoid, splat, store, tanh
from dqk.backends.compiled.jit import inner


@inner
def _steps(sizes):
    """From one gate to the next, and from one hidden unit to the next, in a tensor with one row for each readout."""
    return sizes.units if sizes.readouts == 4 else 0, 1 if sizes.units > 1 else 0


@inner
def expand_readout(sizes, scale, given_alpha, given_bias, alpha, bias):
    """Alpha (readouts, N, units) and the bias (readouts, units), if there is one, for each unit and gate."""
    n = sizes.references
    row, unit = _steps(sizes)
    for u in range(sizes.hidden):
        for g in range(4):
            for j in range(n):
                alpha[(4 * u + g) * n + j] = scale * given_alpha[g * row * n + j * sizes.units + u * unit]
            bias[4 * u + g] = given_bias[g * row + u * unit] if sizes.biased else 0.0


@inner
def collect_readout(sizes, scale, d_alpha, d_bias, out_alpha, out_bias):
    """The cotangents of `expand_readout`, from vectors of which the lanes are to be summed."""
    n, lanes = sizes.references, lanes_of(d_alpha)
    row, unit = _steps(sizes)
    for k in range(sizes.readouts * n * sizes.units):
        out_alpha[k] = 0.0
    for k in range(sizes.readouts * sizes.units if sizes.biased else 0):
        out_bias[k] = 0.0
    for u in range(sizes.hidden):
        for g in range(4):
            for j in range(n):
                total = lane_sum(d_alpha, ((4 * u + g) * n + j) * lanes)
                out_alpha[g * row * n + j * sizes.units + u * unit] += scale * total
            if sizes.biased:
                out_bias[g * row + u * unit] += lane_sum(d_bias, (4 * u + g) * lanes)


@inner
def _dot(alpha, kernel, count, start):
    for j in range(count):
        start = start + splat(alpha, j) * load(kernel, j * lanes_of(kernel))
    return start


@inner
def update(sizes, alpha, bias, kernel, masks, before, gates, after):
    """The LSTM update `c' = f c + i g`, `h' = o tanh(c')`; lanes without a sample keep their states.

    Args:
        sizes: see `Sizes`.
        alpha: see the module.
        bias: see the module.
        kernel: vectors of kernel values, gate by gate or the same for all.
        masks: see `mask`.
        before: vectors of h and of c.
        gates: the activations are written here: f, i, o, g of each unit.
        after: new vectors of h and of c.
    """
    n, lanes = sizes.references, lanes_of(kernel)
    step = n * lanes if sizes.kernels == 4 else 0
    runs, rests = load(masks, 0), load(masks, lanes)
    for u in range(sizes.hidden):
        at, row = 4 * u * lanes, 4 * u
        sums = (
            _dot(ahead(alpha, row * n), kernel, n, splat(bias, row)),
            _dot(ahead(alpha, (row + 1) * n), ahead(kernel, step), n, splat(bias, row + 1)),
            _dot(ahead(alpha, (row + 2) * n), ahead(kernel, 2 * step), n, splat(bias, row + 2)),
            _dot(ahead(alpha, (row + 3) * n), ahead(kernel, 3 * step), n, splat(bias, row + 3)),
        )
        forget, write, show, candidate = sigmoid(sums[0]), sigmoid(sums[1]), sigmoid(sums[2]), tanh(sums[3])
        h, c = u * lanes, (sizes.hidden + u) * lanes
        memory = forget * load(before, c) + write * candidate
        store(gates, at, forget)
        store(gates, at + lanes, write)
        store(gates, at + 2 * lanes, show)
        store(gates, at + 3 * lanes, candidate)
        store(after, h, runs * (show * tanh(memory)) + rests * load(before, h))
        store(after, c, runs * memory + rests * load(before, c))


@inner
def _dot_vjp(alpha, kernel, count, cotangent, d_alpha, d_kernel):
    lanes = lanes_of(kernel)
    for j in range(count):
        at = j * lanes
        store(d_alpha, at, load(d_alpha, at) + cotangent * load(kernel, at))
        store(d_kernel, at, load(d_kernel, at) + splat(alpha, j) * cotangent)


@inner
def update_vjp(sizes, alpha, kernel, masks, before, gates, after, d_state, d_alpha, d_bias, d_kernel):
    """The cotangents of `update`.

    Args:
        sizes: as for `update`, and so the next arguments up to `after`.
        alpha: see `update`.
        kernel: see `update`.
        masks: see `update`.
        before: see `update`.
        gates: see `update`.
        after: see `update`.
        d_state: cotangents of `after`; becomes those of `before`, as far as they do not pass through the kernel.
        d_alpha: cotangents of alpha are added, lane by lane.
        d_bias: cotangents of the bias are added, lane by lane.
        d_kernel: cotangents of kernel values are added.
    """
    n, lanes = sizes.references, lanes_of(kernel)
    step = n * lanes if sizes.kernels == 4 else 0
    runs, rests, one = load(masks, 0), load(masks, lanes), full(kernel, 1.0)
    for u in range(sizes.hidden):
        at, row = 4 * u * lanes, 4 * u
        forget, write = load(gates, at), load(gates, at + lanes)
        show, candidate = load(gates, at + 2 * lanes), load(gates, at + 3 * lanes)
        h, c = u * lanes, (sizes.hidden + u) * lanes
        bounded = tanh(load(after, c))
        d_h, d_c = load(d_state, h), load(d_state, c)
        store(d_state, h, rests * d_h)
        rest = rests * d_c
        d_h, d_c = runs * d_h, runs * d_c
        d_c = d_c + d_h * show * (one - bounded * bounded)
        store(d_state, c, rest + d_c * forget)
        d_gates = (
            d_c * load(before, c) * forget * (one - forget),
            d_c * candidate * write * (one - write),
            d_h * bounded * show * (one - show),
            d_c * write * (one - candidate * candidate),
        )
        for g in range(4):
            store(d_bias, at + g * lanes, load(d_bias, at + g * lanes) + d_gates[g])
            first, place = (row + g) * n, g * step
            _dot_vjp(
                ahead(alpha, first),
                ahead(kernel, place),
                n,
                d_gates[g],
                ahead(d_alpha, first * lanes),
                ahead(d_kernel, place),
            )
