"""Which trouble the gates of one trial get, one gate after another."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

from tests.torture.books import Database
from tests.torture.points import ACTIONS, LOOKING_UP, OUTSIDE, POINTS, Action, Point, Trouble, is_meaningful
from toolgate.core.tool import Duplicates

ALWAYS = 1_000_000
_SPILLING: tuple[Point, ...] = ("before spilling", "after spilling", "before forgetting what was spilled")
_ANYWHERE: tuple[Point, ...] = tuple(point for point in POINTS if point not in {*_SPILLING, *LOOKING_UP})
_ENDS_FAIL = Trouble("before the end's commit", "raise", times=ALWAYS, until="after spilling")
_IN_DOUBT = Trouble("after the send", "raise", times=3)
"""Leaves something to look up."""
_SECONDS, _SECONDS_OF_A_HANG = 4.0, 2.5


@dataclass(frozen=True)
class Plan:
    """What happens to one gate: some trouble, until it kills itself or is killed after `seconds`."""

    troubles: tuple[Trouble, ...]
    seconds: float
    stop: Literal["hang", "slow"] | None = None
    """It is stopped from outside, and goes on after a while."""
    before: float = 0.0
    """Seconds for which it runs before that."""


def plans(mode: Duplicates, seed: str, database: Database) -> Iterator[Plan]:
    """Give plans without end; in each deck of some forty, everything happens that can happen, everywhere."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    while True:
        deck = [*_from_outside(mode, chance), *_about(_ANYWHERE, chance, database)]
        deck += _about(_SPILLING, chance, database, _ENDS_FAIL)
        if mode == "query":
            deck += _about(LOOKING_UP, chance, database, _IN_DOUBT)
        chance.shuffle(deck)
        yield from deck


def meaningful(mode: Duplicates, database: Database) -> list[tuple[str, Action]]:
    """Give everything that can happen, and where."""
    return [
        (place, action)
        for place in (*_of(mode), OUTSIDE)
        for action in ACTIONS
        if is_meaningful(place, action, database)
    ]


def _from_outside(mode: Duplicates, chance: random.Random) -> list[Plan]:
    """Kill a gate at any moment: after some trouble or in the middle of it, or after it was stopped."""
    points = _of(mode)
    beside = (_harm(chance.choice(points), "hang", chance), _harm(chance.choice(points), "slow", chance))
    start = chance.uniform(0.05, 0.3)
    return [
        Plan((beside[0],), chance.uniform(0.1, 2.5)),
        Plan((beside[1],), chance.uniform(0.02, 0.5)),
        Plan((), start + chance.uniform(2.4, 3.0), "hang", start),
        Plan((), start + chance.uniform(0.15, 0.5), "slow", start),
    ]


def _about(points: Sequence[Point], chance: random.Random, database: Database, *first: Trouble) -> list[Plan]:
    """Kill twice at each of `points`, and deal out among those gates what else can happen there.

    Args:
        first: what has to happen for the points to be met.
    """
    kills: list[Point] = [*points, *points]
    chance.shuffle(kills)
    hands: list[list[Trouble]] = [[] for _ in kills]
    for hand, (point, action) in zip(cycle(hands), _harms(points, chance, database), strict=False):
        hand.append(_harm(point, action, chance))
    return [_plan((*first, *hand), point, chance) for point, hand in zip(kills, hands, strict=True)]


def _harms(points: Sequence[Point], chance: random.Random, database: Database) -> list[tuple[Point, Action]]:
    """Give what does not kill, in such an order that hands dealt from it have their share of hangs."""
    harms: list[tuple[Point, Action]] = []
    for action in ACTIONS[1:]:
        where: list[Point] = [point for point in points if is_meaningful(point, action, database)]
        chance.shuffle(where)
        harms.extend((point, action) for point in where)
    return harms


def _harm(point: Point, action: Action, chance: random.Random) -> Trouble:
    often = point not in {*_SPILLING, *LOOKING_UP}
    skip = chance.randrange(3) if often else 0
    return Trouble(point, action, skip, chance.randrange(1, 4) if often and action != "hang" else 1)


def _plan(troubles: tuple[Trouble, ...], point: Point, chance: random.Random) -> Plan:
    """Kill at `point` after the troubles, or now and then without waiting for them."""
    skip = chance.randrange(4) if point not in {*_SPILLING, *LOOKING_UP} else 0
    hangs = sum(trouble.action == "hang" for trouble in troubles)
    kill = Trouble(point, "kill", skip, last=chance.random() < 0.95)
    return Plan((*troubles, kill), _SECONDS + _SECONDS_OF_A_HANG * hangs)


def _of(mode: Duplicates) -> list[Point]:
    """Leave out what is never met."""
    points: list[Point] = [point for point in POINTS if mode == "query" or point not in LOOKING_UP]
    return points
