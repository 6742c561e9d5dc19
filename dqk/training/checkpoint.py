"""Checkpoints: tensors and a JSON document in one safetensors file, with a checksum over both.

Nothing in such a file is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dqk.errors import CheckpointError
from dqk.training.files import write_atomic

_FORMAT = 1


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: replaced if it exists.
        tensors: by name.
        document: plain data for JSON.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": _FORMAT, **document})
    write_atomic(path, save(contiguous, metadata={"document": text, "sha256": _digest(contiguous, text)}))


def load_checkpoint(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint and checks that it is whole.

    Args:
        path: a file that `save_checkpoint` wrote.
        remedy: what the user can do if it is not usable; ends the error message.

    Returns:
        Tensors by name, on the CPU, and the document.

    Raises:
        CheckpointError: if the file is missing, damaged or of an unknown format.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {remedy}") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); {remedy}") from error
    text = metadata.get("document", "")
    if _digest(tensors, text) != metadata.get("sha256"):
        raise CheckpointError(f"{path} is damaged (its checksum does not match); {remedy}")
    document = json.loads(text)
    if document.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{path} was written by another version of dqk; {remedy}")
    return tensors, document


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def pack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name has the prefix, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Gives a model the parameters of a checkpoint.

    Raises:
        CheckpointError: if they belong to another model.
    """
    try:
        model.load_state_dict(unpack("model", tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit the model that config.json describes; were files of two runs mixed? ({error})"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as tensors named `<index of the parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives an optimiser made from the same configuration the state that `optimizer_tensors` took from it."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
