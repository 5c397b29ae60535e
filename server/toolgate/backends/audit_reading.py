"""Reads the gate's own ledger for its audit tools: recorded first, beside the event loop, never too long."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, event

from toolgate.backends.audit_queries import Filters, Found, NamedQuery, Shown, answer, entries_of, entry_of
from toolgate.backends.ledger_database import TreeDatabase
from toolgate.backends.ledger_parts import LedgerParts
from toolgate.backends.ledger_proofs import Proof, proof_on
from toolgate.backends.sql_connection import Dialect, SqlConnection, SqlCursor, cause
from toolgate.core.call import Caller
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.record import JsonObject

T = TypeVar("T")

_OF_THE_TIME: Final = 0.9
"""How much of the time until the gate stops waiting a question may take, so that we can say why it ended."""
_STEPS: Final = 20_000
"""Steps of SQLite's machine between two looks at the clock: well under a millisecond."""
_ALLOW: Final = "SELECT set_config('statement_timeout', %s, false)"
"""Lets PostgreSQL end the next statement after so many milliseconds."""


class TooSlow(Exception):  # noqa: N818 - named by what it is
    """A question took longer than there was time, and was broken off."""


class Limit:
    """Bounds one question in time, wherever it runs.

    Args:
        seconds: how long it may take from now on, waiting for a thread included.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._stopped = False

    def is_over(self) -> bool:
        """Whether the time is over, or nobody waits for the answer any more."""
        return self._stopped or time.monotonic() > self._until

    def stop(self) -> None:
        """End what still runs under this limit."""
        self._stopped = True

    def milliseconds(self) -> int:
        """Give what is left.

        Raises:
            TooSlow: nothing is.
        """
        if self.is_over():
            raise TooSlow
        return max(1, round(1000 * (self._until - time.monotonic())))

    def on(self, engine: Engine) -> Engine:
        """Bound whatever is asked through `engine`: all statements together."""
        event.listen(engine, "connect", self._watch)
        event.listen(engine, "before_cursor_execute", self._before)
        return engine

    def over(self, connection: SqlConnection) -> SqlConnection:
        """Bound whatever is asked through `connection`: all statements together."""
        self._watch(connection)
        return _Bounded(connection, self)

    def _watch(self, connection: object, _record: object = None) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_progress_handler(self.is_over, _STEPS)

    def _before(self, connection: Connection, _cursor: object, statement: str, *_more: object) -> None:
        if statement == _ALLOW:
            return
        left = self.milliseconds()
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(_ALLOW, (f"{left}",))


@dataclass(frozen=True)
class _Bounded:
    """A connection of which all statements together are to end within a limit."""

    _connection: SqlConnection
    _limit: Limit

    @property
    def dialect(self) -> Dialect:
        """Which database it is."""
        return self._connection.dialect

    def execute(self, statement: str, parameters: Mapping[str, Any] | Sequence[Any] = (), /) -> SqlCursor:
        """Carry out a statement in what is left of the time."""
        left = self._limit.milliseconds()
        if self.dialect == "postgresql":
            self._connection.execute(_ALLOW, (f"{left}",))
        return self._connection.execute(statement, parameters)


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use of an audit tool: who asks, through which tool, in which call, and until when."""

    caller: Caller
    tool: str
    call_id: str
    until: datetime


@dataclass(frozen=True, kw_only=True)
class LedgerReader:
    """Reads one deployment's ledger, beside its writer and without getting in its way."""

    database: TreeDatabase
    vkey: Path
    """The log's verifier key, beside its key."""
    ledger: LedgerParts
    """Into which it is written that somebody reads."""
    every: float
    """Seconds between two checkpoints."""
    now: Callable[[], datetime]

    async def recorded(self, use: Use, pool: Executor, query: str, asked: JsonObject) -> "Reading":
        """Record that `use` is about to be shown what `query` finds. Only then there is anything to read.

        Raises:
            LedgerUnavailable: it could not be recorded.
        """
        caller = use.caller
        by = await self.ledger.pseudonyms.of("subject", caller, caller.subject)
        about: JsonObject = {"tenant": caller.tenant, "tool": use.tool, "call_id": use.call_id}
        entry = self.ledger.entries.committed(
            "audit_read", "shown", {"asked": asked}, by=by, query=query, **about
        )
        await self.ledger.writer.begin(lambda batch: batch.append(entry))
        return Reading(self, use, pool)


@dataclass(frozen=True)
class Reading:
    """What somebody may read, as it is recorded that they do. Every question runs in a thread of `pool`.

    Each raises `LedgerUnavailable` when the ledger cannot be read, and `TooSlow` when the time is over.
    """

    _reader: LedgerReader
    _use: Use
    _pool: Executor

    async def find(
        self, query: NamedQuery, asked: Filters, *, most: int, skip: int = 0, room: int | None = None
    ) -> Found:
        """Answer a query, as `audit_queries.answer` does."""
        return await self._read(partial(answer, query=query, asked=asked, most=most, skip=skip, room=room))

    async def entries(self, call_id: str, *, most: int) -> list[Shown]:
        """Give the first entries of a call."""
        return await self._read(partial(entries_of, call_id=call_id, most=most))

    async def entry(self, index: int) -> Shown:
        """Give one entry.

        Raises:
            NothingRecorded: there is none.
        """
        return await self._read(partial(entry_of, index=index))

    async def proof(self, index: int) -> Proof | None:
        """Prove an entry; None when no checkpoint covers it yet."""
        return await self._limited(partial(self._proven, index))

    async def verifier_key(self) -> str:
        """Give the log's verifier key."""
        return await self._limited(lambda _limit: _text(self._reader.vkey))

    @property
    def every(self) -> float:
        """Seconds between two checkpoints."""
        return self._reader.every

    def _proven(self, index: int, limit: Limit) -> Proof | None:
        try:
            with self._reader.database.reading() as connection:
                return proof_on(limit.over(connection), index)
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error

    async def _read(self, work: Callable[[Engine], T]) -> T:
        database = self._reader.database
        return await self._limited(lambda limit: work(limit.on(database.engine())))

    async def _limited(self, work: Callable[[Limit], T]) -> T:
        left = self._use.until - self._reader.now()
        limit = Limit(_OF_THE_TIME * left.total_seconds())
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, limit))
        except LedgerUnavailable as error:
            if limit.is_over():
                raise TooSlow from error
            raise
        finally:
            limit.stop()


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerUnavailable(f"{file.name} cannot be read") from error
