"""The earlier calls of an orchestrator's run, for rules that ask for them."""

from typing import Final

from sqlalchemy import bindparam, select

from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import moment
from toolgate.backends.sql_tables import ENTRY, Prepared, spelled
from toolgate.core.decision import Past

LONGEST: Final = 10_000
"""Intents of one run that are looked at; of a longer run nobody can tell."""

_OF_RUN = Prepared(
    select(ENTRY.c.call_id, ENTRY.c.tool, ENTRY.c.at)
    .where(ENTRY.c.run == bindparam("run"), ENTRY.c.run != spelled(""))
    .where(ENTRY.c.who == bindparam("who"), ENTRY.c.kind == "intent")
    .order_by(ENTRY.c.idx)
    .limit(LONGEST + 1)
)


def earlier_calls(batch: Batch, run: str, who: str, but: str | None) -> tuple[Past, ...] | None:
    """Give the calls that were begun in a run, oldest first; None when they are too many to look at.

    Args:
        batch: the transaction in which they are looked at.
        run: the run's pseudonym.
        who: the caller's: another caller's calls under the same name are none of this run.
        but: the call that is not counted: the one that is asked again under its key.
    """
    batch.flush()
    rows = batch.execute(_OF_RUN, {"run": run, "who": who}).fetchall()
    if len(rows) > LONGEST:
        return None
    begun: dict[str, Past] = {}
    for row in rows:
        if row["call_id"] != but:
            begun.setdefault(row["call_id"], Past(row["tool"], moment(row["at"])))
    return tuple(begun.values())
