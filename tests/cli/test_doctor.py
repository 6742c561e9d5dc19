"""`dqk doctor`: facts about this machine, from their sources."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from dqk import _calibration
from dqk.backends import gpu
from dqk.cli import doctor as module
from dqk.cli import main
from dqk.cluster.launchers import mpi
from tests.requirements import require


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(_calibration, "cache_folder", lambda: tmp_path)
    _calibration.cost_model.cache_clear()

    def run(*arguments: str):
        with pytest.raises(SystemExit) as end:
            main(["doctor", *arguments])
        assert not end.value.code
        return capsys.readouterr()

    yield run
    monkeypatch.undo()
    _calibration.cost_model.cache_clear()


def test_facts(run, monkeypatch):
    monkeypatch.setenv("DQK_MEMORY_MIB", "4321")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.setenv("RAY_ADDRESS", "host:6379")
    found = json.loads(run("--json").out)
    assert 1 <= found["threads"] <= len(os.sched_getaffinity(0))
    assert found["memory_bound_mib"] == 4321 and found["gpus"] == ["0", "3"]
    assert {"mps", "reference", "statevector"} <= set(found["backends"])
    assert found["backends"]["statevector"] == {"available": True, "device": "cpu"}
    assert found["executors"]["inline"] == {"available": True}
    assert found["cost_model"]["measured"] is False and "statevector/float64" in found["cost_model"]["rates"]
    if found["executors"]["ray"]["available"]:
        assert found["executors"]["ray"] == {
            "available": True,
            "version": metadata.version("ray"),
            "address": "host:6379",
        }
    shown = run().out
    for part in ("4,321 MiB", "0, 3", "backend statevector", "executor mpi", "dqk doctor --calibrate"):
        assert part in shown


def test_what_the_gpu_backend_lacks_is_said(run, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(gpu, "driver_version", lambda: "570.124.06")
    monkeypatch.setattr(gpu, "packages", lambda: {"custatevec-cu13": "1.15.0"})
    found = json.loads(run("--json").out)
    cuda = found["cuda"]
    assert cuda["driver"] == "570.124.06" and cuda["torch_built_for"] is None
    assert cuda["packages"] == {"custatevec-cu13": "1.15.0"} and "pip install 'dqk[cuda13]'" in cuda["missing"]
    assert found["backends"]["custatevec"]["available"] is False
    assert cuda["missing"] in found["backends"]["custatevec"]["why"]
    shown = run().out
    for part in ("570.124.06", "custatevec-cu13 1.15.0; MISSING: torch", "pip install 'dqk[cuda13]'"):
        assert part in shown
    assert shown.count("dqk[cuda13]") == 1 and "NO: see cuQuantum" in shown and "built without CUDA" in shown


def test_without_a_launcher_it_says_how_to_start_it(capsys):
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--cluster"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "srun dqk doctor --cluster" in said and "train" not in said


def test_gpus_are_listed(run, monkeypatch):
    listed = [{"name": "NVIDIA H100", "memory_mib": 81559, "uuid": "GPU-8932f937"}]
    monkeypatch.setattr(gpu, "devices", lambda: listed)
    assert json.loads(run("--json").out)["cuda"]["devices"] == listed
    assert "GPU-8932f937" in (shown := run().out) and "NVIDIA H100, 81,559 MiB" in shown


def test_mpi_library_is_named():
    require("mpi")
    found = module._mpi()
    assert found["available"], found["why"]
    command = [sys.executable, "-c", "from mpi4py import MPI; print(MPI.get_vendor()[0])"]
    vendor = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    assert vendor.lower() in found["library"].lower()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('cannot load MPI library')", "RuntimeError: cannot load MPI library"),
        ("import os; os.abort()", "ended with -6"),
        ("import time; time.sleep(60)", "within 0.2 s"),
    ],
)
def test_an_mpi_library_that_does_not_work_is_a_fact_not_a_crash(monkeypatch, code, says):
    monkeypatch.setattr(mpi, "_LIBRARY", code)
    if "sleep" in code:
        monkeypatch.setattr(mpi, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(module, "_version", lambda package: "4.1")
    found = module._mpi()
    assert not found["available"] and says in found["why"]


def test_what_is_not_installed_comes_with_its_install_line(run, monkeypatch):
    monkeypatch.setattr(module, "_version", lambda package: None)
    executors = json.loads(run("--json").out)["executors"]
    assert "pip install 'dqk[ray]'" in executors["ray"]["why"] and "dqk[mpi-local]" in executors["mpi"]["why"]
    assert "NO: not installed" in run().out


def test_calibration_is_kept(run, monkeypatch, tmp_path):
    monkeypatch.setattr(_calibration, "_VISIT_S", 0.0)
    monkeypatch.setattr(_calibration, "_ENTANGLED", (2, 3))
    monkeypatch.setattr(_calibration, "_PRODUCT", (2, 5))
    monkeypatch.setattr(_calibration, "_CHAINS", ((4, 1), (5, 2)))
    done = run("--calibrate", "--json")
    model = json.loads(done.out)["cost_model"]
    path = _calibration.model_file()
    assert model["measured"] and model["file"] == str(path) and path.parent == tmp_path
    assert "measuring statevector, float64" in done.err
    assert json.loads(path.read_text())["rates"] == model["rates"]
    assert str(path) in run().out


def test_help_has_an_example(run):
    shown = run("--help").out
    assert "dqk doctor --calibrate" in shown.partition("Example")[2]
