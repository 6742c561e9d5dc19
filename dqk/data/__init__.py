"""Datasets: tagged sentences, the words and tags in them, and padded batches. Imports no kernel and no network."""

from dqk.data.batches import Batch, collate, epoch_batches, sorted_batches
from dqk.data.sentences import PAPER_SENTENCES, TaggedSentence
from dqk.data.treebank import read_conllu
from dqk.data.vocabulary import Vocabulary

__all__ = [
    "PAPER_SENTENCES",
    "Batch",
    "TaggedSentence",
    "Vocabulary",
    "collate",
    "epoch_batches",
    "read_conllu",
    "sorted_batches",
]
