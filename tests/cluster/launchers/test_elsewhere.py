"""Jobs on a Ray cluster that is there already, and through submitit; and the run folders of all."""

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import submitit
import yaml

from dqk import FidelityKernel, gram
from dqk.cli import main
from dqk.cluster import launch
from dqk.cluster.launchers import Handle, Payload
from dqk.errors import ClusterError, InvalidInputError
from dqk.kernels.feature_maps import qklstm_feature_map
from dqk.store import StoredGram
from tests.requirements import require

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "kuberay"
LIMIT_S = 120.0


@contextlib.contextmanager
def a_cluster(folder: Path) -> Iterator[str]:
    """`ray start --head` with a dashboard; gives the dashboard's address."""
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    words = ["start", "--head", "--block", "--num-cpus=3", "--node-ip-address=127.0.0.1", f"--port={ports[0]}"]
    words += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}"]
    # It starts the jobs, by default at a port that another Ray of this machine may have.
    words += [f"--dashboard-agent-listen-port={ports[2]}"]
    words += [f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
    words += ["--object-store-memory=200000000"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # where the cluster finds `python`
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as head:
        try:
            deadline = time.monotonic() + LIMIT_S
            while socket.socket().connect_ex(("127.0.0.1", ports[1])):
                assert head.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            yield f"http://127.0.0.1:{ports[1]}"
        finally:
            head.terminate()
            head.wait(LIMIT_S)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(240)
def test_a_ray_cluster_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job works in a copy of this folder and has the digest of one process; one that fails gives its exit code."""
    require("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    x = np.random.default_rng(0).uniform(-1, 1, (300, 4))
    np.save("X.npy", x)
    with a_cluster(Path("/tmp") / f"dqk-{os.getpid()}") as address:
        words = ["gram", "X.npy", "-o", str(tmp_path / "K.zarr"), "--executor", "ray", "--workers", "1", "--json"]
        job = launch(words, address=address, run=tmp_path / "run")
        found = job.result(LIMIT_S)
        assert found is not None and found["executor"] == "ray"
        stored = gram(FidelityKernel(qklstm_feature_map(4)), x, store=tmp_path / "inline.zarr")
        assert isinstance(stored, StoredGram) and found["digest"] == stored.digest
        (task,) = Handle.find(tmp_path / "run").status()
        assert (task.state, task.exit_code, task.ended) == ("SUCCEEDED", 0, True)
        failing = launch([*words, "--resume", "--layers", "3"], address=address, run=tmp_path / "failing")
        with pytest.raises(ClusterError, match="(?s)exit code 2.*have layers"):  # as the program says
            failing.result(LIMIT_S)
    with pytest.raises(ClusterError, match="no dashboard of Ray answers"):
        job.status()


def test_what_a_ray_cluster_is_not_given() -> None:
    """All of it at once."""
    with pytest.raises(InvalidInputError) as error:
        launch("gram X.npy -o K.zarr --executor mpi", address="head:8265")
    text = str(error.value)
    assert "expected that of the dashboard" in text and "not by Ray" in text and "give an absolute path" in text


def test_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its local executor, with a job that succeeds and one that fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    np.save("X.npy", np.random.default_rng(0).uniform(-1, 1, (40, 3)))
    executor = submitit.LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=3)
    job = launch("gram X.npy -o K.zarr --json", executor=executor, run="run")
    found = job.result(LIMIT_S)
    assert found is not None and found["digest"] == StoredGram("K.zarr").digest
    again = launch("gram X.npy -o K.zarr", executor=executor, run="again")
    with pytest.raises(ClusterError, match="exit code 1"):
        again.result(LIMIT_S)
    for given, says in ((7, "expected one of submitit"), (executor, "starts no Ray")):
        with pytest.raises(InvalidInputError, match=says):
            launch("gram X.npy -o K2.zarr --executor ray", executor=given)


def test_run_folders(tmp_path: Path) -> None:
    """That are none, damaged, or in use."""
    with pytest.raises(InvalidInputError, match=r"no run folder of `dqk launch`"):
        Handle.find(tmp_path)
    for text in (
        '{"kind": "slurm"',
        '{"kind": "slurm"}',
        '{"kind": "slurm", "job": "--user=root", "payload": []}',
        '{"kind": "ray", "job": "a", "payload": ["gram"]}',
        "[]",
    ):
        (tmp_path / "launch.json").write_text(text)
        with pytest.raises(InvalidInputError, match="cannot be read"):
            Handle.find(tmp_path)
    with pytest.raises(InvalidInputError, match="exists and is not empty"):
        launch("gram X.npy -o K.npy", run=tmp_path)


@pytest.mark.parametrize("name", ["rayjob", "autoscaler"])
def test_the_examples_for_kuberay(name: str) -> None:
    """What KubeRay asks of these documents, its Ray is the tested one, and the command is one of dqk."""
    document = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    assert document["apiVersion"] == "ray.io/v1" and document["metadata"]["name"]
    spec = document["spec"]
    cluster = spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert all(mount["name"] in volumes for c in pod["containers"] for mount in c["volumeMounts"])
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if document["kind"] == "RayJob":
        words = shlex.split(spec["entrypoint"])
        assert words[:3] == ["python", "-m", "dqk"] and Payload.of(words[3:]).engine == "ray"
    else:
        assert cluster["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["grm", "X.npy"], "did you mean 'gram'"),
        (["gram", "X.npy", "-o", "K.zarr", "--workrs", "2"], "--workrs"),
        (["gram", "none.npy", "-o", "K.zarr"], "there is no file none.npy"),
        (["gram", "X.npy", "-o", "there.zarr"], "there.zarr exists; give --resume"),
        (["gram", "X.npy"], "--out"),
        (["gram", "--help"], "only shows help"),
        (["launch", "slurm"], "a job does not launch jobs"),
    ],
)
def test_commands_that_dqk_does_not_know(words: list[str], says: str, tmp_path: Path) -> None:
    """Are found out before a job waits for hours with them."""
    np.save(tmp_path / "X.npy", np.zeros((3, 2)))
    (tmp_path / "there.zarr").mkdir()
    command = [sys.executable, "-m", "dqk", "launch", "slurm", "--dry-run", "--", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and {entry.name for entry in tmp_path.iterdir()} == {"X.npy", "there.zarr"}


@pytest.mark.parametrize(("options", "words"), [([], ["--resume"]), (["--array", "2"], [])])
def test_a_store_that_is_there_is_gone_on_with(
    options: list[str], words: list[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.zeros((3, 2)))
    Path("K.zarr").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["launch", "slurm", "--dry-run", *options, "--", "gram", "X.npy", "-o", "K.zarr", *words])
    assert not ended.value.code


def test_a_dry_run_hands_in_nothing(tmp_path: Path) -> None:
    """And needs no Slurm."""
    np.save(tmp_path / "X.npy", np.zeros((3, 2)))
    command = [
        sys.executable,
        "-m",
        "dqk",
        "launch",
        "slurm",
        "--dry-run",
        "--json",
        "--",
        "gram",
        "X.npy",
        "-o",
        "K.zarr",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert json.loads(done.stdout)["engine"] == "single"
    assert [entry.name for entry in tmp_path.iterdir()] == ["X.npy"]
