"""Talks to a QPU service: submits jobs, waits for counts. Choose it to build on a service without PennyLane or Qiskit.

Every request may be repeated: reading changes nothing, and a job is submitted under a key, under which it runs once. So whatever
looks like a passing fault of the network or the service is tried again, after pauses that grow, until the client's time is over.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import numpy as np

from dqk.errors import (
    BackendUnavailableError,
    DQKError,
    InvalidInputError,
    UnsupportedError,
    real_number,
    unknown_name,
    whole_number,
)
from dqk.qpu.records import (
    OUTCOMES,
    TOKEN_VARIABLE,
    JobResult,
    JobStatus,
    QPUError,
    QPULimits,
    check_token,
    pack,
    service_url,
)

_LONGEST_WAIT_S = 20.0  # of one request for a result
_LEAST_REQUEST_S = 10.0  # for an answer that is not waited for
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_PASSING = {429, 502, 503, 504}
_Record = TypeVar("_Record")


class QPUClient:
    """A service at a URL, through one connection that is kept. Threads may share it.

    A copy has a connection of its own. A pickle has no connection and no token: where it is loaded, the token is that of the
    environment variable.

    Args:
        url: such as `http://127.0.0.1:8000`.
        token: that the service asks for; None for that of the environment variable DQK_QPU_TOKEN, if it is set.
        timeout_s: how long one call tries again before it gives up. Waiting for a result has its own limit.

    Example:
        >>> client = QPUClient("http://127.0.0.1:8000", token="secret")  # connects when it is used
        >>> client
        QPUClient('http://127.0.0.1:8000')
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 60.0):
        self.url = service_url(url)
        token = os.environ.get(TOKEN_VARIABLE) or None if token is None else token
        self.timeout_s = real_number("timeout_s", timeout_s, above=0.0)
        self._token = None if token is None else check_token(token, "the token")
        self._kept: dict[int, Any] = {}  # by process: a forked child must not share its parent's socket

    def __repr__(self) -> str:
        return f"QPUClient({self.url!r})"

    def another(self, timeout_s: float | None = None) -> QPUClient:
        """A client of the same service, with a connection and perhaps a patience of its own."""
        made = QPUClient.__new__(QPUClient)
        made.__dict__.update(self.__dict__, _kept={}, timeout_s=self.timeout_s if timeout_s is None else timeout_s)
        return made

    def __deepcopy__(self, memo: dict[int, object]) -> QPUClient:
        return self.another()

    def __getstate__(self) -> dict[str, Any]:
        # Pickles are written to disks and sent to others: whoever loads one needs the token in the environment.
        return {"url": self.url, "timeout_s": self.timeout_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(QPUClient(**state).__dict__)

    @cached_property
    def limits(self) -> QPULimits:
        """What the service accepts; asked once."""
        return self.ask_limits()

    def ask_limits(self) -> QPULimits:
        """What the service accepts now."""
        return _record(QPULimits, self._request("GET", "/limits"))

    def submit(
        self,
        qasm: str,
        parameters: np.ndarray | None,
        shots: int,
        *,
        outcome: Literal["counts", "zeros"] = "counts",
        seed: int | None = None,
        key: str | None = None,
        session: str | None = None,
    ) -> str:
        """Hands in a job: one circuit, run once for each row of a table of its inputs.

        Args:
            qasm: OpenQASM 3 as `Circuit.to_openqasm` writes it; all qubits are measured unless it says which.
            parameters: values of its `input` declarations in their order, shape (P, n_inputs), radians; None for one row of
                a circuit without inputs.
            shots: measurements of each row.
            outcome: what to count: every outcome, or only 0...0, which is all that a kernel needs.
            seed: of the measurements, 0 to 2**63 - 1; None to have the service choose.
            key: of this job: the same key never runs twice, and gives the job that it gave before. None for a new one.
            session: an open session that it belongs to.

        Returns:
            The job's id.

        Raises:
            InvalidInputError: if the service finds the request unusable, or the key stands for another job.
            UnsupportedError: if it exceeds the service's limits.
            QPUError: if the service cannot be reached, does not know the token or the session, or stays busy.
        """
        if outcome not in OUTCOMES:
            raise unknown_name("outcome", outcome, OUTCOMES)
        body: dict[str, Any] = {"qasm": qasm, "shots": whole_number("shots", shots, 1), "outcome": outcome}
        if seed is not None:
            body["seed"] = whole_number("seed", seed, 0)
        if session is not None:
            body["session"] = session
        key = secrets.token_hex(16) if key is None else key
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return str(self._request("POST", "/jobs", content=pack(body, parameters), headers=headers)["job"])

    def status(self, job: str) -> JobStatus:
        """How a job is doing.

        Raises:
            QPUError: with status 404 if there is no such job, or it is somebody else's.
        """
        return _record(JobStatus, self._request("GET", f"/jobs/{quote(job, safe='')}"))

    def result(self, job: str, timeout_s: float | None = None) -> JobResult:
        """Waits for a job and gives what it measured.

        Args:
            job: its id.
            timeout_s: how long to wait; None for as long as it takes.

        Raises:
            QPUError: if it failed, was cancelled, is unknown (status 404), or is not done in time; it then goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        path = f"/jobs/{quote(job, safe='')}/result"
        while True:
            wait = _LONGEST_WAIT_S if deadline is None else min(_LONGEST_WAIT_S, max(0.0, deadline - time.monotonic()))
            answer = self._request("GET", path, params={"wait": f"{wait:.3f}"}, patience_s=wait)
            if answer.get("state") == "done":
                return _result(answer)
            status = _record(JobStatus, answer)
            if status.finished:
                reason = f": {status.error}" if status.error else ""
                error = QPUError(f"job {job} on {self.url} {_ENDED[status.state]}{reason}")
                error.charged = False
                raise error
            if deadline is not None and time.monotonic() >= deadline:
                ahead = (
                    f", with {status.position} job{'s' * (status.position != 1)} before it" if status.position else ""
                )
                raise QPUError(
                    f"job {job} on {self.url} is still {status.state}{ahead} after {timeout_s:g} s; it goes on"
                )

    def cancel(self, job: str) -> JobStatus:
        """Ends a job that has not ended, and gives how it is then."""
        return _record(JobStatus, self._request("DELETE", f"/jobs/{quote(job, safe='')}"))

    def open_session(self) -> str:
        """The id of a new session: its jobs follow each other without others in between and without their overhead."""
        return str(self._request("POST", "/sessions")["session"])

    def close_session(self, session: str) -> None:
        """Ends a session; jobs that it has handed in still run."""
        self._request("DELETE", f"/sessions/{quote(session, safe='')}")

    def calibration(self) -> dict[str, Any]:
        """Error rates as they are now, and since when."""
        return self._request("GET", "/calibration")

    def close(self) -> None:
        """Closes the connection; the next call opens another one."""
        kept = self._kept.pop(os.getpid(), None)
        if kept is not None:
            kept.close()

    def __del__(self, _ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # Without `_kept` it was refused. At the interpreter's end the modules that closing needs may be gone (a name of
        # this one too, hence the argument), and the system closes what is open.
        if hasattr(self, "_kept") and not _ending():
            self.close()

    def __enter__(self) -> QPUClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connection(self) -> Any:
        found = self._kept.get(os.getpid())
        if found is None:
            made = self._opened()
            found = self._kept.setdefault(os.getpid(), made)
            if found is not made:  # another thread was first
                made.close()
        return found

    def _opened(self) -> Any:
        httpx = _httpx()
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        try:
            local = httpx.URL(self.url).host in ("127.0.0.1", "localhost", "::1")
        except httpx.InvalidURL as error:
            raise InvalidInputError(f"{self.url!r} is no URL: {error}") from error
        # Where there is nothing to verify, certificates need not be loaded.
        verify = self.url.startswith("https")
        return httpx.Client(base_url=self.url, headers=headers, trust_env=not local, verify=verify)

    def _request(self, method: str, path: str, patience_s: float = 0.0, **given: Any) -> dict[str, Any]:
        """The JSON document of an answer. Repeats the request while that may help and there is time.

        Args:
            method: of HTTP.
            path: below the service's URL.
            patience_s: how long the service may take before it begins to answer.
            **given: what httpx takes.
        """
        httpx, connection = _httpx(), self._connection()
        attempts, failing = 0, None
        cause: Exception | None
        while True:
            attempts += 1
            limit = patience_s + min(self.timeout_s, max(_LEAST_REQUEST_S, self.timeout_s / 3))
            try:
                answer = connection.request(method, path, timeout=httpx.Timeout(limit, connect=10.0), **given)
            except httpx.TransportError as error:
                failure = QPUError(f"the QPU service at {self.url} does not answer: {error or type(error).__name__}")
                cause, least_s = error, 0.0
            else:
                if answer.is_success:
                    return _document(answer, self.url)
                refusal = _refusal(answer, self.url)
                if answer.status_code not in _PASSING or not isinstance(refusal, QPUError):
                    raise refusal
                failure, cause = refusal, None
                least_s = _retry_after(answer.headers.get("Retry-After"))
            now = time.monotonic()
            failing = (
                now if failing is None else failing
            )  # a long wait that breaks off in its last second has not failed for long
            pause = random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempts, 10))
            pause = max(pause, least_s)
            if now - failing + pause > self.timeout_s:
                raise _given_up(failure, attempts, now - failing) from cause
            time.sleep(pause)


_ENDED = {"failed": "failed", "cancelled": "was cancelled"}


def _result(answer: Mapping[str, Any]) -> JobResult:
    counts, zeros = answer.get("counts"), answer.get("zeros")
    if zeros is None and counts is not None:
        zeros = [row.get("0" * len(next(iter(row), "")), 0) for row in counts]
    if zeros is None:
        raise QPUError("the service's result has neither counts nor zeros")
    known = {name: answer[name] for name in ("job", "shots", "seed", "seconds", "price")}
    return JobResult(**known, counts=counts, zeros=np.array(zeros, dtype=np.int64))


def _record(kind: type[_Record], answer: Mapping[str, Any]) -> _Record:
    """A dataclass from an answer, which may have more than we know."""
    try:
        return kind(**{field.name: answer[field.name] for field in fields(kind)})  # type: ignore[arg-type]
    except KeyError as error:
        raise QPUError(f"the service's answer lacks {error}; is it a dqk QPU service of this version?") from error


def _document(answer: Any, url: str) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise QPUError(f"{url} does not answer like a dqk QPU service; is the URL right?")
    return document


def _refusal(answer: Any, url: str) -> DQKError:
    """The error for an answer that says no: what the service said, and what to do."""
    status = answer.status_code
    try:
        said = answer.json()
        code, text = str(said.get("error", "")), str(said.get("message", ""))
    except (ValueError, AttributeError):
        code, text = "", ""
    text = text or answer.reason_phrase
    if code == "beyond_limits":
        return UnsupportedError(f"{url}: {text}")
    if code == "key_reused" or status in (400, 413, 422):
        return InvalidInputError(f"{url}: {text}")
    if status == 401:
        text += f"; give the service's token: a token file, or the environment variable {TOKEN_VARIABLE}"
    error = QPUError(f"{url}: {text}" if code else f"{url}: HTTP {status}, {text}; is it a dqk QPU service?")
    error.status = status
    return error


def _given_up(failure: QPUError, attempts: int, seconds: float) -> QPUError:
    hint = "; is it running, and is the URL right?" if failure.status is None else ""
    times = "once" if attempts == 1 else f"{attempts} times"
    error = QPUError(f"{failure} (tried {times} in {seconds:.1f} s){hint}")
    error.status = failure.status
    return error


def _retry_after(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0.0))
    except ValueError:
        return 0.0  # a date, which our service does not send


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise BackendUnavailableError("a QPU service needs httpx: pip install 'dqk[qpu]'") from error
    return httpx
