"""A witness's key, and what it says under a checkpoint (c2sp.org/tlog-cosignature, Ed25519)."""

import base64
import binascii
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from toolgate.backends.log_key import replace_file, sync_folder
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.note import COSIGNATURE, Note, Signature, VerifierKey, cosigned_message
from toolgate.core.witness_policy import NamedWitness, WitnessPolicy

_SIGNER: Final = re.compile(r"PRIVATE\+KEY\+([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)\n?")
_NAME: Final = re.compile(r"[^\s+]{1,200}")
_SEED_BYTES: Final = 32
_TIME_BYTES, _SIGNATURE_BYTES = 8, 64
_LATEST: Final = 2**63 - 1


class WitnessKey:
    """Cosigns under one name. Its repr shows no secret."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier = VerifierKey(name, private.public_key().public_bytes_raw(), COSIGNATURE)

    @classmethod
    def new(cls, name: str) -> "WitnessKey":
        """Make a key. Raises `ValueError` for what is no name of a key."""
        if not _NAME.fullmatch(name) or not name.isprintable():
            raise ValueError(f"{name!r} cannot be a key's name: no blanks and no + may be in it")
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, file: Path) -> "WitnessKey":
        """Read the key that `write` wrote.

        Raises:
            Misconfigured: it is not there, others may read it, or it is no key.
        """
        try:
            if file.stat().st_mode & 0o077:
                raise _fault(file, "it can be read by others", f"run: chmod 600 {file}")
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _fault(file, f"it cannot be read ({error})", _MAKE_ONE) from error
        found = _SIGNER.fullmatch(text)
        try:
            key = base64.b64decode(found[3], validate=True) if found else b""
        except binascii.Error as error:
            raise _fault(file, "it was damaged", "restore it") from error
        if found is None or len(key) != 1 + _SEED_BYTES or key[0] != COSIGNATURE:
            raise _fault(file, "it is no witness's key", _MAKE_ONE)
        read = cls(found[1], Ed25519PrivateKey.from_private_bytes(key[1:]))
        if read.verifier.id.hex() != found[2]:
            raise _fault(file, "it was damaged", "restore it")
        return read

    def write(self, file: Path) -> None:
        """Write it where only the owner may read it, and its public half beside it as `.vkey`.

        Raises:
            FileExistsError: there is one already.
        """
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
        replace_file(draft, self._spelled(), 0o600)
        try:
            file.hardlink_to(draft)
        finally:
            draft.unlink()
        sync_folder(file)
        replace_file(file.with_suffix(".vkey"), f"{self.verifier}\n", 0o644)

    def cosign(self, text: str, at: int) -> Signature:
        """Say that, `at` seconds after 1970, `text` is the largest consistent tree that was seen."""
        signature = self._private.sign(cosigned_message(text, at))
        timestamped = at.to_bytes(_TIME_BYTES, "big") + signature
        return Signature(self.verifier.name, self.verifier.id, timestamped)

    def _spelled(self) -> str:
        name, id_ = self.verifier.name, self.verifier.id.hex()
        key = base64.b64encode(bytes([COSIGNATURE]) + self._private.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{name}+{id_}+{key}\n"


@dataclass(frozen=True)
class Cosignature:
    """A witness's good signature under a checkpoint."""

    witness: NamedWitness
    at: int
    """Seconds after 1970, by the witness's clock."""
    line: Signature


def cosignatures_in(
    note: Note, lines: Iterable[Signature], witnesses: Iterable[NamedWitness]
) -> list[Cosignature]:
    """Give the good cosignatures of `note` among `lines`; what is false, or by nobody known, is left out."""
    by_key = {(each.key.name, each.key.id): each for each in witnesses}
    found: list[Cosignature] = []
    for line in lines:
        witness = by_key.get((line.name, line.key_id))
        at = cosigned_at(note, line, witness.key) if witness is not None else None
        if witness is not None and at is not None:
            found.append(Cosignature(witness, at, line))
    return found


def has_quorum(note: Note, lines: Iterable[Signature], policy: WitnessPolicy) -> bool:
    """Whether good cosignatures of enough witnesses are among `lines`."""
    good = cosignatures_in(note, lines, policy.witnesses)
    return policy.is_met({each.witness.name for each in good})


def cosigned_at(note: Note, line: Signature, key: VerifierKey) -> int | None:
    """Give when `key` cosigned `note` by this line; None when it did not."""
    if len(line.signature) != _TIME_BYTES + _SIGNATURE_BYTES:
        return None
    at = int.from_bytes(line.signature[:_TIME_BYTES], "big")
    if not 0 < at <= _LATEST:
        return None
    public = Ed25519PublicKey.from_public_bytes(key.public)
    try:
        public.verify(line.signature[_TIME_BYTES:], cosigned_message(note.text, at))
    except InvalidSignature:
        return None
    return at


def _fault(file: Path, problem: str, remedy: str) -> Misconfigured:
    return Misconfigured([Fault(f"{file}", "the witness's key", problem, remedy)])


_MAKE_ONE: Final = "restore it, or make one: toolgate ledger witness-key NAME --key FILE"
