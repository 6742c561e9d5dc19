"""The laws of worker pools over the pools that need nothing but this machine."""

from collections.abc import Callable, Iterator

import pytest

from dqk.cluster.inline import InlinePool
from dqk.cluster.processes import ProcessPool
from dqk.testing import POOL_LAWS, Law, PoolSubject, check_pool

POOLS: dict[str, Callable[[], PoolSubject]] = {
    "inline": lambda: PoolSubject(InlinePool),
    "processes": lambda: PoolSubject(ProcessPool, owns_processes=True, can_kill=True, replaces=True),
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
        assert isinstance(subject.make(1), InlinePool)


def test_check_pool_runs_every_law_that_binds() -> None:
    subject = PoolSubject(InlinePool)
    assert check_pool(subject) == [law.name for law in POOL_LAWS if law.applies(subject)]
