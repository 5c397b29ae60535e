"""A checkpoint for a proof, where none that is there will do: published now, and cosigned by the quorum."""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from toolgate.backends.cosignatures import note_over
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import Note
from toolgate.core.witness_policy import WitnessPolicy
from toolgate.main import open_ledger
from toolgate.parts import ledger_database
from toolgate.settings import Settings
from toolgate.witnessing import witnesses_of

QUORUM_SECONDS: Final = 15.0
"""How long it waits for witnesses."""


async def published_over(
    root: Path, settings: Settings, entry: int, policy: WitnessPolicy | None
) -> Note | None:
    """Publish a checkpoint that covers `entry`, and let the quorum cosign it, where there is one.

    Raises:
        LedgerUnavailable: it could not be published, or the quorum does not cosign it.
    """
    engine = ledger_database(root, settings).engine()
    async with open_ledger(root, settings) as ledger:
        await ledger.writer.publish()
        if policy is None or policy.is_met(()):
            return note_over(engine, entry, policy)
        witnesses = witnesses_of(root, settings, policy, ledger)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUORUM_SECONDS):
                    await witnesses.until_covered(entry)
        finally:
            await witnesses.aclose()
        note = note_over(engine, entry, policy)
    if note is None:
        why = f"no checkpoint that covers entry {entry} is cosigned by the quorum: {witnesses.lacking()}"
        raise LedgerUnavailable(f"{why}. --unwitnessed proves it all the same")
    return note
