"""Vectors of 64 bytes for numba: 8 float64 or 16 float32 lanes, one sample per lane.

LLVM does not vectorise passes over several streams of one state by itself (it gives up on alias checks), so the passes say it
explicitly. Machines with narrower registers split a vector into several.
"""

# numba's extension API is untyped.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,no-any-return"

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from dqk.backends.compiled import VECTOR_BYTES
from dqk.backends.compiled.jit import inner


@inner
def lanes_of(array):
    """Samples per vector of the array's dtype."""
    return VECTOR_BYTES // array.itemsize


class Vector(types.Type):
    """A vector register's worth of float32 or float64."""

    def __init__(self, element):
        self.element = element
        self.lanes = VECTOR_BYTES // (element.bitwidth // 8)
        super().__init__(name=f"Vector({element} x {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        element = ir.DoubleType() if fe_type.element == types.float64 else ir.FloatType()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.lanes))


def _pointer(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    vector = context.get_value_type(Vector(array_type.dtype))
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """The vector that starts at element `index` of a contiguous 1-D array."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(typingctx, array, index, vector):
    """Writes a vector from element `index` on."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), generate


@intrinsic
def splat(typingctx, array, index):
    """A vector whose lanes all equal element `index` of the array."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        value = builder.load(builder.gep(data, [arguments[1]]))
        vector = context.get_value_type(signature.return_type)
        single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), signature.return_type.lanes), None)
        return builder.shuffle_vector(single, single, zeros)

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def transpose(typingctx, square):
    """Transposes, in place, the square that a contiguous 1-D array holds: as many vectors as a vector has lanes."""

    def generate(context, builder, signature, arguments):
        count, align = Vector(square.dtype).lanes, square.dtype.bitwidth // 8
        index = [ir.Constant(context.get_value_type(types.intp), k * count) for k in range(count)]
        pointers = [_pointer(context, builder, signature.args[0], arguments[0], k) for k in index]
        rows = [builder.load(pointer, align=align) for pointer in pointers]
        for bit in (1 << k for k in range(count.bit_length() - 1)):  # exchanges this bit of row and column numbers
            for i in (i for i in range(count) if not i & bit):
                a, b = rows[i], rows[i | bit]
                rows[i] = _shuffle(builder, a, b, [count + (e ^ bit) if e & bit else e for e in range(count)])
                rows[i | bit] = _shuffle(builder, a, b, [count + e if e & bit else e | bit for e in range(count)])
        for pointer, row in zip(pointers, rows, strict=True):
            builder.store(row, pointer, align=align)
        return context.get_dummy_value()

    return types.none(square), generate


def _shuffle(builder, a, b, order):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


def _arithmetic(name):
    @intrinsic
    def operation(typingctx, a, b):
        def generate(context, builder, signature, arguments):
            # `contract` lets LLVM fuse a product and a sum into one instruction.
            return getattr(builder, name)(*arguments, flags=("contract",))

        return a(a, b), generate

    return operation


_add, _subtract, _multiply = (_arithmetic(name) for name in ("fadd", "fsub", "fmul"))


@overload(operator.add)
def _overload_add(a, b):
    if isinstance(a, Vector) and a == b:
        return lambda a, b: _add(a, b)


@overload(operator.sub)
def _overload_subtract(a, b):
    if isinstance(a, Vector) and a == b:
        return lambda a, b: _subtract(a, b)


@overload(operator.mul)
def _overload_multiply(a, b):
    if isinstance(a, Vector) and a == b:
        return lambda a, b: _multiply(a, b)


@intrinsic
def _negate(typingctx, a):
    def generate(context, builder, signature, arguments):
        return builder.fneg(arguments[0])

    return a(a), generate


@overload(operator.neg)
def _overload_negate(a):
    if isinstance(a, Vector):
        return lambda a: _negate(a)
