"""Any Qiskit sampler (`BaseSamplerV2`): IBM's processors, those that QRMI or a provider's package brings, Aer.

Choose it for a processor that you reach through Qiskit. A job is one PUB: one circuit, transpiled once, and a table of angles.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from dqk.backends.base import Capabilities
from dqk.backends.resolve import split_options
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.circuit import Circuit
from dqk.errors import (
    BackendUnavailableError,
    ClusterError,
    DQKError,
    InvalidInputError,
    UnsupportedError,
    unknown_name,
    whole_number,
)

# What circuits are compiled to where no backend is named. Not to controlled rotations: Aer's sampler takes the angles that a
# table gives them for 0, without a word.
_BASIS = ["h", "x", "cx", "cz", "swap", "rx", "ry", "rz", "p", "rxx", "ryy", "rzz"]
_SIMULATORS = ("qiskit_aer", "qiskit.primitives.statevector", "qiskit.providers", "qiskit_ibm_runtime.fake_provider")


class _Compiled(NamedTuple):
    """A circuit as the device gets it.

    Attributes:
        circuit: transpiled, with measurements.
        sources: for each parameter before folding: whether it is shared, its column in the table of (x, y), its sign.
        parameters: these parameters.
        folded: what folds angles of RZZ; None where none is folded.
    """

    circuit: Any
    sources: list[tuple[bool, int, float]]
    parameters: tuple[Any, ...]
    folded: Any

    def bindings(self, angles: np.ndarray, shared: np.ndarray) -> dict[tuple[Any, ...], np.ndarray]:
        """The table of a job, for all parameters that the circuit has."""
        table = np.empty((len(angles), len(self.sources)))
        for k, (is_shared, column, sign) in enumerate(self.sources):
            table[:, k] = sign * (shared[column] if is_shared else angles[:, column])
        names, present = self.parameters, set(self.circuit.parameters)
        if self.folded is not None:
            names, table = names + self.folded.parameters, np.hstack([table, self.folded.columns(table)])
        kept = [k for k, name in enumerate(names) if name in present]
        return {tuple(names[k] for k in kept): table[:, kept]} if kept else {}


class SamplerBackend(SampledBackend):
    """A Qiskit sampler.

    Args:
        sampler: a `BaseSamplerV2`; or a function that makes one from a job's seed (None for any), which is called for
            each job: counts then follow the seed, and a session that has ended is opened anew where the function does so.
        backend: what circuits are transpiled for; None for the sampler's own, if it has one.
        shots: measurements of an entry where the caller names no number.
        max_circuits_per_job: most rows in the table of one job.
        optimization_level: of the transpiler, 0 to 3.
        service: finds jobs again by `service.job(job_id)`, and by tag where it has `jobs(job_tags=...)`, as
            `QiskitRuntimeService` has; None for the backend's own.
        priced: whether running it costs something, so that nothing is submitted twice; None: yes, unless it is a simulator.
        noisy: see `Capabilities`; None: yes, unless the sampler is Qiskit's `StatevectorSampler`.
        fold: whether angles of RZZ are folded into [0, pi/2]; None: where the backend bounds them, as IBM's do.
        name: how messages and stores call it.

    Sessions are the sampler's: `SamplerV2(mode=session)`.

    Raises:
        BackendUnavailableError: if Qiskit is not installed.
        InvalidInputError: if the sampler is none.
    """

    parallel = True  # submission is guarded, waiting need not be

    def __init__(
        self,
        sampler: Any,
        backend: Any = None,
        *,
        shots: int | None = None,
        max_circuits_per_job: int = 1000,
        optimization_level: int = 2,
        service: Any = None,
        priced: bool | None = None,
        noisy: bool | None = None,
        fold: bool | None = None,
        name: str | None = None,
    ):
        base = _qiskit().primitives.BaseSamplerV2
        self._sampler = (lambda seed: sampler) if isinstance(sampler, base) else sampler
        first = self._sampler(None) if callable(self._sampler) else None
        if not isinstance(first, base):
            raise InvalidInputError(
                f"sampler is {sampler!r}, expected a Qiskit BaseSamplerV2 or a function of a seed that makes one"
            )
        self._backend = _backend_of(first) if backend is None else backend
        self._service = getattr(self._backend, "service", None) if service is None else service
        self._level, self._fold = optimization_level, fold
        self._compiled = lru_cache(maxsize=64)(self._compile)
        self._submitting = threading.Lock()
        self.default_shots = None if shots is None else whole_number("shots", shots, 1)
        where = first if self._backend is None or type(first).__module__.startswith("qiskit_aer") else self._backend
        own = type(where).__module__.startswith(_SIMULATORS)
        self._limits = DeviceLimits(
            whole_number("max_circuits_per_job", max_circuits_per_job, 1),
            seeded=first is not sampler,
            recovers=self._service is not None,
            priced=not own if priced is None else bool(priced),
        )
        ideal = type(first).__name__ == "StatevectorSampler"
        self.capabilities = Capabilities(
            exact=False,
            differentiable=True,
            expectations=False,
            device="cpu" if own else "qpu",
            max_qubits=getattr(self._backend, "num_qubits", None),
            noisy=not ideal if noisy is None else bool(noisy),
        )
        known_as = getattr(self._backend, "name", None) or type(first).__name__
        self.name = name if name is not None else f"qiskit-object:{known_as}"

    @classmethod
    def from_qrmi(cls, resource: str | None = None, fractional: bool = False, **options: Any) -> SamplerBackend:
        """A processor that the job scheduler gave to this job through QRMI, see `dqk.backends._qrmi.open_resource`."""
        from dqk.backends._qrmi import open_resource

        return cls(**open_resource(resource, fractional), **options)

    @property
    def limits(self) -> DeviceLimits:
        """As the arguments said."""
        return self._limits

    def run(
        self,
        circuit: Circuit,
        left: np.ndarray,
        right: np.ndarray,
        shared: np.ndarray,
        shots: int | None,
        *,
        seed: int | None = None,
        tag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """One PUB. Where the service knows tags, a job with this tag is found again instead of run twice."""
        self.check_supported(circuit)
        if shots is None:
            raise UnsupportedError(
                f"backend {self.name!r} gives frequencies, not probabilities: give a number of shots"
            )
        if not len(left):
            return np.empty(0)
        compiled = self._compiled(circuit)
        table = compiled.bindings(np.hstack([left, right]), np.tile(shared, 2))
        # Without angles all rows are one circuit, which is measured for each of them.
        pubs = [(compiled.circuit, table, shots)] if table else [(compiled.circuit, None, shots)] * len(left)
        with self._failing():
            job = self._submit(pubs, seed, tag)
            if told is not None:
                told(job.job_id())
            return _frequencies(job.result())

    def attach(self, job: str) -> np.ndarray | None:
        """Waits for the result of a job that was submitted before."""
        if self._service is None:
            return None
        with self._failing():
            try:
                found = self._service.job(job)
            except LookupError:
                return None
            except Exception as error:
                if type(error).__name__ == "RuntimeJobNotFound":  # IBM's, of a package that need not be installed
                    return None
                raise
            return None if found is None else _frequencies(found.result())

    def _submit(self, pubs: list[Any], seed: int | None, tag: str | None) -> Any:
        sampler = _checked(self._sampler(seed))
        environment: Any = getattr(getattr(sampler, "options", None), "environment", None)
        if tag is None or self._service is None or not hasattr(self._service, "jobs") or environment is None:
            return sampler.run(pubs)
        with self._submitting:  # the sampler's options are those of the next job
            known = self._service.jobs(job_tags=[tag], limit=1)
            if known:
                return known[0]
            environment.job_tags = [tag]
            return sampler.run(pubs)

    def _compile(self, circuit: Circuit) -> _Compiled:
        from qiskit.transpiler import TranspilerError, generate_preset_pass_manager

        from dqk.backends._fractional import fold_rzz, is_bounded

        made, sources, parameters = _to_qiskit(circuit.compute_uncompute())
        target = {"basis_gates": _BASIS} if self._backend is None else {"backend": self._backend}
        try:
            passes = generate_preset_pass_manager(self._level, seed_transpiler=7, **target)
            transpiled = _transpiled(passes, made)
        except TranspilerError as error:
            raise UnsupportedError(f"backend {self.name!r} cannot run the circuit: {error}") from error
        bounded = self._backend is not None and is_bounded(self._backend)
        if not (bounded if self._fold is None else self._fold):
            return _Compiled(transpiled, sources, parameters, None)
        folded = fold_rzz(transpiled, parameters)
        return _Compiled(folded.circuit, sources, parameters, folded)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Errors of a processor are ClusterErrors; those of a simulator are defects and stay what they are."""
        try:
            yield
        except DQKError:
            raise
        except Exception as error:  # of any kind: providers have their own
            if self.capabilities.device != "qpu":
                raise
            raise ClusterError(f"backend {self.name!r} gave no result: {type(error).__name__}: {error}") from error


def _transpiled(passes: Any, circuit: Any) -> Any:
    """The circuit compiled, also for a target that bounds RZZ and whose provider registered nothing that keeps the bounds."""
    try:
        return passes.run(circuit)
    except KeyError as error:
        if "WrapAngleRegistry" not in str(error):
            raise
    from qiskit.transpiler.passes import WrapAngles

    from dqk.backends._fractional import wrap_rzz

    WrapAngles.DEFAULT_REGISTRY.add_wrapper("rzz", wrap_rzz)
    try:
        return passes.run(circuit)
    except KeyError as error:
        raise UnsupportedError(
            f"the processor bounds the angles of gates other than RZZ, and Qiskit does not know how to keep them "
            f"({error.args[0]}); import the package of its provider first, or give a target without these gates"
        ) from error


def open_sampler(text: str) -> SamplerBackend:
    """The backend of a name such as `qiskit:aer?shots=1000`, given what follows the colon."""
    name, options = split_options(text)
    kind, _, resource = name.partition("/")
    if kind == "qrmi":
        return SamplerBackend.from_qrmi(resource or None, name=f"qiskit:{text}", **options)  # type: ignore[arg-type]
    makers = {"statevector": _statevector, "aer": _aer}
    if name not in makers:
        raise unknown_name("Qiskit sampler", name, [*makers, "qrmi", "qrmi/RESOURCE"])
    return SamplerBackend(makers[name], noisy=False, name=f"qiskit:{text}", **options)  # type: ignore[arg-type]


def _statevector(seed: int | None) -> Any:
    return _qiskit().primitives.StatevectorSampler(seed=np.random.default_rng(seed))


def _aer(seed: int | None) -> Any:
    try:
        from qiskit_aer.primitives import SamplerV2
    except ImportError as error:
        raise BackendUnavailableError(
            f"backend 'qiskit:aer' needs Qiskit Aer, which cannot be imported ({error}); install it with: "
            "pip install 'dqk[qiskit]' qiskit-aer"
        ) from error
    # Its threads would wait spinning beside torch's: jobs of small circuits took forty times as long on a busy machine.
    return SamplerV2(seed=seed, options={"backend_options": {"max_parallel_threads": 1}})


def _qiskit() -> Any:
    try:
        import qiskit
        import qiskit.primitives
    except ImportError as error:
        raise BackendUnavailableError(
            f"Qiskit samplers need Qiskit, which cannot be imported ({error}); install it with: pip install 'dqk[qiskit]'"
        ) from error
    return qiskit


def _checked(sampler: Any) -> Any:
    """The sampler, unless it draws the same random numbers for every row, so that the errors of all entries agree."""
    if type(sampler).__name__ == "StatevectorSampler" and isinstance(sampler.seed, int | np.integer):
        raise InvalidInputError(
            f"StatevectorSampler(seed={sampler.seed}) measures every row of a table with the same random numbers; make it with "
            f"seed=np.random.default_rng({sampler.seed})"
        )
    return sampler


def _backend_of(sampler: Any) -> Any:
    """The backend that a sampler says it runs on: a property of some, a method of others."""
    found = getattr(sampler, "backend", None)
    return found() if callable(found) else found


def _to_qiskit(circuit: Circuit) -> tuple[Any, list[tuple[bool, int, float]], tuple[Any, ...]]:
    """The measured Qiskit circuit with a parameter for each variable gate, and where each parameter comes from."""
    from qiskit.circuit import Parameter, QuantumCircuit

    made = QuantumCircuit(circuit.n_qubits)
    sources: list[tuple[bool, int, float]] = []
    parameters: list[Any] = []
    for gate in circuit.gates:
        if gate.matrix is not None:
            made.unitary(gate.unitary(), gate.wires[::-1])  # Qiskit's first qubit is the least significant
            continue
        angles: list[Any] = []
        if gate.operand is not None and gate.operand.kind == "constant":
            angles = [gate.operand.value]
        elif gate.operand is not None:
            sources.append((gate.operand.kind == "shared", gate.operand.column, gate.operand.value))
            parameters.append(Parameter(f"a{len(parameters)}"))
            angles = parameters[-1:]
        getattr(made, gate.name)(*angles, *gate.wires)
    made.measure_all()
    return made, sources, tuple(parameters)


def _frequencies(result: Any) -> np.ndarray:
    """How often no bit is set, for each row."""
    parts = []
    for pub in result:
        (bits,) = pub.data.values()
        parts.append(np.ravel((~bits.array.any(axis=-1)).mean(axis=-1)))
    return np.concatenate(parts)
