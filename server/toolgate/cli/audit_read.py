"""Whoever reads the ledger is recorded in it, before anything is shown."""

import asyncio
import os
import pwd
from pathlib import Path
from typing import Final

from toolgate.core.call import Caller
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.record import JsonObject
from toolgate.main import open_ledger
from toolgate.settings import Settings

OS_ISSUER: Final = "urn:toolgate:os"
"""The issuer of people whom the operating system names."""


def record_read(root: Path, settings: Settings, query: str, asked: JsonObject) -> int:
    """Record that the local user is about to be shown what `query` finds; gives the entry.

    Raises:
        LedgerUnavailable, Misconfigured: it could not be recorded; then nothing may be shown.
    """
    if not (root / settings.database).is_file():
        raise LedgerUnavailable(f"there is no ledger at {root / settings.database}; nothing was called yet")
    return asyncio.run(_record(root, settings, query, asked))


async def _record(root: Path, settings: Settings, query: str, asked: JsonObject) -> int:
    name = _os_user()
    person = Caller(subject=name, issuer=OS_ISSUER, tenant="")
    async with open_ledger(root, settings) as ledger:
        by = await ledger.pseudonyms.of("subject", person, name)
        entry = ledger.entries.committed("audit_read", "shown", {"asked": asked}, by=by, query=query)
        return await ledger.writer.write(lambda batch: batch.append(entry))


def _os_user() -> str:
    """Name the user whom the system knows, not the one that the environment claims."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
