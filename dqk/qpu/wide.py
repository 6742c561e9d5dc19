"""Circuits that are wider than each QPU: distributed with e-bits, or cut and run without entanglement?

Choose it to see which of the two takes less time for the same accuracy, and from which e-bit rate on. The model:

- Both are asked for the statistical error that `shots` runs of the uncut circuit have, at most `1 / (2 sqrt(shots))` for a
  probability. Gates and readout are as good in both and are left out.
- *Distributed*: a shot takes `shot_s` and the time in which the busiest link makes its e-bits; links work at once. A link makes
  Werner states of fidelity F. An e-bit over h of them keeps `l**h` of `l = (4 F - 1) / 3`, is right with probability
  `(1 + 3 l**h) / 4`, and otherwise puts a Pauli error into the circuit. So the value is off by at most 1 minus the probability
  that all are right.
- Where that is more than the statistical error it is corrected by probabilistic error cancellation (Temme, Bravyi & Gambetta,
  arXiv 1612.02058), with `gamma = (3 / l**h - 1) / 2` for each e-bit: the inverse of a depolarising channel is
  `a 1 - b (X + Y + Z)` with `a = (3 / l + 1) / 4` and `b = (1 / l - 1) / 4`.
- *Cut*: the QPUs run their fragments side by side, with `gamma**2` times the shots, see `cutting`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dqk.circuit import Circuit
from dqk.errors import InvalidInputError, real_number, whole_number
from dqk.qpu.cutting import GateCuts, WireCuts, cut_gates, cut_wires
from dqk.qpu.partition import Partition, hops, partition

Way = Literal["distributed", "cut", "neither"]


@dataclass(frozen=True)
class Cost:
    """What a value costs in one of the two ways.

    Attributes:
        overhead_log10: logarithm of how many times the shots of the uncut circuit it needs for the same statistical error.
        time_s: seconds for them; infinite where no float holds them.
        error: root mean square of statistical error and bias, at most, after that time.
        error_at_shots: the same if there are no more shots than `shots`, and nothing is corrected.
    """

    overhead_log10: float
    time_s: float
    error: float
    error_at_shots: float


@dataclass(frozen=True)
class Comparison:
    """Both ways.

    Attributes:
        partition: qubits of the QPUs, and e-bits.
        gate_cuts: the same qubits with the gates between QPUs cut.
        wire_cuts: cuts for `qml.cut_circuit`; None if none were found whose fragments fit.
        shots: that the uncut circuit would take.
        ebit_s: seconds of a shot for e-bits.
        bias: how far e-bits can shift a value that is not corrected.
        corrected: whether that is more than the statistical error, so that it is corrected.
        distributed: cost with e-bits.
        cut: cost of the cheaper cuts.
        cut_by: which cuts these are.
        cheaper: which way takes less time; `neither` if no gate is between QPUs.
        break_even_hz: e-bit rate of each link at which both take as long; None if cutting is the cheaper one at any, 0 if
            cutting takes longer than any float says.
        recommendation: in a sentence.
    """

    partition: Partition
    gate_cuts: GateCuts
    wire_cuts: WireCuts | None
    shots: int
    ebit_s: float
    bias: float
    corrected: bool
    distributed: Cost
    cut: Cost
    cut_by: Literal["gates", "wires"]
    cheaper: Way
    break_even_hz: float | None
    recommendation: str


def compare(
    circuit: Circuit,
    capacities: Sequence[int],
    shots: int = 1000,
    link_fidelity: float = 0.95,
    ebit_rate_hz: float = 100.0,
    *,
    shot_s: float = 1e-3,
    links: Sequence[tuple[int, int]] | None = None,
    data: Sequence[float] | None = None,
    shared: Sequence[float] | None = None,
    restarts: int = 16,
    seed: int = 0,
) -> Comparison:
    """Compares the two ways of running a circuit that is wider than each QPU.

    Args:
        circuit: as it is run; `kernel_circuit` for an entry of a fidelity kernel.
        capacities: qubits that each QPU has room for.
        shots: that the uncut circuit would take; they set the accuracy.
        link_fidelity: of the e-bits of a link, above 0.5 and at most 1.
        ebit_rate_hz: e-bits that each link makes in a second.
        shot_s: seconds of a shot without e-bits.
        links: pairs of QPUs that can entangle qubits directly; None for all.
        data: angles of the data columns, shape (A_d,), which gates with small angles need for their gammas; None for the worst.
        shared: angles of the shared columns, shape (A_s,).
        restarts: as for `partition`.
        seed: as for `partition`.

    Raises:
        InvalidInputError: if the circuit does not fit or a number cannot be used.
    """
    shots, fidelity = whole_number("shots", shots, 1), real_number("link_fidelity", link_fidelity, 0.5)
    if fidelity > 1:
        raise InvalidInputError(f"link_fidelity is {link_fidelity!r}, expected at most 1")
    rate, shot_s = real_number("ebit_rate_hz", ebit_rate_hz, 0), real_number("shot_s", shot_s, 0)
    _check_columns(circuit, data, shared)
    found = partition(circuit, capacities, links, restarts=restarts, seed=seed)
    gates = cut_gates(circuit, found.assignment, data, shared)
    wires = cut_wires(circuit, capacities, seed=seed)

    statistical = 0.5 / math.sqrt(shots)
    right, correction = _link_errors(found, hops(len(found.capacities), links).tolist(), fidelity)
    busiest = max((count for _, count in found.links), default=0)
    bias, corrected = 1 - right, 1 - right > statistical
    overhead, left = (correction, 0.0) if corrected else (0.0, bias)
    time_s = shots * (shot_s + busiest / rate)
    distributed = _cost(overhead, time_s, statistical, left, math.hypot(statistical, bias))
    by_wires = wires is not None and wires.gamma_log10 < gates.gamma_log10
    gamma_log10 = wires.gamma_log10 if wires is not None and by_wires else gates.gamma_log10
    cut = _cost(2 * gamma_log10, shots * shot_s, statistical, 0.0, statistical * _power(gamma_log10))
    cheaper: Way = "distributed" if distributed.time_s <= cut.time_s else "cut"
    if not found.nonlocal_gates:
        cheaper = "neither"
    # The rate R at which 10^overhead shots (shot_s + busiest / R) seconds are those of cutting.
    spare = shot_s * (_power(cut.overhead_log10 - distributed.overhead_log10) - 1)
    even = busiest / spare if spare > 0 and busiest else None
    by: Literal["gates", "wires"] = "wires" if by_wires else "gates"
    result = (found, gates, wires, shots, busiest / rate, bias, corrected, distributed, cut, by, cheaper, even)
    return Comparison(*result, _sentence(found, distributed, cut, by, cheaper, even, statistical))


def _check_columns(circuit: Circuit, data: Sequence[float] | None, shared: Sequence[float] | None) -> None:
    if not isinstance(circuit, Circuit):
        raise InvalidInputError(f"circuit is {circuit!r}, expected a Circuit such as that of a feature map")
    for name, given, count in (("data", data, circuit.n_data), ("shared", shared, circuit.n_shared)):
        if given is not None and len(given) != count:
            raise InvalidInputError(f"{name} has {len(given)} angles, expected one for each of {count} columns")


def _link_errors(found: Partition, distances: list[list[int]], fidelity: float) -> tuple[float, float]:
    """Probability that all e-bits are right, and the logarithm of the overhead that corrects them if they are not."""
    kept = (4 * fidelity - 1) / 3
    right, overhead = 1.0, 0.0
    for (a, b), count in found.between:
        left = kept ** distances[a][b]
        right *= ((1 + 3 * left) / 4) ** count
        overhead += 2 * count * math.log10((3 / left - 1) / 2)
    return right, overhead


def _cost(overhead_log10: float, time_s: float, statistical: float, bias: float, error_at_shots: float) -> Cost:
    error = math.hypot(statistical, bias)
    return Cost(overhead_log10, time_s * _power(overhead_log10), error, error_at_shots)


def _power(exponent: float) -> float:
    return 10.0**exponent if exponent < 300 else math.inf


def _sentence(
    found: Partition, distributed: Cost, cut: Cost, by: str, cheaper: str, even: float | None, statistical: float
) -> str:
    if cheaper == "neither":
        return "no gate is between QPUs: each runs its part, without e-bits or cuts"
    ways = {
        "distributed": f"distributing it ({found.ebits} e-bits a shot) takes {seconds(distributed.time_s)}",
        "cut": f"cutting {by} ({times(cut.overhead_log10)} the shots) takes {seconds(cut.time_s)}",
    }
    other = "cut" if cheaper == "distributed" else "distributed"
    text = f"{ways[cheaper]}, {ways[other]}, for a statistical error of {statistical:.2g}"
    if even is None:
        return f"{text}; cutting is the cheaper way at any e-bit rate"
    if even == 0:
        return f"{text}; distributing is the cheaper way at any e-bit rate"
    return f"{text}; both take as long at {even:.3g} e-bits/s per link"


def seconds(time_s: float) -> str:
    """A time for people; years beyond a year."""
    year = 365.25 * 86400
    if math.isinf(time_s):
        return "over 10^300 s"
    if time_s > year:
        return f"{time_s / year:.3g} years"
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if time_s > 2 * size:
            return f"{time_s / size:.3g} {unit}"
    return f"{time_s:.3g} s"


def times(overhead_log10: float) -> str:
    """A factor for people."""
    return f"{10**overhead_log10:.3g} times" if overhead_log10 < 6 else f"10^{overhead_log10:.1f} times"
