"""Compares a vault's audit log with the ledger: each credential that it gave must be of a call, and be there.

Both may be larger than the memory: they meet in tables that SQLite keeps on the disk, and forgets at the end.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from toolgate.backends.lease_requests import LeaseRequests, ToldRequest
from toolgate.backends.ledger_entries import micros, moment
from toolgate.backends.vault.audit_log import AuditLine, BadLine, lines_of

Verdict = Literal["equal", "different", "cannot tell"]

MOST: Final = 1_000
"""How many differences, and bad lines, are given; all are counted."""
_NAME: Final = r"[A-Za-z0-9_@-](?:[A-Za-z0-9_.@-]{0,126}[A-Za-z0-9_@-])?"
"""What may stand for a tenant or a subject in a path."""
_OURS: Final = frozenset({"auth/token/create", "auth/token/revoke-self"})
"""What the token of a run is used for, beside giving credentials."""
_TABLES: Final = """
    PRAGMA journal_mode = OFF;
    CREATE TABLE told (request TEXT PRIMARY KEY, entry, call_id, path, since, until) WITHOUT ROWID;
    CREATE TABLE used (request TEXT PRIMARY KEY, at, path, call_id, name, accessor, remote) WITHOUT ROWID;
"""
_OUTSIDE: Final = "FROM used WHERE at >= :begun AND request NOT IN (SELECT request FROM told)"
_UNLOGGED: Final = "FROM told WHERE request NOT IN (SELECT request FROM used)"
_WITHIN: Final = "since >= :first + :skew AND until <= :last - :skew"
_NEAR: Final = f"until >= :first - :skew AND since <= :last + :skew AND NOT ({_WITHIN})"


@dataclass(frozen=True, kw_only=True)
class Use:
    """A credential that a vault gave, and of which the ledger does not tell."""

    request: str
    at: datetime
    path: str
    call_id: str
    """The call that the token says it is of; anybody can write that who may make tokens."""
    display_name: str
    accessor: str
    remote: str


@dataclass(kw_only=True)
class Reconciled:
    """What came of comparing."""

    lines: int = 0
    first: datetime | None = None
    """Of the log's times."""
    last: datetime | None = None
    matched: int = 0
    outside: list[Use] = field(default_factory=list[Use])
    """Used outside of any call."""
    running: list[Use] = field(default_factory=list[Use])
    """Of calls that still run: their entries may be still to come."""
    unlogged: list[ToldRequest] = field(default_factory=list[ToldRequest])
    """In the ledger and not in the log."""
    bad: list[BadLine] = field(default_factory=list[BadLine])
    outside_count: int = 0
    unlogged_count: int = 0
    bad_count: int = 0
    at_the_edge: int = 0
    """In the ledger, and so near to an end of the log that they may be in another file."""
    before: int = 0
    """In the log, and older than the ledger."""
    doubt: str = ""
    """Why nothing can be told, or not all."""

    @property
    def verdict(self) -> Verdict:
        """What it comes to: a difference stays one, whatever else could not be read."""
        if self.outside_count or self.unlogged_count:
            return "different"
        return "cannot tell" if self.doubt else "equal"


class Uses:
    """Tells which lines of a log are about credentials.

    Args:
        templates: paths with `{tenant}` and `{subject}` where credentials are read.
        token_role: the template of the token role under which runs are opened; empty where there is none.
        namespace: the vault's namespace that the gate uses.
    """

    def __init__(self, templates: Iterable[str], *, token_role: str = "", namespace: str = "") -> None:
        self.paths: set[str] = set()
        """Paths that were read, whatever the templates are now: as many as there are tenants and subjects."""
        self._templates = _pattern(templates)
        self._opens_runs = _pattern([f"auth/token/create/{token_role}"] if token_role else [])
        self._namespace = namespace.strip("/")

    def are_in(self, line: AuditLine) -> bool:
        """Whether the line says that a credential was given, or a run's token made."""
        if not line.answer:
            return False
        ours = line.namespace == self._namespace
        if ours and (line.path in self.paths or self._templates.fullmatch(line.path)):
            return line.operation == "read" or (line.operation in {"create", "update"} and not line.stores)
        if ours and self._opens_runs.fullmatch(line.path):
            return True
        return line.toolgate in {"run", "call"} and not (line.toolgate == "run" and line.path in _OURS)


def reconciled(
    files: Sequence[Path],
    ledger: LeaseRequests,
    uses: Uses,
    *,
    skew: timedelta,
    progress: Callable[[int, int | None], None],
) -> Reconciled:
    """Compare the log in `files` with the ledger.

    `skew` is how far the clocks of the vault and of the gate may be apart.

    Raises:
        LedgerUnavailable: the ledger cannot be read.
        OSError: a file cannot be read.
    """
    found = Reconciled()
    with closing(sqlite3.connect("")) as tables:  # a file of its own that nobody else sees
        tables.executescript(_TABLES)
        newest = _tell(tables, ledger.told(), uses)
        _read(tables, lines_of(files, progress), uses, found)
        _tell(tables, ledger.told(newest), uses)  # what was recorded while the log was read
        begun = ledger.begun()
        if found.first is None or found.last is None:
            found.doubt = "no line of an audit log was read"
        elif found.last < begun - skew:
            found.doubt = f"the log ends at {found.last:%Y-%m-%d %H:%M:%S} UTC, and the ledger begins later"
        else:
            times = {"begun": begun - skew, "first": found.first, "last": found.last}
            skewed = {"skew": skew // timedelta(microseconds=1), "most": MOST}
            _compare(tables, found, {name: micros(at) for name, at in times.items()} | skewed)
            _set_apart_what_runs(found, ledger)
            found.doubt = _doubt(found)
    return found


def _tell(tables: sqlite3.Connection, told: Iterable[ToldRequest], uses: Uses) -> int:
    """Note what the ledger tells; gives the newest entry that does."""
    newest = -1
    for one in told:
        newest = one.entry
        if one.path:
            uses.paths.add(one.path)
        row = (one.request, one.entry, one.call_id, one.path, micros(one.since), micros(one.until))
        tables.execute("INSERT OR IGNORE INTO told VALUES (?, ?, ?, ?, ?, ?)", row)
    return newest


def _read(
    tables: sqlite3.Connection, lines: Iterable[AuditLine | BadLine], uses: Uses, found: Reconciled
) -> None:
    """Note the lines that are about credentials."""
    for line in lines:
        if isinstance(line, BadLine):
            found.bad_count += 1
            found.bad += [line] if len(found.bad) < MOST else []
            continue
        found.lines += 1
        found.first = min(found.first or line.at, line.at)
        found.last = max(found.last or line.at, line.at)
        if uses.are_in(line):
            row = (line.request, micros(line.at), line.path, line.call)
            more = (line.display_name, line.accessor, line.remote)
            tables.execute("INSERT OR IGNORE INTO used VALUES (?, ?, ?, ?, ?, ?, ?)", row + more)


def _compare(tables: sqlite3.Connection, found: Reconciled, values: dict[str, int]) -> None:
    def count(which: str) -> int:
        [(number,)] = tables.execute(f"SELECT count(*) {which}", values)
        return int(number)

    def rows(which: str, order: str) -> list[tuple[str, ...]]:
        return tables.execute(f"SELECT * {which} ORDER BY {order} LIMIT :most", values).fetchall()

    found.matched = count("FROM used WHERE request IN (SELECT request FROM told)")
    found.before = count("FROM used WHERE at < :begun AND request NOT IN (SELECT request FROM told)")
    found.outside_count = count(_OUTSIDE)
    found.outside = [_use(row) for row in rows(_OUTSIDE, "at")]
    found.unlogged_count = count(f"{_UNLOGGED} AND {_WITHIN}")
    found.unlogged = [_told(row) for row in rows(f"{_UNLOGGED} AND {_WITHIN}", "entry")]
    found.at_the_edge = count(f"{_UNLOGGED} AND {_NEAR}")


def _doubt(found: Reconciled) -> str:
    if found.bad_count:
        return f"{found.bad_count} of the lines could not be read, and each may hide a use"
    if found.at_the_edge and not found.matched:
        return "the log is too short: whatever the ledger tells of that time may be in another file"
    return ""


def _set_apart_what_runs(found: Reconciled, ledger: LeaseRequests) -> None:
    still = {call for call in {use.call_id for use in found.outside} if call and ledger.runs_still(call)}
    found.running = [use for use in found.outside if use.call_id in still]
    found.outside = [use for use in found.outside if use.call_id not in still]
    found.outside_count -= len(found.running)


def _use(row: tuple[str, ...]) -> Use:
    request, at, path, call_id, display_name, accessor, remote = row
    return Use(
        request=request,
        at=moment(int(at)),
        path=path,
        call_id=call_id,
        display_name=display_name,
        accessor=accessor,
        remote=remote,
    )


def _told(row: tuple[str, ...]) -> ToldRequest:
    request, entry, call_id, path, since, until = row
    return ToldRequest(
        request=request,
        entry=int(entry),
        call_id=call_id,
        path=path,
        since=moment(int(since)),
        until=moment(int(until)),
    )


def _pattern(templates: Iterable[str]) -> re.Pattern[str]:
    """Give a pattern of every path that the templates can be filled to."""
    filled = [
        "".join(_NAME if part in {"{tenant}", "{subject}"} else re.escape(part) for part in parts)
        for parts in (re.split(r"(\{tenant\}|\{subject\})", template) for template in sorted(set(templates)))
    ]
    return re.compile("|".join(filled) or r"(?!)")
