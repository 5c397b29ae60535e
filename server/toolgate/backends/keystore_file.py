"""What the keystore's file says, and how its entries are sealed: AES-256-GCM, each under its name."""

import base64
import os
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field, ValidationError

from toolgate.backends.durable_files import replace_file
from toolgate.backends.master_key import KeyOrigin
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.record import Record


class SealedEntry(Record):
    """One secret, sealed. Its name is bound into it: entries cannot be swapped."""

    nonce: str
    sealed: str
    set_at: datetime | None = None
    """When its secret was set (UTC); None in a keystore that did not note it. Told, and not believed."""


class KeystoreFile(Record):
    """What is on the disk."""

    version: int = 1
    key: KeyOrigin
    check: SealedEntry
    """Seals nothing; opens only with the right key."""
    entries: dict[str, SealedEntry] = Field(default_factory=dict)


def sealed(cipher: AESGCM, name: str, secret: bytes, set_at: datetime | None = None) -> SealedEntry:
    """Seal a secret under its name."""
    nonce = os.urandom(12)
    closed = cipher.encrypt(nonce, secret, name.encode())
    return SealedEntry(
        nonce=base64.b64encode(nonce).decode(), sealed=base64.b64encode(closed).decode(), set_at=set_at
    )


def unsealed(cipher: AESGCM, name: str, entry: SealedEntry) -> bytes:
    """Give the secret of an entry; that without a name is the keystore's own check.

    Raises:
        CredentialUnavailable: it was sealed with another key or under another name, or is damaged.
    """
    try:
        return cipher.decrypt(base64.b64decode(entry.nonce), base64.b64decode(entry.sealed), name.encode())
    except (InvalidTag, ValueError) as error:
        what = f"entry {name!r}" if name else "the keystore"
        problem = f"{what} does not open with this key"
        raise CredentialUnavailable("keystore_locked", problem, retryable=False) from error


def read_keystore(path: Path) -> tuple[KeystoreFile, tuple[int, int]]:
    """Read the file; gives what tells it from any later one too.

    Raises:
        CredentialUnavailable: it is missing, or no keystore.
    """
    try:
        stamp = stamp_of(path)
        return KeystoreFile.model_validate_json(path.read_bytes()), stamp
    except (OSError, ValidationError) as error:
        raise CredentialUnavailable(
            "keystore_locked",
            f"{path.name} cannot be read as a keystore; restore it, or make a new one with: toolgate init",
            retryable=False,
        ) from error


def write_keystore(path: Path, content: KeystoreFile) -> None:
    """Replace the file as a whole, so that whoever reads it sees the old or the new one.

    Raises:
        CredentialUnavailable: it cannot be written.
    """
    try:
        replace_file(path, content.model_dump_json(indent=2), 0o600)
    except OSError as error:
        problem = f"{path.name} cannot be written ({error.strerror})"
        raise CredentialUnavailable("keystore_locked", problem, retryable=False) from error


def stamp_of(path: Path) -> tuple[int, int]:
    """Tell a file from the one that a rename puts in its place."""
    stat = os.stat(path)  # noqa: PTH116 - for each call, and `Path` takes several times as long
    return stat.st_mtime_ns, stat.st_ino
