"""Laws of backends that measure each entry: what a job gives."""

from __future__ import annotations

import numpy as np
import torch

from dqk.backends.sampled import SampledBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.testing.subjects import backend_law, oracle, samples, shared_angles

_SHOTS = 1000
_ROWS, _REPEATS = 5, 4


def _job(circuit: Circuit) -> tuple[Circuit, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The simplified circuit, rows of x and y, each of them `_REPEATS` times, shared angles, and what is to be expected."""
    near = 0.3 * samples(circuit, 2, _ROWS)  # so that values in the middle of [0, 1] occur
    x, shared = samples(circuit, 1, _ROWS), shared_angles(circuit)
    p = oracle(circuit, x, x + near, shared).diagonal().clamp(0, 1)
    left, right, expected = (torch.repeat_interleave(t, _REPEATS, dim=0).numpy() for t in (x, x + near, p))
    return simplify_for_fidelity(circuit).circuit, left, right, shared.numpy(), expected


@backend_law("sampled")
def a_job_gives_one_frequency_for_each_row(backend: SampledBackend, circuit: Circuit) -> None:
    """Frequencies are multiples of 1 / shots in [0, 1], float64; a job without rows gives none."""
    kept, left, right, shared, _ = _job(circuit)
    for rows in (len(left), 1, 0):
        found = backend.run(kept, left[:rows], right[:rows], shared, _SHOTS)
        assert found.shape == (rows,) and found.dtype == np.float64, f"{rows} rows give {found.dtype} {found.shape}"
        counts = found * _SHOTS
        assert np.abs(counts - counts.round()).max(initial=0) < 1e-6, f"no multiples of 1/{_SHOTS}: {found}"
        assert ((found >= 0) & (found <= 1)).all(), f"frequencies beyond [0, 1]: {found}"


@backend_law("sampled", "noiseless")
def frequencies_are_binomial(backend: SampledBackend, circuit: Circuit) -> None:
    """They lie around the probability, each row with shots of its own; a false alarm occurs less than once in 10,000 runs."""
    kept, left, right, shared, p = _job(circuit)
    found = backend.run(kept, left, right, shared, _SHOTS, seed=1)
    certain = np.minimum(p, 1 - p) < 1e-9
    assert np.abs(found - p)[certain].max(initial=0) < 1e-6, "rows with one outcome only have others"
    spread = _SHOTS * np.minimum(p, 1 - p) >= 50  # where a binomial is close to a Gaussian
    score = (found - p)[spread] / np.sqrt(p * (1 - p) / _SHOTS)[spread]
    assert np.abs(score).max(initial=0) < 5.5, f"frequency {np.abs(score).max():.1f} standard errors off"
    if spread.sum() >= _REPEATS:
        alike = found[spread].reshape(-1, _REPEATS)
        assert (alike != alike[:, :1]).any(), f"equal rows have equal counts, as from the same random numbers: {alike}"
        # chi-square by Wilson and Hilferty's cube root
        k = spread.sum()
        z = (((score**2).sum() / k) ** (1 / 3) - (1 - 2 / (9 * k))) / np.sqrt(2 / (9 * k))
        assert abs(z) < 4.5, f"{k} scores have the mean square {(score**2).mean():.2f}, expected about 1"


@backend_law("sampled", "seeded")
def seeds_fix_counts(backend: SampledBackend, circuit: Circuit) -> None:
    """The same seed gives the same counts, another one others."""
    kept, left, right, shared, p = _job(circuit)
    first, again, other = (backend.run(kept, left, right, shared, _SHOTS, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again), f"seed 7 gives {first}, then {again}"
    if _SHOTS * np.minimum(p, 1 - p).max() >= 50:
        assert not np.array_equal(first, other), f"seeds 7 and 8 give {first}"
