"""Receipts that an entry is in the ledger, in COSE (RFC 9942), for whoever speaks that instead of C2SP.

A receipt is a COSE_Sign1 (RFC 9052, section 4.2) whose payload is the root of the tree. It is detached: who
verifies computes it from the entry and the proof.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Final

from toolgate.backends.ledger_proofs import Proof
from toolgate.backends.log_key import LogKey
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import Checkpoint

_SIGN1: Final = 18
_ALGORITHM, _KEY_ID, _CLAIMS, _STRUCTURE, _PROOFS = 1, 4, 15, 395, 396
"""Labels of COSE headers (RFC 9052, RFC 9597; the last two RFC 9942)."""
_EDDSA: Final = -8
_ISSUER, _SUBJECT = 1, 2
"""Claims (RFC 8392)."""
_RFC9162_SHA256: Final = 1
_INCLUSION: Final = -1


def receipt(proof: Proof, key: LogKey) -> bytes:
    """Spell a proof as a receipt, signed by the log's key.

    Raises:
        LedgerUnavailable: the package that spells CBOR is not installed.
    """
    try:
        cbor: Any = import_module("cbor2")
    except ImportError as error:
        raise LedgerUnavailable(
            "receipts need the package cbor2, which is not installed; run: pip install 'toolgate[cose]'"
        ) from error
    # Deterministic CBOR (RFC 8949, section 4.2.1).
    spelled: Callable[[Any], bytes] = partial(cbor.dumps, canonical=True)
    checkpoint = Checkpoint.parse(proof.note.text)
    claims = {_ISSUER: checkpoint.origin, _SUBJECT: f"{checkpoint.origin}/{proof.index}"}
    protected = spelled(
        {_ALGORITHM: _EDDSA, _KEY_ID: key.verifier.id, _CLAIMS: claims, _STRUCTURE: _RFC9162_SHA256}
    )
    inclusion = spelled([proof.size, proof.index, [*proof.hashes]])
    signed = spelled(["Signature1", protected, b"", checkpoint.root])
    parts = [protected, {_PROOFS: {_INCLUSION: [inclusion]}}, None, key.sign(signed)]
    return spelled(cbor.CBORTag(_SIGN1, parts))
