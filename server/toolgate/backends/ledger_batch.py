"""One transaction in the making: what it adds to the tree, and the statements beside it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import bindparam, select, update

from toolgate.backends.erased_names import READ_NAMES, ErasedNames
from toolgate.backends.ledger_entries import Entry
from toolgate.backends.sql_connection import SqlConnection, SqlCursor, SqlRow
from toolgate.backends.sql_tables import ENTRY, NODE, PAYLOAD, TIP, Prepared, Rows
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import Frontier, leaf_hash

_TIP = Prepared(select(TIP.c.size, TIP.c.frontier, TIP.c.erasures).where(TIP.c.id == 1).with_for_update())
"""In PostgreSQL this is the turn: whoever has read the tip keeps all others from it until the end."""
_ENTRIES, _PAYLOADS, _NODES = Rows(ENTRY), Rows(PAYLOAD), Rows(NODE)
_MOVE_TIP = Prepared(
    update(TIP)
    .where(TIP.c.id == 1, TIP.c.size == bindparam("old"))
    .values(size=bindparam("new"), frontier=bindparam("packed"))
)


@dataclass(frozen=True)
class Read:
    """A question that a job will ask, known before its turn; its answer has a column `call_id`.

    To a server, the questions of all jobs of a transaction are put at once: all other gates wait for the turn
    while an answer is on its way.
    """

    statement: Prepared
    values: dict[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        """What is asked."""
        return id(self.statement), *self.values.values()


class Preface(Protocol):
    """Gives what must be said before the first entry of a transaction."""

    def __call__(self, *, empty: bool) -> list[Entry]: ...


class Batch:
    """Entries get their index and their place in the tree at once, and are inserted together at the end.

    Args:
        writer: under whose name entries are added.
        wseq: how many this writer has added before.
        preface: what comes before the first entry of all.
        erased: the pseudonyms that stand for nobody; brought up to date here.
        reads: what the jobs will ask.
        again: a transaction with the same work failed before, and may have held all the same.
    """

    def __init__(  # noqa: PLR0913 - what a transaction begins with
        self,
        connection: SqlConnection,
        writer: str,
        wseq: int,
        preface: Preface,
        erased: ErasedNames,
        *,
        reads: Iterable[Read] = (),
        again: bool = False,
    ) -> None:
        self._connection = connection
        self._writer = writer
        self._preface, self._opened = preface, False
        self.wseq = wseq
        self.again = again
        self.bytes = 0
        """Of the entries and the values kept beside them."""
        self._entries: list[dict[str, Any]] = []
        self._nodes: list[dict[str, Any]] = []
        self._payloads: list[dict[str, Any]] = []
        self.ended: list[int] = []
        """The intents of claims that this transaction ends: other processes may wait for that."""
        self.mark: tuple[int, bytes] | None = None
        """Index and leaf of the first entry: no other transaction can have put that leaf there."""
        self._touched: set[object] = set()
        self._ahead: dict[tuple[Any, ...], SqlCursor] = {}
        asked = self.execute(_TIP, {})
        self.ask(reads)
        tip = asked.fetchone()
        if tip is None:
            raise LedgerUnavailable("the ledger's tip is gone; run: toolgate ledger verify")
        self._begin: int = tip["size"]
        self.tree = Frontier.unpack(tip["size"], tip["frontier"])
        self.erased = erased
        if erased.generation != tip["erasures"]:
            erased.learn(tip["erasures"], (row["name"] for row in self.execute(READ_NAMES, {})))

    @property
    def connection(self) -> SqlConnection:
        """The connection of the transaction."""
        return self._connection

    def ask(self, reads: Iterable[Read]) -> None:
        """Put the questions of jobs to a server, all at once, before the first of them is carried out."""
        if self._connection.dialect == "postgresql":
            self._ahead |= {read.key: read.statement.on(self._connection, read.values) for read in reads}

    def execute(self, statement: Prepared, parameters: dict[str, Any]) -> SqlCursor:
        """Run a statement inside the transaction."""
        return statement.on(self._connection, parameters)

    def find(self, statement: Prepared, parameters: dict[str, Any]) -> SqlRow | None:
        """Give the first row of a query."""
        found: SqlRow | None = self.execute(statement, parameters).fetchone()
        return found

    def answer(self, read: Read) -> SqlRow | None:
        """Give the first row of what was asked ahead; asked anew where this transaction has changed it."""
        asked = self._ahead.pop(read.key, None)
        if asked is not None and self._touched.isdisjoint(read.values.values()):
            row: SqlRow | None = asked.fetchone()
            if row is None or row["call_id"] not in self._touched:
                return row
        return self.find(read.statement, read.values)

    def change(self, statement: Prepared, parameters: dict[str, Any], *touched: object) -> SqlCursor:
        """Carry out a statement after which answers that have to do with what is `touched` are stale."""
        self._touched.update(touched)
        return self.execute(statement, parameters)

    def append(self, entry: Entry) -> int:
        """Add an entry to the tree, and give its index."""
        if not self._opened:
            self._opened = True
            for due in self._preface(empty=self.tree.size == 0):
                self._add(due)
        return self._add(entry)

    def flush(self) -> None:
        """Insert what was appended since the last time, and move the tip; queries see none of it before."""
        if not self._entries:
            return
        _ENTRIES.insert(self._connection, self._entries)
        _PAYLOADS.insert(self._connection, self._payloads)
        _NODES.insert(self._connection, self._nodes)
        moved = {"old": self._begin, "new": self.tree.size, "packed": self.tree.pack()}
        tip = self.execute(_MOVE_TIP, moved)
        # For a server's answer nobody waits: the row is locked, and else an entry's index would be taken.
        if self._connection.dialect == "sqlite" and tip.rowcount != 1:
            raise LedgerUnavailable("the ledger's tip moved under a writer that had its turn")
        self._begin = self.tree.size
        self._entries, self._nodes, self._payloads = [], [], []

    def _add(self, entry: Entry) -> int:
        idx = self.tree.size
        body = entry.body(self._writer, self.wseq)
        leaf = leaf_hash(body)
        self.wseq += 1
        self.mark = self.mark or (idx, leaf)
        for level, number, node in self.tree.append(leaf):
            self._nodes.append({"level": level, "number": number, "hash": node})
        self._entries.append({"idx": idx, "leaf": leaf, "body": body, **entry.columns})
        # What comes after its owner was erased, such as the end of a call that had begun before, is not kept.
        payloads = () if self.erased.own(entry) else entry.payloads
        self.bytes += len(body) + sum(len(payload["value"] or b"") for payload in payloads)
        self._payloads.extend({"idx": idx, **payload} for payload in payloads)
        return idx
