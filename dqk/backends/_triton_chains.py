"""Overlaps of matrix-product states by one Triton kernel for each circuit.

Choose it for bonds of up to about 4. Batched products of tiny matrices read and write every environment at every site; here those
of a pair stay in registers over a run of equal sites. With TRITON_INTERPRET=1 in the environment before Triton is imported the same
kernel runs on the CPU, slowly.
"""

from __future__ import annotations

import hashlib
import linecache
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dqk.backends import chain_source, gpu
from dqk.backends.chain import Chain
from dqk.backends.compiled.chain_terms import steps_of
from dqk.errors import BackendUnavailableError

ROWS, COLUMNS, WARPS = 8, 16, 4
"""One pair for each thread: environments fill its registers, and more make Triton convert layouts and compile for minutes."""


def squares(chain: Chain, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`|<b_j|a_i>|^2 = value 4**exponent` of encodings (V, N) and (V, M): two tensors of shape (N, M)."""
    n, m = a.shape[-1], b.shape[-1]
    a, b = (t if t.stride(-1) == 1 else t.contiguous() for t in (a, b))
    values, space = a.new_empty(n, m), a.new_empty(numbers(chain), n, m)
    exponents = torch.empty(n, m, dtype=torch.int32, device=a.device)
    given = a, b, *_tables(chain, a.device), space, values, exponents, n, m, a.stride(0), b.stride(0)
    with gpu.current(a.device):
        _kernel(chain, a.itemsize)[-(-n // ROWS), -(-m // COLUMNS)](*given, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS)
    return values, exponents


@lru_cache(maxsize=64)
def numbers(chain: Chain) -> int:
    """Real numbers that are kept for each pair."""
    return 2 * max(step.after for step in steps_of(chain))


@lru_cache(maxsize=64)
def fits(chain: Chain) -> bool:
    """Whether a circuit has a kernel."""
    # Lists of products are made only where there are few.
    return chain.work <= chain_source.MOST_PRODUCTS * len(chain.sites) and chain_source.fits(steps_of(chain))


@lru_cache(maxsize=64)
def _tables(chain: Chain, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each site's numbers begin, and at which site each run."""
    offsets = [site.offset for site in chain.sites]
    runs = [first for _, first, _ in chain_source.runs_of(steps_of(chain))]
    return torch.tensor(offsets).to(device), torch.tensor([*runs, len(offsets)], dtype=torch.int32).to(device)


@lru_cache(maxsize=64)
def _kernel(chain: Chain, itemsize: int) -> Any:
    """A circuit's kernel; Triton compiles it when it is first launched and keeps the result on disk."""
    try:
        import triton  # noqa: F401  # the source needs it
    except ImportError as error:
        raise BackendUnavailableError(
            "backend 'mps' on a GPU needs Triton for small bonds, which CUDA builds of torch bring on Linux: pip install triton; "
            "or use MPSOnDevice(fused=False)"
        ) from error
    source = chain_source.overlap_source(steps_of(chain), itemsize)
    # Triton reads the source of a function where `inspect` finds it.
    file = f"<dqk overlap {hashlib.blake2b(source.encode(), digest_size=8).hexdigest()}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    names: dict[str, Any] = {"__name__": "dqk.backends._triton_chains"}
    exec(compile(source, file, "exec"), names)
    return names["overlap"]
