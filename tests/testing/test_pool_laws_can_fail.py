"""For every law of pools a pool with one defect, which that law has to find."""

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dqk._task import run_task
from dqk._wire import pack, unpack
from dqk.cluster import Done, Failed, InlinePool, Joined, Lost, Worker, WorkerPool
from dqk.testing import POOL_LAWS, PoolSubject, pool_subject


class WrongName(InlinePool):
    def poll(self, timeout_s):
        return [
            replace(event, worker="another") if isinstance(event, Done) else event for event in super().poll(timeout_s)
        ]


class Twice(InlinePool):
    def poll(self, timeout_s):
        return [
            event
            for event in super().poll(timeout_s)
            for _ in range(2 if getattr(event, "ticket", 1) % 100 == 0 else 1)
        ]


class Forgets(InlinePool):
    def submit(self, worker, ticket, task):
        if ticket % 100:
            super().submit(worker, ticket, task)


class NoType(InlinePool):
    def poll(self, timeout_s):
        events = super().poll(timeout_s)
        return [replace(e, cause=e.cause.partition(": ")[2]) if isinstance(e, Failed) else e for e in events]


class FailureIsDeath(InlinePool):
    def poll(self, timeout_s):
        events = super().poll(timeout_s)
        return events + [Lost("inline", "an error") for event in events if isinstance(event, Failed)]


class NeverDrops(InlinePool):
    def drop(self, digest):
        pass


class NotPutTwice(InlinePool):
    def put(self, digest, arrays):
        if self._arrays.pop(digest, None) is None:
            super().put(digest, arrays)


class Rounds(InlinePool):
    def put(self, digest, arrays):
        super().put(
            digest, {**arrays, "ax": arrays["ax"] * (1 + 1e-12)} if arrays["ax"].dtype == np.float64 else arrays
        )


class MemoryOrder(InlinePool):
    def put(self, digest, arrays):
        super().put(digest, {k: np.frombuffer(v.tobytes("A"), v.dtype).reshape(v.shape) for k, v in arrays.items()})


class Truncates(InlinePool):
    def submit(self, worker, ticket, task):
        if len(task) > 50_000_000:
            header, arrays = unpack(task)
            arrays["payload"] = arrays["payload"].copy()
            arrays["payload"][-1] = 0
            task = pack(header, arrays)
        super().submit(worker, ticket, task)


class OneThread(InlinePool):
    def __init__(self, threads):
        super().__init__(1)
        self._claimed = Worker("inline", threads)

    def workers(self):
        return (self._claimed,) if super().workers() else ()

    def poll(self, timeout_s):
        return [Joined(self._claimed) if isinstance(event, Joined) else event for event in super().poll(timeout_s)]


class Waits(InlinePool):
    """Submitting a third task waits for one of the two before it."""

    def __init__(self, threads):
        super().__init__(threads)
        self._free = threading.Semaphore(threads)

    def submit(self, worker, ticket, task):
        self._free.acquire()
        super().submit(worker, ticket, task)

    def _run(self, ticket, task):
        super()._run(ticket, task)
        self._free.release()


class KillsAnybody(InlinePool):
    def kill(self, worker):
        self._events.put(Lost("inline", "killed"))


class JoinsTwice(InlinePool):
    def start(self):
        super().start()
        self._events.put(Joined(self._worker))


class LosesWhatIsEarly(InlinePool):
    def poll(self, timeout_s):
        events = super().poll(timeout_s)
        if any(isinstance(event, Joined) for event in events):
            self._arrays.clear()
        return events


class TooManySlots(InlinePool):
    def __init__(self, threads):
        super().__init__(threads + 1)


class StaysOpen(InlinePool):
    def workers(self):
        return (self._worker,)


class Toy(WorkerPool):
    """Two workers, each a process that sleeps; what they are asked for is done here, at once, or never if it takes long."""

    def __init__(self, slots):
        self.processes, self.events, self.arrays, self.names = {}, [], {}, iter(range(100))

    def start(self):
        for _ in range(2):
            self.launch()

    def launch(self):
        name = f"toy-{next(self.names)}"
        self.processes[name] = subprocess.Popen(["sleep", "60"])
        self.events.append(Joined(Worker(name)))

    def workers(self):
        return tuple(map(Worker, self.processes))

    def put(self, digest, arrays):
        self.arrays[digest] = arrays

    def drop(self, digest):
        self.arrays.pop(digest, None)

    def submit(self, worker, ticket, task):
        if worker in self.processes and "sleep_s" not in unpack(task)[0]:
            document, arrays = unpack(run_task(task, self.arrays))
            result = pack({**document, "pid": self.processes[worker].pid}, arrays)
            self.events.append(Done(worker, ticket, result))

    def poll(self, timeout_s):
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                del self.processes[name]
                self.lose(name)
        if not self.events:
            time.sleep(min(timeout_s, 0.01))
        events, self.events = self.events, []
        return events

    def lose(self, name):
        self.events.append(Lost(name, "it died"))
        self.launch()

    def kill(self, worker):
        if worker in self.processes:
            self.processes[worker].kill()

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()


class EndsLate(Toy):
    def close(self):
        threading.Timer(3.0, super().close).start()


class AllTogether(Toy):
    def lose(self, name):
        for other in [name, *self.processes]:
            self.events.append(Lost(other, "one of them died"))


class NoCause(Toy):
    def lose(self, name):
        self.events.append(Lost(name, ""))


class Undead(Toy):
    def lose(self, name):
        super().lose(name)
        self.gone = name

    def submit(self, worker, ticket, task):
        super().submit(worker, ticket, task)
        if worker == getattr(self, "gone", None):
            self.events.append(Done(worker, ticket, b""))


class SameName(Toy):
    def lose(self, name):
        self.names = iter([int(name.partition("-")[2])])
        super().lose(name)


class NotReplaced(Toy):
    def lose(self, name):
        self.events.append(Lost(name, "it died"))


class EmptyHanded(Toy):
    def lose(self, name):
        super().lose(name)
        self.arrays = {}


class KillsTheOther(Toy):
    def kill(self, worker):
        for name in set(self.processes) - {worker}:
            super().kill(name)


INLINE = [
    ("a_task_returns_from_its_worker", WrongName),
    ("each_of_many_tasks_returns_once", Twice),
    ("each_of_many_tasks_returns_once", Forgets),
    ("a_task_that_fails_costs_nothing_else", NoType),
    ("a_task_that_fails_costs_nothing_else", FailureIsDeath),
    ("arrays_are_there_until_dropped", NeverDrops),
    ("arrays_are_there_until_dropped", NotPutTwice),
    ("tiles_have_the_bits_of_this_process", Rounds),
    ("large_arrays_travel_unharmed", MemoryOrder),
    ("large_arrays_travel_unharmed", Truncates),
    ("slots_run_at_once", OneThread),
    ("submit_does_not_wait", Waits),
    ("unknown_workers_are_ignored", KillsAnybody),
    ("workers_join_with_what_was_put", JoinsTwice),
    ("workers_join_with_what_was_put", LosesWhatIsEarly),
    ("workers_join_with_what_was_put", TooManySlots),
    ("closing_twice_is_closing", StaysOpen),
]
PROCESSES = [
    ("nothing_runs_after_closing", EndsLate),
    ("a_worker_that_dies_is_lost_alone", AllTogether),
    ("a_worker_that_dies_is_lost_alone", NoCause),
    ("a_worker_that_dies_is_lost_alone", Undead),
    ("a_worker_that_dies_is_lost_alone", SameName),
    ("a_worker_that_dies_is_lost_alone", NotReplaced),
    ("a_worker_that_dies_is_lost_alone", EmptyHanded),
    ("a_worker_that_is_killed_is_lost_alone", KillsTheOther),
]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pool_subject, "PATIENCE_S", 4.0)
    monkeypatch.setattr(pool_subject, "ENDED_S", 1.0)
    yield


def law_named(name):
    (law,) = [law for law in POOL_LAWS if law.name == name]
    return law


@pytest.mark.parametrize(("name", "broken"), INLINE)
def test_law_of_pools_finds_the_defect(name, broken):
    with PoolSubject(broken) as subject, pytest.raises(AssertionError, match=f"law '{name}'"):
        law_named(name)(subject)


@pytest.mark.parametrize(("name", "broken"), PROCESSES)
def test_law_of_pools_that_own_processes_finds_the_defect(name, broken):
    with PoolSubject(broken, owns_processes=True, can_kill=True, replaces=True) as subject:
        with pytest.raises(AssertionError, match=f"law '{name}'"):
            law_named(name)(subject)


def test_the_toy_obeys_the_laws_that_its_broken_copies_break():
    with PoolSubject(Toy, owns_processes=True, can_kill=True, replaces=True) as subject:
        for name in {name for name, _ in PROCESSES}:
            law_named(name)(subject)


def test_every_law_has_a_defect_that_it_finds():
    assert {law.name for law in POOL_LAWS} == {name for name, _ in INLINE + PROCESSES}
