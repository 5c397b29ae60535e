"""From the moment that a call is recorded, it reaches a recorded end, whoever hangs up."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class HangUp:
    """Whether the caller has gone. Read before the send; after it, the call runs to its recorded end."""

    seen: bool = False


class Shield:
    """Runs work in tasks of its own, which a cancelled caller does not take along."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()

    async def run(self, work: Callable[[HangUp], Awaitable[T]]) -> T:
        """Run `work` to its end; when the waiting caller is cancelled, `work` is told by its `HangUp`."""
        hang_up = HangUp()
        task = asyncio.ensure_future(work(hang_up))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            hang_up.seen = True
            raise

    async def drain(self) -> None:
        """Wait until all work that was begun has ended."""
        while self._running:
            await asyncio.wait(self._running)
