"""A promise about a value that tells nothing of it: HMAC-SHA256 under a salt of its own (RFC 2104, RFC 6234).

Without the salt, which can be erased, nobody can test a guess against it.
"""

import hashlib
from typing import Final

SALT_BYTES: Final = 32
_BLOCK: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


def commitment(salt: bytes, label: str, spelled: bytes) -> str:
    """Commit to the canonical spelling of the value called `label`; hexadecimal.

    It is `hmac.digest(salt, label + 0x00 + spelled, "sha256")` in two plain hashes: the library's own lets go
    of the interpreter's lock for every value, and waits for it again beside a busy writer.
    """
    key = salt.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(key.translate(_INNER) + label.encode() + b"\0" + spelled)
    return hashlib.sha256(key.translate(_OUTER) + inner.digest()).hexdigest()
