"""A witness: it checks what a log says now against what that log said before, and keeps that in one file.

Checking and keeping are one transaction of SQLite under its write lock, whichever process does it, and the
transaction is on the disk before a cosignature leaves this module. With a rollback journal and
`synchronous = EXTRA` it stays there: the folder is synced, too, after the journal is gone.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from toolgate.backends.cosigning import WitnessKey
from toolgate.backends.log_key import is_signed
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.note import Checkpoint, Note, VerifierKey
from toolgate.core.witness import Cosigned, Denied, Standing, Submission, Verdict, objection

log = logging.getLogger(__name__)

_FORM: Final = 0x7467_7731
"""Of the state's file (`PRAGMA application_id`)."""
_PATIENCE: Final = 5.0
"""Seconds that one request waits for the others of the same witness."""
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS witnessed "
    "(origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL) STRICT"
)
_KNOWN: Final = "SELECT size, root FROM witnessed WHERE origin = ?"
_NOTES: Final = "SELECT origin, note FROM witnessed"
_KEEP: Final = (
    "INSERT INTO witnessed (origin, size, root, note) VALUES (:origin, :size, :root, :note) "
    "ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note "
    "WHERE excluded.size >= witnessed.size"
)


class Witness:
    """Cosigns what logs say, as long as none contradicts itself.

    Args:
        key: with which it cosigns.
        logs: the keys of the logs that it knows; several of one name where a log's key changes.
        state: the file; made where there is none.
        now: seconds after 1970.

    Raises:
        Misconfigured: the file cannot be used.
    """

    def __init__(
        self, key: WitnessKey, logs: Sequence[VerifierKey], state: Path, now: Callable[[], float] = time.time
    ) -> None:
        self._key, self._logs, self._state, self._now = key, tuple(logs), state, now
        try:
            if not state.exists():
                state.parent.mkdir(parents=True, exist_ok=True)
                state.touch(0o600)
            with self._turn() as connection:
                _demand_form(connection, state)
                connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise _fault(state, f"it cannot be used ({error})") from error

    def add(self, asked: Submission) -> Verdict:
        """Judge a checkpoint and cosign it, or say why not. May wait for the disk."""
        origin = asked.checkpoint.origin
        trusted = [key for key in self._logs if key.name == origin]
        if not trusted:
            return Denied(404, "this witness does not know that log")
        if not _is_signed_by_any(asked.note, trusted):
            return Denied(403, "the checkpoint has no good signature by a key of that log")
        try:
            with self._turn() as connection:
                return self._cosigned(connection, asked)
        except sqlite3.Error:
            log.exception("the state could not be read or written")
            return Denied(500, "the witness cannot keep what it would cosign; ask again later")

    def newest(self, origin_hash: str) -> str | None:
        """Give the newest cosigned checkpoint of the log whose origin has this SHA-256, in hexadecimal."""
        with closing(self._connected()) as connection:
            for origin, note in connection.execute(_NOTES):
                if sha256(origin.encode()).hexdigest() == origin_hash:
                    return str(note)
        return None

    def _cosigned(self, connection: sqlite3.Connection, asked: Submission) -> Verdict:
        now = asked.checkpoint
        known = _known(connection, now.origin)
        if objected := objection(asked, known):
            return objected
        line = self._key.cosign(asked.note.text, max(1, int(self._now())))
        trusted = [each for key in self._logs if key.name == now.origin for each in asked.note.by(key)]
        note = Note(asked.note.text, (*trusted, line))
        row = {"origin": now.origin, "size": now.size, "root": now.root, "note": str(note)}
        connection.execute(_KEEP, row)
        return Cosigned(f"{line}\n")

    @contextmanager
    def _turn(self) -> Generator[sqlite3.Connection]:
        """Hold the file's write lock; what was written is on the disk at the end, and else undone."""
        with closing(self._connected()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        # A file that was removed while the witness ran must not be made anew: it would forget all logs.
        address = f"{self._state.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=_PATIENCE)
        connection.execute("PRAGMA synchronous = EXTRA")
        return connection


def _known(connection: sqlite3.Connection, origin: str) -> Standing:
    row = connection.execute(_KNOWN, (origin,)).fetchone()
    return Standing() if row is None else Standing(row[0], row[1])


def _is_signed_by_any(note: Note, keys: Sequence[VerifierKey]) -> bool:
    """Whether one of these keys signed, and none has a false signature here (signed-note, "Signatures")."""
    lines = [(key, line) for key in keys for line in note.by(key)]
    return bool(lines) and all(is_signed(Note(note.text, (line,)), key) for key, line in lines)


def _demand_form(connection: sqlite3.Connection, state: Path) -> None:
    form = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if form not in {0, _FORM} or (tables and form != _FORM):
        raise _fault(state, "it is another program's database, and no witness's state")
    connection.execute(f"PRAGMA application_id = {_FORM}")


def _fault(state: Path, problem: str) -> Misconfigured:
    return Misconfigured(
        [Fault(f"{state}", "the witness's state", problem, "restore it, or name another file")]
    )


def origin_hash(checkpoint: Checkpoint) -> str:
    """Give the name under which a witness shows a log's checkpoint."""
    return sha256(checkpoint.origin.encode()).hexdigest()
