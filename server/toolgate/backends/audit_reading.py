"""Reads the gate's own ledger for its audit tools: recorded first, beside the event loop, never too long."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Engine, event

from toolgate.backends.audit_queries import Filters, Found, NamedQuery, Shown, answer, entries_of, entry_of
from toolgate.backends.ledger_database import TreeDatabase
from toolgate.backends.ledger_parts import LedgerParts
from toolgate.backends.ledger_proofs import Proof, proof_of
from toolgate.core.call import Caller
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.record import JsonObject

T = TypeVar("T")

_OF_THE_TIME: Final = 0.9
"""How much of the time until the gate stops waiting a question may take, so that we can say why it ended."""
_STEPS: Final = 20_000
"""Steps of SQLite's machine between two looks at the clock: well under a millisecond."""


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

    def on(self, engine: Engine) -> Engine:
        """Bound whatever is asked through `engine`."""
        event.listen(engine, "connect", self._watch)
        return engine

    def _watch(self, connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's
        if isinstance(connection, sqlite3.Connection):
            connection.set_progress_handler(self.is_over, _STEPS)
            return
        left = max(1, round(1000 * (self._until - time.monotonic())))
        connection.execute(f"SET statement_timeout = {left}")  # the server ends it
        connection.commit()


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
        return await self._read(lambda _engine: proof_of(self._reader.database, index))

    async def verifier_key(self) -> str:
        """Give the log's verifier key."""
        return await self._read(lambda _engine: _text(self._reader.vkey))

    @property
    def every(self) -> float:
        """Seconds between two checkpoints."""
        return self._reader.every

    async def _read(self, work: Callable[[Engine], T]) -> T:
        left = self._use.until - self._reader.now()
        limit = Limit(_OF_THE_TIME * left.total_seconds())
        loop, database = asyncio.get_running_loop(), self._reader.database
        try:
            return await loop.run_in_executor(self._pool, lambda: work(limit.on(database.engine())))
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
