"""Virtual time: how fast it is, how near to real time, and how good its model of noise is.

    python benchmarks/emulation.py            # all of it: some five minutes, most of it real time
    python benchmarks/emulation.py --quick    # without real time

Real time is a fleet of services on the loopback interface, started and ended here; what network and services take beside the
devices' own time is measured just before each comparison.
"""

import argparse
import json
import math
import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import machine

from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import FEATURE_MAPS
from dqk.qpu import _simulate
from dqk.qpu._virtual import Device, VirtualRun
from dqk.qpu.fleet import Fleet
from dqk.qpu.noisy import response
from dqk.qpu.profile import Noise
from dqk.qpu.qasm import parse
from dqk.qpu.realtime import compare
from dqk.scheduler import Plan, Policy

FLEETS = Path(__file__).parent.parent / "examples" / "fleets"


def report_speed() -> dict[str, Any]:
    """Jobs on 100 to 10,000 devices of different speed, with others in their queues."""
    found = {}
    print("virtual time: devices, tiles, hedged or not: seconds of this process, its memory so far")
    for devices, tiles, hedge in ((100, 10_000, True), (1_000, 100_000, True), (10_000, 1_000_000, False)):
        chance = random.Random(0)
        fleet = [
            Device(f"q{k}", (10 * chance.uniform(0.3, 3),), waits=random.Random(k).random, latency_s=0.01)
            for k in range(devices)
        ]
        plan = Plan(np.zeros((tiles, 2), np.int32), np.full(tiles, 10.0), 1)
        policy = Policy(message_s=0.0, hedge=hedge, hang_factor=math.inf)
        began = time.perf_counter()
        outcome = VirtualRun(fleet, plan, np.zeros(tiles, int), policy).run()
        seconds = time.perf_counter() - began
        assert sum(outcome.log.accepted) == tiles
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found[f"{devices}"] = {"tiles": tiles, "hedge": hedge, "seconds": seconds, "gib": gib}
        print(f"  {devices:6,} {tiles:9,} {hedge!s:5}: {seconds:5.1f} s, {gib:.2f} GiB")
    return found


def report_real_time() -> dict[str, Any]:
    """Makespan and use of the devices, of both."""
    found = {}
    print("real time beside virtual time: makespan, share of the devices' time that was charged")
    for name, entries, policy in (
        ("homogeneous4", 2400, "pull"),
        ("hetero6", 7200, "pull"),
        ("hetero6", 7200, "round_robin"),
        ("hetero6", 7200, "hedged"),
        ("outage4", 2400, "pull"),
    ):
        c = compare(Fleet.read(FLEETS / f"{name}.toml"), [entries], 300, policy)
        found[f"{name}, {policy}"] = vars(c)
        print(
            f"  {name:13} {policy:12} {c.real_s:6.2f} s and {c.virtual_s:6.2f} s ({100 * c.deviation:+.1f} %), "
            f"{100 * c.real_used:.1f} % and {100 * c.virtual_used:.1f} %"
        )
    return found


def report_noise() -> dict[str, Any]:
    """The model of noise against density matrices (PennyLane's default.mixed), for 64 entries of each map."""
    found = {}
    noise = Noise(0.001, 0.003, 0.01, 0.02)
    print("noise: largest change of an entry by errors, largest deviation of the model, seconds of both")
    for name, make in FEATURE_MAPS.items():
        feature_map = make(4)  # type: ignore[operator]
        circuit = simplify_for_fidelity(feature_map.circuit).circuit
        x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (8, feature_map.n_features)))
        angles, shared = (part.numpy() for part in feature_map.angles(x))
        i, j = (index.ravel() for index in np.indices((8, 8)))
        began = time.perf_counter()
        model = response(circuit, angles[i], angles[j], shared)
        ours = model.measured(np.arange(64), noise)
        middle = time.perf_counter()
        both = circuit.compute_uncompute()
        program = parse(both.to_openqasm())
        table = np.hstack([angles[i], angles[j]])[:, both.columns("data")]
        chunks = list(_simulate._probabilities(program, program.angles(table), noise))
        truth = np.concatenate(chunks)[:, 0]
        end = time.perf_counter()
        change, deviation = np.abs(truth - model.exact).max(), np.abs(truth - ours).max()
        found[name] = {"change": change, "deviation": deviation, "model_s": middle - began, "mixed_s": end - middle}
        print(f"  {name:12} {change:.3f} {deviation:.4f}, {middle - began:.3f} s and {end - middle:.3f} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without real time")
    given = parser.parse_args()
    result: dict[str, Any] = {"noise": report_noise(), "speed": report_speed()}
    if not given.quick:
        result["real_time"] = report_real_time()
    print(json.dumps({**result, **machine()}))


if __name__ == "__main__":
    main()
