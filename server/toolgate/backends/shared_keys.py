"""The log's key, the same on all gates on one PostgreSQL database.

The database says which key is in force (table `shared_key`). Where gates have a passphrase, it keeps the key
too: sealed by AES-256-GCM under a key that Argon2id (RFC 9106) makes of the passphrase and a salt of its own,
with the verifier key as associated data. What opens is what a gate with the passphrase has sealed; whoever
can write the table, and does not know the passphrase, can put no other key there.
"""

import logging
import secrets
import time
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr, ValidationError
from sqlalchemy import bindparam, desc, insert, select, update

from toolgate.backends.checkpoints import last_note
from toolgate.backends.keystore_file import SealedEntry, sealed, unsealed
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.log_key import LogKey, is_signed
from toolgate.backends.log_key_rotation import key_in_force, next_file
from toolgate.backends.master_key import existing_key, key_of_passphrase, origin_of_salt
from toolgate.backends.postgres_connection import PostgresConnection, PostgresError, shown, told
from toolgate.backends.postgres_schema import demand_schema, whole
from toolgate.backends.sql_connection import SqlConnection
from toolgate.backends.sql_tables import SHARED_KEY, TIP, Prepared
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable
from toolgate.core.record import Record

log = logging.getLogger(__name__)

_TURN: Final = Prepared(select(TIP.c.size).where(TIP.c.id == 1).with_for_update())
_NEWEST: Final = Prepared(select(SHARED_KEY).order_by(desc(SHARED_KEY.c.at)).limit(1))
_OF: Final = Prepared(select(SHARED_KEY).where(SHARED_KEY.c.verifier == bindparam("verifier_")))
_ADD: Final = Prepared(insert(SHARED_KEY))
_SEAL: Final = Prepared(
    update(SHARED_KEY)
    .where(SHARED_KEY.c.verifier == bindparam("verifier_"))
    .values(sealed=bindparam("sealed"))
)


class _Sealed(Record):
    """What the table holds of a key."""

    version: int = 1
    salt: str
    key: SealedEntry


def key_on(url: str, keys: "SharedKeys", *, strict: bool, patience: float) -> LogKey:
    """Give this gate's key to the ledger in a PostgreSQL database.

    Raises:
        LedgerUnavailable: the database cannot be asked, or the key is not to be had here.
    """
    connection = PostgresConnection(url, seconds=patience, purpose="keys")
    try:
        demand_schema(connection, may_make=not strict)
        with whole(connection):
            return keys.take_up(connection, LogKey.new(f"toolgate/{secrets.token_hex(8)}"))
    except PostgresError as error:
        raise LedgerUnavailable(f"{shown(url)} could not be asked for keys: {told(error)}") from error
    finally:
        connection.close()


class SharedKeys:
    """The keys of one log, as its database has them.

    Args:
        file: this gate's own copy of the key in force; its public half lies beside it.
        passphrase: opens and seals; without it keys go from gate to gate by hand.
    """

    def __init__(self, file: Path, passphrase: SecretStr | None) -> None:
        self._file, self._passphrase = file, passphrase

    def take_up(self, connection: SqlConnection, new: LogKey) -> LogKey:
        """Give this gate's key: its own file's, else the one that the database keeps, else `new`.

        Whoever calls it has begun a transaction. The file is written before the database knows of a key:
        a gate that dies between leaves a key that the database takes up the next time.

        Raises:
            LedgerUnavailable: the key is not to be had here, or that in the file is another log's.
        """
        own = LogKey.read(self._file) if self._file.exists() else None
        kept = _NEWEST.on(connection).fetchone()
        if kept is None:
            size = _TURN.on(connection).fetchone()["size"]
            kept = _NEWEST.on(connection).fetchone()  # another gate may have had the turn before
            if kept is None:
                return self._be_first(connection, own, new, size)
        if own is None:
            own = self._opened(kept["verifier"], kept["sealed"])
            own.write(self._file)
            log.warning("%s was taken from the database: %s", self._file.name, own.verifier)
        elif f"{own.verifier}" != kept["verifier"]:
            self._follow(connection, own, kept["verifier"], kept["sealed"])
        else:
            self._seal_anew(connection, own, kept["sealed"])
        return LogKey.read(self._file)

    def share(self, batch: Batch, key: LogKey) -> None:
        """Keep the key that is in force from this transaction on."""
        batch.execute(_ADD, self._row(key))

    def fetch(self, connection: SqlConnection, verifier: str) -> None:
        """Lay the key that another gate has put in force beside this gate's own, to follow it.

        Raises:
            LedgerUnavailable: it is not to be had here.
        """
        row = _OF.on(connection, {"verifier_": verifier}).fetchone()
        self._opened(verifier, b"" if row is None else row["sealed"]).keep(next_file(self._file))

    def _be_first(self, connection: SqlConnection, own: LogKey | None, new: LogKey, size: int) -> LogKey:
        """Give a log that no gate has shared the key of its last checkpoint; a new log gets one."""
        note = last_note(connection)
        if size and (own is None or (note is not None and not is_signed(note, own.verifier))):
            raise LedgerUnavailable(
                f"the database holds a ledger that was not signed by {self._file.name}: "
                "put the key of that ledger there"
            )
        if own is None:
            new.write(self._file)
        key = own or LogKey.read(self._file)
        _ADD.on(connection, self._row(key))
        return key

    def _follow(self, connection: SqlConnection, own: LogKey, verifier: str, kept: bytes) -> None:
        """Take up the key that another gate has put in force, unless it lies beside this one already."""
        name = verifier.partition("+")[0]
        if name != own.verifier.name:
            raise LedgerUnavailable(
                f"{self._file.name} is the key of {own.verifier.name}, and the database holds the ledger of "
                f"{name}: say another database_url, or move {self._file.name} and the checkpoint away"
            )
        beside = next_file(self._file)
        if beside.exists() and f"{LogKey.read(beside).verifier}" == verifier:
            return
        if key_in_force(connection) != verifier:
            raise LedgerUnavailable(
                f"{self._file.name} is not the key that the database names, and no change of the key is "
                "recorded: restore the one or the other"
            )
        self._opened(verifier, kept).keep(beside)

    def _seal_anew(self, connection: SqlConnection, own: LogKey, kept: bytes) -> None:
        """Seal the key under the passphrase of today, where it is not."""
        if self._passphrase is None:
            return
        try:
            self._opened(f"{own.verifier}", kept)
        except LedgerUnavailable:
            if kept:
                log.warning("the ledger's key is sealed anew in the database, under this gate's passphrase")
            _SEAL.on(connection, {"verifier_": f"{own.verifier}", "sealed": self._seal(own)})

    def _row(self, key: LogKey) -> dict[str, Any]:
        return {"verifier": f"{key.verifier}", "at": time.time_ns() // 1000, "sealed": self._seal(key)}

    def _seal(self, key: LogKey) -> bytes:
        if self._passphrase is None:
            return b""
        origin, stretched = key_of_passphrase(self._passphrase)
        content = sealed(AESGCM(stretched), f"{key.verifier}", key.seed())
        return _Sealed(salt=origin.salt, key=content).model_dump_json(exclude_none=True).encode()

    def _opened(self, verifier: str, kept: bytes) -> LogKey:
        public = self._file.with_suffix(".vkey").name
        by_hand = f"copy {self._file.name}, {public} and the checkpoint from another gate"
        if not kept:
            raise LedgerUnavailable(
                f"this gate has not the ledger's key {verifier}, and no gate had a passphrase to share it: "
                f"{by_hand}, or set TOOLGATE_PASSPHRASE there and here, and start that gate first"
            )
        if self._passphrase is None:
            raise LedgerUnavailable(
                f"this gate has not the ledger's key {verifier}, which the database keeps sealed: set "
                f"TOOLGATE_PASSPHRASE as at the other gates, or {by_hand}"
            )
        try:
            content = _Sealed.model_validate_json(kept)
            stretched = existing_key(
                origin_of_salt(content.salt), self._file, passphrase=self._passphrase, dev=False
            )
            key = LogKey.of_seed(verifier, unsealed(AESGCM(stretched), verifier, content.key))
        except (CredentialUnavailable, ValidationError, ValueError) as error:
            raise LedgerUnavailable(
                f"the ledger's key {verifier}, which the database keeps sealed, does not open with this "
                f"TOOLGATE_PASSPHRASE: set the one of the other gates, or {by_hand}"
            ) from error
        return key
