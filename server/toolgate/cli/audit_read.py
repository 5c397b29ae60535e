"""Whoever reads the ledger is recorded in it, before anything is shown."""

import asyncio
from pathlib import Path

from toolgate.backends.ledger_database import demand
from toolgate.cli.local import os_person
from toolgate.core.record import JsonObject
from toolgate.main import open_ledger
from toolgate.parts import ledger_database
from toolgate.settings import Settings


def record_read(root: Path, settings: Settings, query: str, asked: JsonObject) -> int:
    """Record that the local user is about to be shown what `query` finds; gives the entry.

    Raises:
        LedgerUnavailable, Misconfigured: it could not be recorded; then nothing may be shown.
    """
    demand(ledger_database(root, settings))
    return asyncio.run(_record(root, settings, query, asked))


async def _record(root: Path, settings: Settings, query: str, asked: JsonObject) -> int:
    person = os_person()
    async with open_ledger(root, settings) as ledger:
        by = await ledger.pseudonyms.of("subject", person, person.subject)
        entry = ledger.entries.committed("audit_read", "shown", {"asked": asked}, by=by, query=query)
        return await ledger.writer.write(lambda batch: batch.append(entry))
