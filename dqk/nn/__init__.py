"""Recurrent networks with quantum gates, behind the interface of `torch.nn.LSTM`."""

from dqk.nn.forecaster import SequenceForecaster
from dqk.nn.qklstm import QKLSTM
from dqk.nn.qlstm import QLSTM
from dqk.nn.tagger import SequenceTagger

__all__ = ["QKLSTM", "QLSTM", "SequenceForecaster", "SequenceTagger"]
