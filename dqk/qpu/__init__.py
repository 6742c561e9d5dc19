"""Quantum processors behind HTTP: a client, a PennyLane device, and a service that behaves like a provider's.

`client` talks to a service and needs httpx. The service (`serving` and the modules that it loads) and the device need the
extra `qpu`. Nothing of it is imported until it is used.
"""

from dqk.qpu.client import QPUClient
from dqk.qpu.records import JobResult, JobStatus, QPUError, QPULimits, read_token

__all__ = ["JobResult", "JobStatus", "QPUClient", "QPUError", "QPULimits", "read_token"]
