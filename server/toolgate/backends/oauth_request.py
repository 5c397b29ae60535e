"""What a token endpoint is asked for, for whom, and whether it may be asked that."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import httpx
from pydantic import SecretStr

from toolgate.backends.asking import faults_in_endpoint
from toolgate.backends.lending import Wanted
from toolgate.backends.oauth_endpoint import OAuthFault
from toolgate.core.credential_roles import CredentialRole, OAuthRole

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a type
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass(frozen=True)
class Whose:
    """For whom a token is: two calls that differ in any of this have two tokens."""

    system: str
    name: str
    role: OAuthRole
    tenant: str
    client: bytes
    """SHA-256 of the client's credential: with a new one there are new tokens."""
    caller: bytes = b""
    """SHA-256 of the caller's token, where it is exchanged."""
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """One request for a token, on behalf of a call."""

    wanted: Wanted
    role: OAuthRole
    client: SecretStr
    caller: SecretStr | None
    """The token to exchange."""

    @staticmethod
    def of(wanted: Wanted) -> "TokenRequest":
        """Make the request that `wanted` needs.

        Raises:
            OAuthFault: the caller's token would have to be exchanged, and there is none, or not there.
        """
        role, client = wanted.role, wanted.client
        if not isinstance(role, OAuthRole) or client is None:
            raise TypeError(f"{wanted.name} is not lent from here")
        caller = _to_exchange(wanted, role) if role.grant == "token_exchange" else None
        return TokenRequest(wanted=wanted, role=role, client=client, caller=caller)

    @property
    def whose(self) -> Whose:
        """For whom the token will be."""
        call, tool = self.wanted.call, self.wanted.tool
        whose = (tool.system, self.wanted.name, self.role, call.caller.tenant, _digest(self.client))
        return Whose(*whose) if self.caller is None else Whose(*whose, _digest(self.caller), call.run or "")

    @property
    def form(self) -> dict[str, str]:
        """What is sent. It may hold the caller's token."""
        asked = {"audience": self.role.audience, "resource": self.role.resource, "scope": self.role.scope}
        form = {name: value for name, value in asked.items() if value}
        if self.caller is None:
            return {"grant_type": "client_credentials"} | form
        return form | {
            "grant_type": _EXCHANGE,
            "subject_token": self.caller.get_secret_value(),
            "subject_token_type": ACCESS_TOKEN,
            "requested_token_type": ACCESS_TOKEN,
        }


def oauth_faults(role: CredentialRole) -> Iterator[tuple[str, str]]:
    """Say what would keep the role from being lent, and what to do; its server is not asked."""
    if isinstance(role, OAuthRole):
        sign_in = "name a role with the client's credential in client"
        yield from faults_in_endpoint(role.token_url, setting="token_url", sent="secrets", sign_in=sign_in)


def _to_exchange(wanted: Wanted, role: OAuthRole) -> SecretStr:
    """Give the caller's token, if the role's endpoint is where it may be sent."""
    if wanted.call.token is None:
        problem = "the tool acts on behalf of its caller, who came without an access token: call over HTTP"
        raise OAuthFault("no_caller_token", problem)
    if not _is_endpoint_of(role, wanted.call.caller.issuer):
        problem = "the caller's token may be exchanged where it was issued, and this tool's token endpoint"
        raise OAuthFault("oauth_foreign_issuer", f"{problem} is not known to be there")
    return wanted.call.token


def _is_endpoint_of(role: OAuthRole, issuer: str) -> bool:
    """Whether the token endpoint is the issuer's: by word of the role, or since it lies below the issuer."""
    if role.issuer:
        return role.issuer == issuer
    try:
        there, own = httpx.URL(str(role.token_url)), httpx.URL(issuer)
    except httpx.InvalidURL:
        return False  # there are issuers that are no address
    same_origin = (there.scheme, there.raw_host, there.port) == (own.scheme, own.raw_host, own.port)
    return same_origin and there.path.startswith(own.path.rstrip("/") + "/")


def _digest(secret: SecretStr) -> bytes:
    return sha256(secret.get_secret_value().encode(errors="surrogatepass")).digest()
