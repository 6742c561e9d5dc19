"""A real Ray for tests: one cluster of several nodes on this machine, started when the first test asks for it.

This process is connected to it, so that a `RayPool` made here uses it. Only what was started is ended, never `ray stop`.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqk.cluster._ray_session import private_environment, ray_session
from tests.processes import session_long
from tests.requirements import require

HEAD_CPUS = 6  # for the two workers of a pool that several tests share, and four more


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """`ray.cluster_utils.Cluster`: a head with some logical CPUs; a test removes the nodes that it adds."""
    require("ray")
    from ray.cluster_utils import Cluster

    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where Cluster notes its address, whatever its temp_dir
    with tempfile.TemporaryDirectory(prefix="dqk-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with private_environment(), contextlib.ExitStack() as stack:
            head = {
                "num_cpus": HEAD_CPUS,
                "object_store_memory": 400 * 2**20,
                "temp_dir": folder,
                "include_dashboard": False,
            }
            with session_long():
                cluster = Cluster(initialize_head=True, head_node_args=head)
                stack.callback(cluster.shutdown)
                stack.enter_context(ray_session(cluster.address, 0))
            yield cluster
