"""The QK-LSTM and the QLSTM transcribed for PennyLane and NumPy: one number at a time, nothing batched.

Shares no code with dqk: circuits are PennyLane's, weights come as a state dict of NumPy arrays.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pennylane as qml

Array = np.ndarray
Weights = dict[str, Array]


def _hadamards(n: int) -> None:
    for q in range(n):
        qml.Hadamard(q)


def _chain(n: int) -> None:
    for q in range(n - 1):
        qml.CNOT([q, q + 1])


def _qklstm(x: Array, params: Array, n: int) -> None:
    _hadamards(n)
    for q in range(n):
        qml.RY(x[q], q)
        qml.RZ(x[q], q)
    _chain(n)


def _qklstm_pair(x: Array, params: Array, n: int) -> None:
    _hadamards(n)
    for q in range(n):
        qml.RY(x[2 * q], q)
        qml.RZ(x[2 * q + 1], q)
    _chain(n)


def _offset(x: Array, params: Array, n: int) -> None:
    _hadamards(n)
    for q in range(n):
        qml.RY(0.5 + 1.5 * x[q], q)
        qml.RZ(-0.7 - x[q], q)
    for q in range(n - 1):
        qml.CZ([q, q + 1])
    for q in range(n):
        qml.RY(0.4, q)


def _bsp(x: Array, params: Array, n: int) -> None:
    _hadamards(n)
    for q in range(n):
        qml.RZ(x[q], q)
        qml.RY(x[q], q)
    _chain(n)
    for q in range(n):
        qml.RZ(x[q], q)


def _zz(x: Array, params: Array, n: int) -> None:
    for _ in range(2):
        _hadamards(n)
        for q in range(n):
            qml.PhaseShift(2 * x[q], q)
        for i in range(n):
            for j in range(i + 1, n):
                qml.CNOT([i, j])
                qml.PhaseShift(2 * (np.pi - x[i]) * (np.pi - x[j]), j)
                qml.CNOT([i, j])


def _iqp(x: Array, params: Array, n: int) -> None:
    qml.IQPEmbedding(x, range(n))


def _uploads(x: Array, n: int, scales: Array, rotations: Array | None) -> None:
    _hadamards(n)
    for layer in range(len(scales)):
        for q in range(n):
            if rotations is not None:
                qml.RY(rotations[layer, q, 0], q)
                qml.RZ(rotations[layer, q, 1], q)
        for q in range(n):
            qml.RY(scales[layer, q, 0] * x[q], q)
            qml.RZ(scales[layer, q, 1] * x[q], q)
        for q in range(n):
            qml.CNOT([q, (q + 1) % n])


def _reuploading(x: Array, params: Array, n: int) -> None:
    _uploads(x, n, np.ones((2, n, 2)), None)


def _scale(x: Array, params: Array, n: int) -> None:
    _uploads(x, n, params.reshape(-1, n, 2), None)


def _rotations(x: Array, params: Array, n: int) -> None:
    rotations = params.reshape(-1, n, 2)
    _uploads(x, n, np.ones_like(rotations), rotations)


MAPS: dict[str, Callable[[Array, Array, int], None]] = {
    "qklstm": _qklstm,
    "qklstm_pair": _qklstm_pair,
    "offset": _offset,
    "bsp": _bsp,
    "zz": _zz,
    "iqp": _iqp,
    "reuploading": _reuploading,
    "scale": _scale,
    "rotations": _rotations,
}


@lru_cache
def _probability_of_zero(name: str, n: int) -> Callable[[Array, Array, Array], float]:
    @qml.qnode(qml.device("default.qubit", wires=n))
    def compute_uncompute(x: Array, y: Array, params: Array) -> object:
        MAPS[name](x, params, n)
        qml.adjoint(MAPS[name])(y, params, n)
        return qml.probs(wires=range(n))

    return lambda x, y, params: float(compute_uncompute(x, y, params)[0])


def _sigmoid(value: Array) -> Array:
    return 1 / (1 + np.exp(-value))


def _lstm(gate: Callable[[int, Array], Array], inputs: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
    """Runs the LSTM update over one sequence; gates are numbered forget, input, output, cell."""
    outputs = []
    for x in inputs:
        v = np.concatenate([h, x])
        f, i, o = (_sigmoid(gate(g, v)) for g in range(3))
        c = f * c + i * np.tanh(gate(3, v))
        h = o * np.tanh(c)
        outputs.append(h)
    return np.array(outputs), h, c


def qk_lstm(
    weights: Weights, inputs: Array, h: Array, c: Array, map_name: str, n_qubits: int, scale: float, bandwidth: float
) -> tuple[Array, Array, Array]:
    """Equation (3) of arXiv 2411.13225 for one sequence (T, D); weights by their names in a cell's state dict.

    What differs between the gates is read off the shapes of the weights.
    """
    kernel = _probability_of_zero(map_name, n_qubits)
    alpha, references = weights["alpha"], weights["references"]
    input_space = references.shape[2] == len(h) + inputs.shape[1]

    def project(g: int, v: Array) -> Array:
        if "projection.weight" not in weights:
            return v
        matrix, offset = weights["projection.weight"], weights["projection.bias"]
        n_features = {"qklstm_pair": 2 * n_qubits}.get(map_name, n_qubits)
        rows = slice(g * n_features, (g + 1) * n_features) if len(matrix) > n_features else slice(None)
        return np.array([row @ v + b for row, b in zip(matrix[rows], offset[rows], strict=True)])

    def of_gate(name: str, g: int) -> Array:
        return weights[name][g if len(weights[name]) == 4 else 0]

    def gate(g: int, v: Array) -> Array:
        params = of_gate("params", g) if "params" in weights else np.empty(0)
        total = np.array(of_gate("gate_bias", g) if "gate_bias" in weights else 0.0)
        for j in range(alpha.shape[1]):
            r = of_gate("references", g)[j]
            r = project(g, r) if input_space else r
            total = total + of_gate("alpha", g)[j] * scale * kernel(bandwidth * project(g, v), bandwidth * r, params)
        return np.broadcast_to(total, h.shape)

    return _lstm(gate, inputs, h, c)


@lru_cache
def _variational(n: int, n_layers: int) -> Callable[[Array, Array], Array]:
    @qml.qnode(qml.device("default.qubit", wires=n))
    def circuit(y: Array, angles: Array) -> object:
        qml.AngleEmbedding(y, wires=range(n), rotation="X")
        qml.BasicEntanglerLayers(angles, wires=range(n), rotation=qml.RX)
        return [qml.expval(qml.PauliZ(q)) for q in range(n)]

    return lambda y, angles: np.array(circuit(y, angles.reshape(n_layers, n)))


def q_lstm(weights: Weights, inputs: Array, h: Array, c: Array, n_layers: int) -> tuple[Array, Array, Array]:
    """The QLSTM for one sequence (T, D), with linear maps shared by the gates."""
    n_qubits = len(weights["projection.weight"])
    circuit = _variational(n_qubits, n_layers)

    def gate(g: int, v: Array) -> Array:
        y = weights["projection.weight"] @ v + weights["projection.bias"]
        return weights["readout.weight"] @ circuit(y, weights["weights"][g]) + weights["readout.bias"]

    return _lstm(gate, inputs, h, c)
