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
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from toolgate.web.bearer import METADATA_PATH, Bearer, ProtectedResource, bind_session
from toolgate.web.plain_calls import PlainCalls

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


def http_app(server: Server[Any], edge: HttpEdge, calls: PlainCalls | None = None) -> Starlette:
    """Build the application; without `calls`, every call goes through the SDK."""
    plain = _manager(server, edge, json_response=True, stateless=False)
    streaming = _manager(server, edge, json_response=False, stateless=True)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with plain.run(), streaming.run():
            yield

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        said = edge.ready()
        return JSONResponse(said, 200 if said["ready"] else 503)

    async def metadata(request: Request) -> Response:
        refused = await TransportSecurityMiddleware(edge.hosts).validate_request(request)
        return refused or edge.resource.metadata()

    endpoint = _Endpoint(edge, calls, plain.handle_request, streaming.handle_request)
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


class _Endpoint:
    """Host, origin, token and size first; then our own way for common calls, and the SDK for all the rest.

    The SDK answers as plain JSON, too. Only a call that wants to hear of its progress is streamed.
    """

    def __init__(self, edge: HttpEdge, calls: PlainCalls | None, plain: ASGIApp, streaming: ASGIApp) -> None:
        self._edge, self._calls, self._plain, self._streaming = edge, calls, plain, streaming
        self._hosts = TransportSecurityMiddleware(edge.hosts)
        named = (host for host in edge.hosts.allowed_hosts if host.isascii() and not host.endswith(":*"))
        self._named_hosts = frozenset(host.encode() for host in named if host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        post = scope["method"] == "POST"
        refused = await self._host_refused(scope, is_post=post) or await self._edge.bearer.admit(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        body = await self._body(receive) if post else b""
        if body is None:
            too_large = PlainTextResponse(f"more than {self._edge.max_body} bytes", 413)
            await too_large(scope, receive, send)
            return
        if post and self._calls is not None and await self._calls.answer(scope, body, send):
            return
        if post:
            receive = _again(body, receive)
        await self._by_mode(body, scope)(scope, receive, send)

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

    def _by_mode(self, body: bytes, scope: Scope) -> ASGIApp:
        streamed = b'"progressToken"' in body and b'"tools/call"' in body
        if _is_of_handshake_era(scope):
            bind_session(scope)
            if streamed:
                # A session answers in JSON; this one call is served beside it.
                scope["headers"] = [h for h in scope["headers"] if h[0] != b"mcp-session-id"]
        return self._streaming if streamed else self._plain

    async def _body(self, receive: Receive) -> bytes | None:
        """Read the whole body; None when it is larger than it may be."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._edge.max_body:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


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
