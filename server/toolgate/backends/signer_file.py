"""A signer's Ed25519 key in a file that only its owner may read: a log's, or a witness's."""

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from toolgate.backends.durable_files import replace_file, sync_folder
from toolgate.core.note import COSIGNATURE, ED25519, VerifierKey

_SIGNER: Final = re.compile(r"PRIVATE\+KEY\+([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)\n?")
_SEED_BYTES: Final = 32
_WHOSE: Final = {ED25519: "log's", COSIGNATURE: "witness's"}


class BadSigner(Exception):  # noqa: N818 - named by what it is
    """A file that holds no key which may be used."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        """What is the matter with it: `was damaged`."""
        self.remedy = remedy
        """What mends it, where that is not the same for every signer."""


def read_signer(file: Path, kind: int) -> tuple[str, Ed25519PrivateKey]:
    """Read the name and the key that `write_signer` wrote, of this kind. Raises `BadSigner`."""
    try:
        if file.stat().st_mode & 0o077:
            raise BadSigner("can be read by others", f"run: chmod 600 {file}")
        text = file.read_text("utf-8")
    except OSError as error:
        raise BadSigner(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadSigner(f"is no {_WHOSE[kind]} key") from error
    found = _SIGNER.fullmatch(text)
    try:
        key = base64.b64decode(found[3], validate=True) if found else b""
    except binascii.Error as error:
        raise BadSigner("was damaged", "restore it") from error
    if found is None or len(key) != 1 + _SEED_BYTES or key[0] != kind:
        raise BadSigner(f"is no {_WHOSE[kind]} key")
    private = Ed25519PrivateKey.from_private_bytes(key[1:])
    if verifier_of(found[1], private, kind).id.hex() != found[2]:
        raise BadSigner("was damaged", "restore it")
    return found[1], private


def write_signer(file: Path, verifier: VerifierKey, private: Ed25519PrivateKey) -> None:
    """Write a key where only the owner may read it, and its public half beside it as `.vkey`.

    Raises:
        FileExistsError: there is one already; of several that are written at once, one wins.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    replace_signer(draft, verifier, private)
    try:
        file.hardlink_to(draft)
    finally:
        draft.unlink()
    sync_folder(file)
    show_verifier(file, verifier)


def replace_signer(file: Path, verifier: VerifierKey, private: Ed25519PrivateKey) -> None:
    """Put a key in the place of `file`, wholly and durably, where only the owner may read it."""
    key = base64.b64encode(bytes([verifier.kind]) + private.private_bytes_raw()).decode()
    replace_file(file, f"PRIVATE+KEY+{verifier.name}+{verifier.id.hex()}+{key}\n", 0o600)


def show_verifier(file: Path, verifier: VerifierKey) -> None:
    """Write the public half beside `file`, as `.vkey`."""
    replace_file(file.with_suffix(".vkey"), f"{verifier}\n", 0o644)


def verifier_of(name: str, private: Ed25519PrivateKey, kind: int) -> VerifierKey:
    """Give the public half of a key."""
    return VerifierKey(name, private.public_key().public_bytes_raw(), kind)
