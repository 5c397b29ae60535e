"""Why a value, or a name, that an entry speaks of is not there any more."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from toolgate.backends.ledger_entries import moment
from toolgate.backends.sql_tables import ENTRY, ERASED_NAME, PAYLOAD, RETENTION_RUN
from toolgate.core.record import JsonObject
from toolgate.core.retention import class_of


@dataclass(frozen=True, kw_only=True)
class Gone:
    """What an erasure, or a rule of retention, took."""

    what: str
    """A field of the entry, or a pseudonym in it."""
    entry: int
    """The entry that says so."""
    at: datetime
    why: str
    """The basis of the erasure, as far as that is kept; or the rule."""

    def __str__(self) -> str:
        return f"erased on {self.at:%Y-%m-%d} (entry {self.entry}: {self.why})"


def gone(
    connection: Connection, index: int, *, names: Sequence[str], fields: Iterable[str]
) -> tuple[Gone, ...]:
    """Say why these names stand for nobody, and why these fields cannot be opened, as far as anybody says.

    Args:
        connection: reads the ledger.
        index: the entry.
        names: pseudonyms in it; those that still stand for somebody are left out.
        fields: its commitments whose salts are gone.
    """
    erased = connection.execute(select(ERASED_NAME).where(ERASED_NAME.c.name.in_(names))).all()
    found = [_told(connection, row.name, row.entry) for row in erased]
    whose = next((one for one in found if one.why != _OVER), None)
    for field in fields:
        over = _retention_of(connection, index, field) if whose is None else whose.entry
        if over is not None:
            found.append(_told(connection, field, over))
    return tuple(found)


def as_json(told: Iterable[Gone]) -> list[JsonObject]:
    """Say it to programs."""
    return [{"what": one.what, "entry": one.entry, "at": one.at.isoformat(), "why": one.why} for one in told]


def _told(connection: Connection, what: str, entry: int) -> Gone:
    row = connection.execute(select(ENTRY.c.at, ENTRY.c.kind).where(ENTRY.c.idx == entry)).one()
    return Gone(what=what, entry=entry, at=moment(row.at), why=_why(connection, entry, row.kind))


def _why(connection: Connection, entry: int, kind: str) -> str:
    if kind == "retention":
        return _OVER
    kept = select(PAYLOAD.c.value).where(PAYLOAD.c.idx == entry, PAYLOAD.c.field == "basis")
    basis = connection.execute(kept).scalar_one_or_none()
    return "for a reason that is not kept" if basis is None else str(json.loads(basis))


def _retention_of(connection: Connection, index: int, field: str) -> int | None:
    """Give the entry that tells of the step of retention which looked here first and took such a value."""
    value = class_of(field)
    runs = (
        select(ENTRY.c.idx, ENTRY.c.body)
        .join(RETENTION_RUN, RETENTION_RUN.c.entry == ENTRY.c.idx)
        .where(RETENTION_RUN.c.first <= index, RETENTION_RUN.c.last >= index)
        .order_by(ENTRY.c.idx)
    )
    for idx, body in connection.execute(runs):
        if value in json.loads(body)["removed"]:
            return int(idx)
    return None


_OVER = "it was kept long enough"
