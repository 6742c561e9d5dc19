"""Ray actors as workers. Choose it on a Ray cluster, or on one machine for workers that survive each other's death.

Each worker is one long-lived actor. Arrays are put into Ray's object store once and fetched once by each node; results come
back through it without a copy on the driver. A dead actor is replaced by a new one.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import dqk
from dqk._resources import cpu_threads
from dqk.cluster._ray_session import ray_module, ray_session, session_of
from dqk.cluster._ray_worker import RayWorker
from dqk.cluster.base import Arrays, Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool
from dqk.cluster.resources import same_gpu, worker_environment
from dqk.errors import ClusterError, InvalidInputError

_TEND_S = 1.0  # how often missing workers are looked for
_LONG_LIFE_S = 60.0  # a worker that lived so long did not crash at its start
_AGAIN_S = 0.5  # pause before a worker that could not be reached is called again
_UNREACHABLE_S = 4.0  # after which it counts as lost; Ray needs a quarter of a minute to see that a node is dead
_HELD_S = 30.0  # a call that was not interrupted for so long shows that all is well
_CLOSE_S = 5.0


@dataclass(eq=False, slots=True)
class _Member:
    """An actor, from its request to its loss."""

    worker: Worker
    actor: Any
    crashes: int  # of those whose place this one took, in a row
    orders: int = 0  # how many were given; a task that is sent now waits for them
    joined_at: float | None = None
    called_at: float = 0.0  # when `stay` was called last
    unreachable_since: float | None = None
    call_at: float | None = None  # when to call again

    def order(self, method: str, *values: Any) -> Any:
        self.orders += 1
        return getattr(self.actor, method).options(concurrency_group="orders").remote(self.orders - 1, *values)


@dataclass(frozen=True, slots=True)
class _Call:
    """What a reference in flight is the result of."""

    member: _Member
    method: str
    ticket: int | None = None


class RayPool(WorkerPool):
    """Actors of the Ray that this process uses, of the cluster at `address` or RAY_ADDRESS, or of a Ray of our own.

    Args:
        workers: how many; None for as many as all nodes hold, also those that join later (give a number on a cluster that
            adds nodes on demand).
        slots: tasks that a worker runs at once, and threads that it has.
        cpus_per_worker: logical CPUs that a worker takes; None for one per slot.
        gpus_per_worker: GPUs that a worker takes; Ray narrows CUDA_VISIBLE_DEVICES to them.
        address: of the cluster.
        start_timeout_s: how long workers may take to be placed and to answer.
        max_replacements: how often in a row a worker that dies within a minute is replaced.
    """

    name = "ray"

    def __init__(
        self,
        workers: int | None = None,
        *,
        slots: int = 1,
        cpus_per_worker: float | None = None,
        gpus_per_worker: float = 0,
        address: str | None = None,
        start_timeout_s: float = 60.0,
        max_replacements: int = 8,
    ):
        if (workers is not None and workers < 1) or slots < 1:
            raise InvalidInputError(f"workers={workers} with slots={slots}, expected whole numbers of at least 1")
        self._wanted, self._slots, self._address = workers, slots, address
        self._cpus, self._gpus = float(slots if cpus_per_worker is None else cpus_per_worker), float(gpus_per_worker)
        if self._cpus <= 0 or self._gpus < 0:
            raise InvalidInputError(
                f"cpus_per_worker={cpus_per_worker} and gpus_per_worker={gpus_per_worker}, expected more than 0 CPUs and at "
                "least 0 GPUs"
            )
        self._start_timeout_s, self._max_replacements = start_timeout_s, max_replacements
        self._started, self._entered = 0, False
        self._session: tuple[str, str] | None = None
        self._stack = contextlib.ExitStack()
        self._reset()

    @property
    def opened(self) -> bool:
        """Whether it was started and the Ray that it was started on is still the one that this process uses."""
        return self._entered and self._current()

    @opened.setter
    def opened(self, value: bool) -> None:
        self._entered = value

    def _current(self) -> bool:
        return self._session is not None and session_of(self._ray) == self._session

    def _check(self) -> None:
        """Calls without a Ray would start one."""
        if not self._current():
            raise ClusterError(
                "the Ray on which these workers ran was shut down (by ray.shutdown() in this process?); open the pool again"
            )

    def _reset(self) -> None:
        self._members: dict[str, _Member] = {}
        self._calls: dict[Any, _Call] = {}
        self._arrays: dict[str, Any] = {}
        self._events: list[PoolEvent] = []
        self._vacant: list[int] = []  # crashes in a row at the places that are free
        self._abandoned = 0  # places that are not filled again
        self._crowds_changed: set[str] = set()  # hosts on which workers joined or were lost
        self._cause = ""

    def start(self) -> None:
        """Finds or starts a Ray and waits for its workers: the number asked for, else the first one.

        Raises:
            BackendUnavailableError: if Ray is not installed.
            ClusterError: if workers cannot be placed or cannot start; says what is missing.
        """
        ray = self._ray = ray_module()
        local = self._wanted or max(1, cpu_threads() // self._slots)
        # One place more than workers, so that the next worker can start while the end of the last one is being noticed.
        own = self._stack.enter_context(ray_session(self._address, (local + 1) * self._cpus))
        self._session = session_of(ray)
        self._fixed = local if own else self._wanted
        self._actor_class = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,  # a replacement has another name, and a new actor can go to another node
            max_task_retries=-1,  # Ray repeats calls to an actor that it cannot reach for a while
            max_concurrency=2 * self._slots,  # half of them wait for a disk: see `run_task`
            concurrency_groups={"orders": 1, "stay": 1},
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": self._environment()},
        )(RayWorker)
        deadline = self._waiting_since = time.monotonic()
        deadline += self._start_timeout_s
        while len(self.workers()) < (self._fixed or 1):
            self._tend()
            self._wait(min(_TEND_S, deadline - time.monotonic()))
            if self._abandoned:
                raise ClusterError(f"workers on Ray do not start: {self._cause}")
            if time.monotonic() >= deadline:
                raise ClusterError(self._missing())

    def workers(self) -> tuple[Worker, ...]:
        """The actors that have answered."""
        return tuple(member.worker for member in self._members.values() if member.joined_at is not None)

    def put(self, digest: str, arrays: Arrays) -> None:
        """Puts arrays into the object store; a node's workers share one copy, which is read-only."""
        self._check()
        self._arrays[digest] = self._ray.put(dict(arrays))
        for member in self._members.values():
            self._give(member, digest)

    def _give(self, member: _Member, digest: str) -> None:
        self._calls[member.order("put", digest, self._arrays[digest])] = _Call(member, "put")

    def drop(self, digest: str) -> None:
        """Frees the object as soon as the workers have let go of it."""
        if self._arrays.pop(digest, None) is not None and self._current():
            for member in self._members.values():
                member.order("drop", digest)

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Calls the actor."""
        self._check()
        if member := self._members.get(worker):
            self._calls[member.actor.run.remote(member.orders, task)] = _Call(member, "run", ticket)

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """Results and losses. New workers are asked for where some are missing."""
        deadline = time.monotonic() + timeout_s
        while not self._events:
            self._check()
            self._tend()
            left = max(0.0, deadline - time.monotonic())
            self._wait(min(_TEND_S, left))
            if left == 0:
                break
        events, self._events = self._events, []
        return events

    def kill(self, worker: str) -> None:
        """Has Ray kill the actor's process, which does not get to answer."""
        if member := self._members.get(worker):
            self._lost(member, "killed, as asked")

    def close(self) -> None:
        """Ends the actors, and Ray if it is our own. If Ray was shut down before, all that is over already."""
        stays = [ref for ref, call in self._calls.items() if call.method == "stay"] if self._current() else []
        for member in self._members.values():
            self._end(member)
        if stays:
            self._ray.wait(stays, num_returns=len(stays), timeout=_CLOSE_S, fetch_local=False)
        self._reset()
        self._stack.close()

    # What becomes of actors

    def _tend(self) -> None:
        """Asks for workers where some are missing."""
        now = time.monotonic()
        for member in self._members.values():
            if member.call_at is not None and now >= member.call_at:
                self._watch(member)
        missing = (self._fixed or self._capacity()) - self._abandoned - len(self._members)
        for _ in range(missing):
            self._ask(self._vacant.pop() if self._vacant else 0)
        if self.workers():
            self._waiting_since = now
        elif not self._members and self._abandoned:
            raise ClusterError(f"all workers on Ray were lost, also those that replaced them: {self._cause}")
        elif now > self._waiting_since + self._start_timeout_s:
            raise ClusterError(f"{self._missing()}; the last loss: {self._cause}")

    def _capacity(self) -> int:
        """Workers that all nodes hold."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(int(min(node.get(name, 0.0) / each for name, each in self._needs().items())) for node in nodes)

    def _environment(self) -> dict[str, str]:
        """Of each worker. Ray says which GPUs it has; how many workers share the node is known only when they are placed."""
        environment = worker_environment(0, 1, self._slots)
        return {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}

    def _needs(self) -> dict[str, float]:
        return {name: each for name, each in (("CPU", self._cpus), ("GPU", self._gpus)) if each > 0}

    def _ask(self, crashes: int) -> None:
        self._started += 1
        member = _Member(
            Worker(f"ray-{self._started}", self._slots), self._actor_class.remote(self._slots, self._gpus > 0), crashes
        )
        self._members[member.worker.id] = member
        self._calls[member.actor.hello.options(concurrency_group="orders").remote()] = _Call(member, "hello")
        self._watch(member)
        for digest in self._arrays:
            self._give(member, digest)

    def _watch(self, member: _Member) -> None:
        """Has Ray say at once when it cannot reach an actor, which it tells of other calls only when it is known to be dead."""
        member.called_at, member.call_at = time.monotonic(), None
        stay = member.actor.stay.options(concurrency_group="stay", max_task_retries=0)
        self._calls[stay.remote()] = _Call(member, "stay")

    def _unreachable(self, member: _Member, cause: str) -> None:
        """Calls again for some time, as a connection may come back."""
        now = time.monotonic()
        if member.unreachable_since is None or now > member.called_at + _HELD_S:
            member.unreachable_since = now
        if now > member.unreachable_since + _UNREACHABLE_S:
            self._lost(member, cause)
        else:
            member.call_at = now + _AGAIN_S

    def _wait(self, timeout_s: float) -> None:
        """Waits for an answer to any call and takes all that are there."""
        if not self._calls:
            time.sleep(max(0.0, timeout_s))
            return
        ready, others = self._ray.wait(list(self._calls), num_returns=1, timeout=max(0.0, timeout_s))
        if ready and others:
            ready += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
        # A worker's results count, also if it has died since: they come before its loss, which forgets its other calls.
        for ref in sorted(ready, key=lambda ref: self._calls[ref].ticket is None):
            if call := self._calls.pop(ref, None):
                self._answered(call, ref)
        self._tell_crowds()

    def _answered(self, call: _Call, ref: Any) -> None:
        member, errors = call.member, self._ray.exceptions
        try:
            value = self._ray.get(ref)
        except errors.RayActorError as error:
            if call.method == "stay" and isinstance(error, errors.ActorUnavailableError):
                self._unreachable(member, _short(error))
            else:
                self._lost(member, _short(error), for_good=error.actor_init_failed)
        except errors.RayError as error:
            if call.ticket is None:
                self._lost(member, f"{call.method}: {_short(error)}")
            else:
                self._events.append(Failed(member.worker.id, call.ticket, _short(error)))
        else:
            if call.method == "hello":
                self._welcome(member, value)
            elif call.ticket is not None:
                event = Failed if isinstance(value, str) else Done
                self._events.append(event(member.worker.id, call.ticket, value))

    def _welcome(self, member: _Member, answer: dict[str, Any]) -> None:
        if answer["version"] != dqk.__version__:
            self._lost(
                member,
                f"{answer['host']} has dqk {answer['version']}, the driver has {dqk.__version__}; install the same on all nodes",
                for_good=True,
            )
            return
        others = [(worker.id, worker.gpu) for worker in self.workers() if worker.node == answer["host"]]
        if self._gpus >= 1 and (other := same_gpu(answer["gpu"], others)):
            self._lost(
                member,
                f"has {answer['gpu']} of {answer['host']}, which {other} has as well; is CUDA_VISIBLE_DEVICES set for all workers?",
                for_good=True,
            )
            return
        member.joined_at = time.monotonic()
        member.worker = Worker(member.worker.id, self._slots, answer["host"], answer["gpu"] or "")
        self._crowds_changed.add(answer["host"])
        self._events.append(Joined(member.worker))

    def _tell_crowds(self) -> None:
        """Tells workers how many they are on their machine, before they are given tasks."""
        if self._crowds_changed:
            crowds = Counter(worker.node for worker in self.workers())
            for member in self._members.values():
                if member.worker.node in self._crowds_changed:
                    member.order("share_node", crowds[member.worker.node])
            self._crowds_changed.clear()

    def _lost(self, member: _Member, cause: str, for_good: bool = False) -> None:
        """Forgets an actor and all its calls; `for_good`: another one in its place would fare no better."""
        self._end(member)
        self._members.pop(member.worker.id, None)
        self._calls = {ref: call for ref, call in self._calls.items() if call.member is not member}
        self._cause = f"{member.worker.id} {f'on {member.worker.node} ' if member.worker.node else ''}{cause}"
        if member.joined_at is not None:
            self._crowds_changed.add(member.worker.node)
            self._events.append(Lost(member.worker.id, cause))
        lived = 0.0 if member.joined_at is None else time.monotonic() - member.joined_at
        crashes = member.crashes + 1 if lived < _LONG_LIFE_S else 0
        if for_good or crashes > self._max_replacements:
            self._abandoned += 1
        else:
            self._vacant.append(crashes)

    def _end(self, member: _Member) -> None:
        if not self._current():
            return
        with contextlib.suppress(self._ray.exceptions.RayError, RuntimeError, ValueError):
            self._ray.kill(member.actor, no_restart=True)

    def _missing(self) -> str:
        there, free = self._ray.cluster_resources(), self._ray.available_resources()
        lacking = any(free.get(name, 0) < each for name, each in self._needs().items())
        needs = " and ".join(f"{each:g} {name}" for name, each in self._needs().items())
        has = ", ".join(f"{there.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in self._needs())
        advice = (
            "ask for fewer workers, or add nodes" if lacking else "they start slowly: give a longer start_timeout_s"
        )
        return (
            f"{len(self.workers())} of {self._fixed or 'at least 1'} workers could be placed and answered within "
            f"{self._start_timeout_s:g} s: each needs {needs}, the cluster has {has}; {advice}"
        )


def _short(error: BaseException) -> str:
    """Ray's message on one line, without the identifiers that come first."""
    text = " ".join(str(error).split()).partition(" Some common causes")[0]
    return text[max(text.find("The actor is dead because"), 0) :][:400]
