"""Any PennyLane device: its simulators, simulators with noise, and processors that have a PennyLane plugin.

Choose it for a device that you reach through PennyLane, or to see what noise does; exact values of simulated circuits come
faster from `statevector`. A job is one `device.execute` of all its circuits, after the device's own preprocessing. Of the
simulators `default.qubit` is the quickest on small circuits, for it computes with arrays of angles; Lightning runs one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np

from dqk.backends.base import Capabilities
from dqk.backends.resolve import is_secret, split_options
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.circuit import Circuit, Gate
from dqk.errors import (
    BackendUnavailableError,
    ClusterError,
    DQKError,
    InvalidInputError,
    UnsupportedError,
    whole_number,
)

_OPERATIONS = {
    "h": "Hadamard",
    "x": "PauliX",
    "cx": "CNOT",
    "cz": "CZ",
    "swap": "SWAP",
    "rx": "RX",
    "ry": "RY",
    "rz": "RZ",
    "p": "PhaseShift",
    "cp": "ControlledPhaseShift",
    "rxx": "IsingXX",
    "ryy": "IsingYY",
    "rzz": "IsingZZ",
    "crx": "CRX",
    "cry": "CRY",
    "crz": "CRZ",
}
_SIMULATORS = ("default.", "lightning.", "reference.")
_BATCHES = ("default.qubit", "default.mixed")  # take arrays of angles; all others, Lightning too, unroll them
_AMPLITUDES = 2**22  # of the circuits that one array of angles stands for: bounds the memory of a batch


class PennyLaneBackend(SampledBackend):
    """A PennyLane device.

    Args:
        device: a name for `qml.device`, or a device object.
        shots: measurements of an entry where the caller names no number; None for probabilities, which PennyLane's own
            simulators give.
        max_circuits_per_job: most circuits in one `device.execute`.
        priced: whether running it costs something, so that nothing is submitted twice; None: yes, unless it is one of
            PennyLane's own simulators.
        noise: a `qml.NoiseModel` that is added to every circuit, for `default.mixed`.
        options: for `qml.device`, if `device` is a name; `wires` only where the device has a fixed number of them.

    A job's seed makes its counts where `qml.device(name, seed=...)` takes one, as `default.qubit`, `default.mixed` and
    `lightning.qubit` do: each job then has a device object of its own. A device object that you made keeps its own random
    numbers, and `limits.seeded` is False.

    Noise acts on what simplification leaves of a circuit: fewer gates, less noise.

    Raises:
        BackendUnavailableError: if PennyLane or the device's plugin is not installed.
        InvalidInputError: if `device` is neither a name nor a device, or the options do not fit it.
    """

    def __init__(
        self,
        device: Any,
        *,
        shots: int | None = None,
        max_circuits_per_job: int = 1000,
        priced: bool | None = None,
        noise: Any = None,
        **options: Any,
    ):
        named = isinstance(device, str)
        _pennylane()
        if not named and (not is_device(device) or options):
            raise InvalidInputError(
                f"device is {device!r} with the options {sorted(options)}, expected the name of a PennyLane device and "
                "options for qml.device, or a device object alone"
            )
        self.default_shots = None if shots is None else whole_number("shots", shots, 1)
        self._given, self._options, self._noise = device, options, noise
        self._kept: dict[int, Any] = {}
        first = self._device(1)
        self._kind = str(first.name)
        own = self._kind.startswith(_SIMULATORS)
        self._limits = DeviceLimits(
            whole_number("max_circuits_per_job", max_circuits_per_job, 1),
            seeded=named and "seed" in inspect.signature(type(first).__init__).parameters,
            priced=not own if priced is None else bool(priced),
        )
        self.capabilities = Capabilities(
            exact=own and shots is None,
            differentiable=True,
            expectations=False,
            device="qpu" if not own else "cuda" if self._kind == "lightning.gpu" else "cpu",
            max_qubits=None if first.wires is None or (named and "wires" not in options) else len(first.wires),
            noisy=not own or noise is not None or (self._kind == "default.mixed" and not named),
        )
        if named and noise is None:
            shown = {"shots": shots, "max_circuits_per_job": max_circuits_per_job, "priced": priced, **options}
            self.name = _name(device, shown, {"shots": None, "max_circuits_per_job": 1000, "priced": None})
        else:
            self.name = f"pennylane-object:{self._kind}"

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
        """One `device.execute`. PennyLane's devices know neither tags nor names of jobs."""
        self.check_supported(circuit)
        if shots is None and not self.capabilities.exact:
            raise UnsupportedError(
                f"backend {self.name!r} gives frequencies, not probabilities: give a number of shots"
            )
        if not len(left):
            return np.empty(0)
        device = self._device(circuit.n_qubits, seed)
        measured = self._measurement(device, circuit.n_qubits, shots)
        tapes = self._tapes(circuit.compute_uncompute(), np.hstack([left, right]), np.tile(shared, 2), measured, shots)
        values = [np.ravel(_frequency(result)) for result in self._execute(device, tapes)]
        return np.concatenate(values).astype(np.float64)

    def _device(self, n_qubits: int, seed: int | None = None) -> Any:
        if not isinstance(self._given, str):
            return self._given
        if seed is not None and self._limits.seeded:
            return _make(self._given, {"wires": n_qubits, **self._options, "seed": seed})
        if n_qubits not in self._kept:
            self._kept[n_qubits] = _make(self._given, {"wires": n_qubits, **self._options})
        return self._kept[n_qubits]

    def _measurement(self, device: Any, n_qubits: int, shots: int | None) -> Any:
        """The probability of 0...0 where it can be asked for, else counts: every device has those."""
        qml, wires = _pennylane(), _wires(device, n_qubits)
        if self._kind.startswith(_SIMULATORS):
            return qml.expval(qml.Projector([0] * n_qubits, wires=wires))
        return qml.counts(wires=wires)

    def _tapes(
        self, circuit: Circuit, angles: np.ndarray, shared: np.ndarray, measured: Any, shots: int | None
    ) -> list[Any]:
        """A tape for each row, or for many of them where the device computes with arrays of angles."""
        qml = _pennylane()
        step = 1
        # Rows that do not differ would be one row to the device, with one outcome for all.
        if self._kind in _BATCHES and self._noise is None and circuit.columns("data"):
            step = max(1, _AMPLITUDES // 2 ** (circuit.n_qubits * (2 if self._kind == "default.mixed" else 1)))
        fixed = [
            None if gate.is_data else _operation(gate, _angle(gate, shared), measured.wires) for gate in circuit.gates
        ]
        tapes: list[Any] = []
        for start in range(0, len(angles), step):
            rows = angles[start : start + step].T if step > 1 else angles[start]
            operations = [
                ready if ready is not None else _operation(gate, _angle(gate, rows), measured.wires)
                for gate, ready in zip(circuit.gates, fixed, strict=True)
            ]
            tape = qml.tape.QuantumScript(operations, [measured], shots=shots)
            tapes += qml.noise.add_noise(tape, self._noise)[0] if self._noise is not None else [tape]
        return tapes

    def _execute(self, device: Any, tapes: list[Any]) -> Sequence[Any]:
        try:
            program, config = device.preprocess()
            batch, postprocess = program(tapes)
            results: Sequence[Any] = postprocess(device.execute(batch, config))
        except DQKError:
            raise
        except _pennylane().exceptions.DeviceError as error:
            raise UnsupportedError(f"backend {self.name!r} cannot run the circuit: {error}") from error
        except Exception as error:  # a plugin's own, of any kind
            if self.capabilities.device != "qpu":
                raise
            raise ClusterError(f"backend {self.name!r} gave no result: {type(error).__name__}: {error}") from error
        return results


def open_device(text: str) -> PennyLaneBackend:
    """The backend of a name such as `pennylane:lightning.qubit?shots=1000`, given what follows the colon."""
    name, options = split_options(text)
    if not name:
        raise InvalidInputError("backend 'pennylane:' names no device, expected 'pennylane:lightning.qubit', say")
    return PennyLaneBackend(name, **options)  # type: ignore[arg-type]


def is_device(value: Any) -> bool:
    """Whether it is a PennyLane device."""
    return isinstance(value, _pennylane().devices.Device)


def _pennylane() -> Any:
    try:
        import pennylane
    except ImportError as error:
        raise BackendUnavailableError(
            f"PennyLane devices need PennyLane, which cannot be imported ({error}); install it with: pip install 'dqk[qpu]'"
        ) from error
    return pennylane


def _make(name: str, options: dict[str, Any]) -> Any:
    qml = _pennylane()
    try:
        return qml.device(name, **options)
    except qml.exceptions.DeviceError as error:
        raise BackendUnavailableError(
            f"PennyLane has no device {name!r} ({error}); install the plugin that brings it, or take one of "
            "'lightning.qubit', 'default.qubit', 'default.mixed'"
        ) from error
    except TypeError as error:
        raise InvalidInputError(f"device {name!r} with the options {sorted(options)}: {error}") from error


def _name(device: str, options: dict[str, Any], usual: dict[str, Any]) -> str:
    shown = {k: v for k, v in options.items() if (k not in usual or v != usual[k]) and not is_secret(k)}
    return f"pennylane:{device}" + (f"?{urlencode(shown, safe=':/')}" if shown else "")


def _wires(device: Any, n_qubits: int) -> list[Any]:
    """The device's names for as many wires, numbers where it has none."""
    return list(range(n_qubits)) if device.wires is None else list(device.wires)[:n_qubits]


def _angle(gate: Gate, columns: np.ndarray) -> Any:
    """The gate's angle: a number, or an array over the second axis of the columns; None if it takes none."""
    if gate.operand is None:
        return None
    if gate.operand.kind == "constant":
        return gate.operand.value
    return gate.operand.value * columns[gate.operand.column]


def _operation(gate: Gate, angle: Any, labels: Any) -> Any:
    qml, wires = _pennylane(), [labels[wire] for wire in gate.wires]
    if gate.matrix is not None:
        return qml.QubitUnitary(gate.unitary(), wires=wires)
    operation = getattr(qml, _OPERATIONS[gate.name])
    return operation(wires=wires) if angle is None else operation(angle, wires=wires)


def _frequency(result: Any) -> Any:
    """How often 0...0 was found, from what `_measurement` asked for."""
    if not isinstance(result, dict):
        return result
    zeros = sum(int(count) for outcome, count in result.items() if not str(outcome).strip("0"))
    return zeros / sum(int(count) for count in result.values())
