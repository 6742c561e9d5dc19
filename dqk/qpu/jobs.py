"""The jobs of a service, in SQLite: what was taken stays taken, and each job gets one result and one charge.

A state changes in one transaction, and only from the state that it has to come from. A job that was running when the process died
is queued again, first in line and with its seed. Commits reach the system at once, so they survive the death of the process;
that of the machine may lose the last of them (`synchronous=NORMAL`), never the file.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dqk.errors import LeaseError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, key TEXT NOT NULL,
  digest TEXT NOT NULL, session TEXT, qasm TEXT, parameters BLOB, rows INTEGER NOT NULL, shots INTEGER NOT NULL,
  seed INTEGER NOT NULL, outcome TEXT NOT NULL, state TEXT NOT NULL, error TEXT, seconds REAL NOT NULL DEFAULT 0,
  price REAL NOT NULL DEFAULT 0, result BLOB, runs INTEGER NOT NULL DEFAULT 0, UNIQUE (owner, key));
CREATE INDEX IF NOT EXISTS waiting ON jobs (state, seq);
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, owner TEXT NOT NULL, ends REAL NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
_STATUS = "id AS job, state, error, rows, shots, seed, seconds, price"


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        code: for programs.
        message: for people.
        more: further keys of the answer.
    """

    def __init__(self, status: int, code: str, message: str, **more: Any):
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more


@dataclass(frozen=True)
class Request:
    """A job as it was asked for.

    Attributes:
        qasm: the program.
        parameters: its table of inputs, shape (P, n_inputs).
        shots: measurements of each row.
        seed: None to have one chosen.
        outcome: `counts` or `zeros`.
        session: that it belongs to.
    """

    qasm: str
    parameters: np.ndarray
    shots: int
    seed: int | None
    outcome: str
    session: str | None

    @cached_property
    def digest(self) -> str:
        """The same for equal requests."""
        rest = [self.qasm, self.parameters.shape, self.shots, self.seed, self.outcome, self.session]
        found = hashlib.sha256(json.dumps(rest).encode())
        found.update(np.ascontiguousarray(self.parameters).data)
        return found.hexdigest()


@dataclass(frozen=True)
class Job:
    """A job that is to run."""

    id: str
    session: str | None
    qasm: str
    parameters: np.ndarray
    shots: int
    seed: int
    outcome: str


class JobStore:
    """Jobs and sessions. Threads may share it; another process may not open the same folder meanwhile.

    Args:
        folder: where they are kept, None for in memory.

    Raises:
        LeaseError: if another process has the folder.
    """

    def __init__(self, folder: Path | None):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.RLock()
        place = ":memory:" if folder is None else str(folder / "jobs.sqlite")
        try:
            self._db = sqlite3.connect(place, timeout=1.0, isolation_level=None, check_same_thread=False)
            self.interrupted = self._opened()
        except sqlite3.DatabaseError as error:
            if hasattr(self, "_db"):
                self.close()
            if "locked" in str(error):
                raise LeaseError(
                    f"{folder}: another service has it open; end that one, or choose another folder"
                ) from error
            raise LeaseError(f"{place}: {error}; choose another folder, or one that can be written to") from error
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('born', ?)", (time.time(),))
        (self.born,) = self._db.execute("SELECT value FROM facts WHERE name='born'").fetchone()

    def _opened(self) -> int:
        """Number of jobs that an earlier process left running; they are queued again."""
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # of this process until it ends, however it ends
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        return self._db.execute("UPDATE jobs SET state='queued' WHERE state='running'").rowcount

    def close(self) -> None:
        """Lets go of the folder."""
        with self._lock:
            self._db.close()

    @property
    def age_s(self) -> float:
        """Seconds since the folder was first used."""
        return max(0.0, time.time() - self.born)

    def known(self, owner: str, key: str, digest: str) -> str | None:
        """The job that was handed in under a key; None if there is none.

        Raises:
            Refusal: if the key stands for another request.
        """
        row = self._one("SELECT id, digest FROM jobs WHERE owner=? AND key=?", owner, key)
        if row is None:
            return None
        if row["digest"] != digest:
            raise Refusal(409, "key_reused", "the key was used for another request; choose a new key for each job")
        return str(row["id"])

    def submit(self, owner: str, key: str, request: Request, max_open: int) -> tuple[str, bool]:
        """The id of a job, and whether it is new: the same key and request give the job that they gave before.

        Raises:
            Refusal: if the key stands for another request, the session is not open or there are too many open jobs.
        """
        with self._lock:
            digest = request.digest
            job = self.known(owner, key, digest)
            if job is not None:
                return job, False
            if request.session is not None:
                self._check_session(owner, request.session)
            if self._count("owner=? AND state IN ('queued', 'running')", owner) >= max_open:
                raise Refusal(
                    429, "too_many_jobs", f"{max_open} jobs are open, which is as many as may be; wait for one"
                )
            job = secrets.token_hex(12)
            seed = secrets.randbelow(2**63) if request.seed is None else request.seed
            values = (job, owner, key, digest, request.session, request.qasm, request.parameters.tobytes())
            self._db.execute(
                "INSERT INTO jobs (id, owner, key, digest, session, qasm, parameters, rows, shots, seed, outcome, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued')",
                (*values, len(request.parameters), request.shots, seed, request.outcome),
            )
            return job, True

    def status(self, owner: str, job: str) -> dict[str, Any]:
        """How a job is doing.

        Raises:
            Refusal: if the owner has no such job.
        """
        with self._lock:
            row = self._one(f"SELECT seq, {_STATUS} FROM jobs WHERE owner=? AND id=?", owner, job)
            if row is None:
                raise Refusal(404, "unknown_job", "you have no such job")
            status = dict(row)
            seq, waits = status.pop("seq"), status["state"] == "queued"
            ahead = self._count("state='running' OR (state='queued' AND seq < ?)", seq) if waits else None
            return {**status, "position": ahead}

    def result(self, job: str) -> dict[str, Any]:
        """What a job that is done has measured."""
        row = self._one("SELECT result FROM jobs WHERE id=?", job)
        found: dict[str, Any] = json.loads(row["result"])
        return found

    def cancel(self, owner: str, job: str) -> dict[str, Any]:
        """Cancels a job that has not ended; gives its status."""
        with self._lock:
            self.status(owner, job)
            self._db.execute(
                "UPDATE jobs SET state='cancelled', qasm=NULL, parameters=NULL WHERE id=? AND state IN ('queued', 'running')",
                (job,),
            )
            return self.status(owner, job)

    def take(self, session: str | None) -> Job | None:
        """The next job, which is running from now on: one of this session if there is, else the oldest."""
        with self._lock:
            open_session = session if session is not None and self._is_open(session) else None
            row = self._one(
                "SELECT * FROM jobs WHERE state='queued' ORDER BY (session IS ? AND ? IS NOT NULL) DESC, seq LIMIT 1",
                open_session,
                open_session,
            )
            if row is None:
                return None
            self._db.execute("UPDATE jobs SET state='running', runs=runs+1 WHERE id=?", (row["id"],))
            table = np.frombuffer(row["parameters"], dtype="<f8").reshape(row["rows"], -1)
            return Job(row["id"], row["session"], row["qasm"], table, row["shots"], row["seed"], row["outcome"])

    def is_running(self, job: str) -> bool:
        """Whether it was not cancelled."""
        return self._count("id=? AND state='running'", job) == 1

    def finish(self, job: str, result: dict[str, Any], seconds: float, price: float) -> bool:
        """Result and charge of a job that runs, together or not at all; False if it was cancelled."""
        return self._end(job, "done", None, json.dumps(result).encode(), seconds, price)

    def fail(self, job: str, error: str) -> bool:
        """Ends a job that runs without a result and a charge; False if it was cancelled."""
        return self._end(job, "failed", error, None, 0.0, 0.0)

    def _end(self, job: str, state: str, error: str | None, result: bytes | None, seconds: float, price: float) -> bool:
        with self._lock:
            done = self._db.execute(
                "UPDATE jobs SET state=?, error=?, result=?, seconds=?, price=?, qasm=NULL, parameters=NULL "
                "WHERE id=? AND state='running'",
                (state, error, result, seconds, price, job),
            )
            return done.rowcount == 1

    def open_session(self, owner: str, seconds: float, most: int) -> str:
        """The id of a new session that ends by itself.

        Raises:
            Refusal: if the owner has as many as may be.
        """
        with self._lock:
            self._db.execute("DELETE FROM sessions WHERE ends < ?", (time.time() - 86400.0,))
            open_ones = self._one("SELECT COUNT(*) FROM sessions WHERE owner=? AND ends > ?", owner, time.time())
            if open_ones[0] >= most:
                raise Refusal(429, "too_many_sessions", f"{most} sessions are open, which is as many as may be")
            session = secrets.token_hex(12)
            self._db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (session, owner, time.time() + seconds))
            return session

    def close_session(self, owner: str, session: str) -> None:
        """Ends a session.

        Raises:
            Refusal: if the owner has no such session.
        """
        with self._lock:
            if self._one("SELECT 1 FROM sessions WHERE id=? AND owner=?", session, owner) is None:
                raise Refusal(404, "unknown_session", "you have no such session")
            self._db.execute("UPDATE sessions SET ends=MIN(ends, ?) WHERE id=?", (time.time(), session))

    def totals(self) -> dict[str, dict[str, float]]:
        """For each state the number of jobs, their circuits, shots, seconds and price."""
        with self._lock:
            rows = self._db.execute(
                "SELECT state, COUNT(*) AS jobs, SUM(rows) AS circuits, SUM(rows * shots * 1.0) AS shots, "
                "SUM(seconds) AS seconds, SUM(price) AS price, SUM(runs) AS runs FROM jobs GROUP BY state"
            ).fetchall()
        return {row["state"]: {name: row[name] for name in row.keys() if name != "state"} for row in rows}  # noqa: SIM118

    def _check_session(self, owner: str, session: str) -> None:
        if self._one("SELECT 1 FROM sessions WHERE id=? AND owner=?", session, owner) is None:
            raise Refusal(404, "unknown_session", "you have no such session")
        if not self._is_open(session):
            raise Refusal(409, "session_closed", "the session is closed; open a new one")

    def _is_open(self, session: str) -> bool:
        return self._one("SELECT 1 FROM sessions WHERE id=? AND ends > ?", session, time.time()) is not None

    def _count(self, condition: str, *values: Any) -> int:
        return int(self._one(f"SELECT COUNT(*) FROM jobs WHERE {condition}", *values)[0])

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock:
            return self._db.execute(query, values).fetchone()
