"""Fleet files: what they say, everything that is wrong with them, and the same devices as services."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from dqk.circuit import Circuit, Gate, constant
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import zz_feature_map
from dqk.qpu.coupling import routed, swaps
from dqk.qpu.fleet import Fleet, device_classes
from dqk.qpu.profile import Profile, Queue

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "fleets"


def fleet(text: str, folder: Path = Path(".")) -> Fleet:
    return Fleet.from_dict(tomllib.loads(text), folder)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_fleets_and_their_devices_are_profiles(path, tmp_path) -> None:
    found = Fleet.read(path)
    devices = list(found.devices())
    assert len(devices) == len({device.name for device in devices}) == int(path.stem[-1])
    for device in found.qpu:
        file = tmp_path / "profile.toml"
        file.write_text(device.profile().to_toml())
        assert Profile.read(file) == device.profile()
        assert device.profile().coupling == device.coupling
        assert device.profile().times.seconds(3, 100) == pytest.approx(
            device.job_s + 3 * device.circuit_s + 300 / device.shot_rate_hz
        )


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInputError) as caught:
        fleet(
            """
            nam = "x"
            [network]
            latency_s = -1
            [[qpu]]
            name = "a"
            shot_rate_hz = -5
            couplin = "line"
            coupling = "lines"
            queue = { model = "exponentiel", mean_s = 1 }
            [[qpu]]
            device = "trapped-ion"
            count = 0
            [[worker]]
            name = "g"
            kind = "gpus"
            entries_per_s = 0
            """
        )
    text = str(caught.value)
    for part in (
        "unknown key 'nam'; did you mean 'name'?",
        "network.latency_s is -1, expected a number of at least 0",
        "qpu 1.shot_rate_hz is -5, expected a number above 0",
        "unknown key of [qpu 1] 'couplin'; did you mean 'coupling'?",
        "qpu 1.coupling: unknown name 'lines'; did you mean 'line'?",
        "qpu 1.queue.model: unknown name 'exponentiel'; did you mean 'exponential'?",
        "qpu 2.device: unknown class of devices 'trapped-ion'; did you mean 'trapped_ion'?",
        "qpu 2 lacks name",
        "qpu 2.count is 0, expected a whole number of at least 1",
        "worker 1.kind: unknown name 'gpus'; did you mean 'gpu'?",
        "worker 1.entries_per_s is 0, expected a number above 0",
    ):
        assert part in text, text
    assert len(text.splitlines()) == 12


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no [[qpu]] and no [[worker]]"),
        ("qpu = 3", "qpu is 3, expected tables: [[qpu]]"),
        ('[[qpu]]\nname="a"\n[[worker]]\nname="a"', "'a' is the name of several"),
        ('[[qpu]]\nname="a-0"\n[[qpu]]\nname="a"\ncount=2', "'a-0' is the name of several"),
        ('[[qpu]]\nname="a"\ncount=60000\n[[qpu]]\nname="b"\ncount=60000', "120,000 devices, at most 100,000"),
        ('[[qpu]]\nname="a"\nqueue={model="trace"}', "a trace needs a file"),
        ('[[qpu]]\nname="a"\nqueue={model="trace", file="nowhere.txt"}', "nowhere.txt cannot be read"),
        ('[[qpu]]\nname="a"\noutage=[{start_s=1, duration_s=5, every_s=5}]', "expected more than duration_s"),
        (
            '[[qpu]]\nname="a"\nprice={per_s=1, currency="USD"}\n[[qpu]]\nname="b"\nprice={per_s=1}',
            "prices in EUR and USD",
        ),
    ],
)
def test_wrong_fleets(text, message) -> None:
    with pytest.raises(InvalidInputError) as caught:
        fleet(text)
    assert message in str(caught.value)


def test_classes_of_devices_and_what_goes_before_them() -> None:
    assert {"superconducting", "trapped_ion", "neutral_atom"} <= device_classes().keys()
    for name in device_classes():
        fleet(f'[[qpu]]\nname = "q"\ndevice = "{name}"')
    (device,) = fleet('[[qpu]]\nname="q"\ndevice="trapped_ion"\nqubits=5\nnoise={readout_0=0.1}').qpu
    (plain,) = fleet('[[qpu]]\nname="q"\ndevice="trapped_ion"').qpu
    assert (device.qubits, device.noise.readout_0) == (5, 0.1)
    assert (device.noise.readout_1, device.shot_rate_hz) == (plain.noise.readout_1, plain.shot_rate_hz)


def test_copies_have_names_and_seeds_of_their_own() -> None:
    devices = list(fleet('[[qpu]]\nname="q"\ncount=3\n[[worker]]\nname="gpu"\nentries_per_s=5').devices())
    assert [device.name for device in devices] == ["q-0", "q-1", "q-2", "gpu"]
    assert len({device.queue.seed for device in devices[:3]}) == 3


@pytest.mark.parametrize(
    "queue, deviation",
    [(Queue("exponential", 2.0), 2.0), (Queue("lognormal", 2.0, 0.5), 2.0 * np.sqrt(np.expm1(0.25)))],
)
def test_waiting_times_have_the_mean_and_spread_of_their_distribution(queue, deviation) -> None:
    wait = queue.waits(7)
    found = np.array([wait() for _ in range(40_000)])
    again = queue.waits(7)
    assert [again() for _ in range(100)] == found[:100].tolist()
    assert found.mean() == pytest.approx(2.0, abs=5 * deviation / 200)
    assert found.std() == pytest.approx(deviation, rel=0.08)


def test_a_trace_is_taken_in_turn(tmp_path) -> None:
    (tmp_path / "waits.txt").write_text("# seconds\n1\n2.5\n\n4\n")
    (device,) = fleet('[[qpu]]\nname="a"\nqueue={model="trace", file="waits.txt"}', tmp_path).qpu
    wait = device.queue.waits()
    found = [wait() for _ in range(6)]
    assert sorted(found[:3]) == [1, 2.5, 4] and found[3:] == found[:3]
    assert device.queue.expected_s == 2.5
    (tmp_path / "waits.txt").write_text("1\n-2\n")
    with pytest.raises(InvalidInputError, match="seconds of at least 0"):
        fleet('[[qpu]]\nname="a"\nqueue={model="trace", file="waits.txt"}', tmp_path)


def test_swaps() -> None:
    chain = Circuit(4, tuple(Gate("cx", (q, q + 1)) for q in range(3)))
    assert [swaps(chain, name) for name in ("all", "line", "ring")] == [0, 0, 0]
    far = Circuit(5, (Gate("cx", (0, 4)), Gate("cx", (3, 1))))
    assert [swaps(far, name) for name in ("all", "line", "ring")] == [0, 8, 2]
    nine = Circuit(9, (Gate("cx", (0, 5)), Gate("cx", (0, 8))))  # 0 1 2 / 5 4 3 / 6 7 8
    assert swaps(nine, "grid") == 0 + 6
    assert swaps(zz_feature_map(4).circuit, "line") > 0


@pytest.mark.parametrize("count", [2, 3, 5, 7, 9])
@pytest.mark.parametrize("coupling", ["line", "ring", "grid"])
def test_routed_circuits_act_on_neighbours_and_do_the_same(coupling, count) -> None:
    """Neighbours by networkx' graphs; the unitary by a product of matrices; as many swaps as are counted."""
    import networkx

    graph = {"line": networkx.path_graph, "ring": networkx.cycle_graph}.get(coupling, lambda _: networkx.Graph())(count)
    if coupling == "grid":
        side = int(np.ceil(np.sqrt(count)))
        snake = [(r, c if r % 2 == 0 else side - 1 - c) for r in range(side) for c in range(side)][:count]
        whole = networkx.grid_2d_graph(side, side)
        graph.add_edges_from((snake.index(a), snake.index(b)) for a, b in whole.edges if {a, b} <= set(snake))
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    for a, b in pairs:
        one = Circuit(count, (Gate("crx", (a, b), constant(0.7)),))
        found = routed(one, coupling)
        assert all(graph.has_edge(*gate.wires) for gate in found.gates)
        away = networkx.shortest_path_length(graph, a, b)
        assert swaps(one, coupling) == 2 * (away - 1) == (len(found.gates) - 1) / 3
        if count <= 5:
            assert np.allclose(unitary(found), unitary(one))


def unitary(circuit: Circuit) -> np.ndarray:
    found = np.eye(2**circuit.n_qubits).reshape([2] * circuit.n_qubits + [-1]).astype(complex)
    for gate in circuit.gates:
        matrix = gate.unitary() if gate.operand is None else gate.unitary(gate.operand.value)
        width = len(gate.wires)
        found = np.tensordot(matrix.reshape([2] * 2 * width), found, (range(width, 2 * width), gate.wires))
        found = np.moveaxis(found, range(width), gate.wires)
    return found.reshape(2**circuit.n_qubits, -1)
