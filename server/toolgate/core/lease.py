"""A credential that exists only for its call."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final, Literal
from urllib.parse import quote

from pydantic import SecretStr

from toolgate.core.record import Record

PARTS: Final = 3
"""In the last of so many parts of its life nothing is lent anew: what a call has must outlast the call."""
_SHORTEST: Final = 8
"""Characters: a shorter text may stand in a result by chance, and be no secret."""

LeaseSource = Literal["file", "env", "vault", "oauth"]
"""Where a credential comes from: the embedded keystore, the gate's environment, a vault, a token endpoint."""
LeaseKind = Literal["static", "token", "dynamic"]
"""`static`: the secret outlives the call, wherever it is kept; `token`: signed for a while, and nothing ends
it before; `dynamic`: made for the call or the run, and ended when it is given back."""
LeaseEnd = Literal["given_back", "queued", "kept", "lapses"]
"""`queued`: it could not be ended yet, and will be; `kept`: other calls of the run go on with it; `lapses`:
it cannot be ended, and lives until its time is over."""


class Lent(Record):
    """What the ledger says of a lease: everything but the secret."""

    id: str
    """Vault's lease id; for a credential without one, an id of ours."""
    role: str
    """The manifest's credential role."""
    source: LeaseSource = "file"
    kind: LeaseKind = "static"
    scope: str = ""
    """What it is good for: a path and a policy of a vault, an audience and scopes of OAuth."""
    ttl: int = 0
    """Seconds that it lives at most; 0 for a static one."""
    version: int | None = None
    """Which version of a stored secret it is, where its store counts them."""
    request: str = ""
    """Vault's id of the request that issued it, as in Vault's own audit log."""
    issued: int | None = None
    """The entry by which its issuance was durable before its use; None for one that needs none."""
    end: LeaseEnd = "given_back"

    @property
    def static(self) -> bool:
        """Whether the secret outlives the call: it was not made for it."""
        return self.kind == "static"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Lives in memory for one call. A dataclass, not a `Record`: it must not be stored."""

    secret: SecretStr
    lent: Lent
    until: datetime | None = None
    """When it ends by itself; None for a static secret."""
    shared: bool = False
    """Other calls of the run use it too."""
    beside: "tuple[Lease, ...]" = field(default=())
    """Leases that were needed to get this one: a client's own secret, at a token endpoint."""
    known_spellings: tuple[str, ...] | None = field(default=None, repr=False)
    """Those of its secret, where its source has worked them out before."""

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """How a system may tell its secrets, whole or a password alone: the longest first."""
        if self.known_spellings is not None and not self.beside:
            return self.known_spellings
        return spellings_of(*(one.secret for one in (self, *self.beside)))


def spellings_of(*secrets: SecretStr) -> tuple[str, ...]:
    """Give how a system may tell `secrets`, whole or a password alone: the longest first."""
    found: set[str] = set()
    for secret in (one.get_secret_value() for one in secrets):
        for text in {secret, secret.partition(":")[2]}:
            found |= _spelled(text)
    return tuple(sorted((word for word in found if len(word) >= _SHORTEST), key=len, reverse=True))


def _spelled(text: str) -> set[str]:
    """Spell a text as it is, in a URL, in JSON, in hexadecimal, in base64: whole, and inside of more."""
    octets = text.encode()
    encoded = {b64(octets).decode() for b64 in _ALPHABETS}
    plain = {text, quote(text, safe=""), json.dumps(text)[1:-1], octets.hex()}
    inside = {_inside(octets, before, b64) for before in range(3) for b64 in _ALPHABETS}
    return plain | encoded | {word.rstrip("=") for word in encoded} | inside


def _inside(octets: bytes, before: int, b64: Callable[[bytes], bytes]) -> str:
    """Spell what of `octets` can be told where `before` others come first (RFC 4648, section 4)."""
    first, last = -(-8 * before // 6), 8 * (before + len(octets)) // 6
    return b64(bytes(before) + octets).decode()[first:last]


_ALPHABETS: Final = (base64.b64encode, base64.urlsafe_b64encode)
