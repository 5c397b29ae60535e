"""Reads which credentials may still live, beside the writer and without getting in its way."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.ledger_database import LedgerDatabase, demand
from toolgate.backends.ledger_entries import moment
from toolgate.backends.owners import is_gone
from toolgate.backends.sql_tables import LEASE, PSEUDONYM, VAULT_RUN
from toolgate.core.errors import LedgerUnavailable

LivingState = Literal["out", "ending", "asked", "orphan"]
"""`ending`: it could not be ended yet, and will be; `asked`: a person wants it ended; `orphan`: its gate has
died."""


@dataclass(frozen=True, kw_only=True)
class LivingLease:
    """A lease, or a run's token, that may still live."""

    kind: Literal["lease", "run"]
    id: str
    """The vault's lease id; of a run's token its accessor."""
    accessor: str
    """Of the run's token: its own, or of the one that the lease was made under. It may be empty."""
    call_id: str
    """The call for which it was made first."""
    tool: str
    """Empty for a run's token, which is for all tools."""
    tenant: str
    subject: str
    """The caller, or the pseudonym of one whose name was erased."""
    run: str
    """What the caller named the run; empty where it named none."""
    scope: str
    issued_at: datetime
    ends_at: datetime
    """When it ends by itself."""
    state: LivingState


class LeaseRecords:
    """The rows of leases and run tokens in the ledger's `database`, which is only read.

    `owners` is the folder in which its writers keep their marks of life.
    """

    def __init__(self, database: LedgerDatabase, owners: Path) -> None:
        self._engine, self._owners = demand(database), owners

    def living(self) -> list[LivingLease]:
        """Give what may still live, oldest first: run tokens before what was made under them.

        Raises:
            LedgerUnavailable: the database cannot be read.
        """
        try:
            with self._engine.connect() as connection:
                runs, leases = (
                    connection.execute(select(VAULT_RUN)).all(),
                    connection.execute(select(LEASE)).all(),
                )
                names = _names(connection, {name for row in (*runs, *leases) for name in (row.who, row.run)})
        except SQLAlchemyError as error:
            raise LedgerUnavailable("the ledger cannot be read") from error
        found = [*(self._run(row, names) for row in runs), *(self._lease(row, names) for row in leases)]
        return sorted(found, key=lambda one: one.issued_at)

    def gates(self, *, but: str) -> int:
        """Count the processes that have the ledger open for writing, without the owner `but`."""
        if not self._owners.is_dir():
            return 0
        others = [file.name for file in self._owners.iterdir() if file.name != but]
        return sum(not is_gone(self._owners, name) for name in others)

    def _lease(self, row: Row[Any], names: dict[str, str]) -> LivingLease:
        return LivingLease(
            kind="lease",
            id=row.id,
            accessor=row.accessor,
            call_id=row.call_id,
            tool=row.tool,
            tenant=row.tenant,
            subject=names.get(row.who) or row.who,
            run=names.get(row.run) or row.run,
            scope=row.scope,
            issued_at=moment(row.lent_at),
            ends_at=moment(row.until),
            state=self._state(row),
        )

    def _run(self, row: Row[Any], names: dict[str, str]) -> LivingLease:
        return LivingLease(
            kind="run",
            id=row.accessor,
            accessor=row.accessor,
            call_id=row.call_id,
            tool="",
            tenant=row.tenant,
            subject=names.get(row.who) or row.who,
            run=names.get(row.run) or row.run,
            scope="",
            issued_at=moment(row.opened_at),
            ends_at=moment(row.until),
            state=self._state(row),
        )

    def _state(self, row: Row[Any]) -> LivingState:
        if row.state == "asked":
            return "asked"
        if is_gone(self._owners, row.owner):
            return "orphan"
        return "ending" if row.state == "ending" else "out"


def _names(connection: Connection, pseudonyms: Iterable[str]) -> dict[str, str]:
    """Give what pseudonyms stand for, as far as that is still known."""
    wanted = select(PSEUDONYM.c.name, PSEUDONYM.c.value).where(PSEUDONYM.c.name.in_(set(pseudonyms)))
    return {row.name: json.loads(row.value)[2] for row in connection.execute(wanted)}
