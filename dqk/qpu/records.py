"""What a QPU service and its clients tell each other: limits, states of jobs, results, tables of parameters, tokens."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dqk.errors import ClusterError, InvalidInputError

TOKEN_VARIABLE = "DQK_QPU_TOKEN"
FINISHED = ("done", "failed", "cancelled")
OUTCOMES = ("counts", "zeros")
_PORTS = {"http": 80, "https": 443}


class QPUError(ClusterError):
    """A service that cannot be reached, or that says no.

    Attributes:
        status: the HTTP status of its answer; None if there was none.
        charged: False if it is known that nothing was charged.
    """

    status: int | None = None
    charged = True


@dataclass(frozen=True)
class QPULimits:
    """What a service accepts, what it takes and what it costs.

    Attributes:
        name: of the device.
        n_qubits: widest circuit.
        max_circuits_per_job: rows of a job's table.
        max_shots: measurements of one row.
        max_open_jobs: jobs of one token that are queued or running at once.
        max_body_bytes: size of a request.
        job_s, circuit_s, shot_s: seconds of the device for a job, for each of its rows, for each shot of a row.
        session_job_s: in place of `job_s` for a job of a session that follows another of the same session.
        seeded: counts are fixed by the job's seed.
        noisy: counts are those of a device with errors.
        price_per_s, price_per_shot, price_per_job: of a job that is done, in `currency`.
    """

    name: str
    n_qubits: int
    max_circuits_per_job: int
    max_shots: int
    max_open_jobs: int
    max_body_bytes: int
    job_s: float
    circuit_s: float
    shot_s: float
    session_job_s: float
    seeded: bool
    noisy: bool
    price_per_s: float
    price_per_shot: float
    price_per_job: float
    currency: str

    def seconds(self, rows: int, shots: int) -> float:
        """Seconds of the device for a job with so many rows of so many shots."""
        return self.job_s + rows * self.circuit_s + rows * shots * self.shot_s

    def price(self, rows: int, shots: int) -> float:
        """What such a job costs, in `currency`."""
        return self.price_per_job + self.price_per_s * self.seconds(rows, shots) + self.price_per_shot * rows * shots


@dataclass(frozen=True)
class JobStatus:
    """How a job is doing.

    Attributes:
        job: its id.
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        position: jobs before it in the queue; None once it runs.
        error: why it failed; None if it did not.
        rows: circuits.
        shots: measurements of each.
        seed: of the measurements, also if the service chose it.
        seconds: of the device that were charged; 0 unless done.
        price: that was charged.
    """

    job: str
    state: str
    position: int | None
    error: str | None
    rows: int
    shots: int
    seed: int
    seconds: float
    price: float

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINISHED


@dataclass(frozen=True)
class JobResult:
    """What a job measured.

    Attributes:
        job: its id.
        shots: measurements of each row.
        seed: of the measurements.
        seconds: of the device that were charged.
        price: that was charged.
        counts: for each row how often each outcome was found; the first character belongs to qubit 0, or to the first classical
            bit if the program measures into bits. None if only zeros were asked for.
        zeros: how often each row was found as 0...0, shape (P,), int64; also if counts were asked for.
    """

    job: str
    shots: int
    seed: int
    seconds: float
    price: float
    counts: list[dict[str, int]] | None
    zeros: np.ndarray


def service_url(url: Any) -> str:
    """A service's URL in the one way in which it is written: names of backends, stores and logs have it.

    >>> service_url("HTTP://QPU.Example.org:80/")
    'http://qpu.example.org'

    Raises:
        InvalidInputError: if it is no URL of HTTP, or has a password, which such names must not show.
    """
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in _PORTS or not host or parts.query or parts.fragment:
        raise InvalidInputError(f"the service's URL is {url!r}, expected one such as http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError(
            f"the URL of the service at {host} has a user or a password in it, expected one without: give the service's token "
            f"by a token file or by {TOKEN_VARIABLE}"
        )
    host = f"[{host}]" if ":" in host else host
    named = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{named}{parts.path.rstrip('/')}"


def read_token(path: str | os.PathLike[str]) -> str:
    """The first token of a file that has one in each line.

    Raises:
        InvalidInputError: if the file cannot be read or has none.
    """
    return read_tokens(path)[0]


def read_tokens(path: str | os.PathLike[str]) -> list[str]:
    """All tokens of a file that has one in each line; empty lines do not count."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InvalidInputError(f"the token file {os.fspath(path)} cannot be read: {reason}") from error
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise InvalidInputError(f"the token file {os.fspath(path)} is empty, expected a token in each line")
    for number, token in enumerate(tokens, 1):
        check_token(token, f"token {number} of {os.fspath(path)}")
    return tokens


def check_token(token: str, what: str) -> str:
    """The token, if it can stand in a header. No message ever shows it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidInputError(f"{what} has to be printable ASCII characters without spaces")
    return token


def pack(document: dict[str, Any], parameters: np.ndarray | None) -> bytes:
    """The JSON of a job with its table of parameters: float64, little-endian, row by row, in base64.

    The table is put in as it is: a JSON encoder looks at each of its characters, which takes longer than everything else here.
    """
    if parameters is None:
        return json.dumps(document).encode()
    array = np.ascontiguousarray(parameters, dtype="<f8")
    if array.ndim != 2:
        raise InvalidInputError(f"parameters have shape {array.shape}, expected (rows, inputs of the circuit)")
    if not np.isfinite(array).all():
        raise InvalidInputError("parameters have values that are not finite")
    rows, columns = array.shape
    table = {"rows": rows, "columns": columns, "base64": ""}
    around, end = json.dumps({**document, "parameters": table}).encode(), b'"}}'
    return b"".join([around.removesuffix(end), base64.b64encode(array.data), end])
