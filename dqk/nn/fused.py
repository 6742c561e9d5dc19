"""All time steps of a QK-LSTM cell in one autograd node, differentiated by hand.

Choose it where it applies (an encoding backend, angles affine in z, one evaluation for all gates): in a small network
most of a time step is what torch records around the arithmetic. `GateCell.run` with `QKCell.begin` is the same
thing, composed.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dqk.backends import EncodingBackend
from dqk.backends.autograd import first_derivative_only
from dqk.circuit import Circuit


@dataclass(frozen=True)
class FusedPlan:
    """What a pass needs to know beside its tensors.

    Attributes:
        backend: encodes and overlaps.
        circuit: the simplified circuit.
        batch_sizes: number of sequences that reach each time step; never growing.
        reverse: from the last time step to the first.
        same_kernel: whether all gates read the same kernel values.
        record: whether a backward pass may follow.
    """

    backend: EncodingBackend
    circuit: Circuit
    batch_sizes: Sequence[int]
    reverse: bool
    same_kernel: bool
    record: bool

    @property
    def times(self) -> range:
        """Time steps in the order in which they run."""
        count = len(self.batch_sizes)
        return range(count - 1, -1, -1) if self.reverse else range(count)


def run_fused(
    plan: FusedPlan,
    projected: Tensor,
    hidden: Tensor,
    alpha: Tensor,
    gate_bias: Tensor,
    encoded: Tensor,
    shared: Tensor,
    h0: Tensor,
    c0: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One cell over all time steps; differentiable in every tensor.

    Args:
        plan: see `FusedPlan`.
        projected: what the inputs add to the angles, shape (S, P), P = A_d, or 4 A_d if the gates project apart.
        hidden: from hidden state to angles, shape (H, P).
        alpha: readout with the kernel scale, shape (4, N, H).
        gate_bias: b_g, shape (4, 1, H), or one zero.
        encoded: encoded references, shape (..., M).
        shared: shared angles, shape (A_s,).
        h0: initial hidden states, shape (B, H).
        c0: initial cell states, shape (B, H).

    Returns:
        Outputs (S, H) and the last hidden and cell states (B, H) of every sequence.
    """
    return _Fused.apply(plan, projected, hidden, alpha, gate_bias, encoded, shared, h0, c0)


@dataclass(frozen=True, slots=True)
class _Record:
    """One time step, as its backward pass needs it."""

    h: Tensor
    c: Tensor
    angles: Tensor
    states: Tensor
    kernel: Tensor
    switches: Tensor
    candidate: Tensor
    bounded: Tensor


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan: FusedPlan, projected, hidden, alpha, gate_bias, encoded, shared, h0, c0):
        backend, circuit, batch, (_, n_references, _) = plan.backend, plan.circuit, len(h0), alpha.shape
        rows = projected.split(list(plan.batch_sizes))
        prepared = backend.prepare(encoded)
        outputs: list[Tensor] = [h0] * len(rows)
        records: list[_Record | None] = [None] * len(rows)
        h_all, c_all = h0, c0
        for t in plan.times:
            size = plan.batch_sizes[t]
            h, c = (h_all, c_all) if size == batch else (h_all[:size], c_all[:size])
            angles = torch.addmm(rows[t], h, hidden).view(-1, circuit.n_data)
            states = backend.encode(circuit, angles, shared)
            kernel = backend.overlap(backend.prepare(states), prepared)
            if plan.same_kernel:
                kernel = kernel.expand(4, -1, -1)
            else:
                kernel = kernel.view(size, 4, n_references).transpose(0, 1)
            gates = torch.baddbmm(gate_bias, kernel, alpha)
            switches, candidate = gates[:3].sigmoid(), gates[3].tanh()
            forget, write, show = switches.unbind(0)
            c_new = torch.addcmul(forget * c, write, candidate)
            bounded = c_new.tanh()
            outputs[t] = h_new = show * bounded
            if plan.record:
                records[t] = _Record(h, c, angles, states, kernel, switches, candidate, bounded)
            if size < batch:  # the other sequences have ended, or begin later
                h_new, c_new = torch.cat((h_new, h_all[size:])), torch.cat((c_new, c_all[size:]))
            h_all, c_all = h_new, c_new
        ctx.plan, ctx.records, ctx.prepared = plan, records, prepared
        # Saved beyond what backward reads: torch notices when a user overwrites h0 or c0, to which the first record refers,
        # and every input anchors the refusal of a second derivative.
        ctx.save_for_backward(hidden, alpha, encoded, shared, h0, c0, projected, gate_bias)
        return torch.cat(outputs), h_all, c_all

    @staticmethod
    @first_derivative_only
    def backward(ctx, d_outputs: Tensor, d_h_all: Tensor, d_c_all: Tensor):
        plan, records, prepared = ctx.plan, ctx.records, ctx.prepared
        backend, circuit, (hidden, alpha, encoded, shared, *_) = plan.backend, plan.circuit, ctx.saved_tensors
        d_rows = list(d_outputs.split(list(plan.batch_sizes)))
        gates: list[Tensor] = [d_outputs] * len(d_rows)
        d_encoded, d_shared = torch.zeros_like(encoded), torch.zeros_like(shared)
        hidden_t, alpha_t = hidden.t(), alpha.transpose(1, 2)
        for t in reversed(plan.times):
            r, size = records[t], plan.batch_sizes[t]
            all_run = size == len(d_h_all)
            d_h, d_c = (d_h_all, d_c_all) if all_run else (d_h_all[:size], d_c_all[:size])
            d_h = d_h + d_rows[t]
            gates[t], d_c = _update_vjp(r, d_h, d_c)
            d_kernel = torch.bmm(gates[t], alpha_t)
            d_kernel = d_kernel.sum(0) if plan.same_kernel else d_kernel.transpose(0, 1).reshape(len(r.angles), -1)
            d_states, part = backend.overlap_vjp(backend.prepare(r.states), prepared, d_kernel)
            d_encoded += part
            d_angles, part = backend.encode_vjp(circuit, r.angles, shared, r.states, d_states)
            d_shared += part
            d_rows[t] = d_angles.view(size, -1)
            d_h = d_rows[t] @ hidden_t
            if not all_run:
                d_h, d_c = torch.cat((d_h, d_h_all[size:])), torch.cat((d_c, d_c_all[size:]))
            d_h_all, d_c_all = d_h, d_c
        d_projected, d_gates = torch.cat(d_rows), torch.cat(gates, dim=1)
        d_hidden = torch.cat([r.h for r in records]).t() @ d_projected
        d_alpha = torch.bmm(torch.cat([r.kernel for r in records], dim=1).transpose(1, 2), d_gates)
        d_bias = d_gates.sum(1, keepdim=True) if ctx.needs_input_grad[4] else None
        return None, d_projected, d_hidden, d_alpha, d_bias, d_encoded, d_shared, d_h_all, d_c_all


def _update_vjp(r: _Record, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, Tensor]:
    """Cotangents of the pre-activations (4, b, H) and of the cell states that came in, from those of the new states."""
    forget, write, show = r.switches.unbind(0)
    d_new = d_c + torch.ops.aten.tanh_backward(d_h * show, r.bounded)
    d_switches = torch.stack((d_new * r.c, d_new * r.candidate, d_h * r.bounded))
    d_switches = torch.ops.aten.sigmoid_backward(d_switches, r.switches)
    d_candidate = torch.ops.aten.tanh_backward(d_new * write, r.candidate)
    return torch.cat((d_switches, d_candidate.unsqueeze(0))), d_new * forget
