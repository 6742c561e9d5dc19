"""Command lines and TOML files from the table of options of training runs."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dqk.errors import DataFileError, InvalidInputError
from dqk.training.config import OPTIONS, PRESETS, TYPES, TrainConfig
from dqk.training.options import flag

_METAVARS = {bool: "", int: "<int>", float: "<float>", str: "<text>"}


def with_options(task: str, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command that takes **given one option for every row of the table of options that applies to a task.

    Args:
        task: `pos` or `forecast`.
        without: options that the command does not take.
    """
    names = [name for name, option in OPTIONS.items() if task in option.tasks and name not in without]
    presets = "preset" in names

    def given(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, task, presets)
            )
            for name in names
        ]
        parameters = [*own, *shared]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return given


def _annotation(name: str, task: str, presets: bool) -> Any:
    option = OPTIONS[name]
    choices = f": {', '.join(option.choices)}." if option.choices else "."
    # Read as text and converted later: a mistake is then reported with its value, and with all others.
    details: dict[str, Any] = {
        "metavar": _METAVARS[_kind(name)],
        "rich_help_panel": option.group,
        "show_default": False,
    }
    help = f"{option.help}{choices}{_defaults(name, task, presets)}"
    typed: Any = bool | None if _kind(name) is bool else str | None
    return Annotated[typed, typer.Option(flag(name), help=help, **details)]


def _kind(name: str) -> type:
    return next((kind for kind in (bool, int, float) if TYPES[name] in (kind, kind | None)), str)


def converted(name: str, text: Any) -> Any:
    """The typed text in the option's type, or as it is for the configuration to complain about."""
    try:
        return _kind(name)(text)
    except ValueError:
        return text


def _defaults(name: str, task: str, presets: bool) -> str:
    usual = PRESETS.get(task, {}).get(name, getattr(TrainConfig(), name))
    if usual is None or usual is False or name == "preset":
        return ""
    table1 = PRESETS["table1"].get(name, usual) if presets else usual
    return f" Default {usual}." if table1 == usual else f" Default {usual}, for table1 {table1}."


def merged(config: Path | None, typed: dict[str, Any], out: Path | None) -> tuple[dict[str, Any], Path | None]:
    """Options and run folder from a TOML file and the command line, which wins."""
    written = _read_toml(config) if config is not None else {}
    out_in_file = _out_in_file(written)
    return {**written, **typed}, out if out is not None else out_in_file


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataFileError(
            f"cannot read {path}: {error.strerror or error}; expected a TOML file with options"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataFileError(f"{path} is not TOML: {error}") from error
    return {name.replace("-", "_"): value for name, value in document.items()}


def _out_in_file(written: dict[str, Any]) -> Path | None:
    """Takes the run folder out of the options of a TOML file."""
    out = written.pop("out", None)
    if out is not None and not (isinstance(out, str) and out):
        raise InvalidInputError(f"--out: {out!r}, expected the path of a folder")
    return None if out is None else Path(out)
