"""What governs calls, by digest: an entry whenever it changes, to which the calls judged under it point."""

from collections.abc import Mapping
from typing import Any

import orjson

from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.sql_tables import ENTRY, newest
from toolgate.core.ports import Rulebook

_LAST = newest("config", ENTRY.c.body)


class Governing:
    """Records rulebooks, and what governs beside them: settings, adapters, keys."""

    def __init__(self, writer: LedgerWriter, entries: Entries) -> None:
        self._writer, self._entries = writer, entries
        self._beside: dict[str, str] = {}
        self._in_force = ""
        self._known: dict[str, int] = {}

    @property
    def in_force(self) -> int:
        """The entry that says what governs now."""
        return self._known[self._in_force]

    async def take_up(self, book: Rulebook, beside: Mapping[str, str]) -> int:
        """Record what governs from now on, where that has changed; gives the entry that says it.

        Raises:
            LedgerUnavailable: it could not be recorded.
        """
        if (self._beside, self._in_force) != (beside, book.version):
            self._known[book.version] = await self._record(book, beside)
            self._beside, self._in_force = dict(beside), book.version  # only now: else a failure is forgotten
        return self._known[book.version]

    async def entry_of(self, book: Rulebook) -> int:
        """Give the entry of a rulebook: that in force or, for a call that began with it, an older one."""
        known = self._known.get(book.version)
        if known is None:
            known = self._known[book.version] = await self._record(book, self._beside)
        return known

    async def _record(self, book: Rulebook, beside: Mapping[str, str]) -> int:
        digests: dict[str, Any] = {"registry": book.catalog.digest, "policy": book.policy.digest, **beside}

        def work(batch: Batch) -> int:
            batch.flush()
            last = batch.find(_LAST, {})
            if last is not None and orjson.loads(last["body"])["digests"] == digests:
                return int(last["idx"])
            return batch.append(self._entries.bare("config", "in_force", digests=digests))

        return await self._writer.write(work)
