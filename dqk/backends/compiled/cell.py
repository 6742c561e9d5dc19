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
from dqk.backends.compiled.cell_math import ahead, at_address, lanes_of, pointer_to
from dqk.backends.compiled.cell_product import Product
from dqk.backends.compiled.cell_states import States
from dqk.backends.compiled.jit import inner, jit


class Call(NamedTuple):
    """What differs from call to call, beside the parameters. Tensors are given by their addresses.

    Attributes:
        steps: number of time steps T.
        batch: number of sequences B.
        reverse: from the last time step to the first.
        batch_sizes: T int64 numbers, see `Steps`; 0 if all sequences reach all time steps.
        offsets: T int64 numbers, see `Steps`; 0 likewise.
        x_step: elements of the inputs from one time step to the next, if not packed.
        x_stride: elements of the inputs from one sample to the next; features are contiguous.
        out_step: elements of the outputs from one time step to the next, if not packed.
        out_stride: elements of the outputs from one sample to the next.
        x: inputs.
        h_0: initial hidden states (B, H), or 0 for zeros.
        c_0: initial cell states (B, H), or 0 for zeros.
    """

    steps: int
    batch: int
    reverse: bool
    batch_sizes: int
    offsets: int
    x_step: int
    x_stride: int
    out_step: int
    out_stride: int
    x: int
    h_0: int
    c_0: int


class Parameters(NamedTuple):
    """Addresses of a cell's parameters, or of their cotangents, contiguous; 0 for one that there is not. See `Weights`."""

    projection: int
    offset: int
    references: int
    params: int
    alpha: int
    bias: int


class Outputs(NamedTuple):
    """Addresses of the outputs, laid out as `Call` says, and the last states (B, H); or of their cotangents, 0 for none."""

    out: int
    h_n: int
    c_n: int


class InputCotangents(NamedTuple):
    """Addresses of the cotangents of inputs, laid out like them, and initial states; 0 for what nobody asks for."""

    x: int
    h_0: int
    c_0: int


@inner
def workspace(sizes, n_angles, lanes, backward):
    """Elements that a call needs to work on."""
    end = cell_places(sizes, n_angles, lanes)[9]
    return end + cotangent_places(sizes, n_angles, lanes)[11] if backward else end


@inner
def _on_boundary(array):
    """The pointer to the first vector boundary in an array."""
    pointer = pointer_to(array)
    return ahead(pointer, (-array.ctypes.data % 64) // array.itemsize)


@inner
def _weights(a, like):
    return Weights(
        at_address(a.projection, like),
        at_address(a.offset, like),
        at_address(a.references, like),
        at_address(a.params, like),
        at_address(a.alpha, like),
        at_address(a.bias, like),
    )


@inner
def _steps(call, like):
    packed = call.batch_sizes != 0
    sizes, offsets = at_address(call.batch_sizes, like), at_address(call.offsets, like)
    return Steps(call.steps, call.batch, packed, sizes, offsets, call.reverse)


@inner
def _rows_of_x(call, address, like):
    return Rows(at_address(address, like), call.x_step, call.x_stride)


@inner
def _rows_of_out(call, address, like):
    return Rows(at_address(address, like), call.out_step, call.out_stride)


@inner
def _panel_size(sizes, call, lanes):
    """Elements that a panel records."""
    return (2 * sizes.hidden + call.steps * record_size(sizes)) * lanes


@inner
def _cell(program, sizes, angles, part, scale, parameters, work):
    sources, numbers = angles
    given = Angles(len(sources) // 3, pointer_to(sources), pointer_to(numbers))
    return new_cell(sizes_from(sizes), program, given, _weights(Parameters(*parameters), work), part, scale, work)


@inner
def _forward(cell, call, outputs, recording, records, integers):
    steps, lanes, size = _steps(call, integers), lanes_of(records), _panel_size(cell.sizes, call, lanes_of(records))
    x, out = _rows_of_x(call, call.x, records), _rows_of_out(call, outputs.out, records)
    initial = at_address(call.h_0, records), at_address(call.c_0, records), call.h_0 != 0
    last = at_address(outputs.h_n, records), at_address(outputs.c_n, records)
    check = 0.0
    for first in range(0, call.batch, lanes):
        own = ahead(records, first // lanes * size if recording else 0)
        check += run_panel(cell, steps, x, first, initial, recording, own, out, last)
    return check == 0.0


@inner
def _maybe(address, like):
    return at_address(address, like), address != 0


@inner
def _backward(cell, call, d_outputs, d_inputs, d_weights, scale, records, work, integers):
    steps, lanes, size = _steps(call, integers), lanes_of(records), _panel_size(cell.sizes, call, lanes_of(records))
    d = new_cotangents(cell, ahead(work, cell_places(cell.sizes, cell.angles.n_angles, lanes)[9]))
    x = _rows_of_x(call, call.x, records)
    d_x = _rows_of_x(call, d_inputs.x, records), d_inputs.x != 0
    d_out = _rows_of_out(call, d_outputs.out, records), d_outputs.out != 0
    d_last = _maybe(d_outputs.h_n, records), _maybe(d_outputs.c_n, records)
    d_initial = _maybe(d_inputs.h_0, records), _maybe(d_inputs.c_0, records)
    for first in range(0, call.batch, lanes):
        own = ahead(records, first // lanes * size)
        run_panel_vjp(cell, d, steps, x, first, own, d_out, d_last, d_x, d_initial)
    collect(cell, d, scale, d_weights)


@inner
def _product(circuit):
    qubits, gates, matrices = circuit
    return Product(qubits, len(gates) // 3, pointer_to(gates), pointer_to(matrices))


@jit
def product_forward(sizes, circuit, angles, scale, parameters, call, outputs, recording, work, record):
    """Runs a cell whose circuit has no two-qubit gates.

    Args:
        sizes: the numbers of `Sizes`, int64.
        circuit: number of qubits, gates and matrices as flat arrays, see `Product`.
        angles: sources and numbers as flat arrays, see `Angles`.
        scale: kernel scale.
        parameters: the numbers of `Parameters`.
        call: the numbers of `Call`.
        outputs: the numbers of `Outputs`, to be written.
        recording: whether a backward pass may follow.
        work: room for `workspace` elements and a vector, in the dtype of all tensors.
        record: room for what `cell_forward` records and a vector.

    Returns:
        Whether all inputs are finite.
    """
    space = _on_boundary(work)
    cell = _cell(_product(circuit), sizes, angles, 1.0, scale, parameters, space)
    return _forward(cell, Call(*call), Outputs(*outputs), recording, _on_boundary(record), pointer_to(sizes))


@jit
def product_backward(sizes, circuit, angles, scale, parameters, call, d_outputs, d_inputs, d_parameters, work, record):
    """Cotangents of all inputs and parameters of `product_forward`, from those of its outputs and from its record."""
    space = _on_boundary(work)
    cell = _cell(_product(circuit), sizes, angles, 1.0, scale, parameters, space)
    found = Outputs(*d_outputs), InputCotangents(*d_inputs), _weights(Parameters(*d_parameters), space)
    _backward(cell, Call(*call), *found, scale, _on_boundary(record), space, pointer_to(sizes))


@jit
def state_forward(sizes, circuit, angles, scale, parameters, call, outputs, recording, work, record):
    """Runs a cell with any circuit: as `product_forward`, with the fields of `States` for `circuit`."""
    space = _on_boundary(work)
    cell = _cell(States(*circuit), sizes, angles, 0.5, scale, parameters, space)
    return _forward(cell, Call(*call), Outputs(*outputs), recording, _on_boundary(record), pointer_to(sizes))


@jit
def state_backward(sizes, circuit, angles, scale, parameters, call, d_outputs, d_inputs, d_parameters, work, record):
    """Cotangents of all inputs and parameters of `state_forward`, from those of its outputs and from its record."""
    space = _on_boundary(work)
    cell = _cell(States(*circuit), sizes, angles, 0.5, scale, parameters, space)
    found = Outputs(*d_outputs), InputCotangents(*d_inputs), _weights(Parameters(*d_parameters), space)
    _backward(cell, Call(*call), *found, scale, _on_boundary(record), space, pointer_to(sizes))
