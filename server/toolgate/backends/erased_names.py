"""The pseudonyms that stand for nobody any more, as every writer of the ledger has to know them.

A gate that runs knows its callers' pseudonyms by heart. The tip of the tree says how often some were erased;
whoever begins a transaction reads it anyway, and sees there that it has to learn anew.
"""

from collections.abc import Iterable
from typing import Final

import orjson
from sqlalchemy import select

from toolgate.backends.ledger_entries import Entry, Names
from toolgate.backends.sql_tables import ERASED_NAME, Prepared

KEPT_REASONS: Final = frozenset({"erase", "policy"})
"""Kinds of entries whose reasons stay when the name of who gave them goes."""
READ_NAMES = Prepared(select(ERASED_NAME.c.name))


class ErasedNames:
    """What the last transaction of one writer has seen of them."""

    def __init__(self) -> None:
        self.generation = -1
        """Of how many erasures they are; -1 while nothing was seen."""
        self._names: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def learn(self, generation: int, names: Iterable[str]) -> None:
        """Take all of them, as they are after so many erasures."""
        self._names, self.generation = frozenset(names), generation

    def any_of(self, names: Names) -> bool:
        """Whether somebody that a call names was erased since the names were looked up."""
        if not self._names:
            return False
        return not self._names.isdisjoint((names.who, names.client, names.run, *names.act))

    def own(self, entry: Entry) -> bool:
        """Whether what is kept beside an entry would be of somebody who was erased."""
        if not entry.payloads or entry.columns["kind"] in KEPT_REASONS:
            return False
        return self.named_in(entry.spelled + b"}")

    def named_in(self, body: bytes) -> bool:
        """Whether an entry's body names one of them as who called, acted, or gave a reason."""
        if not self._names:
            return False
        said = orjson.loads(body)
        return not self._names.isdisjoint((said.get("who"), said.get("by"), *said.get("act", ())))
