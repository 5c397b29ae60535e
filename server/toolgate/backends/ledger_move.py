"""Moves a ledger out of its SQLite file into PostgreSQL: the same entries, tree and checkpoints, or nothing.

All rows go over in one transaction of PostgreSQL. The file is out of service from just before that is
committed: so there is no moment at which gates could write to both, wherever the process or the server dies.
Who runs the move again finds one of three: nothing went over, and it begins anew; all went over, and the file
is put out of service for good; or that was done already.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import SecretStr
from sqlalchemy import Table, insert

from toolgate.backends.checkpoints import Checkpoints, holds, newest_holds
from toolgate.backends.owners import owners_needed
from toolgate.backends.postgres_connection import PostgresConnection, PostgresError, place, shown, told
from toolgate.backends.postgres_schema import (
    demand_durability,
    demand_schema,
    indexed_later,
    make,
    revision_of,
    sql_types,
)
from toolgate.backends.sql_connection import SqlConnection, SqliteConnection
from toolgate.backends.sql_tables import ENTRY, GATE, SHARED_KEY, TIP, Prepared, Stored
from toolgate.backends.sqlite_alone import alone_with, is_known_to_be_gone
from toolgate.backends.sqlite_files import MOVED, MOVING, SCHEMA, foreign
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import Frontier
from toolgate.verifier import Tree

Progress: TypeAlias = Callable[[int, int | None], None]
"""Hears how many rows have gone over and how many there are; of what comes then, that it goes on."""

_BLOCK: Final = 1 << 16
_ROWS: Final = 1000
_IDX, _LEAF, _BODY = (list(ENTRY.columns.keys()).index(name) for name in ("idx", "leaf", "body"))
_TIP: Final = "SELECT size, frontier, erasures FROM ledger_tip WHERE id = 1"
_BLOCK_SQL: Final = r"""
    SELECT count(*) AS rows, bool_and(leaf = hashed) AS sound, sha256(string_agg(leaf, '')) AS leaves FROM (
        SELECT leaf, sha256('\x00'::bytea || body) AS hashed FROM ledger_entry
        WHERE idx >= %s AND idx < %s ORDER BY idx
    ) AS block
"""
_NODES: Final = "SELECT level, number, hash FROM ledger_node"
_DAMAGED: Final = "run toolgate ledger verify, and restore the file first"
_ADD_GATE: Final = Prepared(insert(GATE))
_AS_THEY_ARE: Final = [
    table for table in Stored.metadata.sorted_tables if table not in {GATE, SHARED_KEY, TIP}
]
"""The tables of which every row goes over; gates fill the others, and the tip is one row."""


def move(path: Path, url: SecretStr, checkpoints: Checkpoints, progress: Progress) -> int:
    """Move the ledger in the file `path` to the database at `url`; gives how many entries it has.

    Args:
        path: the SQLite file; no other process may have it open for writing.
        url: where to, as the role that owns the tables or may make them.
        checkpoints: of the log; what was published must be there before anything is final.
        progress: hears how far it is.

    Raises:
        LedgerUnavailable: it was not moved; the message says why, and what to do.
    """
    with alone_with(path) as source:
        _demand_movable(path, source, url)
        moving = _Move(path, source, checkpoints, progress)
        try:
            with closing(PostgresConnection(url.get_secret_value(), seconds=10, purpose="migrate")) as target:
                demand_durability(target)
                target.take_your_time()
                return moving.to(target, place(url.get_secret_value()))
        except PostgresError as error:
            raise LedgerUnavailable(f"{shown(url.get_secret_value())}: {told(error)}") from error


def has_begun(path: Path) -> bool:
    """Whether an earlier move of the file came to its end, or nearly: then nothing more is recorded in it."""
    with alone_with(path) as source:
        return _revision(source).startswith((MOVING, MOVED))


def _demand_movable(path: Path, source: SqliteConnection, url: SecretStr) -> None:
    revision, target = _revision(source), place(url.get_secret_value())
    if revision in {SCHEMA, MOVING + target, MOVED + target}:
        return
    if revision.startswith((MOVING, MOVED)):
        raise LedgerUnavailable(f"{path.name} was {revision}; it can go nowhere else (--to)")
    raise LedgerUnavailable(foreign(path.name, revision) or f"{path.name} has schema {revision!r}")


def _revision(source: SqliteConnection) -> str:
    return str(source.execute("SELECT version_num FROM alembic_version").fetchone()[0])


class _Move:
    """One try."""

    def __init__(
        self, path: Path, source: SqliteConnection, checkpoints: Checkpoints, progress: Progress
    ) -> None:
        self._path, self._source = path, source
        self._checkpoints, self._progress = checkpoints, progress
        size, frontier, self._erasures = source.execute(_TIP).fetchone()
        self._tree = Frontier.unpack(size, frontier)
        self._done, self._all = 0, 0
        self._made, self._nodes = Tree(), dict[tuple[int, int], bytes]()
        self._blocks: list[tuple[int, bytes]] = []

    def to(self, target: PostgresConnection, where: str) -> int:
        """Go over, wholly or not at all."""
        target.execute("BEGIN")
        if self._is_there(target):
            target.execute("ROLLBACK")
        else:
            self._fill(target)
            self._compare(target)
            self._commit(target, where)
        self._mark(MOVED + where)
        self._source.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return self._tree.size

    def _is_there(self, target: PostgresConnection) -> bool:
        """Take the writers' turn in the target, and say whether the ledger is there already.

        Raises:
            LedgerUnavailable: another ledger is.
        """
        if revision_of(target) is None:
            make(target)
        demand_schema(target, may_make=False)
        target.execute(f"{_TIP} FOR UPDATE").fetchone()
        if self._tree.size and holds(target, self._tree):
            return True
        keys = target.execute("SELECT verifier FROM shared_key").fetchall()
        logs = {row["verifier"].partition("+")[0] for row in keys} - {self._checkpoints.origin}
        if logs or any(_count(target, table) for table in _AS_THEY_ARE):
            raise LedgerUnavailable("the database holds another ledger already; name an empty one")
        return False

    def _fill(self, target: PostgresConnection) -> None:
        self._all = sum(_count(self._source, table) for table in _AS_THEY_ARE)
        with indexed_later(target):
            for table in _AS_THEY_ARE:
                names = ", ".join(f'"{column.name}"' for column in table.columns)
                rows = self._rows(f"SELECT {names} FROM {table.name}")  # noqa: S608 - of names
                copy = f"COPY {table.name} ({names}) FROM STDIN (FORMAT binary)"
                try:
                    target.copy_in(copy, self._entries(rows) if table is ENTRY else rows, sql_types(table))
                except (TypeError, ValueError, OverflowError, AttributeError) as error:
                    raise LedgerUnavailable(
                        f"{self._path.name}: a value in {table.name} is of a wrong type; {_DAMAGED}"
                    ) from error
            self._remember_the_gone(target)
            moved = (self._tree.size, self._tree.pack(), self._erasures)
            target.execute(
                "UPDATE ledger_tip SET size = %s, frontier = %s, erasures = %s WHERE id = 1", moved
            )
            self._progress(self._all, None)

    def _rows(self, statement: str) -> Iterator[tuple[Any, ...]]:
        cursor = self._source.cursor()
        cursor.row_factory = None
        cursor.execute(statement)
        while rows := cursor.fetchmany(_ROWS):
            yield from rows
            self._done += len(rows)
            self._progress(self._done, self._all)

    def _entries(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Give the entries on, and make their tree anew meanwhile."""
        leaves: list[bytes] = []
        for due, row in enumerate(rows):
            leaf = row[_LEAF]
            if row[_IDX] != due or sha256(b"\0" + row[_BODY]).digest() != leaf:
                raise LedgerUnavailable(f"entry {due} of {self._path.name} is not sound; {_DAMAGED}")
            leaves.append(leaf)
            if len(leaves) == _BLOCK:
                self._grow(leaves)
                leaves = []
            yield row
        self._grow(leaves)

    def _grow(self, leaves: list[bytes]) -> None:
        if leaves:
            self._blocks.append((len(leaves), sha256(b"".join(leaves)).digest()))
            self._nodes.update({(level, number): node for level, number, node in self._made.add(leaves)})

    def _remember_the_gone(self, target: PostgresConnection) -> None:
        """Say in the target which processes have ended: calls and leases there still name them as owners.

        Of one whose file in the folder of writers is missing, nobody can tell; nor can anybody there.
        """
        row = dict.fromkeys((column.name for column in GATE.columns), "") | {"name": self._path.name}
        for owner in sorted(owners_needed(self._source)):
            if is_known_to_be_gone(self._path, owner):
                _ADD_GATE.on(target, row | {"owner": owner, "started_at": 0, "seen_at": 0})

    def _compare(self, target: PostgresConnection) -> None:
        """See that the target holds what was read, that this is the ledger's tree, and what was published."""
        self._compare_entries(target)
        nodes = {(row["level"], row["number"]): row["hash"] for row in target.execute(_NODES).fetchall()}
        tip = target.execute(_TIP).fetchone()
        size = self._tree.size
        made = (self._made.size, b"".join(self._made.frontier(self._made.size)))
        if tip is None or (tip["size"], tip["frontier"]) != made or nodes != self._nodes:
            raise LedgerUnavailable(f"the tree of {self._path.name} is not that of its entries; {_DAMAGED}")
        if not newest_holds(target) or self._checkpoints.loss(target) is not None:
            raise LedgerUnavailable(
                f"the {size} entries of {self._path.name} are not those that were published; {_DAMAGED}"
            )
        for table in _AS_THEY_ARE:
            if _count(target, table) != _count(self._source, table):
                raise LedgerUnavailable(f"not all rows of {table.name} went over; try again")

    def _compare_entries(self, target: PostgresConnection) -> None:
        target.execute("SET LOCAL enable_seqscan = off")  # nothing has counted the rows yet
        for number, block in enumerate(self._blocks):
            asked = (number * _BLOCK, (number + 1) * _BLOCK)
            row = target.execute(_BLOCK_SQL, asked).fetchone()
            if row is None or not row["sound"] or (row["rows"], row["leaves"]) != block:
                raise LedgerUnavailable(f"not all entries from {asked[0]} on went over; try again")
            self._progress(self._all, None)
        target.execute("SET LOCAL enable_seqscan = on")

    def _commit(self, target: PostgresConnection, where: str) -> None:
        """Let the target have it: the file is out of service before anybody can know that it holds."""
        self._mark(MOVING + where)
        try:
            target.execute("COMMIT")
        except PostgresError as error:
            if not target.is_lost:
                self._mark(SCHEMA)
                raise
            raise LedgerUnavailable(
                f"the connection broke ({told(error)}) when all had gone over: whether that holds is not "
                f"known yet, and {self._path.name} is out of service until then; run this again"
            ) from error

    def _mark(self, revision: str) -> None:
        self._source.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def _count(connection: SqlConnection, table: Table) -> int:
    row = connection.execute(f"SELECT count(*) AS rows FROM {table.name}").fetchone()  # noqa: S608 - a name
    return int(row["rows"])
