"""The optimiser of a run: which parameters have which step size, and how it changes with the steps.

The factor of a schedule follows from the number of the step alone, so that a run that goes on needs no more than that.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from dqk.errors import InvalidInputError
from dqk.nn import QKLSTM, QLSTM
from dqk.training.config import TrainConfig

_CIRCUIT: dict[type, tuple[str, ...]] = {
    QKLSTM: ("projection.weight", "projection.bias", "references", "params"),
    QLSTM: ("weights",),
}
"""Parameters of a cell that decide the angles of its circuits."""


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser, with a group of its own for what decides the circuits' angles if that has another step size."""
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[config.optimizer]
    if config.circuit_learning_rate is None:
        return kind(model.parameters(), lr=config.learning_rate)
    circuit = circuit_parameters(model)
    own = {id(parameter) for parameter in circuit}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in own]
    if not circuit:
        raise InvalidInputError("--circuit-learning-rate: this model has no trainable parameter that decides an angle")
    groups = [{"params": rest}, {"params": circuit, "lr": config.circuit_learning_rate}]
    return kind(groups, lr=config.learning_rate)


def circuit_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What decides the angles of circuits: projections, learned references and the circuits' own parameters."""
    found = []
    for network in model.modules():
        names = _CIRCUIT.get(type(network), ())
        for cell in getattr(network, "cells", ()) if names else ():
            found += [parameter for name, parameter in cell.named_parameters() if name in names]
    return found


def factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """What step sizes are multiplied by.

    Args:
        schedule: `constant`; `linear` or `cosine`, which end at zero after the last step.
        step: number of the step, from 0.
        steps: of the run.
        warmup: steps in which the factor rises in a line, `(step + 1) / warmup`.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": (1.0 + math.cos(math.pi * done)) / 2}[schedule]


def set_step_size(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, steps: int) -> None:
    """Gives the optimiser the step sizes of a step."""
    times = factor(config.schedule, step, steps, config.warmup_steps)
    rates = (config.learning_rate, config.circuit_learning_rate)
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = times * rate  # type: ignore[operator]
