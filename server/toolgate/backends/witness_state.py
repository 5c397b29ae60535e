"""A witness: it checks what a log says now against what that log said before, and keeps that in one file.

Checking and keeping are one transaction of SQLite under its write lock, whichever process does it, and the
transaction is on the disk before a cosignature leaves this module. With a rollback journal and
`synchronous = EXTRA` it stays there: the folder is synced, too, after the journal is gone.

The file is made with the key, once, and says whose it is: one that is lost, empty or another key's is never
made anew in silence, for a witness that forgets cosigns what it should refuse.
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
from toolgate.backends.durable_files import sync_folder
from toolgate.backends.log_key import is_signed
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.note import Checkpoint, Note, VerifierKey
from toolgate.core.witness import Cosigned, Denied, Standing, Submission, Verdict, objection

log = logging.getLogger(__name__)

_FORM: Final = 0x7467_7731
"""Of the state's file (`PRAGMA application_id`)."""
_PATIENCE: Final = 5.0
"""Seconds that one request waits for the others of the same witness."""
_TABLES: Final = (
    """CREATE TABLE witnessed
    (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL) STRICT""",
    "CREATE TABLE witness (key TEXT NOT NULL) STRICT",
)
_OWN: Final = "INSERT INTO witness (key) VALUES (?)"
_WHOSE: Final = "SELECT key FROM witness"
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
        state: the file that `new_state` made for this key.
        now: seconds after 1970.

    Raises:
        Misconfigured: the file is not there, is another witness's, or cannot be used.
    """

    def __init__(
        self, key: WitnessKey, logs: Sequence[VerifierKey], state: Path, now: Callable[[], float] = time.time
    ) -> None:
        self._key, self._logs, self._state, self._now = key, tuple(logs), state, now
        try:
            with closing(_connected(state)) as connection:
                _demand_own(connection, state, key.verifier)
        except sqlite3.Error as error:
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
        with closing(_connected(self._state)) as connection:
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
        with closing(_connected(self._state)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection


def new_state(state: Path, key: VerifierKey) -> None:
    """Make the state of a witness that has cosigned nothing yet.

    Raises:
        FileExistsError: there is a file already.
        Misconfigured: it cannot be made.
    """
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        state.touch(0o600, exist_ok=False)
        with closing(_connected(state)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                connection.execute(table)
            connection.execute(_OWN, (f"{key}",))
            connection.execute(f"PRAGMA application_id = {_FORM}")
        sync_folder(state)
    except FileExistsError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise _fault(state, f"it cannot be made ({error})") from error


def _connected(state: Path) -> sqlite3.Connection:
    # A file that is gone must not be made anew: the witness would forget all logs.
    address = f"{state.absolute().as_uri()}?mode=rw"
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


def _demand_own(connection: sqlite3.Connection, state: Path, key: VerifierKey) -> None:
    form = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not form and not tables:
        raise _fault(state, "it is empty: what this witness has cosigned is lost")
    if form != _FORM:
        raise _fault(state, "it is another program's database, and no witness's state")
    whose = connection.execute(_WHOSE).fetchone()
    if whose is None or whose[0] != f"{key}":
        raise _fault(state, "it is the state of another witness's key")


def _fault(state: Path, problem: str) -> Misconfigured:
    return Misconfigured([Fault(f"{state}", "the witness's state", problem, _REMEDY)])


_REMEDY: Final = (
    "name the file that was made with the key; if it is lost, this key must cosign no more: make another key "
    "with a state of its own: toolgate ledger witness-key NAME --key FILE --state FILE"
)


def origin_hash(checkpoint: Checkpoint) -> str:
    """Give the name under which a witness shows a log's checkpoint."""
    return sha256(checkpoint.origin.encode()).hexdigest()
