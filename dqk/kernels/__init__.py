"""What is computed: feature maps and kernels."""

from dqk.kernels.alignment import target_alignment
from dqk.kernels.base import Kernel
from dqk.kernels.composite import ProductKernel, ScaledKernel, SumKernel
from dqk.kernels.feature_map import Angle, FeatureMap
from dqk.kernels.fidelity import FidelityKernel
from dqk.kernels.geometry import effective_dimension, geometric_difference
from dqk.kernels.linear import LinearKernel
from dqk.kernels.projected import ProjectedKernel
from dqk.kernels.rbf import RBFKernel
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
    "LinearKernel",
    "ProductKernel",
    "ProjectedKernel",
    "RBFKernel",
    "RepairReport",
    "ScaledKernel",
    "ShotPlan",
    "SumKernel",
    "closest_psd_matrix",
    "displace_matrix",
    "effective_dimension",
    "flip_matrix",
    "geometric_difference",
    "mitigate_depolarizing_noise",
    "repair_matrix",
    "symmetrise_matrix",
    "target_alignment",
    "threshold_matrix",
]
