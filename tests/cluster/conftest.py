"""Fixtures of the tests of pools."""

from tests.cluster.ray_session import ray_cluster as ray_cluster
