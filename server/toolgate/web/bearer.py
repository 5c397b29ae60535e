"""The OAuth 2.1 resource server: who may come in, and what a stranger is told (RFC 6750, RFC 9728)."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from toolgate.core.call import Caller
from toolgate.core.identity import BadToken, IssuerUnavailable

CALLER: Final = "toolgate.caller"
TOKEN: Final = "toolgate.token"  # noqa: S105 - a key
"""The verified token itself, as a `SecretStr`, for the call alone: an exchange at its issuer may need it."""
METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6749, section 3.3: what can stand in a challenge as it is."""


@dataclass(frozen=True, kw_only=True)
class ProtectedResource:
    """What this server says of itself to clients that need a token."""

    uri: str
    """Its canonical URI, the audience of its tokens."""
    issuers: Sequence[str]
    scopes: Callable[[], Sequence[str]]
    """Those that any tool asks for, as of now."""
    first_scopes: Sequence[str] | None = None
    """What a client is told to begin with; None for all. A refused call names what else it needs."""

    @property
    def metadata_path(self) -> str:
        """Where on this server its metadata is (RFC 9728, section 3.1)."""
        return METADATA_PATH + urlsplit(self.uri).path

    @property
    def metadata_url(self) -> str:
        """The address of its metadata."""
        parts = urlsplit(self.uri)
        return urlunsplit((parts.scheme, parts.netloc, self.metadata_path, "", ""))

    def metadata(self) -> Response:
        """Give the metadata document (RFC 9728, section 2)."""
        document: dict[str, object] = {
            "resource": self.uri,
            "bearer_methods_supported": ["header"],
            "resource_name": "Toolgate",
        }
        if self.issuers:
            document["authorization_servers"] = list(self.issuers)
        if scopes := self.scopes():
            document["scopes_supported"] = list(scopes)
        return JSONResponse(document)

    def challenge(self, reason: str | None) -> Response:
        """Ask for a token; `reason` says what was wrong with the one that came (RFC 6750, section 3)."""
        scopes = self.scopes() if self.first_scopes is None else self.first_scopes
        body = {"error": "unauthorized", "error_description": "a bearer token is needed"}
        said: dict[str, str] = {}
        if reason is not None:
            body = {"error": "invalid_token", "error_description": f"the bearer token: {reason}"}
            said = {"error": "invalid_token", "error_description": reason}
        return JSONResponse(body, 401, headers={"WWW-Authenticate": self._bearer(scopes, said)})

    def step_up(self, caller: Caller, needed: Iterable[str]) -> str:
        """Spell the challenge for a call that needs more scopes than its caller's token has.

        It names all that the call needs at once (MCP 2026-07-28, authorization, scope challenge handling),
        and what the token has of what is known here, for clients that ask for no more than they are told to.
        """
        scopes = {*needed, *caller.scopes.intersection(self.scopes())}
        missing = " ".join(_scopes(set(needed) - caller.scopes))
        description = f"the token lacks the scope {missing}"
        return self._bearer(scopes, {"error": "insufficient_scope", "error_description": description})

    def _bearer(self, scopes: Iterable[str], said: Mapping[str, str]) -> str:
        parts = {"resource_metadata": self.metadata_url, "scope": " ".join(_scopes(scopes)), **said}
        return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parts.items() if value)


class Bearer:
    """Turns the `Authorization` header into a caller; `reject` hears of sources and reasons."""

    def __init__(
        self,
        resource: ProtectedResource,
        caller_of: Callable[[str], Awaitable[Caller]],
        reject: Callable[[str, str], None],
    ) -> None:
        self._resource = resource
        self._caller_of = caller_of
        self._reject = reject

    async def admit(self, scope: Scope) -> Response | None:
        """Put the caller into `scope`, or give the answer for who may not come in."""
        token = _token(scope)
        if token is None:
            return self._resource.challenge(None)
        try:
            scope[CALLER] = await self._caller_of(token)
        except BadToken as error:
            self._reject(_source(scope), str(error))
            return self._resource.challenge(str(error))
        except IssuerUnavailable as error:
            return _unavailable(error)
        scope[TOKEN] = SecretStr(token)
        return None


def _unavailable(error: IssuerUnavailable) -> Response:
    """Keep the client from throwing a good token away: it is not the token that is at fault."""
    body = {"error": "temporarily_unavailable", "error_description": str(error)}
    return JSONResponse(body, 503, headers={"Retry-After": str(error.retry_after)})


def _scopes(scopes: Iterable[str]) -> list[str]:
    return sorted(scope for scope in scopes if _SCOPE.fullmatch(scope))


def _source(scope: Scope) -> str:
    """Give the address that a request came from: the caller's, where a trusted proxy names it (Forwarded)."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else "unknown"


def bind_session(scope: Scope) -> None:
    """Let the SDK bind a session of the handshake era to its caller. It gets no token."""
    caller: Caller = scope[CALLER]
    scope["user"] = AuthenticatedUser(
        AccessToken(
            token="",
            client_id=caller.client,
            scopes=sorted(caller.scopes),
            subject=caller.subject,
            claims={"iss": caller.issuer},
        )
    )


def _token(scope: Scope) -> str | None:
    """Read the one bearer token; two `Authorization` headers are none (RFC 9110, section 5.3)."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return None
    kind, _, token = values[0].decode("latin-1").strip().partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None
