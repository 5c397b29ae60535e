"""Signs what the log holds, and publishes it: in the database, and in a file outside it.

Whoever keeps a copy of a published checkpoint can show later that nothing before it was changed. The gate
itself reads the file at its start: a database that holds less than was published is refused.
"""

import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import bindparam, desc, insert, select

from toolgate.backends.log_key import LogKey, is_signed, replace_file
from toolgate.backends.log_key_rotation import finish_rotation, next_key
from toolgate.backends.sql_tables import CHECKPOINT, ENTRY, NODE, TIP, Prepared
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import Frontier, root_at
from toolgate.core.note import BadNote, Checkpoint, Note

log = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds after which what was added is published."""
AT_MOST: Final = 1000
"""Entries after which it is published before that."""
_RECOVERY: Final = "run: toolgate ledger recover --accept-loss (what is lost is recorded)"
_DAMAGED: Final = "the database is damaged; run: toolgate ledger verify"

_TIP = Prepared(select(TIP.c.size, TIP.c.frontier))
_LAST = Prepared(select(CHECKPOINT.c.note).order_by(desc(CHECKPOINT.c.size)).limit(1))
_ADD = Prepared(insert(CHECKPOINT).prefix_with("OR IGNORE"))
_LEAVES = Prepared(
    select(ENTRY.c.leaf)
    .where(ENTRY.c.idx >= bindparam("first"), ENTRY.c.idx < bindparam("last"))
    .order_by(ENTRY.c.idx)
)
_NODES = Prepared(
    select(NODE.c.hash)
    .where(
        NODE.c.level == bindparam("level"),
        NODE.c.number >= bindparam("first"),
        NODE.c.number < bindparam("last"),
    )
    .order_by(NODE.c.number)
)


@dataclass(frozen=True)
class Loss:
    """What a database lacks of what was published."""

    published: Checkpoint
    kept: int
    """So many entries are here."""
    gone: str = ""
    """The file of the last checkpoint, where that is what is missing."""

    def __str__(self) -> str:
        if self.gone:
            return f"{self.gone}, the last checkpoint, is gone: restore it, or {_RECOVERY}"
        if self.published.size > self.kept:
            return (
                f"the database holds {self.kept} entries, but {self.published.size} were published: it is an "
                f"old copy, or its end was cut off. Restore the newest one, or {_RECOVERY}"
            )
        return (
            f"the first {self.published.size} entries are not those that were published: run toolgate ledger "
            f"verify, and restore the database, or {_RECOVERY}"
        )


class StoredHashes:
    """Reads the tree's hashes from the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __call__(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """Give `count` hashes of a kept level, from `first` on."""
        asked = {"first": first, "last": first + count}
        if level == 0:
            return [row[0] for row in self._connection.execute(_LEAVES.text, _LEAVES.fixed | asked)]
        return [
            row[0] for row in self._connection.execute(_NODES.text, _NODES.fixed | asked | {"level": level})
        ]


class Checkpoints:
    """Publishes checkpoints of one log.

    Args:
        key: signs them.
        file: where the newest one is kept, outside the database.
        every: seconds after which what was added is published.
    """

    def __init__(self, key: LogKey, file: Path, *, every: float = EVERY) -> None:
        self._key, self._file, self._every = key, file, every
        self._size = self._published = 0
        self._since = time.monotonic()
        self._not_before = 0.0

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._key.verifier.name

    def grew(self, tree: Frontier) -> None:
        """Hear that the tree has grown."""
        if self._size == self._published:
            self._since = time.monotonic()
        self._size = tree.size

    def due_in(self) -> float | None:
        """Seconds until something must be published; None while there is nothing."""
        if self._size <= self._published:
            return None
        many = self._size - self._published >= AT_MOST
        at = max(self._not_before, 0.0 if many else self._since + self._every)
        return max(0.0, at - time.monotonic())

    def is_due(self) -> bool:
        """Whether something must be published now."""
        return self.due_in() == 0.0

    def put_off(self) -> None:
        """Try again after a while: it could not be published."""
        self._not_before = time.monotonic() + self._every

    def guard(self, connection: sqlite3.Connection) -> None:
        """Check that the database holds what was published, and finish a change of the key that broke off.

        Raises:
            LedgerUnavailable: it holds less or something else, or the file is gone.
        """
        if loss := self.loss(connection):
            raise LedgerUnavailable(f"{loss}")
        if next_key(connection, self._key.file) is not None:
            self.publish(connection)

    def loss(self, connection: sqlite3.Connection) -> Loss | None:
        """Say what the database lacks of what was published, or None.

        Raises:
            LedgerUnavailable: the file is no checkpoint of this log.
        """
        last = self.published()
        size, _ = _tip(connection)
        if last is None:
            note = _last_note(connection)
            return None if note is None else Loss(Checkpoint.parse(note.text), size, self._file.name)
        if last.size > size or _root(connection, last.size) != last.root:
            return Loss(last, size)
        return None

    def published(self) -> Checkpoint | None:
        """Give the checkpoint in the file, or None where there is no file.

        Raises:
            LedgerUnavailable: what lies there is no checkpoint of this log.
        """
        self._key = self._key.current()
        try:
            note = Note.parse(self._file.read_text("utf-8"))
            checkpoint = Checkpoint.parse(note.text)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, BadNote) as error:
            raise LedgerUnavailable(f"{self._file.name} is no checkpoint ({error}); restore it") from error
        if checkpoint.origin != self.origin or not is_signed(note, self._key.verifier):
            raise LedgerUnavailable(f"{self._file.name} is not signed by this ledger's key; restore both")
        return checkpoint

    def publish(self, connection: sqlite3.Connection) -> Note | None:
        """Sign and publish what is committed; whoever calls it holds the writers' lock.

        Raises:
            LedgerUnavailable: what is committed does not extend what was published.
        """
        size, root = _tip(connection)
        if size == 0:
            return None
        now = Checkpoint(self.origin, size, root)
        last = self.published()
        if last is not None and last.size:
            self._refuse_a_fork(last, now, connection)
        new = next_key(connection, self._key.file)
        note = self._key.note(now) if new is None else self._key.note(now, new)
        if last != now or new is not None:
            replace_file(self._file, str(note), 0o644)
        row = {"size": size, "at": time.time_ns() // 1000, "note": str(note)}
        connection.execute(_ADD.text, _ADD.fixed | row)
        if new is not None and self._key.file is not None:
            self._key = finish_rotation(self._key.file, self._key, new)
        self._size = max(self._size, size)
        self._published = size
        return note

    def _refuse_a_fork(self, last: Checkpoint, now: Checkpoint, connection: sqlite3.Connection) -> None:
        if last.size > now.size:
            raise LedgerUnavailable(f"{last.size} entries were published, and only {now.size} are here")
        if _root(connection, last.size) != last.root or _root(connection, now.size) != now.root:
            raise LedgerUnavailable("the ledger does not extend what was published; it is not signed")


class AcceptedLoss(Checkpoints):
    """Checkpoints that go on from a database which holds less than was published, or something else.

    Only `toolgate ledger recover --accept-loss` opens a ledger so. `accepted` is the loss that was found.
    """

    accepted: Loss | None = None

    def guard(self, connection: sqlite3.Connection) -> None:
        """Let what was lost be lost; a database that is damaged in itself is refused all the same."""
        self.accepted = self.loss(connection)
        if self.accepted is None:
            super().guard(connection)
            return
        size, root = _tip(connection)
        if _root(connection, size) != root:
            raise LedgerUnavailable("the database is damaged in itself; restore a copy of it")
        note = _last_note(connection)
        if note is not None and not is_signed(note, self._key.verifier):
            raise LedgerUnavailable(
                "the key was changed after what is left was signed; put the key of that time back, which was "
                "kept beside it, move the checkpoint's file away, and run this again"
            )

    def _refuse_a_fork(self, last: Checkpoint, now: Checkpoint, connection: sqlite3.Connection) -> None:
        if self.accepted is None or last != self.accepted.published:
            super()._refuse_a_fork(last, now, connection)


def _tip(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """Give the size of the tree and its root, as its tip says."""
    row = connection.execute(_TIP.text, _TIP.fixed).fetchone()
    try:
        return row["size"], Frontier.unpack(row["size"], row["frontier"]).root()
    except (TypeError, ValueError) as error:
        raise LedgerUnavailable(_DAMAGED) from error


def _root(connection: sqlite3.Connection, size: int) -> bytes | None:
    """Give the root over the first `size` entries, as they are stored; None where some are missing."""
    try:
        return root_at(size, StoredHashes(connection))
    except ValueError:
        return None


def _last_note(connection: sqlite3.Connection) -> Note | None:
    """Give the newest checkpoint in the database."""
    row = connection.execute(_LAST.text, _LAST.fixed).fetchone()
    if row is None:
        return None
    try:
        note = Note.parse(row["note"])
        Checkpoint.parse(note.text)
    except BadNote as error:
        raise LedgerUnavailable(_DAMAGED) from error
    return note
