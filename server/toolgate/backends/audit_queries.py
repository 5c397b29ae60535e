"""Asks a ledger's views: read-only, bounded, with every value bound and none spelled into SQL."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import (
    BindParameter,
    Connection,
    CursorResult,
    Engine,
    TextClause,
    bindparam,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.audit_dialects import DIALECTS, Dialect
from toolgate.backends.audit_erased import Gone, gone
from toolgate.backends.audit_views import views
from toolgate.backends.ledger_database import LedgerDatabase
from toolgate.backends.ledger_entries import micros
from toolgate.backends.sql_connection import cause
from toolgate.backends.sql_records import as_it_is, clear_names, pseudonyms_in
from toolgate.backends.sql_tables import ENTRY, PAYLOAD, PSEUDONYM
from toolgate.core.commitment import commitment
from toolgate.core.errors import LedgerUnavailable, NothingRecorded
from toolgate.core.record import Json, JsonObject

Filter: TypeAlias = Literal["since", "until", "tenant", "subject", "tool", "run", "call", "value", "hours"]
Filters: TypeAlias = Mapping[Filter, str | int]
"""Values of filters; times are microseconds since 1970."""

CONDITIONS: Final[Mapping[Filter, str]] = {
    "since": '"at" >= :since',
    "until": '"at" < :until',
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

_VIEW: Final = re.compile(r"\baudit_\w+_v\d+\b")
_AGO: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class NamedQuery:
    """A question that auditors ask, and the statement that answers it."""

    name: str
    question: str
    sql: str
    """A SELECT over the views, without a LIMIT; `{where}` stands for the conditions of the filters given,
    `{whose}` for those that are not about time, and `_words` has the others."""
    page: str | None = None
    """Where rows are of entries: a SELECT of those that are shown, out of the ledger itself, for DuckDB. It
    would look up names and ends for all rows before it sorts them."""
    alone: bool = False
    """It asks for nothing that is looked up elsewhere: DuckDB then looks nothing up."""
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

    def statement(self, asked: Filters, dialect: Dialect) -> str:
        """Give the statement with the conditions of the filters given."""
        sql = self.sql
        if self.alone and dialect.name == "duckdb":
            sql = sql.replace("audit_calls_v1", "call_alone").replace("audit_denials_v1", "denial_alone")
        return self._filled(sql, asked, dialect)

    def first(self, asked: Filters, dialect: Dialect) -> str | None:
        """Give the statement that finds the entries of the answer, where they are to be found first."""
        if self.page is None or dialect.name != "duckdb":
            return None
        return self._filled(self.page, asked, dialect)

    def of(self, entries: Iterable[int], dialect: Dialect) -> str:
        """Give the statement for these entries."""
        among = ", ".join(map(str, entries))
        where = f"entry IN ({among})" if among else "FALSE"
        sql = self.sql.replace("{holds}", f"h.{where}" if among else where)
        for word, spelled in _words(dialect).items():
            sql = sql.replace(f"{{{word}}}", spelled)
        return sql.replace("{where}", where).replace("{whose}", where) + " LIMIT :most"

    @staticmethod
    def _filled(sql: str, asked: Filters, dialect: Dialect) -> str:
        where = _all(CONDITIONS[name] for name in sorted(asked) if name in CONDITIONS)
        whose = _all(CONDITIONS[name] for name in sorted(asked) if name in CONDITIONS and name not in WINDOW)
        for word, spelled in _words(dialect).items():
            sql = sql.replace(f"{{{word}}}", spelled)
        return sql.replace("{where}", where).replace("{whose}", whose) + " LIMIT :most OFFSET :skip"


@dataclass(frozen=True, kw_only=True)
class Found:
    """The rows of an answer."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool
    """There are more than were asked for."""


def ask(database: LedgerDatabase, query: NamedQuery, asked: Filters, *, most: int) -> Found:
    """Answer a query with its first `most` rows.

    Raises:
        LedgerUnavailable: the database is not there, is none of ours, or cannot be read.
    """
    check(database)
    return answer(database.engine(), query, asked, most=most)


def answer(
    engine: Engine,
    query: NamedQuery,
    asked: Filters,
    *,
    most: int,
    skip: int = 0,
    room: int | None = None,
) -> Found:
    """Answer a query with `most` rows behind the first `skip`, of a ledger that is known to be ours.

    Args:
        engine: reads the ledger.
        query: which.
        asked: its filters.
        most: how many rows at most.
        skip: how many rows are left out before them.
        room: characters of text after which no further row is taken; at least one row is.

    Raises:
        LedgerUnavailable: it cannot be read.
    """
    try:
        with engine.connect() as connection:
            dialect = DIALECTS[connection.dialect.name]
            values: dict[str, Any] = {"most": most + 1, "skip": skip} | {
                str(name): dialect.value(said) for name, said in asked.items()
            }
            for kind in sorted(_PSEUDONYMS & set(asked)):
                values[kind] = _pseudonyms(connection, kind, values[kind])
            sql = query.statement(asked, dialect)
            if (first := query.first(asked, dialect)) is not None:
                found = connection.execute(_bound(text(first), values), values).scalars()
                sql = query.of(found, dialect)
            statement = _bound(with_views(connection, sql), values)
            result = connection.execute(statement, values)
            rows = _taken(result, most, room)
            return Found(columns=tuple(result.keys()), rows=rows, more=result.fetchone() is not None)
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


def _taken(result: CursorResult[Any], most: int, room: int | None) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    taken = 0
    while len(rows) < most and (room is None or taken < room) and (row := result.fetchone()) is not None:
        rows.append(tuple(row))
        taken += sum(len(value) for value in rows[-1] if isinstance(value, str))
    return rows


def _bound(statement: TextClause, values: Mapping[str, Any]) -> TextClause:
    """Let a value that is a list stand for any of them."""
    kinds = [kind for kind in sorted(_PSEUDONYMS & set(values)) if f":{kind}" in statement.text]
    lists: list[BindParameter[Any]] = [bindparam(kind, expanding=True) for kind in kinds]
    return statement.bindparams(*lists)


def with_views(connection: Connection, sql: str) -> TextClause:
    """Give a question over our views, whatever somebody made of those in the database.

    A connection to PostgreSQL may only read, and DuckDB looks at each view that it makes: there those that
    are used are a part of the statement.
    """
    spelled = views(DIALECTS[connection.dialect.name])
    if connection.dialect.name != "sqlite":
        needed, pending = set[str](), [sql]
        while pending:
            names = set(_VIEW.findall(pending.pop())) - needed
            needed |= names
            pending += [spelled[name] for name in names]
        ours = (f"{name} AS NOT MATERIALIZED ({spelled[name]})" for name in spelled if name in needed)
        return text(f"WITH {', '.join(ours)} {sql}" if needed else sql)
    connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KB}")
    for name, view in spelled.items():
        connection.exec_driver_sql(f"CREATE TEMP VIEW {name} AS {view.strip()}")
    return text(sql)


def check(database: LedgerDatabase) -> None:
    """Raise `LedgerUnavailable` unless `database` is a ledger that has the views."""
    if not database.exists():
        raise LedgerUnavailable(f"there is no ledger at {database.name}")
    if fault := database.fault():
        raise LedgerUnavailable(fault)
    try:
        with database.engine().connect() as connection:
            if connection.dialect.name != "sqlite":
                return
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
    value = DIALECTS[connection.dialect.name].part("value", 2)
    named = select(PSEUDONYM.c.name).where(PSEUDONYM.c.kind == kind, literal_column(value) == name)
    return [name, *connection.execute(named).scalars()]


def _words(dialect: Dialect) -> dict[str, str]:
    """Give what stands in a named query for what a dialect spells in its own way."""
    return {
        "now": dialect.now,
        "binary": dialect.binary,
        "apart": dialect.apart,
        "unlike": dialect.unlike,
        "ten": dialect.ten,
        "hour": dialect.hour('"at"'),
        "holds": dialect.holds("h.value", "h.entry"),
        "root": dialect.root("note"),
        "asked": "(kind = 'intent' OR kind = 'refusal' OR kind = 'repeat')",
        "newest": 'ORDER BY "at" DESC, idx DESC',
    }


def _all(conditions: Iterable[str]) -> str:
    return " AND ".join(conditions) or "TRUE"


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
    gone: tuple[Gone, ...] = ()
    """Why names and values are not there any more, as far as an entry says so."""


def show(database: LedgerDatabase, index: int) -> Shown:
    """Give one entry with what lies beside it.

    Raises:
        LedgerUnavailable: the database is none of ours, or cannot be read.
        NothingRecorded: there is no such entry.
    """
    check(database)
    return entry_of(database.engine(), index)


def entry_of(engine: Engine, index: int) -> Shown:
    """Give one entry of a ledger that is known to be ours.

    Raises:
        LedgerUnavailable: it cannot be read.
        NothingRecorded: there is no such entry.
    """
    try:
        with engine.connect() as connection:
            return _shown(connection, index)
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


def entries_of(engine: Engine, call_id: str, *, most: int) -> list[Shown]:
    """Give the first `most` entries of one call, oldest first; none where there is no such call.

    Raises:
        LedgerUnavailable: they cannot be read.
    """
    wanted = select(ENTRY.c.idx).where(ENTRY.c.call_id == call_id).order_by(ENTRY.c.idx).limit(most)
    try:
        with engine.connect() as connection:
            return [_shown(connection, index) for index in connection.execute(wanted).scalars().all()]
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


def _shown(connection: Connection, index: int) -> Shown:
    row = connection.execute(select(as_it_is(ENTRY.c.body)).where(ENTRY.c.idx == index)).first()
    if row is None:
        raise NothingRecorded(f"there is no entry {index}")
    kept_ = select(PAYLOAD.c.field, PAYLOAD.c.salt, as_it_is(PAYLOAD.c.value))
    beside = connection.execute(kept_.where(PAYLOAD.c.idx == index)).all()
    body: JsonObject = json.loads(row.body)
    named = pseudonyms_in(body)
    names = clear_names(connection, named)
    salted: dict[str, tuple[bytes, bytes | None]] = {
        kept.field: (kept.salt, _spelled(kept.value)) for kept in beside
    }
    promises = {
        name: said["hmac"] for name, said in body.items() if isinstance(said, dict) and "hmac" in said
    }
    lost = gone(connection, index, names=[*named], fields=[*promises.keys() - salted.keys()])
    return Shown(
        entry=index,
        body=body,
        names=names,
        committed=tuple(_opened(name, hmac, salted.get(name)) for name, hmac in promises.items()),
        gone=lost,
    )


def _spelled(value: bytes | str | None) -> bytes | None:
    """Give a value's bytes; an export has it as text."""
    return value.encode() if isinstance(value, str) else value


def _opened(name: str, hmac: Json, beside: tuple[bytes, bytes | None] | None) -> Committed:
    salt, value = beside or (b"", None)
    if value is None:
        return Committed(field=name, kept=False, value=None, opens=None)
    return Committed(
        field=name, kept=True, value=json.loads(value), opens=commitment(salt, name, value) == hmac
    )
