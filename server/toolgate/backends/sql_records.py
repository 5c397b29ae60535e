"""Reads what the ledger recorded, beside the writer and without getting in its way."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.sql_tables import ENTRY, PAYLOAD
from toolgate.backends.sqlite_writer import reader
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.record import JsonObject


@dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """One attempt at a call, or one refusal, with how it ended."""

    entry: int
    call_id: str
    at: datetime
    tenant: str
    subject: str
    tool: str
    end: str
    """`done`, a code, or `open` where no end is recorded (yet)."""
    end_entry: int | None


class SqlRecords:
    """Questions to the ledger in the database at `path`; each opens and closes a read-only connection."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise LedgerUnavailable(f"there is no ledger at {path}; nothing was called yet")
        self._engine = reader(path)

    def calls(self, *, most: int, subject: str | None, tool: str | None) -> list[RecordedCall]:
        """Give the newest calls, newest first."""
        wanted = select(ENTRY).where(ENTRY.c.kind.in_(("intent", "refusal", "repeat")))
        if subject is not None:
            wanted = wanted.where(ENTRY.c.subject == subject)
        if tool is not None:
            wanted = wanted.where(ENTRY.c.tool == tool)
        wanted = wanted.order_by(ENTRY.c.idx.desc()).limit(most)
        try:
            with self._engine.connect() as connection:
                begun = connection.execute(wanted).all()
                return _with_ends(begun, _ends(connection, begun))
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error

    def entries(self, call_id: str) -> list[JsonObject]:
        """Give every entry of one call, oldest first, with what was captured of its values."""
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(
                    select(ENTRY).where(ENTRY.c.call_id == call_id).order_by(ENTRY.c.idx)
                ).all()
                return [_entry(connection, row) for row in rows]
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error


def _ends(connection: Connection, begun: Sequence[Row[Any]]) -> dict[int, Row[Any]]:
    """Find the end of each intent, by the intent's index."""
    ids = {row.call_id for row in begun}
    ends = connection.execute(select(ENTRY).where(ENTRY.c.call_id.in_(ids), ENTRY.c.kind == "outcome")).all()
    return {orjson.loads(row.body)["intent"]: row for row in ends}


def _with_ends(begun: Sequence[Row[Any]], ends: dict[int, Row[Any]]) -> list[RecordedCall]:
    calls: list[RecordedCall] = []
    for row in begun:
        end = ends.get(row.idx)
        status = row.status if row.kind != "intent" else "open"
        calls.append(
            RecordedCall(
                entry=row.idx,
                call_id=row.call_id,
                at=datetime.fromtimestamp(row.at / 1_000_000, UTC),
                tenant=row.tenant,
                subject=row.subject,
                tool=row.tool,
                end=end.status if end is not None else status,
                end_entry=end.idx if end is not None else None,
            )
        )
    return calls


def _entry(connection: Connection, row: Row[Any]) -> JsonObject:
    kept = connection.execute(
        select(PAYLOAD.c.field, PAYLOAD.c.value).where(PAYLOAD.c.idx == row.idx, PAYLOAD.c.value.is_not(None))
    ).all()
    entry: JsonObject = {"entry": row.idx, **orjson.loads(row.body)}
    if kept:
        entry["captured"] = {payload.field: orjson.loads(payload.value) for payload in kept}
    return entry
