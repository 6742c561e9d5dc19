"""Workers and devices that compute the kernel values of a training run: `dqk train --executor`, `--qpu`, `--backend qpu:URL`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dqk.cli.output import counted, stderr
from dqk.cli.pools import opened, qpu_names
from dqk.errors import InvalidInputError


@dataclass
class Farming:
    """What a command line asks for.

    Attributes:
        executor: name of the pool; None for this process.
        workers: how many; None for all.
        options: `farm` and `micro_batch`, where given.
        qpus: services that measure; they are the pool then.
    """

    executor: str | None
    workers: int | None
    options: dict[str, Any]
    qpus: Sequence[str] = ()
    _said: dict[str, Any] = field(default_factory=dict)
    _recurrent: Any = None
    _names: list[str] | None = None

    @classmethod
    def asked_for(
        cls,
        executor: str | None,
        workers: int | None,
        farm: str | None,
        micro_batch: int | None,
        qpus: Sequence[str] | None = None,
    ) -> Farming:
        """From the options.

        Raises:
            InvalidInputError: for options of workers that there are not.
        """
        given = {"--workers": workers, "--farm": farm, "--micro-batch": micro_batch}
        named = [name for name, value in given.items() if value is not None]
        if executor is not None and qpus:
            raise InvalidInputError(
                f"--executor {executor} with --qpu: the processors are the workers; leave one of them out"
            )
        if executor is None and named:
            raise InvalidInputError(f"{', '.join(named)}: for kernel values from workers; say which with --executor")
        options = {name: value for name, value in (("farm", farm), ("micro_batch", micro_batch)) if value is not None}
        return cls(executor, workers, options, tuple(qpu_names(qpus or ())))

    @contextlib.contextmanager
    def on_workers(self) -> Iterator[Callable[[Any], None]]:
        """Opens the pool, if there is one; gives what hands it to a tagger, saying who computes and why."""
        with contextlib.ExitStack() as stack:
            pool = None
            if self.qpus:
                from dqk.qpu.pool import QPUPool

                pool = stack.enter_context(QPUPool(list(self.qpus)))
            elif self.executor is not None:
                pool = stack.enter_context(opened(self.executor, self.workers))
            yield lambda tagger: self._prepare(tagger, pool)

    def _prepare(self, tagger: Any, pool: Any) -> None:
        from dqk.nn import QKLSTM

        if not isinstance(tagger.recurrent, QKLSTM):
            if pool is not None:
                what = f"--executor {self.executor}" if self.executor else "--qpu"
                raise InvalidInputError(f"{what}: only the model 'qklstm' has kernel values for workers; leave it out")
            return
        recurrent = self._recurrent = tagger.recurrent
        if self.qpus and not recurrent.options.is_fidelity:
            raise InvalidInputError(f"--qpu: measures circuits, and the kernel {recurrent.options.kernel!r} has none")
        if self.qpus and recurrent.options.backend != "auto":
            raise InvalidInputError(
                f"--backend {recurrent.options.backend} with --qpu: the processors measure; leave one of them out"
            )
        if self.qpus and recurrent.options.shots is None:
            raise InvalidInputError("--qpu: measures kernel values, and how often is missing; give --shots 2000, say")
        if pool is not None:
            recurrent.set_executor(pool, **self.options)
            self._names = getattr(pool, "names", None)
        circuits = recurrent.circuits_per_word()
        if circuits is not None:
            values, derivatives = circuits
            shots = recurrent.options.shots
            each = "whose probabilities are exact" if shots is None else f"of {counted(shots, 'shot')} each"
            stderr().print(
                f"kernel values are measured: a word takes {counted(values, 'circuit')}, and {derivatives:,} more where it is "
                f"trained on, {each}",
                markup=False,
                soft_wrap=True,
            )
        elif pool is not None:
            farming = recurrent.farming()
            assert farming is not None
            self._said = {"executor": self.executor, "farmed": farming.farms, "farming": farming.because}
            stderr().print(farming.because, markup=False, soft_wrap=True)

    def outcome(self) -> dict[str, Any]:
        """What became of it, for the result."""
        spent = None if self._recurrent is None else self._recurrent.spent
        if spent is None or not spent.jobs:
            return self._said
        by = self._names or str(self._recurrent.options.backend)
        found = {"measured_by": "simulated" if by == "auto" else by}
        found |= {"jobs": spent.jobs, "circuits": spent.circuits, "shots_spent": spent.shots}
        return {**self._said, **found, "device_s": round(spent.device_s, 3)}
