"""Asks a ledger's views: read-only, bounded, with every value bound and none spelled into SQL."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import Connection, bindparam, select, text
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.audit_views import VIEWS
from toolgate.backends.ledger_entries import micros
from toolgate.backends.sql_records import pseudonyms_in
from toolgate.backends.sql_tables import ENTRY, PAYLOAD
from toolgate.backends.sqlite_files import cause, fault_in_database, reader
from toolgate.core.commitment import commitment
from toolgate.core.errors import LedgerUnavailable, NothingRecorded
from toolgate.core.record import Json, JsonObject

Filter: TypeAlias = Literal["since", "until", "tenant", "subject", "tool", "run", "call", "value", "hours"]
Filters: TypeAlias = Mapping[Filter, str | int]
"""Values of filters; times are microseconds since 1970."""

CONDITIONS: Final[Mapping[Filter, str]] = {
    "since": "at >= :since",
    "until": "at < :until",
    "tenant": "tenant = :tenant",
    "subject": "who IN :subject",
    "tool": "tool = :tool",
    "run": "run <> '' AND run IN :run",
    "call": "call_id = :call",
}
"""What a filter demands of a row; the others stand in the queries that take them."""


def only(*names: Filter) -> frozenset[Filter]:
    """Give a set of filters."""
    return frozenset(names)


WINDOW: Final = only("since", "until")
WHOSE: Final = WINDOW | only("tenant", "subject", "tool")
EVERY: Final = WHOSE | only("run", "call")

_PSEUDONYMS: Final = only("subject", "run")
_CACHE_KB: Final = 131_072
"""What a question may keep of the database in memory: with SQLite's own 2 MB, large ones read pages twice."""

_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class NamedQuery:
    """A question that auditors ask, and the statement that answers it."""

    name: str
    question: str
    sql: str
    """A SELECT over the views, without a LIMIT; `{where}` stands for the conditions of the filters given,
    `{whose}` for those that are not about time."""
    filters: frozenset[Filter]
    needed: frozenset[Filter] = frozenset()
    """Those without which it means nothing."""

    def fault_in(self, asked: Filters) -> str | None:
        """Say why it cannot be asked so, or None."""
        if strange := sorted(set(asked) - self.filters):
            takes = ", ".join(f"--{name}" for name in sorted(self.filters)) or "no filter"
            return f"{self.name} takes no --{strange[0]}; it takes {takes}"
        if missing := sorted(self.needed - set(asked)):
            return f"{self.name} needs --{missing[0]}"
        return None

    def statement(self, asked: Filters) -> str:
        """Give the statement with the conditions of the filters given."""
        where = _all(CONDITIONS[name] for name in sorted(asked) if name in CONDITIONS)
        whose = _all(CONDITIONS[name] for name in sorted(asked) if name in CONDITIONS and name not in WINDOW)
        return self.sql.replace("{where}", where).replace("{whose}", whose) + " LIMIT :most"


@dataclass(frozen=True, kw_only=True)
class Found:
    """The rows of an answer."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool
    """There are more than were asked for."""


def ask(database: Path, query: NamedQuery, asked: Filters, *, most: int) -> Found:
    """Answer a query with its first `most` rows.

    Raises:
        LedgerUnavailable: the database is not there, is none of ours, or cannot be read.
    """
    check(database)
    try:
        with reader(database).connect() as connection:
            connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KB}")
            for name, view in VIEWS.items():  # ours, whatever somebody made of those in the file
                connection.exec_driver_sql(f"CREATE TEMP VIEW {name} AS {view.strip()}")
            statement = text(query.statement(asked))
            values: dict[str, Any] = {"most": most + 1} | {str(name): said for name, said in asked.items()}
            for kind in sorted(_PSEUDONYMS & set(asked)):
                statement = statement.bindparams(bindparam(kind, expanding=True))
                values[kind] = _pseudonyms(connection, kind, values[kind])
            result = connection.execute(statement, values)
            rows = [tuple(row) for row in result]
            return Found(columns=tuple(result.keys()), rows=rows[:most], more=len(rows) > most)
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"{database.name} cannot be read ({cause(error)})") from error


def check(database: Path) -> None:
    """Raise `LedgerUnavailable` unless `database` is a ledger that has the views."""
    if not database.is_file():
        raise LedgerUnavailable(f"there is no ledger at {database}")
    if fault := fault_in_database(database):
        raise LedgerUnavailable(fault)
    try:
        with reader(database).connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT count(*) FROM sqlite_master WHERE type = 'view' AND name = 'audit_calls_v1'"
            ).scalar_one()
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"{database.name} cannot be read ({cause(error)})") from error
    if not found:
        raise LedgerUnavailable(
            f"{database.name} has none of the views for audits: no ledger, or one of an older version; "
            "serve it once with this version, then copy it again"
        )


def _pseudonyms(connection: Connection, kind: str, name: str) -> list[str]:
    """Give the pseudonyms of a name; the name itself may be one whose owner was erased.

    They are looked up before, because SQLite pushes plain values down into a view, but no subquery.
    """
    named = text("SELECT pseudonym FROM audit_names_v1 WHERE kind = :kind AND clear = :name")
    return [name, *connection.execute(named, {"kind": kind, "name": name}).scalars()]


def _all(conditions: Iterable[str]) -> str:
    return " AND ".join(conditions) or "1"


def moment_in(words: str, now: datetime) -> int:
    """Read `2026-03-01`, `2026-03-01T12:00+01:00` (else UTC) or `7d`, `24h` ago; gives microseconds.

    Raises:
        ValueError: it is none of these.
    """
    if ago := _AGO.fullmatch(words):
        try:
            return micros(now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
        except OverflowError as error:
            raise ValueError(f"{words!r} is before all times") from error
    try:
        said = datetime.fromisoformat(words)
    except ValueError as error:
        raise ValueError(
            f"{words!r} is no time; say 2026-03-01, 2026-03-01T12:00+01:00, 7d or 24h"
        ) from error
    return micros(said if said.tzinfo else said.replace(tzinfo=UTC))


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A value that an entry commits to."""

    field: str
    kept: bool
    value: Json
    opens: bool | None
    """Whether salt and value are those of the commitment; None where the value is not kept."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One entry, and what lies beside it."""

    entry: int
    body: JsonObject
    names: dict[str, str]
    """Whom its pseudonyms stand for, as far as that is still known."""
    committed: tuple[Committed, ...]


def show(database: Path, index: int) -> Shown:
    """Give one entry with what lies beside it.

    Raises:
        LedgerUnavailable: the database is none of ours, or cannot be read.
        NothingRecorded: there is no such entry.
    """
    check(database)
    try:
        with reader(database).connect() as connection:
            row = connection.execute(select(ENTRY.c.body).where(ENTRY.c.idx == index)).first()
            beside = connection.execute(select(PAYLOAD).where(PAYLOAD.c.idx == index)).all()
            body: JsonObject = {} if row is None else json.loads(row.body)
            names = {name: _clear(connection, name) for name in pseudonyms_in(body)}
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"{database.name} cannot be read ({cause(error)})") from error
    if row is None:
        raise NothingRecorded(f"there is no entry {index}")
    salted: dict[str, tuple[bytes, bytes | None]] = {kept.field: (kept.salt, kept.value) for kept in beside}
    promises = {
        name: said["hmac"] for name, said in body.items() if isinstance(said, dict) and "hmac" in said
    }
    return Shown(
        entry=index,
        body=body,
        names={name: clear for name, clear in names.items() if clear is not None},
        committed=tuple(_opened(name, hmac, salted.get(name)) for name, hmac in promises.items()),
    )


def _clear(connection: Connection, name: str) -> str | None:
    named = text("SELECT clear FROM audit_names_v1 WHERE pseudonym = :name")
    return connection.execute(named, {"name": name}).scalar_one_or_none()


def _opened(name: str, hmac: Json, beside: tuple[bytes, bytes | None] | None) -> Committed:
    salt, value = beside or (b"", None)
    if value is None:
        return Committed(field=name, kept=False, value=None, opens=None)
    return Committed(
        field=name, kept=True, value=json.loads(value), opens=commitment(salt, name, value) == hmac
    )
