"""One server that most tests share, without noise or delay; it has two tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dqk.qpu import QPUClient
from tests.qpu.server import Server, serving

ALICE, BOB = "alice-7f3a91c2", "bob-5d20e8b4"
LIMITS = "[limits]\nmax_circuits_per_job = 50\nmax_shots = 500_000\nmax_body_mib = 0.25\nmax_sessions = 3\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # of all tests, not of this folder alone
        if item.path.parent == Path(__file__).parent and {"server", "client"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.qpu)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("qpu")
    with serving(folder, LIMITS, "--qubits", "6", tokens=(ALICE, BOB)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[QPUClient]:
    with QPUClient(server.url, ALICE, timeout_s=10.0) as connected:
        yield connected
