"""`dqk gram`: what it reads, writes, prints and refuses."""

import json
import os

import numpy as np
import pytest
import torch

from dqk import FidelityKernel
from dqk.cli import main
from dqk.kernels.feature_maps import qklstm_feature_map, zz_feature_map

X = np.random.default_rng(3).uniform(-1, 1, (150, 3))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    np.save("X.npy", X)


@pytest.fixture
def run(capsys):
    """Runs the program in this process; gives exit code, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def document(run):
    def document(*arguments):
        code, out, err = run("gram", *arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return document


def test_the_default_map_has_a_qubit_per_column_and_store_and_array_agree(document):
    stored, array = document("X.npy", "-o", "K.zarr"), document("X.npy", "-o", "K.npy")
    assert np.array_equal(np.load("K.npy"), FidelityKernel(qklstm_feature_map(3))(X))
    assert stored["digest"] == array["digest"] and stored["shape"] == [150, 150] and stored["tiles"] == 3


def test_options_reach_the_kernel(document):
    np.save("Y.npy", X[:20])
    document(
        "X.npy", "--y", "Y.npy", "--feature-map", "zz", "--layers", "1", "--bandwidth", "0.5", "--log", "-o", "K.npy"
    )
    expected = np.log(FidelityKernel(zz_feature_map(3, reps=1, bandwidth=0.5))(X, X[:20]))
    assert np.allclose(np.load("K.npy"), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["npz", "csv", "csv without names", "parquet"])
def test_input_files(kind, document):
    if kind == "npz":
        np.savez("X.npz", X)
    elif kind.startswith("csv"):
        names = "a,b,c\n" if kind == "csv" else ""
        rows = "\n".join(",".join(repr(float(v)) for v in row) for row in X)
        open("X.csv", "w").write(names + rows + "\n")
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({name: X[:, k] for k, name in enumerate("abc")}), "X.parquet")
    document(f"X.{kind.split()[0]}", "-o", "K.npy")
    assert np.array_equal(np.load("K.npy"), FidelityKernel(qklstm_feature_map(3))(X))


def test_trace_and_timeline(document):
    document("X.npy", "--feature-map", "bsp", "-o", "K.zarr", "--trace", "t.json", "--timeline", "t.png")
    events = json.load(open("t.json"))["traceEvents"]
    tiles = [e["args"]["tile"] for e in events if e["name"] == "overlap"]
    assert sorted(tiles) == [0, 1, 2] and all(e["dur"] >= 0 for e in events if e["ph"] == "X")
    assert open("t.png", "rb").read(8) == b"\x89PNG\r\n\x1a\n"


def test_resume_and_growth(document):
    np.save("half.npy", X[:128])
    document("half.npy", "-o", "K.zarr")
    grown = document("X.npy", "-o", "K.zarr", "--resume")
    assert (grown["computed"], grown["tiles"]) == (2, 3)  # the full tile is kept
    again = document("X.npy", "-o", "K.zarr", "--resume")
    assert again["computed"] == 0 and again["digest"] == grown["digest"] == document("X.npy", "-o", "K.npy")["digest"]


def test_the_backend_that_auto_took_is_said(document, run):
    array = document("X.npy", "-o", "K.npy")
    assert array["backend"] == "mps" and "backend='mps'" in array["kernel"]
    code, out, _ = run("gram", "X.npy", "--feature-map", "zz", "-o", "zz.npy")
    assert code == 0 and "backend='statevector'" in out and "auto" not in out
    begun = document("X.npy", "--backend", "statevector", "-o", "K.zarr")
    resumed = document("X.npy", "-o", "K.zarr", "--resume")  # goes on as it was begun
    assert begun["backend"] == resumed["backend"] == "statevector" and resumed["digest"] == begun["digest"]


def test_memory_that_holds_float32_only(run, monkeypatch):
    np.save("wide.npy", np.random.default_rng(0).uniform(-1, 1, (20, 784)).astype(np.float32))
    monkeypatch.setenv("DQK_MEMORY_MIB", "20")
    code, _, err = run("gram", "wide.npy", "--feature-map", "bsp", "-o", "K.npy")
    assert code == 0 and np.load("K.npy").dtype == np.float32, err
    np.save("wide.npy", np.load("wide.npy").astype(np.float64))
    code, _, err = run("gram", "wide.npy", "--feature-map", "bsp", "-o", "no.npy")
    assert code == 1 and "need 26 MiB, the bound is 20 MiB" in err and "float32" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["X.npy", "-o", "K.txt"], 2, "ends in '.txt', expected .zarr or .npy"),
        (["X.npy", "-o", "K.npy", "--resume", "--shard", "4"], 2, "--resume needs a store"),
        (["X.npy", "-o", "none/K.zarr"], 2, "there is no folder none"),
        (["X.npy", "-o", "K.zarr", "--shard", "3/2"], 2, "expected i/k with i from 1 to k"),
        (["X.npy", "-o", "K.zarr", "--feature-map", "zzz"], 2, "did you mean 'zz'"),
        (["X.npy", "-o", "K.zarr", "--layers", "2"], 2, "only reuploading, zz, iqp, ising have layers"),
        (["X.npy", "-o", "K.zarr", "--executor", "rai"], 2, "did you mean 'ray'"),
        (["missing.npy", "-o", "K.zarr"], 1, "cannot read missing.npy: No such file"),
        (["bad.csv", "-o", "K.zarr"], 1, "bad.csv, line 3: 'oops' is not a number"),
        (["ragged.csv", "-o", "K.zarr"], 1, "ragged.csv, line 2: 1 values, the lines before have 2"),
        (["X.txt", "-o", "K.zarr"], 1, "ends in '.txt', expected one of .npy"),
        (["junk.npy", "-o", "K.zarr"], 1, "junk.npy is not an .npy file"),
        (["nan.npy", "-o", "K.zarr"], 2, r"X[1, 0] is nan, expected finite numbers"),
        (["line.npy", "-o", "K.zarr"], 1, "shape (3,)"),
    ],
)
def test_bad_usage_is_explained(arguments, code, message, run):
    open("bad.csv", "w").write("a,b\n1,2\n3,oops\n")
    open("ragged.csv", "w").write("1,2\n3\n")
    open("junk.npy", "w").write("junk")
    np.save("nan.npy", [[1.0, 2.0], [np.nan, 1.0]])
    np.save("line.npy", np.ones(3))
    found, out, err = run("gram", *arguments)
    assert found == code and message in err and "Traceback" not in err and not out
    assert not any(name.startswith("K.") for name in os.listdir("."))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_backend_without_a_gpu_is_one_message(run):
    code, out, err = run("gram", "X.npy", "-o", "K.npy", "--backend", "custatevec")
    assert code == 1 and out == "" and not os.path.exists("K.npy")
    assert err.startswith("error: backend 'custatevec' is not available here: ") and err.count("error:") == 1
    assert "Traceback" not in err and "dqk doctor" in err
