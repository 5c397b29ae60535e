"""Which claims of an issuer's tokens mean what to us."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, HttpUrl, StringConstraints, model_validator

from toolgate.core.record import Record

Algorithm = Literal["ES256", "RS256", "EdDSA"]
"""Asymmetric only: with a shared secret, whoever checks tokens could also make them."""
Scope = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]
"""One scope (RFC 6749, section 3.3): it can stand in a challenge as it is."""
OPAQUE: Final = r"^[A-Za-z0-9._~+/-]*$"
"""How a token may begin (RFC 6750, section 2.1)."""


class Introspection(Record):
    """Where an issuer tells what its tokens are worth (RFC 7662), and how the gate signs in there."""

    model_config = ConfigDict(populate_by_name=True, frozen=True, extra="forbid")

    endpoint: HttpUrl
    """Over http only on this machine: tokens and the client's secret are sent there."""
    client_id: str = Field(min_length=1)
    source: Literal["file", "env"] = Field(default="file", alias="from")
    """Where the client's secret is: in the embedded keystore, or in the gate's environment."""
    secret: str = Field(min_length=1)
    """The name of the keystore's entry, or of the variable; never the secret itself."""
    prefix: str = Field(default="", pattern=OPAQUE)
    """What its tokens begin with. No other token is shown to it."""
    cache_seconds: float = Field(default=30, ge=0, le=300)
    """How long an answer that a token is good is believed: a revoked token is good as long as that."""

    @model_validator(mode="after")
    def _a_name_where_it_is_looked_for(self) -> "Introspection":
        if self.source == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.secret):
            raise ValueError("secret is the name of a variable of the environment")
        return self


class TrustedIssuer(Record):
    """One issuer of access tokens (RFC 9068), and what we believe of them.

    At most one of `jwks_uri` and `jwks_file` says where its keys are; there may be none where it can be asked
    about its tokens. Exactly one of `tenant` and `tenant_claim` says for which tenant it may speak.
    """

    issuer: str = Field(min_length=1)
    jwks_uri: str | None = None
    jwks_file: str | None = None
    """A file of keys, relative to the root, in place of an address."""
    jwks_seconds: float = Field(default=300, ge=1, le=86_400)
    """How old the keys may be before they are read again: so long a withdrawn key is good at most."""
    introspection: Introspection | None = None
    """For tokens that its keys cannot verify: opaque ones, and without keys all of them."""
    algorithms: tuple[Algorithm, ...] = ("ES256", "RS256", "EdDSA")
    tenant: str | None = None
    tenant_claim: str | None = None
    tenants: frozenset[str] = frozenset()
    """The tenants that `tenant_claim` may name; it may name no other."""
    roles_claim: str | None = None
    """A claim that lists roles; `a.b` reaches into objects. Without it, tokens give no roles."""
    scopes_claim: str = "scope"
    implies: Mapping[Scope, frozenset[Scope]] = Field(default_factory=dict[str, frozenset[str]])
    """Scopes that are worth others, too: `{ "notes" = ["notes:read", "notes:write"] }`."""
    leeway: float = Field(default=30, ge=0, le=300)
    """Seconds by which the issuer's clock may differ from ours."""

    @property
    def has_keys(self) -> bool:
        """Whether its signed tokens are verified by its keys."""
        return self.jwks_uri is not None or self.jwks_file is not None

    @model_validator(mode="after")
    def _one_of_each(self) -> "TrustedIssuer":
        if self.jwks_uri is not None and self.jwks_file is not None:
            raise ValueError("say exactly one of jwks_uri and jwks_file")
        if not self.has_keys and self.introspection is None:
            raise ValueError("say exactly one of jwks_uri and jwks_file, or introspection")
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError("say exactly one of tenant and tenant_claim")
        if (self.tenant_claim is None) != (not self.tenants):
            raise ValueError("tenants lists what tenant_claim may name; say both or neither")
        return self

    def worth(self, scopes: Iterable[str]) -> frozenset[str]:
        """Give the scopes with all that they imply."""
        found: set[str] = set()
        left = list(scopes)
        while left:
            scope = left.pop()
            if scope not in found:
                found.add(scope)
                left.extend(self.implies.get(scope, ()))
        return frozenset(found)


class BadToken(Exception):  # noqa: N818
    """A bearer token that is not good here. Its message is for the log and the caller; it holds no token."""


class IssuerUnavailable(Exception):  # noqa: N818
    """Nobody can tell whether a token is good: its issuer cannot be asked. The token may be good.

    Args:
        retry_after: seconds after which asking again may tell more.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
