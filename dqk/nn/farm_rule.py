"""Whether a QK-LSTM has its kernel values computed by workers, and why: one evaluation has to cost more than a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from dqk._calibration import cost_model
from dqk._pooled import Job
from dqk.cluster import WorkerPool, open_pool
from dqk.errors import DQKError
from dqk.nn.recurrent import whole_number

Farm = Literal["auto", "always"]

_PARTS = 16  # of a batch: more than most pools have workers, so that none waits for the recurrence
_MESSAGE_S = {"inline": 5e-4, "processes": 6e-4, "mpi": 5e-4, "ray": 1.5e-3}
"""A time step through one worker of the same node, with a circuit that costs nothing: the messages and what this process does
about them (medians over 100 steps of one sequence, 4 qubits, on a Zen 5 core)."""
_OTHER_MESSAGE_S = 1e-3


@dataclass(frozen=True)
class Farming:
    """Who computes the kernel values of a cell.

    Attributes:
        farms: workers do.
        row_s: predicted seconds of one sample's kernel values against all references, on one thread.
        message_s: predicted seconds of a task's way to a worker and back.
        because: the same in a sentence.
    """

    farms: bool
    row_s: float
    message_s: float
    because: str


@dataclass(frozen=True)
class FarmOptions:
    """What `QKLSTM` was told about workers.

    Attributes:
        executor: a `WorkerPool`, its name, or an `Executor`.
        farm: `always`, or `auto` for where it pays.
        micro_batch: sequences of one task; None for a sixteenth of the batch.
    """

    executor: Any
    farm: Farm
    micro_batch: int | None

    def problems(self) -> list[str]:
        """Everything that is wrong."""
        found = [] if self.micro_batch is None else whole_number("micro_batch", self.micro_batch)
        if self.farm not in ("auto", "always"):
            found.append(f"farm is {self.farm!r}, expected 'auto' or 'always'")
        if self.executor is None:
            if self.micro_batch is not None or self.farm != "auto":
                found.append("farm and micro_batch belong to an executor; give executor=, or leave them out")
        elif self.executor == "mpi":
            found.append(
                "executor='mpi' is for functions that all ranks call; open an MPIPool on rank 0 and give that, with `serve()` on "
                "the other ranks (`dqk train --executor mpi` does so)"
            )
        else:
            try:
                open_pool(self.executor)  # not started
            except DQKError as error:
                found.append(str(error))
        return found

    def rows(self, batch: int) -> int:
        """Sequences of one part of a batch."""
        return self.micro_batch or -(-batch // _PARTS)

    def decide(self, job: Job, dtype: torch.dtype, copies: int, n_references: int) -> Farming:
        """The rule.

        Args:
            job: backend and circuit.
            dtype: of the angles.
            copies: states that are made of one sample.
            n_references: kernel values of one sample.
        """
        side = job.side(dtype)
        cost = cost_model().of(job.backend.effort(job.circuit, dtype), str(dtype).removeprefix("torch."), side)
        row_s = copies * cost.encode_s / side + n_references * cost.tile_s / side**2
        name = self.executor.name if isinstance(self.executor, WorkerPool) else self.executor
        message_s = _MESSAGE_S.get(name, _OTHER_MESSAGE_S) if isinstance(name, str) else _OTHER_MESSAGE_S
        pays = row_s > message_s
        farms = pays or self.farm == "always"
        where = "computed by workers" if farms else "computed in this process"
        figures = (
            f"one sample's {n_references} values on {job.circuit.n_qubits} qubits take {_milliseconds(row_s)}, a message "
            f"{_milliseconds(message_s)} (predicted)"
        )
        advice = (
            "" if pays else "; this process would be faster" if farms else "; farm='always' uses workers all the same"
        )
        return Farming(farms, row_s, message_s, f"kernel values are {where}: {figures}{advice}")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2g} ms"
