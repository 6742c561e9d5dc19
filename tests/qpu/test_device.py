"""The PennyLane device: values and gradients against `default.qubit`, and how little it sends."""

from collections.abc import Callable

import numpy as np
import pennylane as qml
import pytest

from dqk.errors import InvalidInputError
from dqk.qpu import QPUClient
from tests.qpu.conftest import ALICE
from tests.qpu.server import Server
from tests.qpu.test_service import metric

pytestmark = [pytest.mark.qpu, pytest.mark.filterwarnings("ignore:Setting shots on device")]
SHOTS = 100_000
TOLERANCE = 0.02  # five standard errors, and a little for variances


@pytest.fixture
def device(server: Server) -> qml.devices.Device:
    return qml.device("dqk.qpu", wires=3, url=server.url, token=ALICE, seed=5)


def prepare(x: float, y: float) -> None:
    qml.Hadamard(0)
    qml.RY(x, 1)
    qml.Rot(0.1, y, 0.3, wires=2)
    qml.CNOT([0, 1])
    qml.CRX(y, [1, 2])
    qml.PauliY(0)
    qml.SX(2)
    qml.IsingXY(0.4, [0, 2])
    qml.adjoint(qml.T(1))
    qml.Toffoli([0, 1, 2])


HERMITIAN = np.array([[1.0, 0.5 - 0.2j], [0.5 + 0.2j, -0.3]])
MEASUREMENTS: dict[str, Callable[[], object]] = {
    "a Pauli and its variance": lambda: (qml.expval(qml.X(0)), qml.var(qml.X(0))),
    "Paulis that share wires": lambda: (qml.expval(qml.Y(1)), qml.expval(qml.Y(1) @ qml.Z(2)), qml.probs(wires=[2, 0])),
    "what does not commute": lambda: (qml.expval(qml.X(0)), qml.expval(qml.Z(0)), qml.expval(qml.Hadamard(0))),
    "a Hermitian matrix": lambda: (qml.expval(qml.Hermitian(HERMITIAN, 1)), qml.var(qml.Hermitian(HERMITIAN, 1))),
    "a projector": lambda: (
        qml.expval(qml.Projector(np.array([0.6, 0.8]), 2)),
        qml.expval(qml.Projector([0, 1], [0, 1])),
    ),
    "a sum": lambda: qml.expval(0.5 * qml.X(0) + 2.0 * qml.Y(1) @ qml.Z(2) + qml.Hermitian(HERMITIAN, 0)),
    "probabilities in another basis": lambda: qml.probs(op=qml.X(0) @ qml.Y(1)),
}


def flat(values: object) -> np.ndarray:
    return np.hstack([np.ravel(value) for value in (values if isinstance(values, tuple | list) else [values])])


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_measurements_are_those_of_the_exact_simulator(device: qml.devices.Device, name: str) -> None:
    def circuit(x: float, y: float) -> object:
        prepare(x, y)
        return MEASUREMENTS[name]()

    exact = qml.QNode(circuit, qml.device("default.qubit", wires=3))(0.7, -1.1)
    sampled = qml.set_shots(qml.QNode(circuit, device), SHOTS)(0.7, -1.1)
    np.testing.assert_allclose(flat(sampled), flat(exact), atol=2 * TOLERANCE)


def test_counts_samples_and_vectors_of_shots(device: qml.devices.Device) -> None:
    @qml.qnode(device)
    def circuit() -> object:
        prepare(0.7, -1.1)
        return qml.counts(wires=[0, 1]), qml.sample(wires=[2]), qml.expval(qml.Z(0))

    few, many = qml.set_shots(circuit, [100, 50_000])()
    assert sum(few[0].values()) == 100 and len(np.ravel(few[1])) == 100 and sum(many[0].values()) == 50_000
    exact = qml.QNode(circuit.func, qml.device("default.qubit", wires=3, seed=1))
    expected = qml.set_shots(exact, 50_000)()
    assert abs(np.mean(many[1]) - np.mean(expected[1])) < TOLERANCE and abs(many[2] - expected[2]) < 2 * TOLERANCE
    # The order of single shots says nothing about them: halves of one run agree.
    halves = np.array_split(np.ravel(many[1]), 2)
    assert abs(halves[0].mean() - halves[1].mean()) < TOLERANCE


def test_gradients_are_parameter_shifts_in_one_job(server: Server, device: qml.devices.Device) -> None:
    def circuit(weights: np.ndarray) -> object:
        qml.AngleEmbedding(weights[:3], wires=range(3))
        qml.StronglyEntanglingLayers(weights[3:].reshape(1, 3, 3), wires=range(3))
        return qml.expval(qml.Z(0) @ qml.Z(2))

    weights = qml.numpy.array(np.random.default_rng(2).normal(size=12), requires_grad=True)
    before = metric(server.url, "dqk_qpu_runs_total"), metric(server.url, "dqk_qpu_circuits_total")
    gradient = qml.grad(qml.set_shots(qml.QNode(circuit, device, diff_method="parameter-shift"), SHOTS))(weights)
    after = metric(server.url, "dqk_qpu_runs_total"), metric(server.url, "dqk_qpu_circuits_total")
    exact = qml.grad(qml.QNode(circuit, qml.device("default.qubit", wires=3)))(weights)
    np.testing.assert_allclose(gradient, exact, atol=TOLERANCE)
    assert after[0] - before[0] <= 2 and 24 <= after[1] - before[1] <= 25  # the value, then two shifts of 12 angles


def test_a_batch_is_one_circuit_in_jobs_of_the_size_that_the_service_takes(
    server: Server, device: qml.devices.Device
) -> None:
    @qml.qnode(device)
    def circuit(x: np.ndarray) -> object:
        qml.RX(x, 0)
        return qml.expval(qml.Z(0))

    x = np.linspace(0, 3, 120)
    before = metric(server.url, "dqk_qpu_runs_total")
    values = qml.set_shots(circuit, 10_000)(x)
    assert metric(server.url, "dqk_qpu_runs_total") - before == 3  # 120 circuits, 50 to a job
    np.testing.assert_allclose(values, np.cos(x), atol=0.05)


def test_a_seed_fixes_what_is_measured(server: Server) -> None:
    def once(seed: int) -> object:
        device = qml.device("dqk.qpu", wires=1, url=server.url, token=ALICE, seed=seed)

        @qml.qnode(device)
        def circuit() -> object:
            qml.Hadamard(0)
            return qml.sample(wires=[0])

        return np.ravel(qml.set_shots(circuit, 200)()).tolist()

    assert once(1) == once(1) != once(2)


def test_wires_may_have_names(server: Server) -> None:
    device = qml.device("dqk.qpu", wires=["b", "a"], url=server.url, token=ALICE)

    @qml.qnode(device)
    def circuit() -> object:
        qml.PauliX("a")
        return qml.probs(wires=["a", "b"]), qml.counts(wires=["b", "a"])

    probabilities, counts = qml.set_shots(circuit, 100)()
    assert list(probabilities) == [0, 0, 1, 0] and counts == {"01": 100}


def test_what_the_device_cannot_do_is_said(server: Server, device: qml.devices.Device) -> None:
    @qml.qnode(device)
    def circuit() -> object:
        return qml.expval(qml.Z(0))

    with pytest.raises(qml.exceptions.DeviceError, match="set_shots"):
        circuit()

    @qml.qnode(device)
    def state() -> object:
        return qml.state()

    with pytest.raises(qml.exceptions.DeviceError, match="not accepted"):
        qml.set_shots(state, 10)()
    wide = qml.device("dqk.qpu", wires=7, url=server.url, token=ALICE)
    with pytest.raises(InvalidInputError, match="7 wires.* 6 qubits"):
        qml.set_shots(qml.QNode(circuit.func, wide), 10)()
    with pytest.raises(TypeError, match="url"):
        qml.device("dqk.qpu", wires=1)


def test_jobs_that_nobody_waits_for_any_more_are_cancelled(
    server: Server, device: qml.devices.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[str] = []
    monkeypatch.setattr(QPUClient, "result", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(QPUClient, "cancel", lambda _, job: cancelled.append(job))
    tapes = [qml.tape.QuantumScript([qml.RX(0.1 * k, 0)] * (k + 1), [qml.sample(wires=0)], shots=10) for k in range(3)]
    with pytest.raises(KeyboardInterrupt):
        device.execute(tapes)
    assert len(set(cancelled)) == 3
