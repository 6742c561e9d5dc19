"""Kernels that a command line names: `--feature-map`, `--layers`, `--bandwidth`."""

from __future__ import annotations

from typing import Any

from dqk.errors import InvalidInputError, unknown_name


def kernel_of(width: int, name: str, layers: int | None, bandwidth: float, backend: str, shots: Any) -> Any:
    """A fidelity kernel.

    Args:
        width: number of qubits, one for each feature.
        name: of the feature map.
        layers: of a map that has layers; None for its default.
        bandwidth: multiplies the samples.
        backend: its name.
        shots: what `FidelityKernel` takes.

    Raises:
        InvalidInputError: for a map that there is not, or layers that it does not have.
    """
    from dqk.kernels import FidelityKernel
    from dqk.kernels.feature_maps import FEATURE_MAPS
    from dqk.training.config import LAYERED_MAPS

    if name not in FEATURE_MAPS:
        raise unknown_name("feature map", name, FEATURE_MAPS)
    options: dict[str, Any] = {"bandwidth": bandwidth}
    if layers is not None:
        if name not in LAYERED_MAPS:
            raise InvalidInputError(
                f"--layers {layers} with --feature-map {name}; only {', '.join(LAYERED_MAPS)} have layers"
            )
        options[LAYERED_MAPS[name]] = layers
    return FidelityKernel(FEATURE_MAPS[name](width, **options), backend, shots)  # type: ignore[operator]
