"""Signed notes and the checkpoints in them: a log's signed statement of what it holds.

C2SP signed-note (c2sp.org/signed-note) and tlog-checkpoint (c2sp.org/tlog-checkpoint). Only their texts;
whoever signs and verifies hands in the bytes.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from toolgate.core.merkle import HASH_BYTES

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
"""A witness's timestamped Ed25519 signature (c2sp.org/tlog-cosignature)."""
_KEY_ID_BYTES: Final = 4
_PUBLIC_KEY_BYTES: Final = 32
_LARGEST: Final = 1_000_000
_NAME: Final = re.compile(r"[^\s+]+")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,17}")


class BadNote(Exception):  # noqa: N818 - named by what it is
    """A text that is no signed note, no checkpoint or no verifier key. The message says why."""


@dataclass(frozen=True)
class VerifierKey:
    """The public half of a log's or a witness's key, under its name (signed-note, "Verifier keys")."""

    name: str
    public: bytes
    """32 bytes of Ed25519."""
    kind: int = ED25519
    """What it signs with: `ED25519` a log, `COSIGNATURE` a witness."""

    @property
    def id(self) -> bytes:
        """Four bytes that tell this key from the others of its name."""
        spelled = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return sha256(spelled).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        """Spell it as `name+id+key`, which is how it is handed to verifiers."""
        key = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{key}"

    @classmethod
    def parse(cls, text: str, kind: int = ED25519) -> "VerifierKey":
        """Read what `str` gives of a key of this kind. Raises `BadNote`."""
        name, _, rest = text.strip().partition("+")
        id_, _, encoded = rest.partition("+")
        key = _decoded(encoded)
        if not _NAME.fullmatch(name) or not name.isprintable() or not key:
            raise BadNote("this is no verifier key: name+id+key is expected")
        if len(key) != 1 + _PUBLIC_KEY_BYTES or key[0] != kind:
            raise BadNote(_OTHER_KIND.get(kind, "") + f"; this one is of type {key[0]:#04x}")
        parsed = cls(name, key[1:], kind)
        if parsed.id.hex() != id_:
            raise BadNote("the verifier key does not have the id that it says")
        return parsed


_OTHER_KIND: Final = {
    ED25519: "a log's Ed25519 verifier key (type 0x01) is expected",
    COSIGNATURE: "a witness's Ed25519 verifier key (type 0x04) is expected",
}


@dataclass(frozen=True)
class Signature:
    """One signature line of a note."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"\u2014 {self.name} {base64.b64encode(self.key_id + self.signature).decode()}"

    @classmethod
    def parse(cls, line: str) -> "Signature":
        """Read what `str` gives. Raises `BadNote`."""
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        decoded = _decoded(encoded)
        if dash != "\u2014" or not _NAME.fullmatch(name) or len(decoded) <= _KEY_ID_BYTES:
            raise BadNote("a signature line of the note is malformed")
        return cls(name, decoded[:_KEY_ID_BYTES], decoded[_KEY_ID_BYTES:])


@dataclass(frozen=True)
class Checkpoint:
    """What a log says of itself: its origin, how many entries it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed, with its last newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a note's text; extension lines are allowed and ignored. Raises `BadNote`."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not lines[0] or not _SIZE.fullmatch(lines[1]):  # noqa: PLR2004
            raise BadNote("this is no checkpoint: origin, size and root are expected, a line each")
        root = _decoded(lines[2])
        if len(root) != HASH_BYTES:
            raise BadNote("the checkpoint's root is not 32 bytes")
        return cls(lines[0], int(lines[1]), root)


@dataclass(frozen=True)
class Note:
    """A text and the signatures under it."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(f"{signature}\n" for signature in self.signatures)

    def by(self, key: VerifierKey) -> list[Signature]:
        """Give the signature lines that say to be `key`'s."""
        return [line for line in self.signatures if (line.name, line.key_id) == (key.name, key.id)]

    @classmethod
    def parse(cls, message: str) -> "Note":
        """Read a signed note. Raises `BadNote`."""
        text, gap, lines = message.rpartition("\n\n")
        if len(message) > _LARGEST or not gap or not lines.endswith("\n"):
            raise BadNote("this is no signed note: a text, an empty line and signatures are expected")
        return cls(text + "\n", tuple(Signature.parse(line) for line in lines[:-1].split("\n")))


def signed(checkpoint: Checkpoint, *signatures: tuple[VerifierKey, bytes]) -> Note:
    """Put the signatures of `checkpoint.text` under it."""
    lines = tuple(Signature(key.name, key.id, signature) for key, signature in signatures)
    return Note(checkpoint.text, lines)


def cosigned_message(text: str, at: int) -> bytes:
    """Give what a witness signs of a checkpoint's text, `at` seconds after 1970 (tlog-cosignature)."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNote("base64 is expected") from error
