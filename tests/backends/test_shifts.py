"""Derivatives by shift rules against the adjoint sweep, on an exact device."""

import numpy as np
import pytest
import torch

from dqk.backends.reference import ReferenceBackend
from dqk.backends.shifts import circuits_for_gradient, shared_as_data, shift_terms
from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit, Gate, data, shared, simplify_for_fidelity
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map, reuploading_feature_map
from dqk.testing import assert_close
from tests.cases import CIRCUITS, FEATURE_MAPS
from tests.exact_device import ExactDevice

ADJOINT, ORACLE = StatevectorBackend(), ReferenceBackend()


def angles(circuit: Circuit, n: int, m: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(7)
    return tuple(
        2 * torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((n, circuit.n_data), (m, circuit.n_data), (circuit.n_shared,), (n, m))
    )


@pytest.mark.parametrize("name", CIRCUITS)
def test_shift_rules_give_the_adjoints_gradients(name: str) -> None:
    circuit = CIRCUITS[name]
    ax, ay, w, cotangent = angles(circuit, 3, 2)
    device = ExactDevice()
    assert_close(device.fidelity(circuit, ax, ay, w), ORACLE.fidelity(circuit, ax, ay, w), "K", 1e-12)
    found = device.fidelity_vjp(circuit, ax, ay, w, cotangent)
    for what, a, b in zip("xyw", found, ADJOINT.fidelity_vjp(circuit, ax, ay, w, cotangent), strict=True):
        assert_close(a, b, f"by {what}", 1e-10)
    square = torch.outer(cotangent[:, 0], cotangent[:, 1])
    found = device.fidelity_vjp(circuit, ax, None, w, square)
    expected = ADJOINT.fidelity_vjp(circuit, ax, None, w, square)
    assert found[1] is None
    for a, b in ((found[0], expected[0]), (found[2], expected[2])):
        assert_close(a, b, "of K(X)", 1e-10)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_the_jacobian_is_the_same_on_every_backend(name: str) -> None:
    circuit = CIRCUITS[name]
    ax, ay, w, _ = angles(circuit, 3, 2)
    for y in (ay, None):
        entry = torch.zeros(3, 3 if y is None else 2, dtype=ax.dtype)
        entry[0, 1] = 1
        whole = ADJOINT.fidelity_vjp(circuit, ax, ay if y is not None else ax.clone(), w, entry)
        for backend in (ExactDevice(), ADJOINT):
            jacobian = backend.fidelity_jacobian(circuit, ax, y, w)
            assert jacobian.left.shape == (*entry.shape, circuit.n_data)
            assert jacobian.shared.shape == (*entry.shape, circuit.n_shared)
            assert_close(jacobian.left[0, 1], whole[0][0], "by x", 1e-10)
            assert_close(jacobian.right[0, 1], whole[1][1], "by y", 1e-10)
            assert_close(jacobian.shared[0, 1], whole[2], "by shared", 1e-10)
            if y is None:
                assert_close(jacobian.right[1, 0], jacobian.left[0, 1], "mirrored", 1e-10)
                assert not any(part.diagonal().any() for part in jacobian)


@pytest.mark.parametrize("which", [("left",), ("right",), ("shared",), ("left", "shared")])
def test_only_what_is_wanted_is_shifted(which: tuple[str, ...]) -> None:
    circuit = simplify_for_fidelity(reuploading_feature_map(2, layers=2, trainable="rotations").circuit).circuit
    every, some = shift_terms(circuit), shift_terms(circuit, which)
    assert 0 < len(some) < len(every)
    ax, ay, w, _ = (tensor.numpy() for tensor in angles(circuit, 4, 4))
    device = ExactDevice()
    results = []
    for terms in (every, some):
        left, right = terms.shifted(ax, ay, w)
        assert left.shape == right.shape == (4 * len(terms), circuit.n_data + circuit.n_shared)
        results.append(terms.jacobian(device.run(terms.circuit, left, right, np.empty(0), None), 4))
    for name in ("left", "right", "shared"):
        expected = getattr(results[0], name) if name in which else 0 * getattr(results[0], name)
        np.testing.assert_allclose(getattr(results[1], name), expected, atol=1e-12)


def test_unknown_derivatives_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="did you mean 'left'"):
        shift_terms(Circuit(1, ()), ("lefft",))


def test_counts_are_told_before_anything_runs() -> None:
    # The paper's map on 4 qubits: RY needs a rule in U(x) and one in U(y), the RZ that come last share theirs.
    paper = qklstm_feature_map(4).circuit
    assert str(shift_terms(simplify_for_fidelity(paper).circuit)) == "2 x 12 two-term shifts: 24 circuits an entry"
    gates = (Gate("ry", (0,), data(0)), Gate("ry", (1,), data(1)), Gate("crx", (0, 1), shared(0)), Gate("h", (1,)))
    mixed = Circuit(2, (*gates, Gate("cry", (1, 0), data(2)), Gate("rx", (1,), data(3))), 5, 2)
    # Two-term rules: two each for columns 0 and 1, one for column 3, which comes last. Four-term ones: two each for
    # shared 0 and data 2. Data column 4 does not occur.
    terms = shift_terms(simplify_for_fidelity(mixed).circuit)
    assert str(terms) == "2 x 5 two-term and 4 x 4 four-term shifts: 26 circuits an entry"
    assert circuits_for_gradient(mixed, 10) == 10 * len(terms) == 260
    assert circuits_for_gradient(mixed, 10, ("shared",)) == 80
    assert str(shift_terms(Circuit(1, ()))) == "no shifts: 0 circuits an entry"


def test_a_gradient_runs_no_more_circuits_than_were_told_and_none_without_a_cotangent() -> None:
    circuit = bsp_feature_map(2).circuit
    ax, ay, w, cotangent = angles(circuit, 3, 4)
    cotangent[1] = 0
    device = ExactDevice(max_circuits_per_job=50)
    device.fidelity_vjp(circuit, ax, ay, w, cotangent)
    sizes = [rows for _, rows, _ in device.jobs]
    assert sum(sizes) == circuits_for_gradient(circuit, 8) == 160 and sizes == [50, 50, 50, 10]
    device.jobs.clear()
    device.fidelity(circuit, ax, None, w)
    assert [rows for _, rows, _ in device.jobs] == [3]


def test_standard_errors_of_derivatives_are_those_of_many_repetitions() -> None:
    circuit = simplify_for_fidelity(CIRCUITS["gate-crx"]).circuit
    ax, ay, w, _ = (tensor.numpy() for tensor in angles(circuit, 1, 1))
    terms, shots = shift_terms(circuit), 200
    left, right = terms.shifted(ax, ay, w)
    p = ExactDevice().run(terms.circuit, left, right, np.empty(0), None)
    told = np.hstack(terms.std_error(p * (1 - p) / shots, 1))[0]
    frequencies = np.random.default_rng(1).binomial(shots, p, (20_000, len(p))) / shots
    seen = np.hstack(terms.jacobian(frequencies, 20_000)).std(axis=0, ddof=1)
    # A standard deviation of 20,000 values is known to 0.5 %.
    np.testing.assert_allclose(seen, told, rtol=0.025, atol=1e-12)
    assert (told > 0).sum() == 2 * len(circuit.columns("data")) + circuit.n_shared


def test_shared_columns_become_data_columns() -> None:
    circuit = CIRCUITS["gate-crz"]
    wide = shared_as_data(circuit)
    ax, _, w, _ = angles(circuit, 4, 1)
    assert (wide.n_data, wide.n_shared) == (circuit.n_data + circuit.n_shared, 0)
    found = ORACLE.fidelity(wide, torch.cat([ax, w.expand(4, -1)], dim=1))
    assert_close(found, ORACLE.fidelity(circuit, ax, None, w), "K", 1e-12)
