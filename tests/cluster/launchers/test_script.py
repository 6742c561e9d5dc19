"""Batch scripts: as they were agreed upon, clean for ShellCheck, and whatever names files have."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from dqk.cluster.launchers import Payload, Site, SlurmOptions
from dqk.cluster.launchers.script import render
from dqk.errors import InvalidInputError
from tests.requirements import require

GOLDEN = Path(__file__).with_name("golden")
EXAMPLES = Path(__file__).parents[3] / "examples" / "sites"
FOLDER, WORKDIR = Path("/scratch/run"), Path("/scratch/my work")
CASES: dict[str, tuple[str, SlurmOptions, str | None]] = {
    "ray": (
        "gram X.npy -o K.zarr --executor ray",
        SlurmOptions(nodes=4, gpus_per_node=4, time="2:00:00"),
        None,
    ),
    "mpi": (
        "gram X.npy -o K.zarr --executor mpi --json",
        SlurmOptions(nodes=2, tasks_per_node=8, time="1-12", name="kernel", signal_s=300),
        "modules",
    ),
    "torch": (
        "train pos --data train.conllu --out runs/t --distributed",
        SlurmOptions(nodes=2, gpus_per_node=4),
        "gpus",
    ),
    "single": (
        "gram X.npy -o 'K of X.zarr'",
        SlurmOptions(cpus_per_task=4, array=8, requeue=False),
        "container",
    ),
    "qpus": (
        "gram X.npy -o K.zarr --backend qiskit:qrmi/heron --shots 1000",
        SlurmOptions(time="30", qpu="heron,test.eagle"),
        None,
    ),
    "emulated": (
        "gram X.npy -o K.zarr --shots 1000",
        SlurmOptions(emulated_qpus="my fleet.toml"),
        None,
    ),
}


def script(name: str) -> str:
    words, options, site = CASES[name]
    known = Site() if site is None else Site.read(EXAMPLES / f"{site}.toml")
    payload = Payload.of(shlex.split(words))
    assert (
        payload.engine == {"qpus": "single", "emulated": "single"}.get(name, name)
        and options.problems(payload, known) == []
    )
    return render(payload, options, known, FOLDER, WORKDIR, "/opt/dqk/bin/python", known.mpi or "pmi2")


@pytest.mark.parametrize("name", CASES)
def test_as_agreed(name: str) -> None:
    """Line by line. After a change that is meant: DQK_GOLDEN=write python -m pytest, and read the difference."""
    file = GOLDEN / f"{name}.sh"
    if os.environ.get("DQK_GOLDEN") == "write":
        file.write_text(script(name))
    assert script(name) == file.read_text()


@pytest.mark.parametrize("name", CASES)
def test_clean_for_shellcheck(name: str, tmp_path: Path) -> None:
    """At its strictest."""
    require("shellcheck")
    file = tmp_path / "job.sh"
    file.write_text(script(name))
    program = shutil.which("shellcheck")
    assert program
    done = subprocess.run(
        [program, "--severity=style", "--external-sources", str(file)], capture_output=True, text=True
    )
    found = [line for line in done.stdout.splitlines() if "SC" in line and "SC1091" not in line and "wiki" not in line]
    assert found == []  # SC1091: a file of the site that is not here


@pytest.mark.parametrize(
    "words",
    [["gram", 'my X\'s "best" $HOME `id` \\.npy', "-o", "K;rm -rf ~.zarr"], ["predict", "runs/a b", "line\nbreak"]],
)
def test_any_name_survives(words: list[str]) -> None:
    """The shell gets every word as it was typed."""
    text = render(Payload.of(words), SlurmOptions(), Site(), FOLDER, WORKDIR, "/a b/python")
    (start,) = (k for k, line in enumerate(text.splitlines()) if line.startswith("payload=("))
    lines = text.splitlines()[start:]
    end = next(k for k, line in enumerate(lines) if line.endswith(")"))
    program = "\n".join(lines[: end + 1]) + "\nprintf '%s\\0' \"${payload[@]}\""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == words


@pytest.mark.parametrize("name", ["100%", 'a"b', "a\\b", "a\nb"])
def test_folders_that_slurm_reads_otherwise(name: str) -> None:
    """Are refused: Slurm has no way to quote them."""
    with pytest.raises(InvalidInputError, match="use another folder"):
        render(Payload.of(["store", "info", "K"]), SlurmOptions(), Site(), FOLDER / name, WORKDIR, "python")


@pytest.mark.parametrize(
    ("granted", "code"),
    [
        ({"QRMI_JOB_QPU_RESOURCES": "test.eagle,heron"}, 0),
        ({"SLURM_JOB_QPU_RESOURCES": "heron,test.eagle"}, 0),  # its name before
        ({"QRMI_JOB_QPU_RESOURCES": "heron"}, 1),
        ({"QRMI_JOB_QPU_RESOURCES": "heron2,testXeagle"}, 1),
        ({}, 1),
    ],
)
def test_a_job_without_its_qpus_ends_at_once(granted: dict[str, str], code: int) -> None:
    """The plugin grants what it knows, and says nothing about the rest."""
    text = script("qpus")
    part = text[text.index("granted=$") : text.index("# --- the work")]
    done = subprocess.run(
        ["bash", "-uc", f'quit() {{ exit "$1"; }}\n{part}'], env=granted, capture_output=True, text=True
    )
    assert done.returncode == code
    assert ("the job has no QPU" in done.stderr) == bool(code)


def test_a_container_stands_in_front_of_every_program() -> None:
    """Of dqk; Slurm's own are called outside of it."""
    text = script("single")
    assert "python=(apptainer exec --bind /scratch dqk.sif /usr/bin/python3)" in text
    assert all(
        '"${python[@]}" -m' in line for line in text.splitlines() if "-m dqk" in line and not line.startswith("#")
    )
