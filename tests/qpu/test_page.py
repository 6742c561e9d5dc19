"""The status page: what it says, that it says no more, and how a browser shows it."""

import os
import subprocess
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import numpy as np
import pytest

from dqk.qpu import QPUClient
from dqk.qpu.machine import Load
from tests.qpu.server import Server, serving
from tests.requirements import browser, require

pytestmark = [pytest.mark.qpu, pytest.mark.timeout(120)]

TOKEN = "token-9c1e77"
NAME = "<script>alert(1)</script> & 'ion'"
PROFILE = f"""
name = {NAME!r}
times = {{ job_s = 0.01, circuit_s = 0.25 }}
noise = {{ depolarising_1q = 0.001, depolarising_2q = 0.004, readout_0 = 0.01, readout_1 = 0.02 }}
price = {{ per_job = 0.5, per_shot = 0.01, currency = "<i>" }}
""".replace(f"name = {NAME!r}", f'name = "{NAME}"')
TURN = 'OPENQASM 3.0;\ninclude "stdgates.inc";\ninput float[64] x;\nqubit[1] q;\nry(x) q[0];\n'


class Seen(HTMLParser):
    """Tags, addresses, texts and rows of a page; fails where tags are not closed in their order."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.addresses, self.rows, self.texts = [], [], [], []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs) -> None:  # noqa: ANN001
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "link"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag) -> None:  # noqa: ANN001
        assert self._open.pop() == tag

    def handle_data(self, data) -> None:  # noqa: ANN001
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        (found,) = [row[1:] for row in self.rows if row[0] == first]
        return found


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[str]]]:
    """A service that has done two jobs and cancelled one, and their ids."""
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, PROFILE, "--qubits", "3", tokens=(TOKEN,)) as server:
        with QPUClient(server.url, TOKEN) as client:
            jobs = [client.submit(TURN, np.full((rows, 1), 0.123456), 1000) for rows in (1, 2, 40)]
            client.cancel(jobs.pop())
            for job in jobs:
                client.result(job)
        yield server, jobs


def test_it_says_how_the_device_is_doing(worked: tuple[Server, list[str]]) -> None:
    seen = Seen(httpx.get(f"{worked[0].url}/").text)
    assert NAME in seen.texts  # as text, not as a tag
    assert "idle" in seen.texts
    assert seen.row("queue") == ["jobs: 0, circuits: 0"]
    assert seen.row("at work") == ["none"]
    # 2 x 0.01 s + 3 circuits x 0.25 s; 2 jobs x 0.5 + 3 circuits x 1000 shots x 0.01
    assert seen.row("done") == ["2", "3", "3,000", "0.8", "31.00"]
    assert seen.row("cancelled")[:2] == ["1", "40"]
    assert seen.row("failed")[0] == "0"
    assert seen.row("two-qubit gate, each qubit") == ["0.400%"]
    assert seen.row("reading 0 for 1") == ["2.000%"]
    assert seen.row("load in the last 60 s")[0].strip().endswith("%")


def test_a_job_at_work_is_seen_and_counts_as_load(worked: tuple[Server, list[str]]) -> None:
    with QPUClient(worked[0].url, TOKEN) as client:
        jobs = [client.submit(TURN, np.zeros((rows, 1)), 10) for rows in (160, 5)]
        while client.status(jobs[0]).state != "running":
            time.sleep(0.01)
        time.sleep(0.5)
        told = httpx.get(f"{worked[0].url}/status").json()
        seen = Seen(httpx.get(f"{worked[0].url}/").text)
        for job in jobs:
            client.cancel(job)
    assert told["state"] == "working"
    assert (told["running"]["circuits"], told["running"]["shots"]) == (160, 10)
    assert 0.4 < told["running"]["seconds"] < 40.1 and 0 < told["load"] <= 1
    assert "working" in seen.texts and seen.row("at work")[0].endswith("circuits: 160, shots of each: 10")
    assert seen.row("queue") == ["jobs: 1, circuits: 5"]


def test_it_says_nothing_that_is_somebodys_own_and_loads_nothing(worked: tuple[Server, list[str]]) -> None:
    server, jobs = worked
    for path in ("/", "/status"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 200
        for secret in (TOKEN, *jobs, "OPENQASM", "0.123456"):
            assert secret not in answer.text
    page = httpx.get(f"{server.url}/")
    seen = Seen(page.text)
    assert "script" not in seen.tags and "i" not in seen.tags
    assert set(seen.addresses) == {"data:,", "/status", "/metrics"}
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{server.url}/limits").status_code == 401


def test_an_outage_is_seen(tmp_path: Path) -> None:
    with serving(tmp_path, "outage = [{ start_s = 0, duration_s = 7000 }]") as server:
        texts = " ".join(Seen(httpx.get(f"{server.url}/").text).texts)
        assert "outage: starts no job and takes none for 1 h 5" in texts


def test_load_is_the_share_of_the_last_minute() -> None:
    load, now = Load(), time.monotonic()
    load.add(now + 10, now + 20)
    load.add(now + 90, now + 130)
    assert load.share(now + 160, None) == pytest.approx(30 / 60)  # from 100 to 130
    assert load.share(now + 160, now + 150) == pytest.approx(40 / 60)
    assert load.share(now + 500, None) == 0.0
    assert load.share(now + 500, now + 200) == 1.0


def test_a_browser_shows_it(worked: tuple[Server, list[str]], tmp_path: Path) -> None:
    """The picture has the green mark of an idle device, dark text and a white ground; no script has run."""
    require("browser")
    image = pytest.importorskip("PIL.Image")
    program = browser()
    assert program
    with QPUClient(worked[0].url, TOKEN) as client:  # an earlier test has cancelled what ran
        client.result(client.submit(TURN, np.zeros((1, 1)), 10))
    picture = tmp_path / "page.png"
    command = [program, "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    subprocess.run(
        [*command, "--window-size=800,900", f"--screenshot={picture}", f"{worked[0].url}/"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with image.open(picture) as shown:
        assert shown.size == (800, 900)
        colours = {colour: count for count, colour in shown.convert("RGB").getcolors(10**6)}
    assert colours[255, 255, 255] > 400_000
    assert colours[0x1D, 0x6B, 0x3A] > 300  # the mark
    assert colours[0x1C, 0x23, 0x30] > 1000  # text
