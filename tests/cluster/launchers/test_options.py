"""What is wrong with a job is said at once, before it is handed in."""

import shlex
from pathlib import Path

import pytest

from dqk.cluster import launch
from dqk.cluster.launchers import Payload, Site, SlurmOptions
from dqk.errors import ClusterError, InvalidInputError

EXAMPLES = Path(__file__).parents[3] / "examples" / "sites"


@pytest.mark.parametrize(
    ("words", "engine", "again"),
    [
        ("gram X.npy -o K.zarr", "single", ["--resume"]),
        ("gram X.npy -o K.zarr --resume", "single", []),
        ("gram X.npy -o K.npy", "single", []),
        ("gram X.npy --out=K.zarr --executor=ray", "ray", ["--resume"]),
        ("gram X.npy -o K.zarr --executor mpi", "mpi", ["--resume"]),
        ("gram X.npy -o K.zarr --executor processes", "single", ["--resume"]),
        ("dqk train pos --out runs/t --distributed", "torch", ["--resume", "runs/t"]),
        ("train pos --out runs/t --distributed --launcher ray", "ray", ["--resume", "runs/t"]),
        ("train pos --out runs/t --executor ray", "ray", ["--resume", "runs/t"]),
        ("train pos --out runs/t --executor mpi", "mpi", ["--resume", "runs/t"]),
        ("train pos --out runs/t --resume runs/t", "single", []),
        ("train pos", "single", []),
        ("doctor --cluster", "torch", []),
    ],
)
def test_what_a_command_needs(words: str, engine: str, again: list[str]) -> None:
    """Which engine starts it, and how it goes on after a requeue."""
    payload = Payload.of(shlex.split(words))
    assert payload.engine == engine and list(payload.again()) == again


def test_a_training_run_without_a_folder_has_one_in_the_job() -> None:
    """So that it goes on in it after a requeue."""
    placed = Payload.of(shlex.split("train pos --distributed")).placed(Path("/scratch/run"))
    assert placed.words == ("train", "pos", "--distributed", "--out", "/scratch/run/train")
    assert placed.again() == ("--resume", "/scratch/run/train")
    for words in ("gram X.npy -o K.npy", "train pos --out r", "train pos --resume r"):
        assert Payload.of(shlex.split(words)).placed(Path("/scratch/run")).words == tuple(shlex.split(words))


@pytest.mark.parametrize(
    ("words", "options", "says"),
    [
        ("", {}, "there is nothing to run"),
        ("launch slurm -- gram X.npy", {}, "a job does not launch jobs"),
        ("gram X.npy -o K.zarr", {"nodes": 2}, "is one process"),
        ("gram X.npy -o K.zarr", {"tasks_per_node": 2}, "add --executor ray or --executor mpi"),
        ("train pos", {"nodes": 2}, "add --distributed"),
        ("gram X.npy -o K.zarr --executor ray", {"tasks_per_node": 2}, "Ray has one node for each node of the job"),
        ("gram X.npy -o K.zarr --executor mpi --workers 2", {}, "every rank is a worker"),
        ("gram X.npy -o K.zarr --executor mpi", {"gpus_per_node": 4, "tasks_per_node": 2}, "one task for each GPU"),
        ("gram X.npy -o K.npy", {"array": 4}, "cuts a kernel matrix with a store"),
        ("gram X.npy -o K.zarr --shard 1/4", {"array": 4}, "gives each job its --shard"),
        ("gram X.npy -o K.zarr", {"array": 1}, "--array 1, expected at least 2"),
        ("gram X.npy -o K.zarr", {"nodes": 0}, "--nodes 0, expected at least 1"),
        ("gram X.npy -o K.zarr", {"gpus_per_node": -1}, "--gpus-per-node -1, expected at least 0"),
        ("gram X.npy -o K.zarr", {"time": "soon"}, "--time 'soon', expected Slurm's notation"),
        ("gram X.npy -o K.zarr", {"time": "2"}, "no longer than the 120 s before its end"),
        ("gram X.npy -o K.zarr", {"signal_s": 1}, "--signal-seconds 1, expected at least 5"),
        ("gram X.npy -o K.zarr", {"qpu": "a, b"}, "--qpu 'a, b', expected names"),
        ("gram X.npy -o K.zarr", {"qpu": "a,$(id)"}, "expected names of the site's quantum resources"),
        ("gram X.npy -o K.zarr", {"qpu": ""}, "--qpu '', expected names"),
        ("gram X.npy -o K.zarr", {"qpu": "a,b,a"}, "names one of them twice"),
        ("gram X.npy -o K.zarr --qpu http://a", {"emulated_qpus": "f.toml"}, "gives --qpu to a gram without --qpu"),
        ("gram X.npy -o K.zarr --executor ray", {"emulated_qpus": "f.toml"}, "without an --executor of ranks"),
        ("gram X.npy -o K.zarr", {"name": "my job"}, "--name 'my job', expected a name without blanks"),
    ],
)
def test_refusals(words: str, options: dict, says: str) -> None:
    """Each of them alone."""
    (found,) = SlurmOptions(**options).problems(Payload.of(shlex.split(words)), Site())
    assert says in found


def test_emulated_qpus_may_have_nodes_of_their_own() -> None:
    """The program is one process all the same."""
    words = Payload.of(shlex.split("gram X.npy -o K.zarr --shots 10"))
    assert SlurmOptions(nodes=3, emulated_qpus="f.toml").problems(words, Site()) == []
    assert len(SlurmOptions(nodes=3).problems(words, Site())) == 1


def test_everything_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError) as error:
        launch("gram X.npy -o K.npy", SlurmOptions(nodes=2, time="soon", array=1, name="a b"))
    text = str(error.value)
    assert all(says in text for says in ("one process", "--time 'soon'", "--array 1", "--name 'a b'", "with a store"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["modules", "gpus", "container"])
def test_the_examples_of_sites(name: str) -> None:
    """Can be read."""
    assert Site.read(EXAMPLES / f"{name}.toml").directives()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partition = ", "is not TOML"),
        ("partiton = 'a'", "did you mean 'partition'"),
        ("partition = 3", "partition is 3, expected a text"),
        ("modules = 'gcc'", "modules is 'gcc', expected a list of texts"),
        ("cpus_per_task = true", "cpus_per_task is True, expected a whole number"),
        ("mpi = 'pmi3'", "unknown mpi 'pmi3'"),
        ("venv = 'a'\ncontainer = 'b'", "leave one out"),
        ('setup = ["a\\nb"]', "line break"),
    ],
)
def test_sites_that_are_refused(text: str, says: str, tmp_path: Path) -> None:
    """With the file's name."""
    file = tmp_path / "site.toml"
    file.write_text(text)
    with pytest.raises(InvalidInputError, match="site.toml") as error:
        Site.read(file)
    assert says in str(error.value)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        Site.read(tmp_path / "none.toml")


def test_the_mpi_of_a_container_has_to_be_said() -> None:
    """It cannot be looked at from outside."""
    payload = Payload.of(shlex.split("gram X.npy -o K.zarr --executor mpi"))
    assert "mpi = 'pmi2'" in SlurmOptions().problems(payload, Site(container="apptainer exec a.sif"))[0]
    assert SlurmOptions().problems(payload, Site(container="apptainer exec a.sif", mpi="pmi2")) == []


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("MPICH Version:      5.0.2", "pmi2"),
        ("Intel(R) MPI Library 2021.11 for Linux* OS", "pmi2"),
        ("Open MPI v5.0.3, package: Open MPI root@host", "pmix"),
        ("MPI VERSION    : CRAY MPICH version 8.1.27.26 (ANL base 3.4a2)", "cray_shasta"),
    ],
)
def test_the_flavour_of_mpi(library: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the words of MPI_Get_library_version, from the libraries' documentation."""
    from dqk.cluster.launchers import mpi

    monkeypatch.setattr(mpi, "mpi_library", lambda python: library)
    monkeypatch.setattr(mpi, "_known", list)
    assert mpi.flavour("python") == expected
    monkeypatch.setattr(mpi, "_known", lambda: ["none"])
    with pytest.raises(ClusterError, match="does not have"):
        mpi.flavour("python")


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (Site(partition="a\nrm -rf ~"), "has a line break in it"),
        (Site(sbatch=("--output=elsewhere", "-M other")), "--output"),
        (Site(mpi="x; y"), "unknown mpi"),
    ],
)
def test_sites_that_would_make_another_script(site: Site, says: str) -> None:
    """Also those that are made in Python."""
    (found,) = SlurmOptions().problems(Payload.of(["store", "info", "K.zarr"]), site)
    assert says in found


@pytest.mark.parametrize("payload", [5, ["gram", 5], "gram 'X.npy"])
def test_what_is_no_command_line(payload: object) -> None:
    with pytest.raises(InvalidInputError, match="payload is"):
        launch(payload)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", ["gram X.npy -o K.zarr/", "gram X.npy -oK.zarr", "gram X.npy --out=K.zarr"])
def test_spellings_of_a_store(words: str) -> None:
    assert list(Payload.of(shlex.split(words)).again()) == ["--resume"]
