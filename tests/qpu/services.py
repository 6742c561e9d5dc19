"""QPU services of the tests: real ones, on the loopback interface, each a process that the test ends."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_S = 60.0


@dataclass
class Service:
    """A service that runs.

    Attributes:
        url: where.
        process: it.
    """

    url: str
    process: subprocess.Popen

    def kill(self) -> None:
        """As a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def begin(
    folder: Path, profile: str = "", port: int = 0, qubits: int = 8, token_file: Path | None = None
) -> subprocess.Popen:
    """Starts a service; it says where on its standard output. `profile` is TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profile.toml").write_text(profile)
    command = [sys.executable, "-m", "dqk", "qpu", "serve", f"--qubits={qubits}", f"--port={port}"]
    command += [f"--profile={folder / 'profile.toml'}", f"--data={folder / 'jobs'}"]
    command += [] if token_file is None else [f"--token-file={token_file}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)


def ready(process: subprocess.Popen, folder: Path) -> Service:
    """Waits for a service that was started."""
    timer = threading.Timer(_PATIENCE_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
    finally:
        timer.cancel()
    assert url.startswith("http://127.0.0.1:"), (folder / "log.txt").read_text()
    return Service(url, process)


@contextlib.contextmanager
def serving(folder: Path, *profiles: str, **options) -> Iterator[list[Service]]:
    """Services with these profiles, started side by side."""
    folders = [folder / f"qpu-{k}" for k in range(len(profiles))]
    processes = [begin(place, profile, **options) for place, profile in zip(folders, profiles, strict=True)]
    try:
        yield [ready(process, place) for process, place in zip(processes, folders, strict=True)]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
