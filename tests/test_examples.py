"""The examples run as they are."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_grid_search_over_digits_on_worker_processes():
    program = [sys.executable, str(EXAMPLES / "svc_digits.py"), "--samples", "300", "--features", "4"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"held-out accuracy (\d\.\d+)", done.stdout)[1])
    assert accuracy > 0.6  # a guess is right in one of ten cases
