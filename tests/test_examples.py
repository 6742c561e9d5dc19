"""The examples run as they are."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def output_of(name: str, *options: str) -> str:
    program = [sys.executable, str(EXAMPLES / name), *options]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_a_support_vector_machine_in_three_ways():
    accuracies = numbers(r"accuracy (\d\.\d+)", output_of("svc.py"))
    assert len(accuracies) == 4 and accuracies[0] == accuracies[1] == accuracies[2]
    assert min(accuracies) > 0.9  # the largest class is a third


def test_a_grid_search_over_bandwidths():
    text = output_of("grid_search.py")
    accuracies = numbers(r"held-out accuracy (\d\.\d+)", text)
    assert len(accuracies) == 2 and min(accuracies) > 0.9  # the larger class is 0.63
    assert len(numbers(r"bandwidth (\d\.?\d*)", text)) == 2


def test_nystroem_features_on_digits():
    few, whole = numbers(r"held-out accuracy (\d\.\d+)", output_of("nystroem.py"))
    assert few > whole - 0.02 and whole > 0.9


def test_a_gaussian_process_with_error_bars():
    text = output_of("gaussian_process.py")
    assert min(numbers(r"held-out R\^2 (\d\.\d+)", text)) > 0.35
    assert all(85 <= part <= 100 for part in numbers(r"(\d+) % inside", text)) and text.count("% inside") == 2


def test_alignment_helps_the_quantum_kernel():
    text = output_of("alignment.py")
    (before, after), _ = re.findall(r"alignment (\S+) -> (\S+),", text)
    assert float(after) > float(before) + 0.3
    (before, after), _ = re.findall(r"accuracy (\S+) -> (\S+)", text)
    assert float(after) > float(before) + 0.03


def test_a_grid_search_over_digits_on_worker_processes():
    (accuracy,) = numbers(
        r"held-out accuracy (\d\.\d+)", output_of("svc_digits.py", "--samples", "300", "--features", "4")
    )
    assert accuracy > 0.6  # a guess is right in one of ten cases
