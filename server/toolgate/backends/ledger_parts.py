"""The whole ledger, in SQLite or PostgreSQL: its parts, put together in one place for whoever needs them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from toolgate.backends.checkpoints import EVERY, Checkpoints, Keys
from toolgate.backends.endings import Endings
from toolgate.backends.erasing import Erasing
from toolgate.backends.governing import Governing
from toolgate.backends.lease_book import LeaseBook
from toolgate.backends.lease_rows import LeaseRows
from toolgate.backends.ledger_database import PostgresDatabase, SqliteFile
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.log_key import LogKey
from toolgate.backends.postgres_watch import LAPSE
from toolgate.backends.postgres_writer import PostgresWriter
from toolgate.backends.pseudonyms import Pseudonyms
from toolgate.backends.retaining import Retaining
from toolgate.backends.spill import Spill
from toolgate.backends.sql_claims import Claims
from toolgate.backends.sql_doubts import SqlDoubts
from toolgate.backends.sql_ledger import WAIT, SqlLedger
from toolgate.backends.sqlite_writer import FLOOR, SqliteWriter
from toolgate.core.retention import RetentionRule

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
    retention: tuple[RetentionRule, ...] = ()
    """For how long what lies beside the entries is kept."""
    patience: float = 10.0
    """Seconds that a write waits for the database."""
    url: SecretStr | None = None
    """The address of a PostgreSQL database, in the place of the file."""
    strict: bool = False
    """In PostgreSQL: serve only as a role that can change nothing of what was written."""
    lapse: float = LAPSE
    """In PostgreSQL: seconds without a word after which a gate is taken for gone."""


@dataclass(frozen=True, kw_only=True)
class LedgerParts:
    """A ledger's parts, open."""

    writer: LedgerWriter
    calls: SqlLedger
    governing: Governing
    doubts: SqlDoubts
    endings: Endings
    entries: Entries
    pseudonyms: Pseudonyms
    leases: LeaseBook
    erasing: Erasing
    retaining: Retaining

    async def aclose(self) -> None:
        """Finish what is queued and let go of the files."""
        await asyncio.to_thread(self.writer.close)


def writer_of(files: LedgerFiles, checkpoints: Checkpoints, *, now: Callable[[], datetime]) -> LedgerWriter:
    """Open the database for writing, wherever it is.

    Raises:
        LedgerUnavailable: it cannot be opened, or does not hold what was published.
    """

    def clock() -> float:
        return now().timestamp()

    if files.url is None:
        return SqliteWriter(
            files.database, checkpoints, patience=files.patience, floor=files.floor, clock=clock
        )
    return PostgresWriter(
        files.url.get_secret_value(),
        checkpoints,
        patience=files.patience,
        clock=clock,
        lapse=files.lapse,
        strict=files.strict,
    )


def open_ledger_parts(
    files: LedgerFiles,
    key: LogKey,
    *,
    keys: Keys | None = None,
    now: Callable[[], datetime],
    random: Callable[[int], bytes],
) -> LedgerParts:
    """Open the ledger in `files`, whose checkpoints `key` signs; a new one where there is none.

    `keys` has those that another machine puts in force.

    Raises:
        LedgerUnavailable: it cannot be opened, or does not hold what was published.
    """
    checkpoints = Checkpoints(key, files.checkpoint, every=files.every, keys=keys)
    writer = writer_of(files, checkpoints, now=now)
    where = SqliteFile(files.database) if files.url is None else PostgresDatabase(files.url)
    engine = where.engine()
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
    return LedgerParts(
        writer=writer,
        calls=calls,
        governing=governing,
        doubts=doubts,
        endings=endings,
        entries=entries,
        pseudonyms=pseudonyms,
        leases=LeaseBook(writer, entries, pseudonyms, governing, now=now, running=calls.names_of),
        erasing=Erasing(writer, entries, claims, engine, now=now),
        retaining=Retaining(writer, entries, engine, files.retention, now),
    )
