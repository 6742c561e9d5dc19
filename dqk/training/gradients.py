"""The sum of gradients over ranks, whose order never changes.

An all-reduce of three or more ranks adds in an order that depends on the place of a number in its bucket, and
DistributedDataParallel makes new buckets after the first step: a run that goes on would add in another order than one that was not
stopped.
"""
# No `from __future__ import annotations`: torch checks the annotations of the function.

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.nn.functional import pad


def sum_in_rank_order(size: int, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """A communication hook: each rank sums a part of the bucket for all, and gives it to them.

    That moves as much data as an all-reduce does.

    Args:
        size: number of ranks.
        bucket: of gradients.

    Returns:
        The sums over all ranks, which DistributedDataParallel does not divide.
    """
    gradients = bucket.buffer()
    width = -(-len(gradients) // size)
    sent = pad(gradients, (0, width * size - len(gradients)))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    parts = received.view(size, width)
    mine = parts[0]
    for part in parts[1:]:
        mine += part
    sums = torch.empty_like(sent)
    dist.all_to_all_single(sums, mine.repeat(size))  # twice as fast as gloo's all_gather
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(sums[: len(gradients)])
    return done
