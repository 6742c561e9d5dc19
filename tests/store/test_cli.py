"""`dqk store`: one JSON document on standard output, exit codes, what to do next."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dqk.cli import main
from dqk.errors import StoreError
from dqk.store import GramStore
from tests.store.problems import angles, compute, fill, fingerprint, matrix


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as end:
            main(["store", *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(end.value.code or 0), captured.out, captured.err)

    return run


def test_info(run) -> None:
    with GramStore.open(Path("K.zarr"), fingerprint(angles(21))) as store:
        fill(store, matrix(angles(21)), [(0, 0), (0, 1)])
        used = run("info", "K.zarr", "--json").json()
        assert len(used["in_use_by"]) == 1 and "process" in used["in_use_by"][0]
        assert used["in_use_by"][0] in run("info", "K.zarr").out
    document = run("info", "K.zarr", "--json").json()
    expected = {
        "shape": [21, 21],
        "tiles": 6,
        "done": 2,
        "lost": 0,
        "digest": None,
        "about": "cosines",
        "in_use_by": [],
    }
    assert {name: document[name] for name in expected} == expected
    assert document["numeric_classes"][0]["tiles"] == 2 and document["numeric_classes"][0]["blas"]
    digest = compute(Path("K.zarr"), 21)
    shown = run("info", "K.zarr")
    assert shown.code == 0 and str(digest) in shown.out and "21 x 21" in shown.out and "cosines" in shown.out


def test_a_store_without_its_folders_or_its_description(run) -> None:
    """Copies lose empty folders; without the description nobody knows of what its tiles are."""
    digest = compute(Path("K.zarr"), 21)
    shutil.copytree("K.zarr", "whole.zarr")
    for name in ("c", "journal", "started", "tmp"):
        shutil.rmtree(f"K.zarr/{name}")
        assert run("info", "K.zarr").code == 0
        assert compute(Path("K.zarr"), 21) == digest
    os.remove("whole.zarr/zarr.json")
    with pytest.raises(StoreError, match="tiles of a matrix, but no zarr.json"):
        compute(Path("whole.zarr"), 20)


def test_brackets_in_a_path_are_no_markup(run) -> None:
    compute(Path("K[bold].zarr"), 21)
    shown = run("info", "K[bold].zarr")
    assert shown.code == 0 and "K[bold].zarr" in shown.out


def test_verify(run) -> None:
    digest = compute(Path("K.zarr"), 21)
    good = run("verify", "K.zarr")
    assert good.code == 0 and f"digest {digest}" in good.out and "6 of 6 tiles" in good.out
    assert run("verify", "K.zarr", "--json").json()["digest"] == digest
    chunk = Path("K.zarr/c/0/1")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    bad = run("verify", "K.zarr")
    assert bad.code == 1 and "tile (0, 1): rows 0-7, columns 8-15" in bad.out and "--drop-damaged" in bad.out
    document = run("verify", "K.zarr", "--json")
    assert document.code == 1 and document.json()["damaged"][0]["tile"] == [0, 1]
    dropped = run("verify", "K.zarr", "--drop-damaged")
    assert dropped.code == 1 and "removed" in dropped.out and "--resume" in dropped.out
    assert compute(Path("K.zarr"), 21) == digest
    assert run("verify", "K.zarr").code == 0


def test_export(run) -> None:
    digest = compute(Path("K.zarr"), 21)
    document = run("export", "K.zarr", "K.npy", "--json").json()
    assert document == {"path": "K.npy", "shape": [21, 21], "dtype": "float64", "digest": digest}
    np.testing.assert_array_equal(np.load("K.npy"), matrix(angles(21)))
    again = run("export", "K.zarr", "K.npy")
    assert again.code == 1 and "K.npy exists" in again.err
    wrong = run("export", "K.zarr", "K.csv")
    assert wrong.code == 2 and ".npy" in wrong.err


def test_compare(run) -> None:
    k = matrix(angles(21), angles(13))
    for name, shift in (("a", 0.0), ("b", 1e-9)):
        other = k.copy()
        other[20, 7] += shift
        with GramStore.open(Path(f"{name}.zarr"), fingerprint(angles(21), angles(13))) as store:
            fill(store, other)
    assert run("compare", "a.zarr", "a.zarr").code == 0
    apart = run("compare", "a.zarr", "b.zarr")
    assert apart.code == 1 and "1e-09 at row 20, column 7" in apart.out
    near = run("compare", "a.zarr", "b.zarr", "--atol", "1e-8", "--json")
    assert near.code == 0 and near.json()["equal"] and (near.json()["row"], near.json()["column"]) == (20, 7)
    assert near.json()["max_difference"] == pytest.approx(1e-9, rel=1e-6)
    k[3, 3] = np.nan
    with GramStore.open(Path("n.zarr"), fingerprint(angles(21), angles(13))) as store:
        fill(store, k)
    odd = run("compare", "a.zarr", "n.zarr", "--atol", "1e9", "--json")
    assert odd.code == 1 and odd.json()["max_difference"] is None and odd.json()["values"][1] is None
    assert run("compare", "a.zarr", "b.zarr", "--atol", "-1").code == 2


@pytest.mark.parametrize("command", ["info", "verify", "export", "compare"])
def test_help_shows_an_example_and_a_missing_store_is_named(command: str, run) -> None:
    assert f"Example: dqk store {command} " in run(command, "--help").out
    more = {"export": ["K.npy"], "compare": ["B.zarr"]}.get(command, [])
    missing = run(command, "missing.zarr", *more)
    assert missing.code == 1 and "there is no store missing.zarr" in missing.err
