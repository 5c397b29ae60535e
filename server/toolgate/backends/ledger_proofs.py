"""Proofs out of a ledger: that an entry is in it, for whoever has the log's verifier key."""

import base64
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, desc, select

from toolgate.backends.checkpoints import Checkpoints, Loss, StoredHashes
from toolgate.backends.ledger_database import TreeDatabase
from toolgate.backends.sql_connection import SqlConnection
from toolgate.backends.sql_tables import CHECKPOINT, ENTRY, TIP, Prepared
from toolgate.core.errors import LedgerUnavailable, NothingRecorded
from toolgate.core.merkle import inclusion_proof, leaf_hash, root_from_inclusion
from toolgate.core.note import BadNote, Checkpoint, Note

PROOF: Final = "c2sp.org/tlog-proof@v1"

_SIZE = Prepared(select(TIP.c.size))
_NEWEST = Prepared(select(CHECKPOINT.c.note).order_by(desc(CHECKPOINT.c.size)).limit(1))
_BODY = Prepared(select(ENTRY.c.body).where(ENTRY.c.idx == bindparam("entry")))


@dataclass(frozen=True)
class Proof:
    """That an entry is in the ledger, as c2sp.org/tlog-proof has it: the entry itself is its `extra`."""

    index: int
    body: bytes
    hashes: tuple[bytes, ...]
    note: Note
    size: int

    def __str__(self) -> str:
        lines = [PROOF, f"extra {_base64(self.body)}", f"index {self.index}", *map(_base64, self.hashes)]
        return "\n".join(lines) + f"\n\n{self.note}"


def proof_of(database: TreeDatabase, entry: int, under: Note | None = None) -> Proof | None:
    """Prove `entry` under a checkpoint, by default the newest one; None when that does not cover it.

    Raises:
        LedgerUnavailable: the database cannot be read, or does not hold what it published.
    """
    with _reading(database) as connection:
        return proof_on(connection, entry, under)


def proof_on(connection: SqlConnection, entry: int, under: Note | None = None) -> Proof | None:
    """Prove the same on a connection that reads one moment of the ledger.

    Raises:
        LedgerUnavailable: the database does not hold what it published.
    """
    found = _NEWEST.on(connection).fetchone()
    if found is None:
        return None
    note, checkpoint = _published(found["note"] if under is None else f"{under}")
    if checkpoint.size <= entry:
        return None
    row = _BODY.on(connection, {"entry": entry}).fetchone()
    hashes = _hashes(connection, entry, checkpoint.size)
    if (
        row is None
        or root_from_inclusion(entry, checkpoint.size, leaf_hash(row["body"]), hashes) != checkpoint.root
    ):
        raise LedgerUnavailable(_OTHERWISE)
    return Proof(entry, row["body"], hashes, note, checkpoint.size)


def demand_entry(database: TreeDatabase, entry: int) -> None:
    """Raise `NothingRecorded` unless there is such an entry."""
    with _reading(database) as connection:
        tip = _SIZE.on(connection).fetchone()
    size: int = tip["size"] if tip is not None else 0
    if entry >= size:
        raise NothingRecorded(f"there is no entry {entry}; the ledger has {size}, from 0 on")


def loss_in(database: TreeDatabase, checkpoints: Checkpoints) -> Loss | None:
    """Say what the database lacks of what was published, or None."""
    with _reading(database) as connection:
        return checkpoints.loss(connection)


@contextmanager
def _reading(database: TreeDatabase) -> Generator[SqlConnection]:
    if not database.exists():
        raise LedgerUnavailable(f"there is no ledger at {database.name}; nothing was called yet")
    with database.reading() as connection:
        yield connection


def _published(text: str) -> tuple[Note, Checkpoint]:
    try:
        note = Note.parse(text)
        return note, Checkpoint.parse(note.text)
    except BadNote as error:
        raise LedgerUnavailable(_OTHERWISE) from error


def _hashes(connection: SqlConnection, entry: int, size: int) -> tuple[bytes, ...]:
    try:
        return tuple(inclusion_proof(entry, size, StoredHashes(connection)))
    except ValueError as error:
        raise LedgerUnavailable(_OTHERWISE) from error


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_OTHERWISE: Final = "the ledger does not hold what it published; run: toolgate ledger verify"
