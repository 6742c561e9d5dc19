"""One layer of a QK-LSTM in one direction as one autograd node around two compiled calls.

Choose it on the CPU for every feature map with declared angles. In a small network most of a time step is what torch records
around the arithmetic; here it records one node for all time steps, and the compiled code takes the parameters as they are.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dqk._resources import require_memory
from dqk.backends.autograd import first_derivative_only
from dqk.backends.mps import MPSBackend
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit, Operand
from dqk.kernels import FeatureMap
from dqk.nn.layout import Layout
from dqk.nn.recurrent import require_finite

if TYPE_CHECKING:
    from dqk.nn.qk_cell import QKCell

VECTOR_BYTES = 64
_LARGE = 2**24  # numbers; with fewer there is nothing to ask for
_DTYPES: dict[torch.dtype, np.dtype] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def why_not(cell: QKCell) -> str | None:
    """Why a cell takes the torch path; None if compiled code runs it."""
    if cell.feature_map.declared is None:
        return f"feature map {cell.feature_map.name!r} has no declared angles"
    if type(cell.backend) not in (MPSBackend, StatevectorBackend):
        return f"backend {cell.backend.name!r} has no compiled cell"
    if isinstance(cell.backend, MPSBackend) and not cell.circuit.is_product:
        return "backend 'mps' has a compiled cell for product states only"
    return None


@dataclass(frozen=True)
class Plan:
    """What compiled code knows of a cell beside its tensors.

    Attributes:
        hidden: number of hidden units H.
        record: vectors that each time step records for a panel of samples.
        product: whether states are Bloch vectors; else they are statevectors.
        work: vectors that compiled code works on, for each precision and number of lanes, forward and backward.
        arguments: the compiled functions' first ones, for each precision.
    """

    hidden: int
    record: int
    product: bool
    work: dict[tuple[torch.dtype, int], tuple[int, int]]
    arguments: dict[torch.dtype, tuple[Any, ...]]

    def lanes(self, layout: Layout, dtype: torch.dtype) -> int:
        """Samples of a vector."""
        return 1 if layout.batch == 1 and self.product else VECTOR_BYTES // dtype.itemsize

    def records(self, layout: Layout, lanes: int, recording: bool) -> int:
        """Vectors that are recorded, for one time step only if no backward pass can follow."""
        if recording:
            return -(-layout.batch // lanes) * (2 * self.hidden + layout.n_steps * self.record)
        return 2 * self.hidden + self.record


def plan_of(cell: QKCell) -> Plan:
    """Lays out a cell for compiled code."""
    from dqk.backends.compiled.cell import workspace
    from dqk.backends.compiled.cell_forward import record_size
    from dqk.backends.compiled.cell_layout import Sizes
    from dqk.backends.compiled.cell_product import SPACE
    from dqk.backends.compiled.cell_states import places

    product = isinstance(cell.backend, MPSBackend)
    o, n_features, n_qubits = cell.options, cell.feature_map.n_features, cell.circuit.n_qubits
    copies = 0 if cell.projection is None else cell.projection.out_features // n_features
    param_copies = 1 if cell.params is None else len(cell.params)
    placed = o.reference_space == "input" and copies > 0
    blocks = 4 if param_copies == 4 or (copies == 4 and placed) else 1
    sizes = Sizes(
        inputs=cell.input_size,
        hidden=cell.hidden_size,
        features=n_features,
        copies=copies,
        references=o.n_references,
        evaluations=4 if 4 in (copies, param_copies) else 1,
        blocks=blocks,
        block=o.n_reference_sets * o.n_references,
        kernels=1 if o.gate_kernel == "shared" else 4,
        placed=int(placed),
        params=cell.feature_map.n_params,
        param_copies=param_copies,
        readouts=cell.alpha.shape[0],
        units=cell.alpha.shape[2],
        biased=int(cell.gate_bias is not None),
        raw=1 if product else 2,
        space=0,
        reference=3 * n_qubits if product else 2 << n_qubits,
        d_reference=0,
    )
    arguments, work = {}, {}
    for dtype, array_type in _DTYPES.items():
        lanes = VECTOR_BYTES // array_type.itemsize
        circuit, angles = (_product if product else _states)(cell.circuit, cell.feature_map, array_type)
        if product:
            own = sizes._replace(space=SPACE * n_qubits, d_reference=3 * n_qubits)
        else:
            slots, kernels = len(circuit[6]), sizes.kernels * sizes.references
            space = places.py_func(n_qubits, slots, lanes).weights + 2 * kernels
            own = sizes._replace(space=space, d_reference=2 * max(1, 2**n_qubits // lanes))
        arguments[dtype] = (np.array(own, np.int64), circuit, angles, cell.kernel_scale)
        for width in (1, lanes) if product else (lanes,):
            needed = [workspace.py_func(own, len(angles[0]) // 3, width, backward) for backward in (False, True)]
            work[dtype, width] = needed[0] // width, needed[1] // width
    return Plan(cell.hidden_size, record_size.py_func(sizes), product, work, arguments)


class _AngleTable:
    """Collects the distinct angles of a circuit's gates, see `cell_angles.Angles`."""

    def __init__(self, feature_map: FeatureMap):
        self._map = feature_map
        self._rows: dict[tuple[Any, ...], int] = {}

    def number(self, operand: Operand) -> int:
        """The number of an operand's angle."""
        sign = operand.value
        if operand.kind != "data":
            row: tuple[Any, ...] = ((-1, sign, 0.0), (-1, 1.0, 0.0), operand.column)
        else:
            angle = self._map.declared[operand.column]  # type: ignore[index]
            factors = [(f, o, s * self._map.bandwidth) for f, o, s in angle.factors]
            factors += [(-1, 1.0, 0.0)] * (2 - len(factors))
            (feature, offset, slope), second = factors
            scale = sign * angle.coefficient
            row = ((feature, scale * offset, scale * slope), second, angle.weight)
        return self._rows.setdefault(row, len(self._rows))

    def arrays(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Sources and numbers."""
        sources = [(first[0], second[0], weight) for first, second, weight in self._rows]
        numbers = [(*first[1:], *second[1:]) for first, second, _ in self._rows]
        return np.array(sources, np.int64).ravel(), np.array(numbers, dtype).ravel()


@lru_cache(maxsize=128)
def _product(circuit: Circuit, feature_map: FeatureMap, dtype: np.dtype) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A circuit of one-qubit gates as `cell_product.Product` has it, and its angles."""
    from dqk.backends.compiled.product import MATRIX
    from dqk.backends.product import rotations

    table = _AngleTable(feature_map)
    rows, _, matrices = rotations(circuit, dtype)
    gates = [
        (qubit, axis, column if axis == MATRIX else table.number(gate.operand))  # type: ignore[arg-type]
        for gate, (qubit, axis, _, column) in zip(circuit.gates, rows.tolist(), strict=True)
    ]
    return (circuit.n_qubits, np.array(gates, np.int64).ravel(), matrices.ravel()), table.arrays(dtype)


@lru_cache(maxsize=128)
def _states(circuit: Circuit, feature_map: FeatureMap, dtype: np.dtype) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A circuit as `cell_states.States` has it, and its angles."""
    from dqk.backends.compiled.program import program_of

    table = _AngleTable(feature_map)
    steps, frames, slots, factors, starts, matrices = program_of(circuit, dtype)
    kinds = ("constant", "data", "shared")
    operands = [
        Operand(kinds[kind], factor, column)  # type: ignore[arg-type]
        for (kind, column, _), factor in zip(slots.tolist(), factors.tolist(), strict=True)
    ]
    sources = np.array([table.number(operand) for operand in operands], np.int64)
    pair = np.arange(2, dtype=np.int32)
    return (circuit.n_qubits, steps, frames, slots, starts, matrices, sources, pair), table.arrays(dtype)


def run_compiled(
    plan: Plan, layout: Layout, reverse: bool, check: bool, *tensors: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """All time steps; differentiable in every tensor.

    Args:
        plan: of the cell.
        layout: of the inputs.
        reverse: from the last time step to the first.
        check: whether to refuse inputs that are not finite.
        tensors: the inputs (..., D); the initial hidden and cell states (1, B, H), or None for zeros; then W
            (copies * F, H + D) and b (copies * F,), references as the cell has them, params (copies, n_params),
            alpha (gates, N, units) and b_g (gates, units), or None for what the cell does not have.

    Returns:
        Outputs (..., H), laid out as the inputs, and the last hidden and cell states (1, B, H).

    Raises:
        InvalidInputError: for inputs that are not finite, if asked to check.
    """
    return _Compiled.apply(plan, layout, reverse, check, torch.is_grad_enabled(), *tensors)


@lru_cache(maxsize=1)
def _entry_points() -> ModuleType:
    return importlib.import_module("dqk.backends.compiled.cell")


def _contiguous(tensors: Iterable[Tensor | None]) -> list[Any]:
    return [t if t is None or t.is_contiguous() else t.contiguous() for t in tensors]


def _addresses(tensors: Iterable[Tensor | None]) -> tuple[int, ...]:
    return tuple([0 if t is None else t.data_ptr() for t in tensors])


def _vectors(count: int, lanes: int, dtype: torch.dtype) -> np.ndarray:
    if count * lanes > _LARGE:
        require_memory(count * lanes * dtype.itemsize, "a compiled QK-LSTM layer over all time steps")
    # One vector more, so that the first one can start on a vector boundary.
    return np.empty((count + 1, lanes) if lanes > 1 else count + 1, _DTYPES[dtype])


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: Plan, layout: Layout, reverse: bool, check: bool, recording: bool, *tensors):
        # Saved beyond what backward reads: every input anchors the refusal of a second derivative.
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        given = _contiguous(tensors)
        x, dtype, hidden = given[0], given[0].dtype, plan.hidden
        h = x.new_empty((1, layout.batch, hidden))
        outputs = x.new_empty((*x.shape[:-1], hidden)), h, torch.empty_like(h)
        lanes, entry = plan.lanes(layout, dtype), _entry_points()
        ctx.record = record = _vectors(plan.records(layout, lanes, recording), lanes, dtype)
        ctx.plan, ctx.layout, ctx.call = plan, layout, (*layout.numbers, reverse)
        finite = (entry.product_forward if plan.product else entry.state_forward)(
            *plan.arguments[dtype],
            ctx.call,
            _addresses(given),
            _addresses(outputs),
            recording,
            _vectors(plan.work[dtype, lanes][0], lanes, dtype),
            record,
        )
        if check and not finite:
            require_finite(x)
        return outputs

    @staticmethod
    def backward(ctx, *cotangents: Tensor | None):
        return (_refusing if torch.is_grad_enabled() else _backward)(ctx, *cotangents)


def _backward(ctx, *cotangents):
    plan, given, d_outputs = ctx.plan, _contiguous(ctx.saved_tensors), _contiguous(cotangents)
    dtype, lanes, entry = given[0].dtype, plan.lanes(ctx.layout, given[0].dtype), _entry_points()
    # Cotangents of all parameters, whoever asks for them; of inputs and initial states only if somebody does.
    found = [
        None if t is None or k < 3 and not needed else torch.empty_like(t)
        for k, (t, needed) in enumerate(zip(given, ctx.needs_input_grad[5:], strict=True))
    ]
    (entry.product_backward if plan.product else entry.state_backward)(
        *plan.arguments[dtype],
        ctx.call,
        _addresses(given),
        _addresses(d_outputs),
        _addresses(found),
        _vectors(plan.work[dtype, lanes][1], lanes, dtype),
        ctx.record,
    )
    return None, None, None, None, None, *found


_refusing = first_derivative_only(_backward)
