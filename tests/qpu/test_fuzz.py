"""Schemathesis against the whole interface: no answer of 500 or more, and none that the interface does not document."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.qpu.conftest import ALICE, BOB
from tests.qpu.server import Server, serving

SECONDS = 8
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def fuzz(server: Server, folder: Path, token: str, checks: str) -> None:
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", checks, "--max-time", str(SECONDS)]
    command += [
        "--max-examples",
        "20",
        "--seed",
        "1",
        "--no-color",
        "--request-timeout",
        "35",
        "--suppress-health-check=all",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "Tested: 11" in done.stdout, done.stdout[-2000:]


@pytest.mark.qpu
@pytest.mark.timeout(200)
def test_no_request_makes_the_service_fail(tmp_path: Path) -> None:
    with serving(tmp_path, "", "--qubits", "4", tokens=(ALICE, BOB)) as server:
        fuzz(server, tmp_path, ALICE, CHECKS)
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert "Traceback" not in server.log and ALICE not in server.log
