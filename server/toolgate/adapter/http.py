"""The signed-in HTTP client that most operations work with."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError

from toolgate.adapter.context import Credential, NothingDone, OutcomeUnknown, Sending, System

PREPARING: Final[dict[str, Any]] = {"toolgate.preparing": True}
"""Give it as `extensions=` to a POST that changes nothing by itself (to fetch a one-time token, say)."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class RequestRefused(NothingDone):
    """One request did nothing. What an earlier request of the same call did is not said by this.

    Args:
        counted: whether `sending` was called for this request itself.
    """

    def __init__(self, code: str, message: str, *, counted: bool, retryable: bool) -> None:
        super().__init__(code, message, retryable=retryable)
        self.counted = counted


class RequestBroken(OutcomeUnknown):
    """A request got no answer from which one could tell what it did."""


class HttpSystem(BaseModel):
    """The `[system]` table of a system that is reached over HTTP."""

    model_config = ConfigDict(extra="forbid")

    base_url: HttpUrl
    headers: dict[str, str] = Field(default_factory=dict)
    max_connections: int = Field(default=100, ge=1, le=10_000)


class HttpConnector:
    """One connection pool per system. A credential lives only in the client of its call."""

    marks_sending = True

    def __init__(self, system: System) -> None:
        try:
            self._options = HttpSystem.model_validate(dict(system.options))
        except ValidationError as error:
            raise ValueError(faults_in(error, "[system]")) from error
        if self._options.base_url.username or self._options.base_url.password:
            raise ValueError("[system] base_url: it holds a user; name a credential role instead")
        self._base_url = httpx.URL(str(self._options.base_url))
        self._origin = _origin(self._base_url)
        limits = httpx.Limits(max_connections=self._options.max_connections)
        self._pool = _KeptOpen(httpx.AsyncHTTPTransport(limits=limits))

    @asynccontextmanager
    async def session(
        self, credential: Credential | None, sending: Sending
    ) -> AsyncGenerator[httpx.AsyncClient]:
        """Lend a client that signs in with `credential`, follows no redirect and reads no environment."""

        async def mark(request: httpx.Request) -> None:
            if _origin(request.url) != self._origin:
                raise ValueError("an operation may not send its credential to another host")
            if _can_have_effect(request):
                sending()

        async with httpx.AsyncClient(
            transport=self._pool,
            base_url=self._base_url,
            headers=self._options.headers,
            auth=_sign_in(credential),
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113 - the gate's deadline ends the call
            event_hooks={"request": [mark], "response": [_refuse_by_status]},
        ) as client:
            yield client

    async def aclose(self) -> None:
        """Close the connection pool."""
        await self._pool.close_for_good()


class _KeptOpen(httpx.AsyncBaseTransport):
    """A transport that outlives the clients that borrow it."""

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            message = "the system could not be reached"
            counted = _can_have_effect(request)
            raise RequestRefused("unreachable", message, counted=counted, retryable=True) from error
        except httpx.TransportError as error:
            raise RequestBroken("the system broke the connection off") from error

    async def close_for_good(self) -> None:
        await self._transport.aclose()


class _Header(httpx.Auth):
    def __init__(self, name: str, value: str) -> None:
        self._name, self._value = name, value

    def auth_flow(self, request: httpx.Request) -> Any:  # noqa: ANN401 - httpx's own generator type
        request.headers[self._name] = self._value
        yield request


def _sign_in(credential: Credential | None) -> httpx.Auth | None:
    if credential is None or credential.sign_in == "none":
        return None
    secret = credential.secret.get_secret_value()
    match credential.sign_in:
        case "basic":
            user, _, password = secret.partition(":")
            return httpx.BasicAuth(user, password)
        case "bearer":
            return _Header("Authorization", f"Bearer {secret}")
        case "header":
            return _Header(credential.header, secret)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _can_have_effect(request: httpx.Request) -> bool:
    return request.method not in _SAFE_METHODS and PREPARING.keys().isdisjoint(request.extensions)


async def _refuse_by_status(response: httpx.Response) -> None:
    """Turn a refusal (4xx) into `NothingDone`: the system looked at the request and did not do it.

    Of a redirect or a 5xx nobody can tell what it did (RFC 9110, sections 15.4 to 15.6).
    """
    status = response.status_code
    if status < 300:  # noqa: PLR2004 - the classes of RFC 9110
        return
    if 400 <= status < 500 and status != 408:  # noqa: PLR2004
        code = _CODES.get(status, "upstream_refused")
        raise RequestRefused(
            code,
            f"the system refused the request (HTTP {status})",
            counted=_can_have_effect(response.request),
            retryable=status in {425, 429},
        )
    raise RequestBroken(f"the system answered HTTP {status}")


_CODES = {
    401: "upstream_sign_in",
    403: "upstream_forbidden",
    404: "not_found",
    409: "conflict",
    412: "conflict",
    429: "upstream_busy",
}


def faults_in(error: ValidationError, place: str) -> str:
    """Say everything that is wrong in a manifest table, without its values."""
    faults = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{place} {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
