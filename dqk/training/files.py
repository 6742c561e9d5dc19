"""Files that are either the old or the new version, whatever happens while they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dqk.errors import CheckpointError


def make_folder(path: Path) -> None:
    """Makes a folder for results, if it is missing.

    Raises:
        CheckpointError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot make the folder {path}: {error.strerror or error}; name another one with --out"
        ) from error


def write_atomic(path: Path, content: bytes, durable: bool = True) -> None:
    """Writes a file so that a crash leaves the old content or the new one, never a part.

    Args:
        path: replaced if it exists.
        content: all of it.
        durable: whether to wait until a loss of power cannot undo it, which takes milliseconds.

    Raises:
        OSError: with `path` as its file name, whatever failed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk is reported without a name, or with the temporary one
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the rename itself durable
    finally:
        os.close(folder)


def write_json(path: Path, document: Any) -> None:
    """Writes a JSON document, readable by people, atomically."""
    write_atomic(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON document in a file of a run folder.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}; is {path.parent} a run folder?"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it from a copy or start a new run") from error
