"""Prepares states, and sweeps back through them, by one Triton kernel for each circuit.

Choose it for up to about 10 qubits, where a launch for each gate costs more than the gate. Amplitudes stay in registers for a
round of gates and in the nearest cache between rounds. With TRITON_INTERPRET=1 in the environment before Triton is imported the
same kernels run on the CPU, slowly.
"""

from __future__ import annotations

import linecache
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dqk.backends import gpu
from dqk.backends.batching import Plan
from dqk.backends.fused_rounds import coefficients
from dqk.backends.fused_source import LANES, POINTERS, run_source, sweep_source
from dqk.backends.gate_matrices import Operands
from dqk.errors import BackendUnavailableError

LOCAL_WIRES = {"run": 3, "sweep": 2}
"""More of them save passes through memory, take more registers, and let Triton compile for minutes instead of seconds."""


def run_fused(plan: Plan, operands: Operands, out: Tensor) -> None:
    """Writes the states of N samples to `out`, shape (N, stride), as `run_plan` does."""
    if len(out):
        kernel = _kernel(plan, "run", out.real.itemsize)
        arguments = [*_matrices(operands, out), _coefficients(plan, operands)]
        _launch(plan, "run", kernel, out, torch.view_as_real(out), *arguments)


def sweep_fused(plan: Plan, operands: Operands, states: Tensor) -> tuple[dict[tuple[int, bool], Tensor], Tensor]:
    """Cotangents of `operands.stacks` and `operands.angles`, as `sweep_plan` finds them. `states` are overwritten."""
    count = len(states) // 2
    kernel = _kernel(plan, "sweep", states.real.itemsize)
    matrices, coefficient = _matrices(operands, states), _coefficients(plan, operands)
    outer = {group: stack.new_empty(len(stack), count, *stack.shape[2:]) for group, stack in operands.stacks.items()}
    gradients = [torch.view_as_real(outer[group]) if group in outer else matrices[0] for group in POINTERS]
    of_coefficient = torch.empty_like(coefficient)
    both = torch.view_as_real(states)
    arguments = (both[:count], both[count:], *matrices, coefficient, *gradients, of_coefficient)
    _launch(plan, "sweep", kernel, states[:count], *arguments)
    of_stacks = {}
    for group, stack in operands.stacks.items():
        part = stack @ outer[group]
        of_stacks[group] = part if group[1] else part.sum(1, keepdim=True)
    return of_stacks, of_coefficient @ _factors(plan, coefficient.dtype, coefficient.device).T


def _launch(plan: Plan, name: str, kernel: Any, states: Tensor, *arguments: Tensor) -> None:
    rest = 2 ** max(0, plan.circuit.n_qubits - LOCAL_WIRES[name])
    lanes = max(LANES, rest)
    samples = lanes // rest
    with gpu.current(states.device):
        kernel[(-(-len(states) // samples),)](*arguments, len(states), num_warps=min(8, lanes // 32))


def _matrices(operands: Operands, like: Tensor) -> list[Tensor]:
    """What the kernels' pointers point to; an empty place for groups that a plan has not."""
    none = torch.view_as_real(like)[:0]
    stacks = operands.stacks
    return [torch.view_as_real(stacks[group].detach()) if group in stacks else none for group in POINTERS]


def _coefficients(plan: Plan, operands: Operands) -> Tensor:
    """Of the phases of diagonals, shape (N, columns)."""
    angles = operands.angles.detach()
    return angles @ _factors(plan, angles.dtype, angles.device)


@lru_cache(maxsize=128)
def _factors(plan: Plan, dtype: torch.dtype, device: torch.device) -> Tensor:
    """From angles of gates to coefficients, shape (gates, columns)."""
    columns, entries = coefficients(plan)
    table = torch.zeros(len(plan.circuit.gates), sum(map(len, columns.values())), dtype=torch.float64)
    for gate, column, factor in entries:
        table[gate, column] += factor
    return table.to(dtype=dtype, device=device)


@lru_cache(maxsize=128)
def _kernel(plan: Plan, name: str, itemsize: int) -> Any:
    """A circuit's kernel; Triton compiles it when it is first launched and keeps the result on disk."""
    try:
        import triton  # noqa: F401  # the source needs it
    except ImportError as error:
        raise BackendUnavailableError(
            "backend 'custatevec' with fused=True needs Triton, which CUDA builds of torch bring on Linux: pip install triton; "
            "or use CuStateVecBackend(fused=False)"
        ) from error
    write = {"run": run_source, "sweep": sweep_source}[name]
    source = write(plan, itemsize, LOCAL_WIRES[name])
    # Triton reads the source of a function where `inspect` finds it.
    file = f"<dqk {name} {plan.circuit.digest[:16]} {itemsize}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    names: dict[str, Any] = {"__name__": "dqk.backends._triton_states"}
    exec(compile(source, file, "exec"), names)
    return names[name]
