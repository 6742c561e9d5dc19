"""Small networks with the interface of nn.LSTM."""

from collections.abc import Callable
from typing import Any

import pytest

from dqk import QKLSTM, QLSTM
from dqk.kernels.feature_maps import reuploading_feature_map

Network = QKLSTM | QLSTM


def qklstm(*args: Any, **options: Any) -> QKLSTM:
    return QKLSTM(*args, n_qubits=2, n_references=2, **options)


def qklstm_circuit(*args: Any, **options: Any) -> QKLSTM:
    trainable = reuploading_feature_map(2, 1, trainable="rotations")
    return QKLSTM(*args, n_references=2, gate_kernel="circuit", feature_map=trainable, **options)


def qlstm(*args: Any, **options: Any) -> QLSTM:
    return QLSTM(*args, n_qubits=2, **options)


NETWORKS: dict[str, Callable[..., Network]] = {f.__name__: f for f in (qklstm, qklstm_circuit, qlstm)}
per_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
