"""Feature maps from PennyLane functions against PennyLane's own states, and everything that is refused."""

import copy
import sys

import numpy as np
import pennylane as qml
import pytest
import torch

from dqk import FidelityKernel
from dqk.circuit import Circuit, Gate, constant, data, shared, simplify_for_fidelity
from dqk.errors import BackendUnavailableError, InvalidInputError
from dqk.kernels.feature_maps import from_pennylane
from tests.cases import random_unitary, templates
from tests.kernels.quantum import kernel_of, pennylane_kernel, pennylane_states


def angle_embedding(x):
    qml.AngleEmbedding(x, wires=range(3), rotation="Y")
    qml.CNOT([0, 2])
    qml.AngleEmbedding(x, wires=range(3), rotation="Z")
    qml.AngleEmbedding(x**2, wires=range(3))


def iqp_embedding(x):
    qml.IQPEmbedding(x, wires=range(3), n_repeats=2)


def strongly_entangling(x, params):
    qml.AngleEmbedding(x, wires=range(3))
    qml.StronglyEntanglingLayers(params.reshape(2, 3, 3), wires=range(3))
    qml.AngleEmbedding(x, wires=range(3))


def adjoints(x, params):
    qml.adjoint(qml.AngleEmbedding)(x, wires=range(3))
    qml.adjoint(strongly_entangling)(x, params)
    qml.adjoint(qml.S)(1)
    qml.adjoint(qml.RY)(x[..., 0], 1)
    qml.pow(qml.RX(x[..., 1], 2), 2)
    qml.adjoint(qml.QFT)(wires=range(3))
    qml.RX(x[..., 2], 0)


def controlled(x, params):
    for q in range(3):
        qml.Hadamard(q)
    qml.ctrl(qml.RX, control=0)(x[..., 0], wires=2)
    qml.ctrl(qml.RY(x[..., 1] * params[0], 1), control=2, control_values=[0])
    qml.ctrl(qml.Rot, control=1)(x[..., 0], params[1], x[..., 2], wires=0)
    qml.ctrl(qml.GlobalPhase(x[..., 0]), control=2)
    qml.ControlledPhaseShift(x[..., 1], wires=[2, 0])
    qml.ctrl(qml.PhaseShift(params[2], 1), control=[0, 2])
    qml.Toffoli(wires=[2, 0, 1])
    qml.MultiControlledX(wires=[0, 1, 2], control_values=[0, 1])
    qml.CSWAP(wires=[0, 1, 2])
    qml.RY(x[..., 2], 1)


def many_gates(x, params):
    qml.Rot(x[..., 0], params[0], x[..., 1], wires=0)
    qml.U3(x[..., 0], params[1], x[..., 2], wires=1)
    qml.MultiRZ(x[..., 1], wires=[2])
    qml.MultiRZ(x[..., 1], wires=[2, 0])
    qml.MultiRZ(x[..., 2] * x[..., 0], wires=[0, 2, 1])
    qml.PauliRot(params[2] * x[..., 0], "XYZ", wires=[2, 1, 0])
    qml.IsingXY(x[..., 1], wires=[1, 2])
    qml.SingleExcitation(x[..., 1], wires=[0, 1])
    qml.PSWAP(x[..., 2], wires=[1, 2])
    qml.T(0)
    qml.SX(1)
    qml.ISWAP([0, 2])
    qml.ECR([1, 0])
    qml.Barrier(wires=[0])
    qml.GlobalPhase(x[..., 0])
    qml.Identity(1)
    qml.ArbitraryUnitary(torch.arange(15.0) / 7, wires=[2, 1])
    qml.RX(x[..., 0], 1)


def unitaries(x):
    qml.AngleEmbedding(x, wires=range(3))
    qml.QubitUnitary(random_unitary(2, 1), wires=1)
    qml.QubitUnitary(random_unitary(4, 2), wires=[2, 0])
    qml.DiagonalQubitUnitary(np.exp(1j * np.arange(4)), wires=[1, 2])
    qml.QubitUnitary(random_unitary(8, 3), wires=[1, 2, 0])
    qml.AngleEmbedding(x, wires=range(3), rotation="Y")


def evolutions(x, params):
    qml.BasisState([1, 0, 1], wires=range(3))
    qml.RY(x[..., 1], 0)
    qml.evolve(qml.X(0) @ qml.X(1), x[..., 0])
    qml.TrotterProduct(qml.dot([1.0, 0.5], [qml.X(0), qml.Z(0) @ qml.Z(2)]), 0.3, n=2)
    qml.prod(qml.RX(params[0], 0), qml.RZ(x[..., 2], 1))
    qml.RX(x[..., 1], 1)


def not_broadcast_by_pennylane(x):
    """PennyLane cannot decompose these for a batch of angles, so that samples are decomposed one by one."""
    qml.AngleEmbedding(x, wires=range(3), rotation="Y")
    qml.ctrl(qml.RX(x[..., 0], 1), control=[0, 2])
    qml.exp(qml.Y(0) @ qml.Y(2), 1j * x[..., 1])
    qml.FermionicSWAP(x[..., 2], wires=[0, 1])
    qml.RX(x[..., 0], 1)


def matrix_of_the_data(x):
    c, s = torch.cos(x[..., 0]), torch.sin(x[..., 0])
    qml.Hadamard(0)
    qml.QubitUnitary(torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2) + 0j, wires=0)
    qml.RZ(x[..., 1], 0)
    qml.RX(x[..., 2], 0)


def late_parameters(x, params):
    qml.RX(torch.sin(x[..., 0]) * params[0] + x[..., 2], 0)
    qml.RY(params[1] ** 2, 0)
    qml.RY(0.25, 0)
    qml.RY(params[0] * params[1], 1)
    qml.CNOT([0, 1])
    qml.RY(x[..., 1], 1)
    qml.RX(x[..., 1], 0)


CASES = [
    (angle_embedding, 0),
    (iqp_embedding, 0),
    (strongly_entangling, 18),
    (adjoints, 18),
    (controlled, 3),
    (many_gates, 3),
    (unitaries, 0),
    (evolutions, 1),
    (not_broadcast_by_pennylane, 0),
    (matrix_of_the_data, 0),
    (late_parameters, 2),
    (templates, 9),
]


def kernel_for(f, n_params: int, **options) -> FidelityKernel:
    return FidelityKernel(from_pennylane(f, 3, 3, n_params, **options)).double()


def samples(n: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 2, (n, 3))


@pytest.mark.parametrize(("f", "n_params"), CASES, ids=[f.__name__ for f, _ in CASES])
def test_kernel_is_pennylanes(f, n_params):
    kernel = kernel_for(f, n_params)
    assert kernel.feature_map.name == f.__name__
    params = [] if kernel.params is None else [kernel.params.detach()]
    expected = pennylane_kernel(f, 3, samples(), *params)
    np.testing.assert_allclose(kernel(samples()), expected, atol=1e-12, rtol=1e-11)
    np.testing.assert_allclose(kernel(samples(1), samples()), expected[:1], atol=1e-12, rtol=1e-11)


@pytest.mark.parametrize(("f", "n_params"), CASES, ids=[f.__name__ for f, _ in CASES])
def test_gradient_is_pennylanes(f, n_params):
    kernel = kernel_for(f, n_params)
    x, weights = torch.as_tensor(samples(3)), torch.as_tensor(samples(3, seed=1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    params = [] if kernel.params is None else [kernel.params.detach().clone().requires_grad_()]
    (kernel(ours) * weights).sum().backward()
    (kernel_of(pennylane_states(f, 3, theirs, *params)) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-10, rtol=1e-9)
    if params:
        torch.testing.assert_close(kernel.params.grad, params[0].grad, atol=1e-10, rtol=1e-9)


def test_columns_follow_dependence():
    feature_map = from_pennylane(late_parameters, 2, 3, 2)
    assert feature_map.circuit == Circuit(
        2,
        (
            Gate("rx", (0,), data(0)),
            Gate("ry", (0,), shared(0)),
            Gate("ry", (0,), constant(0.25)),
            Gate("ry", (1,), shared(1)),
            Gate("cx", (0, 1)),
            Gate("ry", (1,), data(1)),
            Gate("rx", (0,), data(2)),
        ),
        n_data=3,
        n_shared=2,
    )
    x, params = torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]).double(), torch.tensor([2.0, 3.0]).double()
    angles, weights = feature_map.angles(x, params)
    expected = torch.stack([torch.sin(x[:, 0]) * 2 + x[:, 2], x[:, 1], x[:, 1]], 1)
    torch.testing.assert_close(angles, expected, atol=1e-15, rtol=1e-15)
    assert weights.tolist() == [9.0, 6.0]
    assert not angles.requires_grad and not weights.requires_grad
    single, _ = feature_map.angles(x.float(), params.float())
    assert single.dtype == torch.float32


def test_named_gates_stay_what_they_are():
    circuit = from_pennylane(iqp_embedding, 3, 3).circuit
    assert {gate.name for gate in circuit.gates} == {"h", "rz", "rzz"}
    assert simplify_for_fidelity(circuit).removed == ()
    assert from_pennylane(lambda x: (qml.T(0), qml.RX(x[..., 0], 0)), 1, 1).circuit.gates[0].name == "unitary"


def test_bandwidth_and_copies():
    kernel = kernel_for(strongly_entangling, 18, bandwidth=0.4)
    twin = copy.deepcopy(kernel)
    expected = pennylane_kernel(strongly_entangling, 3, 0.4 * samples(), kernel.params.detach())
    np.testing.assert_allclose(twin(samples()), expected, atol=1e-12)
    kernel(torch.as_tensor(samples()).requires_grad_()).sum().backward()
    copy.deepcopy(kernel)


def test_angles_work_inside_and_outside_of_a_graph():
    feature_map = from_pennylane(late_parameters, 2, 3, 2)
    x, params = torch.as_tensor(samples()).requires_grad_(), torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        assert not feature_map.angles(x, params)[0].requires_grad
    inner = (2 * x).tanh()  # not a leaf
    (gradient,) = torch.autograd.grad(feature_map.angles(inner, params)[0][:, 1].sum(), x)
    torch.testing.assert_close(gradient[:, 1], 2 * (1 - inner[:, 1] ** 2))
    assert not gradient[:, 2].any()


def rx(x):
    qml.RX(x[..., 0], 0)


def with_measurement(x):
    rx(x)
    return qml.expval(qml.Z(0))


def mid_circuit_measurement(x):
    rx(x)
    outcome = qml.measure(0)
    qml.cond(outcome, qml.RX)(x[..., 0], 1)


def other_gates_for_positive_data(x):
    (qml.RX if (x > 0).all() else qml.RY)(x[..., 0], 0)


def more_gates_for_large_parameters(x, params):
    rx(x)
    if params[0] > 0:
        qml.RX(params[1], 1)


def branches_on_one_value(x):
    (qml.RX if x[..., 0] > 0 else qml.RY)(x[..., 0], 0)


def leaves_the_graph(x):
    qml.RX(x.sum().item(), 0)


def numpy_angles(x):
    qml.RX(np.sin(x[..., 0].detach().numpy()), 0)


def partly_detached(x, params):
    rx(x)
    qml.RX(params[0] * x.sum().item(), 1)


def mixes_samples(x):
    qml.RX(x[..., 0] - x[..., 0].mean(), 0)


def indexes_like_one_sample(x):
    qml.RX(x[0], 0)


def one_angle_for_the_batch(x):
    qml.RX(x.sum(), 0)


def foreign_parameter(x):
    qml.RX(x[..., 0] * torch.ones(1, requires_grad=True)[0], 0)


def calls_a_qnode(x):
    qml.QNode(with_measurement, qml.device("default.qubit", wires=1))(x)


REFUSED = [
    (with_measurement, "measures .*expval.*return nothing"),
    (lambda x: qml.state(), "measures"),
    (mid_circuit_measurement, "measurements inside the circuit"),
    (other_gates_for_positive_data, r"gate 0 is ry on wires \[0\], angle from x; for .* it is rx"),
    (more_gates_for_large_parameters, "gates depend on values.*gates, but . for other parameters"),
    (branches_on_one_value, r"failed for x of shape .*ambiguous.*must not depend on values of x"),
    (leaves_the_graph, "changes for .*not float"),
    (numpy_angles, "autograd does not connect it to x"),
    (partly_detached, "depend on x, but not by torch operations"),
    (mixes_samples, "mix samples"),
    (
        indexes_like_one_sample,
        r"cannot use RX on wires \[0\]: its angle has shape .*; read feature i as x\[\.\.\., i\]",
    ),
    (one_angle_for_the_batch, r"its angle has shape \(\)"),
    (foreign_parameter, "neither x nor params"),
    (calls_a_qnode, "applies no gate"),
    (lambda x: None, "applies no gate"),
    (
        lambda x: qml.AmplitudeEmbedding(x, wires=range(2), pad_with=0.0, normalize=True),
        "AmplitudeEmbedding.*depends on x",
    ),
    (lambda x: qml.StatePrep(x / x.norm(dim=-1, keepdim=True), wires=[0, 1], pad_with=0), "StatePrep.*no fixed gates"),
    (
        lambda x: (rx(x), qml.DepolarizingChannel(0.1, 0)),
        "DepolarizingChannel on wires .*noise channels are not unitary",
    ),
    (lambda x: qml.RX(x[..., 0], 3), r"cannot use RX on wires \[3\]: wires must be whole numbers from 0 to 2"),
    (lambda x: qml.RX(x[..., 0], "a"), r"wires \['a'\]: wires must be whole numbers"),
    (lambda x: qml.RX(x[..., 7], 0), "failed for x of shape .*IndexError"),
    (lambda x: qml.Hermitian(np.diag([1.0, 2.0]), 0), r"matrix on wires \(0,\) is not unitary"),
    (lambda x: qml.exp(qml.X(0) + qml.Z(0), 1j * x[..., 0]), "cannot use Exp on wires .*decomposition"),
]


@pytest.mark.parametrize(("f", "message"), REFUSED, ids=[f"{k}-{f.__name__}" for k, (f, _) in enumerate(REFUSED)])
def test_refused_with_the_reason(f, message):
    n_params = 2 if f in (more_gates_for_large_parameters, partly_detached) else 0
    with pytest.raises(InvalidInputError, match=message):
        from_pennylane(f, 3, 3, n_params)


def test_gates_that_change_for_later_samples_are_refused_then():
    def f(x):
        (qml.RX if x.abs().max() < 1000 else qml.RY)(x[..., 0], 0)

    kernel = FidelityKernel(from_pennylane(f, 1, 1))
    kernel(np.ones((2, 1)))
    with pytest.raises(InvalidInputError, match="gate 0 is rx .* for these samples it is ry"):
        kernel(np.full((2, 1), 2000.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (qml.QNode(rx, qml.device("default.qubit", wires=1)), 1, 1),
            "f is a QNode, which measures; pass the quantum function",
        ),
        (("rx", 1, 1), "f is 'rx', expected a function"),
        ((rx, 0, 1), "n_qubits is 0"),
        ((rx, 1, 1.5), "n_features is 1.5"),
        ((rx, 1, 1, -1), "n_params is -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        from_pennylane(*arguments)
    with pytest.raises(InvalidInputError, match="bandwidth is 0"):
        from_pennylane(rx, 1, 1, bandwidth=0)


def test_missing_pennylane(monkeypatch):
    monkeypatch.setitem(sys.modules, "pennylane", None)
    with pytest.raises(BackendUnavailableError, match=r"need PennyLane; install it with: pip install 'dqk\[qpu\]'"):
        from_pennylane(rx, 1, 1)
