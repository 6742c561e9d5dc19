"""Networks that may not remember, and forecasters around any network."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dqk.errors import InvalidInputError
from dqk.nn import QKLSTM, QLSTM, SequenceForecaster
from dqk.nn.no_recurrence import NoRecurrence

NETWORKS = {
    "qklstm": lambda: QKLSTM(
        3, 4, n_qubits=2, n_references=2, batch_first=True, backend="reference", dtype=torch.float64
    ),
    "qlstm": lambda: QLSTM(3, 4, n_qubits=2, batch_first=True, backend="reference", dtype=torch.float64),
    "lstm": lambda: nn.LSTM(3, 4, batch_first=True, bidirectional=True, dtype=torch.float64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_is_a_sequence_of_its_own(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    forgetful, x = NoRecurrence(network), torch.randn(2, 5, 3, dtype=torch.float64)
    output, _ = forgetful(x)
    for b in range(2):
        for t in range(5):
            torch.testing.assert_close(output[b, t], network(x[b : b + 1, t : t + 1])[0][0, 0])
    assert not torch.allclose(output, network(x)[0])  # the network itself does remember
    packed = pack_padded_sequence(x, torch.tensor([2, 5]), batch_first=True, enforce_sorted=False)
    unpacked, _ = pad_packed_sequence(forgetful(packed)[0], batch_first=True)
    torch.testing.assert_close(unpacked[1], output[1])
    torch.testing.assert_close(unpacked[0, :2], output[0, :2])
    assert sum(p.numel() for p in forgetful.parameters()) == sum(p.numel() for p in network.parameters())


def test_a_forecaster_reads_the_last_output() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(2, 5, batch_first=True)
    forecaster, x = SequenceForecaster(network, 3), torch.randn(4, 6, 2)
    torch.testing.assert_close(forecaster(x), forecaster.head(network(x)[1][0][0]))
    assert forecaster(x).shape == (4, 3)


def test_forecasters_that_cannot_be() -> None:
    with pytest.raises(InvalidInputError, match="horizon is 0.*batch_first=False.*bidirectional=True"):
        SequenceForecaster(nn.LSTM(1, 2, bidirectional=True), 0)
    with pytest.raises(InvalidInputError, match="recurrent is a Linear"):
        SequenceForecaster(nn.Linear(1, 2))
    with pytest.raises(InvalidInputError, match=r"x has shape \(3, 2\)"):
        SequenceForecaster(nn.LSTM(1, 2, batch_first=True))(torch.zeros(3, 2))
