"""Which trouble the gates of one trial get, one gate after another."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.torture.points import POINTS, Point, Trouble
from toolgate.core.tool import Duplicates

ALWAYS = 1_000_000
_SPILLING: tuple[Point, ...] = ("before spilling", "after spilling", "before forgetting what was spilled")
_LOOKING_UP: tuple[Point, ...] = ("before a look-up", "after a look-up")
_CHECKPOINTS: tuple[Point, ...] = ("before the checkpoint's file", "after the checkpoint's file")
_FAILING: tuple[Point, ...] = (
    "before the intent",
    "before the intent's commit",
    "before sending",
    "before the send",
    "after the send",
    "after the system's answer",
    "before the end's commit",
    "before the checkpoint's file",
    "after the checkpoint's file",
    "before a look-up",
    "before spilling",
)
_HANGING: tuple[Point, ...] = (
    "before the intent's commit",
    "after the intent's commit",
    "before sending",
    "before the send",
    "after the send",
    "before the end's commit",
)
_ENDS_FAIL = Trouble("before the end's commit", "raise", times=ALWAYS, until="after spilling")


@dataclass(frozen=True)
class Plan:
    """What happens to one gate: some trouble, until it kills itself or is killed after `seconds`."""

    troubles: tuple[Trouble, ...]
    seconds: float


def plans(mode: Duplicates, seed: int) -> Iterator[Plan]:
    """Give plans without end; in a round of them each point kills once, and some do other harm."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    points = _of(mode, POINTS)
    while True:
        deck = [_plan(point, mode, chance) for point in points]
        deck += [Plan(_beside(mode, chance), chance.uniform(0.02, 0.5)) for _ in range(3)]
        deck += [Plan((_failing(mode, chance),), chance.uniform(0.3, 0.8)) for _ in range(4)]
        chance.shuffle(deck)
        yield from deck


def _plan(point: Point, mode: Duplicates, chance: random.Random) -> Plan:
    if point in _SPILLING:
        return Plan((_ENDS_FAIL, Trouble(point, "kill")), 3.0)
    if point in _LOOKING_UP:
        return Plan((Trouble("after the send", "raise", times=2), Trouble(point, "kill")), 3.0)
    if point in _CHECKPOINTS:
        return Plan((*_beside(mode, chance), Trouble(point, "kill", chance.randrange(1, 4))), 2.0)
    beside = _beside(mode, chance)
    skip = chance.randrange(5) + (3 if beside else 0)
    hangs = any(trouble.action == "hang" for trouble in beside)
    return Plan((*beside, Trouble(point, "kill", skip)), 5.0 if hangs else 2.0)


def _beside(mode: Duplicates, chance: random.Random) -> tuple[Trouble, ...]:
    """Give now and then a trouble that does not kill."""
    drawn = chance.random()
    if drawn < 0.06:
        return (Trouble(chance.choice(_HANGING), "hang", chance.randrange(1, 4)),)
    if drawn < 0.25:
        return (_failing(mode, chance),)
    if drawn < 0.35:
        return (Trouble(chance.choice(_of(mode, POINTS)), "slow", chance.randrange(4), 2),)
    return ()


def _failing(mode: Duplicates, chance: random.Random) -> Trouble:
    return Trouble(chance.choice(_of(mode, _FAILING)), "raise", chance.randrange(4), chance.randrange(1, 4))


def _of(mode: Duplicates, points: tuple[Point, ...]) -> list[Point]:
    """Leave out what is never met."""
    return [point for point in points if mode == "query" or point not in _LOOKING_UP]
