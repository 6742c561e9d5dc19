"""Dataclasses from tables of TOML files and back: every mistake of a file is found, and they are reported together."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from dqk.errors import InvalidInputError, unknown_name


def real(default: float | None, most: float = 1e9, positive: bool = False) -> Any:
    """A field for a number from 0 (above 0 if `positive`) to `most`; without a default it has to be given."""
    return field(default=MISSING if default is None else default, metadata={"most": most, "positive": positive})


def whole(default: int, most: int, least: int = 1) -> Any:
    """A field for a whole number from `least` to `most`."""
    return field(default=default, metadata={"most": most, "positive": True, "least": least})


def read_toml(file: Path, what: str) -> dict[str, Any]:
    """The document of a TOML file.

    Raises:
        InvalidInputError: if it cannot be read or is something else.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"the {what} {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the {what} {file} is not TOML: {error}") from error


def toml_lines(table: Any, name: str) -> list[str]:
    """Lines of a dataclass as a table: values, then the tables in it. `section` makes the same dataclass of them."""
    lines, inner = [f"[{name}]"] if name else [], []
    for item in fields(table):
        value, place = getattr(table, item.name), f"{name}.{item.name}" if name else item.name
        if "tables" in item.metadata:
            for row in value:
                inner += [f"[[{place}]]", *toml_lines(row, place)[1:]]
        elif is_dataclass(value):
            inner += toml_lines(value, place)
        elif value is not None:
            lines.append(f"{item.name} = {json.dumps(value)}")
    return lines + inner


def section(kind: Any, given: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """A dataclass from a table; what is wrong goes to `problems`, and the result is then not used.

    Fields are numbers with the bounds of their metadata, texts (of `choices`, if there are any), lists of texts, tables whose
    default is a dataclass, and lists of `tables` of a dataclass.
    """
    known = {item.name: item for item in fields(kind)}
    for name in sorted(given.keys() - known.keys()):
        problems.append(str(unknown_name(f"key of [{where}]" if where else "key", name, known)))
    values: dict[str, Any] = {}
    wrong = len(problems)
    for name, item in known.items():
        place = f"{where}.{name}" if where else name
        if name not in given:
            if item.default is MISSING:
                problems.append(f"{where} lacks {name}")
                values[name] = 1.0
        elif "tables" in item.metadata:
            values[name] = _tables(item.metadata["tables"], given[name], place, problems)
        elif is_dataclass(item.default):
            if isinstance(given[name], dict):
                values[name] = section(type(item.default), given[name], place, problems)
            else:
                problems.append(f"{place} is {given[name]!r}, expected a table: [{place}]")
        else:
            values[name] = _value(item, given[name], place, problems)
    made = kind(**values)
    if len(problems) == wrong and hasattr(made, "problems"):
        problems += made.problems(where)
    return made


def _tables(kind: Any, given: Any, where: str, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        problems.append(f"{where} is {given!r}, expected tables: [[{where}]]")
        return ()
    return tuple(section(kind, row, f"{where} {number}", problems) for number, row in enumerate(given, 1))


def _value(item: Any, given: Any, place: str, problems: list[str]) -> Any:
    """A value of a field if it will do, else the field's own or 1."""
    if item.type == "tuple[str, ...]":
        if isinstance(given, list) and given and all(isinstance(text, str) for text in given):
            return tuple(given)
        problems.append(f"{place} is {given!r}, expected a list of texts")
        return ()
    if item.type in ("str", "str | None"):
        return _text(item, given, place, problems)
    whole, most = item.type in ("int", "int | None"), item.metadata["most"]
    kinds = int if whole else (int, float)
    fits = isinstance(given, kinds) and not isinstance(given, bool) and math.isfinite(given)
    positive = item.metadata["positive"]
    least = item.metadata.get("least", int(positive))
    if fits and (given >= least if whole else given > 0 if positive else given >= 0) and given <= most:
        return given if whole else float(given)
    bound = "above 0" if positive and not whole else f"of at least {least}"
    problems.append(f"{place} is {given!r}, expected a {'whole ' * whole}number {bound} and at most {most:g}")
    return 1


def _text(item: Any, given: Any, place: str, problems: list[str]) -> str:
    choices = item.metadata.get("choices")
    if choices is not None and given not in choices:
        problems.append(f"{place}: {unknown_name('name', given, choices)}")
    elif not (isinstance(given, str) and given.isprintable() and 0 < len(given) <= 300):
        problems.append(f"{place} is {given!r}, expected a text of one line")
    else:
        return given
    return ""
