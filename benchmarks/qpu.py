"""Kernels from quantum processors: jobs, fleets, what a client costs, and what the allocation of shots saves.

    python benchmarks/qpu.py [--rounds 50]

Services are real ones on the loopback interface, see qpu_services.py.

Allocation: shots are drawn from exact probabilities; pilots, whole numbers of shots and at most 8 distinct ones are included.
"Variance-driven" compares the mean squared error of a kernel matrix with that of the same number of shots spent uniformly,
and both with what Neyman's allocation could reach if it knew every variance, (mean sigma)**2 / mean(sigma**2). "By use" finds
the smallest part of the shots at which an SVC's decision function on unseen samples has the error of uniform shots; the
same for shots spent uniformly on the columns of support vectors shows how much of that is leaving out the others. Bandwidth
and C are cross-validated; a classifier that is not tuned has more support vectors, so that less can be saved. The last line is
one JSON document.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from qpu_services import report_client, report_fleet, report_jobs
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from timing import machine

from dqk import FidelityKernel
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map, zz_feature_map
from dqk.scheduler import pilot_shots, uniform, variance_driven, weighted

KERNELS = {
    "zz, 4 qubits": zz_feature_map(4),
    "zz, 4 qubits, bandwidth 0.5": zz_feature_map(4, bandwidth=0.5),
    "re-uploading, 4 qubits": reuploading_feature_map(4, layers=3),
    "re-uploading, 8 qubits, bandwidth 0.3": reuploading_feature_map(8, layers=3, bandwidth=0.3),
    "the paper's, 4 qubits": qklstm_feature_map(4),
}
PARTS = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0]


def entries(feature_map: Any, n_samples: int) -> np.ndarray:
    """Exact values off the diagonal of the kernel matrix of random samples."""
    X = np.random.default_rng(0).uniform(-1, 1, (n_samples, feature_map.n_features))
    return FidelityKernel(feature_map)(X)[np.triu_indices(n_samples, 1)].clip(0, 1)


def by_variance(p: np.ndarray, each: int, rounds: int) -> dict[str, float]:
    """Measured and theoretical ratio of mean squared errors, variance-driven over uniform."""
    rng = np.random.default_rng(1)
    budget = each * p.size
    m = pilot_shots(p.size, budget)
    errors: dict[str, list[float]] = {"uniform": [], "variance": []}
    for _ in range(rounds):
        alike = uniform(p.size, budget).shots
        errors["uniform"].append(np.mean((rng.binomial(alike, p) / alike - p) ** 2))
        pilot = rng.binomial(m, p) / m
        found = variance_driven(pilot, m, budget)
        assert found.total <= budget
        K = found.combine(pilot, rng.binomial(found.shots, p) / found.shots)[0]
        errors["variance"].append(np.mean((K - p) ** 2))
    sigma = np.sqrt(p * (1 - p))
    theory = float(sigma.mean() ** 2 / (sigma**2).mean())
    measured = float(np.mean(errors["variance"]) / np.mean(errors["uniform"]))
    return {
        "shots_per_entry": each,
        "pilot_shots": m,
        "measured": measured,
        "theory": theory,
        "over": measured / theory - 1,
    }


def classifier(
    X: np.ndarray, y: np.ndarray, bandwidths: Sequence[float], strengths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Kernel values between unseen and training samples, the coefficients of an SVC, and what cross-validation chose for it."""
    X = PCA(4, random_state=0).fit_transform(StandardScaler().fit_transform(X))
    order = np.random.default_rng(0).permutation(len(X))[:200]
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    best, kernel, C = 0.0, FidelityKernel(zz_feature_map(4)), 1.0
    for bandwidth in bandwidths:
        tried = FidelityKernel(zz_feature_map(4, bandwidth=bandwidth))
        K = tried(X[train])
        for strength in strengths:
            score = float(cross_val_score(SVC(kernel="precomputed", C=strength), K, y[train], cv=5).mean())
            if score > best:
                best, kernel, C = score, tried, strength
    model = SVC(kernel="precomputed", C=C).fit(kernel(X[train]), y[train])
    p = kernel(X[test], X[train]).clip(0, 1)
    alpha = np.zeros(len(train))
    alpha[model.support_] = model.dual_coef_[0]
    return p, alpha, {"accuracy": float(model.score(p, y[test])), "C": C, "bandwidth": kernel.feature_map.bandwidth}


def sampled_use(p: np.ndarray, alpha: np.ndarray, budget: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Decision functions, without their constant, from so many shots."""
    used = alpha != 0
    q, a = p[:, used], alpha[used]
    alike = uniform(p.size, budget).shots[0] if budget >= p.size else 0
    alike_used = uniform(q.size, budget).shots[0]
    use = weighted(np.broadcast_to(a, q.shape), budget).shots
    m = pilot_shots(q.size, budget)
    pilot = rng.binomial(m, q) / m
    both = variance_driven(pilot, m, budget, a)
    return {
        "uniform": rng.binomial(alike, p) / max(alike, 1) @ alpha,
        "uniform on support vectors": rng.binomial(alike_used, q) / alike_used @ a,
        "by use": rng.binomial(use, q) / use @ a,
        "by use and variance": both.combine(pilot, rng.binomial(both.shots, q) / both.shots)[0] @ a,
    }


def by_use(p: np.ndarray, alpha: np.ndarray, each: int, rounds: int) -> dict[str, Any]:
    """The smallest part of `each` shots per entry with which each way reaches the error of uniform ones."""
    rng = np.random.default_rng(2)
    exact = p @ alpha
    error: dict[str, dict[float, float]] = {}
    for part in PARTS:
        runs = [sampled_use(p, alpha, int(part * each * p.size), rng) for _ in range(rounds)]
        for name in runs[0]:
            error.setdefault(name, {})[part] = float(
                np.mean([np.mean((run[name] - exact) ** 2) for run in runs]) ** 0.5
            )
    target = error.pop("uniform")[1.0]
    parts = {name: next((part for part in PARTS if of[part] <= target), None) for name, of in error.items()}
    return {"support_vectors": int((alpha != 0).sum()), "columns": alpha.size, "error": target, "part_of_shots": parts}


def report_by_variance(rounds: int) -> dict[str, Any]:
    found = {}
    print("allocation: variance-driven over uniform, mean squared error of K")
    for name, feature_map in KERNELS.items():
        p = entries(feature_map, 100)
        for each in (1000, 4000):
            result = found[f"{name}, {each} shots"] = by_variance(p, each, rounds)
            print(
                f"  {name:38} {each:5} shots per entry, {result['pilot_shots']:3} in the pilot: ratio {result['measured']:.3f}, "
                f"in theory {result['theory']:.3f} ({100 * result['over']:+.1f} %)"
            )
    return found


def report_by_use(rounds: int) -> dict[str, Any]:
    iris, cancer = load_iris(return_X_y=True), load_breast_cancer(return_X_y=True)
    iris = iris[0][50:], iris[1][50:]  # any kernel tells the first of the three irises from the others
    tuned = (0.025, 0.05, 0.1, 0.2, 0.4), (1.0, 10.0, 100.0)
    cases = {
        "iris": (*iris, *tuned),
        "breast cancer": (*cancer, *tuned),
        "the same, not tuned": (*cancer, (0.2,), (1.0,)),
    }
    found = {}
    print("allocation weighted by use: shots for the decision-function error of 1000 uniform shots per entry")
    for name, case in cases.items():
        p, alpha, chosen = classifier(*case)
        result = found[name] = {**by_use(p, alpha, 1000, rounds), **chosen}
        parts = ", ".join(f"{way} {part}x" for way, part in result["part_of_shots"].items())
        print(f"  {name:20} {result['support_vectors']} of {result['columns']} are support vectors: {parts}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="simulations of each figure")
    given = parser.parse_args()
    result: dict[str, Any] = {"jobs": report_jobs(), "fleet": report_fleet(), "client": report_client()}
    result |= {"by_variance": report_by_variance(given.rounds), "by_use": report_by_use(given.rounds)}
    print(json.dumps({**result, "rounds": given.rounds, **machine()}))


if __name__ == "__main__":
    main()
