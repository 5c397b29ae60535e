"""The tables of the gate's own database: declared with SQLModel, written through SQLAlchemy Core."""

from typing import Any, ClassVar, cast

from sqlalchemy import DDL, BindParameter, ClauseElement, Index, Table, UniqueConstraint, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

SCHEMA_VERSION = 1
"""Kept in the database as `PRAGMA user_version`; another version is refused, never guessed at."""


class Stored(SQLModel, registry=registry()):
    """The gate's tables and no one else's."""


class EntryRow(Stored, table=True):
    """One ledger entry. Never updated, never deleted: triggers refuse both."""

    __tablename__: ClassVar[Any] = "ledger_entry"
    __table_args__ = (Index("ix_entry_call", "call_id"),)

    idx: int = Field(primary_key=True)
    """Gapless, from 0: the order of the ledger is this, not the clock."""
    kind: str
    call_id: str
    at: int
    """Microseconds since 1970-01-01 UTC."""
    tenant: str
    subject: str
    tool: str
    status: str
    body: bytes
    """The entry itself, canonical JSON; the columns beside it repeat parts of it for queries."""


class ClaimRow(Stored, table=True):
    """What makes a call happen at most once: one row for every key, and for every write or destroy."""

    __tablename__: ClassVar[Any] = "claim"
    __table_args__ = (
        UniqueConstraint("tenant", "issuer", "subject", "tool", "key", name="uq_claim_key"),
        Index("ix_claim_like", "tenant", "issuer", "subject", "tool", "fingerprint", "opened_at"),
    )

    call_id: str = Field(primary_key=True)
    tenant: str
    issuer: str
    subject: str
    tool: str
    key: str | None
    fingerprint: str
    state: str
    attempt: int
    """Which attempt owns the row; an older attempt can no longer settle it."""
    opened_at: int
    lapses_at: int
    intent: int
    end: int | None = None
    outcome: bytes | None = None
    remembered: bytes | None = None


class PayloadRow(Stored, table=True):
    """What an entry commits to by a salted digest, kept beside the ledger so that it can be erased."""

    __tablename__: ClassVar[Any] = "payload"

    idx: int = Field(primary_key=True)
    field: str = Field(primary_key=True)
    salt: bytes
    value: bytes | None
    """The canonical JSON, where the tool's `capture` keeps it."""


class Prepared:
    """A statement of SQLAlchemy Core, spelled once for SQLite's driver.

    Executing through Core costs more than the statement itself on the hot path (docs/decisions/0003).
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        self.text = str(compiled)
        binds: dict[str, BindParameter[Any]] = cast("Any", compiled).binds
        values = {name: bind.value for name, bind in binds.items() if not bind.required}
        self.fixed = {name: value for name, value in values.items() if f":{name}" in self.text}


def _table(row: type[Stored]) -> Table:
    return cast("Table", row.__dict__["__table__"])


ENTRY, CLAIM, PAYLOAD = _table(EntryRow), _table(ClaimRow), _table(PayloadRow)

for _verb in ("UPDATE", "DELETE"):
    event.listen(
        ENTRY,
        "after_create",
        DDL(  # type: ignore[no-untyped-call] # SQLAlchemy left its __init__ untyped
            f"CREATE TRIGGER ledger_entry_no_{_verb.lower()} BEFORE {_verb} ON ledger_entry "
            "BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed'); END"
        ),
    )
