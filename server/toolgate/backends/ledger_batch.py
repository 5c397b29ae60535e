"""One transaction in the making: what it adds to the tree, and the statements beside it."""

import sqlite3
from typing import Any, Protocol

from sqlalchemy import bindparam, select, update

from toolgate.backends.ledger_entries import Entry
from toolgate.backends.sql_tables import ENTRY, NODE, PAYLOAD, TIP, Prepared, Rows
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import Frontier, leaf_hash

_TIP = Prepared(select(TIP.c.size, TIP.c.frontier).where(TIP.c.id == 1))
_ENTRIES, _PAYLOADS, _NODES = Rows(ENTRY), Rows(PAYLOAD), Rows(NODE)
_MOVE_TIP = Prepared(
    update(TIP)
    .where(TIP.c.id == 1, TIP.c.size == bindparam("old"))
    .values(size=bindparam("new"), frontier=bindparam("packed"))
)


class Preface(Protocol):
    """Gives what must be said before the first entry of a transaction."""

    def __call__(self, *, empty: bool) -> list[Entry]: ...


class Batch:
    """Entries get their index and their place in the tree at once, and are inserted together at the end.

    Args:
        writer: under whose name entries are added.
        wseq: how many this writer has added before.
        preface: what comes before the first entry of all.
        again: a transaction with the same work failed before, and may have held all the same.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        writer: str,
        wseq: int,
        preface: Preface,
        *,
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
        tip = self.execute(_TIP, {}).fetchone()
        if tip is None:
            raise LedgerUnavailable("the ledger's tip is gone; run: toolgate ledger verify")
        self._begin: int = tip["size"]
        self.tree = Frontier.unpack(tip["size"], tip["frontier"])

    def execute(self, statement: Prepared, parameters: dict[str, Any]) -> sqlite3.Cursor:
        """Run a statement inside the transaction."""
        return self._connection.execute(statement.text, statement.fixed | parameters)

    def find(self, statement: Prepared, parameters: dict[str, Any]) -> sqlite3.Row | None:
        """Give the first row of a query."""
        found: sqlite3.Row | None = self.execute(statement, parameters).fetchone()
        return found

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
        if self.execute(_MOVE_TIP, moved).rowcount != 1:
            raise LedgerUnavailable("the ledger's tip moved under a writer that had its turn")
        self._begin = self.tree.size
        self._entries, self._nodes, self._payloads = [], [], []

    def _add(self, entry: Entry) -> int:
        idx = self.tree.size
        body = entry.body(self._writer, self.wseq)
        leaf = leaf_hash(body)
        self.wseq += 1
        for level, number, node in self.tree.append(leaf):
            self._nodes.append({"level": level, "number": number, "hash": node})
        self._entries.append({"idx": idx, "leaf": leaf, "body": body, **entry.columns})
        self.bytes += len(body) + sum(len(payload["value"] or b"") for payload in entry.payloads)
        self._payloads.extend({"idx": idx, **payload} for payload in entry.payloads)
        return idx
