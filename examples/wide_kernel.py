"""Kernels that are wider than a QPU: e-bits or cuts? Prints the tables of wide_kernel.md.

    python examples/wide_kernel.py

Needs the extra `qpu` (PennyLane cuts the circuits, networkx makes the baseline).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from dqk import FidelityKernel
from dqk.circuit import Circuit, Gate, data
from dqk.kernels import FeatureMap
from dqk.kernels.feature_maps import (
    bsp_feature_map,
    iqp_feature_map,
    ising_feature_map,
    reuploading_feature_map,
    zz_feature_map,
)
from dqk.qpu._cutting import cut_value
from dqk.qpu._mincut import minimum_cut
from dqk.qpu.cutting import cut_wires
from dqk.qpu.ebits import Interactions, count_ebits
from dqk.qpu.partition import hops, kernel_circuit, partition
from dqk.qpu.wide import compare, seconds, times


def two_samples(feature_map: FeatureMap) -> tuple[np.ndarray, np.ndarray]:
    """Uniform in (-1, 1), and the angles of a kernel's circuit for them."""
    samples = np.random.default_rng(0).uniform(-1, 1, (2, feature_map.n_features))
    return samples, feature_map.finite_angles(torch.tensor(samples), None)[0].numpy().ravel()


def maps() -> None:
    """Twelve qubits on two QPUs of six."""
    print("12 qubits on 6 + 6: e-bits a shot, e-bits or cuts for the accuracy of 1,000 shots")
    for feature_map in (
        bsp_feature_map(12),
        ising_feature_map(12, 1),
        ising_feature_map(12, 2),
        reuploading_feature_map(12, 2),
        zz_feature_map(12, 2, "linear"),
        iqp_feature_map(12),
        zz_feature_map(12, 2),
    ):
        angles = two_samples(feature_map)[1]
        found = compare(kernel_circuit(feature_map.circuit), [6, 6], data=angles)
        even = "never" if found.break_even_hz is None else f"{found.break_even_hz:.2g} Hz"
        print(
            f"  {feature_map.name:12} {found.partition.nonlocal_gates:4} gates {found.partition.ebits:3} e-bits  "
            f"{seconds(found.distributed.time_s):>9} ({times(found.distributed.overhead_log10)} the shots)  "
            f"cuts {seconds(found.cut.time_s):>14} ({times(found.cut.overhead_log10)})  even at {even}"
        )


def cut_kernels() -> None:
    """What `qml.cut_circuit` gives, against the uncut kernel."""
    print("wires cut by qml.cut_circuit")
    for feature_map, room in ((bsp_feature_map(4), [3, 3]), (bsp_feature_map(6), [4, 4]), (bsp_feature_map(6), [3, 3])):
        (x, y), angles = two_samples(feature_map)
        circuit = kernel_circuit(feature_map.circuit)
        cuts = cut_wires(circuit, room)
        name = f"  {feature_map.n_qubits} qubits on {room[0]} + {room[1]}:"
        if cuts is None:
            print(f"{name} no room for the qubits that cuts add")
            continue
        found, exact = cut_value(circuit, cuts, angles), FidelityKernel(feature_map)(x[None], y[None])[0, 0]
        print(
            f"{name} {len(cuts.cuts)} cuts, fragments of {cuts.widths}, {found.circuits} circuits, "
            f"value off by {abs(found.value - exact):.0e}"
        )


def random_circuits(n_circuits: int) -> None:
    """Fifty qubits: means over circuits."""
    print("50 qubits, CX on uniform pairs with RY after each: share of a random balanced partition's e-bits")
    for n_gates in (50, 100, 150, 200, 400, 800):
        shares = []
        for room in ([25, 25], [10] * 5):
            rows = []
            for seed in range(n_circuits):
                rng = np.random.default_rng(seed)
                gates: list[Gate] = []
                for number in range(n_gates):
                    pair = tuple(rng.choice(50, 2, replace=False).tolist())
                    gates += [Gate("cx", pair), *(Gate("ry", (q,), data(2 * number + k)) for k, q in enumerate(pair))]
                circuit = Circuit(50, tuple(gates), n_data=2 * n_gates)
                packed, seats = Interactions.of(circuit), np.repeat(np.arange(len(room)), room)
                random = [count_ebits(packed, rng.permutation(seats), hops(len(room), None)).total for _ in range(20)]
                rows.append([partition(circuit, room).ebits, minimum_cut(circuit, room).ebits, np.mean(random)])
            ours, cut, chance = np.mean(rows, axis=0)
            shares.append(f"{len(room)} QPUs {ours / chance:.2f} (networkx {cut / chance:.2f})")
        print(f"  {n_gates:4} gates: " + ", ".join(shares))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--circuits", type=int, default=8, help="random circuits to average over, 0 for none")
    given = parser.parse_args()
    maps()
    cut_kernels()
    if given.circuits:
        random_circuits(given.circuits)
