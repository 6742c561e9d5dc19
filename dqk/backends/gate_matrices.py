"""The small matrices of a plan for all samples at once, in torch: on any device, differentiable in the angles."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from dqk.backends.batching import Matrices, Plan, spectrum

Group = tuple[int, bool]


class Operands:
    """What the steps of a plan apply.

    Args:
        plan: the plan.
        angles: data angles, shape (N, A_d).
        shared: shared angles, shape (A_s,).

    Attributes:
        angles: of every gate, shape (N, gates); 1 for a gate without one.
        stacks: matrices by group, shape (K, N, d, d), or (K, 1, d, d) where they are the same for all samples; contiguous.
    """

    def __init__(self, plan: Plan, angles: Tensor, shared: Tensor):
        self.plan = plan
        self.angles = gate_angles(plan, angles, shared)
        self.stacks: dict[Group, Tensor] = {}
        for group, members in plan.groups.items():
            # Without samples nothing is broadcast either.
            of = self.angles if group[1] else self.angles[:1]
            self.stacks[group] = _products(plan, group, [step.gates for step in members], of)

    def of(self, step: Matrices) -> Tensor:
        """Its matrices, shape (N, d, d) or (1, d, d)."""
        return self.stacks[step.group][step.index]


def complex_of(dtype: torch.dtype) -> torch.dtype:
    """complex64 for float32, else complex128."""
    return torch.complex64 if dtype == torch.float32 else torch.complex128


def gate_angles(plan: Plan, angles: Tensor, shared: Tensor) -> Tensor:
    """The signed angle of every gate, shape (N, gates)."""
    columns, factors, constants = _columns(plan, angles.dtype, angles.device)
    every = torch.cat([angles, shared.expand(len(angles), -1), angles.new_zeros(len(angles), 1)], dim=1)
    # One gate has a column, and no two the same but that of zeros: backward adds in no order that matters.
    return every.index_select(1, columns) * factors + constants


@lru_cache(maxsize=256)
def _columns(plan: Plan, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    circuit = plan.circuit
    offset, zero = {"data": 0, "shared": circuit.n_data}, circuit.n_data + circuit.n_shared
    columns, factors, constants = [], [], []
    for gate in circuit.gates:
        operand = gate.operand
        if operand is None or operand.kind == "constant":
            columns.append(zero)
            factors.append(0.0)
            constants.append(1.0 if operand is None else operand.value)
        else:
            columns.append(offset[operand.kind] + operand.column)
            factors.append(operand.value)
            constants.append(0.0)
    scales, offsets = (torch.tensor(values, dtype=dtype, device=device) for values in (factors, constants))
    return torch.tensor(columns, dtype=torch.int64, device=device), scales, offsets


def _products(plan: Plan, group: Group, members: list[list[int]], angles: Tensor) -> Tensor:
    """Products of the matrices of so many lists of gates, shape (K, N, d, d)."""
    product: Tensor | None = None
    for k in range(max(map(len, members))):
        columns, values, parts = _spectra(plan, group, k, angles.dtype, angles.device)
        phases = angles.index_select(1, columns)[:, :, None] * values
        factor = torch.einsum("nks,ksab->knab", torch.polar(torch.ones_like(phases), -phases), parts)
        # By elements: a batched product of so small matrices is slower on a GPU than the sums written out.
        product = factor if product is None else (factor[..., :, :, None] * product[..., None, :, :]).sum(-2)
    assert product is not None
    return product.contiguous()


@lru_cache(maxsize=256)
def _spectra(
    plan: Plan, group: Group, k: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the k-th gate of each matrix: column of its angle (K,), numbers (K, d) and matrices (K, d, d, d), see `spectrum`."""
    side, last = 2 ** group[0], len(plan.circuit.gates) - 1
    columns, values, parts = [], [], []
    for step in plan.groups[group]:
        present = k < len(step.gates)
        columns.append(step.gates[k] if present else last)
        if present:
            numbers, matrices = spectrum(plan.circuit.gates[step.gates[k]])
        else:  # the identity
            numbers, matrices = torch.zeros(side).numpy(), torch.zeros(side, side, side).numpy()
            matrices[0] = torch.eye(side).numpy()
        values.append(torch.as_tensor(numbers, dtype=dtype))
        parts.append(torch.as_tensor(matrices, dtype=complex_of(dtype)))
    return torch.tensor(columns, device=device), torch.stack(values).to(device), torch.stack(parts).to(device)
