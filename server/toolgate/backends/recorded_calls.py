"""Reads recorded calls in bulk, as a replay and an explanation need them: in plain SQL, oldest first."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import orjson
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.ledger_database import LedgerDatabase
from toolgate.backends.ledger_entries import moment
from toolgate.backends.sql_connection import cause
from toolgate.backends.sql_runs import LONGEST
from toolgate.core.call import Caller
from toolgate.core.decision import Past, Verdict
from toolgate.core.errors import LedgerUnavailable

JUDGED: Final = frozenset({"forbidden", "approval_required"})
"""What a refusal by the policy is called; other refusals were made before it was asked."""

Removed: TypeAlias = Literal["args", "roles"]
"""What an entry commits to."""

_CACHE_KB: Final = 131_072
_ROWS: Final = 2_000
_KIND: Final = "(e.kind = 'intent' OR e.kind = 'refusal')"
_VALUE: Final = "COALESCE(p.value, substr(p.salt, 1, 0))"
"""No bytes where only the salt was ever kept; NULL remains for what is not there at all."""
_SELECT: Final = f"""
    SELECT e.idx, e.at, e.kind, e.status, e.tenant, e.who, e.tool, e.run, e.call_id, e.body,
        (SELECT {_VALUE} FROM payload p WHERE p.idx = e.idx AND p.field = 'arguments') AS arguments,
        (SELECT {_VALUE} FROM payload p WHERE p.idx = e.idx AND p.field = 'caller') AS caller
    FROM ledger_entry e
"""  # noqa: S608 - of constants
_EARLIER: Final = """
    SELECT e.run, e.who, e.call_id, e.tool, e.at FROM ledger_entry e
    WHERE e.run <> '' AND e.kind = 'intent' AND e.idx < :before
        AND e.run IN (
            SELECT w.run FROM ledger_entry w WHERE w.run <> '' AND w.idx >= :before AND w.idx < :entries
        )
    ORDER BY e.idx
"""
_FIRST: Final = f"SELECT min(e.idx) FROM ledger_entry e WHERE e.at >= :since AND {_KIND}"  # noqa: S608


class RecordedJudgement(NamedTuple):
    """A call that the policy allowed or refused, as the ledger has it."""

    entry: int
    call_id: str
    at: int
    """Microseconds since 1970-01-01 UTC."""
    tenant: str
    who: str
    """The caller's pseudonym."""
    client: str
    """The client's pseudonym; an empty text without one."""
    tool: str
    run: str
    verdict: Verdict
    rules: tuple[str, ...]
    config: int
    """The entry that says what governed."""
    arguments: bytes | None
    """Canonical JSON; None where they were not kept."""
    caller: bytes | None
    """What the caller's token said: `roles` and `scopes`, canonical JSON; None where it was not kept."""
    removed: frozenset[Removed] = frozenset()
    """What is not there any more, salt and all: somebody was erased, or it was kept long enough."""


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a pseudonym stands for."""

    issuer: str
    name: str


@dataclass(frozen=True, slots=True)
class NotJudged:
    """A refusal that was made before the policy was asked."""

    status: str


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which calls: entries below `entries`, recorded from `since` on and before `until` (microseconds)."""

    entries: int
    since: int = 0
    until: int = 2**62


class RecordedCalls:
    """One reading of the ledger in `database`, all from the same moment.

    Raises:
        LedgerUnavailable: the database cannot be read.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        try:
            self._connection = database.engine().connect()
            self._sqlite = _one_moment(self._connection)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise LedgerUnavailable(f"{database.name} cannot be read ({cause(error)})") from error

    def close(self) -> None:
        """End the reading."""
        self._connection.close()

    def people(self, kind: Literal["subject", "client", "run"] = "subject") -> dict[str, Person]:
        """Give whom each pseudonym of a kind stands for, as far as that is still known."""
        rows = self._rows("SELECT name, value FROM pseudonym WHERE kind = :kind", {"kind": kind})
        return {str(row[0]): Person(*orjson.loads(row[1])[1:3]) for row in rows}

    def within(self, window: Window) -> Iterator[RecordedJudgement | NotJudged]:
        """Give the calls of a window, oldest first."""
        where = f"WHERE e.idx < :entries AND {_KIND} AND e.at >= :since AND e.at < :until ORDER BY e.idx"
        for row in self._rows(_SELECT + where, vars(window)):
            yield _judgement(row)

    def count(self, window: Window) -> int:
        """Say how many calls a window has."""
        where = f"WHERE e.idx < :entries AND {_KIND} AND e.at >= :since AND e.at < :until"
        sql = f"SELECT count(*) FROM ledger_entry e {where}"  # noqa: S608 - of constants
        return int(next(self._rows(sql, vars(window)))[0])

    def of_call(self, call_id: str) -> RecordedJudgement | NotJudged | None:
        """Give the last judgement of one call."""
        found = list(self._rows(f"{_SELECT} WHERE e.call_id = :call AND {_KIND}", {"call": call_id}))
        return _judgement(found[-1]) if found else None

    def history_before(self, window: Window) -> "RunHistory":
        """Give what the runs of a window had done before its first call."""
        history = RunHistory()
        first = next(self._rows(_FIRST, {"since": window.since}))[0]
        if first is not None:
            for run, who, call_id, tool, at in self._rows(
                _EARLIER, {"before": first, "entries": window.entries}
            ):
                history.begun(run, who, call_id, Past(tool, moment(at)))
        return history

    def policy_of(self, config: int) -> str | None:
        """Give the digest of the policy that an entry says was in force."""
        rows = self._rows("SELECT body FROM ledger_entry WHERE idx = :at AND kind = 'config'", {"at": config})
        for row in rows:
            said = orjson.loads(row[0]).get("digests", {}).get("policy")
            return said if isinstance(said, str) else None
        return None

    def _rows(self, sql: str, values: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
        try:
            if self._sqlite is None:
                many = {"yield_per": _ROWS}
                with self._connection.execute(text(sql), dict(values), execution_options=many) as found:
                    yield from found
                return
            with closing(self._sqlite.execute(sql, dict(values))) as cursor:
                while rows := cursor.fetchmany(_ROWS):
                    yield from rows
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


class RunHistory:
    """What runs have done so far, as rules that ask for it are told."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, str], dict[str, Past]] = {}
        self._intents: Counter[tuple[str, str]] = Counter()

    def begun(self, run: str, who: str, call_id: str, past: Past) -> None:
        """Note that a call was begun; a further attempt at it is not one more."""
        self._intents[run, who] += 1
        self._begun.setdefault((run, who), {}).setdefault(call_id, past)

    def before(self, judgement: RecordedJudgement) -> tuple[Past, ...] | None:
        """Give the earlier calls of its run; None where nobody can tell, as the gate itself would say."""
        key = (judgement.run, judgement.who)
        if not judgement.run or self._intents[key] > LONGEST:
            return None
        begun = self._begun.get(key, {})
        return tuple(past for call_id, past in begun.items() if call_id != judgement.call_id)


def when_recorded(judgement: RecordedJudgement) -> datetime:
    """Give the moment at which a call was recorded; rules of a replay take it for the moment it came in."""
    return moment(judgement.at)


def caller_then(judgement: RecordedJudgement, person: Person | None, client: Person | None) -> Caller:
    """Give the caller as the gate knew it; by its pseudonym where the name was erased.

    Without what its token said, which is kept beside the arguments, it has no roles and scopes here.
    """
    said = orjson.loads(judgement.caller or b"{}")
    return Caller(
        subject=person.name if person else judgement.who,
        issuer=person.issuer if person else "",
        tenant=judgement.tenant,
        client=client.name if client else "",
        roles=frozenset(said.get("roles", ())),
        scopes=frozenset(said.get("scopes", ())),
    )


def _one_moment(connection: Connection) -> sqlite3.Connection | None:
    """Let a connection read all from the same moment; gives SQLite's own, which reads in bulk much faster."""
    if connection.dialect.name != "sqlite":
        connection.execution_options(isolation_level="REPEATABLE READ")
        return None
    own: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    own.isolation_level = None
    own.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
    own.execute("BEGIN")
    return own


def _judgement(row: Sequence[Any]) -> RecordedJudgement | NotJudged:
    idx, at, kind, status, tenant, who, tool, run, call_id, body, arguments, caller = row
    if kind == "refusal" and status not in JUDGED:
        return NotJudged(status)
    said = orjson.loads(body)
    return RecordedJudgement(
        entry=idx,
        call_id=call_id,
        at=at,
        tenant=tenant,
        who=who,
        client=said.get("client", ""),
        tool=tool,
        run=run,
        verdict=said["verdict"],
        rules=tuple(said["rules"]),
        config=said.get("config", -1),
        arguments=arguments or None,
        caller=caller or None,
        removed=_NOTHING
        if arguments is not None and caller is not None
        else _removed(said, arguments, caller),
    )


def _removed(said: Mapping[str, Any], arguments: bytes | None, caller: bytes | None) -> frozenset[Removed]:
    gone: list[Removed] = []
    if arguments is None and "arguments" in said:
        gone.append("args")
    if caller is None and "caller" in said:
        gone.append("roles")
    return frozenset(gone)


_NOTHING: Final[frozenset[Removed]] = frozenset()
