"""Corpora and options for short runs."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.corpus import write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.conllu", 30)


@pytest.fixture
def small(corpus: Path) -> dict[str, Any]:
    """A run of 3 batches an epoch with every kind of state: momentum, hidden words, held-out sentences."""
    options = {"data": str(corpus), "embedding_dim": 6, "hidden_dim": 5, "batch_size": 8, "epochs": 3}
    return {**options, "learning_rate": 0.05, "n_qubits": 2, "n_references": 3, "seed": 1}
