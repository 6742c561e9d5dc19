"""The PennyLane device `dqk.qpu`: QNodes on a QPU service.

Choose it to run PennyLane programs through a service. Tapes that differ in their angles only go out as one job: one circuit and
a table. Gradients are PennyLane's parameter shifts, whose tapes are such tapes.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pennylane as qml
from pennylane.devices import Device, ExecutionConfig
from pennylane.devices.modifiers import simulator_tracking, single_tape_support
from pennylane.devices.preprocess import (
    decompose,
    validate_device_wires,
    validate_measurements,
)
from pennylane.exceptions import DeviceError
from pennylane.transforms import broadcast_expand, defer_measurements, split_non_commuting
from pennylane.transforms.core import CompilePipeline

from dqk.circuit import Circuit, Gate, data, unitary
from dqk.errors import DQKError, InvalidInputError
from dqk.qpu._simulate import OPERATIONS
from dqk.qpu.client import QPUClient
from dqk.qpu.records import JobResult, read_token

_NAMES = {operation: name for name, operation in OPERATIONS.items()}
_CONSTANTS = {"PauliY", "PauliZ", "S", "T", "SX", "Adjoint(S)", "Adjoint(T)", "Adjoint(SX)"}
_NOTHING = {"Identity", "GlobalPhase"}
_MOST_IN_FLIGHT = 16  # jobs that wait at the service at once


@dataclass
class _Group:
    """Tapes of one circuit."""

    circuit: Circuit
    measured: tuple[int, ...]
    shots: int
    places: list[int] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)

    @property
    def qasm(self) -> str:
        lines = [f"bit[{len(self.measured)}] c;"]
        lines += [f"c[{bit}] = measure q[{qubit}];" for bit, qubit in enumerate(self.measured)]
        return self.circuit.to_openqasm() + "\n".join(lines) + "\n"


@simulator_tracking
@single_tape_support
class QPUDevice(Device):
    """A QPU service as a PennyLane device.

    Args:
        wires: number of wires or their labels.
        shots: measurements of each circuit where a QNode does not say how many.
        url: of the service.
        token: that the service asks for; None for that of the token file, or of DQK_QPU_TOKEN.
        token_file: with the token in its first line.
        timeout_s: how long to try to reach the service.
        seed: of all measurements; None to have the service choose.

    Raises:
        InvalidInputError: if the service has fewer qubits than there are wires.
        QPUError: if the service cannot be reached or does not know the token.

    Example:
        >>> import pennylane as qml
        >>> qml.device("dqk.qpu", wires=2, url="http://127.0.0.1:8000").execute([])
        ()
    """

    def __init__(
        self,
        wires: Any = None,
        shots: Any = None,
        *,
        url: str,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        timeout_s: float = 60.0,
        seed: int | None = None,
    ):
        super().__init__(wires=wires, shots=shots)
        if token is None and token_file is not None:
            token = read_token(token_file)
        self.client = QPUClient(url, token, timeout_s)
        self._seeds = None if seed is None else np.random.default_rng(seed)
        self._order = np.random.default_rng(seed)

    @property
    def name(self) -> str:
        """The device's name in PennyLane."""
        return "dqk.qpu"

    def preprocess_transforms(self, execution_config: ExecutionConfig | None = None) -> CompilePipeline:
        """What turns any circuit into the service's gates and one measurement of some wires."""
        pipeline = CompilePipeline()
        pipeline.add_transform(validate_device_wires, wires=self.wires, name=self.name)
        pipeline.add_transform(defer_measurements, allow_postselect=False)
        pipeline.add_transform(split_non_commuting)
        pipeline.add_transform(
            validate_measurements, lambda measurement: True, sample_measurements=_is_sampled, name=self.name
        )
        pipeline.add_transform(_from_samples)
        pipeline.add_transform(
            decompose,
            stopping_condition=_is_native,
            decomposer=_decomposition,
            target_gates={*_NAMES, *_CONSTANTS, *_NOTHING},
            skip_initial_state_prep=False,
            device_wires=self.wires,
            name=self.name,
        )
        pipeline.add_transform(broadcast_expand)
        return pipeline

    def execute(self, circuits: Sequence[Any], execution_config: ExecutionConfig | None = None) -> tuple[Any, ...]:
        """Samples of each tape, shape (shots, wires measured), or a tuple of such for a vector of shots."""
        groups: dict[Any, _Group] = {}
        for place, tape in enumerate(circuits):
            circuit, row, measured = self._read(tape)
            key = circuit, measured, tape.shots.total_shots
            group = groups.setdefault(key, _Group(*key))
            group.places.append(place)
            group.rows.append(row)
        found: dict[int, Any] = {}
        for group, start, result in self._results(list(groups.values())):
            for place, counts in zip(group.places[start:], result.counts or (), strict=False):
                found[place] = self._samples(counts, circuits[place].shots)
        return tuple(found[place] for place in range(len(circuits)))

    def _results(self, groups: list[_Group]) -> Any:
        """Each job's group, its first row and its result; some jobs are under way while others are waited for."""
        flight: deque[tuple[_Group, int, str]] = deque()
        try:
            for group in groups:
                table = np.array(group.rows, dtype=float).reshape(len(group.rows), -1)
                most = self.client.limits.max_circuits_per_job
                for start in range(0, len(table), most):
                    if len(flight) >= min(_MOST_IN_FLIGHT, self.client.limits.max_open_jobs):
                        yield self._landed(flight)
                    seed = None if self._seeds is None else int(self._seeds.integers(2**63))
                    job = self.client.submit(group.qasm, table[start : start + most], group.shots, seed=seed)
                    flight.append((group, start, job))
            while flight:
                yield self._landed(flight)
        finally:
            for _, _, job in flight:  # after an error: nobody waits for them any more
                with contextlib.suppress(DQKError):
                    self.client.cancel(job)

    def _landed(self, flight: deque[tuple[_Group, int, str]]) -> tuple[_Group, int, JobResult]:
        group, start, job = flight[0]
        result = self.client.result(job)
        flight.popleft()
        return group, start, result

    def _read(self, tape: Any) -> tuple[Circuit, list[float], tuple[int, ...]]:
        """The tape's circuit, the angles of its data columns, and the qubits that it measures."""
        wires = self.wires or tape.wires
        if len(wires) > self.client.limits.n_qubits:
            raise InvalidInputError(
                f"the device has {len(wires)} wires, the service at {self.client.url} {self.client.limits.n_qubits} qubits"
            )
        place = {wire: number for number, wire in enumerate(wires)}
        gates: list[Gate] = []
        row: list[float] = []
        for operation in tape.operations:
            on = tuple(place[wire] for wire in operation.wires)
            if operation.name in _NOTHING:
                continue
            if operation.name in _CONSTANTS:
                gates.append(unitary(qml.matrix(operation), *on))
            elif operation.data:
                gates.append(Gate(_NAMES[operation.name], on, data(len(row))))
                row.append(float(operation.data[0]))
            elif operation.name in _NAMES:
                gates.append(Gate(_NAMES[operation.name], on))
            else:
                raise DeviceError(f"{operation} is no gate of the service; execute what the device has preprocessed")
        measured = tuple(place[wire] for wire in tape.measurements[0].wires)
        return Circuit(len(wires), tuple(gates), n_data=len(row)), row, measured

    def _samples(self, counts: dict[str, int], shots: Any) -> Any:
        """Single measurements in random order: a service says only how often each outcome was found."""
        outcomes = np.array([[int(bit) for bit in outcome] for outcome in counts])
        samples = self._order.permutation(np.repeat(outcomes, list(counts.values()), axis=0))
        if not shots.has_partitioned_shots:
            return samples
        return tuple(samples[lower:upper] for lower, upper in shots.bins())


@qml.transform
def _from_samples(tape: Any) -> tuple[list[Any], Any]:
    """One measurement of all wires that are measured, after the gates that turn the observables into that of Z.

    PennyLane's `measurements_from_samples` leaves these gates out for Hermitian matrices and projectors (0.45).
    """
    if not tape.shots:
        if tape.measurements:
            raise DeviceError("dqk.qpu measures with shots: give the QNode some, as in qml.set_shots(qnode, 1000)")
        return [tape], lambda results: results[0]
    measured = qml.wires.Wires.all_wires([measurement.wires for measurement in tape.measurements])
    sampled = tape.copy(
        operations=[*tape.operations, *tape.diagonalizing_gates], measurements=[qml.sample(wires=measured)]
    )

    def values(results: Any) -> Any:
        (samples,) = results
        parts = samples if tape.shots.has_partitioned_shots else (samples,)
        found = [tuple(m.process_samples(part, measured) for m in tape.measurements) for part in parts]
        single = [row[0] if len(row) == 1 else row for row in found]
        return tuple(single) if tape.shots.has_partitioned_shots else single[0]

    return [sampled], values


def _is_native(operation: Any) -> bool:
    return operation.name in _NAMES or operation.name in _CONSTANTS or operation.name in _NOTHING


def _decomposition(operation: Any) -> Sequence[Any]:
    """PennyLane's, or that of the operation's matrix where it has none."""
    if not operation.has_decomposition and operation.has_matrix:
        return qml.QubitUnitary.compute_decomposition(qml.matrix(operation), wires=operation.wires)
    decomposed: Sequence[Any] = operation.decomposition()
    return decomposed


def _is_sampled(measurement: Any) -> bool:
    """Measurements that can be computed from samples of the computational basis."""
    return isinstance(measurement, qml.measurements.SampleMeasurement) and not isinstance(
        measurement, qml.measurements.ClassicalShadowMP | qml.measurements.ShadowExpvalMP
    )
