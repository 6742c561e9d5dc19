"""What the compiled QK-LSTM cell asks of a circuit, whatever its states are. The type of `program` chooses.

`space` holds the states of one panel and what they need, `references` encoded reference states, `raw` what the backward
pass needs of an overlap. `Sizes` has their sizes.
"""

# numba replaces these bodies, and picks the code by the types of its arguments.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from numba.extending import overload

from dqk.backends.compiled import cell_product as product
from dqk.backends.compiled import cell_states as states


def encode(program, space, trig):
    """States of a panel from the cosines and sines of all angles."""


def encode_vjp(program, space, trig, d_angles):
    """Adds the cotangents of all angles, from those of the states; uses both up."""


def keep(program, space, references, first, count):
    """Writes the first `count` states of a panel as references from `first` on."""


def read_cotangent(program, space, d_references, first, count):
    """The cotangents of `keep`: sets those of the states."""


def overlap(program, space, references, first, count, raw):
    """Of a panel with `count` references from `first` on."""


def kernel_values(program, raw, count, kernel):
    """Kernel values, a vector each, from what `overlap` wrote."""


def overlap_vjp(program, space, references, first, count, raw, d_kernel, d_references):
    """Sets the cotangents of the states and adds those of references."""


def _choose(program, name):
    module = product if program.instance_class is product.Product else states
    return getattr(module, name).py_func


@overload(encode)
def _encode(program, space, trig):
    return _choose(program, "encode")


@overload(encode_vjp)
def _encode_vjp(program, space, trig, d_angles):
    return _choose(program, "encode_vjp")


@overload(keep)
def _keep(program, space, references, first, count):
    return _choose(program, "keep")


@overload(read_cotangent)
def _read_cotangent(program, space, d_references, first, count):
    return _choose(program, "read_cotangent")


@overload(overlap)
def _overlap(program, space, references, first, count, raw):
    return _choose(program, "overlap")


@overload(kernel_values)
def _kernel_values(program, raw, count, kernel):
    return _choose(program, "kernel_values")


@overload(overlap_vjp)
def _overlap_vjp(program, space, references, first, count, raw, d_kernel, d_references):
    return _choose(program, "overlap_vjp")
