"""The sum of gradients over ranks, in an order that never changes.

Not an all-reduce: with three or more ranks it adds in an order that depends on the place of a number in the message. Not
DistributedDataParallel, either: it makes new messages after the first step, so that a run that goes on would add in another order
than one that was not stopped. And it has nothing to hide behind the backward pass here: the largest gradient, the embedding's,
comes last.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter], size: int) -> None:
    """Replaces each gradient by its sum over all ranks: a rank sums one part of all numbers, and gives it to the others.

    That moves as much data as an all-reduce.

    Args:
        parameters: of one dtype, the same on every rank.
        size: number of ranks.
    """
    gradients = []
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    counts = [gradient.numel() for gradient in gradients]
    width = -(-sum(counts) // size)
    sent = gradients[0].new_zeros(width * size)
    torch.cat([gradient.reshape(-1) for gradient in gradients], out=sent[: sum(counts)])
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    first, *others = received.view(size, width)
    for part in others:
        first += part
    dist.all_to_all_single(sent, first.repeat(size))  # twice as fast as gloo's all_gather
    for gradient, part in zip(gradients, sent[: sum(counts)].split(counts), strict=True):
        gradient.copy_(part.view_as(gradient))
