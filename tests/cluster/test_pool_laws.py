"""The laws of worker pools over the pools that need nothing but this machine."""

from collections.abc import Iterator

import pytest

from dqk.cluster.inline import InlinePool
from dqk.testing import POOL_LAWS, Law, PoolSubject, check_pool

POOLS = {"inline": lambda: PoolSubject(InlinePool)}


@pytest.fixture(scope="module", params=POOLS)
def subject(request: pytest.FixtureRequest) -> Iterator[PoolSubject]:
    with POOLS[request.param]() as subject:
        yield subject


@pytest.mark.parametrize("law", POOL_LAWS, ids=lambda law: law.name)
def test_pool(subject: PoolSubject, law: Law) -> None:
    if not law.applies(subject):
        pytest.skip("does not bind this pool")
    law(subject)


def test_check_pool_runs_every_law_that_binds() -> None:
    subject = PoolSubject(InlinePool)
    assert check_pool(subject) == [law.name for law in POOL_LAWS if law.applies(subject)]
