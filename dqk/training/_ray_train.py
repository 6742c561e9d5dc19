"""Training on Ray: Ray Train starts the ranks, and starts them again from the last checkpoint when one is lost.

The ranks do what ranks of any launcher do. Rank 0 sends what it has to say to the driver through a small actor, and learns from
it that the user wants to stop.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dqk.cluster._ray_session import ray_module, ray_session
from dqk.errors import BackendUnavailableError, ClusterError, DQKError, exit_code
from dqk.training.config import TrainConfig, resolve
from dqk.training.group import Group
from dqk.training.hints import command
from dqk.training.interrupt import Interrupted, LostRankError, RankEnded, StopRequest
from dqk.training.loop import Trainer
from dqk.training.pos import resume_pos, train_pos
from dqk.training.rank import Rank
from dqk.training.run_folder import RunFolder, new_folder
from dqk.training.state import Facts, Reporter, State

_POLL_S = 0.2
_BATCH_S = 0.5  # between two messages about batches
_PARTING_S = 10.0
_TIMEOUT_S = 1800  # of collectives, as for other launchers


class Mail:
    """The actor between rank 0 and the driver."""

    def __init__(self) -> None:
        self._said: list[dict[str, Any]] = []
        self._stop = 0
        self._attempts = 0

    def begin(self) -> int:
        """Which attempt this is, from 1."""
        self._attempts += 1
        return self._attempts

    def say(self, document: dict[str, Any]) -> None:
        """Rank 0 has something to say."""
        self._said.append(document)

    def hear(self) -> list[dict[str, Any]]:
        """What was said since the last call."""
        said, self._said = self._said, []
        return said

    def stop(self, number: int) -> None:
        """The driver was sent a signal."""
        self._stop = number

    def asked_to_stop(self) -> int:
        """The signal, 0 for none."""
        return self._stop


def train_pos_by_ray(
    given: Mapping[str, Any],
    out: str | os.PathLike[str] | None,
    resume: str | os.PathLike[str] | None,
    reporter: Reporter,
    take_over: bool = False,
    ranks: int = 2,
    max_failures: int = 2,
) -> dict[str, Any]:
    """`train_pos` or `resume_pos` on ranks that Ray starts: in the cluster at RAY_ADDRESS, else a Ray of our own.

    Args:
        given: options by name.
        out: run folder of a new run, on a disk that the cluster's machines share.
        resume: run folder of a run that goes on; None for a new one.
        reporter: hears how it goes.
        take_over: see `train_pos`.
        ranks: how many.
        max_failures: how often all ranks are started again after one was lost.

    Returns:
        The result.

    Raises:
        BackendUnavailableError: without Ray Train.
        ClusterError: if Ray cannot start the ranks, or they were lost too often.
    """
    ray = ray_module()
    _ray_train()
    options = dict(given)
    for name in ("data", "test"):
        if options.get(name):
            options[name] = str(Path(options[name]).absolute())
    if resume is None:
        config = resolve(options)
        folder = Path(out).absolute() if out is not None else new_folder(config).absolute()
    else:
        folder = Path(resume).absolute()
        config = RunFolder.open(folder).read_setup()[0]
    task = {"options": options, "folder": str(folder), "resume": resume is not None, "take_over": take_over}
    with ray_session(None, ranks * config.threads), StopRequest() as stop, tempfile.TemporaryDirectory() as storage:
        cpus = ray.cluster_resources().get("CPU", 0)
        if cpus < ranks * config.threads:
            raise ClusterError(
                f"--ranks: {ranks} of {config.threads} CPUs each, but this Ray has {cpus:g} CPUs in all; start fewer ranks, or "
                "Ray with more CPUs"
            )
        mail = ray.remote(num_cpus=0)(Mail).remote()
        try:
            return _Run(ray, mail, reporter, stop).fit(
                _trainer(task, mail, config, ranks, max_failures, storage), folder
            )
        finally:
            ray.kill(mail)


def _ray_train() -> Any:
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    try:
        import ray.train.torch
    except ImportError as error:
        raise BackendUnavailableError(
            f"--launcher ray needs Ray Train, which cannot be imported ({str(error).strip()}); pip install 'dqk[ray]'"
        ) from error
    return ray.train


def _trainer(
    task: Mapping[str, Any], mail: Any, config: TrainConfig, ranks: int, max_failures: int, storage: str
) -> Any:
    train = _ray_train()
    return train.torch.TorchTrainer(
        train_on_ray,
        train_loop_config={**task, "mail": mail},
        torch_config=train.torch.TorchConfig(backend="gloo", timeout_s=_TIMEOUT_S),
        scaling_config=train.ScalingConfig(num_workers=ranks, resources_per_worker={"CPU": config.threads}),
        run_config=train.RunConfig(
            name="dqk", storage_path=storage, failure_config=train.FailureConfig(max_failures=max_failures)
        ),
    )


class _Run:
    """The driver's side of one call of `fit`, which waits in a thread of its own."""

    def __init__(self, ray: Any, mail: Any, reporter: Reporter, stop: StopRequest):
        self._ray, self._mail, self._reporter, self._stop = ray, mail, reporter, stop
        self._outcome: dict[str, Any] | None = None
        self._error: BaseException | None = None

    def fit(self, trainer: Any, folder: Path) -> dict[str, Any]:
        thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        thread.start()
        asked = False
        while thread.is_alive():
            thread.join(_POLL_S)
            if self._stop.number is not None and not asked:
                asked = True
                self._ray.get(self._mail.stop.remote(self._stop.number))
            self._listen()
        self._listen()
        if self._outcome is None:
            cause = str(self._error).strip().splitlines()[-1] if self._error is not None else "the ranks said nothing"
            onwards = ""
            if RunFolder.is_run(folder):
                onwards = f"; go on with: {command('train', 'pos', '--resume', str(folder))}"
            raise LostRankError(f"lost another rank, more often than --max-failures allows: {cause}{onwards}")
        if "result" in self._outcome:
            found: dict[str, Any] = self._outcome["result"]
            return found
        raise _revived(self._outcome)

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._error = error

    def _listen(self) -> None:
        for said in self._ray.get(self._mail.hear.remote()):
            if "facts" in said:
                self._reporter.began(Facts(**{**said["facts"], "done": tuple(said["facts"]["done"])}))
            elif "batch" in said:
                self._reporter.batch(State(**said["batch"]))
            elif "epoch" in said:
                self._reporter.epoch(said["epoch"])
            else:
                self._outcome = said


def _revived(said: Mapping[str, Any]) -> DQKError:
    """An error of rank 0 as the driver raises it."""
    if said["signal"]:
        return Interrupted(said["message"], said["signal"])
    kinds, found = [DQKError], None
    while kinds and found is None:
        kind = kinds.pop()
        found = kind if kind.__name__ == said["kind"] else None
        kinds += kind.__subclasses__()
    return (found or ClusterError)(said["message"])


def train_on_ray(task: dict[str, Any]) -> None:
    """What each rank runs. An error that starting again cannot mend is told to the driver, others are raised."""
    import ray

    mail = task["mail"]
    try:
        with Group.join(replace(Rank.from_environ(), launcher="Ray")) as group:
            if not group.leads:
                train_pos({}, group=group)
                return
            attempt = ray.get(mail.begin.remote())
            reporter, take_over = _Sender(mail), task["take_over"] or attempt > 1
            with reporter.watching():
                if task["resume"] or (attempt > 1 and RunFolder.is_run(task["folder"])):
                    given = task["options"] if task["resume"] else {}
                    result = resume_pos(task["folder"], given, reporter, take_over, group)
                else:
                    result = train_pos(task["options"], task["folder"], reporter, take_over, group)
            ray.get(mail.say.remote({"result": result}))
    except LostRankError:
        raise
    except RankEnded:
        return
    except Exception as error:  # such as one of torch's: another attempt would meet it, too
        signal = error.number if isinstance(error, Interrupted) else 0
        kind = type(error).__name__
        ray.get(
            mail.say.remote(
                {
                    "kind": kind,
                    "message": str(error) if isinstance(error, DQKError) else f"{kind}: {error}",
                    "signal": signal,
                    "code": exit_code(error),
                }
            )
        )


class _Sender(Reporter):
    """Tells the driver how it goes, and the trainer that it is to stop."""

    def __init__(self, mail: Any):
        self._mail = mail
        self._trainer: Trainer | None = None
        self._told_at = 0.0
        self._done = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Asks from time to time whether the user wants to stop."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(_PARTING_S)

    def _watch(self) -> None:
        import ray

        while not self._done.wait(_POLL_S):
            number = ray.get(self._mail.asked_to_stop.remote())
            if number and self._trainer is not None:
                self._trainer.stop.note(number)
                return

    def started(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def began(self, facts: Facts) -> None:
        self._mail.say.remote({"facts": asdict(facts)})

    def batch(self, state: State) -> None:
        if time.monotonic() - self._told_at > _BATCH_S:
            self._told_at = time.monotonic()
            self._mail.say.remote({"batch": {**asdict(state), "history": []}})

    def epoch(self, line: dict[str, Any]) -> None:
        self._mail.say.remote({"epoch": line})
