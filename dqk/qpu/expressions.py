"""Angles in a program: arithmetic with numbers, `pi` and inputs, read by a parser and never by Python.

What has no input in it becomes a number at once. The rest is a small tree that is computed for all rows of a table together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dqk.errors import InvalidInputError

MAX_NODES = 200
"""Of one angle. It also bounds how deep anything here recurses."""
_MAX_NESTING = 50

_FUNCTIONS: dict[str, tuple[int, Callable[..., Any], Callable[..., Any]]] = {
    "+": (2, lambda a, b: a + b, np.add),
    "-": (2, lambda a, b: a - b, np.subtract),
    "*": (2, lambda a, b: a * b, np.multiply),
    "/": (2, lambda a, b: a / b, np.divide),
    "%": (2, math.fmod, np.fmod),
    "**": (2, math.pow, np.power),
    "pow": (2, math.pow, np.power),
    "mod": (2, math.fmod, np.fmod),
    "negative": (1, lambda a: -a, np.negative),
    "sin": (1, math.sin, np.sin),
    "cos": (1, math.cos, np.cos),
    "tan": (1, math.tan, np.tan),
    "exp": (1, math.exp, np.exp),
    "ln": (1, math.log, np.log),
    "log": (1, math.log, np.log),
    "sqrt": (1, math.sqrt, np.sqrt),
    "arcsin": (1, math.asin, np.arcsin),
    "arccos": (1, math.acos, np.arccos),
    "arctan": (1, math.atan, np.arctan),
}
CONSTANTS = {"pi": math.pi, "π": math.pi, "tau": math.tau, "τ": math.tau, "euler": math.e, "ℇ": math.e}
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|//[^\n]*|/\*.*?\*/|\n)
      |(?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)
      |(?P<name>[^\W\d]\w*)
      |(?P<text>"[^"\n]*")
      |(?P<mark>->|\*\*|[;,(){}\[\]=+\-*/%@])""",
    re.VERBOSE | re.DOTALL,
)


class QASMError(InvalidInputError):
    """A program that cannot be run.

    Attributes:
        line: the line of it that is wrong, from 1.
    """

    def __init__(self, line: int, text: str):
        super().__init__(f"line {line}: {text}")
        self.line = line


class Token(NamedTuple):
    """A word of a program; `kind` is number, name, text, mark or end."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Node:
    """An angle that depends on something: `function` of `arguments`, or the value of `symbol`."""

    function: str
    arguments: tuple[Node | float, ...] = ()
    symbol: str = ""
    size: int = 1


Angle = Node | float


def tokens(program: str) -> list[Token]:
    """The words of a program; the last one is its end."""
    found, position, line = [], 0, 1
    while position < len(program):
        match = _TOKEN.match(program, position)
        if match is None:
            raise QASMError(line, f"{program[position]!a} is no part of OpenQASM")
        if match.lastgroup != "space":
            found.append(Token(str(match.lastgroup), match.group(), line))
        line += match.group().count("\n")
        position = match.end()
    found.append(Token("end", "the end of the program", line))
    return found


class Reader:
    """Walks through the words of a program."""

    def __init__(self, program: str):
        self._tokens = tokens(program)
        self._at = 0

    @property
    def next(self) -> Token:
        """The word that comes."""
        return self._tokens[self._at]

    @property
    def position(self) -> int:
        """How many words were taken."""
        return self._at

    def texts_since(self, position: int) -> list[str]:
        """The words that were taken since then."""
        return [token.text for token in self._tokens[position : self._at]]

    def take(self, kind: str | None = None) -> Token:
        """The word that comes, of the expected kind."""
        token = self.next
        if kind is not None and token.kind != kind:
            raise QASMError(token.line, f"{token.text} where a {kind} was expected")
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def expect(self, text: str) -> Token:
        """The word that comes, which has to be this one."""
        token = self.next
        if token.text != text:
            raise QASMError(token.line, f"{token.text} where {text!r} was expected")
        return self.take()

    def given(self, text: str) -> bool:
        """Whether this word comes; it is then taken."""
        if self.next.text != text or self.next.kind == "text":
            return False
        self.take()
        return True

    def whole_number(self) -> int:
        """A number of qubits or an index."""
        token = self.take("number")
        if not token.text.isascii() or not token.text.isdigit() or len(token.text) > 9:
            raise QASMError(token.line, f"{token.text[:20]} where a whole number was expected")
        return int(token.text)

    def names(self) -> list[str]:
        """One or more names with commas in between."""
        found = [self.take("name").text]
        while self.given(","):
            found.append(self.take("name").text)
        return found

    def angle(self, known: Iterable[str], depth: int = 0) -> Angle:
        """An expression in which the symbols `known` may stand."""
        line = self.next.line
        if depth > _MAX_NESTING:
            raise QASMError(line, f"an angle is nested deeper than {_MAX_NESTING}")
        left = self._product(known, depth)
        while self.next.text in ("+", "-"):
            left = apply(self.take().text, (left, self._product(known, depth)), line)
        return left

    def _product(self, known: Iterable[str], depth: int) -> Angle:
        left, line = self._signed(known, depth), self.next.line
        while self.next.text in ("*", "/", "%"):
            left = apply(self.take().text, (left, self._signed(known, depth)), line)
        return left

    def _signed(self, known: Iterable[str], depth: int) -> Angle:
        if self.next.text in ("-", "+"):
            sign = self.take()
            if depth > _MAX_NESTING:
                raise QASMError(sign.line, f"an angle is nested deeper than {_MAX_NESTING}")
            inner = self._signed(known, depth + 1)
            return inner if sign.text == "+" else apply("negative", (inner,), sign.line)
        base, line = self._atom(known, depth), self.next.line
        return apply("**", (base, self._signed(known, depth + 1)), line) if self.given("**") else base

    def _atom(self, known: Iterable[str], depth: int) -> Angle:
        token = self.take()
        if token.kind == "number":
            return _finite(float(token.text), token.line)
        if token.text == "(":
            inner = self.angle(known, depth + 1)
            self.expect(")")
            return inner
        if token.kind != "name":
            raise QASMError(token.line, f"{token.text} where an angle was expected")
        if token.text in known:
            return Node("symbol", symbol=token.text)
        if token.text in CONSTANTS:
            return CONSTANTS[token.text]
        if token.text not in _FUNCTIONS:
            raise QASMError(token.line, f"{token.text!r} is not known here; declare it: input float[64] {token.text};")
        self.expect("(")
        arguments = [self.angle(known, depth + 1)]
        while self.given(","):
            arguments.append(self.angle(known, depth + 1))
        self.expect(")")
        return apply(token.text, tuple(arguments), token.line)


def apply(function: str, arguments: tuple[Angle, ...], line: int) -> Angle:
    """A function of angles: a number if they are numbers."""
    count, compute, _ = _FUNCTIONS[function]
    if len(arguments) != count:
        raise QASMError(line, f"{function} takes {count} arguments, {len(arguments)} are given")
    numbers = [argument for argument in arguments if isinstance(argument, float)]
    if len(numbers) == count:
        try:
            return _finite(compute(*numbers), line)
        except (ArithmeticError, ValueError) as error:
            raise QASMError(line, f"{function} of {', '.join(map(repr, numbers))} is not a number") from error
    size = 1 + sum(argument.size if isinstance(argument, Node) else 1 for argument in arguments)
    if size > MAX_NODES:
        raise QASMError(line, f"an angle has more than {MAX_NODES} parts")
    return Node(function, arguments, size=size)


def substitute(angle: Angle, values: Mapping[str, Angle], line: int) -> Angle:
    """The angle with other angles in place of its symbols."""
    if isinstance(angle, float):
        return angle
    if angle.function == "symbol":
        return values[angle.symbol]
    return apply(angle.function, tuple(substitute(part, values, line) for part in angle.arguments), line)


def evaluate(angle: Angle, columns: Mapping[str, np.ndarray]) -> Any:
    """The angle for each row, shape (P,), from the symbols' values; not finite where it has none."""
    if isinstance(angle, float):
        return angle
    if angle.function == "symbol":
        return columns[angle.symbol]
    compute: Callable[..., Any] = _FUNCTIONS[angle.function][2]
    parts: Sequence[Any] = [evaluate(part, columns) for part in angle.arguments]
    with np.errstate(all="ignore"):
        return compute(*parts)


def _finite(value: float, line: int) -> float:
    if not math.isfinite(value):
        raise QASMError(line, "an angle is not a finite number")
    return value
