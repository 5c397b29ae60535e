#!/usr/bin/env python3
"""Verifies a Toolgate ledger, and proofs out of one, without Toolgate.

This one file needs Python 3.11 and `cryptography`; read it before you trust it. What it verifies is written
down in docs/reference/ledger.md: an RFC 9162 Merkle tree in SQLite, checkpoints as C2SP signed notes, proofs
as C2SP `tlog-proof` files, and cosignatures of witnesses as C2SP `tlog-cosignature`.

    verify.py ledger DATABASE --key KEY --checkpoint FILE     the whole ledger
    verify.py proof FILE --key KEY                            one entry
    verify.py consistency OLD NEW DATABASE --key KEY          nothing before OLD was changed in NEW
    verify.py consistency OLD NEW --proof FILE --key KEY      the same, without the database
    verify.py tiles FOLDER --key KEY --checkpoint FILE        an exported ledger (C2SP tlog-tiles)
    verify.py bundle FILE.zip --key KEY                       the answer to a question, with its proofs

With --witnesses FILE, a C2SP `tlog-policy`, a quorum of witnesses must have cosigned it, too.

It exits with 0 when all was verified, 1 when something was tampered with, and 2 when it cannot tell: whoever
can write the database can also make another whole ledger in it. Only a key and a checkpoint that you kept
elsewhere show that it is the one that was published.
"""

import argparse
import base64
import binascii
import csv
import hmac
import io
import json
import re
import sqlite3
import sys
import time
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, Unpack, get_args
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Verdict: TypeAlias = Literal["verified", "tampered", "cannot tell"]
Progress: TypeAlias = Callable[[int, int], None]
"""Hears how many entries were read, and about how many there are."""

EXIT: Final[dict[Verdict, int]] = {"verified": 0, "tampered": 1, "cannot tell": 2}
EMPTY_ROOT: Final = sha256(b"").digest()

_HASH: Final = 32
_SALT: Final = 32
_LEVEL: Final = 16
_BLOCK: Final = 1 << _LEVEL
_STRIDE: Final = 8
_HIGHEST: Final = 56
_ROWS: Final = 512
_LARGEST_VALUE: Final = 1 << 28
_LARGEST_ENTRY: Final = 1 << 18
_LARGEST_FILE: Final = 1 << 20
_MOST_FAULTS: Final = 50


class Unreadable(Exception):  # noqa: N818 - named by what it is
    """What should be verified cannot be read: nothing can be said of it. The message says why."""


# --- What is found -------------------------------------------------------------------------------------

Certainty: TypeAlias = Literal["entry", "range", "node", "checkpoint", "tip"]
"""How closely a fault points to the entry that is wrong, closest first."""
_CERTAINTIES: Final = get_args(Certainty)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is not as the gate wrote it."""

    index: int
    """The entry that is wrong; for a range the first that may be; for the other tables, where it belongs."""
    last: int
    where: str
    """Table and column."""
    what: str
    certainty: Certainty = "entry"

    def __str__(self) -> str:
        place = f"entry {self.index}" if self.index == self.last else f"entries {self.index} to {self.last}"
        return f"{place}: {self.where}: {self.what}"


@dataclass(kw_only=True)
class Report:
    """What was verified, what was found, and what could not be verified."""

    entries: int = 0
    faults: list[Fault] = field(default_factory=list[Fault])
    """The first of them; there may be more."""
    doubts: list[str] = field(default_factory=list[str])
    """Why it cannot be said that all is well, and what to do about it."""
    checked: list[str] = field(default_factory=list[str])
    not_checked: list[str] = field(default_factory=list[str])
    covered: int = 0
    """So many entries, from the first on, are those under a checkpoint from outside."""
    body: bytes | None = None
    """The entry that a proof proves."""

    @property
    def verdict(self) -> Verdict:
        if self.faults:
            return "tampered"
        return "cannot tell" if self.doubts else "verified"

    @property
    def headline(self) -> Fault | None:
        """The fault that says best where the first wrong entry is.

        Behind a checkpoint that does not match, an entry that looks wrong says nothing about the first one.
        """
        ranges = [fault for fault in self.faults if fault.certainty == "range"]
        end = min((fault.last for fault in ranges), default=None)
        told = [fault for fault in self.faults if end is None or fault.index <= end]
        return min(told, key=lambda fault: (_CERTAINTIES.index(fault.certainty), fault.index), default=None)

    @property
    def first_bad(self) -> int | None:
        """The first entry that is wrong, or may be."""
        return self.headline.index if self.headline else None

    def fault(
        self, index: int, where: str, what: str, *, last: int | None = None, certainty: Certainty = "entry"
    ) -> None:
        """Note a fault, unless there are many."""
        # A checkpoint tells where the first wrong entry can be: it is noted however many others there are.
        if len(self.faults) < _MOST_FAULTS or (certainty == "range" and len(self.faults) < 2 * _MOST_FAULTS):
            last = index if last is None else last
            self.faults.append(Fault(index=index, last=last, where=where, what=what, certainty=certainty))

    def lines(self) -> Iterator[str]:
        """Say it to a person."""
        if headline := self.headline:
            yield f"TAMPERED: {headline}"
            yield "Keep what was verified, and every checkpoint, as it is; compare with a copy from before."
            yield from (f"  also: {fault}" for fault in self.faults if fault is not headline)
        else:
            yield f"{self.verdict.upper()}: {self.entries} entries"
        for title, texts in (
            ("cannot tell", self.doubts),
            ("checked", self.checked),
            ("not checked", self.not_checked),
        ):
            yield from (f"  {title}: {text}" for text in texts)
        if self.body is not None:
            yield f"  the entry: {ascii(self.body)[2:-1]}"

    def as_json(self) -> str:
        """Say it to a program."""
        faults = [asdict(fault) for fault in self.faults]
        said = {
            "verdict": self.verdict,
            "entries": self.entries,
            "covered": self.covered,
            "first_bad": self.first_bad,
            "faults": faults,
        }
        rest = {"doubts": self.doubts, "checked": self.checked, "not_checked": self.not_checked}
        return json.dumps(said | rest, indent=2)


# --- The tree (RFC 9162, section 2.1) ------------------------------------------------------------------


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry (RFC 9162, section 2.1.1)."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two nodes into their parent (RFC 9162, section 2.1.1)."""
    return sha256(b"\1" + left + right).digest()


def root_from_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """Give the root that an inclusion proof leads to, or None when it cannot be one.

    The proof's hashes are those of the levels on which the path has a sibling: below the point where the
    paths of this and of the last entry part there is one on each level, above it only those to the left.
    """
    if not 0 <= index < size or any(len(part) != _HASH for part in (leaf, *proof)):
        return None
    inner = (index ^ (size - 1)).bit_length()
    if len(proof) != inner + (index >> inner).bit_count():
        return None
    node = leaf
    for level, part in enumerate(proof):
        right_child = level >= inner or index >> level & 1
        node = node_hash(part, node) if right_child else node_hash(node, part)
    return node


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `new` entries begins with that of `old` entries.

    An old tree of no entries shows nothing and is refused.
    """
    if not 0 < old <= new or any(len(part) != _HASH for part in (old_root, new_root, *proof)):
        return False
    if old == new:
        return not proof and old_root == new_root
    # The largest complete subtree at the old tree's right edge: its last entry's path is followed from there.
    start = (old & -old).bit_length() - 1
    parts = [old_root, *proof] if old == 1 << start else list(proof)
    index, last = (old - 1) >> start, (new - 1) >> start
    inner = (index ^ last).bit_length()
    if len(parts) != 1 + inner + (index >> inner).bit_count():
        return False
    before = after = parts[0]
    for level, part in enumerate(parts[1:]):
        if level >= inner or index >> level & 1:
            before, after = node_hash(part, before), node_hash(part, after)
        else:
            after = node_hash(after, part)
    return (before, after) == (old_root, new_root)


class Tree:
    """Hashes entries block by block, each level of a block at once; 65,536 entries are a block."""

    def __init__(self) -> None:
        self.size = 0
        self._first = 0
        self._before: list[bytes] = []
        """The complete subtrees before the last block, largest first."""
        self._levels: list[list[bytes]] = [[]]

    def add(self, leaves: list[bytes]) -> Iterator[tuple[int, int, bytes]]:
        """Add a block (only the last may be short); gives the nodes it completed: level, number, hash."""
        if len(self._levels[0]) == _BLOCK:
            self._before, _ = self._folded()
            self._first += _BLOCK
        self._levels = [leaves]
        while len(below := self._levels[-1]) > 1:
            pairs = zip(below[::2], below[1::2], strict=False)
            self._levels.append([sha256(b"\1" + left + right).digest() for left, right in pairs])
        self.size = self._first + len(leaves)
        for level in range(_STRIDE, len(self._levels), _STRIDE):
            for number, node in enumerate(self._levels[level], self._first >> level):
                yield level, number, node
        if len(leaves) == _BLOCK:
            yield from self._nodes_above()

    def root(self, size: int) -> bytes:
        """Give the root over the first `size` entries; it must end in the last block."""
        parts = self.frontier(size)
        if not parts:
            return EMPTY_ROOT
        node = parts[-1]
        for left in reversed(parts[:-1]):
            node = node_hash(left, node)
        return node

    def frontier(self, size: int) -> list[bytes]:
        """Give the roots of the complete subtrees of the first `size` entries, largest first."""
        if size == self._first + _BLOCK:
            before, _ = self._folded()
            return before
        parts, at = list(self._before), 0
        for level in reversed(range(len(self._levels))):
            if (size - self._first) >> level & 1:
                parts.append(self._levels[level][at >> level])
                at += 1 << level
        return parts

    def _folded(self) -> tuple[list[bytes], list[tuple[int, int, bytes]]]:
        """Join the last block, which is full, to the subtrees before it; gives those, and the joints."""
        before, node = list(self._before), self._levels[_LEVEL][0]
        joints: list[tuple[int, int, bytes]] = []
        level, number = _LEVEL, self._first >> _LEVEL
        while number & 1:
            node = node_hash(before.pop(), node)
            level, number = level + 1, number >> 1
            joints.append((level, number, node))
        return [*before, node], joints

    def _nodes_above(self) -> Iterator[tuple[int, int, bytes]]:
        _, joints = self._folded()
        return (joint for joint in joints if joint[0] % _STRIDE == 0)


# --- Keys, notes, checkpoints (C2SP signed-note and tlog-checkpoint) -----------------------------------

_ED25519: Final = 1
_COSIGNATURE: Final = 4
_TIME: Final = 8
_LATEST: Final = 253_402_300_799
"""The last second of the year 9999."""
_KEY_ID: Final = 4
_NAME: Final = re.compile(r"[^\s+]+")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


def unbase64(text: str) -> bytes:
    """Decode base64 that is spelled as it must be. Raises `Unreadable`."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unreadable("base64 is expected") from error
    if base64.b64encode(decoded).decode() != text:
        raise Unreadable("base64 is expected, in its one spelling")
    return decoded


@dataclass(frozen=True)
class VerifierKey:
    """The public half of a log's key, or of a witness's."""

    name: str
    public: bytes
    kind: int = _ED25519

    @classmethod
    def parse(cls, text: str, kind: int = _ED25519) -> "VerifierKey":
        """Read `name+id+key` of this kind of key. Raises `Unreadable`."""
        name, _, rest = text.strip().partition("+")
        id_, _, encoded = rest.partition("+")
        key = unbase64(encoded)
        if any("\ud800" <= char <= "\udfff" for char in name):
            raise Unreadable("the verifier key's name is no text")
        if not _NAME.fullmatch(name) or len(key) != 1 + _HASH or key[0] != kind:
            raise Unreadable(f"this is no Ed25519 verifier key of type {kind}: name+id+key is expected")
        parsed = cls(name, key[1:], kind)
        if parsed.id.hex() != id_:
            raise Unreadable("the verifier key does not have the id that it says")
        return parsed

    @property
    def id(self) -> bytes:
        """Four bytes that tell this key from the others of its name."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:_KEY_ID]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether this key made the signature (RFC 8032)."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Note:
    """A checkpoint and the signatures under it."""

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]
    """Name, key id and signature of each line."""
    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, message: str) -> "Note":
        """Read a signed checkpoint. Raises `Unreadable`."""
        text, gap, rest = message.rpartition("\n\n")
        if not gap or not rest.endswith("\n") or len(message) > _LARGEST_FILE or _CONTROL.search(message):
            raise Unreadable("this is no signed note: a text, an empty line and signatures are expected")
        signatures = tuple(_signature(line) for line in rest[:-1].split("\n"))
        origin, *lines = text.split("\n")
        if len(lines) < 2 or not origin or not all(lines) or not _NUMBER.fullmatch(lines[0]):  # noqa: PLR2004
            raise Unreadable("this is no checkpoint: origin, size and root are expected, a line each")
        root = unbase64(lines[1])
        if len(root) != _HASH:
            raise Unreadable("the checkpoint's root is not 32 bytes")
        return cls(text + "\n", signatures, origin, int(lines[0]), root)

    def signers(self, known: Iterable[VerifierKey]) -> set[VerifierKey]:
        """Give those of the known keys that signed it; none when one of them has a false signature here."""
        found: set[VerifierKey] = set()
        message = self.text.encode()
        for name, id_, signature in self.signatures:
            for key in known:
                if (key.name, key.id) == (name, id_):
                    if not key.signed(message, signature):
                        return set()
                    found.add(key)
        return found

    def cosigned_at(self, key: VerifierKey, signature: bytes) -> int | None:
        """Give when a witness cosigned this, in seconds after 1970; None when not (tlog-cosignature)."""
        at, signed = int.from_bytes(signature[:_TIME], "big"), signature[_TIME:]
        if not 0 < at < 1 << 63 or not key.signed(f"cosignature/v1\ntime {at}\n{self.text}".encode(), signed):
            return None
        return at


def _signature(line: str) -> tuple[str, bytes, bytes]:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    decoded = unbase64(encoded)
    if dash != "\u2014" or not _NAME.fullmatch(name) or len(decoded) <= _KEY_ID:
        raise Unreadable("a signature line of the note is malformed")
    return name, decoded[:_KEY_ID], decoded[_KEY_ID:]


_NOBODY: Final = "none"
_NO_QUORUM: Final = "cosignatures: the policy demands none (quorum none)"


@dataclass(frozen=True)
class Policy:
    """Which witnesses there are, and which of them together are the quorum (C2SP tlog-policy)."""

    logs: tuple[VerifierKey, ...]
    witnesses: dict[str, VerifierKey]
    groups: dict[str, tuple[int, list[str]]]
    """How many of which members stand for the group."""
    quorum: str

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Read a policy file. Raises `Unreadable` at the first line that is none."""
        logs: list[VerifierKey] = []
        read = cls((), {}, {}, "")
        quorums: list[str] = []
        members: list[str] = []
        for number, line in enumerate(text.split("\n"), 1):
            words = re.split("[ \t]+", line.strip(" \t"))
            if words == [""] or words[0].startswith("#"):
                continue
            try:
                read._take(words, logs, quorums, members)
            except Unreadable as error:
                raise Unreadable(f"line {number}: {error}") from error
        if len(quorums) != 1:
            raise Unreadable("there is not one quorum line")
        for keys in (logs, list(read.witnesses.values())):
            if len({key.public for key in keys}) != len(keys):
                raise Unreadable("a key is there twice")
        return cls(tuple(logs), read.witnesses, read.groups, quorums[0])

    def _take(
        self, words: list[str], logs: list[VerifierKey], quorums: list[str], members: list[str]
    ) -> None:
        known = self.witnesses.keys() | self.groups.keys()
        match words:
            case ["log", key] | ["log", key, _]:
                logs.append(VerifierKey.parse(key))
            case ["witness", name, key] | ["witness", name, key, _] if name not in known and name != _NOBODY:
                self.witnesses[name] = VerifierKey.parse(key, _COSIGNATURE)
            case ["group", name, count, *those] if those and name not in known and name != _NOBODY:
                spelled = {"all": f"{len(those)}", "any": "1"}.get(count, count)
                least = int(spelled) if _NUMBER.fullmatch(spelled) else 0
                new = set(those) - set(members)
                if not 1 <= least <= len(those) or not new <= known or len(new) != len(those):
                    raise Unreadable("the group's count or its members are wrong")
                self.groups[name] = (least, those)
                members.extend(those)
            case ["quorum", name] if name in known or name == _NOBODY:
                quorums.append(name)
            case _:
                raise Unreadable("it is no log, witness, group or quorum, or a name is taken or not known")

    def is_met(self, cosigned: Collection[str]) -> bool:
        """Whether these witnesses are enough."""
        return self.quorum == _NOBODY or self._has(self.quorum, cosigned)

    def _has(self, name: str, cosigned: Collection[str]) -> bool:
        least, members = self.groups.get(name, (1, []))
        if name in self.witnesses:
            return name in cosigned
        return sum(self._has(member, cosigned) for member in members) >= least

    def cosigners(self, note: Note, *more: str) -> dict[str, int]:
        """Give which witnesses cosigned `note`, there or in further lines, and when.

        Raises:
            Unreadable: a line is none, or one of a known witness is false: then nobody made it.
        """
        found: dict[str, int] = {}
        for name, id_, signature in (*note.signatures, *map(_signature, more)):
            for witness, key in self.witnesses.items():
                if (key.name, key.id) == (name, id_):
                    at = note.cosigned_at(key, signature)
                    if at is None:
                        raise Unreadable(f"the cosignature of witness {witness!a} is false")
                    found[witness] = at
        return found


def _in_words(cosigners: dict[str, int]) -> str:
    times = {name: datetime.fromtimestamp(min(at, _LATEST), UTC) for name, at in sorted(cosigners.items())}
    return ", ".join(f"{name!a} at {at:%Y-%m-%d %H:%M:%SZ}" for name, at in times.items()) or "nobody"


@dataclass(frozen=True)
class Rotation:
    """A `key_rotate` entry whose endorsement is the old key's."""

    index: int
    old: VerifierKey
    new: VerifierKey

    @classmethod
    def parse(cls, index: int, body: bytes) -> "Rotation":
        """Read the entry's body. Raises `Unreadable`."""
        entry = parse_body(body)
        old, new, endorsed = (_text(entry, name) for name in ("old", "new", "endorsed"))
        rotation = cls(index, VerifierKey.parse(old), VerifierKey.parse(new))
        if entry.get("kind") != "key_rotate" or old != str(rotation.old) or new != str(rotation.new):
            raise Unreadable("this is no key_rotate entry")
        if rotation.old.name != rotation.new.name or rotation.old == rotation.new:
            raise Unreadable("the new key is not another key of the same log")
        if not rotation.old.signed(f"{new}\n".encode(), unbase64(endorsed)):
            raise Unreadable("the old key did not endorse the new one")
        return rotation


class Trust:
    """Which key had to sign a checkpoint of some size, and what the keys that were given say of it.

    A rotation at index r holds for every checkpoint of more than r entries: those must bear a signature by
    the new key; an old key that was stolen after it went out of use signs nothing. The keys form a chain, and
    whoever was given one of them can follow it:

    - onward, because each new key is endorsed by a signature of the one before. That holds wherever the entry
      lies, so it may lie in the very tree that is verified;
    - backward, because the entry names the old key; but only under a checkpoint, found good, that holds the
      entry and is signed by the given key or a later one: before that the entry could be anybody's.
    """

    def __init__(self, given: Sequence[VerifierKey], rotations: Sequence[Rotation]) -> None:
        self.given = list(given)
        self._at = [rotation.index for rotation in rotations]
        self._chain = [rotations[0].old, *(rotation.new for rotation in rotations)] if rotations else []
        self.known = list(dict.fromkeys([*self.given, *self._chain]))
        anchors = [place for place, key in enumerate(self._chain) if key in self.given]
        self._anchor = min(anchors, default=0)
        self._lost = bool(self._chain) and not anchors

    def in_force(self, size: int) -> list[VerifierKey]:
        """Give the keys of which one must have signed a checkpoint of `size` entries."""
        if self._lost:
            return []
        return [self._chain[self._epoch(size)]] if self._chain else self.given

    def is_earlier(self, size: int) -> bool:
        """Whether the key in force lies before the earliest that was given."""
        return self._epoch(size) < self._anchor

    @property
    def reaches_back(self) -> int:
        """How many entries a good checkpoint must hold at least to vouch for the keys before it."""
        return self._at[self._anchor - 1] + 1 if self._anchor else 0

    def _epoch(self, size: int) -> int:
        return bisect_left(self._at, size)


# --- Entries -------------------------------------------------------------------------------------------


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a name is there twice")
    return named


def _no_number(text: str) -> float:
    raise ValueError(f"{text[:20]} is not an integer")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once, parse_float=_no_number, parse_constant=_no_number)
_FAST: Final = json.JSONDecoder(parse_float=_no_number, parse_constant=_no_number)
"""The same, but of two equal names it keeps the last; see `parse_body`."""


def parse_body(body: bytes) -> dict[str, Any]:
    """Read an entry's body. Raises `Unreadable`."""
    entry: dict[str, Any]
    try:
        text = body.decode()
        entry, end = _FAST.raw_decode(text)
        # More of them than names: inside a text, or a name is there twice.
        if type(entry) is not dict or text.count('":') != _names_in(entry):
            entry, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError, AttributeError) as error:
        raise Unreadable("body is not JSON of the ledger's form") from error
    if end != len(text) or type(entry) is not dict:
        raise Unreadable("body is not one JSON object")
    return entry


def _names_in(entry: dict[str, Any]) -> int:
    """Count the names of an object and of the objects right in it; deeper ones are left to the slow way."""
    names = len(entry)
    for value in entry.values():
        names += len(value) if type(value) is dict else 0  # pyright: ignore[reportUnknownArgumentType]
    return names


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if type(value) is not str:
        raise Unreadable(f"{name!r} is not a text")
    return value


_WRITER: Final = re.compile(r"[0-9a-f]{16}-[0-9]{1,18}", re.ASCII)
_OTHER, _CONFIG, _LENT, _GONE, _OPEN, _LOST, _ENDED = range(7)
_FORM: Final = 2
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ACTIVATIONS: Final = {
    "activated": "in force",
    "rolled_back": "in force",
    "shadowed": "in shadow",
    "shadow_ended": "in shadow",
}
_OF_A_CALL: Final = {"run_opened", "lent", "queued", "kept", "lapses"}
"""Statuses of a lease that cannot come when its call has ended; nor can a `given_back` without a reason."""
_LATER: Final = {
    "given_back": {"queued", "run_over", "shutdown"},
    "revoked": {"orphan", "person"},
    "expired": {"expired"},
}
"""Statuses of a lease, or of a run's token, that has ended outside of its call; and why it may have."""
_LEASE_STATUSES: Final = {"revoke_asked", *_OF_A_CALL, *_LATER}
_ABOUT_AN_INTENT: Final = {"lease", "outcome", "unknown", "late_outcome", "reconcile", "resolve"}
_KINDS: Final = {
    *("genesis", "writer_start", "writer_stop", "config", "intent", "refusal", "repeat"),
    *("auth_failure", "audit_read", "key_rotate", "policy", "fault", "erase", "retention"),
    *_ABOUT_AN_INTENT,
}


class Wrong(Exception):  # noqa: N818 - named by what it is
    """An entry that cannot stand where it stands. The message says why."""


class Grammar:
    """Checks that the entries tell a possible story.

    It remembers a byte for each entry, the call of each intent that is open, each writer's count, which
    credentials and run tokens are out, which calls were asked about, and which versions of the policy
    were activated.
    """

    def __init__(self) -> None:
        self._marks = bytearray()
        self._calls: dict[int, Any] = {}
        self._writers: dict[str, int] = {}
        self._begun_by = ""
        self._leases: dict[int, str] = {}
        """The ids of those that are out, by the entry that lent them."""
        self._runs: set[str] = set()
        """The accessors of tokens that are open."""
        self._asked: set[int] = set()
        """The intents of calls whose system was asked about them: a look-up has a credential too, and several
        processes may ask."""
        self._erasures: set[int] = set()
        """Those that were begun and are not done."""
        self._versions: set[str] = set()
        self._places: dict[str, str] = {}
        """Which version of the policy is in force, and which beside it in shadow."""

    def read(self, entry: dict[str, Any]) -> None:
        """Take the next entry. Raises `Wrong`."""
        index = len(self._marks)
        kind = entry.get("kind")
        self._marks.append(_OPEN if kind == "intent" else _CONFIG if kind == "config" else _OTHER)
        self._form(index, kind, entry)
        config = entry.get("config")
        if config is not None and self._mark(index, config) != _CONFIG:
            raise Wrong(f"config {config!a:.40} is no earlier entry of kind config")
        if kind == "intent":
            self._calls[index] = entry.get("call_id")
            if entry.get("verdict") != "allow":
                raise Wrong("an intent whose verdict is not allow")
        elif kind in _ABOUT_AN_INTENT:
            self._about(index, kind, entry)
        elif kind == "repeat" and self._mark(index, entry.get("answered_with")) is None:
            raise Wrong("answered_with is no earlier entry")
        elif kind == "policy":
            self._policy(entry)
        elif kind == "erase":
            self._erasure(index, entry)
        elif kind == "retention" and entry.get("status") != "applied":
            raise Wrong("unknown status of a retention")

    def _form(self, index: int, kind: object, entry: dict[str, Any]) -> None:
        writer, wseq = entry.get("writer"), entry.get("wseq")
        if type(kind) is not str or kind not in _KINDS:
            raise Wrong(f"unknown kind {kind!a:.40}")
        if (
            entry.get("v") != _FORM
            or type(entry.get("at")) is not int
            or type(entry.get("status")) is not str
        ):
            raise Wrong("v, at or status is not of the ledger's form")
        if (kind == "genesis") is not (index == 0):
            raise Wrong("the first entry is not genesis" if index == 0 else "a second genesis")
        if type(writer) is not str or type(wseq) is not int:
            raise Wrong("writer or wseq is not of the ledger's form")
        due = self._writers.get(writer, 0)
        self._writers[writer] = wseq + 1
        if wseq != due:
            raise Wrong(f"wseq is {wseq}, but {due} was due: its writer's entries are not all here, in order")
        if wseq <= 1 or kind == "writer_start":
            self._start(index, kind, writer, wseq)

    def _start(self, index: int, kind: str, writer: str, wseq: int) -> None:
        """A writer begins with its writer_start; the ledger's first writer with genesis before that."""
        if not _WRITER.fullmatch(writer):
            raise Wrong("writer is not of the ledger's form")
        if index == 0:
            self._begun_by = writer
        elif (kind == "writer_start") is not (wseq == (writer == self._begun_by)):
            raise Wrong("a writer must begin with writer_start, once")

    def _about(self, index: int, kind: str, entry: dict[str, Any]) -> None:
        intent = entry.get("intent")
        mark = self._mark(index, intent)
        if mark is None or mark < _OPEN or type(intent) is not int:
            raise Wrong(f"intent {intent!a:.40} is no earlier entry of kind intent")
        if kind == "lease":
            self._lease(index, entry, ended=mark == _ENDED and intent not in self._asked)
        if kind == "reconcile":
            self._asked.add(intent)
        if kind == "unknown" and mark == _OPEN:
            self._marks[intent] = _LOST
            self._calls.pop(intent, None)
        if kind == "outcome":
            self._end(intent, mark, entry.get("call_id"))

    def _end(self, intent: int, mark: int, call_id: object) -> None:
        if mark != _OPEN:
            raise Wrong(f"intent {intent} has an outcome or an unknown already")
        self._marks[intent] = _ENDED
        if self._calls.pop(intent, None) != call_id:
            raise Wrong(f"call_id is not that of its intent {intent}")

    def _lease(self, index: int, entry: dict[str, Any], *, ended: bool) -> None:
        """A credential is lent before its call ends, with it is said what became of it, and it ends once."""
        status, because = str(entry.get("status")), entry.get("because")
        if status not in _LEASE_STATUSES:
            raise Wrong(f"unknown status of a lease {status!a:.40}")
        of_the_call = status in _OF_A_CALL or (status == "given_back" and because is None)
        if ended and of_the_call:
            raise Wrong(f"a lease after the outcome of its intent {entry.get('intent')}")
        if status == "revoke_asked" and type(entry.get("by")) is not str:
            raise Wrong("nobody is named who asked for the end of a lease")
        reasons: set[str] = set() if of_the_call else _LATER.get(status, set())
        if reasons and (type(because) is not str or because not in reasons):
            raise Wrong(f"because {because!a:.40} is no reason why a lease is {status}")
        if "lease" in entry:
            self._credential(index, status, entry)
        else:
            self._run_token(status, entry.get("accessor"))

    def _credential(self, index: int, status: str, entry: dict[str, Any]) -> None:
        lease, issued = entry["lease"], entry.get("issued")
        if type(lease) is not str or status == "run_opened":
            raise Wrong("lease is not of the ledger's form")
        if status == "lent":
            self._marks[index], self._leases[index] = _LENT, lease
            return
        if issued is None and entry.get("made", "static") == "static":
            return
        mark = self._mark(index, issued)
        if mark not in {_LENT, _GONE} or type(issued) is not int:
            raise Wrong(f"issued {issued!a:.40} is no earlier entry that lent anything")
        if mark == _LENT and self._leases[issued] != lease:
            raise Wrong(f"issued {issued} lent another lease")
        if status in _LATER or status == "lapses":
            if mark == _GONE:
                raise Wrong(f"the lease of entry {issued} has ended already")
            self._marks[issued] = _GONE
            del self._leases[issued]

    def _run_token(self, status: str, accessor: object) -> None:
        if type(accessor) is not str or status not in {"run_opened", "revoke_asked", *_LATER}:
            raise Wrong("lease or accessor is not of the ledger's form")
        if status == "run_opened":
            self._runs.add(accessor)
        elif status in _LATER:
            if accessor not in self._runs:
                raise Wrong("the end of a run's token that is not open")
            self._runs.discard(accessor)

    def _erasure(self, index: int, entry: dict[str, Any]) -> None:
        """Who erased says so before, and once after it how much that was."""
        status, begun = entry.get("status"), entry.get("begun")
        if status == "begun" and type(entry.get("by")) is str and begun is None:
            self._erasures.add(index)
        elif status == "done" and type(begun) is int and begun in self._erasures:
            self._erasures.discard(begun)
        else:
            raise Wrong("an erasure that nobody began, or the end of one that is no more open")

    def _policy(self, entry: dict[str, Any]) -> None:
        """A version takes a place from the one that it says had it before."""
        status, policy = str(entry.get("status")), entry.get("policy")
        if status not in _ACTIVATIONS or type(policy) is not str or not _DIGEST.fullmatch(policy):
            raise Wrong("status or policy is not that of an activation")
        place = _ACTIVATIONS[status]
        before = self._places.get(place)
        if entry.get("previous") != (before if status != "shadow_ended" else None):
            raise Wrong("previous is not the version that was activated before")
        if status == "shadow_ended":
            if before != policy:
                raise Wrong("a shadow ended that was none")
            del self._places[place]
            return
        if type(entry.get("override")) is not bool or type(entry.get("cases")) is not int:
            raise Wrong("override or cases is not of the ledger's form")
        if status == "rolled_back" and policy not in self._versions:
            raise Wrong("a policy was rolled back to that was never activated")
        self._places[place] = policy
        self._versions.add(policy)

    def _mark(self, index: int, earlier: object) -> int | None:
        return self._marks[earlier] if type(earlier) is int and 0 <= earlier < index else None


# --- The database --------------------------------------------------------------------------------------

_TABLES: Final = {
    "ledger_entry": "idx leaf body kind call_id at tenant who tool status run refers",
    "ledger_node": "level number hash",
    "ledger_tip": "id size frontier",
    "ledger_checkpoint": "size note",
    "payload": "idx field salt value",
}
_COLUMNS: Final = ("kind", "call_id", "at", "tenant", "who", "tool", "status", "run", "refers")
_TIP_SQL: Final = (
    "SELECT id, size, CASE typeof(frontier) WHEN 'blob' THEN frontier END FROM ledger_tip LIMIT 2"
)
_NODE_SQL: Final = (
    "SELECT number, CASE typeof(hash) WHEN 'blob' THEN hash END FROM ledger_node NOT INDEXED "
    "WHERE level = ? ORDER BY number"
)
_ENTRY_SQL: Final = "SELECT idx, leaf, body{} FROM ledger_entry NOT INDEXED WHERE idx >= ? ORDER BY idx"
_NOTE_SQL: Final = (
    "SELECT size, CASE typeof(note) WHEN 'text' THEN CAST(note AS BLOB) END FROM ledger_checkpoint "
    "NOT INDEXED ORDER BY size"
)

Row: TypeAlias = tuple[Any, ...]


class Foreign(Exception):  # noqa: N818 - named by what it is
    """A value that can be none of the gate's: it is far too large, or no text.

    Args:
        rows: those that were read before its row, and not given yet.
    """

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        super().__init__("a value that can be none of the gate's")
        self.rows = list(rows)


class Source(Protocol):
    """Gives a ledger's rows, all as they were at one moment, each table's in the order of its numbers.

    Every value may be anything: whoever can write the database may have put it there.
    """

    def last(self) -> object:
        """Give the largest index of an entry."""
        ...

    def entries(self, columns: Sequence[str]) -> Iterator[list[Row]]:
        """Give `idx`, `leaf`, `body` and the columns, some rows at a time. Raises `Foreign`."""
        ...

    def first(self) -> Iterator[Row]:
        """Give the `body` of the first entry."""
        ...

    def rotations(self) -> Iterator[Row]:
        """Give `idx` and `body` of the entries whose column `kind` is `key_rotate`."""
        ...

    def payloads(self) -> Iterator[Row]:
        """Give `idx`, `field`, `salt` and `value`. Raises `Foreign`."""
        ...

    def nodes(self, level: int) -> Iterator[Row]:
        """Give `number` and `hash` of a level; None for a hash that is not bytes."""
        ...

    def nodes_elsewhere(self, levels: Sequence[int]) -> Iterator[Row]:
        """Give `level` and `number` of a node on no level of these."""
        ...

    def tips(self) -> list[Row]:
        """Give `id`, `size` and `frontier` of two rows at most; None for a frontier that is not bytes."""
        ...

    def checkpoints(self) -> Iterator[Row]:
        """Give `size` and `note`, in UTF-8; None for a note that is not text."""
        ...

    def is_cosigned(self) -> bool:
        """Whether cosignatures of witnesses are kept."""
        ...

    def cosignatures(self, size: int) -> Iterator[Row]:
        """Give the `line` of each cosignature that is kept for the checkpoint of that size."""
        ...

    def unnumbered(self, table: str, number: str) -> int:
        """Count the rows to which no number in the column leads."""
        ...


def _open(database: Path) -> sqlite3.Connection:
    """Open for reading only, in one transaction. A copy that came without its -wal file is read as it is."""
    if not database.is_file():
        raise Unreadable(f"{database} is no file; name the ledger's SQLite database")
    address = f"file:{quote(str(database.absolute()))}?mode=ro"
    has_wal = database.with_name(f"{database.name}-wal").exists()
    for more in ("", "&immutable=1"):
        connection = sqlite3.connect(address + more, uri=True, isolation_level=None)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
            for statement in ("PRAGMA trusted_schema = OFF", "PRAGMA query_only = ON", "BEGIN"):
                connection.execute(statement)
            _demand_tables(connection)
        except sqlite3.Error as error:
            connection.close()
            if more or has_wal:
                raise Unreadable(f"{database} cannot be read as SQLite: {error}") from error
        except Unreadable:
            connection.close()
            raise
        else:
            return connection
    raise AssertionError


def _demand_tables(connection: sqlite3.Connection) -> None:
    """A view or a virtual table in the place of a table could show anything."""
    for table, columns in _TABLES.items():
        found = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        if [kind for kind, _ in found] != ["table"] or not str(found[0][1]).upper().startswith(
            "CREATE TABLE"
        ):
            raise Unreadable(
                f"there is no table {table}; this is not a ledger of this form, or it was removed"
            )
        has = {row[1] for row in connection.execute(f"PRAGMA table_xinfo({table})") if not row[6]}
        if missing := set(columns.split()) - has:
            raise Unreadable(f"{table} has no column {min(missing)}; this is not a ledger of this form")


def _is_foreign(error: sqlite3.Error) -> bool:
    """Whether one value cannot be read because of what it is: text that is not UTF-8, or far too large."""
    return isinstance(error, sqlite3.DataError) or "decode to UTF-8" in str(error)


class _SqliteSource:
    """The rows of an SQLite file, opened by `_open`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def last(self) -> object:
        return self._connection.execute("SELECT max(idx) FROM ledger_entry").fetchone()[0]

    def entries(self, columns: Sequence[str]) -> Iterator[list[Row]]:
        sql = _ENTRY_SQL.format("".join(f", {name}" for name in columns))
        cursor = self._connection.execute(sql, (-(2**63),))
        due = 0
        while rows := self._fetch(cursor, sql, due):
            yield rows
            due += len(rows)

    def _fetch(self, cursor: sqlite3.Cursor, sql: str, due: int) -> list[Row]:
        limit = sqlite3.SQLITE_LIMIT_LENGTH
        self._connection.setlimit(limit, _LARGEST_ENTRY)
        try:
            return cursor.fetchmany(_ROWS)
        except sqlite3.Error as error:
            if not _is_foreign(error):
                raise
            rows: list[Row] = []
            with suppress(sqlite3.Error):
                while row := self._connection.execute(f"{sql} LIMIT 1", (due + len(rows),)).fetchone():
                    rows.append(row)
            raise Foreign(rows) from error
        finally:
            self._connection.setlimit(limit, _LARGEST_VALUE)

    def first(self) -> Iterator[Row]:
        return self._connection.execute("SELECT body FROM ledger_entry WHERE idx = 0")

    def rotations(self) -> Iterator[Row]:
        sql = "SELECT idx, body FROM ledger_entry NOT INDEXED WHERE kind = 'key_rotate' ORDER BY idx"
        return self._connection.execute(sql)

    def payloads(self) -> Iterator[Row]:
        sql = "SELECT idx, field, salt, value FROM payload NOT INDEXED ORDER BY idx, field"
        try:
            yield from self._connection.execute(sql)
        except sqlite3.Error as error:
            if not _is_foreign(error):
                raise
            raise Foreign from error

    def is_cosigned(self) -> bool:
        return self._cosigned

    @cached_property
    def _cosigned(self) -> bool:
        sql = "SELECT type FROM sqlite_master WHERE name = 'ledger_cosignature'"
        if self._connection.execute(sql).fetchall() != [("table",)]:
            return False
        return self._connection.execute("SELECT 1 FROM ledger_cosignature LIMIT 1").fetchone() is not None

    def cosignatures(self, size: int) -> Iterator[Row]:
        if not self._cosigned:
            return iter(())
        sql = "SELECT line FROM ledger_cosignature WHERE size = ? ORDER BY witness"
        return self._connection.execute(sql, (size,))

    def nodes(self, level: int) -> Iterator[Row]:
        return self._connection.execute(_NODE_SQL, (level,))

    def nodes_elsewhere(self, levels: Sequence[int]) -> Iterator[Row]:
        marks = ", ".join("?" * len(levels))
        sql = f"SELECT level, number FROM ledger_node WHERE level NOT IN ({marks}) LIMIT 1"  # noqa: S608
        return self._connection.execute(sql, levels)

    def tips(self) -> list[Row]:
        return self._connection.execute(_TIP_SQL).fetchall()

    def checkpoints(self) -> Iterator[Row]:
        return self._connection.execute(_NOTE_SQL)

    def unnumbered(self, table: str, number: str) -> int:
        sql = f"SELECT count(*) FROM {table} NOT INDEXED WHERE typeof({number}) <> 'integer'"  # noqa: S608
        count: int = self._connection.execute(sql).fetchone()[0]
        return count


@dataclass(frozen=True, kw_only=True)
class _Claimed:
    """A checkpoint, from the database or from outside."""

    size: int
    name: str
    note: Note | None
    outside: bool = False


class _Audit:
    """One reading of the database, from the first entry to the last."""

    def __init__(
        self,
        source: Source,
        keys: Sequence[VerifierKey],
        policy: Policy | None = None,
        *,
        full: bool,
    ) -> None:
        self.report = Report()
        self._source, self._policy = source, policy
        self._witnessed, self._cosigners = 0, dict[str, int]()
        """So many entries are under a checkpoint that the quorum has cosigned, and who that was."""
        self._full = full
        self._tree = Tree()
        self._grammar = Grammar()
        self._origin: str | None = None
        self._trust = Trust(keys, self._rotations())
        self._matched = 0
        """So many entries are under a good checkpoint; `_outside` counts only those from outside."""
        self._outside = 0
        self._earlier: list[_Claimed] = []
        self._notes = 0
        self._payloads = self._payload_rows()
        self._payload = next(self._payloads, None)
        self._opened = 0
        self._promised = 0
        """How many commitments there are."""
        self._cut = False
        """Whether the entries ended early, at a gap or at a row that cannot be read."""

    def run(self, outside: Sequence[tuple[str, Note]], progress: Progress | None) -> Report:
        """Read all."""
        given = sorted(
            (_Claimed(size=note.size, name=name, note=note, outside=True) for name, note in outside),
            key=lambda claimed: claimed.size,
        )
        checkpoints = merge(self._checkpoint_rows(), given, key=lambda claimed: claimed.size)
        total = self._source.last()
        total = total + 1 if type(total) is int else 0
        try:
            self._read(checkpoints, progress, total)
        finally:
            # Else the statement, and with it the transaction, would outlive the connection.
            self._payloads.close()
        self._conclude()
        return self.report

    def _read(self, checkpoints: Iterator[_Claimed], progress: Progress | None, total: int) -> None:
        due = next(checkpoints, None)
        nodes = _Nodes(self._source, self.report)
        for leaves in self._blocks():
            for level, number, node in self._tree.add(leaves):
                nodes.compare(level, number, node)
            self.report.entries = self._tree.size
            while due is not None and due.size <= self._tree.size:
                self._judge(due)
                due = next(checkpoints, None)
            if progress:
                progress(self._tree.size, total)
        if self._cut:
            self.report.not_checked.append("what comes after the entry that is missing or cannot be read")
            return
        for claimed in chain([due] if due else [], checkpoints):
            self._judge(claimed)
        self._unnumbered()
        nodes.end()
        self._tip()
        if self._full:
            self._payloads_end()

    def _blocks(self) -> Iterator[list[bytes]]:
        """Give the leaf hashes of the bodies in blocks (only the last may be short), checking the rows."""
        block: list[bytes] = []
        for rows in self._chunks():
            block += self._leaves(rows)
            if self._full:
                for row in rows:
                    self._entry(row)
            while len(block) >= _BLOCK:
                yield block[:_BLOCK]
                block = block[_BLOCK:]
        yield block

    def _chunks(self) -> Iterator[list[Row]]:
        """Give the rows in their order, as far as there is no gap."""
        chunks = self._source.entries(_COLUMNS if self._full else ())
        due = 0
        while not self._cut:
            rows = self._fetch(chunks, due)
            if [row[0] for row in rows] != list(range(due, due + len(rows))):
                rows = self._before_the_gap(rows, due)
            if not rows:
                return
            yield rows
            due += len(rows)

    def _fetch(self, chunks: Iterator[list[Row]], due: int) -> list[Row]:
        """Fetch some rows; those before the first that cannot be the gate's."""
        try:
            return next(chunks, list[Row]())
        except Foreign as foreign:
            self._cut = True
            what = (
                "a value in it can be none of the gate's: it is far too large, or no text; or it is missing"
            )
            self.report.fault(due + len(foreign.rows), "ledger_entry", what)
            return foreign.rows

    def _before_the_gap(self, rows: list[Row], due: int) -> list[Row]:
        gap = next(index for index, row in enumerate(rows) if row[0] != due + index)
        self._cut = True
        what = f"the entry is missing: {rows[gap][0]!a:.40} stands in its place"
        self.report.fault(due + gap, "ledger_entry.idx", what)
        return rows[:gap]

    def _leaves(self, rows: list[Row]) -> list[bytes]:
        try:
            leaves = [sha256(b"\0" + row[2]).digest() for row in rows]
        except TypeError:
            leaves = [leaf_hash(row[2] if type(row[2]) is bytes else b"") for row in rows]
        if leaves != [row[1] for row in rows]:
            for row, leaf in zip(rows, leaves, strict=True):
                if row[1] != leaf or type(row[2]) is not bytes:
                    self.report.fault(
                        row[0], "ledger_entry.leaf", "it is not the hash of body: one was changed"
                    )
        return leaves

    def _entry(self, row: Row) -> None:
        """Check an entry against its columns, the entries before it, and its payloads."""
        index, _, body, *_ = row
        try:
            entry = parse_body(body)
        except Unreadable as error:
            self.report.fault(index, "ledger_entry.body", str(error))
            entry = {}
        get = entry.get
        says = (
            get("kind", ""),
            get("call_id", ""),
            get("at", ""),
            get("tenant", ""),
            get("who", ""),
            get("tool", ""),
            get("status", ""),
            get("run", ""),
            get("intent", get("answered_with")),
        )
        if row[3:] != says:
            self._name_the_column(row, says)
        try:
            self._grammar.read(entry)
        except Wrong as wrong:
            self.report.fault(index, "ledger_entry.body", str(wrong))
        if type(body) is bytes:
            self._promised += body.count(b'"hmac":')
        if self._payload is not None and self._payload[0] <= index:
            self._payloads_of(index, entry)

    def _name_the_column(self, row: Row, says: Row) -> None:
        for name, stands, said in zip(_COLUMNS, row[3:], says, strict=True):
            if stands != said:
                self.report.fault(row[0], f"ledger_entry.{name}", "the column is not what body says")

    def _payload_rows(self) -> Generator[Row]:
        """Give the payloads in the order of their entries; those of no possible entry are faults."""
        if not self._full:
            return
        last = 0
        try:
            for row in self._source.payloads():
                if type(row[0]) is int and row[0] >= 0:
                    last = row[0]
                    yield row
                else:
                    self.report.fault(0, "payload.idx", f"{row[0]!a:.40} is the index of no entry")
        except Foreign:
            self.report.fault(
                last, "payload", "a value in it, or in the row behind it, can be none of the gate's"
            )

    def _payloads_of(self, index: int, entry: dict[str, Any]) -> None:
        while self._payload is not None and self._payload[0] <= index:
            _, name, salt, value = self._payload
            self._opened += 1
            if fault := _payload_fault(entry.get(name) if type(name) is str else None, name, salt, value):
                self.report.fault(index, f"payload.{fault[0]}", f"{name!a:.40}: {fault[1]}")
            self._payload = next(self._payloads, None)

    def _unnumbered(self) -> None:
        """Find rows that no number leads to: in a table that was built anew, a key may be missing."""
        end = self._tree.size
        places = (("ledger_entry", "idx", end), ("ledger_node", "level", 0), ("ledger_node", "number", 0))
        for table, number, index in places:
            if rows := self._source.unnumbered(table, number):
                self.report.fault(index, f"{table}.{number}", f"{rows} rows have no number there")

    def _payloads_end(self) -> None:
        if self._payload is not None:
            index = self._payload[0]
            self.report.fault(index, "payload.idx", "there is no such entry")

    def _rotations(self) -> list[Rotation]:
        """Read the key_rotate entries, up to the first that does not continue the chain.

        They are found by their column; where that was changed, a later key is endorsed by nobody.
        """
        rotations: list[Rotation] = []
        for index, body in self._source.rotations():
            if type(index) is not int:
                break
            try:
                rotation = Rotation.parse(index, body)
                if rotations and rotation.old != rotations[-1].new:
                    raise Unreadable("its old key is not the one in force")
            except Unreadable as error:
                self.report.fault(
                    index, "ledger_entry.body", f"this rotation of the key does not hold: {error}"
                )
                break
            rotations.append(rotation)
        return rotations

    def _checkpoint_rows(self) -> Iterator[_Claimed]:
        for size, text in self._source.checkpoints():
            if type(size) is not int or size < 0:
                self.report.fault(
                    0, "ledger_checkpoint.size", f"{size!a:.40} is no size", certainty="checkpoint"
                )
                continue
            self._notes += 1
            try:
                note = None if text is None else Note.parse(text.decode())
            except (Unreadable, UnicodeDecodeError):
                note = None
            yield _Claimed(size=size, name=f"ledger_checkpoint, size {size}", note=note)

    def _judge(self, claimed: _Claimed) -> None:
        """Compare a checkpoint with the tree, and its signature with the keys."""
        note, trust = claimed.note, self._trust
        if note is None or note.size != claimed.size:
            self._blame(claimed, "ledger_checkpoint.note", "it is no checkpoint of its size")
            return
        signers = note.signers(trust.known)
        in_force = not signers.isdisjoint(trust.in_force(note.size))
        if trust.given and not in_force and not claimed.outside:
            self._blame(claimed, "ledger_checkpoint.note", "it is not signed by the key that was in force")
            return
        if trust.given and not signers:
            self._doubt(f"{claimed.name} is not signed by a key that was given; give its key with --key")
        elif note.size > self._tree.size:
            missing = f"the entries from {self._tree.size} on are missing: {claimed.name} counts {note.size}"
            last = note.size - 1
            self.report.fault(self._tree.size, "ledger_entry", missing, last=last, certainty="range")
        elif self._tree.root(note.size) != note.root:
            what = f"they are not those under the checkpoint ({claimed.name})"
            first = min(self._matched, note.size - 1) if note.size else 0
            last = max(first, note.size - 1)
            self.report.fault(first, "ledger_entry", what, last=last, certainty="range")
        elif trust.given and not in_force:
            self._doubt(
                f"{claimed.name} is signed by a key that was out of use by then; it vouches for nothing"
            )
        else:
            self._accept(claimed, note)

    def _accept(self, claimed: _Claimed, note: Note) -> None:
        if self._origin is None:
            self._origin = self._genesis_origin()
        if note.size and note.origin != self._origin:
            self._blame(claimed, "ledger_checkpoint.note", "it is of a log of another name than genesis says")
        elif self._trust.is_earlier(note.size):
            self._earlier.append(claimed)
        else:
            self._matched = max(self._matched, note.size)
            self._outside = max(self._outside, note.size if claimed.outside else 0)
        self._look_at_cosignatures(claimed, note)

    def _look_at_cosignatures(self, claimed: _Claimed, note: Note) -> None:
        """Find out whether the quorum has cosigned a checkpoint that was found good."""
        if self._policy is None or note.size < self._witnessed:
            return
        try:
            found = self._policy.cosigners(
                note, *(f"{line}" for (line,) in self._source.cosignatures(note.size))
            )
        except Unreadable as error:
            self._blame(claimed, "ledger_cosignature", str(error))
            return
        if self._policy.is_met(found):
            self._witnessed, self._cosigners = note.size, found

    def _genesis_origin(self) -> str:
        for (body,) in self._source.first():
            try:
                return str(parse_body(body).get("origin", ""))
            except Unreadable:
                return ""
        return ""

    def _blame(self, claimed: _Claimed, where: str, what: str) -> None:
        what = f"{what} ({claimed.name})"
        self.report.fault(claimed.size, where, what, certainty="checkpoint")

    def _doubt(self, text: str) -> None:
        self.report.doubts.append(text)

    def _tip(self) -> None:
        rows = self._source.tips()
        size = self._tree.size
        packed = b"".join(self._tree.frontier(size))
        if rows == [(1, size, packed)]:
            return
        what = f"it is not the end of the tree of {size} entries"
        at = rows[0][1] if len(rows) == 1 and type(rows[0][1]) is int else size
        self.report.fault(max(0, min(size, at)), "ledger_tip", what, certainty="tip")

    def _conclude(self) -> None:
        if self._earlier:
            self._look_back()
        report, size, full = self.report, self._tree.size, self._full
        report.covered = self._outside
        report.checked.append(f"the hashes of {size} entries, the nodes above them and the tip")
        (report.checked if full else report.not_checked).append("that each column is what its entry says")
        (report.checked if full else report.not_checked).append(
            "the grammar: writers, intents, outcomes, leases"
        )
        (report.checked if full else report.not_checked).append(
            f"that payloads open their commitments{self._many()}"
        )
        if full and self._promised > self._opened:
            report.not_checked.append(
                f"{self._promised - self._opened} of {self._promised} commitments, whose salts are gone: "
                "erased, kept long enough, or removed by somebody; nothing can open them any more"
            )
        signed = f"{self._notes} checkpoints in the database against the tree"
        report.checked.append(signed + (" and their signatures" if self._trust.given else ""))
        self._say_what_was_cosigned()
        self._say_what_is_covered(size)
        report.not_checked.append(
            "whom a pseudonym stands for, when a checkpoint was published, what views and indexes show: "
            "nothing signs it"
        )

    def _many(self) -> str:
        return f" ({self._opened})" if self._full else ""

    def _say_what_was_cosigned(self) -> None:
        """Say what the quorum has seen; it must be all that a checkpoint from outside covers."""
        if self._policy is None:
            if self._source.is_cosigned():
                self.report.not_checked.append(
                    "cosignatures of witnesses: name their policy with --witnesses"
                )
            return
        if self._policy.quorum == _NOBODY and not self._cosigners:
            self.report.not_checked.append(_NO_QUORUM)
            return
        span, who = f"entries 0 to {self._witnessed - 1}", _in_words(self._cosigners)
        if self._witnessed:
            self.report.checked.append(f"{span} are cosigned by the quorum of the policy: {who}")
        if not self._witnessed or self._witnessed < self._outside:
            first = self._witnessed
            self._doubt(f"no checkpoint with entries from {first} on is cosigned by the quorum of the policy")

    def _say_what_is_covered(self, size: int) -> None:
        report, trust = self.report, self._trust
        if not trust.given:
            self._doubt("no key was given: it is consistent with itself only; give the log's with --key")
        if not self._outside:
            self._doubt(
                "no good checkpoint from outside the database was given: its end may be missing; "
                "give one with --checkpoint"
            )
        if not size:
            self._doubt("there are no entries")
        if self._outside:
            report.checked.append(
                f"entries 0 to {self._outside - 1} are those under a checkpoint from outside"
            )
        if self._outside < self._matched and trust.given:
            span = f"entries {self._outside} to {self._matched - 1}"
            report.checked.append(
                f"{span} are signed in the database; whether more of them were removed is not known"
            )
        if max(self._outside, self._matched) < size:
            report.not_checked.append(
                f"entries from {max(self._outside, self._matched)} on: no signature covers them yet"
            )

    def _look_back(self) -> None:
        """Accept what keys before the given one signed, if the rotation to that is proven; see `Trust`."""
        if self._matched >= self._trust.reaches_back:
            outside = [claimed.size for claimed in self._earlier if claimed.outside]
            self._outside = max(self._outside, *outside, 0)
            return
        first = self._earlier[0].name
        self._doubt(f"{first} is signed by an earlier key than those that were given; give that with --key")


def _payload_fault(commitment: object, name: str, salt: object, value: object) -> tuple[str, str] | None:
    """Say which column of a payload is wrong, and why."""
    if type(commitment) is not dict or not {"hmac", "length"} <= commitment.keys():
        return "field", "the entry has no such commitment"
    if type(salt) is not bytes or len(salt) != _SALT:
        return "salt", "it is not 32 bytes"
    if value is None:
        return None
    if type(value) is not bytes:
        return "value", "it is not bytes"
    opened = hmac.digest(salt, name.encode() + b"\0" + value, "sha256").hex()
    if opened != commitment["hmac"] or len(value) != commitment["length"]:
        return "value", "value and salt do not open the entry's commitment"
    return None


class _Nodes:
    """Compares the kept nodes with those that the entries lead to, level by level."""

    def __init__(self, source: Source, report: Report) -> None:
        self._source, self._report = source, report
        self._levels: dict[int, Iterator[Row]] = {}

    def compare(self, level: int, number: int, node: bytes) -> None:
        """Take the next node of a level."""
        if level not in self._levels:
            self._levels[level] = self._source.nodes(level)
        if next(self._levels[level], None) != (number, node):
            self._blame(level, number, "it is missing, or not what the entries below it lead to")

    def end(self) -> None:
        """Look for nodes that there should not be."""
        for level, rows in self._levels.items():
            if row := next(rows, None):
                self._blame(level, row[0], "there are no such entries below it")
        for level, number in self._source.nodes_elsewhere(list(self._levels)):
            self._blame(level, number, "there are no such entries below it")

    def _blame(self, level: object, number: object, what: str) -> None:
        where = f"ledger_node, level {level!a:.40}, number {number!a:.40}"
        first = last = 0
        if type(level) is int and type(number) is int and 0 <= level <= _HIGHEST and number >= 0:
            first, last = number << level, (number + 1 << level) - 1
        self._report.fault(first, where, what, last=last, certainty="node")


# --- Tiles (C2SP tlog-tiles) ---------------------------------------------------------------------------

_WIDTH: Final = 1 << _STRIDE


def _tile_path(kind: object, number: int, width: int = _WIDTH) -> str:
    name = f"{number % 1000:03}"
    while number := number // 1000:
        name = f"x{number % 1000:03}/{name}"
    return f"tile/{kind}/{name}" + (f".p/{width}" if width < _WIDTH else "")


class _Tiles:
    """One reading of a folder of tiles, from the first bundle of entries to the last."""

    def __init__(self, folder: Path, *, full: bool) -> None:
        self.report = Report()
        self._folder, self._full = folder, full
        self._tree, self._grammar = Tree(), Grammar()
        self._above: dict[int, list[bytes]] = {}
        """Of each level above the entries, the hashes that its last tile must have."""
        self._roots: dict[int, bytes] = {0: EMPTY_ROOT}
        self._rotations: list[Rotation] = []
        self._origin = ""
        self._covered = 0
        self._cut = False

    def run(
        self, keys: Sequence[VerifierKey], given: Sequence[tuple[str, Note]], progress: Progress | None
    ) -> Report:
        """Read all."""
        own = read_note(str(self._folder / "checkpoint"))
        claimed = [_Claimed(size=own.size, name="the folder's own checkpoint", note=own)]
        claimed += [_Claimed(size=note.size, name=name, note=note, outside=True) for name, note in given]
        sizes = sorted(one.size for one in claimed)
        for leaves in self._blocks(own.size):
            before = self._tree.size
            for level, number, node in self._tree.add(leaves):
                self._node(level // _STRIDE, number, node)
            end = self.report.entries = self._tree.size
            self._roots |= {size: self._tree.root(size) for size in sizes if before < size <= end}
            if progress:
                progress(end, own.size)
        if not self._cut:
            for level, hashes in self._above.items():
                if hashes:
                    self._compare(level, (own.size >> _STRIDE * level) >> _STRIDE, hashes)
        self._conclude(Trust(keys, self._rotations), sorted(claimed, key=lambda one: one.size))
        return self.report

    def _blocks(self, size: int) -> Iterator[list[bytes]]:
        block: list[bytes] = []
        for first in range(0, size, _WIDTH):
            bodies = self._bundle(first >> _STRIDE, min(_WIDTH, size - first))
            leaves = [leaf_hash(body) for body in bodies]
            if not self._cut:
                self._compare(0, first >> _STRIDE, leaves)
            block += leaves
            for index, body in enumerate(bodies, first):
                self._entry(index, body)
            if self._cut:
                break
            if len(block) == _BLOCK:
                yield block
                block = []
        if block:
            yield block

    def _file(self, kind: object, number: int, width: int) -> tuple[str, bytes | None]:
        """Read a tile; of one that is full by now, where a smaller one is wanted, its begin."""
        path = _tile_path(kind, number, width)
        for name in dict.fromkeys((path, _tile_path(kind, number))):
            try:
                with (self._folder / name).open("rb") as opened:
                    return name, opened.read(_WIDTH * (1 << 16) + 1)
            except (FileNotFoundError, NotADirectoryError):
                continue
        return path, None

    def _bundle(self, number: int, width: int) -> list[bytes]:
        """Give the entries of a bundle, as far as they can be told apart."""
        path, content = self._file("entries", number, width)
        first, last = number << _STRIDE, (number << _STRIDE) + width - 1
        bodies: list[bytes] = []
        at = 0
        while content is not None and len(bodies) < width and at + 2 <= len(content):
            end = at + 2 + int.from_bytes(content[at : at + 2], "big")
            if end > len(content):
                break
            bodies.append(content[at + 2 : end])
            at = end
        longer = content is not None and len(content) > at
        if len(bodies) < width:
            self._cut = True
            what = "the bundle is missing" if content is None else "the bundle ends too early"
            self.report.fault(first + len(bodies), path, what, last=last)
        elif longer and path == _tile_path("entries", number, width):
            self.report.fault(last, path, "there is more in it than its entries")
        return bodies

    def _entry(self, index: int, body: bytes) -> None:
        if not self._full and index and b'"key_rotate"' not in body:
            return
        try:
            entry = parse_body(body)
            if index == 0:
                self._origin = str(entry.get("origin", ""))
            if self._full:
                self._grammar.read(entry)
            if entry.get("kind") == "key_rotate":
                self._rotation(Rotation.parse(index, body))
        except (Unreadable, Wrong) as error:
            self.report.fault(index, _tile_path("entries", index >> _STRIDE), str(error))

    def _rotation(self, rotation: Rotation) -> None:
        if self._rotations and rotation.old != self._rotations[-1].new:
            raise Wrong("this rotation of the key does not hold: its old key is not the one in force")
        self._rotations.append(rotation)

    def _node(self, level: int, number: int, node: bytes) -> None:
        hashes = self._above.setdefault(level, [])
        hashes.append(node)
        if len(hashes) == _WIDTH:
            self._compare(level, number >> _STRIDE, hashes)
            self._above[level] = []

    def _compare(self, level: int, number: int, hashes: list[bytes]) -> None:
        """Compare a tile with the hashes that the entries lead to."""
        path, content = self._file(level, number, len(hashes))
        due = b"".join(hashes)
        smaller = path != _tile_path(level, number, len(hashes))
        if content is not None and (content == due or (smaller and content.startswith(due))):
            return
        at, width = 0, 1 << _STRIDE * level
        if content is None:
            what = "the tile is missing"
        else:
            at = next((at for at in range(len(hashes)) if content[at * _HASH :][:_HASH] != hashes[at]), 0)
            what = "it is not the hash of the entry: one was changed"
            if level or len(content) != len(due):
                what = "it is not what the entries below it lead to"
        first = (number << _STRIDE) + at
        last = (number << _STRIDE) + len(hashes) - 1 if content is None else first
        index, end = first * width, (last + 1) * width - 1
        self.report.fault(index, path, what, last=end, certainty="node" if level else "entry")

    def _conclude(self, trust: Trust, claimed: Sequence[_Claimed]) -> None:
        report = self.report
        earlier = [one for one in claimed if not self._judge(one, trust)]
        if earlier and self._covered < trust.reaches_back:
            names = earlier[0].name
            report.doubts.append(
                f"{names} is signed by an earlier key than those that were given; give that with --key"
            )
        else:
            report.covered = max([report.covered, *(one.size for one in earlier if one.outside)])
        if not trust.given:
            report.doubts.append(
                "no key was given: the folder is consistent with itself only; give the log's with --key"
            )
        if not any(one.outside for one in claimed):
            report.doubts.append(
                "no checkpoint from outside the folder was given: its end may be missing; "
                "give one with --checkpoint"
            )
        if self._cut:
            report.not_checked.append("what comes after the bundle that is missing or cannot be read")
        report.checked.append(f"{report.entries} entries against the tiles and checkpoints above them")
        if report.covered:
            report.checked.append(
                f"entries 0 to {report.covered - 1} are those under a checkpoint from outside"
            )
        if self._full:
            report.checked.append("the grammar: writers, intents, outcomes, leases")
        else:
            report.not_checked.append("the grammar (--hashes-only)")
        report.not_checked.append("what lies beside entries: values, names behind pseudonyms")

    def _judge(self, claimed: _Claimed, trust: Trust) -> bool:
        """Compare a checkpoint with the tree and the keys; false when an earlier key has to vouch for it."""
        note, report = claimed.note, self.report
        if note is None:
            return True
        signers, size = note.signers(trust.known), note.size
        in_force = not signers.isdisjoint(trust.in_force(size))
        if trust.given and not in_force and not claimed.outside:
            what = "it is not signed by the key that was in force"
            report.fault(size, "checkpoint", what, certainty="checkpoint")
        elif trust.given and not in_force:
            report.doubts.append(f"{claimed.name} is not signed by the log's key; give its key with --key")
        elif size > self._tree.size:
            if not self._cut:
                what = f"the entries from {self._tree.size} on are missing: {claimed.name} counts {size}"
                report.fault(self._tree.size, "tile/entries", what, last=size - 1, certainty="range")
        elif self._roots.get(size) != note.root:
            what = f"they are not those under the checkpoint ({claimed.name})"
            first = min(self._covered, size - 1) if size else 0
            report.fault(first, "tile/entries", what, last=max(first, size - 1), certainty="range")
        elif size and self._origin != note.origin:
            what = f"it is of a log of another name than genesis says ({claimed.name})"
            report.fault(size, "checkpoint", what, certainty="checkpoint")
        elif trust.is_earlier(size):
            return False
        else:
            self._covered = max(self._covered, size)
            report.covered = max(report.covered, size if claimed.outside else 0)
        return True


# --- Bundles: the answer to a question, with the proofs of its entries ---------------------------------

BUNDLE: Final = "toolgate-bundle@v1"
NAMING: Final = ("entry", "end_entry", "intent", "answered_with", "config")
"""Columns of an answer that name entries."""
_ENDS: Final = {"outcome", "unknown"}
_LARGEST_MEMBER: Final = 1 << 26
_MOST_MEMBERS: Final = 200_000
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a text begins that a spreadsheet may run."""
_MEMBER: Final = re.compile(
    r"README\.txt|query\.json|rows\.(json|csv)|checkpoint(\.old)?|consistency|ledger\.vkey|verify\.py"
    r"|(entries|openings)/(0|[1-9]\d{0,17})\.json|proofs/(0|[1-9]\d{0,17})\.tlog-proof",
    re.ASCII,
)
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A named query whose rows are of entries: of which, and what its columns say of them."""

    kinds: frozenset[str]
    """Of entries of these kinds it has rows."""
    columns: dict[str, str]
    """What each column is made of: a field of the row's entry, `outer.inner`, the first of several that is
    there (`a|b`) or the last of a list (`a.-1`); with `@` a moment; with `~` a value that the entry commits
    to; with `config/` a field of the entry that the column `config` names; with `!` what `_Rows` finds out;
    `?` for what nothing signs."""
    demands: dict[str, str]
    """What these fields of the entry must say."""

    @classmethod
    def of(cls, kinds: str, columns: str, **demands: str) -> "Question":
        """Read columns as `name`, which is made of what is called so, or `name=made`, or `name?`."""
        made: dict[str, str] = {}
        for column in columns.split():
            name, given, source = column.partition("=")
            plain = name.removesuffix("?")
            made[plain] = source if given else "?" if plain != name else _MADE.get(name, name)
        return cls(kinds=frozenset(kinds.split()), columns=made, demands=demands)


_MADE: Final = {
    "entry": "!entry",
    "time": "@at",
    "status": "!status",
    "end_entry": "!end",
    "intent": "!intent",
    "asked": "~asked",
}
"""What a column is made of that says no more than its name."""
_CALL: Final = "intent refusal repeat"
_OF_A_VALUE: Final = {"!field", "!kept", "!value"}
_OF_A_LEASE: Final = {"!lent", "!lease", "!because", "!lent_ms"}
_OF_A_RUN: Final = {"!run", "!run_because", "!run_end", "!open_ms"}
_LEASE: Final = (
    "entry time=!lent tenant subject? tool role source made static scope ttl {} status=!lease {} intent "
    "end_entry call_id"
)
QUESTIONS: Final = {
    "calls": Question.of(
        _CALL,
        "entry time tenant subject? client? acting? tool asked effect verdict rules status end_entry call_id",
    ),
    "run": Question.of(
        _CALL, "entry time subject? tool asked effect verdict rules status took_ms=!took_ms end_entry call_id"
    ),
    "allowed-by": Question.of(
        _CALL,
        "entry time tool verdict rules status config policy=config/digests.policy "
        "registry=config/digests.registry still_in_force? call_id",
    ),
    "denials": Question.of(
        "refusal", "entry time tenant subject? client? tool asked status verdict rules call_id"
    ),
    "approvals": Question.of(
        "refusal", "entry time tenant subject? tool rule=rules.-1 call_id", status="approval_required"
    ),
    "unknowns": Question.of(
        "intent outcome unknown",
        "entry time tenant subject? tool status=status why=!why age_seconds? last_asked? call_id",
    ),
    "resolutions": Question.of(
        "resolve reconcile unknown late_outcome",
        "entry time kind status by_whom? because=~because tenant subject? tool attempt intent call_id",
    ),
    "duplicates-prevented": Question.of(
        "repeat", "entry time tenant subject? tool status answered_with call_id"
    ),
    "leases": Question.of(
        "lease intent", _LEASE.format("version lease request", "because=!because lent_ms=!lent_ms")
    ),
    "leases-astray": Question.of("lease intent", _LEASE.format("lease request", "age_seconds?")),
    "vault-runs": Question.of(
        "lease",
        "entry time tenant subject? run_name? source accessor request ttl status=!run because=!run_because "
        "asked_by? open_ms=!open_ms end_entry=!run_end intent call_id",
        status="run_opened",
    ),
    "touched": Question.of(_CALL, "entry time tenant subject? tool status arguments=~arguments call_id"),
    "destroyed": Question.of(
        "intent", "entry time tenant subject? tool rules status end_entry call_id", effect="destroy"
    ),
    "outside-hours": Question.of(_CALL, "entry time tenant subject? client? tool status call_id"),
    "arguments": Question.of(
        f"{_CALL} outcome unknown", "entry tool field=!field kept=!kept value=!value call_id"
    ),
    "first-use": Question.of("intent", "entry time tenant subject? tool call_id"),
    "changes": Question.of(
        "config key_rotate policy",
        "entry time kind changed? by_whom? because=~because writer policy=digests.policy|policy "
        "registry=digests.registry settings=digests.settings adapters=digests.adapters keys=digests.keys "
        "lock=digests.lock new_key=new",
    ),
    "gaps": Question.of(
        "genesis writer_start fault",
        "entry time kind writer program status detail stop_entry? stopped?",
    ),
    "who-read": Question.of("audit_read repeat", "entry time reader? query=!query asked tenant tool call_id"),
    "published": Question.of(
        _CALL, "entry end_entry tool status checkpoint? published? proof=!proof call_id"
    ),
    "erasures": Question.of(
        "erase",
        "entry time tenant by_whom? basis=~basis stands? done_entry? removed_values? removed_answers? "
        "waiting? subjects=names.subject clients=names.client runs=names.run",
    ),
    "retention": Question.of(
        "retention",
        "entry time rule tenant days before=@before arguments=removed.arguments results=removed.result "
        "callers=removed.caller addresses=removed.addresses names=removed.names first? last?",
    ),
    "auth-failures": Question.of("auth_failure", "entry time count source=~source reasons"),
}
"""The named queries whose rows name entries."""
_NOT_KNOWN: Final = Question.of(
    " ".join(_KINDS),
    "entry time kind tenant who tool call_id effect verdict rules definition trace config intent "
    "answered_with status end_entry",
)
"""What is compared of a question that is not known."""


def rows_as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Spell rows as CSV, in which no cell is a formula."""
    spelled = io.StringIO()
    writer = csv.writer(spelled, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = ["" if value is None else str(value) for value in row]
        writer.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
    return spelled.getvalue()


class _Members:
    """The files of a bundle, in a zip or unpacked."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._zip: zipfile.ZipFile | None = None
        if not place.is_dir():
            try:
                self._zip = zipfile.ZipFile(place)
            except (OSError, zipfile.BadZipFile) as error:
                raise Unreadable(f"{place} is neither a folder nor a zip: {error}") from error
            self.names = sorted(info.filename for info in self._zip.infolist())
        else:
            files = chain(place.glob("*"), place.glob("*/*"))
            self.names = sorted(file.relative_to(place).as_posix() for file in files if file.is_file())
        if len(self.names) > _MOST_MEMBERS or len(set(self.names)) != len(self.names):
            raise Unreadable(f"{place} holds too many files, or one of them twice")

    def numbered(self, folder: str, ending: str) -> dict[int, str]:
        """Give the files of a folder that are named by an entry."""
        found: dict[int, str] = {}
        for name in self.names:
            inner, _, file = name.rpartition("/")
            number = file.removesuffix(ending)
            if inner == folder and file != number and _NUMBER.fullmatch(number):
                found[int(number)] = name
        return found

    def read(self, name: str) -> bytes:
        """Read a file. Raises `Unreadable`."""
        try:
            opened = (self._place / name).open("rb") if self._zip is None else self._zip.open(name)
            with opened:
                content = opened.read(_LARGEST_MEMBER + 1)
        except (OSError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise Unreadable(f"the bundle's {name} cannot be read: {error}") from error
        if len(content) > _LARGEST_MEMBER:
            raise Unreadable(f"the bundle's {name} is too large")
        return content

    def text(self, name: str) -> str:
        """Read a file of text. Raises `Unreadable`."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise Unreadable(f"the bundle's {name} is no text") from error

    def json(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Read a file of JSON. Raises `Unreadable`."""
        try:
            return json.loads(self.text(name), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"the bundle's {name} is not JSON") from error

    def close(self) -> None:
        """Close the zip."""
        if self._zip is not None:
            self._zip.close()


class _Bundle:
    """One reading of a bundle."""

    def __init__(self, members: _Members) -> None:
        self.report = Report()
        self._members = members
        self._note = _parsed(members, "checkpoint")
        self._entries: dict[int, dict[str, Any]] = {}
        self._opened: dict[tuple[int, str], str] = {}
        """The values that open a commitment, as they are spelled, by entry and field."""
        self._rotations: list[Rotation] = []

    def run(self, keys: Sequence[VerifierKey], given: Sequence[tuple[str, Note]]) -> Report:
        """Check all."""
        query: dict[str, Any] = _object(self._members.json("query.json"))
        if query.get("form") != BUNDLE:
            raise Unreadable(f"this is no bundle: its query.json is not of the form {BUNDLE}")
        columns = query.get("columns")
        if type(columns) is not list:
            raise Unreadable("this is no bundle: query.json names no columns")
        for index, name in sorted(self._members.numbered("entries", ".json").items()):
            self._entry(index, self._members.read(name))
        self.report.entries = len(self._entries)
        if strangers := self._strangers():
            names = ", ".join(strangers[:_MOST_FAULTS])
            self.report.not_checked.append(f"files that are no part of a bundle: {names!a}")
        self._openings()
        self._rows(str(query.get("name")), [*map(str, columns)])  # pyright: ignore[reportUnknownArgumentType]
        notes = self._notes()
        self._signatures(keys, notes)
        self._outside(given, notes)
        return self.report

    def _strangers(self) -> list[str]:
        """Give the files that are no part of a bundle, and those about an entry that is not in it."""
        members = self._members
        beside = members.numbered("proofs", ".tlog-proof"), members.numbered("openings", ".json")
        entries = members.numbered("entries", ".json").keys()
        lonely = {name for files in beside for index, name in files.items() if index not in entries}
        return [name for name in members.names if name in lonely or not _MEMBER.fullmatch(name)]

    def _entry(self, index: int, body: bytes) -> None:
        """Check that an entry is under the bundle's checkpoint."""
        name, report = f"proofs/{index}.tlog-proof", self.report
        if name not in self._members.names:
            report.fault(index, name, "the entry has no proof")
            return
        extra, number, lines, checkpoint = _proof_parts(self._members.text(name))
        if extra != body or number != index:
            report.fault(index, name, "it proves another entry than the bundle shows")
        elif Note.parse(checkpoint) != self._note:
            report.fault(index, name, "its checkpoint is not the bundle's")
        elif root_from_inclusion(index, self._note.size, leaf_hash(body), _hashes(lines)) != self._note.root:
            report.fault(index, name, f"it does not lead to the checkpoint of {self._note.size} entries")
        else:
            self._known(index, body)

    def _known(self, index: int, body: bytes) -> None:
        try:
            self._entries[index] = entry = parse_body(body)
            if entry.get("kind") == "key_rotate":
                self._rotations.append(Rotation.parse(index, body))
        except Unreadable as error:
            self.report.fault(index, f"entries/{index}.json", str(error))

    def _openings(self) -> None:
        """Check that each value which is shown is what its entry commits to."""
        for index, name in sorted(self._members.numbered("openings", ".json").items()):
            openings: dict[str, Any] = _object(self._members.json(name))
            entry = self._entries.get(index, {})
            for committed, opening in openings.items():
                salt, value = _opening(opening)
                if fault := _payload_fault(entry.get(committed), committed, salt, value):
                    self.report.fault(index, name, f"{committed!a:.40}: {fault[1]}")
                self._opened[index, committed] = value.decode(errors="replace")
        if opened := len(self._opened):
            self.report.checked.append(f"{opened} values open the commitments of their entries")

    def _rows(self, query: str, columns: list[str]) -> None:
        """Check the rows against the entries that they name."""
        answer: list[dict[str, Any]] = _objects(self._members.json("rows.json"))
        if any([*row] != columns for row in answer):
            raise Unreadable("rows.json does not hold rows of the columns that query.json names")
        report = self.report
        if self._members.text("rows.csv") != rows_as_csv(columns, [[*row.values()] for row in answer]):
            report.fault(0, "rows.csv", "it does not say what rows.json says")
        question = QUESTIONS.get(query, _NOT_KNOWN)
        if question is _NOT_KNOWN:
            report.doubts.append(f"the question {query!a:.40} is not known here; take a newer verify.py")
        elif columns != [*question.columns]:
            report.fault(0, "query.json, columns", f"they are not those of the question {query!a}")
        _Rows(report, question, self._entries, self._opened).check(answer, columns)
        report.not_checked.append("that there are no other rows: only the whole ledger shows that")
        report.not_checked.append("query.json: question, filters and SQL")

    def _notes(self) -> dict[str, Note]:
        """Give the bundle's checkpoints; the newer must only have added to the older."""
        notes, members = {"the bundle's checkpoint": self._note}, self._members
        if "checkpoint.old" in members.names:
            old = _parsed(members, "checkpoint.old")
            if not old.size:
                raise Unreadable("the older checkpoint counts no entries: every tree begins with it")
            consistent = verify_consistency(old, self._note, members.text("consistency"))
            self.report.faults += consistent.faults
            self.report.checked += consistent.checked
            notes["the older checkpoint"] = old
        return notes

    def _signatures(self, keys: Sequence[VerifierKey], notes: dict[str, Note]) -> None:
        """Demand each checkpoint to be signed by a given key, or one that a proven rotation leads to."""
        known = list(keys)
        if not known:
            self.report.doubts.append(
                "no key was given: anybody could have made this bundle; give the log's with --key"
            )
            known = [VerifierKey.parse(line) for line in self._members.text("ledger.vkey").splitlines()]
        if keys and self._note.signers(known):
            for rotation in reversed(self._rotations):
                known += [rotation.old] if rotation.new in known else []
        for rotation in self._rotations:
            known += [rotation.new] if rotation.old in known else []
        for name, note in notes.items():
            if not note.signers(known):
                what = "it is not signed by a key that was given, or that followed it"
                self.report.fault(note.size, name, what, certainty="checkpoint")
            else:
                whose = "a given key, or one that followed it" if keys else "the bundle's own key"
                self.report.checked.append(f"{name} ({note.size} entries) is signed by {whose}")

    def _outside(self, given: Sequence[tuple[str, Note]], notes: dict[str, Note]) -> None:
        """Compare checkpoints that the reader kept with those of the bundle."""
        for file, kept in given:
            same = [(name, note) for name, note in notes.items() if note.size == kept.size]
            if not same:
                self.report.doubts.append(
                    f"{file} is of {kept.size} entries, no checkpoint of the bundle is; ask for a bundle "
                    "with it as --old"
                )
            for name, note in same:
                if (note.origin, note.root) == (kept.origin, kept.root):
                    self.report.checked.append(f"{name} says what {file} says")
                else:
                    what = f"{file} is of the same size and says something else: the log was forked"
                    last = max(0, kept.size - 1)
                    self.report.fault(0, name, what, last=last, certainty="range")


_UNSIGNED: Final = object()
"""In the place of what no entry of the bundle says."""
_NOTHING: Final = object()
"""In the place of what no row can show."""
_OTHERWISE: Final = "it is not what the entry says"


class _Rows:
    """Compares the rows of an answer with the entries that are proven."""

    def __init__(
        self,
        report: Report,
        question: Question,
        entries: dict[int, dict[str, Any]],
        opened: dict[tuple[int, str], str],
    ) -> None:
        self._report, self._question = report, question
        self._entries, self._opened = entries, opened
        ends = [(entry.get("intent"), at) for at, entry in entries.items() if entry.get("kind") in _ENDS]
        self._ends = {intent: at for intent, at in ends if type(intent) is int}
        self._run_ends = {
            _run(entry): at
            for at, entry in entries.items()
            if "accessor" in entry and "lease" not in entry and str(entry.get("status")) in _LATER
        }
        self._compared: set[str] = set()
        """Columns that say in some row what an entry says."""
        self._passed_over: set[str] = set()
        """Columns that in some row cannot be compared."""

    def check(self, answer: list[dict[str, Any]], columns: list[str]) -> None:
        """Check all."""
        report = self._report
        for number, row in enumerate(answer, 1):
            self._row(f"rows.json, row {number}", row)
        if not answer:
            report.doubts.append("the answer has no rows: that there are none, only the whole ledger shows")
        for rows, names, said in (
            (report.checked, self._compared - self._passed_over, "what comes from entries, in every row: {}"),
            (report.not_checked, self._compared & self._passed_over, "in some rows: {}"),
            (report.not_checked, {*columns} - self._compared, "the columns {}: nothing signs them"),
        ):
            if answer and names:
                rows.append(said.format(", ".join(sorted(names))))

    def _row(self, place: str, row: dict[str, Any]) -> None:
        for name in NAMING:
            index = row.get(name)
            if index is None and name != "entry":
                self._passed_over.update({name} & row.keys())
            elif type(index) is not int:
                self._report.fault(0, f"{place}, {name}", "it names no entry")
            elif index in self._entries:
                self._compared.add(name)
            else:
                self._report.fault(index, f"{place}, {name}", "the bundle does not hold and prove this entry")
        at, question = row.get("entry"), self._question
        if type(at) is not int or at not in self._entries:
            return
        entry = self._entries[at]
        demanded = all(entry.get(name) == said for name, said in question.demands.items())
        if entry.get("kind") not in question.kinds or not demanded:
            self._report.fault(at, f"{place}, entry", "the question has no rows of such an entry")
            return
        for name, made in question.columns.items():
            if name in row and not self._agrees(made, name, row, entry):
                what = "that is no end of the row's entry" if name == "end_entry" else _OTHERWISE
                self._report.fault(at, f"{place}, {name}", what)

    def _agrees(self, made: str, name: str, row: dict[str, Any], entry: dict[str, Any]) -> bool:
        """Whether a column shows what the entries say, as far as they do."""
        says: object = _UNSIGNED
        if made.startswith("!"):
            says = self._found(made, name, row, entry)
        elif made.startswith("~"):
            says = self._value(made[1:], row["entry"], entry)
        elif made.startswith("config/"):
            says = _field(self._named(row.get("config")), made.removeprefix("config/"))
        elif made != "?":
            says = _field(entry, made.removeprefix("@"))
        if says is _UNSIGNED:
            self._passed_over.add(name)
            return True
        self._compared.add(name)
        if says is not None and (made.startswith("@") or made == "!lent"):
            return _is_moment(row[name], says)
        return _is_same(row[name], says)

    def _found(self, made: str, name: str, row: dict[str, Any], entry: dict[str, Any]) -> object:
        """Give what is not simply a field of the row's entry."""
        at, is_intent = row["entry"], entry.get("kind") == "intent"
        intent = at if is_intent else entry.get("intent")
        simple = {
            "!entry": at,
            "!intent": intent,
            "!why": "no end is recorded" if is_intent else "it ended unknown",
            "!query": entry.get("query") if entry.get("kind") == "audit_read" else _UNSIGNED,
            "!proof": f"toolgate ledger prove {row.get('end_entry') or at}",
        }
        if not is_intent:
            simple["!status"] = entry.get("status")
        elif made == "!why":
            self._passed_over.add(name)
        if made in simple:
            return simple[made]
        if made in _OF_A_VALUE:
            return self._kept(made, row, entry)
        if made in _OF_A_LEASE:
            return self._of_lease(made, row, entry)
        if made in _OF_A_RUN:
            return self._at_end(made, name, entry, self._run_ends.get(_run(entry)))
        if type(intent) is not int:
            return None
        return self._at_end(made, name, entry, self._ends.get(intent))

    def _at_end(self, made: str, name: str, entry: dict[str, Any], at: int | None) -> object:
        """Give what the end `at` of an entry says; that there is none yet, only the whole ledger shows."""
        if at is None:
            self._passed_over.add(name)
            return "open" if made in {"!status", "!run"} else None
        end = self._entries[at]
        match made:
            case "!end" | "!run_end":
                return at
            case "!run_because":
                return end.get("because")
            case "!took_ms" | "!open_ms":
                return _milliseconds(entry.get("at"), end.get("at"))
            case _:
                return end.get("status")

    def _of_lease(self, made: str, row: dict[str, Any], entry: dict[str, Any]) -> object:
        """Give what an entry of a lease says, or an intent that no lease is known of."""
        status, lent = str(entry.get("status")), entry.get("at")
        if entry.get("kind") == "intent":
            # Its credential was never told of, and neither was an outcome.
            ended = self._named(self._ends.get(row["entry"])).get("kind") == "outcome"
            if made == "!lease":
                self._passed_over.add("status")
                return "lent" if entry.get("role") != "none" and not ended else _NOTHING
            return lent if made == "!lent" else None
        if status != "lent":
            lent = self._named(entry.get("issued", entry.get("intent"))).get("at", _UNSIGNED)
        if made == "!lent":
            return lent
        if status in _LATER:
            found = {"!lease": status, "!because": entry.get("because")}
            return found[made] if made in found else _milliseconds(lent, entry.get("at"))
        # What became of it later, other entries say.
        possible = [*_LATER, "queued", "kept", "lapses", *(["lent"] if status == "lent" else [])]
        return _UNSIGNED if made != "!lease" or row["status"] in possible else _NOTHING

    def _kept(self, made: str, row: dict[str, Any], entry: dict[str, Any]) -> object:
        """Give what a row about a value shows of it."""
        field_, opened = row.get("field"), self._opened.get((row["entry"], f"{row.get('field')}"))
        if made == "!field":
            return field_ if type(field_) is str and type(entry.get(field_)) is dict else _NOTHING
        if opened is None:
            return _UNSIGNED
        return 1 if made == "!kept" else opened

    def _value(self, name: str, at: int, entry: dict[str, Any]) -> object:
        """Give a value that an entry commits to, where the bundle opens it."""
        if type(entry.get(name)) is not dict:
            return None
        opened = self._opened.get((at, name))
        # Where a text has a NUL in it, databases show it in different ways.
        return _UNSIGNED if opened is None or "\\u0000" in opened else _json(opened)

    def _named(self, index: object) -> dict[str, Any]:
        return self._entries.get(index, {}) if type(index) is int else {}


def _field(entry: dict[str, Any], made: str) -> object:
    """Give a field, or one in another, or the last of a list; of several the first that is there."""
    for path in made.split("|"):
        found: Any = entry
        for part in path.split("."):
            found = _part(found, part)
        if found is not None:
            return found
    return None


def _part(whole: Any, name: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return whole[-1 if name == "-1" else name]
    except (LookupError, TypeError):
        return None


def _run(entry: dict[str, Any]) -> str:
    """Tell a run's token from the others."""
    return f"{entry.get('call_id')!a} {entry.get('accessor')!a}"


def _is_same(shown: object, says: object) -> bool:
    """Whether a cell shows what is said: a flag as 1 or 0, a list or an object as its JSON."""
    if says is None:
        return shown is None or shown == ""
    if type(says) is bool:
        says = int(says)
    if type(says) in {list, dict}:
        return json.dumps(_json(shown), sort_keys=True) == json.dumps(says, sort_keys=True)
    return type(says) is type(shown) and says == shown


def _json(text: object) -> Any:  # noqa: ANN401 - any JSON value
    """Read JSON; what is none stands for itself."""
    try:
        return json.loads(text, object_pairs_hook=_once) if type(text) is str else text
    except (ValueError, RecursionError):
        return text


def _milliseconds(begin: object, end: object) -> object:
    """Give the whole milliseconds between two moments, as databases do; nothing if one is not known."""
    if type(begin) is not int or type(end) is not int:
        return _UNSIGNED
    return (end - begin) // 1000 if end >= begin else -((begin - end) // 1000)


def _parsed(members: _Members, name: str) -> Note:
    try:
        return Note.parse(members.text(name))
    except Unreadable as error:
        raise Unreadable(f"the bundle's {name}: {error}") from error


def _object(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    if type(value) is not dict:
        raise Unreadable("this is no bundle: an object is expected in a file of it")
    return value  # pyright: ignore[reportUnknownVariableType]


def _objects(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON value
    if type(value) is not list:
        raise Unreadable("this is no bundle: a list is expected in a file of it")
    return [_object(one) for one in value]  # pyright: ignore[reportUnknownVariableType]


def _opening(opening: object) -> tuple[bytes, bytes]:
    """Give salt and value of an opening; what is none opens nothing."""
    said = _object(opening)
    salt, value = said.get("salt"), said.get("value")
    try:
        return bytes.fromhex(str(salt)), value.encode() if type(value) is str else b""
    except ValueError:
        return b"", b""


def _is_moment(shown: object, at: object) -> bool:
    """Whether a text is the moment of so many microseconds since 1970, to the millisecond."""
    try:
        moment = datetime.fromisoformat(str(shown))
    except ValueError:
        return False
    if moment.tzinfo is None or type(at) is not int:
        return False
    return abs(moment - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=at)) <= _MILLISECOND


# --- What is asked -------------------------------------------------------------------------------------


def verify_tiles(
    folder: Path,
    *,
    keys: Sequence[VerifierKey] = (),
    checkpoints: Sequence[tuple[str, Note]] = (),
    hashes_only: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Verify a ledger that was exported as tiles; the arguments are those of `Asked`.

    Raises:
        Unreadable: the folder has no checkpoint, or cannot be read.
    """
    try:
        return _Tiles(folder, full=not hashes_only).run(keys, checkpoints, progress)
    except OSError as error:
        raise Unreadable(f"{folder} cannot be read to its end: {error}") from error


def verify_bundle(
    place: Path, *, keys: Sequence[VerifierKey] = (), checkpoints: Sequence[tuple[str, Note]] = ()
) -> Report:
    """Verify a bundle, as a zip or unpacked.

    Args:
        place: the zip, or the folder.
        keys: verifier keys that were not taken from the bundle.
        checkpoints: kept by whoever verifies, with a name for each.

    Raises:
        Unreadable: it is no bundle.
    """
    with closing(_Members(place)) as members:
        return _Bundle(members).run(keys, checkpoints)


class Asked(TypedDict, total=False):
    """How a whole ledger is to be verified."""

    keys: Sequence[VerifierKey]
    """Verifier keys that were not taken from the database."""
    checkpoints: Sequence[tuple[str, Note]]
    """Kept outside the database, with a name for each."""
    policy: Policy | None
    """Names witnesses, of which a quorum must have cosigned it."""
    hashes_only: bool
    """Leave out columns, grammar and payloads."""
    progress: Progress | None
    """Hears how far it is."""


def verify_ledger(database: Path, **asked: Unpack[Asked]) -> Report:
    """Verify a whole ledger, in an SQLite file that is only read.

    Raises:
        Unreadable: it is no ledger, or the file is damaged.
    """
    with closing(_open(database)) as connection:
        try:
            return verify_source(_SqliteSource(connection), **asked)
        except sqlite3.Error as error:
            raise Unreadable(f"{database} cannot be read to its end: {error}; copy it anew") from error


def verify_source(
    source: Source,
    *,
    keys: Sequence[VerifierKey] = (),
    checkpoints: Sequence[tuple[str, Note]] = (),
    policy: Policy | None = None,
    hashes_only: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Verify a whole ledger, wherever its tables are; as `verify_ledger`, which opens an SQLite file."""
    return _Audit(source, keys, policy, full=not hashes_only).run(checkpoints, progress)


_PROOF_FORM: Final = "c2sp.org/tlog-proof@v1"


def verify_proof(text: str, keys: Sequence[VerifierKey] = (), policy: Policy | None = None) -> Report:
    """Verify a `tlog-proof` whose `extra` is the entry. Raises `Unreadable`."""
    extra, index, lines, checkpoint = _proof_parts(text)
    note = Note.parse(checkpoint)
    report = Report(entries=1)
    if extra is None:
        report.doubts.append("the proof does not hold the entry (no `extra` line); ask for one that does")
    elif root_from_inclusion(index, note.size, leaf_hash(extra), _hashes(lines)) != note.root:
        what = f"the proof does not lead from the entry to the checkpoint of {note.size} entries"
        report.fault(index, "proof", what)
    else:
        report.body = extra
        report.checked.append(f"the entry is number {index} among the {note.size} of {note.origin!a}")
    _demand_signatures(report, keys, {"the proof's checkpoint": note}, index)
    _demand_quorum(report, policy, "the proof's checkpoint", note)
    return report


def _proof_parts(text: str) -> tuple[bytes | None, int, list[str], str]:
    """Give a proof's entry, index, hashes (as they are spelled) and checkpoint. Raises `Unreadable`."""
    head, gap, checkpoint = text.partition("\n\n")
    form, *lines = head.split("\n")
    if form != _PROOF_FORM or not gap:
        raise Unreadable(f"this is no proof: its first line is not {_PROOF_FORM}, or it has no checkpoint")
    extra = unbase64(lines.pop(0).removeprefix("extra ")) if lines and lines[0].startswith("extra ") else None
    number = lines.pop(0).removeprefix("index ") if lines and lines[0].startswith("index ") else ""
    if not _NUMBER.fullmatch(number):
        raise Unreadable("the proof has no index")
    return extra, int(number), lines, checkpoint


def verify_consistency(
    old: Note, new: Note, proof: str, keys: Sequence[VerifierKey] = (), policy: Policy | None = None
) -> Report:
    """Verify a proof, a hash a line, that the newer checkpoint's tree begins with the older one's.

    Raises:
        Unreadable: the proof is no list of hashes, or the older tree is empty.
    """
    if not old.size:
        raise Unreadable("the older checkpoint counts no entries: every tree begins with it")
    report = Report(entries=new.size)
    hashes = _hashes(proof.split())
    _demand_order(report, old, new)
    if not report.faults and not is_consistent(old.size, new.size, old.root, new.root, hashes):
        what = f"the proof does not lead from the checkpoint of {old.size} to that of {new.size}"
        report.fault(0, "proof", what, last=old.size - 1, certainty="range")
    if not report.faults:
        report.checked.append(f"the {new.size} entries begin with the {old.size} of the older checkpoint")
    _demand_signatures(report, keys, {"the older checkpoint": old, "the newer checkpoint": new}, 0)
    _demand_quorum(report, policy, "the newer checkpoint", new)
    return report


def _demand_order(report: Report, old: Note, new: Note) -> None:
    if old.origin != new.origin:
        raise Unreadable("the two checkpoints are of two logs")
    if new.size < old.size:
        raise Unreadable("the newer checkpoint counts fewer entries than the older; give the older one first")
    if new.size == old.size and new.root != old.root:
        what = "two checkpoints of one size have two roots: the log was forked"
        report.fault(0, "checkpoint", what, last=old.size - 1, certainty="range")


def _demand_signatures(
    report: Report, keys: Sequence[VerifierKey], notes: dict[str, Note], index: int
) -> None:
    if not keys:
        report.doubts.append("no key was given: anybody could have made this; give the log's with --key")
        return
    for name, note in notes.items():
        if note.signers(keys):
            report.checked.append(f"{name} is signed by a given key")
        else:
            report.fault(index, name, "it is not signed by a key that was given", certainty="checkpoint")


def _demand_quorum(report: Report, policy: Policy | None, name: str, note: Note) -> None:
    if policy is None:
        if any(len(signature) != 2 * _HASH for _, _, signature in note.signatures):
            report.not_checked.append(f"cosignatures of {name}: name the witnesses' policy with --witnesses")
        return
    try:
        found = policy.cosigners(note)
    except Unreadable as error:
        report.fault(max(0, note.size - 1), name, str(error), certainty="checkpoint")
        return
    if policy.quorum == _NOBODY and not found:
        report.not_checked.append(_NO_QUORUM)
    elif policy.is_met(found):
        report.checked.append(f"{name} is cosigned by the quorum of the policy: {_in_words(found)}")
    else:
        report.doubts.append(
            f"{name} is not cosigned by the quorum of the policy: {_in_words(found)} cosigned it"
        )


def _hashes(lines: Sequence[str]) -> list[bytes]:
    hashes = [unbase64(line) for line in lines]
    if any(len(part) != _HASH for part in hashes):
        raise Unreadable("a hash of the proof is not 32 bytes")
    return hashes


# --- The command ---------------------------------------------------------------------------------------


def read_keys(text: str) -> list[VerifierKey]:
    """Read a verifier key, or a file with one a line. Raises `Unreadable`."""
    try:
        return [VerifierKey.parse(text)]
    except Unreadable as error:
        if text.count("+") >= 2 and not Path(text).exists():  # noqa: PLR2004
            raise Unreadable(f"--key: {error}") from error
    lines = [line for line in _read(text).split("\n") if line.strip() and not line.startswith("#")]
    try:
        keys = [VerifierKey.parse(line) for line in lines]
    except Unreadable as error:
        raise Unreadable(f"{text}: {error}") from error
    if not keys:
        raise Unreadable(f"{text} holds no key")
    return keys


def read_policy(file: str) -> Policy:
    """Read a file that names witnesses and the quorum. Raises `Unreadable`."""
    try:
        return Policy.parse(_read(file))
    except Unreadable as error:
        raise Unreadable(f"{file}: {error}") from error


def read_note(file: str) -> Note:
    """Read a checkpoint's file. Raises `Unreadable`."""
    try:
        return Note.parse(_read(file))
    except Unreadable as error:
        raise Unreadable(f"{file}: {error}") from error


def _read(file: str) -> str:
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise Unreadable(f"{file} is too large")
        return content.decode()
    except (OSError, ValueError) as error:
        raise Unreadable(f"{file} cannot be read: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; gives the exit code."""
    asked = _arguments().parse_args(argv)
    started = time.monotonic()
    try:
        report = _answer(asked)
    except Unreadable as error:
        report = Report(doubts=[str(error)])
    except MemoryError:
        report = Report(doubts=["there is not enough memory"])
    except Exception as error:  # noqa: BLE001 - whatever was made up to stop it: that is no verdict
        report = Report(doubts=[f"it could not be read to its end ({type(error).__name__})"])
    if asked.json:
        _say(report.as_json())
    else:
        for line in report.lines():
            _say(line)
        _say(f"  took {time.monotonic() - started:.1f} s")
    return EXIT[report.verdict]


def _exported(
    asked: argparse.Namespace,
    keys: Sequence[VerifierKey],
    notes: Sequence[tuple[str, Note]],
    progress: Progress | None,
) -> Report:
    if asked.command == "bundle":
        return verify_bundle(Path(asked.place), keys=keys, checkpoints=notes)
    return verify_tiles(
        Path(asked.folder), keys=keys, checkpoints=notes, hashes_only=asked.hashes_only, progress=progress
    )


def _answer(asked: argparse.Namespace) -> Report:
    policy = None if asked.witnesses is None else read_policy(asked.witnesses)
    keys = [key for text in asked.key for key in read_keys(text)]
    keys += policy.logs if policy else ()
    if asked.command == "proof":
        return verify_proof(_read(asked.file), keys, policy)
    progress = _show if sys.stderr.isatty() and not asked.json else None
    notes = [(file, read_note(file)) for file in getattr(asked, "checkpoint", [])]
    if asked.command in {"tiles", "bundle"}:
        report = _exported(asked, keys, notes, progress)
        if policy is not None:
            report.doubts.append("an export carries no cosignatures; verify the ledger, or a proof")
        return report
    if asked.command == "ledger":
        return verify_ledger(
            Path(asked.database),
            keys=keys,
            checkpoints=notes,
            policy=policy,
            hashes_only=asked.hashes_only,
            progress=progress,
        )
    old, new = read_note(asked.old), read_note(asked.new)
    if asked.proof is not None and asked.database is None:
        return verify_consistency(old, new, _read(asked.proof), keys, policy)
    if asked.proof is not None or asked.database is None:
        raise Unreadable("name either the database or a proof (--proof FILE)")
    ordered = Report()
    _demand_order(ordered, old, new)
    notes = [(asked.old, old), (asked.new, new)]
    report = verify_ledger(
        Path(asked.database), keys=keys, checkpoints=notes, policy=policy, hashes_only=True, progress=progress
    )
    report.faults[:0] = ordered.faults
    return report


def _arguments() -> argparse.ArgumentParser:
    what, _, usage = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="verify.py", description=what, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    key = "the log's verifier key (name+id+key), or a file with such keys; may be repeated"
    common.add_argument("--key", action="append", default=[], metavar="KEY", help=key)
    policy = "names witnesses, of which a quorum must have cosigned it; its logs' keys are taken as --key"
    common.add_argument("--witnesses", metavar="FILE", help=policy)
    common.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(dest="command", required=True)
    ledger = commands.add_parser("ledger", parents=[common], help="verify a whole ledger")
    ledger.add_argument("database", metavar="DATABASE")
    tiles = commands.add_parser("tiles", parents=[common], help="verify a ledger that was exported as tiles")
    tiles.add_argument("folder", metavar="FOLDER")
    bundle = commands.add_parser("bundle", parents=[common], help="verify an answer with its proofs")
    bundle.add_argument("place", metavar="FILE.zip", help="or the folder that it was unpacked to")
    kept = "one that you kept elsewhere"
    for command in (ledger, tiles, bundle):
        command.add_argument("--checkpoint", action="append", default=[], metavar="FILE", help=kept)
    hashes_only = "leave out columns, grammar and payloads"
    for command in (ledger, tiles):
        command.add_argument("--hashes-only", action="store_true", help=hashes_only)
    proof = commands.add_parser("proof", parents=[common], help="verify the proof of one entry")
    proof.add_argument("file", metavar="FILE")
    consistency = commands.add_parser(
        "consistency", parents=[common], help="verify that a log was only added to"
    )
    consistency.add_argument("old", metavar="OLD")
    consistency.add_argument("new", metavar="NEW")
    consistency.add_argument("database", metavar="DATABASE", nargs="?")
    consistency.add_argument(
        "--proof", metavar="FILE", help="instead of the database: a file with one hash a line"
    )
    return parser


def _show(done: int, total: int) -> None:
    sys.stderr.write(f"\r{done} of {total} entries")
    if done >= total:
        sys.stderr.write("\n")


def _say(line: str) -> None:
    """Print what a strange database or file may have written; no terminal is steered by it."""
    encoding = sys.stdout.encoding or "ascii"
    printable = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in line)
    sys.stdout.write(printable.encode(encoding, "backslashreplace").decode(encoding) + "\n")


if __name__ == "__main__":
    sys.exit(main())
