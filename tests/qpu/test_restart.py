"""A service that is killed: no job is lost, each has one result and one charge, and the interrupted one repeats itself."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from dqk.errors import LeaseError
from dqk.qpu import QPUClient
from dqk.qpu.jobs import JobStore, Refusal, Request
from tests.qpu.server import Server, arguments, serving, until
from tests.qpu.test_service import TURN, metric

ROWS = np.linspace(0.2, 2.0, 4)[:, None]
JOB_S, SHOT_S = 0.05, 1e-6


@pytest.mark.qpu
@pytest.mark.faults
@pytest.mark.timeout(120)
def test_a_killed_service_goes_on_with_its_100_jobs(tmp_path: Path) -> None:
    """The sixth, which takes two seconds, is at work when it is killed."""
    profile = f"[times]\njob_s = {JOB_S}\nshot_s = {SHOT_S}\n[price]\nper_job = 1.0\n"
    shots = [500_000 if n == 5 else 1000 for n in range(100)]
    options = [*arguments(tmp_path, profile, ("token",)), "--data", str(tmp_path / "jobs")]
    server = Server(*options)
    port = server.url.rpartition(":")[2]
    try:
        client = QPUClient(server.url, "token", timeout_s=60.0)
        first = [client.submit(TURN, ROWS, shots[n], seed=n, key=f"job-{n}") for n in range(100)]
        until(lambda: client.status(first[5]).state == "running")
        server.kill()
        options[options.index("--port") + 1] = port
        server = Server(*options)
        # Whoever does not know what became of a request sends it again.
        again = [client.submit(TURN, ROWS, shots[n], seed=n, key=f"job-{n}") for n in range(100)]
        results = [client.result(job, timeout_s=60.0) for job in first]
        statuses = [client.status(job) for job in first]
        text = httpx.get(f"{server.url}/metrics").text
        charged, price, runs = (metric(server.url, f"dqk_qpu_{name}_total") for name in ("seconds", "price", "runs"))
    finally:
        server.stop()
    assert again == first and len(set(first)) == 100
    assert {status.state for status in statuses} == {"done"}
    assert 'dqk_qpu_jobs{state="done"} 100.0' in text
    assert charged == pytest.approx(100 * JOB_S + 4 * sum(shots) * SHOT_S) and price == 100.0
    assert "1 interrupted job will run again" in server.log and runs == 101
    with serving(tmp_path) as undisturbed, QPUClient(undisturbed.url) as client:
        for n, result in enumerate(results):
            assert client.result(client.submit(TURN, ROWS, shots[n], seed=n)).counts == result.counts


def request(seed: int = 1, session: str | None = None) -> Request:
    return Request(TURN, ROWS, 10, seed, "counts", session)


def test_a_job_has_one_result_whoever_comes_last(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job, _ = store.submit("owner", "key", request(), 5)
    taken = store.take(None)
    assert taken is not None and taken.id == job and taken.parameters.tolist() == ROWS.tolist()
    assert store.take(None) is None
    assert store.finish(job, {"counts": []}, 1.0, 2.0)
    assert not store.finish(job, {"counts": [1]}, 1.0, 2.0) and not store.fail(job, "late")
    assert store.cancel("owner", job)["state"] == "done"
    assert store.result(job) == {"counts": []}
    assert store.totals()["done"]["seconds"] == 1.0
    store.close()


def test_a_cancelled_job_gets_no_result(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job, _ = store.submit("owner", "key", request(), 5)
    store.take(None)
    store.cancel("owner", job)
    assert not store.finish(job, {"counts": []}, 1.0, 2.0)
    assert store.status("owner", job)["seconds"] == 0.0
    store.close()
    reopened = JobStore(tmp_path)
    assert reopened.interrupted == 0 and reopened.take(None) is None
    reopened.close()


def test_a_job_that_was_running_is_first_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    jobs = [store.submit("owner", str(n), request(n), 5)[0] for n in range(3)]
    store.take(None)
    store.close()
    reopened = JobStore(tmp_path)
    assert reopened.interrupted == 1
    assert [reopened.take(None).id for _ in jobs] == jobs  # type: ignore[union-attr]
    assert reopened.born == store.born
    reopened.close()


def test_a_folder_has_one_service(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(LeaseError, match="another service"):
        JobStore(tmp_path)
    store.close()


def test_a_key_stands_for_one_request_of_one_owner() -> None:
    store = JobStore(None)
    job, is_new = store.submit("owner", "key", request(), 1)
    assert is_new and store.submit("owner", "key", request(), 1) == (job, False)  # also at the limit of open jobs
    with pytest.raises(Refusal) as caught:
        store.submit("owner", "key", request(seed=2), 5)
    assert caught.value.status == 409
    with pytest.raises(Refusal) as caught:
        store.submit("owner", "other", request(), 1)
    assert caught.value.status == 429
    assert store.submit("other", "key", request(seed=2), 1)[1]
    store.close()


def test_sessions_end_by_themselves() -> None:
    store = JobStore(None)
    session = store.open_session("owner", -1.0, 5)
    with pytest.raises(Refusal, match="closed"):
        store.submit("owner", "key", request(session=session), 5)
    store.close()
