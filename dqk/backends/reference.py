"""The oracle: dense states in plain torch, gate by gate. Slow, obvious, differentiable by torch itself, on any torch device.

Choose it to check another backend, never for speed. Wire 0 is the most significant bit of a basis-state index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dqk.backends.base import Capabilities, EncodingBackend
from dqk.circuit import Circuit, Gate

_PAULI = {
    "X": torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128),
    "Y": torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128),
    "Z": torch.tensor([[1, 0], [0, -1]], dtype=torch.complex128),
}


class ReferenceBackend(EncodingBackend):
    """Dense statevectors by `exp(-i theta G) = V diag(exp(-i theta lambda)) V^dagger`, in complex128 or complex64.

    An encoding has shape (2, 2**n, N): real and imaginary parts of the amplitudes.
    """

    name = "reference"
    capabilities = Capabilities(exact=True, differentiable=True, expectations=True, max_qubits=20)

    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """States of the samples, shape (2, 2**n, N)."""
        state = _states(circuit, angles, shared)
        return torch.stack([state.real, state.imag]).movedim(1, -1).contiguous()

    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By torch's reverse mode through every gate."""
        with torch.enable_grad():
            inputs = (angles.detach().requires_grad_(), shared.detach().requires_grad_())
            return _gradients(self.encode(circuit, *inputs), inputs, cotangent)

    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """`|<b|a>|^2`, shape (N, M)."""
        inner = torch.complex(*b).mH.contiguous() @ torch.complex(*a)
        return (inner.real**2 + inner.imag**2).T

    def overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """By torch's reverse mode."""
        with torch.enable_grad():
            inputs = (a.detach().requires_grad_(), b.detach().clone().requires_grad_())
            return _gradients(self.overlap(*inputs), inputs, cotangent)

    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor:
        state = _states(circuit, ax, shared)
        values = []
        for word in observables:
            image = state
            for wire, letter in enumerate(word):
                if letter != "I":
                    image = _apply(image, _PAULI[letter].to(state), (wire,), circuit.n_qubits)
            values.append((state.conj() * image).real.sum(dim=1))
        return torch.stack(values, dim=1)

    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            inputs = (ax.detach().requires_grad_(), shared.detach().requires_grad_())
            return _gradients(self._expectations(circuit, inputs[0], observables, inputs[1]), inputs, cotangent)


def _gradients(output: Tensor, inputs: tuple[Tensor, Tensor], cotangent: Tensor) -> tuple[Tensor, Tensor]:
    if not output.requires_grad:
        return torch.zeros_like(inputs[0]), torch.zeros_like(inputs[1])
    found = torch.autograd.grad(output, inputs, cotangent, allow_unused=True)
    first, second = (torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True))
    return first, second


def _states(circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
    complex_dtype = torch.complex64 if angles.dtype == torch.float32 else torch.complex128
    state = torch.zeros(len(angles), 2**circuit.n_qubits, dtype=complex_dtype, device=angles.device)
    state[:, 0] = 1
    for gate in circuit.gates:
        state = _apply(state, _matrix(gate, angles, shared, complex_dtype), gate.wires, circuit.n_qubits)
    return state


def _matrix(gate: Gate, angles: Tensor, shared: Tensor, dtype: torch.dtype) -> Tensor:
    """The gate's matrix, shape (d, d), or (N, d, d) where it depends on the sample."""
    if gate.operand is None or gate.operand.kind == "constant":
        return torch.as_tensor(gate.unitary(), dtype=dtype, device=angles.device)
    theta = (
        angles[:, gate.operand.column, None] if gate.is_data else shared[gate.operand.column, None]
    ) * gate.operand.value
    values, vectors = torch.linalg.eigh(torch.as_tensor(gate.generator, device=angles.device))
    vectors = vectors.to(dtype)
    phases = torch.exp(-1j * theta * values.to(theta.dtype)).to(dtype)
    return (vectors * phases.unsqueeze(-2)) @ vectors.mH


def _apply(state: Tensor, matrix: Tensor, wires: tuple[int, ...], n_qubits: int) -> Tensor:
    axes = [wire + 1 for wire in wires]
    moved = state.reshape(len(state), *[2] * n_qubits).movedim(axes, list(range(1, len(axes) + 1)))
    shape = moved.shape
    result = matrix @ moved.reshape(len(state), 2 ** len(wires), 2 ** (n_qubits - len(wires)))
    return result.reshape(shape).movedim(list(range(1, len(axes) + 1)), axes).reshape(state.shape)
