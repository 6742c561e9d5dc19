"""`dqk gram` where a device measures: its options, and what is wrong with them, in the words in which they were typed."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from dqk.cli.pools import opened, qpu_names
from dqk.errors import InvalidInputError

_PANEL = "Measurements"
_ALLOCATIONS = "uniform", "variance", "weighted"
_DUPLICATES = "off_diagonal", "all", "none"


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL, **more)


@dataclass
class Measuring:
    """What a command line says about measurements by devices."""

    shots: Annotated[int | None, _option("Measurements per entry (default: exact values).", min=1)] = None
    seed: Annotated[int | None, _option("Of the measurements (default: 0).", min=0)] = None
    budget: Annotated[int | None, _option("Measurements in all, never exceeded.", min=1)] = None
    budget_seconds: Annotated[float | None, _option("Seconds of the device in all, never exceeded.")] = None
    allocation: Annotated[
        str | None,
        _option("uniform; variance: a pilot, then the rest of the budget where it helps most; weighted: by --weights."),
    ] = None
    weights: Annotated[
        Path | None,
        _option("How much entries count: an .npy file, a number for each entry, or for each sample (or column of K)."),
    ] = None
    max_circuits_per_job: Annotated[int | None, _option("Fewer circuits in a job than the device takes.", min=1)] = None
    evaluate_duplicates: Annotated[
        str | None, _option("off_diagonal (the default: a symmetric K's diagonal is 1, unmeasured), all or none.")
    ] = None
    return_std_error: Annotated[
        bool, _option("With -o K.npy also K.std_error.npy; a store has them anyway.", "--return-std-error")
    ] = False
    qpu: Annotated[list[str] | None, _option("URL of a QPU service; several share the work.", "--qpu")] = None
    token_file: Annotated[Path | None, _option("File with the service's token (or DQK_QPU_TOKEN).")] = None
    least_fidelity: Annotated[
        float | None, _option("Drain a QPU whose k(x, x), measured every minute, is below this.")
    ] = None
    dry_run: Annotated[bool, _option("Say what measuring takes and costs; compute nothing.", "--dry-run")] = False

    @property
    def measures(self) -> bool:
        """Whether entries are measured."""
        return self.shots is not None or self.budget is not None

    def check(self, backend: str, executor: str, workers: int | None, log: bool, shard: str | None) -> None:
        """Refuses what cannot be used, before anything is read or asked.

        Raises:
            InvalidInputError: with everything that is wrong.
        """
        problems = [*self._values(), *self._together(log), *self._with_qpu(backend, executor, workers, shard)]
        if problems:
            raise InvalidInputError("\n".join(problems))

    def _values(self) -> Iterator[str]:
        if self.shots is not None and self.shots >= 2**53:
            yield f"--shots {self.shots}: expected less than 2**53, frequencies are float64"
        if self.seed is not None and self.seed >= 2**63:
            yield f"--seed {self.seed}: expected a whole number from 0 to 2**63 - 1"
        if self.budget_seconds is not None and not 0 < self.budget_seconds < math.inf:
            yield f"--budget-seconds {self.budget_seconds:g}: expected a number of seconds above 0"
        if self.least_fidelity is not None and not 0 < self.least_fidelity <= 1:
            yield f"--least-fidelity {self.least_fidelity:g}: expected a number above 0 and at most 1"
        if self.allocation not in (None, *_ALLOCATIONS):
            yield f"--allocation {self.allocation}: expected uniform, variance or weighted"
        if self.evaluate_duplicates not in (None, *_DUPLICATES):
            yield f"--evaluate-duplicates {self.evaluate_duplicates}: expected off_diagonal, all or none"

    def _together(self, log: bool) -> Iterator[str]:
        named = "--budget" if self.shots is None else "--shots"
        if self.qpu and not self.measures:
            yield "--qpu: measures, and how often is missing; give --shots 1000, say"
        elif not self.measures and (extra := self._for_measurements()):
            yield f"{', '.join(extra)} without --shots: exact values are not measured; give --shots 1000, say, or leave it out"
        if log and (self.measures or self.qpu):
            yield f"--log with {named}: a measured frequency can be 0, which has no logarithm; leave one of them out"
        if self.measures and self.allocation in ("variance", "weighted") and self.budget is None:
            yield f"--allocation {self.allocation}: shares out a budget; give --budget 1000000, say, for all entries together"
        if self.allocation == "weighted" and self.weights is None:
            yield "--allocation weighted: needs --weights FILE.npy, a number for each sample or for each entry of K"
        if self.weights is not None and self.allocation in (None, "uniform"):
            yield f"--weights {self.weights}: is for --allocation weighted or --allocation variance; give one of them"

    def _for_measurements(self) -> list[str]:
        """Options that were given and mean nothing for exact values."""
        given = {
            "--seed": self.seed,
            "--budget-seconds": self.budget_seconds,
            "--allocation": self.allocation,
            "--weights": self.weights,
            "--max-circuits-per-job": self.max_circuits_per_job,
            "--evaluate-duplicates": self.evaluate_duplicates,
            "--return-std-error": self.return_std_error or None,
        }
        return [name if value is True else f"{name} {value}" for name, value in given.items() if value is not None]

    def _with_qpu(self, backend: str, executor: str, workers: int | None, shard: str | None) -> Iterator[str]:
        if not self.qpu:
            if self.least_fidelity is not None:
                yield f"--least-fidelity {self.least_fidelity:g}: is for --qpu"
            if self.token_file is not None and not backend.startswith("qpu:"):
                yield f"--token-file {self.token_file}: is for --qpu and --backend qpu:URL"
            return
        if backend != "auto":
            yield f"--backend {backend} with --qpu: the processors measure; leave one of them out"
        given = "" if executor == "inline" else f"--executor {executor}"
        given = given or ("" if workers is None else f"--workers {workers}")
        if given:
            yield f"{given} with --qpu: the processors are the workers; leave one of them out"
        if shard is not None:
            yield f"--shard {shard} with --qpu: one process drives all processors (--qpu A --qpu B); leave --shard out"

    def check_kernel(self, kernel: Any, log: bool, shard: str | None) -> None:
        """Refuses what a backend that measures does not do, once it is known to be one.

        Raises:
            InvalidInputError: says which option to change.
        """
        from dqk.backends.resolve import resolve
        from dqk.backends.sampled import SampledBackend

        if kernel.backend == "auto":
            return
        backend = resolve(kernel.backend, kernel.circuit)
        if not isinstance(backend, SampledBackend):
            return
        if not self.measures and not backend.capabilities.exact:
            raise InvalidInputError(
                f"--backend {kernel.backend}: measures, and how often is missing; give --shots 1000, say"
            )
        with_it = f"with --backend {kernel.backend}:"
        if log:
            raise InvalidInputError(f"--log {with_it} it measures entries, not their logarithms; leave --log out")
        if shard is not None:
            raise InvalidInputError(f"--shard {shard} {with_it} one process drives the device; leave --shard out")

    def plan(self, shape: tuple[int, int], symmetric: bool) -> Any:
        """What a kernel takes as `shots`, for a matrix of this shape: a plan if anything but a number was asked for."""
        given: dict[str, Any] = {
            "budget": self.budget,
            "budget_s": self.budget_seconds,
            "allocation": self.allocation,
            "weights": None if self.weights is None else _weights(self.weights, shape, symmetric),
            "max_circuits_per_job": self.max_circuits_per_job,
            "evaluate_duplicates": self.evaluate_duplicates,
        }
        named = {name: value for name, value in given.items() if value is not None}
        if not named:
            return self.shots
        from dqk.kernels import ShotPlan

        return ShotPlan(self.shots, **named)

    def pool(self, executor: str, workers: int | None, backend: str) -> Any:
        """A pool of the processors that were named, or of the executor's workers."""
        if not self.qpu:
            from dqk._executors import gpus_for

            return opened(executor, workers, gpus_for(backend))
        from dqk.qpu.pool import QPUPool

        return QPUPool(qpu_names(self.qpu), self.least_fidelity)


def _weights(path: Path, shape: tuple[int, int], symmetric: bool) -> Any:
    """How much each entry of K counts, shape (N, M).

    Numbers of samples, such as the coefficients of a support-vector machine, count by their size: |w_i w_j| where K is that of one
    set of samples, |w_j| for the columns of K(test, train).
    """
    import numpy as np

    from dqk.errors import DataFileError

    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise DataFileError(f"--weights {path}: cannot be read: {reason}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise DataFileError(f"--weights {path}: expected an .npy file of finite numbers")
    n, m = shape
    if found.shape == (m,) or found.shape == (1, m):
        sizes = np.abs(found.astype(np.float64)).reshape(m)
        found = np.outer(sizes, sizes) if symmetric else np.tile(sizes, (n, 1))
    if found.shape != shape:
        what = f"{m}, one for each sample" if symmetric else f"{m}, one for each sample of --y"
        raise InvalidInputError(
            f"--weights {path}: has shape {found.shape}, expected {shape}, one for each entry of K, or {what}"
        )
    if (found < 0).any() or not found.any():
        raise InvalidInputError(f"--weights {path}: expected numbers from 0 for the entries of K, not all of them 0")
    return found


def with_measuring(command: Callable[..., None], without: tuple[str, ...] = ()) -> Callable[..., None]:
    """Gives a command that takes `measuring` one option for each of its fields but some."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "measuring"]
    hints = get_type_hints(Measuring, include_extras=True)
    more = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Measuring)
        if f.name not in without
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(**{p.name: given[p.name] for p in own}, measuring=Measuring(**{p.name: given[p.name] for p in more}))

    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
    return run


def use_tokens(token_file: Path | None) -> None:
    """Has clients of this process use the token of a file."""
    if token_file is not None:
        from dqk.qpu import read_token
        from dqk.qpu.records import TOKEN_VARIABLE

        os.environ[TOKEN_VARIABLE] = read_token(token_file)
