"""The one connection of this process that writes to the ledger, and the thread that owns it.

Whatever queued up while the last commit was on its way to the disk goes into the next one: a lone call waits
for nobody, many calls share one `fsync`. Where the ledger lies is a subclass's affair.
"""

import asyncio
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from toolgate import __version__
from toolgate.backends.checkpoints import Checkpoints
from toolgate.backends.erased_names import ErasedNames
from toolgate.backends.ledger_batch import Batch, Read
from toolgate.backends.ledger_entries import FORM, Entry, entry_of, micros
from toolgate.backends.owners import Owners
from toolgate.backends.sql_connection import SqlConnection, cause
from toolgate.backends.writer_job import Job, tell
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import Note

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST_JOBS_A_COMMIT: Final = 128
CLOCK_STEP: Final = 1.0
"""Seconds by which the clock may differ from what has passed before that is recorded."""

Work: TypeAlias = Callable[[Batch], T]
Fate: TypeAlias = Literal["held", "lost", "refused", "unknown"]
"""What became of a transaction that ended in an error: it is durable after all; it is gone with its
connection, and may be tried again as it is; something in it was refused; or nobody can tell, for now."""


class LedgerWriter(ABC):
    """Runs jobs in transactions that are durable when `write` returns.

    Args:
        checkpoints: signs and publishes what the log holds.
        patience: seconds that `write` waits for the database before it gives up.
        clock: seconds of the wall clock, whose steps are recorded.
    """

    faults: ClassVar[tuple[type[Exception], ...]]
    """What the database, and the files beside it, raise when something is wrong with them."""

    def __init__(self, checkpoints: Checkpoints, *, patience: float, clock: Callable[[], float]) -> None:
        self._checkpoints = checkpoints
        self._patience = patience
        self._clock = clock
        self._failing = False
        self.erased = ErasedNames()
        self._batch: Batch | None = None
        """What the last transaction had to write; None while nothing of it was begun."""
        self._generation, self._wseq = 0, 0
        self._ahead = clock() - time.monotonic()
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._aside: list[Job[Any] | None] = []
        """What was found in the queue when it was too early for it."""
        self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)

    @property
    @abstractmethod
    def owners(self) -> Owners:
        """The writing processes of this ledger, of which this is one."""

    @abstractmethod
    def has_room(self) -> bool:
        """Whether there is room for something new.

        Raises:
            LedgerUnavailable: nobody can tell.
        """

    @abstractmethod
    def may_act(self, since: float) -> bool:
        """Whether others have seen all the time since `since` (monotonic) that this process is alive.

        Else they may have taken what it began before for lost.
        """

    @abstractmethod
    def newest_activation(self) -> int | None:
        """Give the entry of the newest activation of a policy, as far as it is heard here.

        Raises:
            LedgerUnavailable: it cannot be told.
        """

    @abstractmethod
    async def some_end(self, intent: int, seconds: float) -> None:
        """Wait until another process may have ended the call of `intent`; at most so long."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[SqlConnection]:
        """Begin what nobody else can come between, and make it durable in the end; or undo it."""

    @abstractmethod
    def _publishing(self) -> AbstractContextManager[SqlConnection]:
        """Let nobody else publish meanwhile."""

    @abstractmethod
    def _scrub(self, *, rewrite: bool) -> bool:
        """Leave nothing that was deleted in the database's files."""

    @abstractmethod
    def _let_go(self) -> None:
        """Close the connection, and be gone."""

    def _fate(self, error: Exception, jobs: list[Job[Any]]) -> Fate:
        """Find out what became of the last transaction, of `jobs`, which ended in `error`."""
        del error, jobs
        return "refused"

    @abstractmethod
    def _committed(self, batch: Batch, jobs: int) -> None:
        """Hear that a transaction is durable."""

    @abstractmethod
    def _tidy(self) -> None:
        """Do what is due between two transactions, when those who waited have been told."""

    async def write(self, work: Work[T], *reads: Read) -> T:
        """Run `work` in a transaction and return its result once that is durable.

        `reads` are questions that it will ask of the batch.

        Raises:
            LedgerUnavailable: it could not be made durable in time; nothing may be assumed to be recorded.
        """
        return await self._done(work, reads=reads)

    async def begin(self, work: Work[T], *reads: Read, given_up: Callable[[T], None] | None = None) -> T:
        """The same for what begins something new: refused when the disk is nearly full.

        `given_up` hears of a result that became durable after all, when nobody waited for it any more.

        Raises:
            LedgerUnavailable: as `write`, or too little room is left.
        """
        if not self.has_room():
            raise LedgerUnavailable("the disk is nearly full")
        return await self._done(work, reads=reads, given_up=given_up)

    async def publish(self) -> Note | None:
        """Sign and publish a checkpoint of what is committed now; None for an empty ledger.

        Raises:
            LedgerUnavailable: it could not be published.
        """
        return await self._done(lambda _: self._publish(), publishes=True)

    async def scrub(self, *, rewrite: bool = False) -> bool:
        """Leave nothing that was deleted in the database's files; False where a reader was in the way.

        Args:
            rewrite: make the whole anew. Other writers wait meanwhile.

        Raises:
            LedgerUnavailable: it could not be done.
        """
        return await self._done(lambda _: self._scrub(rewrite=rewrite), publishes=True, hurried=False)

    def is_alive(self) -> bool:
        """Whether what is queued gets written: somebody works on it, and the last try went well."""
        return self._thread.is_alive() and not self._failing

    def close(self) -> None:
        """Finish what is queued, say so, and let go of the database."""
        self._jobs.put(None)
        self._thread.join()
        try:
            if self._wseq:
                self._transact([], self._note("writer_stop", "stopped", program=__version__))
                self._publish()
        except self.faults as error:
            log.warning("the ledger was closed without a word: %s", cause(error))
        finally:
            self._let_go()

    async def _done(
        self,
        work: Callable[[Any], T],
        *,
        reads: tuple[Read, ...] = (),
        publishes: bool = False,
        hurried: bool = True,
        given_up: Callable[[T], None] | None = None,
    ) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        job = Job(work, loop, done, reads, publishes, given_up)
        self._jobs.put(job)
        if hurried:
            job.timer = loop.call_later(self._patience, job.lose_patience, self._patience)
        try:
            return await done
        finally:
            if job.timer is not None:
                job.timer.cancel()

    def _work(self) -> None:
        going_on = True
        while going_on:
            jobs, going_on = self._next_jobs()
            writes = [job for job in jobs if not job.publishes]
            if writes:
                self._commit(writes)
                tell(writes)
                self._tidy()
            for job in jobs:
                if job.publishes and job.begin():
                    self._attempt(job)
                    tell([job])
            self._publish_when_due()

    def _next_jobs(self) -> tuple[list[Job[Any]], bool]:
        jobs: list[Job[Any]] = []
        try:
            job = self._aside.pop() if self._aside else self._jobs.get(timeout=self._checkpoints.due_in())
        except queue.Empty:
            return jobs, True
        while job is not None:
            jobs.append(job)
            if len(jobs) == MOST_JOBS_A_COMMIT or self._jobs.empty():
                return jobs, True
            job = self._jobs.get()
        return jobs, False

    def _take_along(self, jobs: list[Job[Any]]) -> list[Job[Any]]:
        """Add to `jobs` what was queued while others had the turn; gives what was added."""
        late: list[Job[Any]] = []
        while len(jobs) + len(late) < MOST_JOBS_A_COMMIT and not self._aside and not self._jobs.empty():
            job = self._jobs.get()
            if job is None or job.publishes:
                self._aside.append(job)
            else:
                late.append(job)
        jobs += late
        return late

    def _commit(self, jobs: list[Job[Any]], *, again: bool = False) -> None:
        """Commit `jobs` together; when that fails, each by itself, so that one cannot sink the others."""
        give_up = time.monotonic() + self._patience
        fate, failure = self._tried(jobs, again=again)
        while fate == "lost" and time.monotonic() < give_up:
            fate, failure = self._tried(jobs, again=True)
        if failure is not None and fate == "refused" and len(jobs) > 1:
            for job in jobs:
                self._commit([job], again=True)
            return
        if failure is not None:
            log.warning("a ledger write failed: %s", cause(failure))
            for job in jobs:
                job.error = failure
        self._failing = failure is not None

    def _tried(self, jobs: list[Job[Any]], *, again: bool) -> tuple[Fate, Exception | None]:
        """Try to commit `jobs`; what failed, and what became of it."""
        try:
            self._transact(jobs, again=again)
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs must hear of it
            fate = self._fate(error, jobs)
            if fate == "held":
                return fate, None
            self.erased.generation = -1  # what the transaction had learnt may not be so
            self._generation, self._wseq = self._generation + 1, 0
            return fate, error
        return "held", None

    def _attempt(self, job: Job[Any]) -> None:
        try:
            job.result = job.work(None)
        except self.faults as error:
            job.error = error

    def _transact(self, jobs: list[Job[Any]], *closing: Entry, again: bool = False) -> None:
        self._batch = None
        with self._transaction() as connection:
            writer = f"{self.owners.me}-{self._generation}"
            reads = (read for job in jobs for read in job.reads)
            batch = self._batch = Batch(
                connection, writer, self._wseq, self._preface, self.erased, reads=reads, again=again
            )
            if jobs and not again:
                batch.ask(read for job in self._take_along(jobs) for read in job.reads)
            for job in jobs:
                if job.begin():
                    job.result = job.work(batch)
            for entry in closing:
                batch.append(entry)
            batch.flush()
        self._holds(batch, len(jobs))

    def _holds(self, batch: Batch, jobs: int) -> None:
        self._wseq = batch.wseq
        self._checkpoints.grew(batch.tree)
        self._committed(batch, jobs)

    def _preface(self, *, empty: bool) -> list[Entry]:
        """What comes before the next entry: that the ledger or this writer begins, or the clock stepped."""
        due: list[Entry] = []
        if empty:
            due.append(self._note("genesis", "begun", origin=self._checkpoints.origin))
        if self._wseq == 0:
            due.append(self._note("writer_start", "started", program=__version__))
        ahead = self._clock() - time.monotonic()
        if abs(ahead - self._ahead) > CLOCK_STEP:
            detail = {"by_ms": round((ahead - self._ahead) * 1000)}
            due.append(self._note("fault", "clock_step", detail=detail))
        self._ahead = ahead
        return due

    def _note(self, kind: str, status: str, **fields: Any) -> Entry:  # noqa: ANN401 - any JSON
        at = micros(datetime.fromtimestamp(self._clock(), UTC))
        return entry_of({"v": FORM, "kind": kind, "at": at, "status": status, **fields})

    def _publish(self) -> Note | None:
        with self._publishing() as connection:
            return self._checkpoints.publish(connection)

    def _publish_when_due(self) -> None:
        if self._checkpoints.is_due():
            try:
                with self._publishing() as connection:
                    self._checkpoints.publish_what_is_due(connection)
            except self.faults as error:
                self._checkpoints.put_off()
                log.warning("no checkpoint could be published: %s", cause(error))
