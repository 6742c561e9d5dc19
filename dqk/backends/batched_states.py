"""Runs a plan on the states of many samples, forwards and backwards, in torch on any device.

Small matrices are applied by whoever is given as `apply` (cuStateVec); the rest are a few passes over the states. States are
complex, one row for each sample, shape (N, stride), of which the first 2**n numbers count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from dqk.backends.batching import (
    Diagonal,
    Matrices,
    Permutation,
    Plan,
    Step,
    basis_codes,
    slopes,
    source_states,
)
from dqk.backends.gate_matrices import Operands

Apply = Callable[[Tensor, Tensor, tuple[int, ...], bool], None]
"""`apply(states, matrices, wires, adjoint)` in place; as many matrices as states, or one for all."""

_TABLE = 2**22  # numbers


def run_plan(plan: Plan, operands: Operands, apply: Apply, out: Tensor) -> None:
    """Writes the states of N samples to `out`, shape (N, stride)."""
    n = plan.circuit.n_qubits
    moves = sum(isinstance(step, Permutation) for step in plan.later)
    # A permutation writes to other memory than it reads from; the last one writes to `out`.
    states, other = (torch.empty_like(out), out) if moves % 2 else (out, torch.empty_like(out) if moves else out)
    states[:, : 2**n] = _product_state(plan, operands, out)
    for step in plan.later:
        if isinstance(step, Permutation):
            _permute(plan, step, states, other, False)
            states, other = other, states
        else:
            _in_place(plan, operands, step, apply, states)


def sweep_plan(
    plan: Plan, operands: Operands, apply: Apply, states: Tensor
) -> tuple[dict[tuple[int, bool], Tensor], Tensor]:
    """Takes every step back, from states and their cotangents, and finds the cotangents of what the steps apply.

    With `d out = M d in` and a cotangent c of the states, the cotangent of M is `sum c_a conj(in_b)` over the other wires.

    Args:
        plan: the plan.
        operands: of N samples.
        apply: applies matrices to 2 N states, of which a half may share the matrices of the other one.
        states: shape (2 N, stride): final states, then their cotangents. Overwritten.

    Returns:
        Cotangents of `operands.stacks` and of `operands.angles`.
    """
    of_stacks = {group: torch.zeros_like(stack) for group, stack in operands.stacks.items()}
    of_angles = torch.zeros_like(operands.angles)
    other = torch.empty_like(states) if any(isinstance(step, Permutation) for step in plan.steps) else states
    size, count = 2**plan.circuit.n_qubits, len(states) // 2
    for step in reversed(plan.steps):
        psi, cotangent = states[:count, :size], states[count:, :size]
        if isinstance(step, Permutation):
            _permute(plan, step, states, other, True)
            states, other = other, states
        elif isinstance(step, Diagonal):
            slope = (cotangent.conj() * psi).imag
            for gates, table in _phase_tables(plan, step, operands.angles):
                of_angles[:, gates] = slope @ table.T
            _in_place(plan, operands, step, apply, states, adjoint=True)
        else:
            matrices = operands.of(step)
            apply(states, matrices, step.wires, True)
            part = matrices @ _outer(cotangent, psi, step.wires, plan.circuit.n_qubits)
            of_stacks[step.group][step.index] = part if step.data else part.sum(0, keepdim=True)
    return of_stacks, of_angles


def _in_place(plan: Plan, operands: Operands, step: Step, apply: Apply, states: Tensor, adjoint: bool = False) -> None:
    if isinstance(step, Matrices):
        apply(states, operands.of(step), step.wires, adjoint)
        return
    assert isinstance(step, Diagonal)
    used = states[:, : 2**plan.circuit.n_qubits].unflatten(0, (-1, len(operands.angles)))
    for gates, table in _phase_tables(plan, step, operands.angles):
        phases = operands.angles[:, gates] @ table
        used *= torch.polar(torch.ones_like(phases), phases if adjoint else -phases)


def _product_state(plan: Plan, operands: Operands, like: Tensor) -> Tensor:
    """The state after the first matrices, shape (N, 2**n): wire 0 is the most significant bit."""
    state = torch.ones(len(like), 1, dtype=like.dtype, device=like.device)
    zero = torch.eye(1, 2, dtype=like.dtype, device=like.device)
    for first in plan.start:
        column = zero if first is None else operands.of(first)[:, :, 0]
        state = (state[:, :, None] * column[:, None, :]).flatten(1)
    return state


def _permute(plan: Plan, step: Permutation, states: Tensor, out: Tensor, inverse: bool) -> None:
    size = 2**plan.circuit.n_qubits
    table = _source_table(plan, step, inverse, states.device)
    if states.shape[1] == size:
        torch.index_select(states, 1, table, out=out)
    else:
        out[:, :size] = states[:, :size].index_select(1, table)


@lru_cache(maxsize=64)
def _source_table(plan: Plan, step: Permutation, inverse: bool, device: torch.device) -> Tensor:
    source = torch.from_numpy(source_states(step, plan.circuit))
    return (torch.argsort(source) if inverse else source).to(device)


def _phase_tables(plan: Plan, step: Diagonal, like: Tensor) -> list[tuple[list[int], Tensor]]:
    """Positions of gates, and their slopes at every basis state, shape (gates, 2**n): in parts of bounded memory."""
    most = max(1, _TABLE // 2**plan.circuit.n_qubits)
    parts = [tuple(step.gates[k : k + most]) for k in range(0, len(step.gates), most)]
    return [(list(gates), _phase_table(plan, gates, like.dtype, like.device)) for gates in parts]


@lru_cache(maxsize=16)
def _phase_table(plan: Plan, gates: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    rows = []
    for position in gates:
        gate = plan.circuit.gates[position]
        rows.append(torch.from_numpy(slopes(gate)[basis_codes(gate.wires, plan.circuit.n_qubits)]))
    return torch.stack(rows).to(dtype=dtype, device=device)


def _outer(cotangent: Tensor, psi: Tensor, wires: tuple[int, ...], n: int) -> Tensor:
    """`sum c_a conj(psi_b)` over all other wires, shape (N, d, d) in the order of a gate's matrix."""
    shape, left, at = [len(psi)], "n", 0
    for k, wire in enumerate(sorted(wires)):
        shape += [2 ** (wire - at), 2]
        left += "xy"[k] + "ab"[wires.index(wire)]
        at = wire + 1
    shape.append(2 ** (n - at))
    left += "z"
    right = left.replace("a", "c").replace("b", "d")
    found = torch.einsum(
        f"{left},{right}->nabcd" if len(wires) == 2 else f"{left},{right}->nac",
        cotangent.reshape(shape),
        psi.conj().reshape(shape),
    )
    return found.reshape(len(psi), 2 ** len(wires), -1)
