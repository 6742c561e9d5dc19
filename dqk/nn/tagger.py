"""A sequence tagger around any recurrent network with `nn.LSTM`'s interface."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dqk.errors import InvalidInputError
from dqk.nn.recurrent import whole_number


class SequenceTagger(nn.Module):
    """Embedding, recurrent network, linear head: one score per tag for every token.

    Args:
        recurrent: `QKLSTM`, `QLSTM` or `nn.LSTM`, with `batch_first=True` and `input_size` equal to `embedding_dim`.
        vocabulary_size: number of distinct tokens, with those for padding and unknown words if there are any.
        embedding_dim: number of features of a token.
        n_tags: number of tags.
        padding_index: the token that fills up short sequences; its embedding is zero and is not trained.
        embedding_std: standard deviation of the embeddings at the start. Small ones leave more to the context of a token
            that training has seen rarely.
        dropout: part of the embeddings' values that are zeroed at random in training.

    Raises:
        InvalidInputError: names everything about the arguments that cannot work.

    Example:
        >>> import torch
        >>> from dqk.nn import QKLSTM, SequenceTagger
        >>> tagger = SequenceTagger(QKLSTM(8, 6, batch_first=True, backend="reference"), 9, 8, n_tags=3)
        >>> tagger(torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.tensor([3, 2])).shape
        torch.Size([2, 3, 3])
    """

    def __init__(
        self,
        recurrent: nn.Module,
        vocabulary_size: int,
        embedding_dim: int,
        n_tags: int,
        padding_index: int | None = None,
        embedding_std: float = 1.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        problems = whole_number("vocabulary_size", vocabulary_size) + whole_number("embedding_dim", embedding_dim)
        problems += whole_number("n_tags", n_tags)
        if not problems and padding_index is not None and not 0 <= padding_index < vocabulary_size:
            problems.append(
                f"padding_index is {padding_index}, expected None or a token from 0 to {vocabulary_size - 1}"
            )
        if not (isinstance(embedding_std, int | float) and math.isfinite(embedding_std) and embedding_std > 0):
            problems.append(f"embedding_std is {embedding_std!r}, expected a finite number above 0")
        if not (isinstance(dropout, int | float) and 0 <= dropout < 1):
            problems.append(f"dropout is {dropout!r}, expected a probability from 0 to less than 1")
        if not hasattr(recurrent, "hidden_size") or not hasattr(recurrent, "batch_first"):
            problems.append(f"recurrent is a {type(recurrent).__name__}, expected a QKLSTM, QLSTM or nn.LSTM")
        else:
            if not recurrent.batch_first:
                problems.append("recurrent has batch_first=False, expected True")
            if recurrent.input_size != embedding_dim:
                problems.append(
                    f"recurrent has input_size={recurrent.input_size}, expected embedding_dim={embedding_dim}"
                )
        if problems:
            raise InvalidInputError("SequenceTagger cannot be built: " + "; ".join(problems))
        like = next(recurrent.parameters())
        place: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        width: Any = getattr(recurrent, "proj_size", 0) or recurrent.hidden_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim, padding_idx=padding_index, **place)
        with torch.no_grad():
            self.embedding.weight.mul_(embedding_std)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = recurrent
        self.head = nn.Linear(width * (2 if recurrent.bidirectional else 1), n_tags, **place)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, dropout_mask: Tensor | None = None) -> Tensor:
        """Scores of the tags.

        Args:
            tokens: token numbers, shape (B, T), padded at the end.
            lengths: number of tokens of every sequence, shape (B,), each from 1 to T; None if all have T. What
                follows a sequence's end changes none of its scores.
            dropout_mask: factors for the embeddings, shape (B, T, embedding_dim), instead of dropout that is drawn here
                from torch's global generator.

        Returns:
            Logits, shape (B, T, n_tags); those of padding mean nothing.

        Raises:
            InvalidInputError: for another shape, impossible lengths or a token that is not in the vocabulary.
        """
        if tokens.dim() != 2 or tokens.dtype not in (torch.int64, torch.int32):
            raise InvalidInputError(
                f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}, expected integers of shape (B, T)"
            )
        try:
            embedded = self.embedding(tokens)
        except IndexError as error:
            found, last = f"{int(tokens.min())} to {int(tokens.max())}", self.embedding.num_embeddings - 1
            raise InvalidInputError(f"tokens go from {found}, expected 0 to {last}") from error
        embedded = self.dropout(embedded) if dropout_mask is None else embedded * dropout_mask.to(embedded)
        if lengths is None:
            return self.head(self.recurrent(embedded)[0])
        lengths = torch.as_tensor(lengths).cpu()
        n_steps = tokens.shape[1]
        if lengths.shape != tokens.shape[:1] or not bool(((lengths >= 1) & (lengths <= n_steps)).all()):
            raise InvalidInputError(
                f"lengths are {lengths.tolist()}, expected {len(tokens)} numbers from 1 to {n_steps}"
            )
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=n_steps)
        return self.head(output)
