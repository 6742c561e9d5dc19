"""The baseline of `partition`: balanced minimum cuts by networkx, which knows nothing of shared e-bits.

Choose it to see what `partition` gains. Kernighan-Lin bisection (networkx.algorithms.community), again and again: the QPUs are
halved by capacity, idle qubits fill what is free, and the gates between two qubits are the weight of their edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dqk.circuit import Circuit
from dqk.errors import BackendUnavailableError
from dqk.qpu.ebits import Interactions
from dqk.qpu.partition import Partition, checked_capacities, hops, priced


def minimum_cut(
    circuit: Circuit, capacities: Sequence[int], links: Sequence[tuple[int, int]] | None = None, *, seed: int = 0
) -> Partition:
    """An assignment by recursive Kernighan-Lin bisection, priced as `partition` prices its own.

    Args:
        circuit: as it is run.
        capacities: qubits that each QPU has room for.
        links: pairs of QPUs with a link; None for all. The cut does not look at them, the price does.
        seed: of the first bisection.

    Raises:
        BackendUnavailableError: if networkx is not installed.
        InvalidInputError: as `partition` does.
    """
    room = checked_capacities(circuit, capacities)
    hops(len(room), links)
    weights = Interactions.of(circuit).weights
    idle = sum(room) - circuit.n_qubits
    full = np.pad(weights, (0, idle))
    assignment = np.zeros(len(full), dtype=int)
    _bisect(full, list(range(len(full))), [qpu for qpu, size in enumerate(room) if size], room, seed, assignment)
    return priced(circuit, assignment[: circuit.n_qubits], room, links)


def _bisect(
    weights: np.ndarray, qubits: list[int], qpus: list[int], room: tuple[int, ...], seed: int, assignment: np.ndarray
) -> None:
    if len(qpus) == 1:
        assignment[qubits] = qpus[0]
        return
    try:
        import networkx
    except ImportError as error:
        raise BackendUnavailableError(
            f"minimum cuts need networkx, which cannot be imported ({error}); install it with: pip install 'dqk[qpu]'"
        ) from error
    half = len(qpus) // 2
    sizes = sum(room[qpu] for qpu in qpus[:half])
    graph = networkx.Graph()
    graph.add_nodes_from(qubits)
    for i, a in enumerate(qubits):
        graph.add_weighted_edges_from((a, b, int(weights[a, b])) for b in qubits[i + 1 :] if weights[a, b])
    shuffled = np.random.default_rng(seed).permutation(qubits).tolist()
    # Gives the improved second set first.
    second, first = networkx.algorithms.community.kernighan_lin_bisection(
        graph, partition=(set(shuffled[:sizes]), set(shuffled[sizes:])), seed=seed
    )
    for part, chosen in ((first, qpus[:half]), (second, qpus[half:])):
        _bisect(weights, sorted(part), chosen, room, seed + 1, assignment)
