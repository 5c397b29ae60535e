"""The embedded keystore: static secrets, AES-256-GCM per entry, lent to one call at a time."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from toolgate.backends.keystore_file import (
    KeystoreFile,
    SealedEntry,
    read_keystore,
    sealed,
    stamp_of,
    unsealed,
    write_keystore,
)
from toolgate.backends.lending import Static, Wanted
from toolgate.backends.master_key import KeyOrigin, KeySource, existing_key, forget_key, new_key, next_key
from toolgate.core.credential_roles import CredentialRole, FileRole
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.lease import Lease

LOOK_SECONDS: Final = 0.05
"""How long an entry that another process changed may still be lent as it was."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class RotatedKey:
    """A keystore whose key was changed."""

    source: KeySource
    entries: int
    """How many were sealed anew."""
    old_is_gone: bool
    """Whether the old key was removed from its place. It opens copies of the old file, and nothing else."""


@dataclass(frozen=True)
class _Opened:
    """The file as it was read last, and what opens it."""

    content: KeystoreFile
    stamp: tuple[int, int]
    cipher: AESGCM


class Keystore:
    """Opens the keystore at `path`; follows changes that other processes make to it, of its key too.

    Raises:
        CredentialUnavailable: it is missing, damaged, or its key is not to be had.
    """

    def __init__(
        self,
        path: Path,
        *,
        passphrase: SecretStr | None,
        dev: bool,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._path, self._now = path, now
        self._key_of = partial(existing_key, keystore=path, passphrase=passphrase, dev=dev)
        self._following = Lock()
        self._look_again = 0.0
        self._last_key: tuple[KeyOrigin, AESGCM] | None = None
        self._opened = self._open()

    @staticmethod
    def create(path: Path, *, passphrase: SecretStr | None, dev: bool) -> None:
        """Make an empty keystore at `path` and the key to it."""
        origin, key = new_key(path, passphrase=passphrase, dev=dev)
        write_keystore(path, KeystoreFile(key=origin, check=sealed(AESGCM(key), "", b"")))

    def names(self) -> list[str]:
        """Give the names of the entries."""
        return sorted(self._current().content.entries)

    def set_at(self, name: str) -> datetime | None:
        """Say when an entry got its secret (UTC), where that was noted."""
        return _entry(self._current(), name).set_at

    def get(self, name: str) -> SecretStr:
        """Open one entry.

        Raises:
            CredentialUnavailable: there is none of that name, or the file was tampered with.
        """
        self._current()
        return self.get_as_read(name)

    def get_as_read(self, name: str) -> SecretStr:
        """Open one entry of the file as it was read last, without a look at it. Raises as `get`."""
        current = self._opened
        return SecretStr(unsealed(current.cipher, name, _entry(current, name)).decode())

    def set(self, name: str, secret: SecretStr) -> None:
        """Add an entry, or put another secret in its place."""
        with self._alone() as current:
            self._put(current, name, secret)

    def rotate(self, name: str, secret: SecretStr) -> None:
        """Put another secret in the place of an entry's; one that is not there is an error."""
        with self._alone() as current:
            _entry(current, name)
            self._put(current, name, secret)

    def remove(self, name: str) -> None:
        """Remove an entry; one that is not there is an error."""
        with self._alone() as current:
            _entry(current, name)
            self._replace(current, {n: e for n, e in current.content.entries.items() if n != name})

    def rotate_key(self, passphrase: SecretStr | None) -> RotatedKey:
        """Seal every entry anew, under a new key: of `passphrase`, else in a place like the old one's.

        The file is replaced as a whole while both keys are there: whenever this breaks off, the file that is
        there opens with the key that it names.

        Raises:
            CredentialUnavailable: an entry does not open, or no new key could be made or written.
        """
        with self._alone() as current:
            before = current.content
            secrets = {name: unsealed(current.cipher, name, entry) for name, entry in before.entries.items()}
            origin, key = next_key(before.key, self._path, passphrase=passphrase)
            cipher = AESGCM(key)
            entries = {
                name: sealed(cipher, name, secret, before.entries[name].set_at)
                for name, secret in secrets.items()
            }
            write_keystore(
                self._path, KeystoreFile(key=origin, check=sealed(cipher, "", b""), entries=entries)
            )
            self._last_key = origin, cipher
            old_is_gone = forget_key(before.key, self._path)
        return RotatedKey(source=origin.source, entries=len(entries), old_is_gone=old_is_gone)

    @property
    def stamp(self) -> tuple[int, int]:
        """Tells the file that was read last from any other."""
        return self._opened.stamp

    def changed(self) -> bool:
        """Whether the file is another one than was read last."""
        return not self._is_still(self._opened.stamp)

    def lately_changed(self) -> bool:
        """The same, looked up now and then: for each call it would cost more than to open an entry."""
        at = monotonic()
        if at < self._look_again:
            return False
        self._look_again = at + LOOK_SECONDS
        return self.changed()

    def follow(self) -> None:
        """Take up what others changed. A changed passphrase takes half a second: not for the event loop.

        Raises:
            CredentialUnavailable: the file is missing, damaged, or its key is not to be had.
        """
        with self._following:
            if self.changed():
                self._opened = self._open()

    @contextmanager
    def _alone(self) -> Generator[_Opened]:
        """Keep other processes from changing the file meanwhile; gives it as it is."""
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._current()
        finally:
            os.close(lock)

    def _put(self, current: _Opened, name: str, secret: SecretStr) -> None:
        entry = sealed(current.cipher, name, secret.get_secret_value().encode(), self._now())
        self._replace(current, current.content.entries | {name: entry})

    def _replace(self, current: _Opened, entries: dict[str, SealedEntry]) -> None:
        write_keystore(self._path, current.content.model_copy(update={"entries": entries}))

    def _current(self) -> _Opened:
        if self.changed():
            self.follow()
        return self._opened

    def _open(self) -> _Opened:
        content, stamp = read_keystore(self._path)
        try:
            return _Opened(content, stamp, self._cipher_of(content))
        except CredentialUnavailable:
            if self._is_still(stamp):
                raise
        return self._open()  # its key was changed, and the old one removed, since it was read

    def _is_still(self, stamp: tuple[int, int]) -> bool:
        try:
            return stamp_of(self._path) == stamp
        except OSError:
            return False

    def _cipher_of(self, content: KeystoreFile) -> AESGCM:
        """Give what opens `content`, asking for its key where that is another one than was asked for last."""
        last = self._last_key
        if last is None or last[0] != content.key:
            last = self._last_key = content.key, AESGCM(self._key_of(content.key))
        try:
            unsealed(last[1], "", content.check)
        except CredentialUnavailable as error:
            if content.key.source != "passphrase":
                raise
            raise CredentialUnavailable("keystore_locked", _NOT_THIS_ONE, retryable=False) from error
        return last[1]


class KeystoreSource(Static):
    """Lends the keystore's entries: static secrets."""

    def __init__(self, keystore: Keystore) -> None:
        super().__init__()
        self._keystore = keystore
        self._stamp = keystore.stamp

    def at_hand(self, wanted: Wanted) -> Lease | None:
        """Lend the entry that the role names; None when the file is another one and has to be read first.

        Raises:
            CredentialUnavailable: there is none.
        """
        return None if self._keystore.lately_changed() else self._lease(wanted)

    async def lend(self, wanted: Wanted) -> Lease:
        """Lend the entry that the role names, of the file as it is now.

        Raises:
            CredentialUnavailable: there is none, or the keystore does not open.
        """
        if self._keystore.changed():
            await asyncio.to_thread(self._keystore.follow)
        return self._lease(wanted)

    def _lease(self, wanted: Wanted) -> Lease:
        role = wanted.role
        if not isinstance(role, FileRole):
            raise TypeError(f"{wanted.name} is no entry of a keystore")
        if self._keystore.stamp != self._stamp:
            self.forget()
            self._stamp = self._keystore.stamp
        return self.lease_of(wanted, role.secret, self._keystore.get_as_read(role.secret))

    def faults(self, role: CredentialRole) -> Iterator[tuple[str, str]]:
        """Say what would keep the role from being lent, and what to do."""
        if not isinstance(role, FileRole):
            return
        try:
            missing = role.secret not in self._keystore.names()
        except CredentialUnavailable as error:
            yield str(error), "see docs/how-to/secrets.md"
            return
        if missing:
            yield f"the keystore has no entry {role.secret!r}", f"add it: toolgate secrets set {role.secret}"


def _entry(current: _Opened, name: str) -> SealedEntry:
    entry = current.content.entries.get(name)
    if entry is None:
        raise CredentialUnavailable(
            "no_credential",
            f"the keystore has no entry {name!r}; add it with: toolgate secrets set {name}",
            retryable=False,
        )
    return entry


_NOT_THIS_ONE: Final = (
    "the keystore does not open with this key: its passphrase is another one; start again with that one in "
    "TOOLGATE_PASSPHRASE"
)
