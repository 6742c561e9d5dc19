"""The service's HTTP interface (FastAPI). What comes in is data: it is parsed, checked and stored, never executed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Header, Path, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dqk.errors import InvalidInputError
from dqk.qpu import jobs
from dqk.qpu._gate import Gate
from dqk.qpu.expressions import QASMError
from dqk.qpu.jobs import JobStore, Refusal
from dqk.qpu.machine import Machine
from dqk.qpu.metrics import metrics
from dqk.qpu.profile import Profile
from dqk.qpu.qasm import parse
from dqk.qpu.status import PAGE_HEADERS, page, status

_LONGEST_WAIT_S = 30.0
_EXAMPLE = 'OPENQASM 3.0; include "stdgates.inc"; input float[64] x; qubit[1] q; ry(x) q[0];'
_JobId = Annotated[str, Path(max_length=100)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Table(_Model):
    """Numbers: float64, little-endian, row by row, in base64."""

    rows: int = Field(ge=1, le=10**7)
    columns: int = Field(ge=0, le=10**6)
    base64: str


class JobRequest(_Model):
    """A circuit that runs once for each row of a table of its inputs."""

    qasm: str = Field(
        description="OpenQASM 3 with `input float[64]` for what differs between rows", examples=[_EXAMPLE]
    )
    parameters: Table | list[list[float]] | None = Field(
        default=None, description="one row for each circuit", examples=[[[0.1], [0.2]]]
    )
    shots: int = Field(ge=1, le=10**12)
    outcome: Literal["counts", "zeros"] = "counts"
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    session: str | None = Field(default=None, pattern="^[0-9a-f]{1,64}$")


class Error(BaseModel):
    """Why a request was not served."""

    error: str
    message: str
    line: int | None = None


_REFUSALS: Any = {status: {"model": Error} for status in (400, 401, 404, 409, 413, 422, 429, 503, 504)}


class Service:
    """What the interface serves: one device, its jobs, its profile."""

    def __init__(self, store: JobStore, profile: Profile, n_qubits: int):
        self.store, self.profile, self.n_qubits = store, profile, n_qubits
        self._waiting: dict[str, list[asyncio.Event]] = defaultdict(list)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.machine = Machine(store, profile, self._job_ended)

    def start(self) -> None:
        """Starts the device."""
        self._loop = asyncio.get_running_loop()
        self.machine.start()

    def stop(self) -> None:
        """Stops the device, and answers everybody who waits."""
        self.machine.stop()
        if self.machine.is_alive():
            self.machine.join(timeout=2.0)
        for job in list(self._waiting):
            self._notify(job)

    def _job_ended(self, job: str) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._notify, job)

    def _notify(self, job: str) -> None:
        for event in self._waiting.pop(job, ()):
            event.set()

    def limits(self) -> dict[str, Any]:
        """As `QPULimits` has them."""
        profile = self.profile
        limits, times, price = profile.limits, profile.times, profile.price
        return {
            "name": profile.name,
            "n_qubits": self.n_qubits,
            "max_circuits_per_job": limits.max_circuits_per_job,
            "max_shots": limits.max_shots,
            "max_open_jobs": limits.max_open_jobs,
            "max_body_bytes": int(limits.max_body_mib * 2**20),
            "job_s": times.job_s,
            "circuit_s": times.circuit_s,
            "shot_s": times.shot_s,
            "session_job_s": times.job_s if times.session_job_s is None else times.session_job_s,
            "seeded": True,
            "noisy": profile.noise.any,
            "price_per_s": price.per_s,
            "price_per_shot": price.per_shot,
            "price_per_job": price.per_job,
            "currency": price.currency,
        }

    def calibration(self) -> dict[str, Any]:
        """Probabilities of errors now."""
        age_s, noise = self.store.age_s, self.machine.noise
        return {
            "calibrated_s_ago": self.profile.calibrated_s_ago(age_s),
            "depolarising_1q": noise.depolarising_1q,
            "depolarising_2q": noise.depolarising_2q,
            "readout_0": noise.readout_0,
            "readout_1": noise.readout_1,
        }

    def request(self, asked: JobRequest) -> jobs.Request:
        """What was asked for, checked."""
        try:
            program = parse(asked.qasm)
            table = _table(asked.parameters, len(program.inputs))
            program.angles(table)
        except QASMError as error:
            raise Refusal(422, "malformed_qasm", str(error), line=error.line) from error
        except InvalidInputError as error:
            raise Refusal(422, "malformed", str(error)) from error
        limits = self.profile.limits
        for what, given, most in (
            ("qubits", program.circuit.n_qubits, self.n_qubits),
            ("circuits in a job", len(table), limits.max_circuits_per_job),
            ("shots", asked.shots, limits.max_shots),
        ):
            if given > most:
                raise Refusal(422, "beyond_limits", f"{given} {what}, this device takes at most {most}")
        return jobs.Request(asked.qasm, table, asked.shots, asked.seed, asked.outcome, asked.session)

    def submit(self, owner: str, key: str, asked: JobRequest) -> tuple[dict[str, Any], bool]:
        """The status of a job, and whether it is new."""
        request = self.request(asked)
        if self.store.known(owner, key, request.digest) is None:
            self.require_up()
        job, is_new = self.store.submit(owner, key, request, self.profile.limits.max_open_jobs)
        self.machine.wake()
        return self.store.status(owner, job), is_new

    def require_up(self) -> None:
        """Refuses what needs a device that works."""
        left_s = self.profile.outage_left_s(self.store.age_s)
        if left_s:
            raise Refusal(503, "outage", f"the device is down for {left_s:.0f} s more", retry_after=left_s)

    async def result(self, owner: str, job: str, wait_s: float) -> dict[str, Any]:
        """The status of a job and, once it is done, what it measured; waits a while for that."""
        event = asyncio.Event()
        self._waiting[job].append(event)  # before looking, so that an end in between is not missed
        try:
            status = self.store.status(owner, job)
            if wait_s > 0 and status["state"] in ("queued", "running"):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), wait_s)
                status = self.store.status(owner, job)
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.get(job, []).remove(event)
            if not self._waiting.get(job, True):
                del self._waiting[job]
        return {**status, **self.store.result(job)} if status["state"] == "done" else status

    def cancel(self, owner: str, job: str) -> dict[str, Any]:
        """Ends a job; gives its status."""
        status = self.store.cancel(owner, job)
        self.machine.wake()
        self._job_ended(job)
        return status


def _table(given: Table | list[list[float]] | None, n_inputs: int) -> np.ndarray:
    if given is None:
        return (
            np.zeros((1, n_inputs)) if not n_inputs else _wrong(f"parameters are missing, expected {n_inputs} columns")
        )
    if isinstance(given, Table):
        try:
            raw = base64.b64decode(given.base64, validate=True)
        except (binascii.Error, ValueError):
            return _wrong("parameters are not base64")
        if len(raw) != 8 * given.rows * given.columns:
            return _wrong(f"parameters have {len(raw)} bytes, expected 8 x {given.rows} rows x {given.columns} columns")
        table = np.frombuffer(raw, dtype="<f8").reshape(given.rows, given.columns)
    else:
        if len({len(row) for row in given}) != 1:
            return _wrong("parameters need at least one row, and as many numbers in each")
        table = np.array(given, dtype="<f8").reshape(len(given), -1)
    if table.shape[1] != n_inputs:
        return _wrong(
            f"parameters have {table.shape[1]} columns, expected {n_inputs}, one for each input of the circuit"
        )
    if not np.isfinite(table).all():
        return _wrong("parameters have values that are not finite")
    return table


def _wrong(text: str) -> Any:
    raise InvalidInputError(text)


def answer(error: Refusal) -> JSONResponse:
    """An error as programs and people read it."""
    more = dict(error.more)
    headers = {}
    if error.status in (429, 503):
        headers["Retry-After"] = f"{min(more.pop('retry_after', 1.0), 30.0):.1f}"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.code, "message": error.message, **more}, error.status, headers)


def create_app(service: Service, owners: dict[str, str]) -> Any:
    """The ASGI application.

    Args:
        service: what it serves.
        owners: for each token a name of whoever has it; empty to take everybody without a token.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(title="dqk QPU service", docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_error_handlers(app)
    _add_routes(app, service)
    gate = Gate(app, owners, int(service.profile.limits.max_body_mib * 2**20), service.profile.failures)

    @app.get("/", include_in_schema=False)
    def _page() -> HTMLResponse:
        return HTMLResponse(page(status(service)), headers=PAGE_HEADERS)

    @app.get("/status")
    def _status() -> dict[str, Any]:
        return status(service)

    @app.get("/metrics", response_class=PlainTextResponse)
    def _metrics() -> str:
        return metrics(service.store, service.calibration(), service.profile, gate.answers)

    return gate


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def _refused(_: Request, error: Refusal) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def _malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without what was given: it may be long, not JSON, or secret.
        found = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}"[:200] for item in error.errors()[:10]]
        return answer(Refusal(422, "malformed", "; ".join(found).encode("ascii", "replace").decode()))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": "http", "message": str(error.detail)}, error.status_code, error.headers)


def _add_routes(app: FastAPI, service: Service) -> None:
    secured: Any = {
        "dependencies": [Security(HTTPBearer(auto_error=False, description="a token of the service"))],
        "responses": _REFUSALS,
    }

    @app.get("/health")
    def health() -> dict[str, Any]:
        left_s = service.profile.outage_left_s(service.store.age_s)
        return {"status": "outage" if left_s else "ok", "outage_left_s": left_s}

    @app.get("/limits", **secured)
    async def limits() -> dict[str, Any]:
        return service.limits()

    @app.get("/calibration", **secured)
    async def calibration() -> dict[str, Any]:
        return service.calibration()

    @app.post("/jobs", status_code=201, **_with(secured, {200: {"description": "The key had this job before"}}))
    def submit(
        asked: JobRequest,
        request: Request,
        idempotency_key: Annotated[str | None, Header(pattern=r"^[!-~]{1,200}$")] = None,
    ) -> JSONResponse:
        key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
        status, is_new = service.submit(request.state.owner, key, asked)
        return JSONResponse(status, 201 if is_new else 200)

    @app.get("/jobs/{job}", **secured)
    async def status(job: _JobId, request: Request) -> dict[str, Any]:
        return service.store.status(request.state.owner, job)

    @app.get("/jobs/{job}/result", **_with(secured, {202: {"description": "It has not ended yet"}}))
    async def result(
        job: _JobId, request: Request, wait: Annotated[float, Query(ge=0, le=_LONGEST_WAIT_S)] = 0.0
    ) -> JSONResponse:
        found = await service.result(request.state.owner, job, wait)
        return JSONResponse(found, 202 if found["state"] in ("queued", "running") else 200)

    @app.delete("/jobs/{job}", **secured)
    async def cancel(job: _JobId, request: Request) -> dict[str, Any]:
        return service.cancel(request.state.owner, job)

    @app.post("/sessions", status_code=201, **secured)
    async def open_session(request: Request) -> dict[str, Any]:
        service.require_up()
        seconds = service.profile.times.session_s
        session = service.store.open_session(request.state.owner, seconds, service.profile.limits.max_sessions)
        return {"session": session, "seconds": seconds}

    @app.delete("/sessions/{session}", **secured)
    async def close_session(session: _JobId, request: Request) -> dict[str, Any]:
        service.store.close_session(request.state.owner, session)
        return {"session": session}


def _with(options: dict[str, Any], responses: dict[int | str, Any]) -> dict[str, Any]:
    return {**options, "responses": {**options["responses"], **responses}}
