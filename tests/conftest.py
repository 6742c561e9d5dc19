"""What holds for every test: how hypothesis searches, how many threads torch takes, that no process is left behind."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from tests.processes import none_left_behind

# The default search repeats itself exactly, so that a failure belongs to the change under test.
# HYPOTHESIS_PROFILE=thorough looks for new failures.
hypothesis.settings.register_profile("repeatable", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# One torch thread: parallelism is over tiles and samples, and idle thread pools spin against each other on few cores.
torch.set_num_threads(1)

# A shell has its background jobs ignore Ctrl-C, and so would everything that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fails a test whose children outlive it; `tests.processes.session_long` excepts some."""
    with none_left_behind():
        yield
