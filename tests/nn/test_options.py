"""Options of the QK-LSTM: parameter counts, how references start, and combinations that are refused."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dqk import QKLSTM, QLSTM
from dqk.circuit import Circuit, Gate, data, shared
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels import Angle, FeatureMap
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map, zz_feature_map
from dqk.nn import SequenceTagger
from dqk.nn.options import has_live_parameters
from tests.nn.variants import HIDDEN, INPUT, build

FIXED = {"references": "fixed"}

# The paper's sentences: 9 words, embedding 8, hidden 6, 3 tags; 4 qubits and 4 references per gate.
COUNTS: dict[str, tuple[nn.Module, int]] = {
    "LSTM": (nn.LSTM(8, 6, batch_first=True), 477),
    "QK-LSTM, Table I": (QKLSTM(8, 6, readout="shared", batch_first=True, **FIXED), 183),
    "QLSTM": (QLSTM(8, 6, batch_first=True), 199),
    "readout per gate": (QKLSTM(8, 6, batch_first=True, **FIXED), 273),
    "eq. 3, scalar alpha": (QKLSTM(8, 6, readout="scalar", projection=False, batch_first=True, **FIXED), 113),
    "eq. 3, vector alpha": (QKLSTM(8, 6, projection=False, batch_first=True, **FIXED), 213),
    "learned, shared references": (QKLSTM(8, 6, gate_kernel="shared", batch_first=True), 289),
    "learned references per gate": (QKLSTM(8, 6, batch_first=True), 337),
}


@pytest.mark.parametrize("case", COUNTS)
def test_parameter_counts(case: str) -> None:
    recurrent, count = COUNTS[case]
    tagger = SequenceTagger(recurrent, 9, 8, 3)
    assert sum(parameter.numel() for parameter in tagger.parameters()) == count


def test_design_call() -> None:
    lstm = QKLSTM(
        8,
        6,
        n_qubits=4,
        n_references=4,
        references="learned",
        readout="per_gate",
        gate_kernel="references",
        kernel_scale="auto",
        bandwidth=1.0,
    )
    output, (h, c) = lstm(torch.randn(5, 3, 8))
    assert output.shape == (5, 3, 6) and h.shape == c.shape == (1, 3, 6)
    assert lstm.cells[0].kernel_scale == 4 and lstm.cells[0].feature_map == qklstm_feature_map(4)


@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 3.0])
def test_fixed_references_do_not_collide(bandwidth: float) -> None:
    references = build("table1", n_references=200, bandwidth=bandwidth).cells[0].references
    bound = math.pi / 2 / max(1.0, bandwidth)
    assert references.abs().max() < bound and references.abs().max() > 0.9 * bound


def test_learned_references_are_standard_normal() -> None:
    references = build("default", n_references=500).cells[0].references
    assert isinstance(references, nn.Parameter) and references.shape == (4, 500, 3)
    assert abs(references.mean()) < 0.05 and abs(references.std() - 1) < 0.05


def test_linear_parts_start_like_nn_linear() -> None:
    cell = build("default", n_references=100).cells[0]
    # W has sqrt(6) times the spread, see docs/adr/0005.
    bounds = ((cell.alpha, 1 / 10), (cell.gate_bias, 1 / 10), (cell.projection.weight, math.sqrt(6 / (INPUT + HIDDEN))))
    for values, bound in bounds:
        assert values.abs().max() <= bound and values.abs().max() > 0.5 * bound


def test_gates_with_trainable_scales_start_apart() -> None:
    params = build("circuit_scales_input").cells[0].params
    assert params.shape == (4, 8) and (params - 1).abs().max() < 1 and params.std(dim=0).min() > 0


class TestReferencesFromData:
    rows = np.random.default_rng(0).normal(size=(8, INPUT))

    def test_exactly_as_many_rows_keep_their_order(self) -> None:
        lstm = build("default", references="data", reference_data=self.rows, reference_space="input")
        expected = np.hstack([np.zeros((8, HIDDEN)), self.rows]).reshape(4, 2, -1)
        np.testing.assert_array_equal(lstm.cells[0].references, expected)
        assert not lstm.cells[0].references.requires_grad

    def test_rows_may_bring_a_hidden_state(self) -> None:
        rows = np.random.default_rng(1).normal(size=(2, HIDDEN + INPUT))
        lstm = build("shared_kernel", references="data", reference_data=rows, reference_space="input")
        np.testing.assert_array_equal(lstm.cells[0].references[0], rows)

    def test_in_angle_space_they_are_projected_at_the_start(self) -> None:
        cell = build("shared_kernel", references="data", reference_data=torch.from_numpy(self.rows[:2])).cells[0]
        v = torch.cat([torch.zeros(2, HIDDEN), torch.from_numpy(self.rows[:2])], dim=1)
        torch.testing.assert_close(cell.references[0], cell.projection(v).detach())

    def test_of_more_rows_a_random_subset_is_taken_and_kept(self) -> None:
        rows = np.random.default_rng(2).normal(size=(50, INPUT))
        options: dict[str, Any] = {"references": "data", "reference_data": rows, "reference_space": "input"}
        lstm = build("default", **options)
        references = lstm.cells[0].references.reshape(8, -1)[:, HIDDEN:].numpy()
        places = [int(np.flatnonzero((rows == row).all(axis=1)).item()) for row in references]
        assert len(set(places)) == 8
        assert torch.equal(lstm.cells[0].references, build("default", **options).cells[0].references)
        assert not torch.equal(lstm.cells[0].references, build("default", seed=1, **options).cells[0].references)
        lstm.reset_parameters()
        np.testing.assert_array_equal(references, lstm.cells[0].references.reshape(8, -1)[:, HIDDEN:])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, r"needs reference_data: training inputs of shape \(M, 3\) or \(M, 5\) with M >= 8"),
            ({"reference_data": rows[:7]}, r"reference_data has shape \(7, 3\), expected .* M >= 8"),
            ({"reference_data": rows[:, :2]}, r"reference_data has shape \(8, 2\)"),
            ({"reference_data": rows * np.nan}, r"reference_data\[0, 0\] is nan"),
            ({"reference_data": rows, "num_layers": 2}, "references='data' needs num_layers=1"),
            ({"reference_data": rows, "gate_kernel": "projection"}, "needs reference_space='input'"),
            ({"reference_data": rows, "references": "fixed"}, "only references='data' uses it"),
        ],
    )
    def test_what_is_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            build("default", **{"references": "data", **options})


def custom_map(circuit: Circuit) -> FeatureMap:
    declared = tuple(Angle(1.0, ((column, 0.0, 1.0),)) for column in range(circuit.n_data))
    return FeatureMap("custom", circuit, max(circuit.n_data, 1), declared, circuit.n_shared, "rotations")


LAST = (Gate("h", (0,)), Gate("ry", (0,), data(0)), Gate("rz", (0,), shared(0)))
PHASES = (Gate("rz", (0,), data(0)), Gate("h", (0,)))

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"gate_kernel": "shared", "readout": "shared"}, "forget, input and output gate would be one"),
    ({"gate_kernel": "projection", "projection": False}, "no projection is left to differ between the gates"),
    ({"gate_kernel": "circuit"}, r"0 parameters\); use reuploading_feature_map\(n_qubits, trainable='rotations'\)"),
    (
        {"gate_kernel": "circuit", "feature_map": custom_map(Circuit(1, LAST, 1, 1))},
        r"has none that can influence the kernel \(1 parameters\)",
    ),
    ({"feature_map": custom_map(Circuit(1, PHASES, 1))}, "can influence its kernel, which is 1 for all inputs; 2 of 2"),
    ({"gate_kernel": "gates"}, "unknown gate_kernel 'gates'"),
    ({"references": "learnt"}, "unknown references 'learnt'; did you mean 'learned'"),
    ({"reference_space": "angles"}, "did you mean 'angle'"),
    ({"readout": "per-gate"}, "did you mean 'per_gate'"),
    ({"kernel_scale": 0}, "kernel_scale is 0, expected 'auto' or a finite number above 0"),
    ({"kernel_scale": "automatic"}, "kernel_scale is 'automatic'"),
    ({"bandwidth": -1.0}, "bandwidth is -1.0"),
    ({"bandwidth": math.inf}, "bandwidth is inf"),
    ({"n_references": 0}, "n_references is 0"),
    ({"projection": "no"}, "projection is 'no', expected True or False"),
    ({"feature_map": "zz"}, "feature_map is 'zz', expected a FeatureMap"),
    ({"feature_map": zz_feature_map(3), "n_qubits": 4}, "n_qubits is 4, but feature_map 'zz' has 3"),
    ({"projection": False, "n_qubits": 4}, r"puts the 5 hidden and input features .* takes 4; .*\(n_qubits=5"),
    ({"projection": False, "feature_map": zz_feature_map(5), "num_layers": 2}, "puts the 4 hidden and input features"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        QKLSTM(INPUT, HIDDEN, **options)


def test_option_mistakes_come_at_once_with_those_of_sizes() -> None:
    with pytest.raises(InvalidInputError) as caught:
        QKLSTM(0, HIDDEN, n_references=-1, readout="all", kernel_scale=-2, gate_kernel="gate")  # type: ignore[arg-type]
    for text in ("input_size is 0", "n_references is -1", "'all'", "kernel_scale is -2", "'gate'"):
        assert text in str(caught.value)


def test_backend_that_cannot_run_the_circuit_says_so_at_once() -> None:
    with pytest.raises(UnsupportedError, match="bonds of dimension"):
        QKLSTM(INPUT, HIDDEN, feature_map=zz_feature_map(40), backend="mps")
    with pytest.raises(UnsupportedError, match="at most 20 qubits"):
        QLSTM(INPUT, HIDDEN, n_qubits=21, backend="reference")


def test_matrix_product_states_train_an_entangling_cell() -> None:
    x = torch.randn(2, 3, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for backend in ("mps", "statevector"):
        torch.manual_seed(1)
        lstm = QKLSTM(INPUT, HIDDEN, feature_map=reuploading_feature_map(3), backend=backend).double()
        out = lstm(x)[0]
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in lstm.parameters() if p.grad is not None)])
    assert len(results[0]) > 3
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


def test_without_projection_every_layer_has_a_map_of_its_size() -> None:
    lstm = QKLSTM(3, 2, num_layers=2, projection=False, bidirectional=True)
    assert [cell.feature_map.n_qubits for cell in lstm.cells] == [5, 5, 6, 6]
    assert lstm(torch.randn(2, 1, 3))[0].shape == (2, 1, 4)


def test_a_map_without_declared_angles_runs_in_torch_and_says_so() -> None:
    plain = qklstm_feature_map(2)
    same = replace(plain, declared=None, angle_function=lambda x, params: plain.angles(x, params))
    torch.manual_seed(0)
    declared = QKLSTM(INPUT, HIDDEN, feature_map=plain, dtype=torch.float64)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="has no declared angles, so every time step runs in torch") as caught:
        undeclared = QKLSTM(INPUT, HIDDEN, feature_map=same, dtype=torch.float64)
    assert [warning.filename for warning in caught] == [__file__]
    assert "time steps in torch: feature map 'qklstm' has no declared angles" in repr(undeclared)
    assert "in torch" not in repr(declared)
    x = torch.randn(3, 2, INPUT, dtype=torch.float64)
    torch.testing.assert_close(undeclared(x)[0], declared(x)[0])


def test_a_reference_backend_runs_in_torch_and_says_so() -> None:
    lstm = QKLSTM(INPUT, HIDDEN, backend="reference")
    assert "time steps in torch: backend 'reference' has no compiled cell" in repr(lstm)


def test_live_parameters() -> None:
    assert has_live_parameters(reuploading_feature_map(2, 1, trainable="rotations"))
    assert has_live_parameters(reuploading_feature_map(2, 1, trainable="scale"))
    assert not has_live_parameters(reuploading_feature_map(2, 1))
    assert not has_live_parameters(custom_map(Circuit(1, LAST, 1, 1)))


def test_constructing_leaves_the_global_generator_to_the_weights() -> None:
    torch.manual_seed(0)
    trainable = reuploading_feature_map(2, 1, trainable="rotations")
    QKLSTM(INPUT, HIDDEN, feature_map=trainable, gate_kernel="circuit")
    after = torch.rand(1)
    torch.manual_seed(0)
    has_live_parameters(trainable)
    QKLSTM(INPUT, HIDDEN, feature_map=trainable, gate_kernel="circuit")
    assert torch.equal(after, torch.rand(1))
