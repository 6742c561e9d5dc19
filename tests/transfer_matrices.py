"""The BSP map's kernel in closed form, in plain NumPy."""

import numpy as np


def bsp_by_transfer_matrices(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log K of the BSP map, shape (N, M), by 2x2 transfer matrices.

    After H, RZ(x), RY(x) a qubit is u; the chain turns the product into psi(s) = prod_j u_j(s_j xor s_{j-1}) exp(-i x_j z_j / 2)
    with s_{-1} = 0 and z = (1, -1). So <psi(y)|psi(x)> is a product of matrices over s_{j-1}, s_j with the entries
    u_j(s_j xor s_{j-1}) conj(v_j(...)) exp(-i (x_j - y_j) z / 2).
    """

    def qubit(a: np.ndarray) -> np.ndarray:
        plus = np.stack([np.exp(-0.5j * a), np.exp(0.5j * a)]) / np.sqrt(2)
        c, s = np.cos(a / 2), np.sin(a / 2)
        return np.stack([c * plus[0] - s * plus[1], s * plus[0] + c * plus[1]])

    u, v = qubit(x), qubit(y)
    vector = np.zeros((2, len(x), len(y)), complex)
    vector[0] = 1
    log = np.zeros((len(x), len(y)))
    for j in range(x.shape[1]):
        p = u[:, :, None, j] * v[:, None, :, j].conj()
        turn = np.exp(-0.5j * (x[:, None, j] - y[None, :, j]))
        vector = np.stack([(vector[0] * p[0] + vector[1] * p[1]) * turn, (vector[0] * p[1] + vector[1] * p[0]) / turn])
        size = np.abs(vector).max(axis=0)
        vector, log = vector / size, log + np.log(size)
    return 2 * (log + np.log(np.abs(vector.sum(axis=0))))
