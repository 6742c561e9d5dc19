"""Settings that hold for every test: how hypothesis searches, and how many threads torch takes."""

import os

import hypothesis
import torch

# The default search repeats itself exactly, so that a failure belongs to the change under test.
# HYPOTHESIS_PROFILE=thorough looks for new failures.
hypothesis.settings.register_profile("repeatable", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# One torch thread: parallelism is over tiles and samples, and idle thread pools spin against each other on few cores.
torch.set_num_threads(1)
