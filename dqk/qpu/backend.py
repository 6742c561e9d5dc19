"""A QPU service as a backend: `backend="qpu:http://127.0.0.1:8000"`.

Choose it where kernel entries are measured by a processor behind HTTP. A job is one program and a table of angles; a job that was
submitted before a crash is found again by its tag, and runs once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np

from dqk.backends.base import Capabilities
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.circuit import Circuit
from dqk.errors import UnsupportedError
from dqk.qpu.client import QPUClient
from dqk.qpu.records import QPUError, QPULimits

_FIRST_CONTACT_S = 5.0


class QPUBackend(SampledBackend):
    """Kernel entries from a QPU service. Copies and pickles of it are like those of `QPUClient`: no pickle has the token.

    Args:
        url: of the service.
        token: for it; None for that of the environment variable DQK_QPU_TOKEN, if it is set.
        timeout_s: how long a request is tried again while the service does not answer.
    """

    parallel = True

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 30.0):
        self.client = QPUClient(url, token, timeout_s)
        self.name = f"qpu:{self.client.url}"

    def __repr__(self) -> str:
        return f"QPUBackend({self.client.url!r})"

    @cached_property
    def _asked(self) -> QPULimits:
        """What the service says at first contact, for which nobody should wait long: the URL may be wrong."""
        with self.client.another(min(_FIRST_CONTACT_S, self.client.timeout_s)) as client:
            return client.limits

    @cached_property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # asks the service
        """Sampled; as wide as the service says."""
        limits = self._asked
        return Capabilities(
            exact=False,
            differentiable=True,
            expectations=False,
            device="qpu",
            max_qubits=limits.n_qubits,
            noisy=limits.noisy,
        )

    @cached_property
    def limits(self) -> DeviceLimits:
        """As the service says."""
        found = self._asked
        prices = found.price_per_job, found.price_per_s, found.price_per_shot
        return DeviceLimits(
            max_circuits_per_job=found.max_circuits_per_job,
            max_shots=found.max_shots,
            seeded=found.seeded,
            recovers=True,
            priced=any(prices),
            job_s=found.job_s,
            circuit_s=found.circuit_s,
            shot_s=found.shot_s,
            price_per_job=found.price_per_job,
            price_per_s=found.price_per_s,
            price_per_shot=found.price_per_shot,
            currency=found.currency,
        )

    def run(
        self,
        circuit: Circuit,
        left: np.ndarray,
        right: np.ndarray,
        shared: np.ndarray,
        shots: int | None,
        *,
        seed: int | None = None,
        tag: str | None = None,
        told: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """See `SampledBackend.run`.

        Raises:
            QPUError: if the service cannot be reached, refuses the job, or the job fails.
        """
        if shots is None:
            raise UnsupportedError(f"the QPU at {self.client.url} measures: give shots=1000, say")
        self.check_supported(circuit)
        program, data, fixed = _program(circuit)
        table = np.hstack([np.hstack([left, right])[:, data], np.tile(np.tile(shared, 2)[fixed], (len(left), 1))])
        job = self.client.submit(program, table, shots, outcome="zeros", seed=seed, key=tag)
        if told is not None:
            told(job)
        return np.asarray(self.client.result(job).zeros / shots)

    def check_supported(self, circuit: Circuit) -> None:
        """Refuses circuits that are wider than the device."""
        limit = self._asked.n_qubits
        if circuit.n_qubits > limit:
            raise UnsupportedError(
                f"the QPU at {self.client.url} runs circuits of at most {limit} qubits, this one has {circuit.n_qubits}: use fewer "
                "features, a qubit each, or a wider QPU"
            )

    def close(self) -> None:
        """See `SampledBackend.close`."""
        self.client.close()

    def answers(self) -> bool:
        """Whether the service says so within five seconds."""
        try:
            with self.client.another(_FIRST_CONTACT_S) as client:
                client.ask_limits()
        except QPUError:
            return False
        return True

    def attach(self, job: str) -> np.ndarray | None:
        """See `SampledBackend.attach`."""
        found = self.client.result(job)
        return np.asarray(found.zeros / found.shots)


@lru_cache(maxsize=64)
def _program(circuit: Circuit) -> tuple[str, list[int], list[int]]:
    """OpenQASM of U(x) and U(y)^dagger, and the columns of data and shared angles that it takes, in this order."""
    both = circuit.compute_uncompute()
    return both.to_openqasm(), both.columns("data"), both.columns("shared")
