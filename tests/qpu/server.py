"""A real service in a process of its own."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 60.0


class Server:
    """`dqk qpu serve` with some options; `url` once it is ready, `log` what it has said on standard error."""

    def __init__(self, *options: str, environment: dict[str, str] | None = None):
        variables = {name: value for name, value in os.environ.items() if not name.startswith("DQK_QPU")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dqk", "qpu", "serve", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables | (environment or {}),
        )
        self._said: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.first_line = self._first_line()
        self.url: str = json.loads(self.first_line)["url"]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append(line)

    def _first_line(self) -> bytes:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(START_S)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.kill()
            raise AssertionError(f"the service did not start: {self.log}")
        return line

    @property
    def log(self) -> str:
        return b"".join(self._said).decode()

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As a user does it."""
        self._end(signal.SIGINT)

    def _end(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10.0)
        self._reader.join(5.0)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def serving(folder: Path, profile: str = "", *options: str, tokens: tuple[str, ...] = ()) -> Iterator[Server]:
    """A service with a profile, given as TOML, and tokens, that ends with the block."""
    server = Server(*arguments(folder, profile, tokens), *options)
    try:
        yield server
    finally:
        server.stop()


def arguments(folder: Path, profile: str, tokens: tuple[str, ...]) -> list[str]:
    given = ["--port", "0"]
    if profile:
        (folder / "profile.toml").write_text(profile)
        given += ["--profile", str(folder / "profile.toml")]
    if tokens:
        (folder / "tokens").write_text("\n".join(tokens) + "\n")
        given += ["--token-file", str(folder / "tokens")]
    return given


def until(condition, timeout_s: float = 60.0) -> None:  # noqa: ANN001
    """Waits until a condition holds; fails the test if it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.01)
