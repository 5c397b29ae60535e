"""Parts of a real ledger that come by the points of trouble: nothing else about them is different."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.torture.points import Points
from toolgate.backends.log_key import LogKey
from toolgate.backends.spill import Spill, Spilled
from toolgate.backends.sql_ledger import SqlLedger
from toolgate.backends.sqlite_writer import SqliteWriter, Work
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


class FaultyConnection:
    """A writer's connection to the database, as far as a writer uses one."""

    def __init__(self, inner: sqlite3.Connection, points: Points) -> None:
        self._inner, self._points = inner, points
        self._kinds: set[str] = set()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._inner.in_transaction

    def execute(self, statement: str, parameters: Mapping[str, Any] | tuple[()] = ()) -> sqlite3.Cursor:
        """Run a statement; commits and published checkpoints are points of trouble."""
        match statement.split():
            case ["BEGIN", *_]:
                self._kinds = set()
            case ["COMMIT"]:
                return self._commit()
            case ["INSERT", *words] if "ledger_checkpoint" in words:
                self._points.meet("after the checkpoint's file", sqlite3.OperationalError)
            case _:
                pass
        return self._inner.execute(statement, parameters)

    def executemany(self, statement: str, rows: Iterable[Mapping[str, Any]]) -> sqlite3.Cursor:
        """Run a statement for each row, and remember which kinds of entries they were."""
        listed = list(rows)
        self._kinds.update(row["kind"] for row in listed if "kind" in row)
        return self._inner.executemany(statement, listed)

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def _commit(self) -> sqlite3.Cursor:
        ends = self._kinds & {"outcome", "late_outcome"}
        if "intent" in self._kinds:
            self._points.meet("before the intent's commit", sqlite3.OperationalError)
        if ends:
            self._points.meet("before the end's commit", sqlite3.OperationalError)
        committed = self._inner.execute("COMMIT")
        if "intent" in self._kinds:
            self._points.meet("after the intent's commit", sqlite3.OperationalError)
        if ends:
            self._points.meet("after the end's commit", sqlite3.OperationalError)
        return committed


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

    inner: SqliteWriter
    points: Points

    async def write(self, work: Work[T]) -> T:
        self.points.meet("before the end", LedgerUnavailable)
        return await self.inner.write(work)


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
