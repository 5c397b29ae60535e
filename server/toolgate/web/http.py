"""The HTTP side: one MCP endpoint for every era, its OAuth metadata, and the health of the process."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from toolgate.core.record import JsonObject
from toolgate.web.bearer import METADATA_PATH, Bearer, ProtectedResource, bind_session
from toolgate.web.messages import BadMessage, check_headers, message
from toolgate.web.plain_calls import PlainCalls
from toolgate.web.step_up import challenging

ENDPOINT: Final = "/mcp"
_HANDSHAKE: Final = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)


@dataclass(frozen=True, kw_only=True)
class HttpEdge:
    """What the HTTP side is told."""

    resource: ProtectedResource
    bearer: Bearer
    hosts: TransportSecuritySettings
    max_body: int
    ready: Callable[[], Mapping[str, Any]]
    stateless: bool = False
    """Clients of the handshake era get no session: another process may get their next request."""


def http_app(server: Server[Any], edge: HttpEdge, calls: PlainCalls | None = None) -> Starlette:
    """Build the application; without `calls`, every call goes through the SDK."""
    plain = _manager(server, edge, json_response=True, stateless=True)
    streaming = _manager(server, edge, json_response=False, stateless=True)
    standing = _manager(server, edge, json_response=False, stateless=edge.stateless)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with plain.run(), streaming.run(), standing.run():
            yield

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        said = edge.ready()
        return JSONResponse(said, 200 if said["ready"] else 503)

    async def metadata(request: Request) -> Response:
        refused = await TransportSecurityMiddleware(edge.hosts).validate_request(request)
        return refused or edge.resource.metadata()

    ways = _Ways(plain.handle_request, streaming.handle_request, standing.handle_request)
    endpoint = _Endpoint(edge, calls, ways)
    return _App(
        endpoint,
        lifespan=lifespan,
        routes=[
            Route(ENDPOINT, endpoint),
            Route(METADATA_PATH, metadata),
            Route(edge.resource.metadata_path, metadata),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ],
    )


class _App(Starlette):
    """Hands the endpoint its requests at once: of what Starlette does on the way it needs nothing."""

    def __init__(self, endpoint: ASGIApp, *, routes: Sequence[Route], lifespan: Lifespan[Starlette]) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == ENDPOINT:
            await self._endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@dataclass(frozen=True)
class _Ways:
    """The SDK's ways to answer."""

    plain: ASGIApp
    """As plain JSON, for clients of 2026-07-28."""
    streaming: ASGIApp
    """As a stream: a call that wants to hear of its progress."""
    standing: ASGIApp
    """As a stream over a session, on which a call can ask its client in between: 2025-11-25 and before."""


class _Endpoint:
    """Host, origin, token and size first; then our own way for common calls, and the SDK for all the rest."""

    def __init__(self, edge: HttpEdge, calls: PlainCalls | None, ways: _Ways) -> None:
        self._edge, self._calls, self._ways = edge, calls, ways
        self._hosts = TransportSecurityMiddleware(edge.hosts)
        named = (host for host in edge.hosts.allowed_hosts if host.isascii() and not host.endswith(":*"))
        self._named_hosts = frozenset(host.encode() for host in named if host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        post = scope["method"] == "POST"
        refused = await self._host_refused(scope, is_post=post) or await self._edge.bearer.admit(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        if post:
            await self._take(scope, receive, send)
        else:
            await self._by_mode(scope, streamed=False)(scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a message; what is none, or not whole, goes no further."""
        try:
            body = await self._body(scope, receive)
            said = message(body)
            check_headers(said, scope["headers"])
        except ClientDisconnect:
            return
        except (_TooLarge, BadMessage) as error:
            await _refusal(error, scope)(scope, receive, send)
            return
        send = challenging(self._edge.resource, scope, said, send)
        if self._calls is not None and await self._calls.answer(scope, body, said, send):
            return
        await self._by_mode(scope, streamed=_is_streamed(said))(scope, _again(body, receive), send)

    async def _host_refused(self, scope: Scope, *, is_post: bool) -> Response | None:
        """Ask the SDK, unless it is what it nearly always is: JSON, for a host of ours, of no origin."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        usual = (
            len(headers) == len(scope["headers"])
            and headers.get(b"content-type") == b"application/json"
            and headers.get(b"host") in self._named_hosts
            and b"origin" not in headers
        )
        return None if usual else await self._hosts.validate_request(Request(scope), is_post=is_post)

    def _by_mode(self, scope: Scope, *, streamed: bool) -> ASGIApp:
        # httptools leaves the white space after a value (RFC 9110, section 5.5), and the SDK compares values
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        if _is_of_handshake_era(scope):
            bind_session(scope)
            return self._ways.standing
        return self._ways.streaming if streamed else self._ways.plain

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body.

        Raises:
            ClientDisconnect: the client left before it had sent all of it: a part of a message is no message.
            _TooLarge: it is larger than it may be, or says so at once.
        """
        if _announced(scope) > self._edge.max_body:
            raise self._too_large
        parts: list[bytes] = []
        size = 0
        while True:
            received = await receive()
            if received["type"] == "http.disconnect":
                raise ClientDisconnect
            part: bytes = received.get("body", b"")
            size += len(part)
            if size > self._edge.max_body:
                raise self._too_large
            parts.append(part)
            if not received.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def _too_large(self) -> "_TooLarge":
        return _TooLarge(f"more than {self._edge.max_body} bytes")


class _TooLarge(Exception):  # noqa: N818 - named by what is the matter
    """The body of a request has more bytes than are read."""


def _announced(scope: Scope) -> int:
    """Give how many bytes the head says that follow; uvicorn sees to it that no other number does."""
    return max((int(v) for n, v in scope["headers"] if n == b"content-length" and v.isdigit()), default=0)


def _refusal(error: _TooLarge | BadMessage, scope: Scope) -> Response:
    if isinstance(error, BadMessage):
        return Response(error.answer(), 400, media_type="application/json")
    # Who asked first may keep the body to itself now (RFC 9110, section 10.1.1).
    asked_first = any(name == b"expect" for name, _ in scope["headers"])
    return PlainTextResponse(str(error), 413, headers={"connection": "close"} if asked_first else None)


def _is_streamed(said: JsonObject) -> bool:
    """Whether it is a call that wants to hear of its progress."""
    match said:
        case {"method": "tools/call", "params": {"_meta": {"progressToken": _}}}:
            return True
        case _:
            return False


def _is_of_handshake_era(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"mcp-protocol-version":
            return value in _HANDSHAKE
    return True


def _again(body: bytes, receive: Receive) -> Receive:
    """Give the body once more, then what the client does next (it hangs up)."""
    given = False

    async def first_the_body() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return first_the_body


def _manager(
    server: Server[Any], edge: HttpEdge, *, json_response: bool, stateless: bool
) -> StreamableHTTPSessionManager:
    return StreamableHTTPSessionManager(
        server,
        json_response=json_response,
        stateless=stateless,
        max_request_body_size=edge.max_body,
    )
