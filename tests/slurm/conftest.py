"""One cluster for all tests of this folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import session_long
from tests.requirements import require
from tests.slurm.cluster import Slurm, slurm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    """Three nodes with two CPUs and two GPUs each."""
    require("slurm")
    with session_long():
        manager = slurm(n_nodes=3, cpus=2, gpus=2)
        cluster = manager.__enter__()
    try:
        yield cluster
    finally:
        manager.__exit__(None, None, None)


@pytest.fixture
def cluster(slurm_cluster: Slurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Slurm:
    """The cluster, and this process as on its login node, in a folder with a blank in its name."""
    on_login_node(slurm_cluster, monkeypatch, tmp_path / "my work")
    return slurm_cluster


def on_login_node(cluster: Slurm, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes this process one that uses the cluster, in a folder of its own."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "SBATCH", "PMI", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", cluster.environment()["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder.mkdir()
    monkeypatch.chdir(folder)
