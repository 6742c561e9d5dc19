"""In which pieces and by whom: tiles of a kernel matrix, their cost, order and dispatch. Pure: no I/O, no clock."""

from dqk._cost import CostModel, Measurement, Rates, TileCost
from dqk.scheduler.allocation import Allocation, pilot_shots, uniform, variance_driven, weighted
from dqk.scheduler.dispatch import Dispatch
from dqk.scheduler.events import (
    Accept,
    Action,
    Assign,
    Discard,
    Done,
    Drain,
    Event,
    Failed,
    GiveUp,
    Joined,
    Kill,
    Lost,
    Ready,
    Tick,
)
from dqk.scheduler.placement import Chosen, Fixed, Kinds, Placement, Queue
from dqk.scheduler.plan import Plan, blocks_that_fit, plan
from dqk.scheduler.policy import Policy, Statistics, WorkerStatistics
from dqk.scheduler.shots import standard_error, wilson_interval
from dqk.scheduler.strategy import STRATEGIES, Demand, Offer, Strategy, strategy
from dqk.scheduler.tiles import Tile, blocks, partition

__all__ = [
    "STRATEGIES",
    "Accept",
    "Action",
    "Allocation",
    "Assign",
    "Chosen",
    "CostModel",
    "Demand",
    "Discard",
    "Dispatch",
    "Done",
    "Drain",
    "Event",
    "Failed",
    "Fixed",
    "GiveUp",
    "Joined",
    "Kill",
    "Kinds",
    "Lost",
    "Measurement",
    "Offer",
    "Placement",
    "Plan",
    "Policy",
    "Queue",
    "Rates",
    "Ready",
    "Statistics",
    "Strategy",
    "Tick",
    "Tile",
    "TileCost",
    "WorkerStatistics",
    "blocks",
    "blocks_that_fit",
    "partition",
    "pilot_shots",
    "plan",
    "standard_error",
    "strategy",
    "uniform",
    "variance_driven",
    "weighted",
    "wilson_interval",
]
