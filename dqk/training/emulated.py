"""What the errors of an emulated fleet do to a QK-LSTM: its loss where the fleet's devices measure its kernel values.

The network is trained without errors, on the paper's two sentences; then its kernel values come from devices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from dqk.backends.sampled import SampledBackend
from dqk.data import PAPER_SENTENCES, Vocabulary
from dqk.data.batches import encode, pad
from dqk.nn import QKLSTM, SequenceTagger
from dqk.training.metrics import evaluate, token_loss

_EPOCHS, _RATE = 20, 0.05  # to where errors can be seen: a network that is sure of every word hardly answers to them


def qklstm_loss(device: SampledBackend, n_qubits: int, shots: int) -> dict[str, float]:
    """Mean loss of a word in nats, with a device and exactly.

    Args:
        device: measures the kernel values.
        n_qubits: of the network's circuits.
        shots: of each value.
    """
    state, exact = _trained(n_qubits)
    vocabulary = Vocabulary.of(PAPER_SENTENCES, open=False)
    with torch.random.fork_rng(devices=[]):  # the network's start is drawn, and then replaced
        model = _tagger(vocabulary, n_qubits, backend=device, shots=shots)
    model.load_state_dict(state)
    with torch.no_grad():
        found = evaluate(model, encode(PAPER_SENTENCES, vocabulary), vocabulary, len(PAPER_SENTENCES))
    return {"lstm_loss": found.loss, "exact_lstm_loss": exact}


@lru_cache(maxsize=4)
def _trained(n_qubits: int) -> tuple[dict[str, Any], float]:
    vocabulary = Vocabulary.of(PAPER_SENTENCES, open=False)
    sentences = encode(PAPER_SENTENCES, vocabulary)
    batch = pad(sentences, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _tagger(vocabulary, n_qubits, backend="reference")  # nothing to compile
        optimiser = torch.optim.Adam(model.parameters(), _RATE)
        for _ in range(_EPOCHS):
            optimiser.zero_grad()
            total, count = token_loss(model(batch.words, batch.lengths), batch.tags)
            (total / count).backward()
            optimiser.step()
    with torch.no_grad():
        exact = evaluate(model, sentences, vocabulary, len(sentences)).loss
    return model.state_dict(), exact


def _tagger(vocabulary: Vocabulary, n_qubits: int, **options: Any) -> SequenceTagger:
    recurrent = QKLSTM(8, 6, batch_first=True, n_qubits=n_qubits, dtype=torch.float64, **options)
    return SequenceTagger(recurrent, vocabulary.n_rows, 8, len(vocabulary.tags))
