"""Reads which requests to a vault the ledger tells of."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.ledger_database import LedgerDatabase
from toolgate.backends.ledger_entries import moment
from toolgate.backends.sql_tables import ENTRY
from toolgate.core.errors import LedgerUnavailable


@dataclass(frozen=True, kw_only=True)
class ToldRequest:
    """A request that an entry names: it made a run's token, or gave a credential."""

    request: str
    """The vault's id of it."""
    entry: int
    call_id: str
    path: str
    """What it read; empty where it made a run's token."""
    since: datetime
    """It was made after this: the call's intent."""
    until: datetime
    """And before this: the entry."""


class LeaseRequests:
    """The requests that the ledger in `database` tells of; it is only read."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._engine = database.engine()

    def begun(self) -> datetime:
        """Give when the ledger begins.

        Raises:
            LedgerUnavailable: it cannot be read.
        """
        try:
            with self._engine.connect() as connection:
                return moment(connection.execute(select(ENTRY.c.at).where(ENTRY.c.idx == 0)).scalar_one())
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error

    def told(self, after: int = -1) -> Iterator[ToldRequest]:
        """Give those that entries behind the entry `after` tell of, oldest first.

        A request is given once for each entry that names it.

        Raises:
            LedgerUnavailable: the ledger cannot be read.
        """
        intent = ENTRY.alias()
        wanted = (
            select(ENTRY.c.idx, ENTRY.c.at, ENTRY.c.call_id, ENTRY.c.body, intent.c.at.label("since"))
            .join(intent, intent.c.idx == ENTRY.c.refers)
            .where(ENTRY.c.kind == "lease", ENTRY.c.idx > after)
            .order_by(ENTRY.c.idx)
        )
        try:
            with self._engine.connect().execution_options(stream_results=True) as connection:
                for row in connection.execute(wanted):
                    body = orjson.loads(row.body)
                    if not body.get("request"):
                        continue
                    yield ToldRequest(
                        request=body["request"],
                        entry=row.idx,
                        call_id=row.call_id,
                        path=str(body.get("scope", "")).partition(" as ")[0],
                        since=moment(row.since),
                        until=moment(row.at),
                    )
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error

    def runs_still(self, call_id: str) -> bool:
        """Whether the ledger has the call, and no end of it."""
        ends = ("outcome", "unknown", "late_outcome")
        wanted = select(ENTRY.c.idx, ENTRY.c.kind, ENTRY.c.refers).where(
            ENTRY.c.call_id == call_id, or_(ENTRY.c.kind == "intent", ENTRY.c.kind.in_(ends))
        )
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(wanted).all()
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error
        ended = {row.refers for row in rows if row.kind != "intent"}
        return any(row.kind == "intent" and row.idx not in ended for row in rows)
