"""Where the key that opens the embedded keystore comes from.

The operating system's keyring where there is one, else a passphrase (Argon2id, RFC 9106), else, in dev mode
only, a file beside the keystore with mode 0600. Which of them it is gets decided once, when the keystore is
made, and is written in it: a keystore never falls back from one to another. A key is changed by a new one
beside it, under a name of its own: until the keystore names that one, the old one opens it.
"""

import base64
import os
import secrets
from pathlib import Path
from typing import Final, Literal

import keyring
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from keyring.errors import KeyringError
from pydantic import SecretStr

from toolgate.backends.durable_files import sync_folder
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.record import Record

KeySource = Literal["keyring", "passphrase", "file"]

_SERVICE: Final = "toolgate"
_BYTES: Final = 32


class KeyOrigin(Record):
    """How to get the key again; holds nothing secret. Costs are RFC 9106's second recommended choice."""

    source: KeySource
    name: str
    """The keyring entry or the file, unused for a passphrase."""
    salt: str = ""
    iterations: int = 3
    lanes: int = 4
    memory_kib: int = 65_536


def new_key(keystore: Path, *, passphrase: SecretStr | None, dev: bool) -> tuple[KeyOrigin, bytes]:
    """Choose where the key of a new keystore lives, and make it.

    Raises:
        CredentialUnavailable: no keyring, no passphrase, and not in dev mode.
    """
    if _keyring_usable():
        return _new_in_keyring(f"{keystore.resolve()}")
    if passphrase is not None:
        return key_of_passphrase(passphrase)
    if dev:
        return _new_in_file(keystore.with_suffix(".key"))
    raise CredentialUnavailable(
        "keystore_locked",
        "there is no keyring on this machine: set TOOLGATE_PASSPHRASE (a key file is for dev mode only)",
        retryable=False,
    )


def next_key(origin: KeyOrigin, keystore: Path, *, passphrase: SecretStr | None) -> tuple[KeyOrigin, bytes]:
    """Make the key that is to follow the one of `origin`, which stays where it is.

    It is made of the new `passphrase` where there is one, else it gets a place like the old one's.

    Raises:
        CredentialUnavailable: it was made of a passphrase, and there is no new one; or its place took none.
    """
    if passphrase is not None:
        return key_of_passphrase(passphrase)
    mark = secrets.token_hex(4)
    match origin.source:
        case "keyring":
            return _new_in_keyring(f"{keystore.resolve()}#{mark}")
        case "file":
            return _new_in_file(keystore.with_suffix(f".{mark}.key"))
        case "passphrase":
            raise CredentialUnavailable(
                "keystore_locked",
                "set TOOLGATE_NEW_PASSPHRASE to what is to open it from now on; nothing was changed",
                retryable=False,
            )


def forget_key(origin: KeyOrigin, keystore: Path) -> bool:
    """Remove a key that opens the keystore no more; says whether it is gone."""
    try:
        match origin.source:
            case "keyring":
                keyring.delete_password(_SERVICE, origin.name)
            case "file":
                keystore.with_name(origin.name).unlink()
            case "passphrase":
                pass
    except (KeyringError, OSError):
        return False
    return True


def existing_key(origin: KeyOrigin, keystore: Path, *, passphrase: SecretStr | None, dev: bool) -> bytes:
    """Get the key of an existing keystore from where its `origin` says, and from nowhere else.

    Raises:
        CredentialUnavailable: it is not there, or is no key.
    """
    try:
        key = _stored_key(origin, keystore, passphrase=passphrase, dev=dev)
    except ValueError as error:
        raise _locked("what says where its key is was damaged; restore the file") from error
    if len(key) != _BYTES:
        raise _locked("its key was damaged; restore it")
    return key


def _new_in_keyring(name: str) -> tuple[KeyOrigin, bytes]:
    key = secrets.token_bytes(_BYTES)
    try:
        keyring.set_password(_SERVICE, name, base64.b64encode(key).decode())
    except KeyringError as error:
        raise _locked("the operating system's keyring did not take its key") from error
    return KeyOrigin(source="keyring", name=name), key


def origin_of_salt(salt: str) -> KeyOrigin:
    """Say how a key was made of a passphrase and `salt`, at the costs of this program and no others."""
    return KeyOrigin(source="passphrase", name="", salt=salt)


def key_of_passphrase(passphrase: SecretStr) -> tuple[KeyOrigin, bytes]:
    """Make a key of a passphrase, with a new salt."""
    salt = base64.b64encode(os.urandom(16)).decode()
    origin = origin_of_salt(salt)
    return origin, _stretched(origin, passphrase)


def _new_in_file(path: Path) -> tuple[KeyOrigin, bytes]:
    key = secrets.token_bytes(_BYTES)
    _write_private(path, base64.b64encode(key))
    return KeyOrigin(source="file", name=path.name), key


def _stored_key(origin: KeyOrigin, keystore: Path, *, passphrase: SecretStr | None, dev: bool) -> bytes:
    match origin.source:
        case "keyring":
            return _from_keyring(origin)
        case "passphrase":
            if passphrase is None:
                raise _locked("set TOOLGATE_PASSPHRASE")
            return _stretched(origin, passphrase)
        case "file":
            if not dev:
                raise _locked(
                    "its key is in a file, which is for dev mode only; set TOOLGATE_NEW_PASSPHRASE, and run: "
                    "TOOLGATE_MODE=dev toolgate secrets rotate --key"
                )
            return _from_file(keystore.with_name(origin.name))


def _from_keyring(origin: KeyOrigin) -> bytes:
    try:
        stored = keyring.get_password(_SERVICE, origin.name)
    except KeyringError as error:
        raise _locked("the operating system's keyring did not open") from error
    if stored is None:
        raise _locked("its key is not in the operating system's keyring")
    return base64.b64decode(stored)


def _from_file(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise _locked(f"{path.name} can be read by others; run: chmod 600 {path.name}")
        return base64.b64decode(path.read_bytes())
    except OSError as error:
        raise _locked(f"{path.name} cannot be read") from error


def _stretched(origin: KeyOrigin, passphrase: SecretStr) -> bytes:
    return Argon2id(
        salt=base64.b64decode(origin.salt),
        length=_BYTES,
        iterations=origin.iterations,
        lanes=origin.lanes,
        memory_cost=origin.memory_kib,
    ).derive(passphrase.get_secret_value().encode())


def _keyring_usable() -> bool:
    """Whether a keyring is there that its makers recommend: headless machines have none.

    The keyring project gives less than 1 to those that keep what they get in a plain file.
    """
    return float(getattr(keyring.get_keyring(), "priority", 0)) >= 1


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path)


def _locked(remedy: str) -> CredentialUnavailable:
    return CredentialUnavailable(
        "keystore_locked", f"the keystore cannot be opened: {remedy}", retryable=False
    )
