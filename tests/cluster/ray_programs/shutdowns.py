"""Shuts Ray down under an open pool and under one that `gram` keeps, then uses them, and prints one line of JSON."""

import json
import tempfile

import numpy as np
import ray

from dqk import FidelityKernel, gram
from dqk._executors import pools
from dqk.cluster._ray import RayPool
from dqk.errors import ClusterError
from dqk.kernels.feature_maps import qklstm_feature_map


def main() -> None:
    found: dict[str, object] = {}
    samples = np.random.default_rng(0).random((9, 2))
    kernel = FidelityKernel(qklstm_feature_map(2), executor="ray")
    first = gram(kernel, samples)
    ray.shutdown()
    found["same_again"] = bool((gram(kernel, samples) == first).all())
    ray.shutdown()
    with RayPool(1, start_timeout_s=120) as pool:
        pool.poll(60)  # it joined
        ray.shutdown()
        messages = []
        for call in (lambda: pool.poll(1), lambda: pool.put("0", {"x": samples}), lambda: pool.submit("ray-1", 0, b"")):
            try:
                call()
            except ClusterError as error:
                messages.append(str(error))
        pool.kill("ray-1")
        pool.drop("0")
        found["messages"] = messages
    gram(kernel, samples)
    ray.shutdown()
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        pools.close()  # as at the end of the process
        pool.close()
        found["theirs_runs"] = ray.is_initialized()
        ray.shutdown()
    print(json.dumps(found | {"ray_at_the_end": ray.is_initialized()}))


main()
