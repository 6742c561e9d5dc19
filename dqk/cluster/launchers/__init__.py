"""Jobs on clusters: batch scripts for Slurm, submissions to a Ray cluster, and the handle that finds them again."""

from dqk.cluster.launchers.handle import Handle
from dqk.cluster.launchers.launch import launch
from dqk.cluster.launchers.options import SlurmOptions
from dqk.cluster.launchers.payload import Payload
from dqk.cluster.launchers.site import Site

__all__ = ["Handle", "Payload", "Site", "SlurmOptions", "launch"]
