"""What tests of kernel matrices on pools share."""

import numpy as np

import dqk._task
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map

RANDOM = np.random.default_rng(7)
MAPS = {
    "product": qklstm_feature_map(3),
    "reuploading": reuploading_feature_map(3),
    "shared": reuploading_feature_map(3, layers=2, trainable="rotations"),
}


def samples(n, d=3):
    return RANDOM.uniform(-1.2, 1.2, (n, d))


def break_tile(monkeypatch, place, error):
    tile = dqk._task._Job.tile

    def broken(job, *asked):
        found = error() if asked == place else None
        if found is not None:
            raise found
        return tile(job, *asked)

    monkeypatch.setattr(dqk._task._Job, "tile", broken)
