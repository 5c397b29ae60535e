"""The key with which the log signs its checkpoints: Ed25519, in a file that only its owner may read."""

import base64
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from toolgate.backends.signer_file import (
    BadSigner,
    read_signer,
    replace_signer,
    show_verifier,
    verifier_of,
    write_signer,
)
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import ED25519, Checkpoint, Note, VerifierKey, signed

_SECRET_BYTES: Final = 32


class LogKey:
    """Signs for one origin. Its repr shows no secret.

    Args:
        file: where it was read; None for a key that is kept nowhere yet.
    """

    def __init__(self, origin: str, private: Ed25519PrivateKey, file: Path | None = None) -> None:
        self._private = private
        self.file = file
        self._seen = _identity(file)
        self.verifier = verifier_of(origin, private, ED25519)

    @classmethod
    def new(cls, origin: str) -> "LogKey":
        """Make a key."""
        return cls(origin, Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, file: Path) -> "LogKey":
        """Read the key that `write` wrote.

        Raises:
            LedgerUnavailable: it is not there, others may read it, or it is no key.
        """
        try:
            return cls(*read_signer(file, ED25519), file)
        except BadSigner as bad:
            remedy = bad.remedy or "restore it"
            raise LedgerUnavailable(f"{file.name}, the ledger's key, {bad.problem}; {remedy}") from bad

    def write(self, file: Path) -> None:
        """Write it where only the owner may read it, and its public half beside it as `.vkey`.

        Raises:
            FileExistsError: there is one already; of several that are written at once, one wins.
        """
        write_signer(file, self.verifier, self._private)

    def keep(self, file: Path) -> None:
        """Put it in the place of `file`, wholly and durably, where only the owner may read it."""
        replace_signer(file, self.verifier, self._private)

    def show(self, file: Path) -> None:
        """Write its public half beside `file`, as `.vkey`."""
        show_verifier(file, self.verifier)

    def current(self) -> "LogKey":
        """Give the key that is in its file now: another process may have changed it.

        Raises:
            LedgerUnavailable: another file is there, and it holds no key that may be read.
        """
        if self.file is None or _identity(self.file) in {None, self._seen}:
            return self
        return LogKey.read(self.file)

    def sign(self, message: bytes) -> bytes:
        """Sign `message` (RFC 8032)."""
        return self._private.sign(message)

    def seed(self) -> bytes:
        """Give the private key itself (RFC 8032), to be sealed at once."""
        return self._private.private_bytes_raw()

    @classmethod
    def of_seed(cls, verifier: str, seed: bytes) -> "LogKey":
        """Make the key of `verifier` again from what `seed` gave.

        Raises:
            ValueError: it is another key's.
        """
        key = cls(verifier.partition("+")[0], Ed25519PrivateKey.from_private_bytes(seed))
        if f"{key.verifier}" != verifier:
            raise ValueError("it is another key's")
        return key

    def derived(self, purpose: str) -> bytes:
        """Give a secret for another `purpose`, from which nobody can tell this key (RFC 5869)."""
        known = HKDF(algorithm=SHA256(), length=_SECRET_BYTES, salt=None, info=purpose.encode())
        return known.derive(self._private.private_bytes_raw())

    def note(self, checkpoint: Checkpoint, *others: "LogKey") -> Note:
        """Sign a checkpoint, with other keys too."""
        message = checkpoint.text.encode()
        return signed(checkpoint, *((key.verifier, key.sign(message)) for key in (self, *others)))

    def endorse(self, new: VerifierKey) -> str:
        """Sign that `new` is to follow this key; base64, as a `key_rotate` entry has it."""
        return base64.b64encode(self.sign(f"{new}\n".encode())).decode()


def is_signed(note: Note, key: VerifierKey) -> bool:
    """Whether `note` bears a good signature by `key`."""
    public = Ed25519PublicKey.from_public_bytes(key.public)
    for line in note.signatures:
        if (line.name, line.key_id) == (key.name, key.id):
            try:
                public.verify(line.signature, note.text.encode())
            except InvalidSignature:
                return False
            return True
    return False


def _identity(file: Path | None) -> tuple[int, int] | None:
    """Which file a path means now; a rename puts another one there."""
    if file is None:
        return None
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
