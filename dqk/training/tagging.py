"""Part-of-speech tagging as a task of the training loop."""

from __future__ import annotations

from torch import Tensor, nn

from dqk.data import TaggedSentence, Vocabulary
from dqk.data.batches import dropout_mask, encode, hidden_words, hide_rare_words, pad
from dqk.training.config import TrainConfig
from dqk.training.group import Group
from dqk.training.metrics import count_correct, evaluate, token_loss
from dqk.training.state import State
from dqk.training.task import Task


class Tagging(Task):
    """Sentences to tag.

    Args:
        config: batch size, seed, dropout.
        vocabulary: numbers words and tags.
        train: sentences to train on.
        evaluated: sentences that decide which epoch is best; those to train on if none are held out.
    """

    counts = True

    def __init__(
        self,
        config: TrainConfig,
        vocabulary: Vocabulary,
        train: tuple[TaggedSentence, ...],
        evaluated: tuple[TaggedSentence, ...],
    ):
        self.config = config
        self.vocabulary = vocabulary
        self.train = train
        self.evaluated = evaluated
        self.lengths = [len(sentence) for sentence in train]
        self._encoded = encode(train, vocabulary)
        self._evaluated = encode(evaluated, vocabulary)

    def describe(self) -> str:
        """Sentences, words and tags."""
        return (
            f"{len(self.train)} sentences of {sum(self.lengths)} words to train on, {len(self.vocabulary.words)} words and "
            f"{len(self.vocabulary.tags)} tags distinct"
        )

    def inputs(
        self, state: State, batch: list[int], lengths: list[int], rows: list[int]
    ) -> tuple[tuple[Tensor, Tensor, Tensor | None], Tensor]:
        """Words (B, T), lengths (B,) and dropout mask, padded, and tags (B, T)."""
        config = self.config
        part = pad([self._encoded[batch[row]] for row in rows], self.vocabulary)
        words = part.words
        if self.vocabulary.unknown_index is not None:
            hidden = hidden_words(lengths, rows, config.seed, state.epoch, state.batch)
            words = hide_rare_words(words, self.vocabulary, hidden)
        mask = None
        if config.dropout:
            mask = dropout_mask(
                [batch[row] for row in rows],
                [lengths[row] for row in rows],
                config.embedding_dim,
                config.dropout,
                config.seed,
                state.epoch,
            )
        return (words, part.lengths, mask), part.tags

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropies of words with a known tag."""
        return token_loss(outputs, targets)[0]

    def count_correct(self, outputs: Tensor, targets: Tensor) -> int:
        """Words with the right tag."""
        return count_correct(outputs, targets)

    def evaluate(self, model: nn.Module, group: Group) -> dict[str, float]:
        """Loss and accuracy."""
        score = evaluate(model, self._evaluated, self.vocabulary, self.config.batch_size, group)
        return {"eval_loss": score.loss, "eval_accuracy": score.accuracy}
