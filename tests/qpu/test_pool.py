"""Matrices and networks measured by real QPU services: one and several, that die, drift, cost and come back."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dqk import QKLSTM, FidelityKernel, gram
from dqk._run import Observer
from dqk.backends.resolve import resolve
from dqk.errors import BudgetError, ClusterError, InvalidInputError
from dqk.kernels import ShotPlan
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map, zz_feature_map
from dqk.qpu import QPUClient
from dqk.qpu.pool import QPUPool
from dqk.store import StoredGram
from tests.qpu.server import Server
from tests.qpu.services import begin, serving

pytestmark = [pytest.mark.qpu, pytest.mark.timeout(180)]

MAP = zz_feature_map(2)
MAPS = [zz_feature_map(3), reuploading_feature_map(2, layers=2, trainable="rotations"), qklstm_feature_map(4)]
LIMITED = "[limits]\nmax_circuits_per_job = 25\n"


def samples(count: int, features: int = 2) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, features))


@pytest.fixture(scope="module")
def services(tmp_path_factory) -> Iterator[list[Server]]:
    from tests.processes import session_long

    with session_long():
        manager = serving(tmp_path_factory.mktemp("qpus"), *[LIMITED] * 4)
        found = manager.__enter__()
    yield found
    manager.__exit__(None, None, None)


@pytest.mark.parametrize("feature_map", MAPS)
def test_frequencies_of_a_service(services, feature_map) -> None:
    """z scores against the statevector's probabilities."""
    x, y = samples(12, feature_map.n_features), samples(9, feature_map.n_features) * 0.5
    kernel = FidelityKernel(feature_map, f"qpu:{services[0].url}", shots=500)
    k, errors = gram(kernel, x, y, seed=1, return_std_error=True)
    kernel.backend, kernel.shots = "statevector", None
    exact = kernel(x, y)
    z = (k - exact) / np.sqrt(np.maximum(exact * (1 - exact), 1e-3) / 500)
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and 0.5 < z.std() < 1.5
    assert np.allclose(errors, np.sqrt(k * (1 - k) / 500))


def test_one_service_or_four_give_the_same_bits(services, tmp_path) -> None:
    kernel, x = FidelityKernel(MAP, shots=200), samples(40)
    urls = [service.url for service in services]
    found = []
    for some in (urls[:1], urls):
        with QPUPool(some) as pool:
            found.append(gram(kernel, x, seed=3, executor=pool))
            assert sum(report.jobs for report in pool.reports) >= -(-780 // 25)
            assert all(report.jobs for report in pool.reports)
    assert np.array_equal(*found)


def test_the_command_line(services, tmp_path) -> None:
    np.save(tmp_path / "X.npy", samples(20))
    command = [sys.executable, "-m", "dqk", "gram", "X.npy", "--qpu", services[0].url, "--qpu", services[1].url]
    command += ["--feature-map", "zz", "--shots", "100", "--json"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=100)

    priced = json.loads(run("-o", "K.zarr", "--dry-run").stdout)
    assert (priced["circuits"], priced["shots"], priced["jobs"]) == (190, 19_000, 8)
    assert not (tmp_path / "K.zarr").exists()
    planned = [word if word != "gram" else "plan" for word in command]
    planned = json.loads(subprocess.run(planned, cwd=tmp_path, capture_output=True, text=True, timeout=100).stdout)
    row, *others = planned["backends"]
    assert row["chosen"] and "190 circuits" in row["why"] and not any(other["chosen"] for other in others)
    assert (row["seconds"] or 0.0) == pytest.approx(priced["device_s"] / 2) and (row["price"] or 0.0) == priced["price"]
    found = json.loads(run("-o", "K.zarr").stdout)
    assert found["shots"] == 19_000 and set(found["qpus"]) == {f"qpu:{service.url}" for service in services[:2]}
    assert found["digest"] == StoredGram(tmp_path / "K.zarr").digest
    again = json.loads(run("-o", "K.npy", "--return-std-error").stdout)
    assert again["digest"] == found["digest"]
    assert np.array_equal(np.load(tmp_path / "K.std_error.npy"), StoredGram(tmp_path / "K.zarr").std_error)
    for wrong, message in (
        (["--workers", "3"], "--workers 3 with --qpu"),
        (["--executor", "ray"], "--executor ray with --qpu"),
    ):
        refused = run("-o", "L.npy", *wrong)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


def test_a_killed_driver_pays_for_no_job_twice(tmp_path) -> None:
    """SIGKILL of the driver, and of nothing else: the service knows the jobs by their tags."""
    np.save(tmp_path / "X.npy", samples(30))
    with serving(tmp_path, "[limits]\nmax_circuits_per_job = 20\n[times]\njob_s = 0.15\n[price]\nper_job = 1.0\n") as (
        service,
    ):
        command = [sys.executable, "-m", "dqk", "gram", "X.npy", "-o", "K.zarr", "--qpu", service.url, "--shots", "50"]
        command += ["--feature-map", "zz", "--json", "--budget", str(50 * 435)]  # not a shot to spare
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while sum('"result"' in line for line in lines(tmp_path / "K.zarr")) < 5:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        with QPUClient(service.url) as client:
            metrics = client._connection().get("/metrics").text
    whole = gram(FidelityKernel(MAP, "simulated", shots=50), samples(30), seed=0)
    found = np.asarray(StoredGram(tmp_path / "K.zarr"))
    assert found.shape == whole.shape and not np.isnan(found).any()
    charged = [line for line in metrics.splitlines() if not line.startswith("#") and "jobs" in line and "done" in line]
    assert charged and float(charged[0].split()[-1]) == 22, metrics


def lines(store: Path) -> list[str]:
    return [line for path in store.glob("jobs/*.jsonl") for line in path.read_text().splitlines()]


class Killing(Observer):
    """Kills a service after some results."""

    def __init__(self, service: Server, after: int):
        self.service, self.after = service, after

    def progressed(self, statistics, remaining) -> None:
        self.after -= 1
        if not self.after:
            self.service.kill()


def test_a_service_that_dies_is_drained_and_its_jobs_go_elsewhere(tmp_path) -> None:
    slow = LIMITED + "[times]\njob_s = 0.05\n[price]\nper_job = 1.0\n"  # so that the other one takes no copies
    with serving(tmp_path, slow, slow) as (first, second):
        pool = QPUPool([first.url, second.url])
        resolve(pool.names[1], MAP.circuit).client.timeout_s = 1.0  # type: ignore[attr-defined]
        with pool:
            k = gram(FidelityKernel(MAP, shots=100), samples(40), seed=3, executor=pool, progress=Killing(second, 8))
            drained = [report.drained for report in pool.reports]
        with QPUPool([first.url]) as pool:
            alone = gram(FidelityKernel(MAP, shots=100), samples(40), seed=3, executor=pool)
    assert np.array_equal(k, alone)
    assert drained[0] is None and "does not answer" in drained[1]


def test_a_job_of_a_service_that_died_is_found_again_within_the_budget(tmp_path) -> None:
    """Nothing is paid for at a processor that is gone, and what it was measuring is asked for when it is back."""
    profile = LIMITED + "[times]\njob_s = 0.15\n[price]\nper_job = 1.0\n"
    kernel, x = FidelityKernel(MAP, shots=ShotPlan(50, budget=50 * 190)), samples(20)  # not a shot to spare
    with serving(tmp_path, profile) as (service,):
        url = service.url
        with QPUPool([url]) as pool:
            whole = gram(kernel, x, seed=3, executor=pool)
            pool._qpus["qpu-0"].backend.client.timeout_s = 1.0  # type: ignore[attr-defined]
            with pytest.raises(ClusterError, match="no QPU is left"):
                gram(kernel, x, seed=3, executor=pool, store=tmp_path / "K.zarr", progress=Killing(service, 3))
    again = begin(tmp_path / "qpu-0", profile, int(url.rsplit(":", 1)[1]))
    try:
        with QPUPool([again.url]) as pool:
            k = gram(kernel, x, seed=3, executor=pool, store=tmp_path / "K.zarr")
        with QPUClient(again.url) as client:
            metrics = client._connection().get("/metrics").text
    finally:
        again.stop()
    assert np.array_equal(np.asarray(k), whole)
    assert 'dqk_qpu_jobs{state="done"} 16.0' in metrics  # 8 of each matrix


def test_few_jobs_are_spread(tmp_path) -> None:
    """As many jobs as processors: each gets one, where they are priced, so that none is sent twice, too."""
    priced = "[limits]\nmax_circuits_per_job = 12\n[times]\njob_s = 0.3\n[price]\nper_job = 1.0\n"
    with serving(tmp_path, priced, priced, priced) as services, QPUPool([service.url for service in services]) as pool:
        gram(FidelityKernel(MAP, shots=10), samples(9), seed=3, executor=pool)
        assert [report.jobs for report in pool.reports] == [1, 1, 1]


def test_a_service_out_of_calibration_is_drained(tmp_path) -> None:
    with serving(tmp_path, LIMITED, LIMITED + "[noise]\nreadout_0 = 0.2\n") as (good, bad):
        with QPUPool([good.url, bad.url], least_fidelity=0.9) as pool:
            k = gram(FidelityKernel(MAP, shots=400), samples(30), seed=3, executor=pool)
            reports = pool.reports
    assert reports[0].drained is None and reports[0].fidelity == 1
    assert "out of calibration: k(x, x) is 0." in str(reports[1].drained) and reports[1].fidelity < 0.6
    assert np.abs(k - FidelityKernel(MAP)(samples(30))).max() < 0.15  # nothing of the bad one is in it


def test_no_service_and_wrong_names() -> None:
    with pytest.raises(ClusterError, match="no QPU answers: qpu:http://127.0.0.1:9:"):
        QPUPool(["http://127.0.0.1:9"]).__enter__()
    with pytest.raises(InvalidInputError, match="measures no circuits, expected a QPU"):
        QPUPool(["statevector"]).__enter__()
    for wrong, message in (
        ([], "expected URLs"),
        ("http://a", "expected URLs"),
        (["http://a", "http://a"], "named twice"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            QPUPool(wrong)
    with pytest.raises(InvalidInputError, match="the qpu pool is not open"):
        gram(FidelityKernel(MAP, shots=5), samples(3), executor=QPUPool(["http://127.0.0.1:9"]))


def test_prices_and_budgets_in_seconds(tmp_path) -> None:
    profile = LIMITED + "[times]\njob_s = 0.01\nshot_s = 1e-6\n[price]\nper_s = 2.0\nper_shot = 0.001\n"
    with serving(tmp_path, profile) as (service,):
        kernel = FidelityKernel(MAP, shots=ShotPlan(100, budget_s=0.0130))
        with QPUPool([service.url]) as pool:
            assert pool.device.limits.priced
            assert pool.device.limits.price(25, 2500) == pytest.approx(2 * 0.0125 + 2.5)
            with pytest.raises(BudgetError, match=r"needs 0\.099 s of the device, and of 0\.013 s 0 s are spent"):
                gram(kernel, samples(20), seed=1, executor=pool, store=tmp_path / "K.zarr")
            kernel.shots = ShotPlan(100, budget_s=1.0)
            assert gram(kernel, samples(20), seed=1, executor=pool, store=tmp_path / "K.zarr").digest


def test_a_network_trains_through_four_services(services) -> None:
    """The same numbers from one service and from four, and a loss that falls."""
    losses = []
    for some in (services[:1], services):
        torch.manual_seed(0)
        with QPUPool([service.url for service in some]) as pool:
            net = QKLSTM(2, 2, n_qubits=2, n_references=2, shots=400, executor=pool, dtype=torch.float64)
            x, wanted = torch.randn(3, 2, 2, dtype=torch.float64), torch.full((3, 2, 2), 0.3, dtype=torch.float64)
            optimiser, found = torch.optim.Adam(net.parameters(), lr=0.05), []
            for _ in range(4):
                optimiser.zero_grad()
                loss = (net(x)[0] - wanted).square().mean()
                loss.backward()
                optimiser.step()
                found.append(float(loss.detach()))
            losses.append(found)
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_train_through_a_service(services, tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "dqk",
        "train",
        "pos",
        "--preset",
        "table1",
        "--epochs",
        "1",
        "--json",
        "--shots",
        "50",
    ]
    for k, more in enumerate(
        (["--backend", f"qpu:{services[0].url}"], ["--qpu", services[0].url, "--qpu", services[1].url])
    ):
        done = subprocess.run(
            [*command, *more, "--out", str(tmp_path / f"run-{k}")], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        assert "a word takes 16 circuits, and 256 more where it is trained on, of 50 shots each" in done.stderr
        assert "the kernel is a product of 4 one-qubit kernels" in done.stderr
        found = json.loads(done.stdout)
        assert found["circuits"] == 9 * (16 + 256) + 9 * 16 and found["shots_spent"] == 50 * found["circuits"]


def test_a_service_that_restarts_goes_on(tmp_path) -> None:
    """Killed and started again at the same port while a matrix is being measured: nobody notices but the clock."""
    folder, profile = tmp_path / "qpu", LIMITED + "[times]\njob_s = 0.1\n"
    servers = [begin(folder, profile)]
    port = int(servers[0].url.rpartition(":")[2])

    class Restarting(Observer):
        def progressed(self, statistics, remaining) -> None:
            if len(servers) == 1:
                servers[0].kill()
                servers.append(begin(folder, profile, port))

    try:
        with QPUPool([servers[0].url]) as pool:
            k = gram(FidelityKernel(MAP, shots=100), samples(20), seed=3, executor=pool, progress=Restarting())
        assert not np.isnan(k).any() and len(servers) == 2
    finally:
        servers[-1].stop()
