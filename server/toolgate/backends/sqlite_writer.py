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
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, func, insert, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from toolgate.backends.ledger_entries import Entry
from toolgate.backends.sql_tables import ENTRY, PAYLOAD, SCHEMA_VERSION, Prepared, Stored
from toolgate.core.errors import LedgerUnavailable

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST_JOBS_A_COMMIT: Final = 128
JOBS_A_CHECKPOINT: Final = 2000
"""How many jobs the WAL may hold before it is folded into the database: some megabytes."""

_LAST_INDEX = Prepared(select(func.max(ENTRY.c.idx)))
_INSERT_ENTRY = Prepared(insert(ENTRY))
_INSERT_PAYLOAD = Prepared(insert(PAYLOAD))


class Batch:
    """One transaction in the making. Entries get their index at once and are inserted together at its end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._entries: list[dict[str, Any]] = []
        self._payloads: list[dict[str, Any]] = []
        last = self.execute(_LAST_INDEX, {}).fetchone()[0]
        self._next = 0 if last is None else last + 1

    def execute(self, statement: Prepared, parameters: dict[str, Any]) -> sqlite3.Cursor:
        """Run a statement inside the transaction."""
        return self._connection.execute(statement.text, statement.fixed | parameters)

    def find(self, statement: Prepared, parameters: dict[str, Any]) -> sqlite3.Row | None:
        """Give the first row of a query."""
        found: sqlite3.Row | None = self.execute(statement, parameters).fetchone()
        return found

    def append(self, entry: Entry) -> int:
        """Add an entry, and give its index."""
        idx = self._next
        self._next += 1
        self._entries.append({"idx": idx, **entry.columns})
        self._payloads.extend({"idx": idx, **payload} for payload in entry.payloads)
        return idx

    def flush(self) -> None:
        """Insert what was appended."""
        self._connection.executemany(_INSERT_ENTRY.text, self._entries)
        self._connection.executemany(_INSERT_PAYLOAD.text, self._payloads)


Work: TypeAlias = Callable[[Batch], T]


@dataclass(eq=False)
class _Job(Generic[T]):
    work: Work[T]
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[T]"
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

    def abandon(self) -> bool:
        """Wait no longer; False when the job was taken up already and may still be committed."""
        with self._lock:
            self.abandoned = not self.begun
            return self.abandoned


class SqliteWriter:
    """Runs jobs in transactions that are on the disk when `write` returns.

    Args:
        path: the database file; created with its tables when it is not there.
        patience: seconds that `write` waits for the disk before it gives up.

    Raises:
        LedgerUnavailable: the file cannot be opened, or belongs to another version of this program.
    """

    def __init__(self, path: Path, *, patience: float = 10.0) -> None:
        self._path = path
        self._patience = patience
        self._failing = False
        self._unfolded = 0
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        try:
            self._lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._turn():
                _prepare(path)
                self._connection = _connected(path)
                self._file = _identity(path)
        except (OSError, SQLAlchemyError, sqlite3.Error) as error:
            raise LedgerUnavailable(f"{path.name} could not be opened: {_cause(error)}") from error
        self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self._thread.start()

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction and return its result once that is durable.

        Raises:
            LedgerUnavailable: it could not be made durable in time; nothing may be assumed to be recorded.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        job = _Job(work, loop, done)
        self._jobs.put(job)
        ended, _ = await asyncio.wait((done,), timeout=self._patience)
        if not ended and not job.abandon():
            ended, _ = await asyncio.wait((done,), timeout=self._patience)
        if not ended:
            raise LedgerUnavailable("the disk did not answer in time")
        return done.result()

    def is_alive(self) -> bool:
        """Whether what is queued gets written: somebody works on it, and the last try went well."""
        return self._thread.is_alive() and not self._failing

    def close(self) -> None:
        """Finish what is queued, fold the WAL into the database and let go of the file."""
        self._jobs.put(None)
        self._thread.join()
        try:
            with self._turn():
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._connection.close()
        except (sqlite3.Error, OSError) as error:
            log.warning("the ledger was closed without folding its WAL: %s", _cause(error))
        finally:
            os.close(self._lock_file)

    def _work(self) -> None:
        going_on = True
        while going_on:
            jobs, going_on = self._next_jobs()
            if jobs:
                self._commit(jobs)
                _tell(jobs)
                self._fold_after(len(jobs))

    def _next_jobs(self) -> tuple[list[_Job[Any]], bool]:
        jobs: list[_Job[Any]] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == MOST_JOBS_A_COMMIT or self._jobs.empty():
                return jobs, True
            job = self._jobs.get()
        return jobs, False

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        """Commit `jobs` together; when that fails, each by itself, so that one cannot sink the others."""
        try:
            self._transact(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs must hear of it
            if len(jobs) > 1:
                for job in jobs:
                    self._commit([job])
                return
            log.warning("a ledger write failed: %s", _cause(error))
            jobs[0].error = error
        self._failing = jobs[0].error is not None

    def _transact(self, jobs: list[_Job[Any]]) -> None:
        with self._turn():
            if _identity(self._path) != self._file:
                raise LedgerUnavailable(f"{self._path.name} was taken away; restore it, then start again")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                batch = Batch(self._connection)
                for job in jobs:
                    if job.begin():
                        job.result = job.work(batch)
                batch.flush()
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _fold_after(self, jobs: int) -> None:
        """Fold the WAL into the database now and then; a reader in the way only puts it off."""
        self._unfolded += jobs
        if self._unfolded < JOBS_A_CHECKPOINT:
            return
        self._unfolded = 0
        try:
            with self._turn():
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as error:
            log.warning("the ledger's WAL could not be folded: %s", _cause(error))

    @contextmanager
    def _turn(self) -> Generator[None]:
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)


def reader(path: Path) -> Engine:
    """Open `path` for reading only: such a connection never checkpoints, not even as the last to close."""
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool)


def fault_in_database(path: Path) -> str | None:
    """Say why an existing file cannot hold the ledger, or None; it is only read."""
    try:
        with reader(path).connect() as connection:
            version = _version(connection)
    except SQLAlchemyError as error:
        return f"{path.name} cannot be read as a database ({_cause(error)})"
    return None if version in {None, SCHEMA_VERSION} else _foreign(path, version)


def _version(connection: Connection) -> int | None:
    """Give the schema version of a database; None for one that is empty."""
    version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    tables: int = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    return version if version or tables else None


def _foreign(path: Path, version: int | None) -> str:
    return (
        f"{path.name} has schema version {version}, this program knows {SCHEMA_VERSION}; "
        "use the program that wrote it, or move the file away"
    )


def _identity(path: Path) -> tuple[int, int]:
    """Which file a path means: a deleted database can still be written to, and nobody would see it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _prepare(path: Path) -> None:
    """Make the tables in an empty file; refuse one that another version has made."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    with engine.begin() as connection:
        version = _version(connection)
        if version == SCHEMA_VERSION:
            return
        if version is not None:
            raise LedgerUnavailable(_foreign(path, version))
        Stored.metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
    path.chmod(0o600)


def _tell(jobs: list[_Job[Any]]) -> None:
    """Hand the results over, with one wake-up of each loop for all of them."""
    for loop in {job.loop for job in jobs}:
        try:
            loop.call_soon_threadsafe(_resolve, [job for job in jobs if job.loop is loop])
        except RuntimeError:
            log.warning("a ledger write ended after its loop was closed")


def _resolve(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        if job.done.done() or job.abandoned:
            continue
        if job.error is not None:
            failure = LedgerUnavailable(_cause(job.error))
            failure.__cause__ = job.error
            job.done.set_exception(failure)
        else:
            job.done.set_result(job.result)


def _cause(error: BaseException) -> str:
    """Name a fault without a statement's parameters, which may hold what must not be shown."""
    if isinstance(error, DBAPIError):
        return f"{error.orig}"
    if isinstance(error, sqlite3.Error | OSError | LedgerUnavailable):
        return f"{error}"
    return type(error).__name__
