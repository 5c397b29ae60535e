"""From the moment that a call is recorded, it reaches a recorded end, whoever hangs up."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

T = TypeVar("T")

LOOK_SECONDS: Final = 0.25
"""How often a gate that waits for its work looks whether it was told to wait no longer."""
LAST_SECONDS: Final = 15.0
"""What has no recorded end so long after it was cut is taken for lost later."""


@dataclass
class HangUp:
    """Whether the caller has gone. Read before the send; after it, the call runs to its recorded end."""

    seen: bool = False
    cut: bool = False
    """The gate ends and waits no longer: what is at work breaks off, and its call is recorded so."""
    _broken_off: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @contextmanager
    def breaking_off(self, break_off: Callable[[], None]) -> Generator[None]:
        """Hear of the cut."""
        self._broken_off.append(break_off)
        try:
            yield
        finally:
            self._broken_off.remove(break_off)

    def make_cut(self) -> None:
        """Let what is at work break off."""
        self.cut = True
        for break_off in tuple(self._broken_off):
            break_off()


class Shield:
    """Runs work in tasks of its own, which a cancelled caller does not take along.

    Args:
        last_seconds: how long work that was cut may take to record its end.
    """

    def __init__(self, last_seconds: float = LAST_SECONDS) -> None:
        self._last_seconds = last_seconds
        self._running: dict[asyncio.Task[object], HangUp] = {}
        self._cut = False

    async def run(self, work: Callable[[HangUp], Awaitable[T]]) -> T:
        """Run `work` to its end; when the waiting caller is cancelled, `work` is told by its `HangUp`."""
        hang_up = HangUp(cut=self._cut)
        task = asyncio.ensure_future(work(hang_up))
        self._running[task] = hang_up
        task.add_done_callback(self._running.pop)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            hang_up.seen = True
            raise

    @property
    def running(self) -> int:
        """How much work has not ended."""
        return len(self._running)

    def cut(self) -> None:
        """Let all work break off and record that it did, and what is begun from now on."""
        self._cut = True
        for hang_up in tuple(self._running.values()):
            hang_up.make_cut()

    async def drain(self) -> None:
        """Wait until all work that was begun has ended; once it was cut, only as long as work ends."""
        while self._running:
            was_cut = self._cut
            ended, _ = await asyncio.wait(
                self._running, timeout=self._last_seconds if was_cut else LOOK_SECONDS
            )
            if was_cut and not ended:
                return
