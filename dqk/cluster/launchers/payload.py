"""What a job runs: a command line of dqk, and what starts its processes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Engine = Literal["ray", "mpi", "torch", "single"]
"""A Ray cluster inside the job, MPI ranks, ranks of data-parallel training, or one process."""

_NOT_IN_A_JOB = ("launch",)


@dataclass(frozen=True)
class Payload:
    """A command line of dqk.

    Attributes:
        words: as typed after `dqk`.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> Payload:
        """The command line, with or without the program's name in front."""
        given = tuple(words)
        return cls(given[1:] if given[:1] == ("dqk",) else given)

    def __str__(self) -> str:
        return shlex.join(("dqk", *self.words))

    @property
    def command(self) -> str:
        """Its first word, such as gram; empty if there is none."""
        return self.words[0] if self.words else ""

    def value(self, *names: str) -> str | None:
        """What follows an option, in either spelling; the last one counts."""
        found = None
        for k, word in enumerate(self.words):
            name, equals, after = word.partition("=")
            if len(word) > 2 and word[:2] in names and not word.startswith("--"):
                found = word[2:]
            elif name in names:
                found = after if equals else self.words[k + 1] if k + 1 < len(self.words) else None
        return found

    def has(self, name: str) -> bool:
        """Whether a switch is there."""
        return name in self.words

    @property
    def engine(self) -> Engine:
        """What starts its processes."""
        executor = self.value("--executor")
        if self.command == "doctor":  # its tasks meet as those of training do
            return "torch" if self.has("--cluster") else "single"
        if self.has("--distributed"):
            return "ray" if self.value("--launcher") == "ray" else "torch"
        if executor == "ray":
            return "ray"
        return "mpi" if executor == "mpi" else "single"

    @property
    def out(self) -> str | None:
        """Where its result goes."""
        return self.value("--out", "-o")

    @property
    def has_store(self) -> bool:
        """Whether it is a kernel matrix with a store, which can be gone on with."""
        return self.command == "gram" and self.out is not None and Path(self.out).suffix == ".zarr"

    def placed(self, folder: Path) -> Payload:
        """With a place in the run folder for a training run that names none, so that it goes on there after a requeue."""
        if self.command != "train" or self.out is not None or self.value("--resume") is not None:
            return self
        return Payload((*self.words, "--out", str(folder / "train")))

    def again(self) -> tuple[str, ...]:
        """Words that have it go on after a requeue; none if it starts anew."""
        if self.has_store and not self.has("--resume"):
            return ("--resume",)
        if self.command == "train" and self.out is not None and self.value("--resume") is None:
            return ("--resume", self.out)
        return ()

    @property
    def goes_on(self) -> bool:
        """Whether it can be stopped and does not lose what it has computed."""
        return bool(self.again()) or self.has("--resume") or self.value("--resume") is not None

    @property
    def parts(self) -> str | None:
        """File or folder to which every start adds that is not in vain; None for one that may wait for a QPU."""
        if self.value("--qpu") is not None or (self.value("--backend") or "").startswith("qiskit:"):
            return None
        if self.has_store:
            return f"{self.out}/c"
        run = self.out or self.value("--resume")
        return f"{run}/last.safetensors" if self.command == "train" and run else None

    def problems(self) -> list[str]:
        """What is wrong with it as the work of a job."""
        if not self.words:
            return ["there is nothing to run; give a command of dqk after --, such as: -- gram X.npy -o K.zarr"]
        if self.command in _NOT_IN_A_JOB:
            return [f"{self}: a job does not launch jobs; give the command that it is to run"]
        return []
