"""OpenQASM in: the straight-line subset that dqk, Qiskit and PennyLane write, as a circuit and the angles of its columns.

Strict on purpose: what is not known is refused with its line, and nothing of a program is ever evaluated by Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dqk.circuit import Circuit, Gate, constant, data
from dqk.circuit.gates import GATES
from dqk.circuit.qasm import DEFINITIONS
from dqk.errors import InvalidInputError, unknown_name
from dqk.qpu.expressions import CONSTANTS, Angle, Node, QASMError, Reader, Token, evaluate, substitute, tokens
from dqk.qpu.stdgates import INCLUDES, LIBRARY, UNSUPPORTED

MAX_GATES = 100_000
_MAX_DEPTH = 50
_MAX_BITS = 64
_NATIVE_DEFINITIONS = {name: [token.text for token in tokens(text)][1:-1] for name, text in DEFINITIONS.items()}


class _Call(NamedTuple):
    line: int
    name: str
    angles: tuple[Angle, ...]
    wires: tuple[str, ...]


@dataclass(frozen=True)
class _Definition:
    parameters: tuple[str, ...]
    wires: tuple[str, ...]
    body: tuple[_Call, ...]


@dataclass(frozen=True)
class Program:
    """What a program says.

    Attributes:
        circuit: its gates; each angle that depends on an input has a data column of its own.
        columns: what these columns hold.
        lines: where each column is written.
        inputs: names of the inputs, in the order of their declaration.
        measured: the qubit that each character of an outcome belongs to.
    """

    circuit: Circuit
    columns: tuple[Angle, ...]
    lines: tuple[int, ...]
    inputs: tuple[str, ...]
    measured: tuple[int, ...]

    def angles(self, table: np.ndarray) -> np.ndarray:
        """Data angles, shape (P, A_d), for a table of inputs, shape (P, n_inputs).

        Raises:
            InvalidInputError: if the table has another number of columns.
            QASMError: if an angle is not finite for some row.
        """
        if table.ndim != 2 or table.shape[1] != len(self.inputs):
            raise InvalidInputError(f"parameters have shape {table.shape}, expected (rows, {len(self.inputs)} inputs)")
        values = {name: table[:, k] for k, name in enumerate(self.inputs)}
        angles = np.empty((len(table), len(self.columns)))
        for k, column in enumerate(self.columns):
            angles[:, k] = evaluate(column, values)
            if not np.isfinite(angles[:, k]).all():
                row = int(np.flatnonzero(~np.isfinite(angles[:, k]))[0])
                raise QASMError(self.lines[k], f"the angle is not a finite number for row {row} of the parameters")
        return angles


@lru_cache(maxsize=64)
def parse(text: str) -> Program:
    """Reads a program.

    Args:
        text: OpenQASM 3, or 2 as far as it says the same.

    Raises:
        QASMError: at the first line that cannot be used.
    """
    return _Parser(text).program()


@lru_cache(maxsize=1)
def _library() -> dict[str, _Definition]:
    parser = _Parser(LIBRARY, known={})
    parser.included = True
    while parser.reader.next.kind != "end":
        parser.reader.take()
        parser.definition()
    return parser.definitions


@dataclass
class _Parser:
    text: str
    known: dict[str, _Definition] | None = None
    inputs: list[str] = field(default_factory=list)
    qubits: dict[str, list[int]] = field(default_factory=dict)
    bits: dict[str, list[int]] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    columns: list[Angle] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    measured: dict[int, int] = field(default_factory=dict)  # bit -> qubit

    def __post_init__(self) -> None:
        self.reader = Reader(self.text)
        self.definitions = dict(_library() if self.known is None else self.known)
        self.included = False
        self.steps = 0
        self.n_qubits = 0
        self.n_bits = 0
        self.over: set[int] = set()  # qubits that were measured

    def program(self) -> Program:
        read = self.reader
        line = read.expect("OPENQASM").line
        version = read.take("number").text
        if version.partition(".")[0] not in ("2", "3"):
            raise QASMError(line, f"OpenQASM {version}, expected 3.0")
        read.expect(";")
        while read.next.kind != "end":
            self._statement()
        if not self.n_qubits:
            raise QASMError(read.next.line, "there is no qubit; declare some: qubit[2] q;")
        circuit = Circuit(self.n_qubits, tuple(self.gates), n_data=len(self.columns))
        measured = tuple(self.measured[bit] for bit in sorted(self.measured)) or tuple(range(self.n_qubits))
        return Program(circuit, tuple(self.columns), tuple(self.lines), tuple(self.inputs), measured)

    def _statement(self) -> None:
        read, token = self.reader, self.reader.next
        if token.kind != "name":
            raise QASMError(token.line, f"{token.text} where a statement was expected")
        if token.text in UNSUPPORTED:
            raise QASMError(token.line, f"{token.text!r} is not supported: gates in a row, then measurements")
        if token.text in self.bits:
            self._assigned_measurement()
            return
        handler = _STATEMENTS.get(token.text)
        if handler is None:
            self._call_statement()
            return
        read.take()
        handler(self)

    def _include_statement(self) -> None:
        name = self.reader.take("text")
        if name.text.strip('"') not in INCLUDES:
            raise QASMError(name.line, f"include {name.text[:60]!a}, expected one of {', '.join(INCLUDES)}")
        self.included = True
        self.reader.expect(";")

    def _input_statement(self) -> None:
        read, kind = self.reader, self.reader.take("name")
        if kind.text not in ("float", "angle"):
            raise QASMError(kind.line, f"an input of type {kind.text!r}, expected float[64]")
        if read.given("["):
            read.whole_number()
            read.expect("]")
        self.inputs.append(self._new_name())
        read.expect(";")

    def _qubit_statement(self) -> None:
        count = self._length()
        self._new_qubits(self._new_name(), count)

    def _qreg_statement(self) -> None:
        name = self._new_name()
        self._new_qubits(name, self._length())

    def _new_qubits(self, name: str, count: int) -> None:
        line = self.reader.expect(";").line
        self.qubits[name] = list(range(self.n_qubits, self.n_qubits + count))
        self.n_qubits += count
        if self.n_qubits > _MAX_BITS:
            raise QASMError(line, f"more than {_MAX_BITS} qubits")

    def _bit_statement(self) -> None:
        count = self._length()
        name = self._new_name()
        self._new_bits(name, count)
        if self.reader.given("="):
            self._measured_into(self.bits[name])
        else:
            self.reader.expect(";")

    def _creg_statement(self) -> None:
        name = self._new_name()
        self._new_bits(name, self._length())
        self.reader.expect(";")

    def _new_bits(self, name: str, count: int) -> None:
        if self.n_bits + count > _MAX_BITS:
            raise QASMError(self.reader.next.line, f"more than {_MAX_BITS} classical bits")
        self.bits[name] = list(range(self.n_bits, self.n_bits + count))
        self.n_bits += count

    def _length(self) -> int:
        """The length of a register, 1 if it is not said."""
        if not self.reader.given("["):
            return 1
        line = self.reader.next.line
        count = self.reader.whole_number()
        if not 1 <= count <= _MAX_BITS:
            raise QASMError(line, f"a register of {count}, expected 1 to {_MAX_BITS}")
        self.reader.expect("]")
        return count

    def _new_name(self) -> str:
        token = self.reader.take("name")
        if token.text in self.qubits or token.text in self.bits or token.text in self.inputs or token.text in CONSTANTS:
            raise QASMError(token.line, f"{token.text!r} is declared twice")
        return token.text

    def definition(self) -> None:
        """Reads `name(parameters) wires { calls }`."""
        read = self.reader
        start = read.position
        name = read.take("name")
        parameters: list[str] = []
        if read.given("("):
            parameters = [] if read.next.text == ")" else read.names()
            read.expect(")")
        wires = read.names()
        if len({*parameters, *wires}) != len(parameters) + len(wires):
            raise QASMError(name.line, f"gate {name.text} has a name twice")
        read.expect("{")
        body = []
        while not read.given("}"):
            body += self._body_call(parameters, wires)
        if read.texts_since(start) != _NATIVE_DEFINITIONS.get(name.text):
            self.definitions[name.text] = _Definition(tuple(parameters), tuple(wires), tuple(body))

    def _body_call(self, parameters: list[str], wires: list[str]) -> list[_Call]:
        token, angles = self._name_and_angles(parameters)
        operands = [] if token.text == "gphase" else self.reader.names()
        self.reader.expect(";")
        for operand in operands:
            if operand not in wires:
                raise QASMError(token.line, f"{operand!r} is no qubit of this gate")
        if token.text in ("barrier", "gphase"):
            return []
        self._check_call(token.line, token.text, len(angles), operands)
        return [_Call(token.line, token.text, angles, tuple(operands))]

    def _name_and_angles(self, known: list[str]) -> tuple[Token, tuple[Angle, ...]]:
        read, token = self.reader, self.reader.take("name")
        angles: list[Angle] = []
        if read.given("(") and not read.given(")"):
            angles.append(read.angle(known))
            while read.given(","):
                angles.append(read.angle(known))
            read.expect(")")
        if token.text == "gphase" and len(angles) != 1:
            raise QASMError(token.line, f"gphase takes one angle, {len(angles)} are given")
        return token, tuple(angles)

    def _call_statement(self) -> None:
        token, angles = self._name_and_angles(self.inputs)
        if token.text == "gphase":
            self.reader.expect(";")
            return
        operands = [self._operand(self.qubits, "qubit")]
        while self.reader.given(","):
            operands.append(self._operand(self.qubits, "qubit"))
        self.reader.expect(";")
        self._check_call(token.line, token.text, len(angles), operands)
        lengths = {len(operand) for operand in operands} - {1}
        if len(lengths) > 1:
            raise QASMError(token.line, f"{token.text} on registers of different lengths")
        for k in range(max(lengths, default=1)):
            wires = tuple(operand[k] if len(operand) > 1 else operand[0] for operand in operands)
            self._run(token.line, token.text, angles, wires)

    def _check_call(self, line: int, name: str, n_angles: int, operands: list) -> None:
        if name in self.definitions and (
            self.included or name == "U" or self.definitions[name] is not _library().get(name)
        ):
            shape = len(self.definitions[name].parameters), len(self.definitions[name].wires)
        elif name in GATES and self.included:
            shape = int(GATES[name].has_angle), GATES[name].n_wires
        else:
            if not self.included and (name in GATES or name in self.definitions):
                raise QASMError(line, f'gate {name!r} is not known without include "stdgates.inc";')
            raise QASMError(line, str(unknown_name("gate", name[:60], [*GATES, *self.definitions])))
        if (n_angles, len(operands)) != shape:
            raise QASMError(
                line, f"{name} takes {shape[0]} angles and {shape[1]} qubits, got {n_angles} and {len(operands)}"
            )

    def _run(self, line: int, name: str, angles: tuple[Angle, ...], wires: tuple[int, ...], depth: int = 0) -> None:
        self.steps += 1
        if self.steps > MAX_GATES or depth > _MAX_DEPTH:
            raise QASMError(line, f"more than {MAX_GATES} gates, or definitions that call {_MAX_DEPTH} others in turn")
        if len(set(wires)) != len(wires):
            raise QASMError(line, f"{name} has a qubit twice")
        definition = self.definitions.get(name)
        if definition is not None:
            values = dict(zip(definition.parameters, angles, strict=True))
            places = dict(zip(definition.wires, wires, strict=True))
            for call in definition.body:
                inner = tuple(substitute(angle, values, line) for angle in call.angles)
                self._run(line, call.name, inner, tuple(places[wire] for wire in call.wires), depth + 1)
            return
        if self.over.intersection(wires):
            raise QASMError(line, f"{name} on a qubit that was measured; measurements come last")
        if not angles:
            self.gates.append(Gate(name, wires))
        elif isinstance(angles[0], Node):
            self.gates.append(Gate(name, wires, data(len(self.columns))))
            self.columns.append(angles[0])
            self.lines.append(line)
        else:
            self.gates.append(Gate(name, wires, constant(angles[0])))

    def _barrier_statement(self) -> None:
        if self.reader.next.text != ";":
            self._operand(self.qubits, "qubit")
            while self.reader.given(","):
                self._operand(self.qubits, "qubit")
        self.reader.expect(";")

    def _measure_statement(self) -> None:
        line = self.reader.next.line
        qubits = self._operand(self.qubits, "qubit")
        if self.reader.given("->"):
            bits = self._operand(self.bits, "bit")
        else:
            bits = list(range(self.n_bits, self.n_bits + len(qubits)))
            self.n_bits += len(qubits)
        self._measure(line, qubits, bits)

    def _assigned_measurement(self) -> None:
        bits = self._operand(self.bits, "bit")
        self.reader.expect("=")
        self._measured_into(bits)

    def _measured_into(self, bits: list[int]) -> None:
        line = self.reader.expect("measure").line
        self._measure(line, self._operand(self.qubits, "qubit"), bits)

    def _measure(self, line: int, qubits: list[int], bits: list[int]) -> None:
        self.reader.expect(";")
        if len(qubits) != len(bits):
            raise QASMError(line, f"{len(qubits)} qubits are measured into {len(bits)} bits")
        if self.over.intersection(qubits) or self.measured.keys() & set(bits):
            raise QASMError(line, "a qubit is measured twice, or a bit is written twice")
        self.over.update(qubits)
        self.measured.update(zip(bits, qubits, strict=True))

    def _operand(self, registers: dict[str, list[int]], what: str) -> list[int]:
        """A register or one of its members."""
        token = self.reader.take("name")
        if token.text not in registers:
            raise QASMError(token.line, f"{token.text[:60]!r} is no declared {what}")
        register = registers[token.text]
        if not self.reader.given("["):
            return register
        index = self.reader.whole_number()
        if index >= len(register):
            raise QASMError(token.line, f"{token.text}[{index}] does not exist, {token.text} has {len(register)}")
        self.reader.expect("]")
        return [register[index]]


_STATEMENTS = {
    "include": _Parser._include_statement,
    "input": _Parser._input_statement,
    "qubit": _Parser._qubit_statement,
    "qreg": _Parser._qreg_statement,
    "bit": _Parser._bit_statement,
    "creg": _Parser._creg_statement,
    "gate": _Parser.definition,
    "barrier": _Parser._barrier_statement,
    "measure": _Parser._measure_statement,
}
