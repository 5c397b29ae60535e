"""The places at which a gate can be made to die, fail, hang or be slow, and what happens there."""

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from tests.torture.books import Database

Point = Literal[
    "before the intent",
    "before the intent's commit",
    "after the intent's commit",
    "before sending",
    "before the send",
    "after the send",
    "after the system's answer",
    "before the end",
    "before the end's commit",
    "after the end's commit",
    "before the reply",
    "after the reply",
    "before the checkpoint's file",
    "after the checkpoint's file",
    "before a look-up",
    "after a look-up",
    "before spilling",
    "after spilling",
    "before forgetting what was spilled",
]
"""`before sending` is before the adapter says that it sends, `before the send` between that and the bytes."""
Action = Literal["kill", "raise", "hang", "slow", "stop"]
POINTS: Final[tuple[Point, ...]] = get_args(Point)
ACTIONS: Final[tuple[Action, ...]] = ("kill", "raise", "hang", "slow")
LOOKING_UP: Final[tuple[Point, ...]] = ("before a look-up", "after a look-up")
"""Met only where the system can be asked."""
OUTSIDE: Final = "anywhere, from outside"
"""By a signal to the process, wherever it is."""
_HOLDS: Final = "SQLite does not report a commit as failed that holds"
_MEANINGLESS: Final[Mapping[tuple[str, Action], str]] = {
    ("after the reply", "raise"): "after the reply nothing of a call is left that could fail",
    (OUTSIDE, "raise"): "from outside nothing can be raised in a process",
}
WITHOUT_MEANING: Final[Mapping[Database, Mapping[tuple[str, Action], str]]] = {
    "sqlite": {
        ("after the intent's commit", "raise"): _HOLDS,
        ("after the end's commit", "raise"): _HOLDS,
        **_MEANINGLESS,
    },
    "postgresql": _MEANINGLESS,
}
SLOW: Final = 0.1


@dataclass(frozen=True)
class Trouble:
    """What happens at a point: after it was passed `skip` times, `times` times or `until` another point."""

    point: Point
    action: Action
    skip: int = 0
    times: int = 1
    until: Point | None = None
    last: bool = False
    """Only when all other troubles of the gate, but those `until` another point, have happened."""


class Points:
    """Makes trouble where a gate comes by.

    Args:
        troubles: what is to happen.
        diary: a file to which is added what happened; it outlives the process.
        hang: seconds for which a hanging gate hangs.
    """

    def __init__(self, troubles: Sequence[Trouble], diary: Path, *, hang: float) -> None:
        self._troubles = tuple(troubles)
        self._passed = dict.fromkeys(range(len(troubles)), 0)
        self._met: set[Point] = set()
        self._due = {number for number, trouble in enumerate(troubles) if not (trouble.last or trouble.until)}
        self._diary, self._hang = diary, hang
        self._lock = threading.Lock()

    def meet(self, point: Point, fault: type[Exception] = OSError) -> None:
        """Come by a point; `fault` is what is raised there when something is to be raised."""
        self._met.add(point)
        for number, trouble in enumerate(self._troubles):
            if trouble.point == point and self._is_due(number, trouble):
                note(self._diary, point, trouble.action)
                try:
                    self._act(trouble, fault)
                finally:
                    self._due.discard(number)

    def _is_due(self, number: int, trouble: Trouble) -> bool:
        if trouble.until in self._met or (trouble.last and self._due):
            return False
        with self._lock:
            passed = self._passed[number]
            self._passed[number] += 1
        return trouble.skip <= passed < trouble.skip + trouble.times

    def _act(self, trouble: Trouble, fault: type[Exception]) -> None:
        match trouble.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                time.sleep(self._hang)
            case "slow":
                time.sleep(SLOW)
            case "raise":
                raise fault(f"made to fail {trouble.point}")


def is_meaningful(place: str, action: Action, database: Database) -> bool:
    """Whether it is something that can happen there."""
    return (place, action) not in WITHOUT_MEANING[database]


def note(diary: Path, where: str, action: str) -> None:
    """Write down what is about to happen."""
    descriptor = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{where}|{action}\n".encode())
    os.close(descriptor)
