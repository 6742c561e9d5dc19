"""Shares of a node: CPUs, GPUs, memory, and the environment that tells a worker."""

import os

import pytest
import torch

from dqk import _resources
from dqk.backends import gpu
from dqk.cluster import resources
from dqk.cluster.resources import (
    cpu_share,
    own_gpu,
    same_gpu,
    take_gpu,
    threads_per_worker,
    visible_gpus,
    worker_environment,
)
from dqk.errors import ClusterError, InvalidInputError


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    cpus = [0, 1, 2, 3, 8, 9, 10, 11]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(cpus))
    monkeypatch.setattr(resources, "cpu_threads", lambda: len(cpus))
    return cpus


def test_cpus_are_divided_completely(eight_cpus: list[int]) -> None:
    for workers in range(1, 9):
        shares = [cpu_share(rank, workers) for rank in range(workers)]
        assert [cpu for share in shares for cpu in share] == eight_cpus
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert threads_per_worker(workers) == min(map(len, shares))


def test_more_workers_than_cpus_share_all(eight_cpus: list[int]) -> None:
    assert cpu_share(8, 9) == tuple(eight_cpus)
    assert threads_per_worker(9) == 1
    with pytest.raises(InvalidInputError, match="among 0 workers"):
        threads_per_worker(0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0,1,2", ("0", "1", "2")),
        (" 3 , 1", ("3", "1")),
        ("GPU-8932f937,MIG-GPU-b7c8,2", ("GPU-8932f937", "MIG-GPU-b7c8", "2")),
        ("0,-1,2", ("0",)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)
def test_visible_gpus(monkeypatch: pytest.MonkeyPatch, given: str, expected: tuple[str, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


def test_each_worker_sees_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,6")
    seen = [worker_environment(rank, 4, 1)["CUDA_VISIBLE_DEVICES"] for rank in range(4)]
    assert seen == ["4", "GPU-a", "6", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(0, 4, 1)


def test_environment_limits_every_library() -> None:
    environment = worker_environment(1, 4, 3)
    limits = {name: value for name, value in environment.items() if name.endswith("_NUM_THREADS")}
    assert limits == dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    )
    assert (environment["DQK_THREADS"], environment["DQK_NODE_WORKERS"]) == ("3", "4")


def test_workers_of_a_node_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DQK_MEMORY_MIB", raising=False)
    monkeypatch.delenv("DQK_NODE_WORKERS", raising=False)
    monkeypatch.setattr(_resources, "available_memory", lambda: 2400)
    assert _resources.memory_bound() == 1200
    monkeypatch.setenv("DQK_NODE_WORKERS", "4")
    assert _resources.memory_bound() == 300
    monkeypatch.setenv("DQK_MEMORY_MIB", "5")
    assert _resources.memory_bound() == 5 * 2**20


@pytest.mark.parametrize("given", ["", "0", "-1", "two", "1.5"])
def test_invalid_number_of_workers(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.delenv("DQK_MEMORY_MIB", raising=False)
    monkeypatch.setenv("DQK_NODE_WORKERS", given)
    with pytest.raises(
        InvalidInputError, match=f"DQK_NODE_WORKERS is '{given}', expected a whole number of at least 1"
    ):
        _resources.memory_bound()


def test_ranks_of_a_node_share_out_the_gpus_that_all_of_them_see(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, expected in enumerate(["4", "GPU-a", "4"]):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a")
        take_gpu(rank, 3)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        take_gpu(rank, 3)  # ranks meet again for the next matrix
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a")
    take_gpu(0, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,GPU-a", "a rank alone keeps all"


def test_a_gpu_that_is_in_use_is_not_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ClusterError, match="2 workers on this node see 2 GPUs each, and CUDA is in use"):
        take_gpu(1, 2)


def test_a_worker_knows_its_gpu_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "devices", lambda: [{"uuid": "GPU-8932f937-d72c"}])
    for name in ("3", "GPU-8932f937-d72c", "GPU-8932"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
        assert own_gpu() == "GPU-8932f937-d72c"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0000")
    with pytest.raises(ClusterError, match="names GPU-0000, and CUDA gives GPU-8932f937-d72c"):
        own_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert own_gpu() is None


def test_two_workers_with_one_gpu_are_found() -> None:
    others = [("ray-1", "GPU-a"), ("ray-2", None), ("ray-3", "GPU-b")]
    assert same_gpu("GPU-b", others) == "ray-3"
    assert same_gpu("GPU-c", others) is None and same_gpu(None, others) is None
