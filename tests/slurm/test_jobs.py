"""Jobs on a real Slurm: what was launched computes what one process computes, goes on after a warning, and leaves nothing."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqk import FidelityKernel, gram
from dqk.cluster import launch
from dqk.cluster.launchers import Handle, Site, SlurmOptions
from dqk.errors import ClusterError
from dqk.kernels.feature_maps import FEATURE_MAPS
from dqk.store import StoredGram
from tests.slurm.cluster import Slurm
from tests.training.corpus import write_corpus
from tests.training.test_resume import assert_same_run

pytestmark = pytest.mark.timeout(240)

LIMIT_S = 150.0


def samples(count: int, features: int = 4) -> np.ndarray:
    x = np.random.default_rng(5).uniform(-1, 1, (count, features))
    np.save("X.npy", x)
    return x


def digest(x: np.ndarray, feature_map: str = "qklstm") -> str:
    """Of the matrix by one process."""
    stored = gram(FidelityKernel(FEATURE_MAPS[feature_map](x.shape[1])), x, store="inline.zarr")
    assert isinstance(stored, StoredGram) and stored.digest
    return stored.digest


def until(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, f"no {what} within {LIMIT_S:g} s"
        time.sleep(0.05)


def left_behind(job: Handle) -> list[str]:
    """Processes whose environment says that they belong to a job."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if f"SLURM_JOB_ID={job.job}".encode() in words and os.environ["SLURM_CONF"].encode() in b"\0".join(words):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("engine", ["mpi", "ray"])
def test_the_digest_of_one_process(cluster: Slurm, engine: str) -> None:
    """On two nodes, under a name with a quote in it."""
    before = set(Path("/tmp").glob("dqk-*"))
    expected = digest(samples(400))
    Path("X.npy").rename("today's X.npy")
    words = ["gram", "today's X.npy", "-o", "K.zarr", "--executor", engine, "--json"]
    job = launch(words, SlurmOptions(nodes=2, time="5"), run="run")
    found = job.result(LIMIT_S)
    assert found is not None and found["digest"] == expected and found["executor"] == engine
    assert len(found["workers"]) == 2 if engine == "mpi" else "Ray has 2 nodes: " in job.logs()
    (task,) = Handle.find("run").status()
    assert (task.state, task.exit_code, task.restarts, task.ended) == ("COMPLETED", 0, 0, True)
    until(lambda: not left_behind(job), "end of its processes")
    assert set(Path("/tmp").glob(f"dqk-{job.job}-*")) <= before


@pytest.mark.parametrize(("engine", "number"), [("mpi", "USR1"), ("ray", "USR1"), ("mpi", "TERM")])
def test_warned_queued_again_and_gone_on_with(cluster: Slurm, engine: str, number: str) -> None:
    """Before a time limit, or with a preemption's SIGTERM to the steps: what was computed is kept, the rest is computed."""
    x = samples(3000, 10)
    words = f"gram X.npy -o K.zarr --feature-map reuploading --executor {engine} --json"
    job = launch(words, SlurmOptions(nodes=2), run="run")
    until(lambda: len(list(Path("K.zarr").glob("c/0/*"))) > 2, "tile")
    cluster.run("scancel", f"--signal={number}", *(["--batch"] if number == "USR1" else []), job.job)
    found = job.result(LIMIT_S)
    (task,) = job.status()
    assert found is not None and task.exit_code == 0
    log = job.logs()
    # Slurm itself may start a job anew, if a node was not ready for it; by us it is queued again once.
    assert log.count("the job is queued again") == 1 and task.restarts >= 1, f"{task}\n{log}\n{cluster.logs(60)}"
    assert f"stopped: by signal SIG{number}" in log
    assert "Traceback" not in log and "MPI_Abort" not in log
    *_, line = (line for line in log.splitlines() if "tiles are there" in line)
    assert found["computed"] == found["tiles"] - int(line.split()[0]) < found["tiles"]
    assert found["digest"] == digest(x, "reuploading")


@pytest.mark.slow
def test_preempted_by_slurm_before_the_program_can_listen(cluster: Slurm, tmp_path: Path) -> None:
    """It ends by SIGTERM as if it had crashed; the job goes on when the more urgent one is over."""
    x = samples(200)
    slow = tmp_path / "python"
    slow.write_text(
        f'#!/bin/sh\n[ -z "$SLURM_PROCID" ] || [ -e started ] || {{ touch started; sleep 60; }}\nexec {sys.executable} "$@"\n'
    )
    slow.chmod(0o755)
    job = launch("gram X.npy -o K.zarr --json", SlurmOptions(), site=Site(python=str(slow)), run="run")
    until(lambda: Path("started").exists(), "start")
    urgent = ["--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"]
    cluster.run("sbatch", *urgent)
    found = job.result(LIMIT_S)
    assert found is not None and found["digest"] == digest(x)
    log = job.logs()
    assert job.status()[0].restarts >= 1 and log.count("the job is queued again") == 1 and "by a signal" not in log


def test_a_cancelled_job_leaves_a_store_and_no_process(cluster: Slurm) -> None:
    x = samples(3000, 10)
    job = launch("gram X.npy -o K.zarr --feature-map reuploading --executor ray", SlurmOptions(nodes=2), run="run")
    until(lambda: len(list(Path("K.zarr").glob("c/0/*"))) > 2, "tile")
    job.cancel()
    (task,) = job.wait(LIMIT_S)
    assert task.state == "CANCELLED"
    until(lambda: not left_behind(job), "end of its processes")
    with pytest.raises(ClusterError, match="CANCELLED"):
        job.result(1)
    command = [sys.executable, "-m", "dqk", *"gram X.npy -o K.zarr --feature-map reuploading --resume --json".split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    found = json.loads(done.stdout)
    assert 0 < found["computed"] < found["tiles"] and found["digest"] == digest(x, "reuploading")


def test_an_array_of_jobs_on_one_matrix(cluster: Slurm) -> None:
    """Four shards, each a job of its own."""
    expected = digest(samples(700))
    job = launch("gram X.npy -o K.zarr --json", SlurmOptions(array=4, cpus_per_task=1), run="run")
    tasks = job.wait(LIMIT_S)
    assert sorted(task.job for task in tasks) == [f"{job.job}_{k}" for k in (1, 2, 3, 4)]
    assert [task.exit_code for task in tasks] == [0] * 4, job.logs()
    assert StoredGram("K.zarr").digest == expected


def test_training_as_by_torchrun(cluster: Slurm, tmp_path: Path) -> None:
    """On two nodes, and after a warning in the middle; the same bits."""
    corpus = write_corpus(tmp_path / "corpus.conllu", 40, clauses=3, names=0.4)
    sizes = "--embedding-dim 6 --hidden-dim 5 --n-qubits 2 --n-references 3 --batch-size 4 --epochs 40 --dtype float64"
    words = ["train", "pos", "--distributed", "--data", str(corpus), *sizes.split(), "--json"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dqk"]
    subprocess.run([*torchrun, *words, "--out", "torchrun"], capture_output=True, timeout=LIMIT_S, check=True)
    job = launch(words, SlurmOptions(nodes=2), run="run")
    metrics = Path("run/train/metrics.jsonl")
    until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 2, "epoch")
    cluster.run("scancel", "--signal=USR1", "--batch", job.job)
    found = job.result(LIMIT_S)
    assert found is not None and found["ranks"] == 2
    assert job.status()[0].restarts >= 1 and job.logs().count("the job is queued again") == 1
    assert_same_run(Path("torchrun"), Path("run/train"))


def test_the_exit_code_of_what_fails(cluster: Slurm) -> None:
    """Of `dqk launch` as well, whose messages have the program's."""
    samples(20)
    Path("K.npy").touch()
    command = [sys.executable, "-m", "dqk", "launch", "slurm", "--run", "run", "--follow", "--"]
    done = subprocess.run([*command, "gram", "X.npy", "-o", "K.npy"], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2 and "--out K.npy exists" in done.stdout and "Traceback" not in done.stderr
    shown = subprocess.run([*command[:4], "status", "run", "--json"], capture_output=True, text=True, timeout=LIMIT_S)
    (task,) = json.loads(shown.stdout)["tasks"]
    assert (task["state"], task["exit_code"]) == ("FAILED", 2)


def test_a_wrong_pair_of_mpi_and_srun_is_named(cluster: Slurm) -> None:
    """Every rank would be alone, and succeed."""
    samples(20)
    job = launch("gram X.npy -o K.zarr --executor mpi", SlurmOptions(nodes=2), site=Site(mpi="none"), run="run")
    (task,) = job.wait(LIMIT_S)
    assert task.exit_code not in (0, None)
    assert "srun --mpi=" in job.logs() and not Path("K.zarr").exists()


def test_ranks_that_never_meet_end_the_job(cluster: Slurm, tmp_path: Path) -> None:
    """With what can be done; they do not wait until the time limit, and the job is not queued again and again."""
    samples(20)
    late = tmp_path / "python"
    late.write_text(f'#!/bin/sh\n[ "${{SLURM_PROCID:-0}}" = 1 ] && sleep 100\nexec {sys.executable} "$@"\n')
    late.chmod(0o755)
    site = Site(python=str(late), mpi="pmi2", setup=("export DQK_MPI_INIT_S=3",))
    job = launch("gram X.npy -o K.zarr --executor mpi", SlurmOptions(nodes=2), site=site, run="run")
    (task,) = job.wait(LIMIT_S)
    assert task.exit_code in (142, 143) and task.restarts == 0 and not Path("K.zarr").exists()
    assert "Alarm clock" in job.logs() and re.search(r"did\s+not meet within 3 s", job.logs())
    assert "Traceback" not in job.logs()


def test_every_task_has_a_gpu_of_its_own(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tasks themselves say, on two nodes; signals and the disk are there too.

    On a site that names the type of its GPUs and gives jobs none of the user's environment, from inside of another job.
    """
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    for name, value in {"ARRAY_JOB_ID": "99", "ARRAY_TASK_ID": "3", "RESTART_COUNT": "7", "CPUS_PER_TASK": "5"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    setup = (f"export PATH=/usr/bin:/bin PYTHONPATH={os.environ['PYTHONPATH']}", "srun --nodes=1 --ntasks=1 true")
    site = Site(gpu_type="tesla", setup=setup)
    job = launch("doctor --cluster --json", SlurmOptions(nodes=2, gpus_per_node=2), site=site, run="run")
    found = job.result(LIMIT_S)
    assert found is not None and found["problems"] == [] and found["launcher"] == "srun"
    assert [(rank["node"], rank["gpus"]) for rank in found["ranks"]] == [
        (node, [gpu]) for node in cluster.nodes[:2] for gpu in ("0", "1")
    ]
    assert all(rank["signal"] and rank["store"]["read"] == 4 and rank["threads"] == 1 for rank in found["ranks"])


def test_what_a_preflight_finds(cluster: Slurm) -> None:
    """Two tasks that take both CPUs of one node, and a folder that is not there."""
    dqk = [sys.executable, "-m", "dqk", "doctor", "--cluster", "--store", "/not/there"]
    environment = {**os.environ, "DQK_THREADS": str(4 * (os.cpu_count() or 1))}
    done = subprocess.run(
        ["srun", "-N1", "-n2", *dqk], env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 1
    assert "cannot write to /not/there" in done.stderr and "give srun --cpus-per-task" in done.stderr


FLEET = '[[qpu]]\nname = "q"\ncount = 2\nqubits = 4\njob_s = 0.2\nmax_circuits_per_job = 10\n'


def test_emulated_qpus_are_tasks_on_all_nodes_and_live_as_long_as_their_job(cluster: Slurm) -> None:
    """Three tasks on two nodes; all measure, and none is left."""
    samples(10)
    Path("my fleet.toml").write_text(FLEET.replace("count = 2", "count = 3"))
    options = SlurmOptions(nodes=2, time="5", emulated_qpus="my fleet.toml")
    job = launch("gram X.npy -o K.zarr --shots 100 --json", options, run="run")
    found = job.result(LIMIT_S)
    assert found is not None and found["computed"] == found["tiles"] and len(found["qpus"]) == 3
    assert all(one["jobs"] > 0 for one in found["qpus"].values())
    nodes = [re.search(rf"QPU {number} is ready on (\S+)", job.logs()) for number in range(3)]
    assert [node and node[1] for node in nodes] == [cluster.nodes[0], cluster.nodes[1], cluster.nodes[0]]
    (token,) = Path("run").glob("qpus-*/token")
    assert token.stat().st_mode & 0o077 == 0 and token.read_text().strip() not in job.logs()
    until(lambda: not left_behind(job), "end of the services")


def test_emulated_qpus_end_with_a_cancelled_job(cluster: Slurm) -> None:
    samples(60)
    Path("fleet.toml").write_text(FLEET)
    options = SlurmOptions(time="5", emulated_qpus="fleet.toml")
    job = launch("gram X.npy -o K.zarr --shots 100", options, run="run")
    until(lambda: len(list(Path("K.zarr").glob("c/0/*"))) > 0 or "QPU 1 is ready" in job.logs(), "service")
    job.cancel()
    (task,) = job.wait(LIMIT_S)
    assert task.state == "CANCELLED"
    until(lambda: not left_behind(job), "end of the services")


def test_emulated_qpus_that_do_not_start_end_the_job(cluster: Slurm) -> None:
    """With what the one said that did not; the others do not keep it."""
    samples(8)
    Path("fleet.toml").write_text(FLEET + '[[qpu]]\nname = "wide"\nqubits = 400\n')
    options = SlurmOptions(time="5", emulated_qpus="fleet.toml")
    job = launch("gram X.npy -o K.zarr --shots 100", options, run="run")
    (task,) = job.wait(LIMIT_S)
    assert task.exit_code == 1 and not Path("K.zarr").exists()
    assert "QPU 2 did not start on" in job.logs() and "--qubits is 400, at most" in job.logs()
    until(lambda: not left_behind(job), "end of the services")


def test_sbatch_says_no(cluster: Slurm) -> None:
    """Its words are given on, and the script is kept."""
    samples(20)
    with pytest.raises(ClusterError, match="invalid partition") as error:
        launch("gram X.npy -o K.npy", site=Site(partition="nowhere"), run="run")
    assert "run/job.sh" in str(error.value) and Path("run/job.sh").exists()


def test_followed_no_longer(cluster: Slurm) -> None:
    """Ctrl-C leaves the job to itself."""
    samples(3000, 10)
    words = ["launch", "slurm", "--run", "run", "--follow", "--", "gram", "X.npy", "-o", "K.zarr"]
    command = [sys.executable, "-m", "dqk", *words, "--feature-map", "reuploading"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        until(lambda: Path("K.zarr").exists(), "store")
        following.send_signal(signal.SIGINT)
        _, said = following.communicate(timeout=LIMIT_S)
    assert following.returncode == 130 and "goes on; dqk launch logs --follow" in said and "Traceback" not in said
    job = Handle.find("run")
    assert job.wait(LIMIT_S)[0].exit_code == 0


def test_a_warning_while_the_environment_is_made(cluster: Slurm) -> None:
    """Is not lost, and the job is queued again."""
    samples(50)
    site = Site(setup=("touch started", "sleep 3"))
    job = launch("gram X.npy -o K.zarr --json", SlurmOptions(), site=site, run="run")
    until(lambda: Path("started").exists(), "start")
    cluster.run("scancel", "--signal=USR1", "--batch", job.job)
    assert job.result(LIMIT_S) is not None and job.status()[0].restarts >= 1
    assert job.logs().count("the job is queued again") == 1


def test_a_setup_that_fails(cluster: Slurm) -> None:
    """Ends the job."""
    samples(50)
    job = launch("gram X.npy -o K.zarr", site=Site(modules=("no such module",)), run="run")
    assert job.wait(LIMIT_S)[0].exit_code == 1 and not Path("K.zarr").exists()


@pytest.mark.slow
def test_a_ray_that_dies(cluster: Slurm) -> None:
    """Ends the job with a word on how to go on, and nothing is left."""
    samples(6000, 12)
    job = launch("gram X.npy -o K.zarr --feature-map reuploading --executor ray", SlurmOptions(), run="run")
    until(lambda: len(list(Path("K.zarr").glob("c/0/*"))) > 2, "tile")
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            mine = entry.name.isdigit() and f"SLURM_JOB_ID={job.job}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0")
            if mine and (entry / "cmdline").read_bytes().split(b"\0")[0].endswith(b"/raylet"):
                os.kill(int(entry.name), signal.SIGKILL)
    (task,) = job.wait(LIMIT_S)
    assert task.exit_code not in (0, None) and "Ray has ended before its time" in job.logs()
    assert "--resume" in job.logs()
    until(lambda: not left_behind(job), "end of its processes")


@pytest.mark.slow
def test_training_by_ray_and_by_mpi(cluster: Slurm, tmp_path: Path) -> None:
    """Ranks that Ray starts inside the job, and kernel values from MPI ranks; the accuracy of one process."""
    corpus = write_corpus(tmp_path / "corpus.conllu", 40, clauses=3, names=0.4)
    sizes = "--embedding-dim 6 --hidden-dim 5 --n-qubits 2 --n-references 3 --epochs 3 --dtype float64 --json"
    words = ["train", "pos", "--data", str(corpus), *sizes.split()]
    alone = json.loads(subprocess.run([sys.executable, "-m", "dqk", *words], capture_output=True, check=True).stdout)
    for k, more in enumerate(
        (["--distributed", "--launcher", "ray", "--ranks", "2"], ["--executor", "mpi", "--farm", "always"])
    ):
        found = launch([*words, *more], SlurmOptions(nodes=2), run=f"run{k}").result(LIMIT_S)
        assert found is not None and found["loss"] == pytest.approx(alone["loss"], rel=1e-9)


def test_what_slurm_has_forgotten_is_known_by_its_exit_code_or_from_the_accounting(cluster: Slurm) -> None:
    """Slurm forgets a job minutes after its end; the run folder does not."""
    samples(20)
    job = launch("gram X.npy -o K.zarr", SlurmOptions(cpus_per_task=1), run="run")
    job.result(LIMIT_S)
    record = json.loads(Path("run/launch.json").read_text())
    Path("run/launch.json").write_text(json.dumps({**record, "job": "4000000"}))
    (task,) = Handle.find("run").status()
    assert (task.state, task.ended, task.exit_code) == ("FORGOTTEN", True, None)
    for code, state in ((0, "COMPLETED"), (3, "FAILED")):
        Path("run/exit-4000000").write_text(f"{code}\n")
        (task,) = Handle.find("run").status()
        assert (task.state, task.ended, task.exit_code) == (state, True, code)
    Path("run/exit-4000000").unlink()
    Path("bin").mkdir()
    Path("bin/sacct").write_text("#!/bin/sh\n[ \"$5\" = 4000000 ] && echo 'TIMEOUT'\n")  # this Slurm keeps no accounts
    Path("bin/sacct").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path('bin').absolute()}:{os.environ['PATH']}")
        assert [task.state for task in Handle.find("run").status()] == ["TIMEOUT"]
    Path("run/launch.json").write_text(json.dumps({**record, "job": "4000000", "array": 2}))
    assert [task.job for task in Handle.find("run").status()] == ["4000000_1", "4000000_2"]


def test_the_log_of_a_job_that_waits(cluster: Slurm) -> None:
    samples(20)
    job = launch(
        "gram X.npy -o K.zarr", SlurmOptions(cpus_per_task=1), site=Site(sbatch=("--begin=now+1hour",)), run="run"
    )
    done = subprocess.run(
        [sys.executable, "-m", "dqk", "launch", "logs", "run"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "") and f"nothing is written yet: {job.job} PENDING" in done.stderr
    job.cancel()
