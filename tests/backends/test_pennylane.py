"""PennyLane devices as backends."""

import subprocess
import sys

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane.devices import DefaultQubit

from dqk import FidelityKernel
from dqk.backends import resolve
from dqk.backends._pennylane import PennyLaneBackend
from dqk.backends.reference import ReferenceBackend
from dqk.backends.resolve import split_options
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit, Gate, data, simplify_for_fidelity
from dqk.errors import BackendUnavailableError, ClusterError, InvalidInputError, UnsupportedError
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map
from dqk.testing import BACKEND_LAWS, assert_close
from tests.cases import CIRCUITS

ORACLE, ADJOINT = ReferenceBackend(), StatevectorBackend()
ONE = Circuit(1, (Gate("ry", (0,), data(0)),), 1)


def angles(circuit: Circuit, n: int, m: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(11)
    shapes = (n, circuit.n_data), (m, circuit.n_data), (circuit.n_shared,), (n, m)
    return tuple(2 * torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit", "default.mixed"])
def test_values_are_the_references(device: str) -> None:
    backend = PennyLaneBackend(device)
    for name, circuit in CIRCUITS.items():
        ax, ay, w, _ = angles(circuit, 3, 2)
        assert_close(backend.fidelity(circuit, ax, ay, w), ORACLE.fidelity(circuit, ax, ay, w), name, 1e-12)


def test_gradients_are_the_adjoints() -> None:
    backend = PennyLaneBackend("default.qubit", max_circuits_per_job=10_000)
    for name, circuit in CIRCUITS.items():
        ax, ay, w, cotangent = angles(circuit, 2, 2)
        found = backend.fidelity_vjp(circuit, ax, ay, w, cotangent)
        for a, b in zip(found, ADJOINT.fidelity_vjp(circuit, ax, ay, w, cotangent), strict=True):
            assert_close(a, b, name, 1e-10)


@pytest.mark.parametrize("name", ["gate-crx", "gate-cry", "gate-crz", "reuploading_feature_map-rotations"])
def test_lightning_has_these_gradients_too(name: str) -> None:
    ax, ay, w, cotangent = angles(CIRCUITS[name], 2, 1)
    found = PennyLaneBackend("lightning.qubit").fidelity_vjp(CIRCUITS[name], ax, ay, w, cotangent)
    for a, b in zip(found, ADJOINT.fidelity_vjp(CIRCUITS[name], ax, ay, w, cotangent), strict=True):
        assert_close(a, b, name, 1e-10)


class Watched(DefaultQubit):
    """Keeps what it is asked to execute; looks like a processor's plugin unless it is named otherwise."""

    name = "some.qpu"

    def __init__(self, **options):
        super().__init__(**options)
        self.batches: list[list] = []

    def execute(self, circuits, *arguments, **options):
        self.batches.append(list(circuits))
        return super().execute(circuits, *arguments, **options)


def names_of(tape: qml.tape.QuantumScript) -> set[str]:
    return {operation.name for operation in tape.operations}


def test_a_job_is_one_batch_and_what_cancels_is_not_sent() -> None:
    circuit = qklstm_feature_map(4).circuit
    assert any(gate.name == "cx" for gate in circuit.gates)
    device = Watched(seed=3)
    backend = PennyLaneBackend(device, shots=50, max_circuits_per_job=7)
    ax, ay, _, _ = angles(circuit, 5, 4)
    k = backend.fidelity(circuit, ax, ay)
    assert [len(batch) for batch in device.batches] == [7, 7, 6]
    for tape in (tape for batch in device.batches for tape in batch):
        assert names_of(tape) == {"Hadamard", "RY", "RZ"}, "the paper's kernel needs no CNOT"
        assert tape.shots.total_shots == 50
    assert ((k * 50 - (k * 50).round()).abs() < 1e-9).all()
    # A CNOT that a rotation of the data follows is sent.
    device.batches.clear()
    backend.fidelity(bsp_feature_map(2).circuit, *angles(bsp_feature_map(2).circuit, 1, 1)[:2])
    assert "CNOT" in names_of(device.batches[0][0])


def test_arrays_of_angles_where_the_device_computes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    inner = DefaultQubit.execute
    monkeypatch.setattr(
        DefaultQubit, "execute", lambda self, c, *a, **o: sizes.append(len(c)) or inner(self, c, *a, **o)
    )
    circuit = bsp_feature_map(2).circuit
    PennyLaneBackend("default.qubit").fidelity(circuit, *angles(circuit, 20, 20)[:2])
    assert sizes == [1]


def test_a_processor_is_counted_priced_and_never_exact() -> None:
    circuit = simplify_for_fidelity(bsp_feature_map(2).circuit).circuit
    device = Watched(seed=5)
    backend = PennyLaneBackend(device)
    assert backend.capabilities.device == "qpu" and backend.capabilities.noisy and not backend.capabilities.exact
    assert backend.limits.priced and not backend.limits.seeded
    assert not PennyLaneBackend(device, priced=False).limits.priced
    ax, ay, w, _ = (tensor.numpy() for tensor in angles(circuit, 6, 6))
    found = backend.run(circuit, ax, ay, w, 20_000)
    expected = ORACLE.fidelity(circuit, torch.tensor(ax), torch.tensor(ay)).diagonal().numpy()
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / 20_000**0.5)
    assert isinstance(device.batches[0][0].measurements[0], qml.measurements.CountsMP)
    with pytest.raises(UnsupportedError, match="give a number of shots"):
        backend.run(circuit, ax, ay, w, None)
    with pytest.raises(UnsupportedError, match="the number of shots is missing"):
        backend.fidelity(circuit, torch.tensor(ax))


def test_errors_of_a_processor_are_told_as_such() -> None:
    class Broken(Watched):
        def execute(self, *arguments, **options):
            raise RuntimeError("queue closed")

    with pytest.raises(ClusterError, match=r"'pennylane-object:some.qpu' gave no result: RuntimeError: queue closed"):
        PennyLaneBackend(Broken(), shots=10).fidelity(ONE, torch.zeros(2, 1), torch.zeros(1, 1))


def test_a_device_object_is_a_backend() -> None:
    circuit = bsp_feature_map(3).circuit
    device = qml.device("lightning.qubit", wires=["a", 7, "c", "spare"])
    backend = resolve(device, circuit)
    assert isinstance(backend, PennyLaneBackend) and backend.capabilities.max_qubits == 4
    assert not backend.limits.seeded, "its random numbers are its own"
    ax, ay, w, _ = angles(circuit, 3, 2)
    assert_close(backend.fidelity(circuit, ax, ay, w), ORACLE.fidelity(circuit, ax, ay, w), "K", 1e-12)
    with pytest.raises(UnsupportedError, match="at most 4 qubits, the circuit has 5"):
        resolve(device, bsp_feature_map(5).circuit)
    with pytest.raises(InvalidInputError, match="or a PennyLane device"):
        resolve(object(), circuit)  # type: ignore[arg-type]


def test_noise_shrinks_the_bloch_vector() -> None:
    strength = 0.06
    model = qml.NoiseModel({qml.noise.op_in(["RY"]): qml.noise.partial_wires(qml.DepolarizingChannel, strength)})
    backend = PennyLaneBackend("default.mixed", noise=model)
    assert backend.capabilities.noisy and not PennyLaneBackend("default.mixed").capabilities.noisy
    assert not any(law.applies(backend) for law in BACKEND_LAWS if "reference" in law.name)
    ax, ay, w, cotangent = angles(ONE, 4, 3)
    # k = (1 + z) / 2, and a depolarising channel after each of the two rotations shrinks z by 1 - 4 p / 3.
    ideal, shrunk = ORACLE.fidelity(ONE, ax, ay), (1 - 4 * strength / 3) ** 2
    assert_close(backend.fidelity(ONE, ax, ay), (1 + shrunk * (2 * ideal - 1)) / 2, "K", 1e-12)
    # Shift rules hold with noise that does not depend on the angles.
    found = backend.fidelity_vjp(ONE, ax, ay, w, cotangent)
    expected = ADJOINT.fidelity_vjp(ONE, ax, ay, w, shrunk * cotangent)
    assert_close(found[0], expected[0], "dK", 1e-12)
    same = backend.fidelity(ONE, ax, ax.clone()).diagonal()
    assert_close(same, torch.full_like(same, (1 + shrunk) / 2), "k(x, x) as measured", 1e-12)
    assert (backend.fidelity(ONE, ax).diagonal() == 1).all(), "k(x, x) is not measured"


def test_names_open_what_they_name_and_keep_no_secret() -> None:
    backend = resolve("pennylane:default.qubit?shots=30&max_circuits_per_job=5", ONE)
    assert (backend.default_shots, backend.limits.max_circuits_per_job) == (30, 5)
    assert resolve(backend.name, ONE).name == backend.name == "pennylane:default.qubit?shots=30&max_circuits_per_job=5"
    assert PennyLaneBackend("default.qubit").name == "pennylane:default.qubit"
    with pytest.raises(
        InvalidInputError, match="option 'api_token' of 'some.qpu': names of backends are stored and shown"
    ):
        resolve("pennylane:some.qpu?url=http://127.0.0.1:1&api_token=abc", ONE)
    assert split_options("a?url=http://127.0.0.1:8000&x=-1.5&n=3&on=True") == (
        "a",
        {"url": "http://127.0.0.1:8000", "x": -1.5, "n": 3, "on": True},
    )
    with pytest.raises(InvalidInputError, match="expected key=value"):
        split_options("a?b")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("pennylane:", InvalidInputError, "names no device"),
        ("pennylane:no.such.device", BackendUnavailableError, "no device 'no.such.device'.*install the plugin"),
        ("pennylane:default.qubit?colour=red", InvalidInputError, r"options \['colour', 'wires'\]"),
        ("pennylane:default.qubit?shots=0", InvalidInputError, "shots is 0"),
        ("penylane:default.qubit", InvalidInputError, "Known: .*'pennylane:...'"),
    ],
)
def test_wrong_names(name: str, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        resolve(name, ONE)


def test_without_pennylane_the_error_has_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pennylane", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'dqk\[qpu\]'"):
        PennyLaneBackend("lightning.qubit")


def test_other_objects_are_refused_without_loading_pennylane() -> None:
    code = (
        "import sys, dqk.backends, dqk.circuit\n"
        "try:\n    dqk.backends.resolve(1, dqk.circuit.Circuit(1, ()))\n"
        "except ValueError:\n    print('pennylane' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("device", [qml.device("lightning.qubit"), "pennylane:default.qubit"])
def test_a_kernel_takes_devices(device) -> None:
    kernel = FidelityKernel(bsp_feature_map(2), backend=device)
    assert kernel.backend is device
