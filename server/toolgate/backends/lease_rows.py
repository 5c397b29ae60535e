"""The rows of leases and of run tokens that may still live, changed inside a transaction of the ledger."""

from typing import Any, Final

import orjson
from sqlalchemy import bindparam, delete, insert, select, update

from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entry
from toolgate.backends.owed import Owed, OwedLease, OwedRun
from toolgate.backends.sql_tables import LEASE, VAULT_RUN, Prepared

_ADD_LEASE = Prepared(insert(LEASE))
_ADD_RUN = Prepared(insert(VAULT_RUN))
_LEASES = Prepared(select(LEASE))
_LEASES_UNDER = Prepared(select(LEASE).where(LEASE.c.accessor == bindparam("id_")))
_RUNS = Prepared(select(VAULT_RUN))
_LEASE_STATE = Prepared(update(LEASE).where(LEASE.c.id == bindparam("id_")).values(state=bindparam("to")))
_RUN_STATE = Prepared(
    update(VAULT_RUN).where(VAULT_RUN.c.accessor == bindparam("id_")).values(state=bindparam("to"))
)
_FORGET_LEASE = Prepared(delete(LEASE).where(LEASE.c.id == bindparam("id_")))
_FORGET_RUN = Prepared(delete(VAULT_RUN).where(VAULT_RUN.c.accessor == bindparam("id_")))

ENDED: Final = frozenset({"given_back", "revoked", "expired", "lapses"})
"""Statuses of entries after which a lease is no more."""


class LeaseRows:
    """Reads and changes the rows. What has ended has none: its story is in the ledger."""

    def add_lease(self, batch: Batch, **columns: Any) -> None:  # noqa: ANN401 - what the columns take
        """Add a lease that is out."""
        batch.execute(_ADD_LEASE, columns | {"state": "out"})

    def add_run(self, batch: Batch, **columns: Any) -> None:  # noqa: ANN401
        """Add a run token that is open."""
        batch.execute(_ADD_RUN, columns | {"state": "open"})

    def leases(self, batch: Batch) -> list[OwedLease]:
        """Give those that may still live."""
        return [OwedLease(**dict(row)) for row in batch.execute(_LEASES, {}).fetchall()]

    def runs(self, batch: Batch) -> list[OwedRun]:
        """Give the run tokens that may still live."""
        return [OwedRun(**dict(row)) for row in batch.execute(_RUNS, {}).fetchall()]

    def asked(self, batch: Batch, owed: Owed) -> None:
        """Note that a person wants it ended, by whichever gate comes to it."""
        statement, id_ = (
            (_LEASE_STATE, owed.id) if isinstance(owed, OwedLease) else (_RUN_STATE, owed.accessor)
        )
        batch.execute(statement, {"id_": id_, "to": "asked"})

    def under(self, batch: Batch, accessor: str) -> list[OwedLease]:
        """Give the leases that may still live under a run's token."""
        found = batch.execute(_LEASES_UNDER, {"id_": accessor}).fetchall()
        return [OwedLease(**dict(row)) for row in found]

    def ended(self, batch: Batch, owed: Owed) -> bool:
        """Forget what is no more; gives whether it was still there."""
        if isinstance(owed, OwedLease):
            return batch.execute(_FORGET_LEASE, {"id_": owed.id}).rowcount == 1
        return batch.execute(_FORGET_RUN, {"id_": owed.accessor}).rowcount == 1

    def note_end(self, batch: Batch, entry: Entry) -> bool:
        """Follow an entry that says what became of a lease with its call.

        Gives False where that has been said already: somebody else ended it while the call ran.
        """
        body = orjson.loads(entry.spelled + b"}")
        status = body["status"]
        if "issued" not in body or body["made"] != "dynamic" or status == "kept":
            return True
        asked = {"id_": body["lease"]}
        if status in ENDED:
            return batch.execute(_FORGET_LEASE, asked).rowcount == 1
        return batch.execute(_LEASE_STATE, asked | {"to": "ending"}).rowcount == 1
