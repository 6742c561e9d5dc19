"""Partitions and their e-bits, against brute force, hand counts, closed forms and a simulated protocol."""

import itertools

import networkx
import numpy as np
import pennylane as qml
import pytest

from dqk.circuit import GATES, Circuit, Gate, constant, data, unitary
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import bsp_feature_map, iqp_feature_map, reuploading_feature_map, zz_feature_map
from dqk.qpu import partition as module
from dqk.qpu._mincut import minimum_cut
from dqk.qpu.ebits import Interactions, count_ebits, schmidt_coefficients
from dqk.qpu.partition import hops, kernel_circuit, partition, priced
from tests.random_circuits import random_unitary

PAULIS = (np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1]))


def made(n_qubits, *gates):
    """A circuit; gates with an angle get a data column of their own unless they have one."""
    done, columns = [], 0
    for name, wires, *operand in gates:
        angle = operand[0] if operand else None
        if angle is None and name in GATES and GATES[name].has_angle:
            angle, columns = data(columns), columns + 1
        done.append(Gate(name, wires, angle))
    return Circuit(n_qubits, tuple(done), n_data=columns)


def uniform_circuit(n_qubits, n_gates, seed):
    """CX on uniformly random pairs, RY on both qubits after each."""
    rng = np.random.default_rng(seed)
    gates = []
    for _ in range(n_gates):
        a, b = rng.choice(n_qubits, 2, replace=False).tolist()
        gates += [("cx", (a, b)), ("ry", (a,)), ("ry", (b,))]
    return made(n_qubits, *gates)


def graph_circuit(edges, n_qubits, layers):
    """As many layers of RZZ on the edges of a graph and RX on all qubits."""
    layer = [("rzz", tuple(edge)) for edge in edges] + [("rx", (q,)) for q in range(n_qubits)]
    return made(n_qubits, *layer * layers)


def chain(n_qubits, layers, order=None):
    order = list(range(n_qubits)) if order is None else order
    return graph_circuit([(order[i], order[i + 1]) for i in range(n_qubits - 1)], n_qubits, layers)


def random_of_all(seed, n_qubits=4, n_gates=10):
    """Any gates, constant unitaries among them: one-qubit gates, half of them; at most 8 on two qubits."""
    rng = np.random.default_rng(seed)
    gates, columns = [], 0
    for _ in range(n_gates):
        width = 2 if sum(len(g.wires) == 2 for g in gates) < 8 and rng.random() < 0.6 else 1
        wires = tuple(rng.choice(n_qubits, width, replace=False).tolist())
        name = rng.choice([name for name, spec in GATES.items() if spec.n_wires == width] + ["unitary"])
        if name == "unitary":
            gates.append(unitary(random_unitary(2**width, rng), *wires))
        elif GATES[name].has_angle:
            gates.append(Gate(str(name), wires, data(columns)))
            columns += 1
        else:
            gates.append(Gate(str(name), wires))
    return Circuit(n_qubits, tuple(gates), n_data=columns)


def axes(gate, position):
    """The Paulis of one of its qubits that a gate commutes with, found at two random angles."""
    found = []
    for number, pauli in enumerate(PAULIS):
        full = (
            pauli if len(gate.wires) == 1 else np.kron(*((pauli, np.eye(2)) if position == 0 else (np.eye(2), pauli)))
        )
        matrices = [gate.unitary(angle) for angle in (0.731, 2.113)]
        kept = all(np.allclose(m @ full, full @ m) for m in matrices)
        if len(gate.wires) == 1 and (gate.operand is None or gate.operand.kind == "constant"):
            kept = kept or np.allclose(matrices[0] @ full, -full @ matrices[0])
        if kept:
            found.append(number)
    return found


def ebits_by_trying(circuit, assignment, distances):
    """Walks through the circuit with open shares, for each choice of whom each gate between QPUs shares."""
    apart = [
        i for i, g in enumerate(circuit.gates) if len(g.wires) == 2 and len({assignment[wire] for wire in g.wires}) == 2
    ]
    best = None
    for choice in itertools.product((0, 1), repeat=len(apart)):
        side, cost, shares = dict(zip(apart, choice, strict=True)), 0, set()
        for index, gate in enumerate(circuit.gates):
            for position, wire in enumerate(gate.wires):
                shares = {s for s in shares if s[0] != wire or s[1] in axes(gate, position)}
            if index not in side:
                continue
            far = distances[assignment[gate.wires[0]]][assignment[gate.wires[1]]]
            rank = np.linalg.matrix_rank(
                gate.unitary(0.731).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4), tol=1e-8
            )
            if rank > 2:
                cost += 2 * far
            elif rank == 2:
                root = side[index]
                (axis,) = axes(gate, root)
                share = (gate.wires[root], axis, assignment[gate.wires[1 - root]])
                cost += far * (share not in shares)
                shares.add(share)
        best = cost if best is None else min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(25))
def test_ebits_of_random_circuits_by_trying_all_choices(seed):
    circuit = random_of_all(seed)
    distances = hops(3, [(0, 1), (1, 2)])
    rng = np.random.default_rng(seed)
    for _ in range(2):
        assignment = rng.integers(0, 3, circuit.n_qubits)
        found = count_ebits(Interactions.of(circuit), assignment, distances)
        assert found.total == ebits_by_trying(circuit, assignment, distances)


# Qubit 0 and, where there are four, qubit 1 on QPU 0, the rest on QPU 1.
HAND_COUNTED = {
    "one CX": (1, [0, 1], [("cx", (0, 1))]),
    "the same control, with a diagonal gate between": (1, [0, 1, 1], [("cx", (0, 1)), ("rz", (0,)), ("cx", (0, 2))]),
    "the same control, with RX between": (2, [0, 1, 1], [("cx", (0, 1)), ("rx", (0,)), ("cx", (0, 2))]),
    "X flips both copies": (1, [0, 1, 1], [("cx", (0, 1)), ("x", (0,)), ("cx", (0, 2))]),
    "H ends a share": (2, [0, 1, 1], [("cx", (0, 1)), ("h", (0,)), ("cx", (0, 2))]),
    "the same target: shared in the basis of X": (1, [0, 0, 1], [("cx", (0, 2)), ("cx", (1, 2))]),
    "the target is turned": (2, [0, 0, 1], [("cx", (0, 2)), ("rz", (2,)), ("cx", (1, 2))]),
    "CX back and forth": (2, [0, 1], [("cx", (0, 1)), ("cx", (1, 0))]),
    "CX, its target's CP, CX: a local gate ends the share of the target": (
        2,
        [0, 0, 1, 1],
        [("cx", (0, 2)), ("cp", (2, 3)), ("cx", (1, 2))],
    ),
    "CX, its control's CP, CX: a local gate keeps the share of the control": (
        1,
        [0, 0, 1, 1],
        [("cx", (0, 2)), ("cp", (0, 1)), ("cx", (0, 3))],
    ),
    "diagonal gates of all pairs: the smaller side is shared": (
        1,
        [0, 1, 1, 1],
        [("rzz", (0, 1)), ("cp", (2, 0)), ("crz", (3, 0)), ("rzz", (2, 3))],
    ),
    "two by two diagonal gates": (2, [0, 0, 1, 1], [("cz", pair) for pair in itertools.product((0, 1), (2, 3))]),
    "RXX, RYY: other bases": (2, [0, 1, 1], [("rxx", (0, 1)), ("rxx", (0, 2)), ("ryy", (0, 1)), ("ryy", (0, 2))]),
    "CRY: Z of its control, Y of its target": (1, [0, 1, 0], [("cry", (0, 1)), ("ry", (1,)), ("ryy", (1, 2))]),
    "SWAP": (2, [0, 1], [("swap", (0, 1))]),
    "RZZ by nothing": (0, [0, 1], [("rzz", (0, 1), constant(0.0))]),
    "three QPUs: a share for each": (2, [0, 1, 2], [("cx", (0, 1)), ("cx", (0, 2))]),
}


@pytest.mark.parametrize("name", HAND_COUNTED)
def test_hand_counted(name):
    expected, assignment, gates = HAND_COUNTED[name]
    assert priced(made(len(assignment), *gates), assignment, [4] * (max(assignment) + 1)).ebits == expected


@pytest.mark.parametrize("between", ["rotation", "flip"])
@pytest.mark.parametrize("basis", ["z", "x"])
def test_one_ebit_serves_two_gates_in_simulation(between, basis):
    """The protocol itself: e-bit on wires 3 and 4, measurements, corrections; the packet is priced at one e-bit."""
    gate, turn = (qml.IsingZZ, qml.RZ) if basis == "z" else (qml.IsingXX, qml.RX)
    inside = {"zrotation": ("rz", (0,)), "zflip": ("x", (0,)), "xrotation": ("rx", (0,))}
    inside["xflip"] = ("rz", (0,), constant(np.pi))  # Z, which anticommutes with X
    gates = [(f"r{basis * 2}", (0, 1)), inside[basis + between], (f"r{basis * 2}", (0, 2))]
    assert priced(made(3, *gates), [0, 1, 1], [1, 2]).ebits == 1

    def start():
        for wire, angle in enumerate((0.4, 1.1, -0.7)):
            qml.RY(angle, wires=wire)
            qml.RZ(2 * angle, wires=wire)

    def middle(wire, root):
        if between == "flip":  # anticommutes with the basis: on both copies
            (qml.PauliX if basis == "z" else qml.PauliZ)(wires=wire)
        elif root:
            turn(0.6, wires=wire)

    def end():
        for wire, angle in enumerate((0.3, -0.9, 0.8)):
            qml.RX(angle, wires=wire)
        return qml.probs(wires=[0, 1, 2])

    @qml.qnode(qml.device("default.qubit"))
    def whole():
        start()
        gate(0.5, wires=[0, 1])
        middle(0, True)
        gate(1.3, wires=[0, 2])
        return end()

    @qml.qnode(qml.device("default.qubit"))
    def distributed():
        start()
        qml.Hadamard(3)
        qml.CNOT([3, 4])
        if basis == "x":
            qml.Hadamard(0)
        qml.CNOT([0, 3])
        qml.cond(qml.measure(3), qml.PauliX)(wires=4)
        if basis == "x":
            qml.Hadamard(0)
            qml.Hadamard(4)
        gate(0.5, wires=[4, 1])
        middle(0, True)
        middle(4, False)
        gate(1.3, wires=[4, 2])
        if basis == "z":
            qml.Hadamard(4)
        qml.cond(qml.measure(4), qml.PauliZ if basis == "z" else qml.PauliX)(wires=0)
        return end()

    np.testing.assert_allclose(distributed(), whole(), atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_cuts_of_small_circuits_by_brute_force(seed):
    """Nothing can be shared between these gates, so that e-bits are gates between QPUs."""
    rng = np.random.default_rng(seed)
    n_qubits, room = int(rng.integers(4, 9)), ([4, 4], [3, 3, 3], [2, 5, 1])[seed % 3]
    pairs = [tuple(rng.choice(n_qubits, 2, replace=False).tolist()) for _ in range(16)]
    circuit = made(n_qubits, *((name, w) for p in pairs for name, w in [("rzz", p), *[("rx", (q,)) for q in p]]))
    fewest = min(
        sum(given[a] != given[b] for a, b in pairs)
        for given in itertools.product(range(len(room)), repeat=n_qubits)
        if all(given.count(qpu) <= size for qpu, size in enumerate(room))
    )
    assert partition(circuit, room).ebits == fewest


@pytest.mark.parametrize("seed", range(6))
def test_the_search_finds_the_best_assignment_of_small_circuits(seed, monkeypatch):
    circuit = random_of_all(seed, n_qubits=7, n_gates=40)
    exact = [partition(circuit, room).ebits for room in ([4, 3], [3, 2, 2])]
    monkeypatch.setattr(module, "_SMALL", 0)
    searched = [partition(circuit, room).ebits for room in ([4, 3], [3, 2, 2])]
    assert searched == exact


@pytest.mark.parametrize("room", [[25, 25], [10] * 5, [30, 5, 20], [7] * 8, [50], [5, 45, 45]], ids=str)
def test_chains_are_cut_into_as_few_blocks_as_fit(room):
    """Each block but one has an end inside the chain, whose RZZ costs an e-bit in each of three layers."""
    blocks = next(k for k in range(1, 9) if sum(sorted(room)[-k:]) >= 50)
    line = [(i, i + 1) for i in range(len(room) - 1)]
    assert partition(chain(50, 3), room, restarts=2).ebits == 3 * (blocks - 1)
    if blocks == len(room):  # neighbours on neighbours
        assert partition(chain(50, 3), room, line, restarts=2).ebits == 3 * (blocks - 1)


def test_chains_are_found_whatever_the_names_of_their_qubits():
    order = np.random.default_rng(0).permutation(50).tolist()
    assert partition(chain(50, 3, order), [10] * 5, restarts=2).ebits == 12


@pytest.mark.parametrize("room", [[4, 4, 4], [6, 2, 4], [5, 5, 5]], ids=str)
def test_never_more_than_any_contiguous_blocks_on_chains(room):
    circuit = kernel_circuit(bsp_feature_map(12).circuit)
    blocks = [
        np.repeat(order, [sizes[q] for q in order])
        for sizes in itertools.product(*(range(size + 1) for size in room))
        if sum(sizes) == 12
        for order in itertools.permutations(range(3))
    ]
    fewest = min(priced(circuit, given, room).ebits for given in blocks)
    assert partition(circuit, room).ebits == fewest


def random_graph_circuit(seed):
    return graph_circuit(networkx.random_regular_graph(3, 50, seed=seed).edges, 50, 3)


@pytest.mark.parametrize("room", [[25, 25], [10] * 5], ids=str)
@pytest.mark.parametrize("draw", [lambda seed: uniform_circuit(50, 100, seed), random_graph_circuit])
def test_random_circuits_of_50_qubits_need_half_the_ebits_of_random_partitions(draw, room):
    """100 CX on uniform pairs; three layers of RZZ on a random 3-regular graph. Means of 4 circuits, 20 random partitions each."""
    ours, random, cuts = [], [], []
    for seed in range(4):
        circuit = draw(seed)
        interactions, distances = Interactions.of(circuit), hops(len(room), None)
        rng = np.random.default_rng(seed)
        seats = np.repeat(np.arange(len(room)), room)
        random.append(np.mean([count_ebits(interactions, rng.permutation(seats), distances).total for _ in range(20)]))
        ours.append(partition(circuit, room, restarts=8).ebits)
        cuts.append(minimum_cut(circuit, room, seed=seed).ebits)
    assert np.mean(ours) <= np.mean(random) / 2
    assert all(a <= b for a, b in zip(ours, cuts, strict=True))  # networkx' minimum cuts


def test_entangling_all_pairs_costs_the_smaller_sides():
    """IQP: RZZ on all pairs. U(x) U(y)^dagger has them twice in one run of diagonal gates: each qubit of the smaller side once."""
    for n_qubits, room in ((6, [3, 3]), (6, [4, 4]), (9, [5, 6])):
        assert partition(kernel_circuit(iqp_feature_map(n_qubits).circuit), room).ebits == n_qubits - max(room)


def test_a_kernel_costs_at_most_twice_its_encoding():
    for circuit in (reuploading_feature_map(6, 2).circuit, zz_feature_map(6, 2).circuit, bsp_feature_map(6).circuit):
        once = partition(module.simplify_for_fidelity(circuit).circuit, [3, 3])
        twice = priced(kernel_circuit(circuit), once.assignment, [3, 3])
        assert once.ebits <= twice.ebits <= 2 * once.ebits


def test_links_on_the_way_make_an_ebit_each():
    circuit = made(2, ("cx", (0, 1)))
    found = priced(circuit, [0, 3], [1] * 4, [(0, 1), (1, 2), (2, 3)])
    assert found.ebits == 3
    assert found.between == (((0, 3), 1),)
    assert found.links == (((0, 1), 1), ((1, 2), 1), ((2, 3), 1))
    ring = [(i, (i + 1) % 6) for i in range(6)]
    graph = networkx.cycle_graph(6)
    expected = [[networkx.shortest_path_length(graph, a, b) for b in range(6)] for a in range(6)]
    assert hops(6, ring).tolist() == expected


def test_qpus_with_a_link_get_the_qubits_that_interact():
    circuit = made(4, *[("cx", pair) for pair in ((0, 1), (2, 3))] * 3)
    found = partition(circuit, [1] * 4, [(0, 2), (2, 1), (1, 3)])
    assert found.ebits == 2  # each CX over one link, all three with one e-bit
    assert {frozenset(found.assignment[:2]), frozenset(found.assignment[2:])} == {frozenset((0, 2)), frozenset((1, 3))}


def test_the_same_seed_gives_the_same_partition():
    circuit = uniform_circuit(30, 90, 1)
    first, again, other = (partition(circuit, [10] * 3, seed=seed, restarts=2) for seed in (5, 5, 6))
    assert first == again
    assert abs(other.ebits - first.ebits) <= 0.1 * first.ebits


def test_a_circuit_that_fits_one_qpu_needs_nothing():
    assert partition(uniform_circuit(30, 90, 1), [10, 30, 10], restarts=1).ebits == 0


def test_separate_parts_are_not_torn():
    edges = [(a, b) for part in ((0, 5, 9), (1, 7, 11), (2, 3), (4, 8), (6, 10)) for a, b in itertools.pairwise(part)]
    assert partition(graph_circuit(edges, 12, 2), [7, 5], restarts=2).ebits == 0


def test_schmidt_coefficients_of_known_gates():
    np.testing.assert_allclose(
        schmidt_coefficients(Gate("cx", (0, 1)).unitary()), [0.5**0.5, 0.5**0.5, 0, 0], atol=1e-12
    )
    np.testing.assert_allclose(schmidt_coefficients(Gate("swap", (0, 1)).unitary()), [0.5] * 4, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacities": [3, 2]}, "6 qubits do not fit: the QPUs have room for 3 \\+ 2 = 5"),
        ({"capacities": []}, "room for none"),
        ({"capacities": [3, -1, 9]}, "a capacity is -1"),
        ({"capacities": 6}, "expected a list such as"),
        ({"links": [(0, 1), (1, 7)]}, "link \\(1, 7\\), expected two different QPUs from 0 to 2"),
        ({"links": [(0, 0), "x"]}, "link 'x', expected two numbers"),
        ({"links": [(0, 1)]}, "no links lead from QPU 0 to QPU 2"),
        ({"restarts": -1}, "restarts is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"circuit": "zz"}, "circuit is 'zz', expected a Circuit"),
    ],
)
def test_bad_input(options, message):
    given = {"circuit": chain(6, 1), "capacities": [3, 3, 3], **options}
    with pytest.raises(InvalidInputError, match=message):
        partition(given.pop("circuit"), given.pop("capacities"), **given)


@pytest.mark.parametrize("assignment", [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 2]])
def test_bad_assignments(assignment):
    with pytest.raises(InvalidInputError, match="expected a QPU from 0 to 1 for each of 6 qubits, and at most"):
        priced(chain(6, 1), assignment, [3, 3])
