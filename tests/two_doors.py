"""One gate behind two doors: calls answered by `PlainCalls`, and the same calls answered by the SDK alone.

Each door has a gate of its own, and both are told the same ids: what they are asked in the same order they
answer with the same entries.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Message

from tests.gate_on_scripted_system import ANN, Rig, rig
from tests.serving import call_body
from toolgate.backends.manifest_catalog import AdmittedTool, ManifestCatalog
from toolgate.core.arguments import Schema
from toolgate.core.call import Caller
from toolgate.core.gateway import Gateway
from toolgate.core.identity import BadToken
from toolgate.core.ports import Rulebook
from toolgate.main import now
from toolgate.web.asked import Edge
from toolgate.web.bearer import Bearer, ProtectedResource
from toolgate.web.http import HttpEdge, http_app
from toolgate.web.mcp_server import McpServer
from toolgate.web.plain_calls import PlainCalls
from toolgate.web.request_state import RequestStates

VERSION, CLIENT, CAPABILITIES, LOG_LEVEL = (
    f"io.modelcontextprotocol/{name}"
    for name in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel")
)
Headers = list[tuple[bytes, bytes]]
HOSTS = TransportSecuritySettings(allowed_hosts=["gate", "door:*", ""], allowed_origins=["http://gate"])
RESOURCE = ProtectedResource(uri="http://gate/mcp", issuers=[], scopes=list)


@dataclass(frozen=True)
class Sent:
    """A request, byte for byte."""

    headers: Headers
    body: bytes


def headers_of(body: bytes, tool: str = "desk_write", /, **changed: str | None) -> Headers:
    """Give the headers of an ordinary call, changed; None leaves one out."""
    said: dict[str, str] = {
        "host": "gate",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": tool,
        "authorization": "Bearer ann",
        "content-length": str(len(body)),
    }
    for name, value in changed.items():
        said[name.replace("_", "-")] = value or ""
    return [(name.encode(), value.encode("latin-1")) for name, value in said.items() if value]


def a_call(tool: str = "desk_write", arguments: object = None, id_: object = 1, /, **meta: object) -> Sent:
    """Spell a call that nothing is wrong with."""
    body = call_body(tool, {"amount": 1} if arguments is None else arguments, id_, **meta)
    return Sent(headers_of(body, tool), body)


def with_headers(sent: Sent, **changed: str | None) -> Sent:
    return replace(sent, headers=headers_of(sent.body, **changed))


def with_body(body: bytes) -> Sent:
    return Sent(headers_of(body), body)


@dataclass(frozen=True)
class Got:
    """What a client sees of a response."""

    status: int
    headers: frozenset[tuple[bytes, bytes]]
    said: object
    """The body as JSON where it is JSON."""


@dataclass
class Door:
    """An application on a gate."""

    app: ASGIApp
    gate: Rig

    async def ask(self, sent: Sent, *, hangs_up: bool = False) -> Got:
        """Send a request as an HTTP server hands it on; the client waits, or leaves when it has sent it."""
        messages: list[Message] = []
        body: list[Message] = [{"type": "http.request", "body": sent.body, "more_body": False}]

        async def receive() -> Message:
            if body:
                return body.pop()
            if not hangs_up:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            messages.append(message)

        await self.app(scope_of(sent), receive, send)
        return _got(messages)


@dataclass(frozen=True)
class Doors:
    """The two."""

    own: Door
    sdk: Door

    async def ask(self, sent: Sent) -> tuple[Got, Got]:
        return await self.own.ask(sent), await self.sdk.ask(sent)

    def each(self, turn: Callable[[Rig], object]) -> None:
        """Do the same to both gates."""
        turn(self.own.gate)
        turn(self.sdk.gate)


@asynccontextmanager
async def two_doors(
    folder: Path, *, clock: Callable[[], datetime] = now, in_header: bool = False
) -> AsyncGenerator[Doors]:
    """Open both; with `in_header`, clients must repeat an argument of every tool in a header."""
    async with AsyncExitStack() as stack:
        doors: list[Door] = []
        for name in ("own", "sdk"):
            (folder / name).mkdir()
            gate = await stack.enter_async_context(rig(folder / name))
            mcp = _mcp(_with_headers(gate.gateway) if in_header else gate.gateway, clock)
            app = http_app(mcp.server, _edge(), PlainCalls(mcp) if name == "own" else None)
            await stack.enter_async_context(app.router.lifespan_context(app))
            doors.append(Door(app, gate))
        yield Doors(*doors)


def without_sdk(gate: Rig) -> Door:
    """Give a door whose SDK was never started: it can answer nothing but what needs no SDK."""
    mcp = _mcp(gate.gateway, now)
    return Door(http_app(mcp.server, _edge(), PlainCalls(mcp)), gate)


async def _known(token: str) -> Caller:
    if token != "ann":
        raise BadToken("it is nobody's")
    return ANN


def _edge() -> HttpEdge:
    return HttpEdge(
        resource=RESOURCE,
        bearer=Bearer(RESOURCE, _known, lambda _source, _reason: None),
        hosts=HOSTS,
        max_body=100_000,
        ready=lambda: {"ready": True},
    )


def _mcp(gateway: Gateway, clock: Callable[[], datetime]) -> McpServer:
    numbers = count(1)
    edge = Edge(
        caller_of=lambda _: ANN,
        new_id=lambda: f"call-{next(numbers)}",
        now=clock,
        page_size=10,
        states=RequestStates(bytes(32), clock),
    )
    return McpServer(gateway, edge)


def _with_headers(gateway: Gateway) -> Gateway:
    book = gateway.rulebook()
    document: dict[str, Any] = {
        "type": "object",
        "properties": {"amount": {"type": "integer", "x-mcp-header": "Amount"}},
    }
    tools = [
        replace(tool, input=Schema(document)) for tool in book.catalog.tools if isinstance(tool, AdmittedTool)
    ]
    rulebook = Rulebook(catalog=ManifestCatalog(tools, "d" * 64), policy=book.policy)
    return replace(gateway, rulebook=lambda: rulebook)


def scope_of(sent: Sent) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/mcp",
        "raw_path": b"/mcp",
        "query_string": b"",
        "root_path": "",
        "headers": list(sent.headers),
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
    }


def _got(messages: list[Message]) -> Got:
    start, *rest = messages
    body = b"".join(message.get("body", b"") for message in rest)
    assert start["type"] == "http.response.start"
    # How long a body is depends on how it spells what it says; a session's id is chance.
    left_out = {b"content-length", b"mcp-session-id"}
    headers = frozenset((n, v) for n, v in start["headers"] if n not in left_out)
    lengths = [int(v) for n, v in start["headers"] if n == b"content-length"]
    assert lengths in ([len(body)], []), "a response says how long it is"
    try:
        said: object = json.loads(body)
    except ValueError:
        said = body
    return Got(start["status"], headers, said)
