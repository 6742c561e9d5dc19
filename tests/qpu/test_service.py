"""What the service accepts and refuses, and whom it tells what."""

import json
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from dqk.cli import main
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.qpu import QPUClient, QPUError
from tests.qpu.conftest import ALICE, BOB
from tests.qpu.server import Server, serving, until

pytestmark = [pytest.mark.qpu, pytest.mark.timeout(120)]

COIN = 'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[1] q;\nh q[0];\n'
IMPATIENT_S = 0.9  # gives up at once where the service asks for a second; an answer may take so long
MINUTE = 60_000  # shots of a job that nobody waits for, at a thousand in a second
TURN = 'OPENQASM 3.0;\ninclude "stdgates.inc";\ninput float[64] x;\nqubit[1] q;\nry(x) q[0];\n'


def test_a_job_runs_each_row_of_its_table(client: QPUClient) -> None:
    done = client.result(client.submit(TURN, np.array([[0.0], [np.pi], [2 * np.pi]]), 100))
    assert done.counts == [{"0": 100}, {"1": 100}, {"0": 100}]
    assert done.zeros.tolist() == [100, 0, 100]


def test_zeros_alone_can_be_asked_for(client: QPUClient) -> None:
    done = client.result(client.submit(TURN, np.array([[0.0], [np.pi]]), 100, outcome="zeros"))
    assert done.counts is None
    assert done.zeros.tolist() == [100, 0]


def test_the_same_seed_gives_the_same_counts_and_another_one_does_not(client: QPUClient) -> None:
    first, second, third = (client.result(client.submit(COIN, None, 10_000, seed=seed)).counts for seed in (7, 7, 8))
    assert first == second != third


def test_a_seed_that_the_service_chose_is_told_and_repeats_the_job(client: QPUClient) -> None:
    chosen = client.result(client.submit(COIN, None, 10_000))
    assert client.result(client.submit(COIN, None, 10_000, seed=chosen.seed)).counts == chosen.counts


@pytest.mark.parametrize("token", ["wrong", "", ALICE[:-1], ALICE + "x"])
def test_a_wrong_token_is_refused(server: Server, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for method, path in (("GET", "/limits"), ("POST", "/jobs"), ("GET", "/jobs/1"), ("POST", "/sessions")):
        assert httpx.request(method, server.url + path, headers=headers).status_code == 401
    with pytest.raises(QPUError, match="token") as caught:
        QPUClient(server.url, token or None).limits  # noqa: B018
    assert caught.value.status == 401


def test_two_tokens_do_not_see_each_others_jobs_and_sessions(server: Server, client: QPUClient) -> None:
    key = secrets.token_hex(8)
    job, session = client.submit(COIN, None, 10, key=key), client.open_session()
    client.result(job)
    with QPUClient(server.url, BOB) as other:
        for ask in (other.status, other.result, other.cancel):
            with pytest.raises(QPUError, match="no such job") as caught:
                ask(job)
            assert caught.value.status == 404
        with pytest.raises(QPUError, match="no such session"):
            other.submit(COIN, None, 10, session=session)
        with pytest.raises(QPUError, match="no such session"):
            other.close_session(session)
        assert other.submit(TURN, np.zeros((1, 1)), 10, key=key) != job  # keys are each token's own
    client.close_session(session)
    assert client.status(job).state == "done"


def test_a_body_that_is_too_large_is_refused_also_in_chunks(server: Server) -> None:
    headers = {"Authorization": f"Bearer {ALICE}", "Content-Type": "application/json"}
    large = json.dumps({"qasm": "x" * 300_000, "shots": 1}).encode()
    assert httpx.post(f"{server.url}/jobs", content=large, headers=headers).status_code == 413

    def chunks():  # noqa: ANN202
        for start in range(0, len(large), 10_000):
            yield large[start : start + 10_000]

    assert httpx.post(f"{server.url}/jobs", content=chunks(), headers=headers).status_code == 413
    with QPUClient(server.url, ALICE) as small, pytest.raises(InvalidInputError, match="larger than 262144 bytes"):
        small.submit(TURN, np.zeros((40_000, 1)), 1)


def test_malformed_qasm_is_refused_with_its_line(server: Server, client: QPUClient) -> None:
    wrong = COIN + "cx q[0], q[1];\n"
    with pytest.raises(InvalidInputError, match=r"line 5: q\[1\] does not exist"):
        client.submit(wrong, None, 10)
    answer = httpx.post(
        f"{server.url}/jobs", json={"qasm": wrong, "shots": 1}, headers={"Authorization": f"Bearer {ALICE}"}
    )
    assert (answer.status_code, answer.json()["line"]) == (422, 5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"qasm": 1, "shots": 1}',
        b'{"qasm": "x", "shots": NaN}',
        b'{"qasm": "\\ud800", "shots": 1}',
        b'{"qasm": "x", "shots": 1, "more": 1}',
        b'{"qasm": "x", "shots": 1, "parameters": {"rows": 1, "columns": 1, "base64": "?"}}',
        b'{"qasm": "x", "shots": ' + b"9" * 5000 + b"}",
        b"[" * 20_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_job_is_refused(server: Server, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {ALICE}", "Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/jobs", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json()["message"]


@pytest.mark.parametrize("table", [[[1.0, 2.0]], [[]], [], [[1.0], [1.0, 2.0]]])
def test_tables_that_do_not_fit_are_refused(server: Server, table: list[list[float]]) -> None:
    body = {"qasm": TURN, "shots": 1, "parameters": table}
    answer = httpx.post(f"{server.url}/jobs", json=body, headers={"Authorization": f"Bearer {ALICE}"})
    assert answer.status_code == 422, answer.text


def test_what_exceeds_the_device_is_refused_with_its_limit(client: QPUClient) -> None:
    wide = COIN.replace("qubit[1]", "qubit[7]")
    for qasm, rows, shots, limit in ((wide, 0, 1, "6"), (TURN, 51, 1, "50"), (COIN, 0, 500_001, "500000")):
        with pytest.raises(UnsupportedError, match=f"at most {limit}"):
            client.submit(qasm, np.zeros((rows, 1)) if rows else None, shots)
    assert (client.limits.n_qubits, client.limits.max_circuits_per_job, client.limits.max_shots) == (6, 50, 500_000)


def test_a_repeated_post_gives_the_same_job_and_another_request_under_its_key_is_refused(
    server: Server, client: QPUClient
) -> None:
    def runs() -> float:
        return metric(server.url, "dqk_qpu_runs_total")

    key, before = secrets.token_hex(8), runs()
    jobs = {client.submit(COIN, None, 50, key=key) for _ in range(5)}
    assert len(jobs) == 1
    (job,) = jobs
    first = client.result(job)
    assert client.submit(COIN, None, 50, key=key) == job
    assert client.result(job).counts == first.counts
    assert runs() == before + 1
    for qasm, shots, seed in ((COIN, 51, None), (COIN, 50, 3), (COIN + "x q[0];\n", 50, None)):
        with pytest.raises(InvalidInputError, match="key was used for another request"):
            client.submit(qasm, None, shots, seed=seed, key=key)


def test_sessions_are_bounded_and_closed_ones_take_no_jobs(server: Server) -> None:
    with QPUClient(server.url, BOB) as client, client.another(IMPATIENT_S) as impatient:
        sessions = [client.open_session() for _ in range(3)]
        with pytest.raises(QPUError, match="3 sessions are open") as caught:
            impatient.open_session()
        assert caught.value.status == 429
        assert client.result(client.submit(COIN, None, 10, session=sessions[0])).shots == 10
        for session in sessions:
            client.close_session(session)
        with pytest.raises(QPUError, match="the session is closed"):
            client.submit(COIN, None, 10, session=sessions[0])
        client.close_session(client.open_session())


def test_without_the_limits_being_reached_health_and_metrics_need_no_token(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    text = httpx.get(f"{server.url}/metrics").text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rpartition(" ")[0]) and float(line.rpartition(" ")[2]) >= 0


def metric(url: str, name: str) -> float:
    (line,) = (line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def test_queue_positions_times_cancellation_and_open_jobs(tmp_path: Path) -> None:
    profile = "[limits]\nmax_open_jobs = 3\n[times]\njob_s = 0.6\nshot_s = 0.001\n[price]\nper_s = 2.0\nper_job = 1.0\n"
    with (
        serving(tmp_path, profile) as server,
        QPUClient(server.url) as client,
        client.another(IMPATIENT_S) as impatient,
    ):
        first, second, third = (client.submit(COIN, None, shots) for shots in (MINUTE, 100, 100))
        until(lambda: client.status(first).state == "running")
        assert [client.status(job).position for job in (first, second, third)] == [None, 1, 2]
        with pytest.raises(QPUError, match="3 jobs are open") as caught:
            impatient.submit(COIN, None, 100)
        assert caught.value.status == 429
        assert client.cancel(second).state == "cancelled"
        assert client.status(third).position == 1
        with pytest.raises(QPUError, match="still queued, with 1 job before it after 0.05 s"):
            client.result(third, timeout_s=0.05)
        with pytest.raises(QPUError, match="was cancelled"):
            client.result(second)
        started = time.monotonic()
        client.cancel(first)  # in the midst of its minute
        done = client.result(third, timeout_s=30.0)
        assert 0.7 <= time.monotonic() - started < 30.0  # 0.6 + 100 * 0.001 s
        assert done.seconds == pytest.approx(0.7) and done.price == pytest.approx(1.0 + 2.0 * 0.7)
        assert client.limits.price(1, 100) == pytest.approx(done.price)
        assert client.status(first).seconds == client.status(second).seconds == 0
        assert client.cancel(third).state == "done"  # what has ended stays as it is


def test_jobs_of_a_session_go_first_and_without_their_overhead(tmp_path: Path) -> None:
    profile = "[times]\njob_s = 0.3\nsession_job_s = 0.01\nshot_s = 0.001\n"
    with serving(tmp_path, profile) as server, QPUClient(server.url) as client:
        session = client.open_session()
        first = client.submit(COIN, None, MINUTE, session=session)
        until(lambda: client.status(first).state == "running")
        other = client.submit(COIN, None, MINUTE)
        later = client.submit(COIN, None, 10, session=session)
        client.cancel(first)
        assert client.result(later).seconds == pytest.approx(0.01 + 0.01)
        assert client.cancel(other).state == "cancelled"  # it was not done before
        assert client.result(client.submit(COIN, None, 10, session=session)).seconds == pytest.approx(0.3 + 0.01)


def test_outages_refuse_jobs_and_are_waited_for(tmp_path: Path) -> None:
    """Six seconds of fourteen; the first may be over when the service is ready."""
    profile = "[[outage]]\nstart_s = 0.0\nduration_s = 6.0\nevery_s = 14.0\n"
    with serving(tmp_path, profile) as server, QPUClient(server.url) as patient:

        def health() -> dict[str, float]:
            return httpx.get(f"{server.url}/health").json()

        until(lambda: health()["outage_left_s"] > 2.5)
        with patient.another(2.0) as impatient, pytest.raises(QPUError, match="down for") as caught:
            impatient.submit(COIN, None, 10)
        assert caught.value.status == 503
        assert health()["status"] == "outage"
        assert metric(server.url, "dqk_qpu_up") == 0
        assert patient.result(patient.submit(COIN, None, 10)).shots == 10
        assert health()["status"] == "ok"


def test_injected_failures_lose_no_job_and_run_none_twice(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "[failures]\nrefused = 0.2\nlost = 0.3\nseed = 1\n") as server,
        QPUClient(server.url, timeout_s=30.0) as client,
    ):
        jobs = [client.submit(COIN, None, 10) for _ in range(12)]
        assert all(client.result(job).shots == 10 for job in jobs)
        assert metric(server.url, "dqk_qpu_runs_total") == 12
        answers = httpx.get(f"{server.url}/metrics").text
        assert 'status="503"' in answers and 'status="504"' in answers


def test_a_job_that_fails_says_so_and_costs_nothing(tmp_path: Path) -> None:
    profile = "[times]\njob_s = 0.01\n[failures]\njob = 1.0\n"
    with serving(tmp_path, profile) as server, QPUClient(server.url) as client:
        job = client.submit(COIN, None, 10)
        with pytest.raises(QPUError, match="failed: the device failed"):
            client.result(job)
        assert (client.status(job).state, client.status(job).seconds) == ("failed", 0.0)


def test_what_cannot_be_served_ends_with_a_message(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = server.url.rpartition(":")[2]
    (tmp_path / "noisy.toml").write_text("[noise]\ndepolarising_1q = 0.1\n")
    (tmp_path / "empty").write_text("\n")
    for options, code, message in (
        (("--port", port), 1, "choose another --port"),
        (("--host", "0.0.0.0"), 2, "--token-file"),
        (("--token-file", str(tmp_path / "empty")), 2, "expected a token in each line"),
        (("--qubits", "0"), 2, "--qubits is 0"),
        (("--qubits", "30"), 1, "at most 20"),
        (("--qubits", "11", "--profile", str(tmp_path / "noisy.toml")), 1, "at most 10"),
        (("--profile", str(tmp_path / "none.toml")), 2, "cannot be read"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["qpu", "serve", *options])
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (code, ""), said.err
        assert message in said.err


def test_the_url_is_the_one_line_on_standard_output(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dqk", "qpu", "serve", "--data", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert httpx.get(f"{url}/health").status_code == 200
    process.send_signal(signal.SIGINT)
    rest, messages = process.communicate(timeout=20)
    assert (rest, process.returncode) == ("", 130)
    assert "no token is asked for" in messages and "Traceback" not in messages


def test_no_secret_is_in_the_logs(tmp_path: Path) -> None:
    with serving(tmp_path, "[failures]\njob = 0.5\n", tokens=(ALICE,)) as server:
        with QPUClient(server.url, ALICE) as client:
            job = client.submit(COIN, None, 10)
            until(lambda: client.status(job).finished)
        httpx.get(f"{server.url}/jobs/{ALICE}?token={ALICE}", headers={"Authorization": f"Bearer {ALICE}"})
        httpx.get(f"{server.url}/{ALICE}", headers={"Authorization": f"Basic {BOB}", "Cookie": BOB})
        httpx.post(f"{server.url}/jobs", content=b"\x00" + ALICE.encode(), headers={"Authorization": f"Bearer {ALICE}"})
        metrics = httpx.get(f"{server.url}/metrics").text
    for secret in (ALICE, BOB):
        assert secret not in server.log + metrics and secret.encode() not in server.first_line
