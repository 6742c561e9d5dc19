"""What the laws of backends share: whom a law binds, and the angles that it is checked on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dqk.backends.base import Backend, EncodingBackend
from dqk.backends.reference import ReferenceBackend
from dqk.backends.sampled import SampledBackend
from dqk.circuit import Circuit
from dqk.errors import UnsupportedError
from dqk.testing.law import Law

REFERENCE = ReferenceBackend()
DTYPES = (torch.float64, torch.float32)


def backend_law(*needs: str) -> Callable[[Callable[..., None]], Law]:
    """Makes a law for backends with some capabilities: exact, differentiable, expectations, encoding or sampled ones.

    What a noisy device gives is exact for nobody but itself.
    """

    def binds(backend: Backend) -> bool:
        has = {need: bool(getattr(backend.capabilities, need, False)) for need in needs}
        has["exact"] = backend.capabilities.exact and not backend.capabilities.noisy
        has["encoding"] = isinstance(backend, EncodingBackend)
        has["sampled"] = isinstance(backend, SampledBackend)
        has["seeded"] = isinstance(backend, SampledBackend) and backend.limits.seeded
        has["noiseless"] = not backend.capabilities.noisy
        return all(has[need] for need in needs)

    return lambda check: Law(check, binds)


def samples(circuit: Circuit, seed: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Data angles of n samples, shape (n, A_d): always the same for a seed, rounded if float32."""
    return _normal(seed, n, circuit.n_data).to(dtype)


def shared_angles(circuit: Circuit, dtype: torch.dtype = torch.float64) -> Tensor:
    """Shared angles, shape (A_s,)."""
    return _normal(99, circuit.n_shared).to(dtype)


def weights(n: int, m: int) -> Tensor:
    """A cotangent of shape (n, m) without symmetry."""
    return _normal(98, n, m)


def _normal(seed: int, *shape: int) -> Tensor:
    # The standard deviation of 2 rad covers more than a period.
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(circuit: Circuit, ax: Tensor, ay: Tensor, shared: Tensor) -> Tensor:
    """K of the circuit as given, without simplification, by the reference backend in float64."""
    x, y, w = ax.to(torch.float64), ay.to(torch.float64), shared.to(torch.float64)
    return REFERENCE.overlap(REFERENCE.encode(circuit, x, w), REFERENCE.encode(circuit, y, w))


def supports(backend: Backend, circuit: Circuit) -> bool:
    """Whether the backend runs the circuit as given."""
    try:
        backend.check_supported(circuit)
    except UnsupportedError:
        return False
    return True
