"""`toolgate serve`: the gate, over Streamable HTTP or for one local client over stdio."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, cast

import typer
import uvloop
from rich.text import Text
from starlette.requests import Request
from starlette.types import ASGIApp

from toolgate.backends.dev_issuer import ISSUER
from toolgate.backends.tls_files import LiveCertificate
from toolgate.callers import TokenCallers, open_callers
from toolgate.cli.following import follow_changes, keep
from toolgate.cli.http_server import Ending, HttpServer, config_of
from toolgate.cli.listening import hosts_of, listen, spelled
from toolgate.cli.local import local_caller
from toolgate.cli.logs import log_to_stderr
from toolgate.cli.open_files import make_room
from toolgate.cli.output import HERE, AsJson, Root, err
from toolgate.core.call import Caller
from toolgate.core.errors import Misconfigured
from toolgate.core.peers import TrustedPeers, trusted_peer
from toolgate.core.record import JsonObject
from toolgate.main import House, now, open_house, trusted_issuers
from toolgate.parts import round_secret, tls_files_of
from toolgate.settings import Settings
from toolgate.web.asked import Edge, RequestContext
from toolgate.web.bearer import CALLER, Bearer, ProtectedResource
from toolgate.web.draining import Draining
from toolgate.web.forwarded import Forwarded
from toolgate.web.http import HttpEdge, http_app
from toolgate.web.mcp_server import McpServer
from toolgate.web.plain_calls import PlainCalls
from toolgate.web.request_state import RequestStates
from toolgate.web.stdio import converse

_FORWARDED: Final = "Proxies whose X-Forwarded-For is believed: addresses, networks, unix (with commas)."


def serve(
    stdio: Annotated[bool, typer.Option("--stdio", help="Serve one local client.")] = False,  # noqa: FBT002
    as_: Annotated[str | None, typer.Option("--as", help="Who calls over stdio, of toolgate.toml.")] = None,
    forwarded_allow_ips: Annotated[str | None, typer.Option(help=_FORWARDED, metavar="PEERS")] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Serve MCP clients over Streamable HTTP; with --stdio, one that started this process."""
    log_to_stderr(as_json=as_json)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
    if stdio:
        uvloop.run(_serve_stdio(root, as_))
    else:
        uvloop.run(_serve_http(root, _said(forwarded_allow_ips)))


def _said(forwarded_allow_ips: str | None) -> dict[str, object]:
    """Give the settings that the command line says."""
    if forwarded_allow_ips is None:
        return {}
    try:
        peers = tuple(trusted_peer(peer.strip()) for peer in forwarded_allow_ips.split(","))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--forwarded-allow-ips") from error
    return {"forwarded_allow_ips": peers}


async def _serve_http(root: Path, said: Mapping[str, object]) -> None:
    async with open_house(root, said) as house:
        settings, shield = house.settings, house.gateway.shield
        if faults := make_room(settings.limits):
            raise Misconfigured(faults)
        callers = open_callers(root, settings)
        tls = _certificate(root, settings)
        with listen(settings) as sockets:
            mcp = _mcp_server(house, _caller_in)
            over = asyncio.Event()
            around = _Around(sockets, tls, over)
            app = Draining(_app(house, mcp, callers, around), over, mcp.end_subscriptions)
            ending = Ending(seconds=settings.shutdown_seconds, end_streams=app.end_streams, cut=shield.cut)
            server = HttpServer(config_of(app, settings.limits), ending, tls.context if tls else None)
            house.gates.address = f"{settings.resource} ({', '.join(map(spelled, sockets))})"
            _greet(settings, sockets)
            _calm_garbage_collector()
            renew = tls.renew if tls else None
            following = asyncio.create_task(follow_changes(house, mcp.announce_change, renew))
            keeping = asyncio.create_task(keep(house))
            try:
                await server.serve(sockets=sockets)
            finally:
                following.cancel()
                keeping.cancel()
                await callers.aclose()
    _leave_behind(house)


@dataclass(frozen=True)
class _Around:
    """What is around the application."""

    sockets: Sequence[socket.socket]
    tls: LiveCertificate | None
    over: asyncio.Event
    """Set when the gate has been told to end."""


def _app(house: House, mcp: McpServer, callers: TokenCallers, around: _Around) -> ASGIApp:
    settings, resource = house.settings, _resource(house)
    edge = HttpEdge(
        resource=resource,
        bearer=Bearer(resource, callers.caller_of, house.strangers.reject),
        hosts=hosts_of(settings, around.sockets),
        max_body=settings.max_body,
        ready=lambda: _readiness(house, around),
        stateless=settings.reuse_port,
    )
    app = http_app(mcp.server, edge, PlainCalls(mcp))
    trusted = settings.forwarded_allow_ips
    return Forwarded(app, TrustedPeers(trusted)) if trusted else app


def _readiness(house: House, around: _Around) -> JsonObject:
    said = house.readiness()
    if around.tls is not None:
        said["certificate_until"] = around.tls.until.isoformat(timespec="seconds")
    if around.over.is_set():
        said |= {"ready": False, "draining": True}
    return said


def _certificate(root: Path, settings: Settings) -> LiveCertificate | None:
    files = tls_files_of(root, settings)
    return LiveCertificate(files, now) if files is not None else None


def _leave_behind(house: House) -> None:
    """End the process where an operation does not break off; the next gate settles its call."""
    if house.gateway.shield.running:
        logging.shutdown()
        os._exit(0)


def _caller_in(context: RequestContext) -> Caller:
    """Give the caller that the bearer token named; over HTTP there is always one."""
    caller: Caller = cast("Request", context.request).scope[CALLER]
    return caller


async def _serve_stdio(root: Path, name: str | None) -> None:
    async with open_house(root) as house:
        caller = local_caller(root, house.settings, name)
        mcp = _mcp_server(house, lambda _: caller)
        following = asyncio.create_task(follow_changes(house, mcp.announce_change))
        keeping = asyncio.create_task(keep(house))
        serving = asyncio.create_task(converse(mcp.server, house.settings.max_body))
        ending = asyncio.create_task(_told_to_end(house))
        try:
            await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            following.cancel()
            keeping.cancel()
    if not serving.done():
        # Begun calls are recorded and the ledger is closed; a thread still waits for the client's next line.
        logging.shutdown()
        os._exit(0)
    await serving


async def _told_to_end(house: House) -> None:
    """Wait for a signal; then begun calls have `shutdown_seconds`, and with a second signal no more."""
    told = asyncio.Event()
    loop, shield = asyncio.get_running_loop(), house.gateway.shield

    def tell() -> None:
        if told.is_set():
            shield.cut()
            return
        told.set()
        loop.call_later(house.settings.shutdown_seconds, shield.cut)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell)
    await told.wait()


def _mcp_server(house: House, caller_of: Callable[[RequestContext], Caller]) -> McpServer:
    edge = Edge(
        caller_of=caller_of,
        new_id=house.new_id,
        now=now,
        page_size=house.settings.page_size,
        states=RequestStates(round_secret(house.root, house.settings), now),
    )
    return McpServer(house.gateway, edge)


def _resource(house: House) -> ProtectedResource:
    """Say of this server what a client must know; the scopes are those of the tools admitted now."""
    settings = house.settings
    issuers = [issuer.issuer for issuer in trusted_issuers(settings) if issuer.issuer != ISSUER]

    def scopes() -> list[str]:
        tools = house.in_force.rulebook.catalog.tools
        return sorted({scope for tool in tools for scope in tool.terms.scopes})

    return ProtectedResource(
        uri=settings.resource, issuers=issuers, scopes=scopes, first_scopes=settings.first_scopes
    )


def _greet(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    console = err()
    if settings.mode == "dev":
        said = " DEV MODE: anyone who can read keys/dev-issuer.pem can sign in as anybody. "
        console.print(Text(said, style="bold white on red"))
    console.print(f"Toolgate serves {settings.resource} (listening on {', '.join(map(spelled, sockets))})")


def _calm_garbage_collector() -> None:
    """Leave what was built at the start alone, and look for cycles less often (docs/decisions/0007)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
