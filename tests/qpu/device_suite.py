"""PennyLane's own device tests on `dqk.qpu` and on `lightning.qubit`, side by side: `make test-device-suite`.

Fails if `dqk.qpu` fails a test that `lightning.qubit` passes in the same run, unless the reason is known and written down here.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from tests.qpu.server import serving

EXPLAINED: dict[str, str] = {}
"""Why a test may fail on `dqk.qpu` although it passes on `lightning.qubit`, by its name without parameters."""

_LIMIT_S = 1200.0
_MOST_ROWS = 60
_MOST_FAILURES = 20  # of lightning.qubit, whose statistical tests may fail now and then


def outcomes(device: str, shots: int, folder: Path, *kwargs: str) -> dict[str, tuple[str, str]]:
    """For each test its outcome and the first line of the reason."""
    report = folder / f"{device}.xml"
    scripts = Path(sys.executable).parent
    # pl-device-test runs the first pytest on PATH.
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    command = [str(scripts / "pl-device-test"), "--device", device, "--shots", str(shots), "--skip-ops"]
    command += ["--device-kwargs", *kwargs] if kwargs else []
    command += [f"--junitxml={report}", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S)
    if not report.exists():
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    print(f"{device}: {done.stdout.strip().splitlines()[-1]}", flush=True)
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kind, reason = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                kind = {"failure": "failed", "error": "failed"}.get(child.tag, child.tag)
                reason = (child.get("message") or "").strip().splitlines()[0] if child.get("message") else ""
        found[f"{(case.get('classname') or '').rpartition('.tests.')[2]}::{case.get('name')}"] = (kind, reason)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--shots", type=int, default=20_000)
    shots = options.parse_args().shots
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder, "", "--qubits", "14") as server:
            ours = outcomes("dqk.qpu", shots, folder, f"url={server.url}")
        theirs = outcomes("lightning.qubit", shots, folder)
    rows, unexplained = [], 0
    for test in sorted(ours.keys() | theirs.keys()):
        (mine, reason), (its, _) = ours.get(test, ("missing", "")), theirs.get(test, ("missing", ""))
        if mine == its and mine != "failed":
            continue
        known = EXPLAINED.get(test.rpartition("::")[2].partition("[")[0], "")
        unexplained += mine in ("failed", "missing") and its != "failed" and not known
        rows.append((test, mine, its, known or reason))
    print(f"\n{'dqk.qpu':10} {'lightning':10} tests that failed, or ended differently")
    for test, mine, its, why in rows[:_MOST_ROWS]:
        print(f"{mine:10} {its:10} {test}{': ' if why else ''}{why[:120]}")
    print(f"\n{'':18}{'passed':>8}{'failed':>8}{'skipped':>8}")
    for device, found in (("dqk.qpu", ours), ("lightning.qubit", theirs)):
        counts = Counter(kind for kind, _ in found.values())
        print(f"{device:18}{counts['passed']:8}{counts['failed']:8}{counts['skipped']:8}")
    failed = sum(kind == "failed" for kind, _ in theirs.values())
    if failed > _MOST_FAILURES:
        sys.exit(f"lightning.qubit fails {failed} tests: there is nothing to compare with")
    print(f"failures of dqk.qpu alone that nothing explains: {unexplained}")
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
