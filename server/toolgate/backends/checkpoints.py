"""Signs what the log holds, and publishes it: in the database, and in a file outside it.

Whoever keeps a copy of a published checkpoint can show later that nothing before it was changed. The gate
itself reads the file at its start: a database that holds less than was published is refused.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import bindparam, desc, insert, select

from toolgate.backends.durable_files import replace_file
from toolgate.backends.log_key import LogKey, is_signed
from toolgate.backends.log_key_rotation import finish_rotation, key_in_force, next_key
from toolgate.backends.sql_connection import SqlConnection
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
_OF_SIZE = Prepared(select(CHECKPOINT.c.size).where(CHECKPOINT.c.size == bindparam("size_")))
_ADD = Prepared(insert(CHECKPOINT))
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

    def __init__(self, connection: SqlConnection) -> None:
        self._connection = connection

    def __call__(self, level: int, first: int, count: int) -> Sequence[bytes]:
        """Give `count` hashes of a kept level, from `first` on."""
        asked = {"first": first, "last": first + count}
        if level == 0:
            return [row[0] for row in _LEAVES.on(self._connection, asked)]
        return [row[0] for row in _NODES.on(self._connection, asked | {"level": level})]


class Keys(Protocol):
    """Where the keys of a log are to be had that other gates have put in force."""

    def fetch(self, connection: SqlConnection, verifier: str, /) -> None:
        """Lay the key beside this gate's own, to follow it; raises `LedgerUnavailable` where it cannot."""


class Checkpoints:
    """Publishes checkpoints of one log.

    Args:
        key: signs them.
        file: where the newest one is kept, outside the database.
        every: seconds after which what was added is published.
        keys: where to ask for a key that another machine has put in force; None where there is no other.
    """

    def __init__(self, key: LogKey, file: Path, *, every: float = EVERY, keys: Keys | None = None) -> None:
        self._key, self._file, self._every, self._keys = key, file, every, keys
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

    def guard(self, connection: SqlConnection) -> None:
        """Check that the database holds what was published, and finish a change of the key that broke off.

        Raises:
            LedgerUnavailable: it holds less or something else, or the file is gone.
        """
        if loss := self.loss(connection):
            raise LedgerUnavailable(f"{loss}")
        if self._next_key(connection) is not None:
            self.publish(connection)

    def loss(self, connection: SqlConnection) -> Loss | None:
        """Say what the database lacks of what was published, or None.

        Raises:
            LedgerUnavailable: the file is no checkpoint of this log.
        """
        last = self.published()
        size, _ = _tip(connection)
        if last is None:
            note = last_note(connection)
            if note is None or connection.dialect == "postgresql":  # then this gate is new beside others
                return None
            return Loss(Checkpoint.parse(note.text), size, self._file.name)
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

    def publish_what_is_due(self, connection: SqlConnection) -> Note | None:
        """Publish what this process has added, unless another one has published it.

        Raises:
            LedgerUnavailable: what is committed does not extend what was published.
        """
        note = self._covering(connection)
        return self.publish(connection) if note is None else self._take_over(note, connection)

    def _covering(self, connection: SqlConnection) -> Note | None:
        """Give the newest checkpoint in the database, where it covers all that this process has added."""
        note = last_note(connection)
        if note is None or not is_signed(note, self._key.verifier):
            return None
        checkpoint = Checkpoint.parse(note.text)
        covers = checkpoint.origin == self.origin and checkpoint.size >= self._size
        return note if covers and _root(connection, checkpoint.size) == checkpoint.root else None

    def _take_over(self, note: Note, connection: SqlConnection) -> Note:
        """Keep outside the database what another process has published in it."""
        checkpoint = Checkpoint.parse(note.text)
        last = self.published()
        if last is None or last.size < checkpoint.size:
            if last is not None and last.size:
                self._refuse_a_fork(last, checkpoint, connection)
            replace_file(self._file, str(note), 0o644)
        self._published = checkpoint.size
        return note

    def publish(self, connection: SqlConnection) -> Note | None:
        """Sign and publish what is committed; whoever calls it lets nobody else publish meanwhile.

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
        new = self._next_key(connection)
        note = self._key.note(now) if new is None else self._key.note(now, new)
        if last != now or new is not None:
            replace_file(self._file, str(note), 0o644)
        if _OF_SIZE.on(connection, {"size_": size}).fetchone() is None:
            _ADD.on(connection, {"size": size, "at": time.time_ns() // 1000, "note": str(note)})
        if new is not None and self._key.file is not None:
            self._key = finish_rotation(self._key.file, self._key, new)
        self._size = max(self._size, size)
        self._published = size
        return note

    def _next_key(self, connection: SqlConnection) -> LogKey | None:
        """Give the key that the ledger says is to follow this one."""
        new = next_key(connection, self._key.file)
        if new is None and self._keys is not None:
            in_force = key_in_force(connection)
            if in_force not in {"", f"{self._key.verifier}"}:
                self._keys.fetch(connection, in_force)
                new = next_key(connection, self._key.file)
        return new

    def _refuse_a_fork(self, last: Checkpoint, now: Checkpoint, connection: SqlConnection) -> None:
        if last.size > now.size:
            raise LedgerUnavailable(f"{last.size} entries were published, and only {now.size} are here")
        if _root(connection, last.size) != last.root or _root(connection, now.size) != now.root:
            raise LedgerUnavailable("the ledger does not extend what was published; it is not signed")


class AcceptedLoss(Checkpoints):
    """Checkpoints that go on from a database which holds less than was published, or something else.

    Only `toolgate ledger recover --accept-loss` opens a ledger so. `accepted` is the loss that was found.
    """

    accepted: Loss | None = None

    def guard(self, connection: SqlConnection) -> None:
        """Let what was lost be lost; a database that is damaged in itself is refused all the same."""
        self.accepted = self.loss(connection)
        if self.accepted is None:
            super().guard(connection)
            return
        size, root = _tip(connection)
        if _root(connection, size) != root:
            raise LedgerUnavailable("the database is damaged in itself; restore a copy of it")
        note = last_note(connection)
        if note is not None and not is_signed(note, self._key.verifier):
            raise LedgerUnavailable(
                "the key was changed after what is left was signed; put the key of that time back, which was "
                "kept beside it, move the checkpoint's file away, and run this again"
            )

    def _refuse_a_fork(self, last: Checkpoint, now: Checkpoint, connection: SqlConnection) -> None:
        if self.accepted is None or last != self.accepted.published:
            super()._refuse_a_fork(last, now, connection)


def _tip(connection: SqlConnection) -> tuple[int, bytes]:
    """Give the size of the tree and its root, as its tip says."""
    row = _TIP.on(connection).fetchone()
    try:
        return row["size"], Frontier.unpack(row["size"], row["frontier"]).root()
    except (TypeError, ValueError) as error:
        raise LedgerUnavailable(_DAMAGED) from error


def holds(connection: SqlConnection, tree: Frontier) -> bool:
    """Whether the database still has all that is in `tree`."""
    size, _ = _tip(connection)
    return size >= tree.size and _root(connection, tree.size) == tree.root()


def newest_holds(connection: SqlConnection) -> bool:
    """Whether the newest checkpoint in the database is one of the tree that is there."""
    note = last_note(connection)
    if note is None:
        return True
    newest = Checkpoint.parse(note.text)
    return _root(connection, newest.size) == newest.root


def _root(connection: SqlConnection, size: int) -> bytes | None:
    """Give the root over the first `size` entries, as they are stored; None where some are missing."""
    try:
        return root_at(size, StoredHashes(connection))
    except ValueError:
        return None


def last_note(connection: SqlConnection) -> Note | None:
    """Give the newest checkpoint in the database."""
    row = _LAST.on(connection).fetchone()
    if row is None:
        return None
    try:
        note = Note.parse(row["note"])
        Checkpoint.parse(note.text)
    except BadNote as error:
        raise LedgerUnavailable(_DAMAGED) from error
    return note
