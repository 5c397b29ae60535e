"""Which claims of an issuer's tokens mean what to us."""

from typing import Literal

from pydantic import Field, model_validator

from toolgate.core.record import Record

Algorithm = Literal["ES256", "RS256", "EdDSA"]
"""Asymmetric only: with a shared secret, whoever checks tokens could also make them."""


class TrustedIssuer(Record):
    """One issuer of access tokens (RFC 9068), and what we believe of them.

    Exactly one of `jwks_uri` and `jwks_file` says where its keys are; exactly one of `tenant` and
    `tenant_claim` says for which tenant it may speak.
    """

    issuer: str = Field(min_length=1)
    jwks_uri: str | None = None
    jwks_file: str | None = None
    """A file of keys, relative to the root, in place of an address."""
    algorithms: tuple[Algorithm, ...] = ("ES256", "RS256", "EdDSA")
    tenant: str | None = None
    tenant_claim: str | None = None
    tenants: frozenset[str] = frozenset()
    """The tenants that `tenant_claim` may name; it may name no other."""
    roles_claim: str | None = None
    """A claim that lists roles; `a.b` reaches into objects. Without it, tokens give no roles."""
    scopes_claim: str = "scope"
    leeway: float = Field(default=30, ge=0, le=300)
    """Seconds by which the issuer's clock may differ from ours."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "TrustedIssuer":
        if (self.jwks_uri is None) == (self.jwks_file is None):
            raise ValueError("say exactly one of jwks_uri and jwks_file")
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError("say exactly one of tenant and tenant_claim")
        if (self.tenant_claim is None) != (not self.tenants):
            raise ValueError("tenants lists what tenant_claim may name; say both or neither")
        return self


class BadToken(Exception):  # noqa: N818
    """A bearer token that is not good here. Its message is for the log and the caller; it holds no token."""
