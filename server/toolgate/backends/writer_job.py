"""A piece of work for the one writer, and the caller that waits for it."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar, cast

from toolgate.backends.ledger_batch import Read
from toolgate.backends.sql_connection import cause
from toolgate.core.errors import LedgerUnavailable

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job(Generic[T]):
    """Handed over to the writer's thread; what came of it is told on the caller's loop."""

    work: Callable[[Any], T]
    """Of a batch, inside a transaction; of nothing, after it."""
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[T]"
    reads: tuple[Read, ...] = ()
    publishes: bool = False
    given_up: Callable[[T], None] | None = None
    timer: asyncio.TimerHandle | None = None
    result: T | None = field(default=None)
    error: BaseException | None = field(default=None)
    begun: bool = False
    abandoned: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> bool:
        """Take the job up; not when the one who waited for it has gone."""
        with self._lock:
            self.begun = not self.abandoned
            return self.begun

    def hear_late(self) -> None:
        """Hear on the caller's loop that what it gave up is durable after all."""
        if self.given_up is not None:
            with suppress(RuntimeError):  # its loop was closed
                self.loop.call_soon_threadsafe(partial(self.given_up, cast("T", self.result)))

    def lose_patience(self, patience: float) -> None:
        """Wait no longer; once more as long, when the job was taken up already and may still be committed."""
        with self._lock:
            self.abandoned = not self.begun
        if self.abandoned or not patience:
            if not self.done.done():
                self.done.set_exception(LedgerUnavailable("the disk did not answer in time"))
        else:
            self.timer = self.loop.call_later(patience, self.lose_patience, 0.0)


def tell(jobs: list[Job[Any]]) -> None:
    """Hand the results over, with one wake-up of each loop for all of them."""
    for loop in {job.loop for job in jobs}:
        try:
            loop.call_soon_threadsafe(_resolve, [job for job in jobs if job.loop is loop])
        except RuntimeError:
            log.warning("a ledger write ended after its loop was closed")


def _resolve(jobs: list[Job[Any]]) -> None:
    for job in jobs:
        if job.done.done() or job.abandoned:
            if job.error is None and not job.abandoned and job.given_up is not None:
                job.given_up(job.result)
        elif job.error is not None:
            failure = LedgerUnavailable(cause(job.error))
            failure.__cause__ = job.error
            job.done.set_exception(failure)
        else:
            job.done.set_result(job.result)
