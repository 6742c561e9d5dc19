"""How a job ends: its script, run with an `srun` and a `scontrol` that do as they are told."""

import os
import subprocess
from pathlib import Path

import pytest

from dqk.cluster.launchers.options import SlurmOptions
from dqk.cluster.launchers.payload import Payload
from dqk.cluster.launchers.script import render
from dqk.cluster.launchers.site import Site

STOPS = 'touch "$DQK_STOPPED"; exit 143'
WARNED = 'trap "" USR1; kill -USR1 $PPID; sleep 0.1; '
TILE = "mkdir -p K.zarr/c/0; touch K.zarr/c/0/$SLURM_RESTART_COUNT; "
KEPT = "the same command with --resume goes on"
GRAM = "gram X.npy -o K.zarr"


class Job:
    """A job of one node.

    Args:
        place: where it runs.
        words: what it runs, which is what `does` says.
        does: of `srun`, in the language of the shell.
        shown: the line of `scontrol show job` about its preemption.
    """

    def __init__(self, place: Path, words: str, does: str, shown: str = "PreemptTime=None"):
        self.place = place
        text = render(Payload.of(words.split()), SlurmOptions(), Site(), place, place, "python")
        (place / "job.sh").write_text(text)
        commands = {
            "srun": does,
            "scontrol": f'if [ "$1" = show ]; then echo "{shown}"; else echo "$2" >>requeued; fi',
        }
        for name, body in commands.items():
            (place / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (place / name).chmod(0o755)

    def start(self, restarts: int = 0) -> tuple[int, bool, str]:
        """Exit code, whether it asked for a requeue, and what it said."""
        (self.place / "requeued").unlink(missing_ok=True)
        environment = {
            "PATH": f"{self.place}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_CPUS_ON_NODE": "1",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        done = subprocess.run(
            ["bash", "job.sh"], cwd=self.place, env=environment, capture_output=True, text=True, timeout=30
        )
        return done.returncode, (self.place / "requeued").exists(), done.stdout + done.stderr

    @property
    def left(self) -> set[str]:
        """Files in its run folder that are about how it ended."""
        return {path.name for path in self.place.glob("*-7")}


@pytest.mark.parametrize("engine", ["", " --executor mpi"])
@pytest.mark.parametrize("does", ["exit 139", "exit 137", "exit 143"])
def test_a_crash_ends_the_job_with_a_word_on_how_to_go_on(tmp_path: Path, does: str, engine: str) -> None:
    """Also one upon which srun sends SIGTERM to the other ranks, and ends with 143."""
    job = Job(tmp_path, GRAM + engine, does)
    code, requeued, said = job.start()
    assert (code, requeued) == (int(does.split()[1]), False)
    assert "by a signal, which srun names above" in said and KEPT in said
    assert job.left == {"exit-7"}


def test_a_training_run_goes_on_in_its_folder(tmp_path: Path) -> None:
    _, _, said = Job(tmp_path, "train pos --out runs/t", "exit 137").start()
    assert "the same command with --resume runs/t goes on" in said


def test_what_cannot_go_on_is_not_promised_to(tmp_path: Path) -> None:
    code, requeued, said = Job(tmp_path, "gram X.npy -o K.npy", "exit 137", "PreemptTime=2026-11-28T19:25:46").start()
    assert (code, requeued) == (137, False) and "--resume" not in said and "starts anew" in said


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_says_itself_how_it_ended(tmp_path: Path, code: int) -> None:
    """Has nothing added to it."""
    assert Job(tmp_path, GRAM, f"exit {code}").start() == (code, False, "")


@pytest.mark.parametrize(
    ("does", "shown"),
    [
        (STOPS, "PreemptTime=None"),
        ("exit 143", "PreemptTime=2026-11-28T19:25:46"),  # it could not listen yet
        ("exit 137", "PreemptTime=2026-11-28T19:25:46"),  # its grace was too short
        (WARNED + "exit 138", "PreemptTime=None"),
        (WARNED + "exit 143", "PreemptTime=None"),  # srun may end tasks that are about to end
    ],
)
def test_warned_or_preempted(tmp_path: Path, does: str, shown: str) -> None:
    """Is queued again, and nobody speaks of a crash."""
    _, requeued, said = Job(tmp_path, GRAM, does, shown).start()
    assert requeued and "the job is queued again" in said and "by a signal" not in said


def test_starts_in_vain_are_counted(tmp_path: Path) -> None:
    """Of those that were warned, or crash once they are: the fifth in a row is the last; one that adds a tile begins anew."""
    (tmp_path / "add").touch()
    job = Job(tmp_path, GRAM, f"{WARNED}if [ -e add ]; then {TILE} fi; exit 139")
    assert [job.start(number)[1] for number in range(7)] == [True] * 7
    (tmp_path / "add").unlink()
    assert [job.start(number)[1] for number in range(7, 11)] == [True] * 4
    code, requeued, said = job.start(11)
    assert (code, requeued) == (139, False) and "have added nothing" in said and KEPT in said
    assert job.left == {"exit-7"}


def test_preemptions_are_nobodys_fault(tmp_path: Path) -> None:
    """Nor is a QPU that others use; but there is an end of it."""
    job = Job(tmp_path, GRAM, STOPS, "PreemptTime=2026-11-28T19:25:46")
    assert all(job.start(number)[1] for number in range(7))
    code, requeued, said = job.start(100)
    assert (code, requeued) == (143, False) and "queued again 100 times" in said and KEPT in said
    waits = Job(tmp_path, f"{GRAM} --qpu qiskit:aer --shots 10", WARNED + "exit 138")
    assert all(waits.start(number)[1] for number in range(7))
