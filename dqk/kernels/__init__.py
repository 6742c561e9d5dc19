"""What is computed: feature maps and kernels."""

from dqk.kernels.base import Kernel
from dqk.kernels.feature_map import Angle, FeatureMap
from dqk.kernels.fidelity import FidelityKernel
from dqk.kernels.projected import ProjectedKernel
from dqk.kernels.shot_plan import ShotPlan

__all__ = ["Angle", "FeatureMap", "FidelityKernel", "Kernel", "ProjectedKernel", "ShotPlan"]
