"""For every shipped law a backend or kernel with one defect, which that law has to find."""

import numpy as np
import pytest
import torch

from dqk import FidelityKernel
from dqk._tiled import cpu_threads
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit, Gate, data, shared, simplify_for_fidelity
from dqk.kernels.feature_maps import bsp_feature_map, reuploading_feature_map
from dqk.testing import BACKEND_LAWS, KERNEL_LAWS, SAMPLED_LAWS
from tests.exact_device import ExactDevice

CIRCUIT = reuploading_feature_map(2, layers=1, trainable="rotations").circuit  # its CNOTs cancel


class NoSamples(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        return super()._fidelity(circuit, ax, ay, shared) if len(ax) else ax.new_zeros(1, 1)


class AlwaysDouble(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        return super()._fidelity(circuit, ax, ay, shared).double()


class Forgetful(ReferenceBackend):
    calls = 0

    def _fidelity(self, circuit, ax, ay, shared):
        self.calls += 1
        return super()._fidelity(circuit, ax, ay, shared) + 1e-14 * self.calls


class WritesIntoItsInput(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        result = super()._fidelity(circuit, ax, ay, shared)
        ax += 1
        return result


class RawMemory(ReferenceBackend):
    def encode(self, circuit, angles, shared):
        return super().encode(circuit, angles.as_strided(angles.shape, (angles.shape[1], 1)), shared)


class NoChecks(ReferenceBackend):
    def _check(self, circuit, ax, ay, shared):
        return ax.new_empty(0) if shared is None else shared


class NoLimit(ReferenceBackend):
    def check_supported(self, circuit):
        pass


class WrongAngles(ReferenceBackend):
    def encode(self, circuit, angles, shared):
        return super().encode(circuit, angles * (1 + 1e-9), shared)


class DropsTheLastRotation(ReferenceBackend):
    """Right for simplified circuits only."""

    def encode_block(self, circuit, angles, shared):
        whole = circuit.gates != simplify_for_fidelity(circuit).circuit.gates
        return super().encode_block(circuit, angles + 1e-3 * torch.eye(angles.shape[1])[0].to(angles) * whole, shared)


class Lopsided(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        k = super()._fidelity(circuit, ax, ay, shared)
        return k if ay is not None else k + 1e-15 * torch.ones_like(k).triu(1)


class OffDiagonal(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        return super()._fidelity(circuit, ax, ax if ay is None else ay, shared) * (1 - 1e-15)


class RowsDiffer(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        k = super()._fidelity(circuit, ax, ay, shared)
        return k * (1 - 1e-11 * torch.arange(len(k)).to(k))[:, None]


class TooLarge(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        return super()._fidelity(circuit, ax, ay, shared) * 1.01


class NotPositive(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        return 1 - super()._fidelity(circuit, ax, ay, shared) / 2


class KnowsTheBatch(ReferenceBackend):
    def _fidelity(self, circuit, ax, ay, shared):
        return super()._fidelity(circuit, ax, ay, shared) * (1 - 1e-10 * len(ax))


class ScalesWithTheBlock(ReferenceBackend):
    def overlap(self, a, b):
        return super().overlap(a, b) * (1 - 1e-10 * a.shape[-1])


class WrongLogarithm(ReferenceBackend):
    def log_overlap(self, a, b):
        return super().log_overlap(a, b) * 1.001

    def log_overlap_vjp(self, a, b, cotangent):
        return tuple(1.001 * t for t in super().log_overlap_vjp(a, b, cotangent))


class WrongGradient(ReferenceBackend):
    def _fidelity_vjp(self, circuit, ax, ay, shared, cotangent):
        dax, day, dshared = super()._fidelity_vjp(circuit, ax, ay, shared, cotangent)
        return dax, day, dshared * (1 + 1e-7)


class SwappedColumns(ReferenceBackend):
    def _fidelity_vjp(self, circuit, ax, ay, shared, cotangent):
        dax, day, dshared = super()._fidelity_vjp(circuit, ax, ay, shared, cotangent)
        return dax, None if day is None else day.flip(1), dshared


class OneRole(ReferenceBackend):
    def _fidelity_vjp(self, circuit, ax, ay, shared, cotangent):
        if ay is not None:
            return super()._fidelity_vjp(circuit, ax, ay, shared, cotangent)
        dax, _, dshared = super()._fidelity_vjp(circuit, ax, ax, shared, cotangent.clone().fill_diagonal_(0))
        return dax, None, dshared


class CoarseGradient(ReferenceBackend):
    def _fidelity_vjp(self, circuit, ax, ay, shared, cotangent):
        result = super()._fidelity_vjp(circuit, ax, ay, shared, cotangent)
        if ax.dtype == torch.float64:
            return result
        return tuple(t if t is None else t.to(torch.bfloat16).to(t) for t in result)


class DiagonalGradient(ReferenceBackend):
    def _fidelity_vjp(self, circuit, ax, ay, shared, cotangent):
        dax, day, dshared = super()._fidelity_vjp(circuit, ax, ay, shared, cotangent)
        return dax + 1e-15, day, dshared


class DeadColumns(ReferenceBackend):
    def _fidelity_vjp(self, circuit, ax, ay, shared, cotangent):
        dax, day, dshared = super()._fidelity_vjp(circuit, ax, ay, shared, cotangent)
        return dax, day, dshared if ay is None else dshared + 1e-15


class WrongExpectations(ReferenceBackend):
    def _expectations(self, circuit, ax, observables, shared):
        return super()._expectations(circuit, ax, observables, shared) * (1 + 1e-11)


class ForgetsTheIdentity(ReferenceBackend):
    def _expectations(self, circuit, ax, observables, shared):
        values = super()._expectations(circuit, ax, observables, shared)
        return values if len(observables) > 4 else 0.99 * values


class WrongExpectationGradient(ReferenceBackend):
    def _expectations_vjp(self, circuit, ax, observables, shared, cotangent):
        dax, dshared = super()._expectations_vjp(circuit, ax, observables, shared, cotangent)
        return dax, dshared * 1.0001


BROKEN_BACKENDS = [
    ("no_samples_give_no_entries", NoSamples),
    ("dtype_is_kept", AlwaysDouble),
    ("repeatable", Forgetful),
    ("repeatable", WritesIntoItsInput),
    ("strides_do_not_matter", RawMemory),
    ("wrong_shapes_are_refused", NoChecks),
    ("too_many_qubits_are_refused", NoLimit),
    ("agrees_with_reference", WrongAngles),
    ("simplification_keeps_values", DropsTheLastRotation),
    ("symmetric_with_unit_diagonal", Lopsided),
    ("symmetric_with_unit_diagonal", OffDiagonal),
    ("transposed_when_arguments_swap", RowsDiffer),
    ("between_zero_and_one", TooLarge),
    ("between_zero_and_one", NotPositive),
    ("independent_of_the_batch", KnowsTheBatch),
    ("encodings_can_be_cut", ScalesWithTheBlock),
    ("log_overlap_is_the_logarithm", WrongLogarithm),
    ("gradient_of_log_overlap_is_the_quotient", WrongLogarithm),
    ("gradient_is_the_finite_difference", WrongGradient),
    ("gradient_is_the_finite_difference", SwappedColumns),
    ("gradient_of_one_argument_counts_both_roles", OneRole),
    ("float32_gradient_agrees_with_float64", CoarseGradient),
    ("what_cannot_matter_has_no_gradient", DiagonalGradient),
    ("expectations_agree_with_reference", WrongExpectations),
    ("gradient_of_expectations_is_the_finite_difference", WrongExpectationGradient),
    ("fidelity_is_the_probability_of_zero", ForgetsTheIdentity),
]


class GivesProbabilities(ExactDevice):
    def run(self, circuit, left, right, shared, shots, **options):
        return super().run(circuit, left, right, shared, None)


class SameNumbersForEveryRow(ExactDevice):
    def run(self, circuit, left, right, shared, shots, *, seed=None, **options):
        p = super().run(circuit, left, right, shared, None)
        numbers = np.random.default_rng(seed).random(shots)
        return (numbers < p[:, None]).mean(axis=1)


class IgnoresSeeds(ExactDevice):
    def run(self, circuit, left, right, shared, shots, *, seed=None, **options):
        return super().run(circuit, left, right, shared, shots)


BROKEN_DEVICES = [
    ("a_job_gives_one_frequency_for_each_row", GivesProbabilities),
    ("frequencies_are_binomial", SameNumbersForEveryRow),
    ("seeds_fix_counts", IgnoresSeeds),
]


@pytest.mark.parametrize(("name", "broken"), BROKEN_DEVICES)
def test_law_of_sampled_backends_finds_the_defect(name, broken):
    (law,) = [law for law in SAMPLED_LAWS if law.name == name]
    law(ExactDevice(), CIRCUIT)
    with pytest.raises(AssertionError, match=f"law '{name}'"):
        law(broken(), CIRCUIT)


def test_wrong_probabilities_are_found():
    (law,) = [law for law in SAMPLED_LAWS if law.name == "frequencies_are_binomial"]

    class Off(ExactDevice):
        def run(self, circuit, left, *arguments, **options):
            return super().run(circuit, left + 0.3, *arguments, **options)

    with pytest.raises(AssertionError, match="standard errors off"):
        law(Off(), CIRCUIT)


@pytest.mark.parametrize(("name", "broken"), BROKEN_BACKENDS)
def test_law_of_backends_finds_the_defect(name, broken):
    (law,) = [law for law in BACKEND_LAWS if law.name == name]
    with pytest.raises(AssertionError, match=f"law '{name}'"):
        law(broken(), CIRCUIT)


def test_dead_columns_with_a_gradient_are_found():
    (law,) = [law for law in BACKEND_LAWS if law.name == "what_cannot_matter_has_no_gradient"]
    dead_last = Circuit(1, (Gate("ry", (0,), data(0)), Gate("rx", (0,), shared(0)), Gate("rz", (0,), shared(1))), 1, 2)
    with pytest.raises(AssertionError, match=r"shared columns \[0, 1\] cannot matter but have a gradient"):
        law(DeadColumns(), dead_last)


class ReturnsTensors(FidelityKernel):
    def forward(self, X, Y=None):
        return torch.as_tensor(super().forward(X, Y))


class NotSymmetric(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        k = super()._matrix(engine, x, y, log)
        return k if y is not None else k + 1e-15 * torch.ones_like(k).triu(1)


class OrderOfArguments(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        k = super()._matrix(engine, x, y, log)
        return k * (1 - 1e-10 * torch.arange(len(k)).to(k))[:, None] if y is not None else k


class MemoryOrder(FidelityKernel):
    def forward(self, X, Y=None):
        return super().forward(X if isinstance(X, torch.Tensor) or X.flags.c_contiguous else X[::-1], Y)


class WrongLog(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        return super()._matrix(engine, x, y, log) * (1.001 if log else 1)


class CutGradient(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        return super()._matrix(engine, x, y if y is None else y.detach(), log)


class WrongLogGradient(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        k = super()._matrix(engine, x, y, log)
        return 1.001 * k - 0.001 * k.detach() if log else k


class LiveDiagonal(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        k = super()._matrix(engine, x, y, log)
        return k + 0 * x.sum() + 1e-30 * torch.diag(x[:, 0]) if y is None else k


class WrongDiagonal(FidelityKernel):
    def diagonal(self, X):
        return 2 * super().diagonal(X)


class LogarithmOfAnything(FidelityKernel):
    has_logarithm = False


class ForgetsSettings(FidelityKernel):
    def set_params(self, **params):
        return super().set_params(**{name: value for name, value in params.items() if name != "bandwidth"})


class SharedParameters(FidelityKernel):
    def __deepcopy__(self, memo):
        return self


class ReadsAnything(FidelityKernel):
    def forward(self, X, Y=None):
        return super().forward(np.nan_to_num(X), Y if Y is None else np.nan_to_num(Y))


class KnowsTheNumber(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        return super()._matrix(engine, x * (1 + 1e-15 * len(x)), y, log)


class KnowsTheThreads(FidelityKernel):
    def _matrix(self, engine, x, y, log):
        return super()._matrix(engine, x * (1 + 1e-15 * cpu_threads()), y, log)


BROKEN_KERNELS = [
    ("input_and_output_have_one_kind", ReturnsTensors),
    ("symmetric_positive_with_unit_diagonal", NotSymmetric),
    ("symmetric_positive_with_its_diagonal", WrongDiagonal),
    ("logarithm_is_refused", LogarithmOfAnything),
    ("settings_can_be_read_and_set", ForgetsSettings),
    ("same_samples_in_any_role", OrderOfArguments),
    ("memory_layout_does_not_matter", MemoryOrder),
    ("logarithm_is_the_logarithm", WrongLog),
    ("gradient_is_the_finite_difference", CutGradient),
    ("gradient_of_the_logarithm_is_the_finite_difference", WrongLogGradient),
    ("diagonal_has_no_gradient", LiveDiagonal),
    ("copies_are_equal", SharedParameters),
    ("bad_samples_are_refused", ReadsAnything),
    ("growing_keeps_full_tiles", KnowsTheNumber),
    ("threads_do_not_matter", KnowsTheThreads),
]


@pytest.mark.parametrize(("name", "broken"), BROKEN_KERNELS)
def test_law_of_kernels_finds_the_defect(name, broken):
    (law,) = [law for law in KERNEL_LAWS if law.name == name]
    trainable = reuploading_feature_map(2, layers=1, trainable="rotations")
    with pytest.raises(AssertionError, match=f"law '{name}'"):
        law(broken(trainable if name == "copies_are_equal" else bsp_feature_map(2)))


def test_every_law_has_a_defect_that_it_finds():
    assert {law.name for law in BACKEND_LAWS} == {name for name, _ in BROKEN_BACKENDS}
    assert {law.name for law in KERNEL_LAWS} == {name for name, _ in BROKEN_KERNELS}
    assert {law.name for law in SAMPLED_LAWS} == {name for name, _ in BROKEN_DEVICES}
