"""Cosignatures beside the checkpoints in the database, and what is read to ask for them and to show them."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, Engine, bindparam, desc, func, insert, select

from toolgate.backends.cosigning import Cosignature, has_quorum
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.sql_tables import CHECKPOINT, COSIGNATURE, ENTRY, NODE, TIP, Prepared
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import consistency_proof, root_at
from toolgate.core.note import BadNote, Checkpoint, Note, Signature
from toolgate.core.witness_policy import WitnessPolicy

_MOST_LOOKED_AT: Final = 500
"""Cosigned checkpoints that are looked at, newest first, for one that has the quorum."""

_KEPT = Prepared(
    select(COSIGNATURE.c.at).where(
        COSIGNATURE.c.size == bindparam("size"), COSIGNATURE.c.witness == bindparam("witness")
    )
)
_KEEP = Prepared(insert(COSIGNATURE))


class StoredTree:
    """Reads the tree's hashes from whichever database holds them (see `merkle.Hashes`)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """Give `count` hashes of a kept level, from `first` on."""
        if level == 0:
            asked = select(ENTRY.c.leaf).where(ENTRY.c.idx >= first, ENTRY.c.idx < first + count)
            return self._connection.execute(asked.order_by(ENTRY.c.idx)).scalars().all()
        asked = select(NODE.c.hash).where(
            NODE.c.level == level, NODE.c.number >= first, NODE.c.number < first + count
        )
        return self._connection.execute(asked.order_by(NODE.c.number)).scalars().all()


def keep(batch: Batch, size: int, cosignature: Cosignature) -> None:
    """Keep a cosignature beside the checkpoint of this size; another gate may have been faster."""
    row = {"size": size, "witness": f"{cosignature.witness.key}"}
    if batch.find(_KEPT, row) is None:
        batch.execute(_KEEP, row | {"at": cosignature.at, "line": f"{cosignature.line}"})


def newest_checkpoint(engine: Engine) -> Note | None:
    """Give the newest checkpoint; None while nothing was published.

    Raises:
        LedgerUnavailable: what is stored there is none.
    """
    with engine.connect() as connection:
        asked = select(CHECKPOINT.c.note).order_by(desc(CHECKPOINT.c.size)).limit(1)
        text = connection.execute(asked).scalar()
    return None if text is None else _note(text)


def entries_in(engine: Engine) -> int:
    """Give how many entries there are."""
    with engine.connect() as connection:
        return connection.execute(select(TIP.c.size)).scalar() or 0


def growth(engine: Engine, old: int, new: int) -> list[bytes]:
    """Prove that the tree of `new` entries begins with that of `old`, which may be empty.

    Raises:
        ValueError: there are not as many entries, or hashes of them are missing.
    """
    if not old:
        return []
    with engine.connect() as connection:
        return consistency_proof(old, new, StoredTree(connection))


def holds(connection: Connection, checkpoint: Checkpoint) -> bool:
    """Whether the ledger begins with the entries that a checkpoint counts."""
    try:
        return root_at(checkpoint.size, StoredTree(connection)) == checkpoint.root
    except ValueError:
        return False


def cosigned_by(engine: Engine, witness: str) -> int:
    """Give the size of the largest checkpoint that the witness with this verifier key has cosigned."""
    with engine.connect() as connection:
        asked = select(COSIGNATURE.c.size).where(COSIGNATURE.c.witness == witness)
        return connection.execute(asked.order_by(desc(COSIGNATURE.c.size)).limit(1)).scalar() or 0


def cosigned_note(connection: Connection, policy: WitnessPolicy, least: int = 0) -> Note | None:
    """Give the newest checkpoint of `least` entries or more that the quorum has cosigned, with all lines.

    None where there is none among the newest ones.

    Raises:
        LedgerUnavailable: what is stored is no checkpoint, or no cosignature.
    """
    asked = select(CHECKPOINT.c.size, CHECKPOINT.c.note).where(CHECKPOINT.c.size >= least)
    if policy.fewest:
        counted = select(COSIGNATURE.c.size).where(COSIGNATURE.c.size >= least).group_by(COSIGNATURE.c.size)
        asked = asked.where(CHECKPOINT.c.size.in_(counted.having(func.count() >= policy.fewest)))
    found = connection.execute(asked.order_by(desc(CHECKPOINT.c.size)).limit(_MOST_LOOKED_AT)).all()
    for size, text in found:
        note = _note(text)
        lines = cosignatures_of(connection, size)
        if has_quorum(note, lines, policy):
            return Note(note.text, (*note.signatures, *lines))
    return None


def note_over(engine: Engine, entry: int, policy: WitnessPolicy | None) -> Note | None:
    """Give the newest checkpoint over `entry`, with its cosignatures; by a policy, one with the quorum.

    None where there is none.

    Raises:
        LedgerUnavailable: what is stored is no checkpoint, or no cosignature.
    """
    with engine.connect() as connection:
        if policy is not None and not policy.is_met(()):
            return cosigned_note(connection, policy, entry + 1)
        asked = select(CHECKPOINT.c.size, CHECKPOINT.c.note).where(CHECKPOINT.c.size > entry)
        row = connection.execute(asked.order_by(desc(CHECKPOINT.c.size)).limit(1)).first()
        if row is None:
            return None
        note = _note(row.note)
        return Note(note.text, (*note.signatures, *cosignatures_of(connection, row.size)))


def cosignatures_of(connection: Connection, size: int) -> list[Signature]:
    """Give the lines that are kept of the checkpoint of this size."""
    asked = select(COSIGNATURE.c.line).where(COSIGNATURE.c.size == size).order_by(COSIGNATURE.c.witness)
    try:
        return [Signature.parse(line) for line in connection.execute(asked).scalars()]
    except BadNote as error:
        raise LedgerUnavailable(_DAMAGED) from error


def _note(text: str) -> Note:
    try:
        note = Note.parse(text)
        Checkpoint.parse(note.text)
    except BadNote as error:
        raise LedgerUnavailable(_DAMAGED) from error
    return note


_DAMAGED: Final = "a checkpoint in the database is damaged; run: toolgate ledger verify"
