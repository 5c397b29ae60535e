"""Reads what the ledger recorded, beside the writer and without getting in its way."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    literal_column,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import NullType

from toolgate.backends.audit_dialects import DIALECTS
from toolgate.backends.audit_erased import as_json, gone
from toolgate.backends.ledger_database import LedgerDatabase, demand
from toolgate.backends.ledger_entries import moment
from toolgate.backends.sql_tables import CLAIM, ENTRY, PAYLOAD, PSEUDONYM
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
    """For one that does not exist, what the client wrote."""
    end: str
    """`done`, a code, or `open` where no end is recorded (yet)."""
    end_entry: int | None


@dataclass(frozen=True, kw_only=True)
class DoubtfulCall:
    """A call of which nobody knows what became."""

    call_id: str
    tenant: str
    subject: str
    tool: str
    state: str
    """`unknown`; or `lost`, when the process that ran it is gone and nobody has noted that yet."""
    why: str
    """A code, where an end is recorded."""
    attempt: int
    opened_at: datetime
    conclusive_from: datetime | None
    """From when on a look-up that finds nothing shows that nothing was done; None while that cannot be told,
    because nobody has noted yet that the process which ran it sends nothing any more."""
    asked_at: datetime | None
    """When the system was last asked about it."""
    entry: int
    end_entry: int | None


class SqlRecords:
    """Questions to the ledger in `database`; each opens and closes a read-only connection."""

    def __init__(self, database: LedgerDatabase) -> None:
        self._engine = demand(database)

    def calls(self, *, most: int, subject: str | None, tool: str | None) -> list[RecordedCall]:
        """Give the newest calls, newest first."""
        wanted = select(ENTRY).where(ENTRY.c.kind.in_(("intent", "refusal", "repeat")))
        if subject is not None:
            wanted = wanted.where(ENTRY.c.who.in_(self._pseudonyms_of(subject)))
        if tool is not None:
            wanted = wanted.where(ENTRY.c.tool == tool)
        wanted = wanted.order_by(ENTRY.c.idx.desc()).limit(most)
        try:
            with self._engine.connect() as connection:
                begun = connection.execute(wanted).all()
                ends, asked = _ends(connection, begun), _asked(connection, begun)
                people = clear_names(connection, (row.who for row in begun))
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error
        return [_recorded(row, ends.get(row.idx), asked, people) for row in begun]

    def doubtful(
        self, *, most: int, subject: str | None, tool: str | None, is_lost: Callable[[str, int], bool]
    ) -> list[DoubtfulCall]:
        """Give the calls of which nobody knows what became, oldest first.

        `is_lost` says whether a call in progress is, by its owner and by when it lapses.
        """
        states = (CLAIM.c.state == "unknown", CLAIM.c.state == "in_progress")
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(select(CLAIM).where(or_(*states)).order_by(CLAIM.c.opened_at)).all()
                known = [row for row in rows if row.state == "unknown" or is_lost(row.owner, row.until)]
                people = clear_names(connection, {_about(row)["who"] for row in known})
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error
        doubtful = [_doubtful(row, people) for row in known if tool in {None, row.tool}]
        return [call for call in doubtful if subject in {None, call.subject}][:most]

    def _pseudonyms_of(self, subject: str) -> Select[tuple[str]]:
        named: ColumnElement[str] = literal_column(DIALECTS[self._engine.dialect.name].part("value", 2))
        return select(PSEUDONYM.c.name).where(PSEUDONYM.c.kind == "subject", named == subject)

    def entries(self, call_id: str) -> list[JsonObject]:
        """Give every entry of one call, oldest first, with what was captured of its values."""
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(
                    select(ENTRY).where(ENTRY.c.call_id == call_id).order_by(ENTRY.c.idx)
                ).all()
                entries = [_entry(connection, row) for row in rows]
                named = clear_names(connection, {name for entry in entries for name in pseudonyms_in(entry)})
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error
        for entry in entries:
            entry["names"] = {name: named[name] for name in pseudonyms_in(entry) if name in named}
        return entries


def pseudonyms_in(body: JsonObject) -> list[str]:
    """Give the pseudonyms in an entry."""
    act = body.get("act")
    named = [body.get(field) for field in ("who", "client", "run", "by")]
    return [name for name in (*named, *(act if isinstance(act, list) else ())) if isinstance(name, str)]


def _ends(connection: Connection, begun: Sequence[Row[Any]]) -> dict[int, Row[Any]]:
    """Find the last that became known of each intent, by the intent's index."""
    ids = {row.call_id for row in begun}
    settled = select(CLAIM.c.end).where(CLAIM.c.call_id.in_(ids), CLAIM.c.end.is_not(None))
    wanted = or_(ENTRY.c.kind.in_(("outcome", "unknown")), ENTRY.c.idx.in_(settled))
    ends = connection.execute(
        select(ENTRY).where(ENTRY.c.call_id.in_(ids), wanted).order_by(ENTRY.c.idx)
    ).all()
    return {row.refers: row for row in ends}


def as_it_is(column: Column[Any]) -> ColumnElement[Any]:
    """Give JSON as the database has it: bytes, or a text in an export."""
    return type_coerce(column, NullType()).label(column.name)


def clear_names(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Give whom pseudonyms stand for, as far as that is still known."""
    known = connection.execute(
        select(PSEUDONYM.c.name, as_it_is(PSEUDONYM.c.value)).where(PSEUDONYM.c.name.in_(set(names)))
    ).all()
    return {row.name: json.loads(row.value)[2] for row in known}


def _about(row: Row[Any]) -> dict[str, Any]:
    """Say whose call a claim is for."""
    request: dict[str, Any] = json.loads(row.request) if row.request else {}
    subject: dict[str, Any] = request.get("subject", {})
    return {"who": "", "tenant": "", **subject}


def _doubtful(row: Row[Any], people: dict[str, str]) -> DoubtfulCall:
    about = _about(row)
    return DoubtfulCall(
        call_id=row.call_id,
        tenant=about["tenant"],
        subject=people.get(about["who"]) or about["who"],
        tool=row.tool,
        state="unknown" if row.state == "unknown" else "lost",
        why=json.loads(row.outcome)["code"] if row.outcome else "",
        attempt=row.attempt,
        opened_at=moment(row.opened_at),
        conclusive_from=moment(row.until) if row.state == "unknown" and row.ended else None,
        asked_at=moment(row.asked_at) if row.asked_at else None,
        entry=row.intent,
        end_entry=row.end,
    )


def _asked(connection: Connection, begun: Sequence[Row[Any]]) -> dict[int, str]:
    """Give the names of tools that do not exist, as clients wrote them."""
    refused = [row.idx for row in begun if not row.tool]
    wanted = select(PAYLOAD).where(PAYLOAD.c.idx.in_(refused), PAYLOAD.c.field == "asked")
    return {row.idx: json.loads(row.value) for row in connection.execute(wanted) if row.value is not None}


def _recorded(
    row: Row[Any], end: Row[Any] | None, asked: dict[int, str], people: dict[str, str]
) -> RecordedCall:
    status = row.status if row.kind != "intent" else "open"
    return RecordedCall(
        entry=row.idx,
        call_id=row.call_id,
        at=moment(row.at),
        tenant=row.tenant,
        subject=people.get(row.who) or row.who,
        tool=row.tool or asked.get(row.idx, ""),
        end=end.status if end is not None else status,
        end_entry=end.idx if end is not None else None,
    )


def _entry(connection: Connection, row: Row[Any]) -> JsonObject:
    beside = connection.execute(
        select(PAYLOAD.c.field, PAYLOAD.c.value).where(PAYLOAD.c.idx == row.idx)
    ).all()
    body: JsonObject = json.loads(row.body)
    entry: JsonObject = {"entry": row.idx, **body}
    if kept := {payload.field: json.loads(payload.value) for payload in beside if payload.value is not None}:
        entry["captured"] = kept
    promised = {name for name, said in body.items() if isinstance(said, dict) and "hmac" in said}
    without_salt = sorted(promised - {payload.field for payload in beside})
    if lost := gone(connection, row.idx, names=pseudonyms_in(body), fields=without_salt):
        entry["gone"] = [*as_json(lost)]
    return entry
