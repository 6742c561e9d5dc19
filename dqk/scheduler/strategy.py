"""Strategies by name: which placement and which rules make a round-robin, a pull, a run for the least price, ...

A strategy is pure: from what workers offer and what there is to do it makes a `Placement`, for real time as for virtual time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dqk.errors import InvalidInputError, unknown_name
from dqk.scheduler.placement import Chosen, Fixed, Kinds, Placement, Queue, Suits, stretches

_BINS = 16  # of importance
_SLACK = 2.0  # a deadline that nobody names is so many times what all workers together take


@dataclass(frozen=True)
class Offer:
    """What a worker takes for items, and how good its results are.

    Attributes:
        worker: its name.
        seconds: for an item of each kind, its queue included; infinity for what it cannot compute.
        price: of an item of each kind.
        error: expected of an entry; only the order of workers matters.
        simulates: whether it computes entries exactly, as GPUs and CPUs do.
    """

    worker: str
    seconds: tuple[float, ...]
    price: tuple[float, ...]
    error: float = 0.0
    simulates: bool = False


@dataclass(frozen=True, eq=False)
class Demand:
    """What there is to do.

    Attributes:
        kind: of each item, as offers count them, shape (T,).
        importance: of each item, shape (T,); None where all are alike.
    """

    kind: np.ndarray
    importance: np.ndarray | None = None

    def counts(self, kinds: int) -> np.ndarray:
        """Items of each kind."""
        return np.bincount(self.kind, minlength=kinds)


@dataclass(frozen=True)
class Strategy:
    """How work is spread.

    Attributes:
        name: of it.
        about: in a few words.
        hedge: whether idle workers get copies of what is late at the end.
        place: makes the placement; None for `Dispatch`'s own.
    """

    name: str
    about: str
    hedge: bool = False
    place: Callable[[Demand, Sequence[Offer], float | None], Placement] | None = None

    def placement(self, demand: Demand, offers: Sequence[Offer], deadline_s: float | None = None) -> Placement | None:
        """Who may have what.

        Args:
            demand: what there is to do.
            offers: of the workers there are.
            deadline_s: when all should be done, for strategies that heed one; None for twice what all together take.

        Raises:
            InvalidInputError: if there are items that no worker can compute.
        """
        counts = demand.counts(len(offers[0].seconds) if offers else 0)
        able = np.array([np.isfinite(offer.seconds) for offer in offers]).reshape(len(offers), -1)
        nowhere = [kind for kind, count in enumerate(counts) if count and not able[:, kind].any()]
        if nowhere:
            raise InvalidInputError(f"{int(counts[nowhere].sum())} items of kind {nowhere} fit no worker")
        if self.place is not None:
            return self.place(demand, offers, deadline_s)
        return None if able[:, counts > 0].all() else _scarcest_first(demand, offers)


def alone_s(offer: Offer, counts: np.ndarray) -> float:
    """Seconds that a worker takes for everything that it can compute; infinity if that is nothing."""
    seconds = np.array(offer.seconds)
    able = np.isfinite(seconds) & (counts > 0)
    return float((counts * np.where(able, seconds, 0.0)).sum()) if able.any() else math.inf


def together_s(offers: Sequence[Offer], counts: np.ndarray) -> float:
    """Seconds that workers take together, if all that each can do could be cut at will."""
    speed = sum(1 / max(alone_s(offer, counts), 1e-300) for offer in offers)
    return 1 / speed if speed > 0 else math.inf


def _round_robin(demand: Demand, offers: Sequence[Offer], _: float | None) -> Placement:
    def queue(seconds: np.ndarray, items: np.ndarray) -> Queue:
        shares: dict[str, list[int]] = {offer.worker: [] for offer in offers}
        turn = 0
        for item in items.tolist():
            while not math.isfinite(offers[turn % len(offers)].seconds[demand.kind[item]]):
                turn += 1
            shares[offers[turn % len(offers)].worker].append(item)
            turn += 1
        return Fixed(seconds, shares, _suits(demand, offers))

    return queue


def _by_speed(demand: Demand, offers: Sequence[Offer], _: float | None) -> Placement:
    """Each worker's share is as large as its speed, kind by kind."""

    def queue(seconds: np.ndarray, items: np.ndarray) -> Queue:
        shares: dict[str, list[int]] = {offer.worker: [] for offer in offers}
        kinds = demand.kind[items]
        for kind in np.unique(kinds).tolist():
            speeds = np.array([1 / offer.seconds[kind] for offer in offers])
            own = items[kinds == kind]
            # The n-th item goes to whom it brings nearest to its share: all shares fill evenly.
            edges = np.cumsum(speeds / speeds.sum())
            places = np.minimum(np.searchsorted(edges, _spread(len(own)), side="right"), len(offers) - 1)
            for place, offer in enumerate(offers):
                shares[offer.worker] += own[places == place].tolist()
        return Fixed(seconds, {worker: sorted(share) for worker, share in shares.items()}, _suits(demand, offers))

    return queue


def _suits(demand: Demand, offers: Sequence[Offer]) -> Suits | None:
    """Whether a worker can compute an item; None if all can compute all there is."""
    able = {offer.worker: [math.isfinite(seconds) for seconds in offer.seconds] for offer in offers}
    kinds = np.unique(demand.kind).tolist()
    if all(row[kind] for row in able.values() for kind in kinds):
        return None
    kind = demand.kind.tolist()
    return lambda worker, item: worker in able and able[worker][kind[item]]


def _spread(count: int) -> np.ndarray:
    """Points in [0, 1), evenly spread, neighbours far apart (golden ratio)."""
    order = np.argsort((np.arange(count) * 0.6180339887498949) % 1.0, kind="stable")
    found = np.empty(count)
    found[order] = (np.arange(count) + 0.5) / max(1, count)
    return found


def _cheapest(score: Callable[[Offer, np.ndarray], float], heeds_deadline: bool) -> Callable[..., Placement]:
    """The best workers by a score pull; as many of them as the deadline asks for, else those that are as good as the best."""

    def place(demand: Demand, offers: Sequence[Offer], deadline_s: float | None) -> Placement:
        counts = demand.counts(len(offers[0].seconds))
        useful = [offer for offer in offers if math.isfinite(alone_s(offer, counts))]
        ranked = sorted(useful, key=lambda offer: score(offer, counts))
        limit = math.inf
        if heeds_deadline:
            limit = _SLACK * together_s(useful, counts) if deadline_s is None else deadline_s
        chosen: list[Offer] = []
        for offer in ranked:
            if heeds_deadline and chosen and _covers(chosen, counts) and together_s(chosen, counts) <= limit:
                break
            if not heeds_deadline and chosen and _covers(chosen, counts):
                if score(offer, counts) > score(chosen[0], counts) * (1 + 1e-9):
                    break
            chosen.append(offer)

        names = [offer.worker for offer in chosen]
        if _suits(demand, offers) is None:
            return lambda seconds, items: Chosen(stretches(seconds, items), names)
        inner = _scarcest_first(demand, offers)
        return lambda seconds, items: Chosen(inner(seconds, items), names)

    return place


def _covers(offers: Sequence[Offer], counts: np.ndarray) -> bool:
    return all(any(math.isfinite(offer.seconds[kind]) for offer in offers) for kind in np.flatnonzero(counts))


def _price(offer: Offer, counts: np.ndarray) -> float:
    """Of an item on average, of the kinds that the worker can compute."""
    able = np.isfinite(offer.seconds) & (counts > 0)
    return float((np.array(offer.price)[able] * counts[able]).sum() / counts[able].sum())


def _error(offer: Offer, _: np.ndarray) -> float:
    return offer.error


def _scarcest_first(demand: Demand, offers: Sequence[Offer]) -> Placement:
    """Pull where not everybody can compute everything: first what fewest can."""
    able = np.array([np.isfinite(offer.seconds) for offer in offers])
    return _rows(demand, offers, np.argsort(able.sum(axis=0), kind="stable").tolist(), [o.worker for o in offers])


def _simulators_first(demand: Demand, offers: Sequence[Offer], _: float | None) -> Placement:
    """Simulators begin with what is cheapest to simulate beside what it takes a quantum processor, those with the rest."""
    seconds = {side: [o.seconds for o in offers if o.simulates == side] for side in (True, False)}
    if not seconds[True] or not seconds[False]:
        return _scarcest_first(demand, offers)
    simulated, measured = (np.array(seconds[side]).min(axis=0) for side in (True, False))
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isinf(measured), 0.0, simulated / measured)
    return _rows(demand, offers, np.argsort(ratio, kind="stable").tolist(), [o.worker for o in offers if o.simulates])


def _rows(demand: Demand, offers: Sequence[Offer], order: Sequence[int], front: Sequence[str]) -> Placement:
    able = {offer.worker: [math.isfinite(offer.seconds[kind]) for kind in order] for offer in offers}

    def queue(seconds: np.ndarray, items: np.ndarray) -> Queue:
        kinds = demand.kind[items]
        return Kinds(seconds, [items[kinds == kind].tolist() for kind in order], able, front)

    return queue


def _important_on_good(demand: Demand, offers: Sequence[Offer], _: float | None) -> Placement:
    """The better half, by speed, begins with the most important items, the other one with the least important."""
    counts = demand.counts(len(offers[0].seconds))
    ranked = sorted(offers, key=lambda offer: offer.error)
    speeds = np.array([1 / alone_s(offer, counts) for offer in ranked])
    half = np.cumsum(speeds) - speeds / 2 <= speeds.sum() / 2
    front = [offer.worker for offer, good in zip(ranked, half, strict=True) if good]
    importance = np.zeros(len(demand.kind)) if demand.importance is None else demand.importance
    edges = np.quantile(importance, np.linspace(0, 1, _BINS + 1)[1:-1]) if len(importance) else np.zeros(0)
    bins = np.searchsorted(edges, importance, side="right")
    kinds = len(offers[0].seconds)
    order = [(bin_, kind) for bin_ in range(_BINS - 1, -1, -1) for kind in range(kinds)]
    able = {offer.worker: [math.isfinite(offer.seconds[kind]) for _, kind in order] for offer in offers}

    def queue(seconds: np.ndarray, items: np.ndarray) -> Queue:
        own = [items[(bins[items] == bin_) & (demand.kind[items] == kind)].tolist() for bin_, kind in order]
        return Kinds(seconds, own, able, front)

    return queue


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("round_robin", "static: items in turn", place=_round_robin),
        Strategy("by_speed", "static: shares as large as the workers' nominal speeds", place=_by_speed),
        Strategy("pull", "dynamic: whoever has room takes the next"),
        Strategy("hedged", "pull; at the end idle workers take copies of what is late", hedge=True),
        Strategy("quality", "pull by the workers with the least error", place=_cheapest(_error, False)),
        Strategy("price", "pull by the cheapest workers", place=_cheapest(_price, False)),
        Strategy(
            "deadline", "pull by the cheapest workers that keep a deadline together", place=_cheapest(_price, True)
        ),
        Strategy("error_aware", "important items begin at the better half of the workers", place=_important_on_good),
        Strategy(
            "mixed",
            "simulators begin with what is cheap to simulate, QPUs with the rest; hedged at the end",
            hedge=True,
            place=_simulators_first,
        ),
    )
}


def strategy(name: str) -> Strategy:
    """The strategy of a name.

    Raises:
        InvalidInputError: if there is none.
    """
    if name not in STRATEGIES:
        raise unknown_name("policy", name, STRATEGIES)
    return STRATEGIES[name]
