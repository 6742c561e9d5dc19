"""Processors that a job scheduler gives to a job through QRMI, the Quantum Resource Management Interface.

Choose it inside a job that asked for processors, as by `#SBATCH --qpu=a,b`: the scheduler then names them in the environment.
QRMI leaves out those that it does not know or cannot reach, so what it gives is compared with what was asked for.
"""

from __future__ import annotations

import os
from typing import Any

from dqk.errors import BackendUnavailableError, InvalidInputError, UnsupportedError, unknown_name

_NAMES, _TYPES = "QRMI_JOB_QPU_RESOURCES", "QRMI_JOB_QPU_TYPES"
_WITH_SAMPLER = ("direct-access", "qiskit-runtime-service")  # and all that start with "ibm-"


def job_resources() -> dict[str, str]:
    """The processors that this job was given: names and types.

    Raises:
        BackendUnavailableError: outside of such a job, or where the two lists do not fit each other.
    """
    comma = os.environ.get("QRMI_LIST_DELIMITER", ",")
    names, types = (
        [part.strip() for part in os.environ.get(variable, "").split(comma) if part.strip()]
        for variable in (_NAMES, _TYPES)
    )
    if not names:
        raise BackendUnavailableError(
            f"{_NAMES} is not set, so no QPU was given to this job; ask for one, as with #SBATCH --qpu=NAME, or set {_NAMES} and "
            f"{_TYPES}"
        )
    if len(names) != len(types):
        raise BackendUnavailableError(
            f"{_NAMES} has {len(names)} names ({', '.join(names)}) and {_TYPES} {len(types)} types ({', '.join(types)}); set one "
            "type for each name"
        )
    return dict(zip(names, types, strict=True))


def open_resource(name: str | None = None, fractional: bool = False) -> dict[str, Any]:
    """What `SamplerBackend` takes for one of the job's processors.

    Args:
        name: which; may be left out where the job has one only.
        fractional: whether IBM's fractional gates are used.

    Returns:
        The arguments `sampler`, `backend` and `service`.

    Raises:
        BackendUnavailableError: if QRMI is not installed, was given no processors or left some out.
        InvalidInputError: if the job has several and none was named, or not this one.
        UnsupportedError: if the processor has no Qiskit sampler.
    """
    wanted = job_resources()
    try:
        from qrmi.primitives import QRMIService, RuntimeJobV2
        from qrmi.primitives.ibm import SamplerV2, get_backend
    except ImportError as error:
        raise BackendUnavailableError(
            f"QPUs of a job need QRMI, which cannot be imported ({error}); install it with: pip install 'qrmi[ibm]' 'dqk[qiskit]'"
        ) from error
    try:
        found = {resource.resource_id(): resource for resource in QRMIService().resources()}
    except RuntimeError as error:
        raise BackendUnavailableError(f"QRMI gives no QPU: {error}") from error
    if missing := [f"{qpu} ({wanted[qpu]})" for qpu in wanted if qpu not in found]:
        raise BackendUnavailableError(
            f"{_NAMES} names {len(wanted)} QPUs, and QRMI cannot reach {', '.join(missing)}; check the name, the type in {_TYPES} "
            f"and the variables NAME_QRMI_..., which hold its endpoint and credentials. It gave: {', '.join(found) or 'none'}"
        )
    if name is None and len(wanted) > 1:
        raise InvalidInputError(
            f"this job has the QPUs {', '.join(wanted)}; name one, as in 'qiskit:qrmi/{next(iter(wanted))}'"
        )
    name = next(iter(wanted)) if name is None else name
    if name not in wanted:
        raise unknown_name("QPU of this job", name, wanted)
    if not wanted[name].startswith(("ibm-", *_WITH_SAMPLER)):
        raise UnsupportedError(
            f"QPU {name!r} is of type {wanted[name]!r}, for which QRMI has no Qiskit sampler of gate circuits; expected one of "
            f"{', '.join(_WITH_SAMPLER)} or ibm-..."
        )
    resource = found[name]
    return {
        "sampler": SamplerV2(resource),
        "backend": get_backend(resource, use_fractional_gates=fractional),
        "service": _Jobs(resource, RuntimeJobV2),
    }


class _Jobs:
    """Finds a resource's jobs again. QRMI deletes a job when its Python object goes, so only a crash leaves one to be found."""

    def __init__(self, resource: Any, job_type: Any):
        self._resource, self._type = resource, job_type

    def job(self, job_id: str) -> Any:
        return self._type(self._resource, job_id)
