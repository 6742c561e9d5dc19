"""What a circuit costs each backend, in counts that `dqk._cost` turns into seconds.

Counts follow from circuit, dtype and tile side alone, the same on every machine. They were fitted to measurements of the Ising,
re-uploading, BSP and ZZ maps on 4 to 20 qubits (`benchmarks/planner.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from dqk._cost import Effort
from dqk.backends.chain import Chain
from dqk.backends.compiled import VECTOR_BYTES
from dqk.circuit import Circuit

_CACHE_BYTES = 2**23  # of one core's share of the last cache


def dense_effort(circuit: Circuit, kind: str) -> Effort:
    """Of a backend that applies gate after gate to whole states."""
    size = 2.0 ** min(circuit.n_qubits, 60)
    return Effort(kind, len(circuit.gates), len(circuit.gates) * size, 1, size)


def statevector_effort(circuit: Circuit, itemsize: int, side: int) -> Effort:
    """Of `StatevectorBackend`: passes over a vector of samples, then tiles of panels."""
    from dqk.backends.compiled.program import passes_of

    angles, passes, reorders = passes_of(circuit)
    size = 2.0 ** min(circuit.n_qubits, 60)
    pair = 2 * VECTOR_BYTES // itemsize  # samples that are computed together; small tiles waste some of them
    padded = -(-side // pair) * pair
    outside = min(
        3.0, max(0.0, math.log2(2 * VECTOR_BYTES * size / _CACHE_BYTES))
    )  # a vector of states that no cache holds
    from_memory = 32 * size * side * itemsize / 8 > _CACHE_BYTES  # two blocks
    # The product state and the panels, in passes; fresh pages of wide states are dear.
    written = (4.5 if from_memory else 2.5) + 5 * outside
    return Effort(
        "statevector",
        angles + 4,
        padded / side * size * (passes * (1 + (4 if reorders else 1.3) * outside) + written * (1 + 1.3 * outside)),
        1,
        (padded / side) ** 2 * size * (1 + 36 / padded * from_memory),
    )


def product_effort(circuit: Circuit) -> Effort:
    """Of product states: a Bloch vector for each qubit."""
    return Effort("mps", len(circuit.gates), 0, 1, circuit.n_qubits)


def chain_effort(chain: Chain, width: int, side: int, generated: bool) -> Effort:
    """Of exact matrix-product states: steps that make tensors, for `width` samples at a time, then overlaps of tiles.

    Overlaps by torch have a fixed part for each site and tile, and take longer where a product adds up few numbers.
    """
    steps, products = len(chain.program.steps), len(chain.program.products)
    encode = products * (1 + 180 / width)
    if generated:
        return Effort("mps-chain", steps, encode, 1, chain.work)
    thin, left = 0, set[int]()
    for site in chain.sites:
        right, here = set(site.bond), left | set(site.variables)
        if len(here - chain.physical - right) <= 2:
            thin += 2 ** (len(here) + len(left - chain.physical))
        left = right
    return Effort("mps-plain", steps, encode, len(chain.sites) / side**2, chain.work + 16 * thin)


def truncated_effort(circuit: Circuit, bonds: Sequence[int]) -> Effort:
    """Of truncated states: a batched SVD for every gate on two neighbours, swaps included; overlaps by matrix products."""
    pairs, work = 0, 0.0
    one = [(2.0 * max(pair)) ** 3 for pair in zip(bonds, bonds[2:], strict=False)]  # of a gate on k and k + 1
    until = list(accumulate(one, initial=0.0))
    for gate in circuit.gates:
        if len(gate.wires) == 2:
            low, high = sorted(gate.wires)
            pairs += 2 * (high - low) - 1
            work += until[high] + until[high - 1] - 2 * until[low]
    numbers = sum(4.0 * a * b * max(a, b) for a, b in zip(bonds, bonds[1:], strict=False))
    return Effort("mps-truncated", pairs, work, len(bonds) - 1, numbers)
