"""States and kernels by PennyLane and Qiskit: the independent side of the comparisons."""

from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from qiskit.quantum_info import Statevector
from torch import Tensor


def pennylane_states(f: Callable[..., None], n_qubits: int, x: Tensor, *params: Tensor) -> Tensor:
    """States of the samples x (N, d), shape (N, 2**n), differentiable by backpropagation."""

    @qml.qnode(qml.device("default.qubit", wires=n_qubits), diff_method="backprop", interface="torch")
    def state(sample: Tensor) -> Tensor:
        f(sample, *params)
        return qml.state()

    return torch.stack([state(sample) for sample in x])  # one by one: f needs no broadcasting here


def kernel_of(states: Tensor, others: Tensor | None = None) -> Tensor:
    """`|<others_j|states_i>|^2`."""
    return (states @ (states if others is None else others).mH).abs() ** 2


def pennylane_kernel(f: Callable[..., None], n_qubits: int, x: np.ndarray, *params: Tensor) -> np.ndarray:
    """K of NumPy samples."""
    return kernel_of(pennylane_states(f, n_qubits, torch.as_tensor(x), *params)).detach().numpy()


def qiskit_kernel(circuit, x: np.ndarray) -> np.ndarray:
    """K of a parametrised Qiskit circuit, parameters in Qiskit's order."""
    states = np.stack([Statevector(circuit.assign_parameters(sample)).data for sample in x])
    return np.abs(states @ states.conj().T) ** 2
