"""The embedded keystore: static secrets, AES-256-GCM per entry, lent to one call at a time."""

import base64
import fcntl
import os
import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field, SecretStr, ValidationError

from toolgate.backends.master_key import KeyOrigin, existing_key, new_key
from toolgate.core.call import Call
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.lease import Lease
from toolgate.core.record import Record
from toolgate.core.tool import Tool


class SealedEntry(Record):
    """One secret, sealed. Its name is bound into it: entries cannot be swapped."""

    nonce: str
    sealed: str


class KeystoreFile(Record):
    """What is on the disk."""

    version: int = 1
    key: KeyOrigin
    check: SealedEntry
    """Seals nothing; opens only with the right key."""
    entries: dict[str, SealedEntry] = Field(default_factory=dict)


class Keystore:
    """Opens the keystore at `path`; follows changes that other processes make to it.

    Raises:
        CredentialUnavailable: it is missing, damaged, or its key is not to be had.
    """

    def __init__(self, path: Path, *, passphrase: SecretStr | None, dev: bool) -> None:
        self._path = path
        self._content, self._stamp = _read(path)
        self._cipher = AESGCM(existing_key(self._content.key, path, passphrase=passphrase, dev=dev))
        self._unseal("", self._content.check)

    @staticmethod
    def create(path: Path, *, passphrase: SecretStr | None, dev: bool) -> None:
        """Make an empty keystore at `path` and the key to it."""
        origin, key = new_key(path, passphrase=passphrase, dev=dev)
        _write(path, KeystoreFile(key=origin, check=_seal(AESGCM(key), "", b"")))

    def names(self) -> list[str]:
        """Give the names of the entries."""
        return sorted(self._current().entries)

    def get(self, name: str) -> SecretStr:
        """Open one entry.

        Raises:
            CredentialUnavailable: there is none of that name, or the file was tampered with.
        """
        entry = self._current().entries.get(name)
        if entry is None:
            raise CredentialUnavailable(
                "no_credential",
                f"the keystore has no entry {name!r}; add it with: toolgate secrets set {name}",
                retryable=False,
            )
        return SecretStr(self._unseal(name, entry).decode())

    def set(self, name: str, secret: SecretStr) -> None:
        """Add an entry, or put another secret in its place."""
        sealed = _seal(self._cipher, name, secret.get_secret_value().encode())
        with self._alone():
            self._replace(self._current().entries | {name: sealed})

    def remove(self, name: str) -> None:
        """Remove an entry; one that is not there is an error."""
        with self._alone():
            self.get(name)
            self._replace({n: e for n, e in self._current().entries.items() if n != name})

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keep other processes from changing the file meanwhile."""
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _replace(self, entries: dict[str, SealedEntry]) -> None:
        _write(self._path, self._content.model_copy(update={"entries": entries}))

    def _current(self) -> KeystoreFile:
        try:
            changed = _stamp_of(self._path) != self._stamp
        except OSError:
            changed = True
        if changed:
            content, stamp = _read(self._path)
            self._unseal("", content.check)
            self._content, self._stamp = content, stamp
        return self._content

    def _unseal(self, name: str, entry: SealedEntry) -> bytes:
        try:
            return self._cipher.decrypt(
                base64.b64decode(entry.nonce), base64.b64decode(entry.sealed), name.encode()
            )
        except (InvalidTag, ValueError) as error:
            what = f"entry {name!r}" if name else "the keystore"
            raise CredentialUnavailable(
                "keystore_locked", f"{what} does not open with this key", retryable=False
            ) from error


class KeystoreVault:
    """Lends the keystore's entries."""

    def __init__(self, keystore: Keystore) -> None:
        self._keystore = keystore

    @asynccontextmanager
    async def borrow(self, tool: Tool, call: Call) -> AsyncGenerator[Lease | None]:
        """Lend the entry that the tool's credential role names; None where it needs none."""
        if tool.credential is None:
            yield None
            return
        secret = self._keystore.get(tool.credential.secret)
        yield Lease(id=f"static-{call.id}", secret=secret, static=True)


def _seal(cipher: AESGCM, name: str, secret: bytes) -> SealedEntry:
    nonce = os.urandom(12)
    sealed = cipher.encrypt(nonce, secret, name.encode())
    return SealedEntry(nonce=base64.b64encode(nonce).decode(), sealed=base64.b64encode(sealed).decode())


def _read(path: Path) -> tuple[KeystoreFile, tuple[int, int]]:
    try:
        stamp = _stamp_of(path)
        return KeystoreFile.model_validate_json(path.read_bytes()), stamp
    except (OSError, ValidationError) as error:
        raise CredentialUnavailable(
            "keystore_locked",
            f"{path.name} cannot be read as a keystore; restore it, or make a new one with: toolgate init",
            retryable=False,
        ) from error


def _write(path: Path, content: KeystoreFile) -> None:
    """Replace the file as a whole, so that whoever reads it sees the old or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.model_dump_json(indent=2).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        problem = f"{path.name} cannot be written ({error.strerror})"
        raise CredentialUnavailable("keystore_locked", problem, retryable=False) from error


def _stamp_of(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ino
