"""The laws of worker pools over the pools that need nothing but this machine."""

import importlib
import inspect
import pkgutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context

import pytest

import dqk.cluster
from dqk.cluster import WorkerPool
from dqk.cluster.executor import ExecutorPool, from_executor
from dqk.cluster.inline import InlinePool
from dqk.cluster.processes import ProcessPool
from dqk.testing import POOL_LAWS, Law, PoolSubject, check_pool


@contextmanager
def foreign(executor: Executor) -> Iterator[PoolSubject]:
    """An executor whose two workers run."""
    with executor, PoolSubject(lambda n: from_executor(executor, n), anonymous=True) as subject:
        list(executor.map(time.sleep, [0.5, 0.5]))
        yield subject


POOLS: dict[str, Callable[[], AbstractContextManager[PoolSubject]]] = {
    "inline": lambda: PoolSubject(InlinePool),
    "processes": lambda: PoolSubject(ProcessPool, owns_processes=True, can_kill=True, replaces=True),
    "threads of an executor": lambda: foreign(ThreadPoolExecutor(2)),
    "processes of an executor": lambda: foreign(ProcessPoolExecutor(2, get_context("fork"))),
}


@pytest.fixture(scope="module", params=POOLS)
def subject(request: pytest.FixtureRequest) -> Iterator[PoolSubject]:
    with POOLS[request.param]() as subject:
        assert subject.pool.workers()  # started here, since it outlives the first test
        yield subject


@pytest.mark.parametrize("law", POOL_LAWS, ids=lambda law: law.name)
def test_pool(subject: PoolSubject, law: Law) -> None:
    if law.applies(subject):
        law(subject)
    else:
        assert not isinstance(subject.make(1), ProcessPool)


def test_every_pool_is_checked() -> None:
    found = set()
    for info in pkgutil.iter_modules(dqk.cluster.__path__, "dqk.cluster."):
        if not info.name.startswith("dqk.cluster._"):  # those of optional packages are checked in files of their own
            values = vars(importlib.import_module(info.name)).values()
            found |= {
                v for v in values if inspect.isclass(v) and issubclass(v, WorkerPool) and not inspect.isabstract(v)
            }
    assert found == {InlinePool, ProcessPool, ExecutorPool}


def test_check_pool_runs_every_law_that_binds() -> None:
    subject = PoolSubject(InlinePool)
    assert check_pool(subject) == [law.name for law in POOL_LAWS if law.applies(subject)]
