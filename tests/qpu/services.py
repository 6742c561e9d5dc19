"""Several QPU services side by side."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.qpu.server import Server, arguments


def begin(folder: Path, profile: str = "", port: int = 0) -> Server:
    """A service whose jobs survive in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Server(*arguments(folder, profile, ()), f"--port={port}", f"--data={folder / 'jobs'}")


@contextlib.contextmanager
def serving(folder: Path, *profiles: str) -> Iterator[list[Server]]:
    """Services with these profiles, each in TOML, that end with the block."""
    folders = [folder / f"qpu-{k}" for k in range(len(profiles))]
    with ThreadPoolExecutor() as threads:
        started = [threads.submit(begin, *pair) for pair in zip(folders, profiles, strict=True)]
    try:
        yield [server.result() for server in started]
    finally:
        for server in started:
            if server.exception() is None:
                server.result().stop()
