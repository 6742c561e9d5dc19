"""Workers that compute the kernel values of a training run: `dqk train --executor`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dqk.cli.output import stderr
from dqk.cli.pools import opened
from dqk.errors import InvalidInputError


@dataclass
class Farming:
    """What a command line asks for.

    Attributes:
        executor: name of the pool.
        workers: how many; None for all.
        options: `farm` and `micro_batch`, where given.
        outcome: what became of it, for the result.
    """

    executor: str
    workers: int | None
    options: dict[str, Any]
    outcome: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def asked_for(
        cls, executor: str | None, workers: int | None, farm: str | None, micro_batch: int | None
    ) -> Farming | None:
        """From the options; None without an executor.

        Raises:
            InvalidInputError: for options of workers that there are not.
        """
        given = {"--workers": workers, "--farm": farm, "--micro-batch": micro_batch}
        named = [name for name, value in given.items() if value is not None]
        if executor is None and named:
            raise InvalidInputError(f"{', '.join(named)}: for kernel values from workers; say which with --executor")
        options = {name: value for name, value in (("farm", farm), ("micro_batch", micro_batch)) if value is not None}
        return None if executor is None else cls(executor, workers, options)

    @contextlib.contextmanager
    def on_workers(self) -> Iterator[Callable[[Any], None]]:
        """Opens the pool; gives what hands it to a tagger, saying who computes and why."""
        with opened(self.executor, self.workers) as pool:

            def prepare(tagger: Any) -> None:
                from dqk.nn import QKLSTM

                if not isinstance(tagger.recurrent, QKLSTM):
                    raise InvalidInputError(
                        f"--executor {self.executor}: only the model 'qklstm' has kernel values for workers; leave it out"
                    )
                tagger.recurrent.set_executor(pool, **self.options)
                farming = tagger.recurrent.farming()
                assert farming is not None
                self.outcome = {"executor": self.executor, "farmed": farming.farms, "farming": farming.because}
                stderr().print(farming.because, markup=False, soft_wrap=True)

            yield prepare
