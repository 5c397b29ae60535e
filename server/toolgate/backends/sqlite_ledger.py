"""The whole ledger on one SQLite file: its parts, put together in one place for whoever needs them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from toolgate.backends.checkpoints import EVERY, Checkpoints
from toolgate.backends.endings import Endings
from toolgate.backends.governing import Governing
from toolgate.backends.lease_book import LeaseBook
from toolgate.backends.lease_rows import LeaseRows
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.log_key import LogKey
from toolgate.backends.pseudonyms import Pseudonyms
from toolgate.backends.spill import Spill
from toolgate.backends.sql_claims import Claims
from toolgate.backends.sql_doubts import SqlDoubts
from toolgate.backends.sql_ledger import WAIT, SqlLedger
from toolgate.backends.sqlite_writer import FLOOR, SqliteWriter

KEPT: Final = timedelta(days=30)
"""How long answers are kept. The keys themselves are kept for good, and refused from then on."""


@dataclass(frozen=True, kw_only=True)
class LedgerFiles:
    """Where a ledger lies, and how it is kept."""

    database: Path
    checkpoint: Path
    """The last published checkpoint, outside the database."""
    spill: Path
    """A folder for ends of calls that the database would not take."""
    every: float = EVERY
    """Seconds after which what was added is published."""
    wait: float = WAIT
    """Seconds that a call waits for the first one under its key."""
    kept: timedelta = KEPT
    floor: int = FLOOR
    """Bytes that must be free on the disk before anything new is begun."""
    patience: float = 10.0
    """Seconds that a write waits for the disk."""


@dataclass(frozen=True, kw_only=True)
class SqliteLedger:
    """A ledger's parts, open."""

    writer: SqliteWriter
    calls: SqlLedger
    governing: Governing
    doubts: SqlDoubts
    endings: Endings
    entries: Entries
    pseudonyms: Pseudonyms
    leases: LeaseBook

    async def aclose(self) -> None:
        """Finish what is queued and let go of the files."""
        await asyncio.to_thread(self.writer.close)


def open_sqlite_ledger(
    files: LedgerFiles, key: LogKey, *, now: Callable[[], datetime], random: Callable[[int], bytes]
) -> SqliteLedger:
    """Open the ledger in `files`, whose checkpoints `key` signs; a new one where there is none.

    Raises:
        LedgerUnavailable: it cannot be opened, or does not hold what was published.
    """
    checkpoints = Checkpoints(key, files.checkpoint, every=files.every)
    writer = SqliteWriter(
        files.database,
        checkpoints,
        patience=files.patience,
        floor=files.floor,
        clock=lambda: now().timestamp(),
    )
    entries = Entries(now=now, random=random)
    pseudonyms = Pseudonyms(writer, random)
    claims = Claims(writer.owners, files.kept)
    governing = Governing(writer, entries)
    doubts = SqlDoubts(writer, entries, claims, now=now)
    endings = Endings(writer, claims, LeaseRows(), Spill(files.spill))
    calls = SqlLedger(
        writer,
        entries,
        pseudonyms,
        claims,
        governing=governing,
        doubts=doubts,
        endings=endings,
        now=now,
        wait=files.wait,
    )
    return SqliteLedger(
        writer=writer,
        calls=calls,
        governing=governing,
        doubts=doubts,
        endings=endings,
        entries=entries,
        pseudonyms=pseudonyms,
        leases=LeaseBook(writer, entries, pseudonyms, governing, now=now),
    )
