"""Nodes with a network, a host name and process numbers of their own, as on several machines."""

from pathlib import Path

import pytest

from dqk.cluster import launch
from dqk.cluster.launchers import SlurmOptions
from tests.requirements import require
from tests.slurm.cluster import slurm
from tests.slurm.conftest import on_login_node
from tests.slurm.test_jobs import LIMIT_S, digest, samples


@pytest.mark.timeout(280)
def test_jobs_across_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By MPI and by Ray: the digest of one process, and the addresses of the interfaces."""
    require("slurm")
    with slurm(n_nodes=2, networks=True) as cluster:
        assert cluster.network is not None
        on_login_node(cluster, monkeypatch, tmp_path / "work")
        monkeypatch.setenv(
            "UCX_TLS", "tcp,self"
        )  # MPICH's network would take one kernel for one machine, with shared memory
        expected = digest(samples(500))
        for engine in ("mpi", "ray"):
            job = launch(f"gram X.npy -o {engine}.zarr --executor {engine} --json", SlurmOptions(nodes=2), run=engine)
            found = job.result(LIMIT_S)
            assert found is not None and found["digest"] == expected
        addresses = ", ".join(cluster.network.address_of(k) for k in (0, 1))
        assert f"Ray has 2 nodes: {addresses}" in job.logs()
