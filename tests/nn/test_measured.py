"""A QK-LSTM whose kernel values a device measures: exact probabilities give the exact network; shots are counted."""

import numpy as np
import pytest
import torch

from dqk import QKLSTM
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import bsp_feature_map, reuploading_feature_map
from tests.exact_device import ExactDevice

CONFIGURATIONS = {
    "paper": {"n_qubits": 2},
    "two layers, both directions": {"n_qubits": 2, "num_layers": 2, "bidirectional": True},
    "circuits of their own": {
        "feature_map": reuploading_feature_map(2, layers=2, trainable="rotations"),
        "gate_kernel": "circuit",
    },
    "projections of their own": {"n_qubits": 2, "gate_kernel": "projection", "references": "fixed"},
    "input space": {"feature_map": bsp_feature_map(2), "reference_space": "input", "gate_kernel": "projection"},
}


def network(backend, **options) -> QKLSTM:
    torch.manual_seed(0)
    return QKLSTM(3, 2, n_references=2, backend=backend, dtype=torch.float64, **options)


def passed(net: QKLSTM, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    output, (h, c) = net(x)
    (output.square().sum() + h.sum() + c.sum()).backward()
    return [output.detach(), x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_exact_probabilities_give_the_exact_network(name: str) -> None:
    """Shift rules against the adjoint sweep, through time."""
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = passed(network("simulated", **CONFIGURATIONS[name]), x)
    expected = passed(network("statevector", **CONFIGURATIONS[name]), x)
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-12


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_circuits_are_stated_before_and_counted_after(name: str) -> None:
    device, steps, batch, shots = ExactDevice(50), 4, 3, 20
    net = network(device, shots=shots, **CONFIGURATIONS[name])
    stated = net.circuits_per_word()
    assert stated is not None
    values, derivatives = (steps * batch * each for each in stated)
    with torch.no_grad():
        net(torch.zeros(steps, batch, 3, dtype=torch.float64))
    assert sum(rows for _, rows, _ in device.jobs) == values
    passed(net, torch.zeros(steps, batch, 3, dtype=torch.float64))
    total = sum(rows for _, rows, _ in device.jobs)
    assert total == 2 * values + derivatives
    assert (net.spent.circuits, net.spent.shots, net.spent.jobs) == (total, total * shots, len(device.jobs))


def test_the_shifts_of_all_time_steps_go_out_together() -> None:
    device = ExactDevice(1000)
    net = network(device, shots=10, n_qubits=2)
    output, _ = net(torch.zeros(6, 1, 3, dtype=torch.float64))
    assert len(device.jobs) == 6
    output.sum().backward()
    stated = net.circuits_per_word()
    assert stated is not None and len(device.jobs) == 6 + -(-6 * stated[1] // 1000)


def test_the_seed_of_torch_is_the_seed_of_the_shots() -> None:
    x = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    net, outputs = network("simulated", shots=50, n_qubits=2), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(passed(net, x)[0])
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


class Seeded(ExactDevice):
    """Remembers the seeds of its jobs."""

    def __init__(self) -> None:
        super().__init__(50)
        self.seeds: list[int | None] = []

    def run(self, *given, seed=None, **more):
        self.seeds.append(seed)
        return super().run(*given, seed=seed, **more)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_job_has_a_seed_of_its_own_that_follows_from_torchs(name: str) -> None:
    """Steps of the same input would else have the same errors; 5 steps, forward, backward, and forward again."""
    device, found = Seeded(), []
    net = network(device, shots=20, **CONFIGURATIONS[name])
    x = torch.zeros(5, 1, 3, dtype=torch.float64)
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        device.seeds.clear()
        passed(net, x)
        with torch.no_grad():
            net(x)
        assert None not in device.seeds and len(set(device.seeds)) == len(device.seeds) >= 11
        found.append(sorted(device.seeds))  # jobs end in any order
    assert found[0] == found[1] and not set(found[0]) & set(found[2])


def test_gradients_of_shots_scatter_around_the_exact_ones() -> None:
    x = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = network("statevector", n_qubits=2)
    expected = torch.cat([t.flatten() for t in passed(exact, x)[1:]])
    found = []
    for seed in range(20):
        net = network("simulated", shots=2000, n_qubits=2)
        torch.manual_seed(seed)
        found.append(torch.cat([t.flatten() for t in passed(net, x)[1:]]))
    spread = torch.stack(found).std(0)
    off = (torch.stack(found).mean(0) - expected) / (spread / np.sqrt(20)).clamp(min=1e-12)
    assert (spread > 0).float().mean() > 0.9 and off.abs().max() < 6 and off.square().mean() < 2


def test_a_device_needs_a_number_of_shots() -> None:
    class Sampler(ExactDevice):
        capabilities = ExactDevice.capabilities.__class__(exact=False, differentiable=True, expectations=False)

    with pytest.raises(InvalidInputError, match="measures, and how often is missing; give shots=2000"):
        QKLSTM(3, 2, backend=Sampler())
    with pytest.raises(InvalidInputError, match="shots is 0, expected a whole number of at least 1"):
        QKLSTM(3, 2, shots=0)
