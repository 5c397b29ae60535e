"""Reads the ledger's tree: entries in their order, kept hashes, and what was published of it."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy import Connection, Engine, desc, select
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.sql_connection import cause
from toolgate.backends.sql_tables import CHECKPOINT, ENTRY, NODE
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import leaf_hash, root_at
from toolgate.core.note import BadNote, Checkpoint, Note

AT_ONCE: Final = 4096
"""Entries that are read, and so held in memory, at once."""
_MOST_REMEMBERED: Final = 1024
"""Ranges of at most 256 hashes."""
OTHERWISE: Final = "the ledger does not hold what it published; run: toolgate ledger verify"


@dataclass(frozen=True)
class Published:
    """A signed checkpoint, read."""

    note: Note
    checkpoint: Checkpoint

    @classmethod
    def parse(cls, text: str) -> "Published":
        """Read a signed checkpoint. Raises `BadNote`."""
        note = Note.parse(text)
        return cls(note, Checkpoint.parse(note.text))

    @property
    def size(self) -> int:
        return self.checkpoint.size

    @property
    def authority(self) -> str:
        """The key that signed it first, as `name+id`."""
        first = self.note.signatures[0]
        return f"{first.name}+{first.key_id.hex()}"


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry in its place."""

    index: int
    hash: bytes
    body: bytes


class TreeHashes:
    """The hashes that the ledger keeps, as `toolgate.core.merkle.Hashes`.

    What was read lately is remembered: proofs of entries that lie together share most of their hashes.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._remembered = lru_cache(_MOST_REMEMBERED)(self._read)

    def __call__(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """Give `count` hashes of a kept level, from `first` on; fewer where they are missing."""
        return self._remembered(level, first, count)

    def _read(self, level: int, first: int, count: int) -> Sequence[bytes]:
        column, number = (ENTRY.c.leaf, ENTRY.c.idx) if level == 0 else (NODE.c.hash, NODE.c.number)
        asked = select(column).where(number >= first, number < first + count).order_by(number)
        if level:
            asked = asked.where(NODE.c.level == level)
        return [stored_bytes(found) for found in self._connection.execute(asked).scalars()]


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """Open the ledger's database for reading.

    Raises:
        LedgerUnavailable: it cannot be read.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


def newest(connection: Connection) -> Published:
    """Give the newest checkpoint, which must be one of what is stored.

    Raises:
        LedgerUnavailable: nothing was published, or the ledger does not hold it.
    """
    found = connection.execute(select(CHECKPOINT.c.note).order_by(desc(CHECKPOINT.c.size)).limit(1)).scalar()
    if found is None:
        raise LedgerUnavailable("nothing of the ledger was published yet; serve it once, or make a call")
    published = read_note(str(found))
    demand_root(connection, published.checkpoint)
    return published


def read_note(text: str) -> Published:
    """Read a checkpoint that the ledger keeps. Raises `LedgerUnavailable`."""
    try:
        return Published.parse(text)
    except BadNote as error:
        raise LedgerUnavailable(OTHERWISE) from error


def demand_root(connection: Connection, checkpoint: Checkpoint) -> None:
    """Raise `LedgerUnavailable` unless the stored hashes lead to the checkpoint's root."""
    try:
        root = root_at(checkpoint.size, TreeHashes(connection))
    except ValueError as error:
        raise LedgerUnavailable(OTHERWISE) from error
    if root != checkpoint.root:
        raise LedgerUnavailable(OTHERWISE)


def leaves(connection: Connection, first: int, last: int) -> Iterator[list[Leaf]]:
    """Give the entries [first, last) in their order, up to `AT_ONCE` together, each with its own hash.

    Raises:
        LedgerUnavailable: one is missing, or is not what its leaf hash says.
    """
    rows = select(ENTRY.c.idx, ENTRY.c.leaf, ENTRY.c.body).order_by(ENTRY.c.idx)
    while first < last:
        end = min(last, first + AT_ONCE)
        asked = rows.where(ENTRY.c.idx >= first, ENTRY.c.idx < end)
        found = [
            Leaf(index, stored_bytes(leaf), stored_bytes(body))
            for index, leaf, body in connection.execute(asked)
        ]
        for due, leaf in enumerate(found, first):
            if leaf.index != due or leaf_hash(leaf.body) != leaf.hash:
                raise LedgerUnavailable(f"entry {due} is not what was recorded; run: toolgate ledger verify")
        if len(found) != end - first:
            raise LedgerUnavailable(f"entry {first + len(found)} is missing; run: toolgate ledger verify")
        yield found
        first = end


def stored_bytes(stored: object) -> bytes:
    """Give stored bytes; what somebody else stored in their place is none, and no hash of anything."""
    return stored if isinstance(stored, bytes) else b""
