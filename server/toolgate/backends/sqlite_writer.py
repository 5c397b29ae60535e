"""Writes to the gate's SQLite file.

Several processes take turns under a lock file (SQLite's own waiting starves writers), and the WAL is only
checkpointed under that lock, because SQLite before 3.51.3 can corrupt a database whose WAL is reset by one
connection while another writes (sqlite.org/wal.html, "WAL-reset bug").
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.checkpoints import Checkpoints
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.ledger_writer import LedgerWriter, Work
from toolgate.backends.owners import FileOwners, owners_needed
from toolgate.backends.policy_stored import StoredPolicies
from toolgate.backends.sql_connection import SqlConnection, cause
from toolgate.backends.sqlite_files import connected, identity, prepare
from toolgate.core.errors import LedgerUnavailable

__all__ = ["FLOOR", "SqliteWriter", "Work"]

log = logging.getLogger(__name__)

JOBS_A_FOLD, BYTES_A_FOLD = 2000, 16 * 2**20
"""How many jobs, and how many bytes of entries and values, the WAL may hold before it is folded."""
FLOOR: Final = 64 * 2**20
"""Bytes that must be free on the disk before anything new is begun: ends of calls still need room."""
FILES_SECONDS: Final = 1.0
"""How often it is looked whether the files are still there, where nothing in their folder has changed."""
ROOM_SECONDS: Final = 0.25
"""How often the room on the disk is looked up."""


class SqliteWriter(LedgerWriter):
    """Runs jobs in transactions that are on the disk when `write` returns.

    Args:
        path: the database file; created with its tables when it is not there.
        checkpoints: signs and publishes what the log holds.
        patience: seconds that `write` waits for the disk before it gives up.
        clock: seconds of the wall clock, whose steps are recorded.
        floor: bytes that must be free before anything new is begun.

    Raises:
        LedgerUnavailable: the file cannot be opened, belongs to another version of this program, or does not
            hold what the last published checkpoint says.
    """

    faults = (sqlite3.Error, OSError, ValueError, LedgerUnavailable)

    def __init__(
        self,
        path: Path,
        checkpoints: Checkpoints,
        *,
        patience: float = 10.0,
        clock: Callable[[], float] = time.time,
        floor: int = FLOOR,
    ) -> None:
        super().__init__(checkpoints, patience=patience, clock=clock)
        # One file has one lock, one WAL and one folder of owners, by whatever links it is reached.
        self._path = path = path.resolve()
        self._wal_path = Path(f"{path}-wal")
        self._wal: tuple[int, int] | None = None
        self._seen_folder, self._look_at_files = 0, 0.0
        self._floor = floor
        self._unfolded = self._unfolded_bytes = 0
        self._roomy, self._look_again = True, 0.0
        try:
            self._lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._turn():
                self._owners = FileOwners(Path(f"{path}.writers"))
                prepare(path)
                self._connection = connected(path)
                self._owners.sweep(owners_needed(self._connection))
                self._file = identity(path)
                checkpoints.guard(self._connection)
        except (OSError, SQLAlchemyError, sqlite3.Error) as error:
            raise LedgerUnavailable(f"{path.name} could not be opened: {cause(error)}") from error
        self._thread.start()

    @property
    def owners(self) -> FileOwners:
        """The processes that write to this file."""
        return self._owners

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

    def may_act(self, since: float) -> bool:
        """As long as this process runs, it holds its lock, and everybody can see that."""
        del since
        return True

    def newest_activation(self) -> int | None:
        """Look: that is one step down an index."""
        return StoredPolicies(SqliteFile(self._path)).newest()

    async def some_end(self, intent: int, seconds: float) -> None:
        """Sleep: nobody says when another process has ended a call."""
        del intent
        await asyncio.sleep(seconds)

    def _let_go(self) -> None:
        needed = {self.owners.me}
        try:
            with self._turn():
                needed = owners_needed(self._connection)
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._connection.close()
        except (sqlite3.Error, OSError) as error:
            log.warning("the ledger was closed without folding its WAL: %s", cause(error))
        finally:
            self._owners.leave(needed)
            os.close(self._lock_file)

    @contextmanager
    def _transaction(self) -> Generator[SqlConnection]:
        with self._turn():
            self._demand_own_files()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if self._wal is None:
                self._wal = identity(self._wal_path)

    @contextmanager
    def _publishing(self) -> Generator[SqlConnection]:
        with self._turn():
            yield self._connection

    def _committed(self, batch: Batch, jobs: int) -> None:
        self._unfolded_bytes += batch.bytes
        self._unfolded += jobs

    def _demand_own_files(self) -> None:
        """A file that was removed can still be written to, and nobody would ever see it.

        The folder's time says whether anything in it was removed; to look at each file before each commit
        costs, beside a busy loop, more than the commit.
        """
        changed, at = self._path.parent.stat().st_mtime_ns, time.monotonic()
        if changed == self._seen_folder and at < self._look_at_files:
            return
        whole = identity(self._path) == self._file and self._owners.still_here()
        if not whole or (self._wal is not None and identity(self._wal_path) != self._wal):
            raise LedgerUnavailable(f"{self._path.name} was taken away; restore it, then start again")
        self._seen_folder, self._look_at_files = changed, at + FILES_SECONDS

    def _scrub(self, *, rewrite: bool) -> bool:
        with self._turn():
            if rewrite:
                self._connection.execute("VACUUM")
            # A reader in the way answers 1: whoever scrubs asks again.
            return bool(self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)

    def _tidy(self) -> None:
        """Fold the WAL into the database now and then; a reader in the way only puts it off."""
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
