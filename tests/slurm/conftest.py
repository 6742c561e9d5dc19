"""One cluster for all tests of this folder."""

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
    for name in list(__import__("os").environ):
        if name.startswith(("SLURM", "SBATCH", "PMI", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", slurm_cluster.environment()["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "my work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return slurm_cluster
