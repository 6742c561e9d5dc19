"""Vectors for the compiled QK-LSTM cell: memory by pointers, elementary functions, small products.

A *panel* is one vector register's worth of samples. A quantity with k components per sample is k vectors, one after the
other, one lane per sample. For a single sample the same code is compiled with vectors of one lane, which are plain numbers.

Pointers stand in for arrays because arrays count their references: in a small network those counts cost more than the
arithmetic, and compiling them more than compiling the rest.
"""

# numba's extension API is untyped, and so are the bodies that it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import math
import struct

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from dqk.backends.compiled.jit import inner
from dqk.backends.compiled.simd import Vector

within = numba.njit(nogil=True, error_model="numpy", inline="always")
"""Compiles a function with one caller in its place. A compiled function of its own would be optimised once more at each level
of calls above it, with all that it calls."""

_LN2_HIGH = 0.693145751953125  # few enough bits for exact products with the exponents of float32
_LN2_LOW = math.log(2) - _LN2_HIGH


class Memory(types.CPointer):
    """A pointer to numbers that are worked on in vectors of so many lanes."""

    def __init__(self, dtype, lanes):
        self.lanes = lanes
        super().__init__(dtype)
        self.name = f"Memory({dtype} x {lanes})"

    @property
    def key(self):
        """What tells types apart."""
        return self.dtype, self.lanes

    @property
    def vector(self):
        """The type of a vector."""
        return Vector(self.dtype) if self.lanes > 1 else self.dtype


register_model(Memory)(models.PointerModel)


@intrinsic
def memory_of(typingctx, array):
    """The pointer to the first number of a contiguous array, which has to be kept alive: rows are vectors, if it has rows."""

    def generate(context, builder, signature, arguments):
        return context.make_array(array)(context, builder, arguments[0]).data

    return Memory(array.dtype, 1 if array.ndim == 1 else Vector(array.dtype).lanes)(array), generate


@intrinsic
def pointer_to(typingctx, array, like):
    """The pointer to the first number of a contiguous array, which has to be kept alive, with the lanes of another one."""

    def generate(context, builder, signature, arguments):
        return context.make_array(array)(context, builder, arguments[0]).data

    return Memory(array.dtype, like.lanes)(array, like), generate


@intrinsic
def at_address(typingctx, address, like):
    """The pointer to an address, of the type of another one."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return like(address, like), generate


@intrinsic
def ahead(typingctx, pointer, count):
    """The pointer `count` elements further."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def load(typingctx, pointer, index):
    """The vector that starts at element `index`."""

    def generate(context, builder, signature, arguments):
        vector = context.get_value_type(signature.return_type)
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), vector.as_pointer())
        return builder.load(place, align=pointer.dtype.bitwidth // 8)

    return pointer.vector(pointer, types.intp), generate


@intrinsic
def store(typingctx, pointer, index, vector):
    """Writes a vector from element `index` on."""

    def generate(context, builder, signature, arguments):
        place = builder.gep(arguments[0], [arguments[1]])
        place = builder.bitcast(place, arguments[2].type.as_pointer())
        builder.store(arguments[2], place, align=pointer.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(pointer, types.intp, vector), generate


def _repeat(builder, vector, scalar):
    if scalar.type == vector:
        return scalar
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


@intrinsic
def splat(typingctx, pointer, index):
    """A vector whose lanes all equal element `index`."""

    def generate(context, builder, signature, arguments):
        scalar = builder.load(builder.gep(arguments[0], [arguments[1]]))
        return _repeat(builder, context.get_value_type(signature.return_type), scalar)

    return pointer.vector(pointer, types.intp), generate


@intrinsic
def lanes_of(typingctx, like):
    """Lanes of a vector, known to the compiler."""

    def generate(context, builder, signature, arguments):
        return context.get_constant(types.intp, like.lanes)

    return types.intp(like), generate


def _constant(kind: ir.Type, value: float) -> ir.Constant:
    if _is_single(kind):
        value = struct.unpack("f", struct.pack("f", value))[0]
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _is_single(kind: ir.Type) -> bool:
    return isinstance(kind.element if isinstance(kind, ir.VectorType) else kind, ir.FloatType)


@intrinsic
def full(typingctx, like, value):
    """A vector whose lanes all have a value, a float64."""

    def generate(context, builder, signature, arguments):
        vector, scalar = context.get_value_type(signature.return_type), arguments[1]
        if like.dtype == types.float32:
            scalar = builder.fptrunc(scalar, ir.FloatType())
        return _repeat(builder, vector, scalar)

    return like.vector(like, types.float64), generate


def _exp(builder, x):
    """e**x by `2**k * e**r`, exact to about an ulp; beyond the range of normal numbers its ends, NaN stays NaN."""
    kind, single = x.type, _is_single(x.type)
    number = lambda value: _constant(kind, value)  # noqa: E731
    bits, limit, terms = (23, 87.0, 7) if single else (52, 708.0, 13)
    for comparison, end in (("<", -limit), (">", limit)):
        x = builder.select(builder.fcmp_ordered(comparison, x, number(end)), number(end), x)
    magic = number(1.5 * 2.0**bits)  # leaves k, rounded, in the lowest bits
    shifted = builder.fadd(builder.fmul(x, number(1 / math.log(2))), magic)
    k = builder.fsub(shifted, magic)
    fused = {"flags": ("contract",)}
    r = builder.fsub(x, builder.fmul(k, number(_LN2_HIGH), **fused), **fused)
    r = builder.fsub(r, builder.fmul(k, number(_LN2_LOW), **fused), **fused)
    value = number(1 / math.factorial(terms))  # Taylor's series suffices, for |r| <= ln(2) / 2
    for n in range(terms - 1, -1, -1):
        value = builder.fadd(builder.fmul(value, r, **fused), number(1 / math.factorial(n)), **fused)
    integer = ir.IntType(32 if single else 64)
    if isinstance(kind, ir.VectorType):
        shift = ir.Constant(ir.VectorType(integer, kind.count), [bits] * kind.count)
    else:
        shift = ir.Constant(integer, bits)
    power = builder.shl(builder.bitcast(shifted, shift.type), shift)
    return builder.bitcast(builder.add(builder.bitcast(value, shift.type), power), kind)


def _function(body):
    @intrinsic
    def operation(typingctx, x):
        def generate(context, builder, signature, arguments):
            return body(builder, arguments[0])

        return x(x), generate

    return operation


def _sigmoid(builder, x):
    one = _constant(x.type, 1.0)
    return builder.fdiv(one, builder.fadd(one, _exp(builder, builder.fneg(x))))


def _tanh(builder, x):
    one, two = _constant(x.type, 1.0), _constant(x.type, 2.0)
    return builder.fsub(builder.fmul(two, _sigmoid(builder, builder.fmul(two, x))), one)


def _positive(builder, x):
    zero = _constant(x.type, 0.0)
    return builder.select(builder.fcmp_ordered("<", x, zero), zero, x)


sigmoid, tanh, positive = (_function(body) for body in (_sigmoid, _tanh, _positive))
"""1 / (1 + e**-x), tanh x and max(x, 0) of a vector; NaN stays NaN."""


@inner
def clear(vectors, count):
    """Sets vectors to zero."""
    for k in range(count):
        store(vectors, k * lanes_of(vectors), full(vectors, 0.0))


@inner
def copy(source, count, out):
    """Copies vectors."""
    for k in range(0, count * lanes_of(out), lanes_of(out)):
        store(out, k, load(source, k))


@inner
def lane_sum(vectors, at):
    """The sum over the lanes of the vector that starts at element `at`."""
    total = vectors[at]
    for lane in range(1, lanes_of(vectors)):
        total += vectors[at + lane]
    return total


@inner
def product(matrix, bias, x, n_in, count, out):
    """`out[r] = bias[r] + sum_k matrix[r, k] x[k]` for `count` rows, with one vector per x[k] and out[r]."""
    lanes = lanes_of(x)
    for r in range(0, count, 4):
        # Four rows at a time hide the latency of a sum; past the end the last row is repeated.
        r1, r2, r3 = min(r + 1, count - 1), min(r + 2, count - 1), min(r + 3, count - 1)
        at0, at1, at2, at3 = r * n_in, r1 * n_in, r2 * n_in, r3 * n_in
        s0, s1, s2, s3 = (
            splat(bias, r),
            splat(bias, r1),
            splat(bias, r2),
            splat(bias, r3),
        )
        for k in range(n_in):
            value = load(x, k * lanes)
            s0 = s0 + splat(matrix, at0 + k) * value
            s1 = s1 + splat(matrix, at1 + k) * value
            s2 = s2 + splat(matrix, at2 + k) * value
            s3 = s3 + splat(matrix, at3 + k) * value
        store(out, r3 * lanes, s3)
        store(out, r2 * lanes, s2)
        store(out, r1 * lanes, s1)
        store(out, r * lanes, s0)


@inner
def product_vjp(matrix, x, n_in, count, d_out, d_x, d_matrix, d_bias):
    """Adds the cotangents of `product`: to `d_x`, and lane by lane to `d_matrix` and `d_bias`."""
    lanes = lanes_of(x)
    for r in range(count):
        cotangent = load(d_out, r * lanes)
        store(d_bias, r * lanes, load(d_bias, r * lanes) + cotangent)
        for k in range(n_in):
            store(d_x, k * lanes, load(d_x, k * lanes) + splat(matrix, r * n_in + k) * cotangent)
            at = (r * n_in + k) * lanes
            store(d_matrix, at, load(d_matrix, at) + cotangent * load(x, k * lanes))
