"""From a configuration to a model, and what its circuits amount to."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.data import Vocabulary
from dqk.errors import DQKError, InvalidInputError, MemoryBoundError, UnsupportedError
from dqk.kernels import FeatureMap
from dqk.kernels.feature_maps import FEATURE_MAPS
from dqk.nn import QKLSTM, QLSTM, SequenceForecaster, SequenceTagger
from dqk.nn.kernel_cell import KernelCell
from dqk.nn.options import TRAINABLE_KERNEL, TRAINABLE_MAP
from dqk.training.config import LAYERED_MAPS, OPTIONS, TrainConfig
from dqk.training.options import flag

_ARGUMENT = re.compile(rf"\b({'|'.join(OPTIONS)})=(?:'([^']*)'|(\w+))")
_NAME = re.compile(rf"(?<!-)\b({'|'.join(name for name in OPTIONS if '_' in name)})\b")  # the others are words, too
_TYPED = {
    TRAINABLE_MAP: "--feature-map reuploading --trainable rotations",
    TRAINABLE_KERNEL: "--kernel fidelity with --feature-map reuploading --trainable rotations",
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build_tagger(config: TrainConfig, vocabulary: Vocabulary) -> SequenceTagger:
    """A tagger with freshly drawn parameters, the same for the same seed.

    Sets torch's global seed.

    Args:
        config: a resolved configuration.
        vocabulary: its rows and tags give the sizes.

    Raises:
        InvalidInputError: names what is wrong with the options of the network.
        UnsupportedError: if the backend cannot run the circuits.
        MemoryBoundError: if the parameters do not fit into memory.
    """
    with _in_terms_of_options(f"--embedding-dim={config.embedding_dim}, {vocabulary.n_rows} words"):
        return _tagger(config, vocabulary)


def build_forecaster(config: TrainConfig, training_inputs: Tensor) -> SequenceForecaster:
    """A forecaster with freshly drawn parameters, the same for the same seed.

    Sets torch's global seed.

    Args:
        config: a resolved configuration.
        training_inputs: what references may start from, shape (M, 1).

    Raises:
        InvalidInputError: names what is wrong with the options of the network.
        UnsupportedError: if the backend cannot run the circuits.
        MemoryBoundError: if the parameters do not fit into memory.
    """
    with _in_terms_of_options(f"--hidden-dim={config.hidden_dim}, --horizon={config.horizon}"):
        torch.manual_seed(config.seed)
        options = {"reference_data": training_inputs} if config.references == "data" else {}
        return SequenceForecaster(_recurrent(config, 1, options), config.horizon)


@contextlib.contextmanager
def _in_terms_of_options(sizes: str) -> Iterator[None]:
    """Errors of networks in the words of the command line."""
    try:
        yield
    except (InvalidInputError, MemoryBoundError, UnsupportedError) as error:
        # The network calls its arguments as Python does.
        raise type(error)(_typed(str(error))) from error
    except RuntimeError as error:
        if isinstance(error, DQKError) or "allocate memory" not in str(error):
            raise
        raise MemoryBoundError(f"the parameters do not fit into memory: {sizes}; make one of them smaller") from error


def _typed(text: str) -> str:
    """A message with arguments of Python code as they are typed on a command line."""
    for code, options in _TYPED.items():
        text = text.replace(code, options)
    text = _ARGUMENT.sub(lambda found: f"{flag(found[1])} {found[2] or found[3]}", text)
    return _NAME.sub(lambda found: flag(found[1]), text)


def _tagger(config: TrainConfig, vocabulary: Vocabulary) -> SequenceTagger:
    torch.manual_seed(config.seed)
    embedding: nn.Embedding | None = None
    options: dict[str, Any] = {}
    if config.model == "qklstm" and config.references == "data":  # references start as words, so these come first
        embedding = nn.Embedding(
            vocabulary.n_rows, config.embedding_dim, padding_idx=vocabulary.padding_index, dtype=DTYPES[config.dtype]
        )
        with torch.no_grad():
            embedding.weight.mul_(config.embedding_std)
        options["reference_data"] = embedding.weight.detach()[vocabulary.first_word_row :]
    tagger = SequenceTagger(
        _recurrent(config, config.embedding_dim, options),
        vocabulary.n_rows,
        config.embedding_dim,
        len(vocabulary.tags),
        vocabulary.padding_index,
        config.embedding_std,
        config.dropout,
    )
    if embedding is not None:
        tagger.embedding.load_state_dict(embedding.state_dict())
    return tagger


def _recurrent(config: TrainConfig, input_size: int, options: dict[str, Any]) -> nn.Module:
    hidden = config.hidden_dim
    shared: Any = {"batch_first": True, "bidirectional": config.bidirectional, "dtype": DTYPES[config.dtype]}
    if config.model == "qklstm":
        return _qklstm(config, input_size, options)
    if config.model == "qlstm":
        quantum: Any = {"n_qubits": config.n_qubits, "n_layers": config.layers or 1, "backend": config.backend}
        return QLSTM(input_size, hidden, **quantum, **shared)
    return nn.LSTM(input_size, hidden, **shared)


def _qklstm(config: TrainConfig, input_size: int, options: dict[str, Any]) -> QKLSTM:
    return QKLSTM(
        input_size,
        config.hidden_dim,
        batch_first=True,
        bidirectional=config.bidirectional,
        n_references=config.n_references,
        references=config.references,  # type: ignore[arg-type]
        readout=config.readout,  # type: ignore[arg-type]
        gate_kernel=config.gate_kernel,  # type: ignore[arg-type]
        kernel_scale=config.kernel_scale,
        bandwidth=config.bandwidth,
        reference_space=config.reference_space,  # type: ignore[arg-type]
        kernel=config.kernel,  # type: ignore[arg-type]
        **_kernel_options(config),
        dtype=DTYPES[config.dtype],
        **options,
    )


def _kernel_options(config: TrainConfig) -> dict[str, Any]:
    if config.kernel != "fidelity":
        return {"n_qubits": config.n_qubits}
    return {"feature_map": feature_map_of(config), "backend": config.backend, "shots": config.shots}


def feature_map_of(config: TrainConfig) -> FeatureMap:
    """The feature map that a configuration names; the network multiplies its bandwidth by `config.bandwidth`."""
    options: dict[str, Any] = {}
    if config.layers is not None:
        options[LAYERED_MAPS[config.feature_map]] = config.layers
    if config.feature_map == "reuploading" and config.trainable != "none":
        options["trainable"] = config.trainable
    return FEATURE_MAPS[config.feature_map](config.n_qubits, **options)  # type: ignore[operator]


def require_measurable(model: nn.Module) -> None:
    """Refuses what the device of a model's kernel would refuse, such as its shots, before there is a run folder.

    Raises:
        UnsupportedError: says what the device takes.
    """
    if isinstance(model.recurrent, QKLSTM):
        model.recurrent.rehearse()


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values, as torch registers them."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def kernel_of(model: nn.Module) -> str | None:
    """What the kernel of a model's QK-LSTM amounts to, None for another network."""
    recurrent = model.recurrent
    if not isinstance(recurrent, QKLSTM):
        return None
    cell: Any = recurrent.cells[0]
    if isinstance(cell, KernelCell):
        return f"{cell.kernels[0]}, without circuits"
    return describe_kernel(cell.feature_map.circuit)


def kernel_fingerprint(model: nn.Module) -> dict[str, Any]:
    """What the kernel of a model's QK-LSTM computes, as plain data to compare; empty for another network."""
    if not isinstance(model.recurrent, QKLSTM):
        return {}
    cell: Any = model.recurrent.cells[0]
    if isinstance(cell, KernelCell):
        return {"kernel": str(cell.kernels[0])}
    feature_map: FeatureMap = cell.feature_map
    circuit = simplify_for_fidelity(feature_map.circuit).circuit
    angles = repr((feature_map.declared, feature_map.bandwidth))
    return {
        "feature map": feature_map.name,
        "qubits": circuit.n_qubits,
        "gates that matter": len(circuit.gates),
        "circuit": circuit.digest[:16],
        "angles": hashlib.sha256(angles.encode()).hexdigest()[:16],
    }


def describe_kernel(circuit: Circuit) -> str:
    """What a fidelity kernel amounts to once the gates that cannot matter are gone, in a sentence or two.

    Example:
        >>> from dqk.kernels.feature_maps import qklstm_feature_map
        >>> print(describe_kernel(qklstm_feature_map(4).circuit))
        3 of 15 gates cancel (3 cx): the kernel is a product of 4 one-qubit kernels, without entanglement
    """
    found = simplify_for_fidelity(circuit)
    kinds = Counter(entry.gate.name for entry in found.removed)
    names = ", ".join(f"{count} {name}" for name, count in kinds.items())
    total = len(circuit.gates)
    text = f"{len(found.removed)} of {total} gates cancel ({names})" if found.removed else f"all {total} gates matter"
    if found.circuit.is_product:
        text += f": the kernel is a product of {circuit.n_qubits} one-qubit kernels, without entanglement"
    if found.dead_shared:
        text += f"; trainable angles {found.dead_shared} cannot influence it"
    return text
