"""Training runs: configuration, loop, checkpoints, results."""
