"""A fleet's services as tasks of a Slurm job, one for each QPU, on all of the job's nodes: what a batch script calls.

Choose it through `dqk launch slurm --emulated-qpus`. The services listen at their node's address and ask for a token that only
the job's user can read; they end with the step that `srun` makes of them.

The script and the tasks share a folder: `NUMBER.toml` has a QPU's profile, `NUMBER.json` how its service can be reached.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dqk.cluster.nodes import ip_of
from dqk.errors import ClusterError, DQKError, exit_code
from dqk.qpu.fleet import Fleet
from dqk.qpu.profile import Profile
from dqk.qpu.running import checked_qpus, new_folder

_START_S = 300.0  # until all of them are ready
_POLL_S = 0.1
_LINES = 15  # of a log
_TOKEN, _LOG, _WIDTHS = "token", "tasks.log", "qubits.json"


def prepare(file: str, folder: str) -> None:
    """Writes what the tasks need into a new folder, and prints how many there are.

    Raises:
        InvalidInputError: if the fleet cannot be started or the folder is in use.
    """
    fleet = Fleet.read(file)
    qpus = checked_qpus(fleet)
    place = new_folder(Path(folder), fleet.name)
    for number, qpu in enumerate(qpus):
        (place / f"{number}.toml").write_text(qpu.profile().to_toml() + "\n", encoding="utf-8")
    (place / _WIDTHS).write_text(json.dumps([qpu.qubits for qpu in qpus]), encoding="utf-8")
    with os.fdopen(os.open(place / _TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as token:
        token.write(secrets.token_urlsafe(32) + "\n")
    print(len(qpus))


def serve(folder: str) -> None:
    """One task: the service of the QPU whose number is the task's."""
    from dqk.qpu._serve import serve as run

    place, number, node = Path(folder), int(os.environ["SLURM_PROCID"]), os.environ["SLURMD_NODENAME"]

    def say(**known: str) -> None:
        beside = place / f"{number}.json.new"
        beside.write_text(json.dumps({"node": node, **known}), encoding="utf-8")
        beside.replace(place / f"{number}.json")

    try:
        run(
            json.loads((place / _WIDTHS).read_text(encoding="utf-8"))[number],
            Profile.read(place / f"{number}.toml"),
            host=ip_of(node),
            token_file=place / _TOKEN,
            ready=lambda url: say(url=url),
            note=lambda text: print(text, file=sys.stderr, flush=True),
        )
    except DQKError as error:
        say(error=str(error))
        raise


def wait(folder: str, pid: str) -> None:
    """Waits until all services are ready, as long as the step's `srun` runs, and prints gram's options, one in each line.

    Raises:
        ClusterError: if they do not start; the message has what they said.
    """
    place, since = Path(folder), time.monotonic()
    count = len(json.loads((place / _WIDTHS).read_text(encoding="utf-8")))
    missing = set(range(count))
    while missing:
        ended, late = not Path(f"/proc/{pid}").exists(), time.monotonic() - since > _START_S
        for number in sorted(missing):
            file = place / f"{number}.json"
            if file.exists():
                missing.remove(number)
                known = json.loads(file.read_text(encoding="utf-8"))
                if "error" in known:
                    raise ClusterError(f"QPU {number} did not start on {known['node']}: {known['error']}")
                ready = f"QPU {number} is ready on {known['node']} ({count - len(missing)} of {count})"
                print(ready, file=sys.stderr, flush=True)
        if missing and (ended or late):
            how = "have ended" if ended else f"are not ready after {_START_S:.0f} s"
            last = (place / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
            said = "".join(f"\n  {line}" for line in last) or "\n  nothing"
            raise ClusterError(f"the tasks of the QPUs {how}. They said, see {place / _LOG}:{said}")
        time.sleep(_POLL_S)
    urls = [json.loads((place / f"{number}.json").read_text(encoding="utf-8"))["url"] for number in range(count)]
    print(*(word for url in urls for word in ("--qpu", url)), "--token-file", place / _TOKEN, sep="\n")


def main(words: Sequence[str]) -> None:
    """Runs one of the three by its name."""
    commands: dict[str, Callable[..., None]] = {"prepare": prepare, "serve": serve, "wait": wait}
    try:
        commands[words[0]](*words[1:])
    except DQKError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main(sys.argv[1:])
