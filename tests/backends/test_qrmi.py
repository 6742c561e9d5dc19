"""QPUs that a job was given through QRMI. The package needs a site: its documented interface is stood in for."""

import sys
from types import ModuleType

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from qiskit.providers.fake_provider import GenericBackendV2

from dqk.backends import resolve
from dqk.backends._qrmi import job_resources
from dqk.backends._sampler import SamplerBackend
from dqk.circuit import Circuit, Gate, data
from dqk.errors import BackendUnavailableError, InvalidInputError, UnsupportedError

ONE = Circuit(1, (Gate("ry", (0,), data(0)),), 1)


class Resource:
    def __init__(self, name: str):
        self.name = name

    def resource_id(self) -> str:
        return self.name


@pytest.fixture
def qrmi(monkeypatch: pytest.MonkeyPatch):
    """A function that says which QPUs the job was given, and which of them QRMI can reach."""

    def given(names: str, types: str, reachable: tuple[str, ...], error: str | None = None) -> dict[str, object]:
        jobs: dict[str, object] = {}

        class QRMIService:
            def __init__(self) -> None:
                if error:
                    raise RuntimeError(error)

            def resources(self) -> list[Resource]:
                return [Resource(name) for name in reachable]

        class SamplerV2(StatevectorSampler):
            def __init__(self, resource: Resource):
                super().__init__(seed=np.random.default_rng(1))
                self.resource = resource

            def run(self, pubs, *, shots=None):
                job = super().run(pubs, shots=shots)
                jobs[job.job_id()] = job
                return job

        package, primitives, ibm = (ModuleType(name) for name in ("qrmi", "qrmi.primitives", "qrmi.primitives.ibm"))
        primitives.QRMIService, primitives.RuntimeJobV2 = QRMIService, lambda resource, job_id: jobs[job_id]  # type: ignore[attr-defined]
        ibm.SamplerV2 = SamplerV2  # type: ignore[attr-defined]
        ibm.get_backend = lambda resource, use_fractional_gates: GenericBackendV2(3, seed=1, noise_info=False)  # type: ignore[attr-defined]
        for module in (package, primitives, ibm):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setenv("QRMI_JOB_QPU_RESOURCES", names)
        monkeypatch.setenv("QRMI_JOB_QPU_TYPES", types)
        return jobs

    return given


def test_the_only_qpu_is_opened_and_its_jobs_are_found_again(qrmi) -> None:
    qrmi("heron", "direct-access", ("heron",))
    backend = SamplerBackend.from_qrmi(shots=40)
    assert backend.capabilities.max_qubits == 3 and backend.limits.recovers
    heard: list[str] = []
    first = backend.run(ONE, np.zeros((2, 1)), np.ones((2, 1)), np.empty(0), 40, told=heard.append)
    np.testing.assert_array_equal(backend.attach(heard[0]), first)
    assert resolve("qiskit:qrmi/heron?max_circuits_per_job=7", ONE).limits.max_circuits_per_job == 7


@pytest.mark.parametrize(
    ("names", "types", "reachable", "which", "error", "says"),
    [
        ("", "", (), None, BackendUnavailableError, "QRMI_JOB_QPU_RESOURCES is not set.*#SBATCH --qpu=NAME"),
        ("a,b", "direct-access", ("a",), None, BackendUnavailableError, r"2 names \(a, b\).*1 types"),
        (
            "a,b",
            "direct-access,direct-access",
            ("a",),
            "a",
            BackendUnavailableError,
            r"reach b \(direct-access\).*It gave: a",
        ),
        ("a", "typo", (), None, BackendUnavailableError, r"reach a \(typo\).*check the name, the type.*It gave: none"),
        ("a,b", "direct-access,ibm-quantum-system", ("a", "b"), None, InvalidInputError, "name one.*'qiskit:qrmi/a'"),
        ("ab,cd", "direct-access,direct-access", ("ab", "cd"), "abb", InvalidInputError, "did you mean 'ab'"),
        ("a", "pasqal-cloud", ("a",), None, UnsupportedError, "no Qiskit sampler of gate circuits"),
    ],
)
def test_what_was_asked_for_is_compared_with_what_came(qrmi, names, types, reachable, which, error, says) -> None:
    qrmi(names, types, reachable)
    with pytest.raises(error, match=says):
        SamplerBackend.from_qrmi(which)


def test_the_plugins_own_error_is_shown(qrmi) -> None:
    qrmi("a", "direct-access", ("a",), error="no licence for a")
    with pytest.raises(BackendUnavailableError, match="QRMI gives no QPU: no licence for a"):
        SamplerBackend.from_qrmi()


def test_without_qrmi_the_error_has_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRMI_JOB_QPU_RESOURCES", "a; b")
    monkeypatch.setenv("QRMI_JOB_QPU_TYPES", "direct-access;ibm-quantum-system")
    monkeypatch.setenv("QRMI_LIST_DELIMITER", ";")
    assert job_resources() == {"a": "direct-access", "b": "ibm-quantum-system"}
    monkeypatch.setitem(sys.modules, "qrmi", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'qrmi\[ibm\]' 'dqk\[qiskit\]'"):
        SamplerBackend.from_qrmi("a")
