"""The tables of the gate's own database: declared with SQLModel, written through SQLAlchemy Core."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, cast

from sqlalchemy import (
    CTE,
    BindParameter,
    ClauseElement,
    ColumnElement,
    Index,
    String,
    Table,
    desc,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from toolgate.backends.sql_connection import Dialect, SqlConnection, SqlCursor

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

# SQLite uses a partial index where it sees that a query's condition implies the index's: `kind = 'config'`
# implies a chain of ORs that has it, but not an `IN` or a `NOT IN`.
ASKED: Final = "kind = 'intent' OR kind = 'refusal' OR kind = 'repeat'"
ENDED: Final = "kind = 'outcome' OR kind = 'unknown'"
RARE: Final = (
    "kind = 'genesis' OR kind = 'writer_start' OR kind = 'writer_stop' OR kind = 'config' "
    "OR kind = 'refusal' OR kind = 'repeat' OR kind = 'unknown' OR kind = 'late_outcome' "
    "OR kind = 'reconcile' OR kind = 'resolve' OR kind = 'auth_failure' OR kind = 'audit_read' "
    "OR kind = 'key_rotate' OR kind = 'fault' OR kind = 'policy'"
)


class Stored(SQLModel, registry=registry()):
    """The gate's tables and no one else's."""


class EntryRow(Stored, table=True):
    """One ledger entry: a leaf of the tree. Never updated, never deleted: triggers refuse both."""

    __tablename__: ClassVar[Any] = "ledger_entry"
    __table_args__ = (
        Index("ix_entry_call", "call_id"),
        Index("ix_entry_tool", "tool", "at", sqlite_where=text(ASKED)),
        Index("ix_entry_who", "who", "at", sqlite_where=text(ASKED)),
        Index("ix_entry_time", "at", sqlite_where=text(ASKED)),
        Index("ix_entry_run", "run", sqlite_where=text("run <> ''")),
        Index("ix_entry_end", "refers", "at", "status", sqlite_where=text(ENDED)),
        Index("ix_entry_undone", "at", sqlite_where=text("kind = 'outcome' AND status <> 'done'")),
        Index("ix_entry_rare", "kind", "at", sqlite_where=text(RARE)),
    )

    idx: int = Field(primary_key=True)
    """Gapless, from 0: the order of the ledger is this, not the clock."""
    leaf: bytes
    """The leaf hash of `body` (RFC 9162, section 2.1.1)."""
    kind: str
    call_id: str
    at: int
    """Microseconds since 1970-01-01 UTC."""
    tenant: str
    who: str
    """The caller's pseudonym."""
    tool: str
    status: str
    run: str
    """The run's pseudonym, where an orchestrator names one."""
    refers: int | None
    """The entry that this one is about: an outcome's intent, a replay's first answer."""
    body: bytes
    """The entry itself, canonical JSON; the columns beside it repeat parts of it for queries."""


class NodeRow(Stored, table=True):
    """The root of a complete subtree of 256, 65,536 ... entries, so that a proof need not read them all."""

    __tablename__: ClassVar[Any] = "ledger_node"
    __table_args__ = ({"sqlite_with_rowid": False},)

    level: int = Field(primary_key=True)
    number: int = Field(primary_key=True)
    hash: bytes


class TipRow(Stored, table=True):
    """The end of the tree: how many entries there are, and the frontier to which the next is added."""

    __tablename__: ClassVar[Any] = "ledger_tip"

    id: int = Field(primary_key=True)
    size: int
    frontier: bytes
    erasures: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """How often pseudonyms were made to stand for nobody: a writer that has seen fewer reads them again."""


class CheckpointRow(Stored, table=True):
    """A signed checkpoint, as it was published."""

    __tablename__: ClassVar[Any] = "ledger_checkpoint"

    size: int = Field(primary_key=True)
    at: int
    note: str


class CosignatureRow(Stored, table=True):
    """What a witness said of a checkpoint: a line to be added to its note."""

    __tablename__: ClassVar[Any] = "ledger_cosignature"
    __table_args__ = (Index("ix_cosignature_witness", "witness", "size"),)

    size: int = Field(primary_key=True)
    """Of the checkpoint."""
    witness: str = Field(primary_key=True)
    """The witness's verifier key."""
    at: int
    """Seconds after 1970-01-01 UTC, by the witness's clock."""
    line: str


class PayloadRow(Stored, table=True):
    """What an entry commits to by a salted digest, kept beside the ledger so that it can be erased."""

    __tablename__: ClassVar[Any] = "payload"
    __table_args__ = ({"sqlite_with_rowid": False},)

    idx: int = Field(primary_key=True)
    field: str = Field(primary_key=True)
    salt: bytes
    value: bytes | None
    """The canonical JSON, where the tool's `capture` keeps it."""


class PseudonymRow(Stored, table=True):
    """Whom a pseudonym in an entry stands for. Random, so that erasing the row makes it stand for nobody."""

    __tablename__: ClassVar[Any] = "pseudonym"
    __table_args__ = (Index("uq_pseudonym_value", "kind", "value", unique=True),)

    name: str = Field(primary_key=True)
    kind: str
    """`subject`, `client` or `run`."""
    value: bytes
    """Canonical JSON: [tenant, issuer, subject], [tenant, issuer, client] or [tenant, issuer, run]."""


class ErasedNameRow(Stored, table=True):
    """A pseudonym that stands for nobody any more, and which entry says why."""

    __tablename__: ClassVar[Any] = "erased_name"
    __table_args__ = (Index("ix_erased_entry", "entry"),)

    name: str = Field(primary_key=True)
    entry: int
    kind: str
    """`subject`, `client` or `run`, as it was."""


class ErasureRow(Stored, table=True):
    """How far what was kept of one person has been removed."""

    __tablename__: ClassVar[Any] = "erasure"

    entry: int = Field(primary_key=True)
    """The entry that says that it was begun; nothing before it remains to be looked at from `position` on."""
    done: int | None = None
    """The entry that says that it was finished."""
    position: int = 0
    values_removed: int = 0
    """How many values, with their salts, were removed so far."""
    answers: int = 0
    """How many claims were emptied so far."""
    waiting: int = 0
    """How many claims were in doubt, and are emptied when they are settled."""
    worked_at: int = 0
    """When somebody last worked at it."""


class RetentionRunRow(Stored, table=True):
    """Which entries a step of retention looked at, by the entry that tells of it."""

    __tablename__: ClassVar[Any] = "retention_run"
    __table_args__ = (Index("ix_retention_first", "first"),)

    entry: int = Field(primary_key=True)
    first: int
    last: int


class RetentionMarkRow(Stored, table=True):
    """How far a rule of retention was applied."""

    __tablename__: ClassVar[Any] = "retention_mark"

    rule: str = Field(primary_key=True)
    """A digest of the rules; of others nothing is known."""
    position: int
    """The first entry that was not looked at yet, or not over yet."""
    name: str = ""
    """The pseudonym that was looked at last."""


class ClaimRow(Stored, table=True):
    """What makes a call happen at most once: one row for every key, and for every write or destroy."""

    __tablename__: ClassVar[Any] = "claim"
    __table_args__ = (
        Index("uq_claim_key", "key", unique=True, sqlite_where=text("key IS NOT NULL")),
        Index("ix_claim_alike", "alike", "opened_at"),
        Index("ix_claim_kept", "expires_at", sqlite_where=text("outcome IS NOT NULL")),
        Index(
            "ix_claim_open",
            "state",
            "until",
            sqlite_where=text("state = 'in_progress' OR state = 'unknown'"),
        ),
    )

    call_id: str = Field(primary_key=True)
    key: bytes | None
    """SHA-256 over tenant, issuer, subject, tool and idempotency key; null for a call without one."""
    alike: bytes
    """SHA-256 over tenant, issuer, subject, tool and fingerprint: equal for two calls that look repeated."""
    fingerprint: bytes
    """SHA-256 over what is asked; another fingerprint under the same key is a conflict."""
    tool: str
    state: str
    attempt: int
    """Which attempt owns the row; an older one can no longer settle it."""
    owner: str
    """The process that runs the attempt."""
    ended: int
    """1 when the owner has recorded the attempt's end, and so sends nothing any more."""
    opened_at: int
    until: int
    """In progress: when an owner that has not come back is taken for lost. Unknown: from when on nothing that
    was sent can still be on its way."""
    expires_at: int
    """When the answer is forgotten; the key stays, and is refused from then on."""
    asked_at: int = 0
    """When the system was last asked what became of it."""
    intent: int
    end: int | None = None
    """The entry that records the state's beginning, where it is not the intent."""
    outcome: bytes | None = None
    request: bytes | None = None
    """Who asked for what, canonical JSON: to find out what became of it. Removed when that is known."""
    remembered: bytes | None = None


class PolicyVersionRow(Stored, table=True):
    """A version of the policy that was activated once. Never updated, never deleted."""

    __tablename__: ClassVar[Any] = "policy_version"

    digest: str = Field(primary_key=True)
    """SHA-256 over names and texts of all files, hexadecimal."""
    files: bytes
    """Canonical JSON: each file's text by its name under `policies/`."""
    at: int
    """When it was stored, in microseconds since 1970-01-01 UTC."""


class PolicyActivationRow(Stored, table=True):
    """That a version was put in force, or beside the one in force. Never updated, never deleted."""

    __tablename__: ClassVar[Any] = "policy_activation"

    entry: int = Field(primary_key=True)
    """The ledger's entry that says so: the order of activations is this."""
    digest: str
    mode: str
    """`enforced`, `shadow` or `shadow_ended`."""
    previous: str
    """The version that had the place before; an empty text for none."""


class VaultRunRow(Stored, table=True):
    """A token of a vault under which leases of one run are made, for as long as it may live."""

    __tablename__: ClassVar[Any] = "vault_run"

    accessor: str = Field(primary_key=True)
    """By which it is ended, with all that was made under it; of no other use to anybody."""
    intent: int
    """Of the call for which it was made."""
    call_id: str
    tool: str
    tenant: str
    who: str
    run: str
    opened_at: int
    until: int
    """When it ends by itself, in microseconds since 1970-01-01 UTC."""
    owner: str
    """The process that holds it."""
    state: str
    """`open`; or `asked`: a person wants it ended."""


class LeaseRow(Stored, table=True):
    """A credential that was made for a call or a run, for as long as it may live."""

    __tablename__: ClassVar[Any] = "lease"
    __table_args__ = (Index("ix_lease_accessor", "accessor"),)

    id: str = Field(primary_key=True)
    accessor: str
    """Of the run's token under which it was made; an empty text where there is none."""
    intent: int
    """Of the call for which it was made."""
    call_id: str
    tool: str
    tenant: str
    who: str
    run: str
    role: str
    source: str
    kind: str
    scope: str
    issued: int
    """The entry that says so."""
    lent_at: int
    until: int
    owner: str
    state: str
    """`out`; `ending`: it could not be given back yet; or `asked`: a person wants it ended."""


_POSTGRESQL: Final = cast("Any", postgresql.base.PGDialect)(paramstyle="pyformat")


class GateRow(Stored, table=True):
    """A gate that writes to this ledger, and what it runs."""

    __tablename__: ClassVar[Any] = "gate"

    owner: str = Field(primary_key=True)
    """The process, as claims name it."""
    name: str
    """Where it runs: host and process."""
    program: str
    """The version of this program."""
    address: str
    """What it listens on; an empty text where it is none that serves."""
    started_at: int
    seen_at: int
    """When it last said that it is alive, by the clock of a server's database; 0 once it has left."""
    policy: str = ""
    catalog: str = ""
    settings: str = ""
    shadow: str = ""
    """Digests of what governs calls there; empty where nothing does."""


class SharedKeyRow(Stored, table=True):
    """The log's key, sealed: a gate that is set up anew opens it with the passphrase that all gates have."""

    __tablename__: ClassVar[Any] = "shared_key"

    verifier: str = Field(primary_key=True)
    """Its public half."""
    at: int
    sealed: bytes


class Prepared:
    """A statement of SQLAlchemy Core, spelled once for the driver of each database.

    Executing through Core costs more than the statement itself on the hot path (docs/decisions/0003).
    """

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        self.text = str(compiled)
        """As SQLite's driver takes it."""
        self.texts: dict[Dialect, str] = {
            "sqlite": self.text,
            "postgresql": str(statement.compile(dialect=_POSTGRESQL)),
        }
        binds: dict[str, BindParameter[Any]] = cast("Any", compiled).binds
        values = {name: bind.value for name, bind in binds.items() if not bind.required}
        self.fixed = {name: value for name, value in values.items() if f":{name}" in self.text}

    def on(self, connection: SqlConnection, values: Mapping[str, Any] = NOTHING) -> SqlCursor:
        """Carry it out."""
        return connection.execute(self.texts[connection.dialect], {**self.fixed, **values})


def spelled(constant: str) -> ColumnElement[str]:
    """Give a constant that stands in the statement itself, for a condition that a partial index is for.

    A server that has prepared a statement sees only so that the condition implies the index's. Where another
    index is better, as for a call's own claim, the constant is to be a value as any other.
    """
    return literal_column(f"'{constant}'", String)


def of_kind(kind: str, *columns: ColumnElement[Any]) -> CTE:
    """Ask for all entries of a rare kind, to ask for the newest of them.

    A server that is asked for that at once, and knows nothing of the table yet, goes back from the last entry
    of all until it meets the kind. There is an index for the kind: it is to be looked up first.
    """
    entries = select(ENTRY.c.idx, *columns).where(ENTRY.c.kind == spelled(kind))
    return entries.cte("of_kind").prefix_with("MATERIALIZED")


def newest(kind: str, *columns: ColumnElement[Any]) -> Prepared:
    """Ask for the newest entry of a rare kind."""
    entries = of_kind(kind, *columns)
    return Prepared(select(entries).order_by(desc(entries.c.idx)).limit(1))


class Rows:
    """Inserts many rows of one table in few statements.

    The driver lets go of the interpreter for each step of a statement, and has to wait for it again beside a
    busy event loop; a row costs a third less besides (docs/decisions/0003).
    """

    _MOST: Final = 64
    """Rows in one statement; with twelve columns far below SQLite's bound of 32,766 values."""

    def __init__(self, table: Table) -> None:
        self._names = [column.name for column in table.columns]
        self._begin = f"INSERT INTO {table.name} ({', '.join(self._names)}) VALUES "  # noqa: S608 - of names
        marks: tuple[tuple[Dialect, str], ...] = (("sqlite", "?"), ("postgresql", "%s"))
        self._row = {dialect: f"({', '.join([mark] * len(self._names))})" for dialect, mark in marks}

    def insert(self, connection: SqlConnection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert `rows`; each says every column."""
        marks = self._row[connection.dialect]
        begin, size = 0, self._MOST
        while begin < len(rows):
            while size > len(rows) - begin:
                size //= 2  # few sizes, so that the driver keeps their statements prepared
            values = [row[name] for row in rows[begin : begin + size] for name in self._names]
            connection.execute(self._begin + ", ".join([marks] * size), values)
            begin += size


def _table(row: type[Stored]) -> Table:
    return cast("Table", row.__dict__["__table__"])


ENTRY, NODE, TIP, CHECKPOINT = _table(EntryRow), _table(NodeRow), _table(TipRow), _table(CheckpointRow)
COSIGNATURE = _table(CosignatureRow)
CLAIM, PAYLOAD, PSEUDONYM = _table(ClaimRow), _table(PayloadRow), _table(PseudonymRow)
VERSION, ACTIVATION = _table(PolicyVersionRow), _table(PolicyActivationRow)
VAULT_RUN, LEASE = _table(VaultRunRow), _table(LeaseRow)
GATE, SHARED_KEY = _table(GateRow), _table(SharedKeyRow)
ERASED_NAME, ERASURE = _table(ErasedNameRow), _table(ErasureRow)
RETENTION_RUN, RETENTION_MARK = _table(RetentionRunRow), _table(RetentionMarkRow)
