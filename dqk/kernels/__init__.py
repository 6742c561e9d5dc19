"""What is computed: feature maps and kernels."""

from dqk.kernels.base import Kernel
from dqk.kernels.feature_map import Angle, FeatureMap
from dqk.kernels.fidelity import FidelityKernel
from dqk.kernels.projected import ProjectedKernel
from dqk.kernels.repair import (
    RepairReport,
    closest_psd_matrix,
    displace_matrix,
    flip_matrix,
    mitigate_depolarizing_noise,
    repair_matrix,
    symmetrise_matrix,
    threshold_matrix,
)
from dqk.kernels.shot_plan import ShotPlan

__all__ = [
    "Angle",
    "FeatureMap",
    "FidelityKernel",
    "Kernel",
    "ProjectedKernel",
    "RepairReport",
    "ShotPlan",
    "closest_psd_matrix",
    "displace_matrix",
    "flip_matrix",
    "mitigate_depolarizing_noise",
    "repair_matrix",
    "symmetrise_matrix",
    "threshold_matrix",
]
