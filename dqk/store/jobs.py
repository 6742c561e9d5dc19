"""The log of a device's jobs beside a stored matrix: what was about to be submitted, and what came back.

    {"nonce": "3c8e..."}
    {"job": "200x200/17", "tag": "dqk-3c8e...-200x200-17-0", "shots": 1000, "rows": 100, "worker": "qpu:http://..."}
    {"submitted": "dqk-3c8e...-200x200-17-0", "job": "cx91..."}
    {"result": "200x200/17", "frequencies": [0.97, ...]}

The second line is on disk before the job is submitted: whoever goes on after a crash knows what may have been paid for. One file
per driver, lines are only ever added; a torn one is ignored.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dqk.store.files import explained, sync, write_all

FOLDER = "jobs"


@dataclass
class JobRecord:
    """What is known about a job.

    Attributes:
        key: stage and number, as in `200x200/17`.
        tag: that it was, or may have been, submitted under.
        shots: of each row.
        rows: circuits in it.
        worker: name of the backend that it was given to.
        device_job: the device's own name of it; None if that was not written down.
        frequencies: its result, shape (rows,); None if there is none.
        intents: how often it was about to be submitted.
        refunds: how often it cost nothing after all.
        before: the intent before this one, which may have run; None for the first.
    """

    key: str
    tag: str
    shots: int
    rows: int
    worker: str
    device_job: str | None = None
    frequencies: np.ndarray | None = None
    intents: int = 1
    refunds: int = 0
    before: JobRecord | None = None

    @property
    def spent(self) -> int:
        """Shots that it may have cost."""
        return (self.intents - self.refunds) * self.shots * self.rows


class JobLog:
    """The log in a store, or one that remembers nothing.

    Args:
        store: the store; None keeps nothing on disk.
        writes: whether anything may be added to what is there.

    Attributes:
        nonce: part of all tags; of the store, so that another one measures anew.
        records: jobs by their keys.
    """

    def __init__(self, store: Path | None, writes: bool = True):
        self._folder = None if store is None else store / FOLDER
        self._writes = writes and store is not None
        self._file: Path | None = None
        self.nonce = uuid.uuid4().hex[:12]
        self.records: dict[str, JobRecord] = {}
        self._by_tag: dict[str, JobRecord] = {}
        if self._folder is not None and self._folder.is_dir():
            with explained(f"read {self._folder}", "check its permissions"):
                for path in sorted(self._folder.glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
                    for document in _lines(path.read_bytes()):
                        self._read(document)

    def _read(self, document: dict[str, Any]) -> None:
        match document:
            case {"nonce": str(nonce)}:
                self.nonce = nonce
            case {"tag": str(tag), "job": str(key), "shots": int(shots), "rows": int(rows), "worker": str(worker)}:
                known = self.records.get(key)
                counts = (known.intents, known.refunds) if known else (0, 0)
                record = JobRecord(
                    key, tag, shots, rows, worker, intents=1 + counts[0], refunds=counts[1], before=known
                )
                self.records[key] = self._by_tag[tag] = record
            case {"submitted": str(tag), "job": str(job)} if tag in self._by_tag:
                self._by_tag[tag].device_job = job
            case {"refund": str(key)} if key in self.records:
                record = self.records[key]
                record.refunds += 1
                if record.before is not None:  # what it may have measured can still be found
                    record.before.intents, record.before.refunds = record.intents, record.refunds
                    self.records[key] = record.before
            case {"result": str(key), "frequencies": list(values)} if key in self.records:
                if len(values) == self.records[key].rows:
                    self.records[key].frequencies = np.array(values, np.float64)

    @property
    def path(self) -> str | None:
        """Where workers note the device's names of jobs; None without a store."""
        return str(self._begun()) if self._writes else None

    def _begun(self) -> Path:
        assert self._folder is not None
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            self._file = self._folder / f"{uuid.uuid4().hex[:12]}.jsonl"
            self._file.write_text(json.dumps({"nonce": self.nonce}) + "\n")
            sync(self._file)
            sync(self._folder)
        return self._file

    def intent(self, key: str, tag: str, shots: int, rows: int, worker: str) -> None:
        """A job is about to be submitted."""
        document = {"job": key, "tag": tag, "shots": shots, "rows": rows, "worker": worker}
        self._read(document)
        self._write(document)

    def result(self, key: str, frequencies: np.ndarray) -> None:
        """A job came back."""
        document = {"result": key, "frequencies": frequencies.tolist()}
        self._read(document)
        self._write(document)

    def refund(self, key: str) -> None:
        """A job was refused, or failed and is not charged."""
        self._read({"refund": key})
        self._write({"refund": key})

    def _write(self, document: dict[str, Any]) -> None:
        if not self._writes:
            return
        with explained(f"write {self._folder}", "make room or repair the disk, then go on with --resume (resume=True)"):
            descriptor = os.open(self._begun(), os.O_APPEND | os.O_WRONLY)
            try:
                write_all(descriptor, (json.dumps(document) + "\n").encode(), halfway="half_job")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n"):
        try:
            document = json.loads(line)
        except ValueError:
            continue  # torn
        if isinstance(document, dict):
            yield document
