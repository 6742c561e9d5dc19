"""Nodes with a network, a host name and process numbers of their own, as on several machines."""

import json
import sys
from pathlib import Path

import pytest

from dqk.cluster import launch
from dqk.cluster.launchers import SlurmOptions
from tests.requirements import require
from tests.slurm.cluster import slurm
from tests.slurm.conftest import on_login_node
from tests.slurm.test_jobs import LIMIT_S, digest, samples

_SYMMETRIC = """#!/usr/bin/env bash
#SBATCH --nodes=2 --ntasks-per-node=1 --exclusive --output=log.txt
# It calls `ray stop` on its node, which ends processes of that node's process numbers alone.
export PATH={folder}:$PATH RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=90
srun --cpus-per-task=2 {python} -m ray.scripts.scripts symmetric-run --address n1:6399 --min-nodes 2 --num-cpus=2 \\
  --disable-usage-stats -- {python} -m dqk gram X.npy -o K.zarr --executor ray --json
"""


@pytest.mark.parametrize("engine", ["ray", pytest.param("mpi", marks=pytest.mark.slow)])
@pytest.mark.timeout(280)
def test_jobs_across_networks(engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The digest of one process, and the addresses of the interfaces."""
    require("slurm")
    with slurm(n_nodes=2, networks=True) as cluster:
        assert cluster.network is not None
        on_login_node(cluster, monkeypatch, tmp_path / "work")
        expected = digest(samples(500))
        job = launch(f"gram X.npy -o {engine}.zarr --executor {engine} --json", SlurmOptions(nodes=2), run=engine)
        found = job.result(LIMIT_S)
        assert found is not None and found["digest"] == expected
        addresses = ", ".join(cluster.network.address_of(k) for k in (0, 1))
        assert engine == "mpi" or f"Ray has 2 nodes: {addresses}" in job.logs()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_ray_symmetric_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where somebody else has raised Ray that way, dqk uses it."""
    require("slurm")
    with slurm(n_nodes=2, networks=True) as cluster:
        on_login_node(cluster, monkeypatch, tmp_path / "work")
        expected = digest(samples(500))
        Path("job.sh").write_text(_SYMMETRIC.format(python=sys.executable, folder=Path(sys.executable).parent))
        number = cluster.run("sbatch", "--parsable", "job.sh").stdout.strip()
        cluster.wait(number, timeout_s=200)
        (line,) = (line for line in Path("log.txt").read_text().splitlines() if line.startswith("{"))
        found = json.loads(line)
        assert found["digest"] == expected and found["executor"] == "ray"
