"""Qiskit samplers as backends."""

import math
import sys

import numpy as np
import pytest
import torch
from qiskit.primitives import BackendSamplerV2, StatevectorSampler
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Operator, Statevector
from qiskit.transpiler import Target
from qiskit_aer import AerSimulator
from qiskit_aer.primitives import SamplerV2 as AerSampler

from dqk.backends import resolve
from dqk.backends._fractional import fold
from dqk.backends._sampler import SamplerBackend
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit, Gate, constant, data, simplify_for_fidelity
from dqk.errors import BackendUnavailableError, ClusterError, InvalidInputError, UnsupportedError
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map
from dqk.testing import SAMPLED_LAWS
from tests.cases import CIRCUITS

BINOMIAL = next(law for law in SAMPLED_LAWS if law.name == "frequencies_are_binomial")
LINE = [[0, 1], [1, 2], [2, 3], [3, 4]]
ONE = Circuit(1, (Gate("ry", (0,), data(0)),), 1)


def processor(noise: bool = False, bounded: bool = False) -> GenericBackendV2:
    """Five qubits in a line with the gates of IBM's fractional backends, with or without a calibration."""
    backend = GenericBackendV2(
        5, ["rz", "sx", "x", "rx", "rzz", "cz", "id"], coupling_map=LINE, seed=1, noise_info=noise
    )
    if bounded:
        target = Target(num_qubits=5)
        for name in backend.target.operation_names:
            bounds = {"angle_bounds": [(0, math.pi / 2)]} if name == "rzz" else {}
            target.add_instruction(backend.target.operation_from_name(name), backend.target[name], name=name, **bounds)
        backend._target = target
    return backend


def rows(circuit: Circuit, n: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(5)
    shapes = (n, circuit.n_data), (n, circuit.n_data), (circuit.n_shared,)
    return tuple(2 * rng.normal(size=shape) for shape in shapes)


class Service:
    """Finds jobs by number and by tag."""

    def __init__(self) -> None:
        self.known: dict[str, object] = {}
        self.tagged: dict[str, object] = {}

    def job(self, job_id: str) -> object:
        return self.known[job_id]

    def jobs(self, job_tags: list[str], limit: int) -> list[object]:
        return [self.tagged[tag] for tag in job_tags if tag in self.tagged][:limit]


class Watched(StatevectorSampler):
    """Remembers PUBs and jobs as a provider's service does; may have options with tags, as IBM's samplers do."""

    def __init__(self, service: Service | None = None, tags: bool = False):
        super().__init__(seed=np.random.default_rng(3))
        self.pubs: list = []
        self.service = service
        if tags:
            self.options = type("Options", (), {})()
            self.options.environment = type("Environment", (), {"job_tags": None})()

    def run(self, pubs, *, shots=None):
        self.pubs.append(pubs)
        job = super().run(pubs, shots=shots)
        if self.service is not None:
            self.service.known[job.job_id()] = job
            for tag in getattr(getattr(self, "options", None), "environment", Service).__dict__.get("job_tags") or []:
                self.service.tagged[tag] = job
        return job


@pytest.mark.parametrize(
    "name", [*(f"gate-{gate}" for gate in ("cp", "crx", "cry", "crz", "rxx", "swap")), "unitaries"]
)
@pytest.mark.parametrize("folded", [False, True])
def test_transpiled_circuits_have_the_same_frequencies(name: str, folded: bool) -> None:
    sampler = AerSampler(seed=7, options={"backend_options": {"max_parallel_threads": 1}})
    BINOMIAL(SamplerBackend(sampler, processor(), noisy=False, fold=folded), CIRCUITS[name])


def test_a_job_is_one_pub_transpiled_once_and_what_cancels_is_not_sent() -> None:
    circuit = qklstm_feature_map(3).circuit
    sampler = Watched()
    backend = SamplerBackend(sampler, processor(), shots=20, max_circuits_per_job=10)
    ax, ay, _ = (torch.tensor(array) for array in rows(circuit, 5))
    backend.fidelity(circuit, ax, ay)
    assert [len(pubs) for pubs in sampler.pubs] == [1, 1, 1]
    circuits, tables, shots = zip(*(pubs[0] for pubs in sampler.pubs), strict=True)
    assert len({id(sent) for sent in circuits}) == 1
    assert [next(iter(table.values())).shape for table in tables] == [(10, 12), (10, 12), (5, 12)]
    assert shots == (20, 20, 20)
    assert not {"cx", "cz", "rzz"} & set(circuits[0].count_ops()), "the paper's kernel needs no entangling gate"
    assert circuits[0].num_qubits == 5 and circuits[0].num_clbits == 3


def test_angles_of_rzz_are_folded_exactly() -> None:
    angles = np.concatenate([np.random.default_rng(0).uniform(-20, 20, 500), np.arange(-8, 9) * np.pi / 2, [-1e-17]])
    z, x = np.array([1, -1, -1, 1]), np.kron([[0, 1], [1, 0]], np.eye(2))
    rzz = lambda t: np.diag(np.exp(-0.5j * t * z))  # noqa: E731
    phi, flip, turn = fold(angles)
    assert ((phi >= 0) & (phi <= np.pi / 2)).all() and set(flip) == set(turn) == {0.0, np.pi}
    for t, a, f, s in zip(angles, phi, flip, turn, strict=True):
        rx = np.cos(f / 2) * np.eye(4) - 1j * np.sin(f / 2) * x
        both = np.diag(np.exp(-0.5j * s * np.array([2, 0, 0, -2])))
        made = rx @ rzz(a) @ rx @ both
        assert abs(np.trace(made.conj().T @ rzz(t))) / 4 == pytest.approx(1, abs=1e-12), t


def test_folded_circuits_are_the_same_unitaries_within_the_bounds() -> None:
    bounded = processor(bounded=True)
    entangled = Circuit(
        3,
        (
            *(Gate("h", (q,)) for q in range(3)),
            Gate("rzz", (0, 1), data(0)),
            Gate("cp", (1, 2), data(1).negated),
            Gate("rzz", (0, 2), constant(2.6)),
            Gate("crx", (2, 0), data(2)),
            Gate("ry", (1,), data(3)),
        ),
        4,
    )
    left, right, shared = rows(entangled, 6)
    plain, folded = Watched(), Watched()
    SamplerBackend(plain, bounded, fold=False).run(entangled, left, right, shared, 10)
    SamplerBackend(folded, bounded).run(entangled, left, right, shared, 10)
    sent = []
    for sampler in (plain, folded):
        circuit, table, _ = sampler.pubs[0][0]
        ((names, values),) = table.items()
        bare = circuit.remove_final_measurements(inplace=False)
        sent.append([bare.assign_parameters(dict(zip(names, row, strict=True))) for row in values])
    turned = 0
    for before, after in zip(*sent, strict=True):
        found = [float(i.operation.params[0]) for i in after.data if i.operation.name == "rzz"]
        turned += sum(
            not 0 <= float(i.operation.params[0]) <= np.pi / 2 for i in before.data if i.operation.name == "rzz"
        )
        assert found and all(0 <= angle <= np.pi / 2 for angle in found)
        assert Operator(before).equiv(Operator(after), atol=1e-10)
    assert turned > 5, "nothing had to be folded"
    expected = ReferenceBackend().fidelity(entangled, torch.tensor(left), torch.tensor(right)).diagonal()
    p = [abs(Statevector(circuit).data[0]) ** 2 for circuit in sent[1]]
    np.testing.assert_allclose(p, expected, atol=1e-10)


def test_a_calibrations_noise_is_what_aer_makes_of_it() -> None:
    circuit = simplify_for_fidelity(bsp_feature_map(2).circuit).circuit
    device, shots = processor(noise=True), 20_000
    sampler = AerSampler.from_backend(device, seed=5)
    watched: list = []
    run = sampler.run
    sampler.run = lambda pubs, **options: watched.append(pubs) or run(pubs, **options)
    backend = SamplerBackend(sampler, device)
    assert backend.capabilities.noisy and backend.capabilities.device == "cpu"
    left, _, shared = rows(circuit, 4)
    found = backend.run(circuit, left, left, shared, shots)
    transpiled, table, _ = watched[0][0]
    ((names, values),) = table.items()
    simulator = AerSimulator.from_backend(device, method="density_matrix")
    for frequency, row in zip(found, values, strict=True):
        one = transpiled.assign_parameters(dict(zip(names, row, strict=True)))
        counts = simulator.run(one, shots=shots, seed_simulator=11).result().get_counts()
        assert frequency == pytest.approx(counts["00"] / shots, abs=5 * (0.5 / shots) ** 0.5)
        assert 0.5 < frequency < 1, "k(x, x) is below 1 on a noisy device"
    assert found.max() < 1 - 5 / shots


def test_jobs_are_found_again_by_number_and_by_tag() -> None:
    service = Service()
    sampler = Watched(service, tags=True)
    backend = SamplerBackend(sampler, service=service)
    assert backend.limits.recovers
    left, right, shared = rows(ONE, 4)
    heard: list[str] = []
    first = backend.run(ONE, left, right, shared, 100, tag="tile-7", told=heard.append)
    np.testing.assert_array_equal(backend.attach(heard[0]), first)
    np.testing.assert_array_equal(backend.run(ONE, left, right, shared, 100, tag="tile-7", told=heard.append), first)
    assert len(sampler.pubs) == 1 and heard[0] == heard[1]
    backend.run(ONE, left, right, shared, 100, tag="tile-8", told=heard.append)
    assert len(sampler.pubs) == 2 and heard[2] != heard[0]
    assert backend.attach("unknown") is None
    assert SamplerBackend(Watched()).attach(heard[0]) is None and not SamplerBackend(Watched()).limits.recovers


def test_what_happened_to_a_job_is_not_guessed() -> None:
    """A service that cannot be asked is no proof that the job is unknown: it may have run and been paid for."""
    failing = type("S", (), {"job": lambda self, job_id: (_ for _ in ()).throw(OSError("unreachable"))})()
    missing = type("RuntimeJobNotFound", (Exception,), {})
    unknown = type("S", (), {"job": lambda self, job_id: (_ for _ in ()).throw(missing())})()
    remote = type("Remote", (Watched,), {"__module__": "provider"})()
    with pytest.raises(ClusterError, match="gave no result: OSError: unreachable"):
        SamplerBackend(remote, service=failing).attach("x")
    assert SamplerBackend(remote, service=unknown).attach("x") is None
    assert SamplerBackend(remote).limits.priced and SamplerBackend(remote).capabilities.device == "qpu"


def test_a_function_makes_a_sampler_for_each_job() -> None:
    seeds: list[int | None] = []

    def opened(seed: int | None) -> StatevectorSampler:
        seeds.append(seed)
        return StatevectorSampler(seed=np.random.default_rng(seed))

    backend = SamplerBackend(opened)
    assert backend.limits.seeded
    for seed in (4, None):
        backend.run(ONE, *rows(ONE, 2), 10, seed=seed)
    assert seeds[-2:] == [4, None]


def test_a_sampler_that_gives_every_row_the_same_random_numbers_is_refused() -> None:
    left, right, shared = rows(ONE, 3)
    left[:], right[:] = 0.4, 1.3
    with pytest.raises(InvalidInputError, match=r"make it with seed=np.random.default_rng\(5\)"):
        SamplerBackend(StatevectorSampler(seed=5)).run(ONE, left, right, shared, 1000)
    found = SamplerBackend(StatevectorSampler(seed=np.random.default_rng(5))).run(ONE, left, right, shared, 1000)
    assert len(set(found)) > 1


def test_backends_of_samplers_are_found_and_refuse_wide_circuits() -> None:
    backend = SamplerBackend(BackendSamplerV2(backend=processor()), shots=50)
    assert backend.capabilities.max_qubits == 5 and backend.name.startswith("qiskit-object:generic_backend")
    with pytest.raises(UnsupportedError, match="at most 5 qubits, the circuit has 6"):
        resolve(backend, Circuit(6, tuple(Gate("ry", (q,), data(q)) for q in range(6)), 6))
    ax = torch.tensor(rows(ONE, 2)[0])
    assert backend.fidelity(ONE, ax, ax.clone()).diagonal().min() == 1
    with pytest.raises(UnsupportedError, match="give a number of shots"):
        backend.run(ONE, *rows(ONE, 2), None)


def test_names() -> None:
    backend = resolve("qiskit:aer?shots=25&max_circuits_per_job=9", ONE)
    assert (backend.default_shots, backend.limits.max_circuits_per_job) == (25, 9)
    assert backend.name == "qiskit:aer?shots=25&max_circuits_per_job=9" and not backend.capabilities.noisy
    with pytest.raises(InvalidInputError, match="did you mean 'statevector'"):
        resolve("qiskit:statevectr", ONE)
    with pytest.raises(InvalidInputError, match="expected a Qiskit BaseSamplerV2"):
        SamplerBackend(3)


@pytest.mark.parametrize(
    ("module", "name", "says"),
    [("qiskit", "statevector", r"pip install 'dqk\[qiskit\]'"), ("qiskit_aer.primitives", "aer", "qiskit-aer$")],
)
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, module: str, name: str, says: str) -> None:
    from dqk.backends._sampler import open_sampler

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailableError, match=says):
        open_sampler(name)
