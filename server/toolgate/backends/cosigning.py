"""A witness's key, and what it says under a checkpoint (c2sp.org/tlog-cosignature, Ed25519)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from toolgate.backends.signer_file import BadSigner, read_signer, verifier_of, write_signer
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.note import COSIGNATURE, Note, Signature, VerifierKey, cosigned_message
from toolgate.core.witness_policy import NamedWitness, WitnessPolicy

_NAME: Final = re.compile(r"[^\s+]{1,200}")
_TIME_BYTES, _SIGNATURE_BYTES = 8, 64
_LATEST: Final = 2**63 - 1


class WitnessKey:
    """Cosigns under one name. Its repr shows no secret."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier = verifier_of(name, private, COSIGNATURE)

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
            return cls(*read_signer(file, COSIGNATURE))
        except BadSigner as bad:
            fault = Fault(f"{file}", "the witness's key", f"it {bad.problem}", bad.remedy or _MAKE_ONE)
            raise Misconfigured([fault]) from bad

    def write(self, file: Path) -> None:
        """Write it where only the owner may read it, and its public half beside it as `.vkey`.

        Raises:
            FileExistsError: there is one already.
        """
        write_signer(file, self.verifier, self._private)

    def cosign(self, text: str, at: int) -> Signature:
        """Say that, `at` seconds after 1970, `text` is the largest consistent tree that was seen."""
        signature = self._private.sign(cosigned_message(text, at))
        timestamped = at.to_bytes(_TIME_BYTES, "big") + signature
        return Signature(self.verifier.name, self.verifier.id, timestamped)


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


_MAKE_ONE: Final = "restore it, or make one: toolgate ledger witness-key NAME --key FILE --state FILE"
