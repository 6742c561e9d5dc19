"""Where tasks run: pools of workers behind one interface."""

from dqk.cluster.base import Arrays, Buffer, Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool

__all__ = ["Arrays", "Buffer", "Done", "Failed", "Joined", "Lost", "PoolEvent", "Worker", "WorkerPool"]
