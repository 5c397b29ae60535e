"""When a caller, or a run, was last named: before that is long enough ago, no name is let go."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    func,
    or_,
    select,
)

from toolgate.backends.ledger_batch import Batch
from toolgate.backends.sql_tables import ENTRY, PSEUDONYM, Prepared, spelled


@dataclass(frozen=True, kw_only=True)
class Named:
    """A pseudonym and whom it stands for."""

    name: str
    kind: str
    """`subject` or `run`."""
    tenant: str
    clear: str

    def last_used(self, connection: Connection) -> int | None:
        """Give when it last made, or was named in, a call; None where it never did."""
        used: int | None = connection.execute(_LAST[self.kind], {"name_": self.name}).scalar_one()
        return used


def names_from(connection: Connection, after: str, most: int | None) -> Iterator[Named]:
    """Give the names of callers and runs behind one, in their order."""
    kinds = or_(PSEUDONYM.c.kind == "subject", PSEUDONYM.c.kind == "run")
    wanted = select(PSEUDONYM).where(PSEUDONYM.c.name > after, kinds).order_by(PSEUDONYM.c.name).limit(most)
    for row in connection.execute(wanted).all():
        tenant, _, clear = orjson.loads(row.value)
        yield Named(name=row.name, kind=row.kind, tenant=tenant, clear=clear)


def last_use(batch: Batch, kind: str, name: str) -> int | None:
    """Give the same inside a transaction."""
    batch.flush()
    row = batch.find(_LAST_PREPARED[kind], {"name_": name})
    return None if row is None else row["last"]


def _last(*conditions: ColumnElement[bool]) -> Select[Any]:
    return select(func.max(ENTRY.c.at).label("last")).where(*conditions)


_ASKED = or_(*(ENTRY.c.kind == spelled(kind) for kind in ("intent", "refusal", "repeat")))
_LAST = {
    "subject": _last(ENTRY.c.who == bindparam("name_"), _ASKED),
    "run": _last(ENTRY.c.run == bindparam("name_"), ENTRY.c.run != spelled("")),
}
_LAST_PREPARED = {kind: Prepared(statement) for kind, statement in _LAST.items()}
