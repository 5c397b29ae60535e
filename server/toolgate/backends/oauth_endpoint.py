"""Asks token endpoints (RFC 6749, section 3.2): one form, one answer, and nothing is followed or repeated."""

import asyncio
import logging
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from toolgate.backends.asking import PATIENCE, closed_client, signed_in
from toolgate.core.errors import CredentialUnavailable

log = logging.getLogger(__name__)

LARGEST: Final = 65_536
"""Bytes of an answer."""
_OK, _UNAUTHORIZED, _TOO_MANY = 200, 401, 429
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/=+-]{1,64}")


class OAuthFault(CredentialUnavailable):
    """No token came. The message is for the caller: of what the server wrote it holds nothing."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(code, message, retryable=retryable)


class TokenReply(BaseModel):
    """What a token endpoint says when it gives a token (RFC 6749, section 5.1; RFC 8693, section 2.2.1)."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    access_token: SecretStr = Field(min_length=1)
    token_type: str
    expires_in: float | None = Field(default=None, allow_inf_nan=False)
    """Seconds."""
    scope: str | None = None
    issued_token_type: str = ""


class TokenEndpoints:
    """Connections to token endpoints, a few for each."""

    def __init__(self) -> None:
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._trust = ssl.create_default_context()

    async def ask(self, url: str, client: SecretStr, form: Mapping[str, str]) -> tuple[TokenReply, str]:
        """Ask the endpoint at `url` for a token, as the client whose `id:secret` is given.

        Gives its answer, and its id of the request where it says one. Never repeated by itself.

        Raises:
            OAuthFault: it gave none, or nobody can tell.
        """
        id_, colon, secret = client.get_secret_value().partition(":")
        if not (id_ and colon):
            raise OAuthFault("oauth_bad_client", "the client's credential is not client_id:client_secret")
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._post(url, signed_in(id_, secret), form)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            # The error does not go on: it holds the request.
            fault, kind = _fault_of(error), type(error).__name__
        else:
            read = answer.read()
            if isinstance(read, TokenReply):
                return read, answer.request
            fault, kind = read, f"HTTP {answer.status}"
        log.warning("the token endpoint at %s: %s (%s)", httpx.URL(url).host, fault.code, kind)
        raise fault

    async def aclose(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.aclose()

    async def _post(self, url: str, auth: httpx.BasicAuth, form: Mapping[str, str]) -> "_Answer":
        body = bytearray()
        async with self._client(url).stream("POST", url, data=dict(form), auth=auth) as response:
            async for part in response.aiter_raw():
                body += part
                if len(body) > LARGEST:
                    body.clear()
                    break
        request = response.headers.get("X-Request-Id", "")
        return _Answer(response.status_code, bytes(body), request if _REQUEST_ID.fullmatch(request) else "")

    def _client(self, url: str) -> httpx.AsyncClient:
        if url not in self._clients:
            self._clients[url] = closed_client(self._trust)
        return self._clients[url]


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    """Empty where it was too large."""
    request: str

    def read(self) -> TokenReply | OAuthFault:
        """Read the token, or why there is none: by the status and a registered code alone.

        What else a server writes stays where it is: it may echo what it was sent.
        """
        status = self.status
        if status == _TOO_MANY or status >= 500:  # noqa: PLR2004 - the classes of RFC 9110
            return OAuthFault(
                "oauth_rate_limited" if status == _TOO_MANY else "oauth_server_error",
                f"the token endpoint answered HTTP {status}",
                retryable=True,
            )
        if status >= 400:  # noqa: PLR2004
            return self._refusal()
        if status >= 300:  # noqa: PLR2004
            problem = "the token endpoint sends us elsewhere, and a client's secret is not taken along"
            return OAuthFault("oauth_redirected", problem)
        try:
            return TokenReply.model_validate_json(self.body if status == _OK else b"")
        except ValidationError:
            return OAuthFault("oauth_bad_answer", "the token endpoint's answer is not one of RFC 6749")

    def _refusal(self) -> OAuthFault:
        try:
            said = _Refusal.model_validate_json(self.body).error
        except ValidationError:
            said = "invalid_client" if self.status == _UNAUTHORIZED else ""
        reason = said if said in _CODES else f"HTTP {self.status}"
        return OAuthFault(_CODES.get(said, "oauth_refused"), f"the token endpoint refused it ({reason})")


class _Refusal(BaseModel):
    """RFC 6749, section 5.2."""

    error: str


def _fault_of(error: Exception) -> OAuthFault:
    match error:
        case httpx.PoolTimeout():
            return OAuthFault("oauth_slow", "too many requests wait for the token endpoint", retryable=True)
        case httpx.ConnectTimeout():
            return OAuthFault("oauth_unreachable", "the token endpoint cannot be reached", retryable=True)
        case httpx.TimeoutException() | TimeoutError():
            return OAuthFault("oauth_slow", "the token endpoint did not answer in time", retryable=True)
        case _ if any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
            return OAuthFault("oauth_tls", "the token endpoint's certificate is not trusted")
        case _:
            problem = "the token endpoint cannot be reached, or broke the connection off"
            return OAuthFault("oauth_unreachable", problem, retryable=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_CODES = {
    "invalid_client": "oauth_client_refused",
    "unauthorized_client": "oauth_client_refused",
    "unsupported_grant_type": "oauth_refused",
    "invalid_request": "oauth_refused",
    "invalid_grant": "oauth_grant_refused",
    "invalid_target": "oauth_target_refused",
    "invalid_scope": "oauth_scope_refused",
}
"""By registered error (IANA, OAuth Extensions Error): those that our grants can end with."""
