"""The one connection of this process that writes to the gate's SQLite file.

Whatever queued up while the last commit was on its way to the disk goes into the next one: a lone call waits
for nobody, many calls share one `fsync`. Several processes take turns under a lock file (SQLite's own waiting
starves writers), and the WAL is only checkpointed under that lock, because SQLite before 3.51.3 can corrupt a
database whose WAL is reset by one connection while another writes (sqlite.org/wal.html, "WAL-reset bug").
"""

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from toolgate import __version__
from toolgate.backends.checkpoints import Checkpoints
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import FORM, Entry, entry_of, micros
from toolgate.backends.owners import Owners, owners_needed
from toolgate.backends.sqlite_files import cause, connected, identity, prepare
from toolgate.backends.writer_job import Job, tell
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import Note

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST_JOBS_A_COMMIT: Final = 128
JOBS_A_FOLD, BYTES_A_FOLD = 2000, 16 * 2**20
"""How many jobs, and how many bytes of entries and values, the WAL may hold before it is folded."""
CLOCK_STEP: Final = 1.0
"""Seconds by which the clock may differ from what has passed before that is recorded."""
FLOOR: Final = 64 * 2**20
"""Bytes that must be free on the disk before anything new is begun: ends of calls still need room."""
FILES_SECONDS: Final = 1.0
"""How often it is looked whether the files are still there, where nothing in their folder has changed."""
ROOM_SECONDS: Final = 0.25
"""How often the room on the disk is looked up."""

Work: TypeAlias = Callable[[Batch], T]


class SqliteWriter:
    """Runs jobs in transactions that are on the disk when `write` returns.

    Args:
        path: the database file; created with its tables when it is not there.
        checkpoints: signs and publishes what the log holds.
        patience: seconds that `write` waits for the disk before it gives up.
        clock: seconds of the wall clock, whose steps are recorded.

    Raises:
        LedgerUnavailable: the file cannot be opened, belongs to another version of this program, or does not
            hold what the last published checkpoint says.
    """

    def __init__(
        self,
        path: Path,
        checkpoints: Checkpoints,
        *,
        patience: float = 10.0,
        clock: Callable[[], float] = time.time,
        floor: int = FLOOR,
    ) -> None:
        # One file has one lock, one WAL and one folder of owners, by whatever links it is reached.
        self._path = path = path.resolve()
        self._wal_path = Path(f"{path}-wal")
        self._wal: tuple[int, int] | None = None
        self._seen_folder, self._look_at_files = 0, 0.0
        self._checkpoints = checkpoints
        self._patience = patience
        self._clock = clock
        self._floor = floor
        self._failing = False
        self._unfolded = self._unfolded_bytes = 0
        self._roomy, self._look_again = True, 0.0
        self._generation, self._wseq = 0, 0
        self._ahead = clock() - time.monotonic()
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        try:
            self._lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._turn():
                self.owners = Owners(Path(f"{path}.writers"))
                prepare(path)
                self._connection = connected(path)
                self.owners.sweep(owners_needed(self._connection))
                self._file = identity(path)
                checkpoints.guard(self._connection)
        except (OSError, SQLAlchemyError, sqlite3.Error) as error:
            raise LedgerUnavailable(f"{path.name} could not be opened: {cause(error)}") from error
        self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction and return its result once that is durable.

        Raises:
            LedgerUnavailable: it could not be made durable in time; nothing may be assumed to be recorded.
        """
        return await self._done(work)

    async def begin(self, work: Work[T], given_up: Callable[[T], None] | None = None) -> T:
        """The same for what begins something new: refused when the disk is nearly full.

        `given_up` hears of a result that became durable after all, when nobody waited for it any more.

        Raises:
            LedgerUnavailable: as `write`, or too little room is left.
        """
        if not self.has_room():
            raise LedgerUnavailable("the disk is nearly full")
        return await self._done(work, given_up=given_up)

    async def publish(self) -> Note | None:
        """Sign and publish a checkpoint of what is committed now; None for an empty ledger.

        Raises:
            LedgerUnavailable: it could not be published.
        """
        return await self._done(lambda _: self._publish(), publishes=True)

    def has_room(self) -> bool:
        """Whether the disk has room for something new; looked up now and then.

        Raises:
            LedgerUnavailable: nobody can tell.
        """
        at = time.monotonic()
        if at >= self._look_again:
            try:
                stat = os.statvfs(self._path.parent)
            except OSError as error:
                raise LedgerUnavailable(f"{self._path.parent} was taken away") from error
            self._roomy, self._look_again = stat.f_bavail * stat.f_frsize >= self._floor, at + ROOM_SECONDS
        return self._roomy

    def is_alive(self) -> bool:
        """Whether what is queued gets written: somebody works on it, and the last try went well."""
        return self._thread.is_alive() and not self._failing

    def close(self) -> None:
        """Finish what is queued, fold the WAL into the database and let go of the file."""
        self._jobs.put(None)
        self._thread.join()
        needed = {self.owners.me}
        try:
            if self._wseq:
                self._transact([], self._note("writer_stop", "stopped", program=__version__))
                self._publish()
            with self._turn():
                needed = owners_needed(self._connection)
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._connection.close()
        except (sqlite3.Error, OSError, LedgerUnavailable) as error:
            log.warning("the ledger was closed without folding its WAL: %s", cause(error))
        finally:
            self.owners.leave(needed)
            os.close(self._lock_file)

    async def _done(
        self,
        work: Callable[[Any], T],
        *,
        publishes: bool = False,
        given_up: Callable[[T], None] | None = None,
    ) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        job = Job(work, loop, done, publishes, given_up)
        self._jobs.put(job)
        job.timer = loop.call_later(self._patience, job.lose_patience, self._patience)
        try:
            return await done
        finally:
            job.timer.cancel()

    def _work(self) -> None:
        going_on = True
        while going_on:
            jobs, going_on = self._next_jobs()
            writes = [job for job in jobs if not job.publishes]
            if writes:
                self._commit(writes)
                tell(writes)
                self._fold_after(len(writes))
            for job in jobs:
                if job.publishes and job.begin():
                    self._attempt(job)
                    tell([job])
            self._publish_when_due()

    def _next_jobs(self) -> tuple[list[Job[Any]], bool]:
        jobs: list[Job[Any]] = []
        try:
            job = self._jobs.get(timeout=self._checkpoints.due_in())
        except queue.Empty:
            return jobs, True
        while job is not None:
            jobs.append(job)
            if len(jobs) == MOST_JOBS_A_COMMIT or self._jobs.empty():
                return jobs, True
            job = self._jobs.get()
        return jobs, False

    def _commit(self, jobs: list[Job[Any]], *, again: bool = False) -> None:
        """Commit `jobs` together; when that fails, each by itself, so that one cannot sink the others."""
        try:
            self._transact(jobs, again=again)
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs must hear of it
            self._generation, self._wseq = self._generation + 1, 0
            if len(jobs) > 1:
                for job in jobs:
                    self._commit([job], again=True)
                return
            log.warning("a ledger write failed: %s", cause(error))
            jobs[0].error = error
        self._failing = jobs[0].error is not None

    def _attempt(self, job: Job[Any]) -> None:
        try:
            job.result = job.work(None)
        except (sqlite3.Error, OSError, ValueError, LedgerUnavailable) as error:
            job.error = error

    def _transact(self, jobs: list[Job[Any]], *closing: Entry, again: bool = False) -> None:
        with self._turn():
            self._demand_own_files()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                writer = f"{self.owners.me}-{self._generation}"
                batch = Batch(self._connection, writer, self._wseq, self._preface, again=again)
                for job in jobs:
                    if job.begin():
                        job.result = job.work(batch)
                for entry in closing:
                    batch.append(entry)
                batch.flush()
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            self._wseq = batch.wseq
            if self._wal is None:
                self._wal = identity(self._wal_path)
            self._unfolded_bytes += batch.bytes
            self._checkpoints.grew(batch.tree)

    def _demand_own_files(self) -> None:
        """A file that was removed can still be written to, and nobody would ever see it.

        The folder's time says whether anything in it was removed; to look at each file before each commit
        costs, beside a busy loop, more than the commit.
        """
        changed, at = self._path.parent.stat().st_mtime_ns, time.monotonic()
        if changed == self._seen_folder and at < self._look_at_files:
            return
        whole = identity(self._path) == self._file and self.owners.still_here()
        if not whole or (self._wal is not None and identity(self._wal_path) != self._wal):
            raise LedgerUnavailable(f"{self._path.name} was taken away; restore it, then start again")
        self._seen_folder, self._look_at_files = changed, at + FILES_SECONDS

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
        with self._turn():
            return self._checkpoints.publish(self._connection)

    def _publish_when_due(self) -> None:
        if self._checkpoints.is_due():
            try:
                self._publish()
            except (sqlite3.Error, OSError, ValueError, LedgerUnavailable) as error:
                self._checkpoints.put_off()
                log.warning("no checkpoint could be published: %s", cause(error))

    def _fold_after(self, jobs: int) -> None:
        """Fold the WAL into the database now and then; a reader in the way only puts it off."""
        self._unfolded += jobs
        if self._unfolded < JOBS_A_FOLD and self._unfolded_bytes < BYTES_A_FOLD:
            return
        self._unfolded = self._unfolded_bytes = 0
        self._roomy, self._look_again = True, 0.0
        try:
            with self._turn():
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as error:
            log.warning("the ledger's WAL could not be folded: %s", cause(error))

    @contextmanager
    def _turn(self) -> Generator[None]:
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)
