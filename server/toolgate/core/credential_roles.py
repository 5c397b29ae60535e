"""The `[credentials.ROLE]` tables of a manifest: where a credential comes from, and how it signs in."""

import re
from typing import Annotated, Any, Final, Literal, TypeAlias, cast

from pydantic import ConfigDict, Discriminator, Field, HttpUrl, Tag, model_validator

from toolgate.adapter.context import SignIn
from toolgate.core.record import Record

_NAME: Final = r"^[A-Za-z0-9_.{}@:-]+$"
_PATH: Final = r"^[A-Za-z0-9_.{}@:-]+(/[A-Za-z0-9_.{}@:-]+)+$"
_URI: Final = r"^([A-Za-z][A-Za-z0-9+.-]*:[^\s#]+)?$"
"""An absolute URI without a fragment (RFC 8707, section 2), or nothing."""
_SCOPES: Final = r"^([\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*)?$"
"""RFC 6749, section 3.3, or nothing."""


class _Role(Record):
    """What every role says."""

    model_config = ConfigDict(populate_by_name=True)

    sign_in: SignIn
    header: str = ""
    """The header that carries the credential, for `sign_in = "header"` and only there."""

    @model_validator(mode="after")
    def _header_where_it_is_used(self) -> "_Role":
        if (self.sign_in == "header") == (not self.header):
            raise ValueError('say header for sign_in = "header", and only there')
        return self


class FileRole(_Role):
    """An entry of the embedded keystore: static."""

    source: Literal["file"] = Field(default="file", alias="from")
    secret: str = Field(min_length=1)
    """The entry's name."""

    @property
    def static(self) -> bool:
        """Whether the secret outlives the call."""
        return True


class EnvRole(_Role):
    """A variable of the gate's own environment: static."""

    source: Literal["env"] = Field(alias="from")
    secret: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The variable's name."""

    @property
    def static(self) -> bool:
        """Whether the secret outlives the call."""
        return True


class VaultRole(_Role):
    """A path of a vault, read for the call with a token that can read little else.

    `{tenant}` and `{subject}` in `path` and `role` stand for the caller's.
    """

    source: Literal["vault"] = Field(alias="from")
    kind: Literal["dynamic", "kv", "token"]
    """`dynamic`: it is made for the call, with a lease (`database/creds/...`); `kv`: a version of a stored
    secret (KV v2, `secret/data/...`); `token`: it is signed for a while (`identity/oidc/token/...`)."""
    path: str = Field(pattern=_PATH)
    """Where it is read, without `/v1/`."""
    role: str = Field(pattern=_NAME)
    """The Vault policy that the call's token has, and its only one."""
    secret: str = Field(default="", max_length=200)
    """How the credential is made of what is read: `{username}:{password}`, `{api_key}`."""
    ttl: int = Field(default=60, ge=1, le=3600)
    """Seconds that the call's token lives, and with it what it was given."""
    lease: Literal["per_call", "per_run"] = "per_call"
    version: int | None = Field(default=None, ge=1)
    """For `kv`: the version that is pinned; else the newest."""

    @property
    def static(self) -> bool:
        """Whether the secret outlives the call."""
        return self.kind == "kv"

    @property
    def form(self) -> str:
        """How the credential is made of what is read."""
        return self.secret or {"dynamic": "{username}:{password}", "kv": "", "token": "{token}"}[self.kind]

    @model_validator(mode="after")
    def _consistent(self) -> "VaultRole":
        if fault := fault_in_places(f"{self.path} {self.role}"):
            raise ValueError(f"path and role: {fault}")
        if not {".", ".."}.isdisjoint(self.path.split("/")):
            raise ValueError("path: it has . or .. for a part")
        if self.secret and not re.fullmatch(r"[^{}]*(\{\w+\}[^{}]*)+", self.secret):
            raise ValueError("secret: it names no field of what is read, as {password} does")
        if self.kind == "kv" and "{" not in self.secret:
            raise ValueError('a kv role says which field it takes: secret = "{password}"')
        if self.version is not None and self.kind != "kv":
            raise ValueError("only a kv role has versions")
        return self


class OAuthRole(_Role):
    """An access token of the system's authorization server, for the gate or on behalf of the caller."""

    source: Literal["oauth"] = Field(alias="from")
    grant: Literal["client_credentials", "token_exchange"]
    """The gate's own (RFC 6749, section 4.4), or made of the caller's token (RFC 8693)."""
    token_url: HttpUrl
    """The token endpoint; over http only on this machine."""
    issuer: str = ""
    """For `token_exchange`: whose endpoint that is, where it does not lie below the issuer's own address. The
    tokens of this issuer alone are sent there."""
    client: str = Field(min_length=1)
    """The role of this manifest whose credential is `client_id:client_secret` at the token endpoint."""
    audience: str = ""
    """Whom the token is for: the system. It is sent as `audience`, and must be in a JWT that comes back."""
    resource: str = Field(default="", pattern=_URI)
    """The same as a URI (RFC 8707), sent as `resource`."""
    scope: str = Field(default="", pattern=_SCOPES)
    """Scopes, separated by spaces. A token that may do more is refused."""

    @property
    def static(self) -> bool:
        """Whether the secret outlives the call."""
        return False

    @model_validator(mode="after")
    def _bound(self) -> "OAuthRole":
        if self.grant == "token_exchange" and not (self.audience or self.resource):
            raise ValueError("say whom the token is for: audience, or resource")
        if self.issuer and self.grant != "token_exchange":
            raise ValueError("only token_exchange sends a token to somebody, and has an issuer")
        if self.sign_in not in {"bearer", "header"}:
            raise ValueError('an access token signs in as sign_in = "bearer", or in a header')
        return self


def fault_in_places(template: str) -> str | None:
    """Say why `{tenant}` and `{subject}` are not all that stands in braces, or None."""
    left = template.replace("{tenant}", "").replace("{subject}", "")
    return "only {tenant} and {subject} stand for something" if set(left) & {"{", "}"} else None


def _source(document: Any) -> str:  # noqa: ANN401 - what stands in a manifest, or a role
    if isinstance(document, dict):
        return str(cast("dict[str, Any]", document).get("from", "file"))
    return str(getattr(document, "source", "file"))


CredentialRole: TypeAlias = Annotated[
    Annotated[FileRole, Tag("file")]
    | Annotated[EnvRole, Tag("env")]
    | Annotated[VaultRole, Tag("vault")]
    | Annotated[OAuthRole, Tag("oauth")],
    Discriminator(_source),
]
