"""The OAuth 2.1 resource server: who may come in, and what a stranger is told (RFC 6750, RFC 9728)."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from toolgate.core.call import Caller
from toolgate.core.identity import BadToken

CALLER: Final = "toolgate.caller"
TOKEN: Final = "toolgate.token"  # noqa: S105 - a key
"""The verified token itself, as a `SecretStr`, for the call alone: an exchange at its issuer may need it."""
METADATA_PATH: Final = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, kw_only=True)
class ProtectedResource:
    """What this server says of itself to clients that need a token."""

    uri: str
    """Its canonical URI, the audience of its tokens."""
    issuers: Sequence[str]
    scopes: Sequence[str]
    """The least that a client should ask for; a refused call names what else it needs."""

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
        if self.scopes:
            document["scopes_supported"] = list(self.scopes)
        return JSONResponse(document)

    def challenge(self, reason: str | None) -> Response:
        """Ask for a token; `reason` says what was wrong with the one that came."""
        parts = [f'resource_metadata="{self.metadata_url}"']
        if self.scopes:
            parts.append(f'scope="{" ".join(self.scopes)}"')
        body = {"error": "unauthorized", "error_description": "a bearer token is needed"}
        if reason is not None:
            body = {"error": "invalid_token", "error_description": f"the bearer token: {reason}"}
            parts += [f'error="invalid_token", error_description="{reason}"']
        challenge = f"Bearer {', '.join(parts)}"
        return JSONResponse(body, 401, headers={"WWW-Authenticate": challenge})


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
        scope[TOKEN] = SecretStr(token)
        return None


def _source(scope: Scope) -> str:
    """Give the address that a request came from; behind a proxy, the proxy's."""
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
