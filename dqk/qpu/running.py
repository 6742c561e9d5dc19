"""Fleets of services on this machine: starts them, finds them again from any shell, and ends what it started, nothing else.

Choose it through `dqk qpu up`, `list` and `drop`, to run against a fleet in real time with the client code that real hardware gets;
`dqk emulate` plays the same file through in virtual time.

A folder has the record: the processes, each with the time when it started, so that a number that the system has given to another
process is never mistaken for one of ours. The record is written before a service is ready: what is ended half-way leaves nothing
that `drop` would not find.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dqk._lease import Holder
from dqk.errors import ClusterError, InvalidInputError, UnsupportedError, unknown_name
from dqk.qpu.fleet import QPU, Fleet

MOST_SERVICES = 100
RECORD = "fleet.json"
_START_S = 120.0  # for one service, also where others start beside it
_END_S = 5.0  # between asking a process to end and ending it
_ANSWER_S = 3.0
_POLL_S = 0.05
_LINES = 15  # of a log


@dataclass(frozen=True)
class Service:
    """A service of a fleet.

    Attributes:
        name: of the processor.
        qubits: widest circuit.
        url: where it listens; None while it is not ready.
        log: file with what it has said.
        process: what runs it.
    """

    name: str
    qubits: int
    url: str | None
    log: str
    process: Holder

    @property
    def gone(self) -> bool:
        """Whether its process has certainly ended."""
        return self.process.certainly_gone(Holder.this_process())

    @property
    def here(self) -> bool:
        """Whether its process is one of those that this one sees, so that `gone` is sure either way."""
        ours, its = Holder.this_process(), self.process
        return (ours.host, ours.boot_id, ours.pid_namespace) == (its.host, its.boot_id, its.pid_namespace)

    def status(self) -> dict[str, Any] | None:
        """What it says about itself; None if it does not answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it listens at the loopback interface
        try:
            with opener.open(f"{self.url}/status", timeout=_ANSWER_S) as answer:
                found: dict[str, Any] = json.loads(answer.read())
        except (OSError, ValueError):
            return None
        return found

    def end(self) -> bool:
        """Ends its process, if that runs; False if it had ended before.

        Raises:
            UnsupportedError: if the process belongs to another machine.
        """
        if not self.here and not self.gone:
            raise UnsupportedError(f"{self.name} is {self.process}; drop it there")
        try:
            handle = os.pidfd_open(self.process.pid)  # of this process, whatever its number stands for later
        except ProcessLookupError:
            return False
        try:
            if self.gone:  # looked at after `handle` was opened: it is the process of the record or none
                return False
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not select.select([handle], [], [], _END_S)[0]:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], _END_S)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


@dataclass(frozen=True)
class Running:
    """The services of a fleet file.

    Attributes:
        folder: with the record and the logs.
        fleet: name of the fleet.
        token_file: with the tokens that the services ask for; None if they ask for none.
        services: see there.
    """

    folder: Path
    fleet: str
    token_file: str | None
    services: tuple[Service, ...]

    @classmethod
    def read(cls, folder: Path) -> Running:
        """The record of a folder.

        Raises:
            InvalidInputError: if there is none, or it is damaged.
        """
        file = folder / RECORD
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            services = tuple(Service(**{**row, "process": Holder(**row["process"])}) for row in known["services"])
            return cls(folder, known["fleet"], known["token_file"], services)
        except OSError as error:
            raise InvalidInputError(f"{folder} has no record of a fleet: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInputError(
                f"{file} is no record of a fleet that this version has written: {error}; end its services by hand"
            ) from error

    def write(self) -> None:
        """Writes the record, or takes it away where no service is left; at no time is there half of one."""
        file = self.folder / RECORD
        if not self.services:
            file.unlink(missing_ok=True)
            return
        known = {"fleet": self.fleet, "token_file": self.token_file, "services": [asdict(one) for one in self.services]}
        beside = file.with_name(f"{RECORD}.{os.getpid()}")
        beside.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        beside.replace(file)

    @property
    def options(self) -> list[str]:
        """What `dqk gram` is given to use them."""
        urls = [word for one in self.services for word in ("--qpu", one.url or "")]
        return urls + ([] if self.token_file is None else ["--token-file", self.token_file])

    def drop(self, names: Iterable[str] | None = None) -> dict[str, bool]:
        """Ends services, at the same time, and takes them off the record.

        Args:
            names: of the services; None for all.

        Returns:
            For each of them whether it still ran.

        Raises:
            InvalidInputError: if there is no such service.
        """
        wanted = {one.name for one in self.services} if names is None else set(names)
        for name in sorted(wanted - {one.name for one in self.services}):
            raise unknown_name("service", name, [one.name for one in self.services])
        ending = [one for one in self.services if one.name in wanted]
        with ThreadPoolExecutor(max(1, len(ending))) as threads:
            ended = list(threads.map(Service.end, ending))
        replace(self, services=tuple(one for one in self.services if one.name not in wanted)).write()
        return {one.name: ran for one, ran in zip(ending, ended, strict=True)}


def found(folder: Path | None = None) -> list[Running]:
    """The fleet of a folder; by default those below `runs/` of the working directory."""
    if folder is not None:
        return [Running.read(folder)]
    return [Running.read(file.parent) for file in sorted(Path("runs").glob(f"*/{RECORD}"))]


def recorded(folder: Path) -> Running | None:
    """The fleet of a folder; None if it has none any more."""
    return Running.read(folder) if (folder / RECORD).exists() else None


def clear(folder: Path) -> None:
    """Ends what the record of a folder has, if there is one."""
    known = recorded(folder)
    if known is not None:
        known.drop()


def up(
    fleet: Fleet,
    folder: Path | None = None,
    *,
    token_file: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Running:
    """Starts a service for every processor of a fleet and waits until all are ready. They outlive this process.

    Args:
        fleet: whose QPUs are meant; GPUs and CPUs run no service.
        folder: for the record and the logs, new or empty; None for a new one under `runs/`.
        token_file: tokens that the services ask for.
        note: is told how it goes.

    Raises:
        InvalidInputError: if the fleet has no processors or too many, or the folder is in use.
        ClusterError: if a service does not start; the message has what it said. The others are ended.
    """
    qpus = checked_qpus(fleet)
    if Holder.this_process().start_time is None or not hasattr(os, "pidfd_open"):
        raise UnsupportedError("this system does not say when a process started; start services by dqk qpu serve")
    place = new_folder(folder, fleet.name)
    tokens = None if token_file is None else str(token_file.absolute())
    running = Running(place, fleet.name, tokens, ())
    try:
        return _started(running, qpus, note)
    except BaseException:  # of any kind, Ctrl-C too: all or none
        clear(place)
        raise


def checked_qpus(fleet: Fleet) -> list[QPU]:
    """The processors of a fleet, one by one, as long as they can be started as services.

    Raises:
        InvalidInputError: if there are none or too many.
    """
    qpus = [device for device in fleet.devices() if isinstance(device, QPU)] if fleet.qpu else []
    if not 0 < len(qpus) <= MOST_SERVICES:
        raise InvalidInputError(
            f"fleet {fleet.name!r} has {len(qpus):,} QPUs, expected 1 to {MOST_SERVICES} to be started as services; "
            "dqk emulate takes any number"
        )
    return qpus


def _started(running: Running, qpus: Sequence[QPU], note: Callable[[str], None]) -> Running:
    """All services, ready; at most as many start at once as there are CPUs."""
    waiting, at_once = list(enumerate(qpus)), max(2, os.cpu_count() or 1)
    starting: dict[str, tuple[subprocess.Popen[bytes], Path, float]] = {}
    ready = 0
    while waiting or starting:
        while waiting and len(starting) < at_once:
            place, qpu = waiting.pop(0)
            stem = running.folder / f"{place:03d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', qpu.name)[:40]}"
            process = _begun(qpu, stem, running.token_file)
            service = Service(qpu.name, qpu.qubits, None, f"{stem}.log", Holder.of(process.pid))
            running = replace(running, services=(*running.services, service))
            running.write()
            starting[qpu.name] = (process, Path(f"{stem}.ready"), time.monotonic())
        for name, (process, file, since) in list(starting.items()):
            line = file.read_text(encoding="utf-8")
            if line.endswith("\n"):
                services = [replace(s, url=json.loads(line)["url"]) if s.name == name else s for s in running.services]
                running = replace(running, services=tuple(services))
                running.write()
                del starting[name]
                ready += 1
                note(f"{name} is ready ({ready} of {len(qpus)})")
                process.returncode = 0  # ours no more: it is found by the record
            elif process.poll() is not None or time.monotonic() - since > _START_S:
                raise _not_started(next(s for s in running.services if s.name == name), process.poll())
        time.sleep(_POLL_S)
    return running


def _begun(qpu: QPU, stem: Path, token_file: str | None) -> subprocess.Popen[bytes]:
    """A service's process, in a session of its own: neither Ctrl-C nor the end of the terminal reaches it."""
    profile = Path(f"{stem}.toml")
    profile.write_text(qpu.profile().to_toml() + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "dqk", "qpu", "serve", "--json", "--qubits", str(qpu.qubits)]
    command += ["--profile", str(profile), *(["--token-file", token_file] if token_file is not None else [])]
    with Path(f"{stem}.ready").open("wb") as said, Path(f"{stem}.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=log, start_new_session=True)


def _not_started(service: Service, code: int | None) -> ClusterError:
    how = f"is not ready after {_START_S:.0f} s" if code is None else f"did not start (exit code {code})"
    last = Path(service.log).read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
    said = "".join(f"\n  {line}" for line in last) or "\n  nothing"
    return ClusterError(f"service {service.name} {how}; all services are ended. It said, see {service.log}:{said}")


def new_folder(folder: Path | None, name: str) -> Path:
    """The folder for what belongs to a fleet, absolute and empty; None for a new one under `runs/`.

    Raises:
        InvalidInputError: if the folder is in use or cannot be made.
    """
    if folder is None:
        short = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:40]
        base = Path("runs").absolute() / f"fleet-{short}-{time.strftime('%Y%m%d-%H%M%S')}"
        tries: Iterator[Path] = iter([base, *(base.with_name(f"{base.name}-{k}") for k in range(2, 1000))])
        for place in tries:
            with contextlib.suppress(FileExistsError):
                place.mkdir(parents=True)
                return place
    place = Path(folder or "runs").absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise InvalidInputError(f"the folder {place} is not empty; choose another one")
    except OSError as error:
        raise InvalidInputError(f"the folder {place} cannot be used: {error.strerror}; choose another one") from error
    return place
