"""Every shipped law over every named case, and the law that no class or feature map is without a case."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest

import dqk.backends
import dqk.kernels
import dqk.testing
from dqk.backends import Backend
from dqk.kernels import Kernel, feature_maps
from dqk.testing import BACKEND_LAWS, KERNEL_LAWS, SAMPLED_LAWS, Law, check_backend, check_kernel
from tests.cases import BACKENDS, CIRCUITS, FEATURE_MAPS, KERNELS, ON_DEVICES, SAMPLED_BACKENDS, SAMPLED_CIRCUITS

UNTILED = {"growing_keeps_full_tiles", "threads_do_not_matter"}
NOT_NORMALISED = {"symmetric_positive_with_unit_diagonal", "diagonal_has_no_gradient"}
NO_LOGARITHM = {"logarithm_is_the_logarithm", "gradient_of_the_logarithm_is_the_finite_difference"}
EXEMPT = {
    "FidelityKernel": {"logarithm_is_refused"},
    "ProjectedKernel": {"logarithm_is_refused"} | UNTILED,
    "RBFKernel": {"logarithm_is_refused"} | UNTILED,
    "LinearKernel": NOT_NORMALISED | UNTILED,
    "SumKernel": {"logarithm_is_refused"} | NOT_NORMALISED | UNTILED,
    "ProductKernel": {"logarithm_is_refused"} | NOT_NORMALISED | UNTILED,
    "ScaledKernel": {"logarithm_is_refused"} | NOT_NORMALISED | UNTILED,
}
"""Laws from which kernels are exempt, by class."""


def law_id(law: Law) -> str:
    return law.name


@pytest.mark.parametrize("law", BACKEND_LAWS, ids=law_id)
@pytest.mark.parametrize("circuit", CIRCUITS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(backend: str, circuit: str, law: Law) -> None:
    assert law.applies(BACKENDS[backend]), f"{backend} is exact, differentiable, gives expectations and encodes"
    law(BACKENDS[backend], CIRCUITS[circuit])


@pytest.mark.parametrize("circuit", SAMPLED_CIRCUITS)
@pytest.mark.parametrize("backend", SAMPLED_BACKENDS)
def test_sampled_backend(backend: str, circuit: str) -> None:
    subject = SAMPLED_BACKENDS[backend]
    checked = set(check_backend(subject, CIRCUITS[circuit]))
    assert checked >= {law.name for law in SAMPLED_LAWS}, "these devices are free of noise and take seeds"
    exact = {law.name for law in BACKEND_LAWS if law.applies(subject)}
    assert len(exact) == (15 if subject.capabilities.exact else 4)


@pytest.mark.parametrize("law", KERNEL_LAWS, ids=law_id)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(kernel: str, law: Law) -> None:
    subject = KERNELS[kernel]()
    if law.applies(subject):
        law(subject)
    else:
        assert law.name in EXEMPT[kernel.partition("-")[0]] | (NO_LOGARITHM if "Linear" in repr(subject) else set())


def concrete_classes(package, base: type) -> Iterator[type]:
    """Public classes of a package that derive from `base` and can be instantiated."""
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value):
                if value.__module__ == info.name and not name.startswith("_"):
                    yield value


def test_every_backend_has_an_entry_point_and_so_a_case() -> None:
    listed = BACKENDS | SAMPLED_BACKENDS
    on_devices = {point.load() for point in entry_points(group="dqk.backends") if point.name in ON_DEVICES}
    missing = set(concrete_classes(dqk.backends, Backend)) - {type(backend) for backend in listed.values()} - on_devices
    assert not missing, f"no entry point for {missing}"
    assert all(backend.name == name.partition("@")[0] for name, backend in listed.items())


def test_every_kernel_has_a_case() -> None:
    classes = set(concrete_classes(dqk.kernels, Kernel))
    assert classes, "no kernel found"
    assert classes <= {type(build()) for build in KERNELS.values()}


def test_every_feature_map_has_a_case() -> None:
    public = {
        name
        for name, value in vars(feature_maps).items()
        if inspect.isfunction(value) and value.__module__ == feature_maps.__name__ and not name.startswith("_")
    }
    assert {value.__name__ for value in feature_maps.FEATURE_MAPS.values()} <= public
    assert public <= {name.partition("-")[0] for name in FEATURE_MAPS}


def test_every_gate_has_a_case() -> None:
    used = {gate.name for circuit in CIRCUITS.values() for gate in circuit.gates}
    assert used == {*dqk.circuit.GATES, "unitary"}


def test_check_backend_runs_every_law_of_an_exact_backend() -> None:
    assert check_backend(BACKENDS["reference"], CIRCUITS["bsp_feature_map-2"]) == [law.name for law in BACKEND_LAWS]


def test_check_kernel_runs_every_law_that_binds() -> None:
    named = [law.name for law in KERNEL_LAWS if law.name != "logarithm_is_refused"]
    assert check_kernel(KERNELS["FidelityKernel-bsp_feature_map-2"]()) == named
