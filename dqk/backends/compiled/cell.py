"""Compiled entry points: all time steps of one layer of a QK-LSTM in one direction, forward and backward.

Tensors are passed as addresses, 0 for one that there is not: array objects would cost a small network more than its arithmetic.
Panels follow one another, so that no sum depends on a number of threads.
"""

# Bodies are compiled by numba from untyped arrays.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

from dqk.backends.compiled.cell_angles import Angles
from dqk.backends.compiled.cell_backward import collect, cotangent_places, new_cotangents, run_panel_vjp
from dqk.backends.compiled.cell_forward import Weights, cell_places, new_cell, record_size, run_panel
from dqk.backends.compiled.cell_layout import Rows, Steps, sizes_from
from dqk.backends.compiled.cell_math import ahead, at_address, lanes_of, memory_of, pointer_to, within
from dqk.backends.compiled.cell_product import Product
from dqk.backends.compiled.cell_states import states_of
from dqk.backends.compiled.jit import inner, jit


class Call(NamedTuple):
    """Which rows there are. Tensors are given by their addresses.

    Attributes:
        steps: number of time steps T.
        batch: number of sequences B.
        batch_first: whether padded rows have the shape (B, T) instead of (T, B).
        batch_sizes: T int64 numbers, see `Steps`; 0 if all sequences reach all time steps.
        offsets: T int64 numbers, see `Steps`; 0 likewise.
        reverse: from the last time step to the first.
    """

    steps: int
    batch: int
    batch_first: bool
    batch_sizes: int
    offsets: int
    reverse: bool


class Inputs(NamedTuple):
    """Addresses of contiguous tensors, or of their cotangents; 0 for one that there is not, or that nobody asks for.

    Attributes:
        x: inputs, rows of D features.
        h_0: initial hidden states (B, H); 0 for zeros.
        c_0: initial cell states (B, H); 0 for zeros.
        projection: see `Weights`, as for the next ones.
        offset: see `Weights`.
        references: see `Weights`.
        params: see `Weights`.
        alpha: see `Weights`.
        bias: see `Weights`.
    """

    x: int
    h_0: int
    c_0: int
    projection: int
    offset: int
    references: int
    params: int
    alpha: int
    bias: int


class Outputs(NamedTuple):
    """Addresses of the outputs, laid out as the inputs, and the last states (B, H); or of their cotangents, 0 for none."""

    out: int
    h_n: int
    c_n: int


@inner
def workspace(sizes, n_angles, lanes, backward):
    """Elements that a call needs to work on."""
    end = cell_places(sizes, n_angles, lanes)[9]
    return end + cotangent_places(sizes, n_angles, lanes)[11] if backward else end


@inner
def _on_boundary(array):
    """The pointer to the first vector boundary in an array; numbers by themselves have none."""
    pointer = memory_of(array)
    if lanes_of(pointer) == 1:
        return pointer
    return ahead(pointer, (-array.ctypes.data % 64) // array.itemsize)


@within
def _weights(a, like):
    return Weights(
        at_address(a.projection, like),
        at_address(a.offset, like),
        at_address(a.references, like),
        at_address(a.params, like),
        at_address(a.alpha, like),
        at_address(a.bias, like),
    )


@within
def _steps(call, like):
    packed = call.batch_sizes != 0
    sizes, offsets = at_address(call.batch_sizes, like), at_address(call.offsets, like)
    return Steps(call.steps, call.batch, packed, sizes, offsets, call.reverse)


@within
def _rows(call, address, width, like):
    step, stride = (width, call.steps * width) if call.batch_first else (call.batch * width, width)
    return Rows(at_address(address, like), step, width if call.batch_sizes else stride)


@within
def _panel_size(sizes, call, lanes):
    """Elements that a panel records."""
    return (2 * sizes.hidden + call.steps * record_size(sizes)) * lanes


@within
def _cell(program, sizes, angles, part, scale, inputs, work):
    sources, numbers = angles
    given = Angles(len(sources) // 3, pointer_to(sources, work), pointer_to(numbers, work))
    return new_cell(sizes_from(sizes), program, given, _weights(inputs, work), part, scale, work)


@within
def _forward(cell, call, inputs, outputs, recording, records, integers):
    sizes, lanes, steps = cell.sizes, lanes_of(records), _steps(call, integers)
    x, out = _rows(call, inputs.x, sizes.inputs, records), _rows(call, outputs.out, sizes.hidden, records)
    initial = at_address(inputs.h_0, records), at_address(inputs.c_0, records), inputs.h_0 != 0
    last = at_address(outputs.h_n, records), at_address(outputs.c_n, records)
    size, check = _panel_size(sizes, call, lanes), 0.0
    for first in range(0, call.batch, lanes):
        own = ahead(records, first // lanes * size if recording else 0)
        check += run_panel(cell, steps, x, first, initial, recording, own, out, last)
    return check == 0.0


@within
def _maybe(address, like):
    return at_address(address, like), address != 0


@within
def _backward(cell, call, inputs, d_outputs, d_inputs, scale, records, work, integers):
    sizes, lanes, steps = cell.sizes, lanes_of(records), _steps(call, integers)
    d = new_cotangents(cell, ahead(work, cell_places(sizes, cell.angles.n_angles, lanes)[9]))
    x = _rows(call, inputs.x, sizes.inputs, records)
    d_x = _rows(call, d_inputs.x, sizes.inputs, records), d_inputs.x != 0
    d_out = _rows(call, d_outputs.out, sizes.hidden, records), d_outputs.out != 0
    d_last = _maybe(d_outputs.h_n, records), _maybe(d_outputs.c_n, records)
    d_initial = _maybe(d_inputs.h_0, records), _maybe(d_inputs.c_0, records)
    size = _panel_size(sizes, call, lanes)
    for first in range(0, call.batch, lanes):
        own = ahead(records, first // lanes * size)
        run_panel_vjp(cell, d, steps, x, first, own, d_out, d_last, d_x, d_initial)
    collect(cell, d, scale, _weights(d_inputs, records))


@within
def _product(circuit, like):
    qubits, gates, matrices = circuit
    return Product(qubits, len(gates) // 3, pointer_to(gates, like), pointer_to(matrices, like))


@jit
def product_forward(sizes, circuit, angles, scale, call, inputs, outputs, recording, work, record):
    """Runs a cell whose circuit has no two-qubit gates.

    Args:
        sizes: the numbers of `Sizes`, int64.
        circuit: number of qubits, gates and matrices as flat arrays, see `Product`.
        angles: sources and numbers as flat arrays, see `Angles`.
        scale: kernel scale.
        call: the numbers of `Call`.
        inputs: the numbers of `Inputs`.
        outputs: the numbers of `Outputs`, to be written.
        recording: whether a backward pass may follow.
        work: room for `workspace` elements and a vector, in the dtype of all tensors: (vectors, lanes), or (numbers,) for
            a single sample.
        record: room for what `cell_forward` records and a vector, likewise.

    Returns:
        Whether all inputs are finite.
    """
    space, given = _on_boundary(work), Inputs(*inputs)
    cell = _cell(_product(circuit, space), sizes, angles, 1.0, scale, given, space)
    return _forward(
        cell, Call(*call), given, Outputs(*outputs), recording, _on_boundary(record), pointer_to(sizes, space)
    )


@jit
def product_backward(sizes, circuit, angles, scale, call, inputs, d_outputs, d_inputs, work, record):
    """Cotangents of all inputs of `product_forward`, from those of its outputs and from its record."""
    space, given, found = _on_boundary(work), Inputs(*inputs), Inputs(*d_inputs)
    cell = _cell(_product(circuit, space), sizes, angles, 1.0, scale, given, space)
    records, integers = _on_boundary(record), pointer_to(sizes, space)
    _backward(cell, Call(*call), given, Outputs(*d_outputs), found, scale, records, space, integers)


@jit
def state_forward(sizes, circuit, angles, scale, call, inputs, outputs, recording, work, record):
    """Runs a cell with any circuit: as `product_forward`, with the fields of `States` for `circuit`; vectors have lanes."""
    space, given = _on_boundary(work), Inputs(*inputs)
    cell = _cell(states_of(circuit, space), sizes, angles, 0.5, scale, given, space)
    return _forward(
        cell, Call(*call), given, Outputs(*outputs), recording, _on_boundary(record), pointer_to(sizes, space)
    )


@jit
def state_backward(sizes, circuit, angles, scale, call, inputs, d_outputs, d_inputs, work, record):
    """Cotangents of all inputs of `state_forward`, from those of its outputs and from its record."""
    space, given, found = _on_boundary(work), Inputs(*inputs), Inputs(*d_inputs)
    cell = _cell(states_of(circuit, space), sizes, angles, 0.5, scale, given, space)
    records, integers = _on_boundary(record), pointer_to(sizes, space)
    _backward(cell, Call(*call), given, Outputs(*d_outputs), found, scale, records, space, integers)
