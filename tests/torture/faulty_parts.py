"""Parts of a real ledger that come by the points of trouble: nothing else about them is different."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psycopg

from tests.torture.points import Points
from toolgate.backends.ledger_batch import Read
from toolgate.backends.ledger_writer import LedgerWriter, Work
from toolgate.backends.log_key import LogKey
from toolgate.backends.postgres_connection import PostgresConnection
from toolgate.backends.postgres_wire import Answer as WireAnswer
from toolgate.backends.spill import Spill, Spilled
from toolgate.backends.sql_connection import Dialect
from toolgate.backends.sql_ledger import SqlLedger
from toolgate.backends.sql_tables import ENTRY
from toolgate.core.call import Call
from toolgate.core.claims import Closed, InDoubt, Opened, RunMovedOn
from toolgate.core.decision import Decision, Past
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.lease import Lent
from toolgate.core.note import Checkpoint, Note
from toolgate.core.outcome import Answer, Outcome, Refused
from toolgate.core.ports import Rulebook
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

T = TypeVar("T")


def put(owner: object, name: str, part: object) -> None:
    """Put a part in the place of the one that is there."""
    if not hasattr(owner, name):
        raise TypeError(f"{type(owner).__name__} has no {name}: the harness must follow")
    setattr(owner, name, part)


def part_of(owner: object, name: str) -> Any:  # noqa: ANN401 - whatever is there
    """Give a part that is nobody else's business."""
    return getattr(owner, name)


@dataclass(eq=False)
class Transaction:
    """What a writer has said since it began a transaction, as far as trouble is made of it."""

    points: Points
    fault: type[Exception]
    """What is raised at a point where something is to be raised."""
    _kinds: set[str] = field(default_factory=set[str])

    def hear(self, statement: str, values: Mapping[str, Any] | Sequence[Any]) -> None:
        """Look at a statement that is about to be carried out."""
        match statement.split():
            case ["BEGIN", *_]:
                self._kinds = set()
            case ["INSERT", "INTO", "ledger_entry", *_] if not isinstance(values, Mapping):
                names = [column.name for column in ENTRY.columns]
                self._kinds.update(values[names.index("kind") :: len(names)])
            case ["INSERT", "INTO", "ledger_checkpoint", *_]:
                self.points.meet("after the checkpoint's file", self.fault)
            case _:
                pass

    def before_commit(self) -> None:
        """Come by the points before a commit."""
        if "intent" in self._kinds:
            self.points.meet("before the intent's commit", self.fault)
        if self._kinds & _ENDS:
            self.points.meet("before the end's commit", self.fault)

    def after_commit(self) -> None:
        """Come by the points after it, when it is durable."""
        if "intent" in self._kinds:
            self.points.meet("after the intent's commit", self.fault)
        if self._kinds & _ENDS:
            self.points.meet("after the end's commit", self.fault)


_ENDS = frozenset({"outcome", "late_outcome"})


class FaultyConnection:
    """A writer's connection to an SQLite file, as far as a writer uses one."""

    dialect: Dialect = "sqlite"

    def __init__(self, inner: sqlite3.Connection, points: Points) -> None:
        self._inner = inner
        self._transaction = Transaction(points, sqlite3.OperationalError)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._inner.in_transaction

    def execute(self, statement: str, values: Mapping[str, Any] | Sequence[Any] = (), /) -> sqlite3.Cursor:
        """Run a statement; commits and published checkpoints are points of trouble."""
        self._transaction.hear(statement, values)
        if statement != "COMMIT":
            return self._inner.execute(statement, values)
        self._transaction.before_commit()
        committed = self._inner.execute(statement)
        self._transaction.after_commit()
        return committed

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()


class FaultyPostgres(PostgresConnection):
    """A connection to a server, on a line that breaks: what is raised is raised because it broke.

    After a commit that makes a commit of which nobody hears whether it holds.
    """

    _transaction: Transaction

    @classmethod
    def opening(cls, points: Points, opened: "partial[PostgresConnection]") -> Callable[[], "FaultyPostgres"]:
        """Give what opens such connections in the place of `opened`."""

        def open_() -> FaultyPostgres:
            made = cls(*opened.args, **opened.keywords)
            made._transaction = Transaction(points, LineBroke)
            return made

        return open_

    def execute(self, statement: str, values: Mapping[str, Any] | Sequence[Any] = (), /) -> WireAnswer:
        """Run a statement; commits and published checkpoints are points of trouble."""
        try:
            self._transaction.hear(statement, values)
            if statement != "COMMIT":
                return super().execute(statement, values)
            self._transaction.before_commit()
            committed = super().execute(statement, values)
            self.sync()
            self._transaction.after_commit()
        except LineBroke:
            self.close()
            raise
        return committed


class LineBroke(psycopg.OperationalError):
    """The connection broke."""


class FaultyKey(LogKey):
    """A key that comes by a point before it signs a checkpoint, which is before the file is written."""

    points: Points | None = None

    def note(self, checkpoint: Checkpoint, *others: LogKey) -> Note:
        """Sign a checkpoint."""
        if self.points is not None:
            self.points.meet("before the checkpoint's file")
        return super().note(checkpoint, *others)


class FaultySpill(Spill):
    """A spill folder on a disk with troubles."""

    points: Points | None = None

    def keep(self, spilled: Spilled) -> None:
        """Make an end durable outside the database."""
        if self.points is not None:
            self.points.meet("before spilling")
        super().keep(spilled)
        if self.points is not None:
            self.points.meet("after spilling")

    def forget(self, spilled: Spilled) -> None:
        """Remove what the database has taken."""
        if self.points is not None:
            self.points.meet("before forgetting what was spilled")
        super().forget(spilled)


@dataclass
class WriterOfEnds:
    """The writer as the ends of calls find it, with a point before each try to record one."""

    inner: LedgerWriter
    points: Points

    async def write(self, work: Work[T], *reads: Read) -> T:
        self.points.meet("before the end", LedgerUnavailable)
        return await self.inner.write(work, *reads)


@dataclass
class FaultyLedger:
    """The real ledger, with a point at its door."""

    inner: SqlLedger
    points: Points

    async def open(
        self, call: Call, tool: Tool, decision: Decision, book: Rulebook, *, last_word: bool = False
    ) -> Opened | Answer | InDoubt | RunMovedOn:
        self.points.meet("before the intent", LedgerUnavailable)
        return await self.inner.open(call, tool, decision, book, last_word=last_word)

    def may_act(self, opened: Opened) -> bool:
        return self.inner.may_act(opened)

    async def run_of(self, call: Call, tool: Tool) -> tuple[Past, ...] | None:
        return await self.inner.run_of(call, tool)

    async def remember(self, opened: Opened, value: JsonObject) -> None:
        await self.inner.remember(opened, value)

    async def close(
        self, call: Call, tool: Tool, opened: Opened, outcome: Outcome, lent: Sequence[Lent] = ()
    ) -> Closed:
        return await self.inner.close(call, tool, opened, outcome, lent)

    async def refuse(
        self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None, book: Rulebook
    ) -> int:
        return await self.inner.refuse(call, tool, refused, decision, book)
