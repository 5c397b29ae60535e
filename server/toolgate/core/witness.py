"""What a witness of transparency logs is asked, and how it judges that (c2sp.org/tlog-witness); no I/O.

A witness keeps, of each log, the size and the root of the largest tree that it has cosigned. It cosigns
another tree only when that begins with the one it knows.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toolgate.core.merkle import EMPTY_ROOT, HASH_BYTES, is_consistent
from toolgate.core.note import BadNote, Checkpoint, Note

MOST_HASHES: Final = 63
"""In one consistency proof ("The client MUST NOT send more than 63")."""
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,17})")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True)
class Submission:
    """The body of an `add-checkpoint` request."""

    old: int
    """The size of the tree that the witness is thought to know."""
    proof: tuple[bytes, ...]
    """That the checkpoint's tree begins with that one."""
    note: Note
    checkpoint: Checkpoint
    """What the note says."""

    def __str__(self) -> str:
        hashes = "".join(f"{base64.b64encode(part).decode()}\n" for part in self.proof)
        return f"old {self.old}\n{hashes}\n{self.note}"

    @classmethod
    def of(cls, note: Note, old: int, proof: Sequence[bytes]) -> "Submission":
        """Ask for a cosignature of `note`. Raises `BadNote`."""
        return cls(old, tuple(proof), note, Checkpoint.parse(note.text))

    @classmethod
    def parse(cls, body: bytes) -> "Submission":
        """Read what `str` gives. Raises `BadNote`, which says what is malformed."""
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise BadNote("the request is not UTF-8") from error
        if _CONTROL.search(text):
            raise BadNote("the request holds control characters")
        head, gap, rest = text.partition("\n\n")
        first, *lines = head.split("\n")
        old = _OLD.fullmatch(first)
        if old is None or not gap:
            raise BadNote("the first line is not `old` and a size, or no empty line follows the proof")
        if len(lines) > MOST_HASHES:
            raise BadNote(f"the consistency proof has more than {MOST_HASHES} hashes")
        note = Note.parse(rest)
        if not all(note.text[:-1].split("\n")):
            raise BadNote("the checkpoint has an empty line")
        return cls.of(note, int(old[1]), [_hash(line) for line in lines])


@dataclass(frozen=True)
class Standing:
    """The largest tree of a log that a witness has cosigned; of an unknown log, the empty one."""

    size: int = 0
    root: bytes = EMPTY_ROOT


@dataclass(frozen=True)
class Cosigned:
    """The witness agrees. What it says is durable before anybody sees this."""

    lines: str
    """Signature lines, each with its newline."""


@dataclass(frozen=True)
class Stale:
    """The witness knows a tree of another size than it was told: 409, with that size."""

    size: int


@dataclass(frozen=True)
class Denied:
    """Anything else that is no cosignature."""

    status: int
    """Of HTTP, as c2sp.org/tlog-witness has it."""
    why: str


Verdict = Cosigned | Stale | Denied


def objection(asked: Submission, known: Standing) -> Stale | Denied | None:
    """Say why a witness that knows a tree of the log may not cosign what it is asked; None where it may.

    Whoever asks holds what makes this check and the update of what is known one step.
    """
    size, root = asked.checkpoint.size, asked.checkpoint.root
    if asked.old > size:
        return Denied(400, f"old size {asked.old} is larger than the checkpoint's {size}")
    if asked.old != known.size:
        return Stale(known.size)
    if size == 0 and root != EMPTY_ROOT:
        return Denied(422, "a checkpoint of no entries whose root is not that of the empty tree")
    if asked.old == 0:
        return Denied(422, "nothing is proven from the empty tree: send no hashes") if asked.proof else None
    if not is_consistent(asked.old, size, known.root, root, asked.proof):
        return Denied(422, f"it is not shown that the {size} entries begin with the {asked.old} known here")
    return None


def _hash(line: str) -> bytes:
    try:
        decoded = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNote("a line of the consistency proof is not base64") from error
    if len(decoded) != HASH_BYTES:
        raise BadNote("a hash of the consistency proof is not 32 bytes")
    return decoded
