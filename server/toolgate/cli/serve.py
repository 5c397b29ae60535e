"""`toolgate serve`: the gate, over Streamable HTTP or for one local client over stdio."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, cast
from urllib.parse import urlsplit

import typer
import uvicorn
import uvloop
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from rich.logging import RichHandler
from rich.text import Text
from starlette.requests import Request

from toolgate.backends.dev_issuer import ISSUER
from toolgate.backends.jwt_callers import JwtCallers
from toolgate.backends.policy_stored import SHORT
from toolgate.cli.local import local_caller
from toolgate.cli.output import HERE, AsJson, Root, err
from toolgate.core.call import Caller
from toolgate.core.errors import Fault, LedgerUnavailable, Misconfigured
from toolgate.main import House, now, open_house, trusted_issuers
from toolgate.settings import FILE, Settings
from toolgate.web.bearer import CALLER, Bearer, ProtectedResource
from toolgate.web.http import HttpEdge, http_app
from toolgate.web.mcp_server import Edge, McpServer, RequestContext
from toolgate.web.plain_calls import PlainCalls

log = logging.getLogger("toolgate")
KEEP_SECONDS: Final = 2.0
"""How often calls in doubt are looked after."""
LOOK_SECONDS: Final = 0.25
"""How often it is looked for changes: on the disk in dev mode, else for a newly activated policy."""
_LONGEST_PAUSE: Final = 10.0
"""Before what could not be taken up is tried again; at first it is `LOOK_SECONDS`."""


def serve(
    stdio: Annotated[bool, typer.Option("--stdio", help="Serve one local client.")] = False,  # noqa: FBT002
    as_: Annotated[str | None, typer.Option("--as", help="Who calls over stdio, of toolgate.toml.")] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Serve MCP clients over Streamable HTTP; with --stdio, one that started this process."""
    _log_to_stderr(as_json=as_json)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
    if stdio:
        uvloop.run(_serve_stdio(root, as_))
    else:
        uvloop.run(_serve_http(root))


async def _serve_http(root: Path) -> None:
    async with open_house(root) as house:
        settings = house.settings
        callers = JwtCallers(trusted_issuers(settings), audience=settings.resource, root=root)
        mcp = _mcp_server(house, _caller_in)
        resource = _resource(house)
        with _listening(settings) as listening:
            port: int = listening.getsockname()[1]
            edge = HttpEdge(
                resource=resource,
                bearer=Bearer(resource, callers.caller_of, house.strangers.reject),
                hosts=_hosts(settings, port),
                max_body=settings.max_body,
                ready=house.readiness,
            )
            config = uvicorn.Config(
                http_app(mcp.server, edge, PlainCalls(mcp)),
                loop="uvloop",
                http="httptools",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # nothing here asks where a request came from
                timeout_graceful_shutdown=30,
            )
            _greet(settings, port)
            _calm_garbage_collector()
            following = asyncio.create_task(_follow_changes(house, mcp.announce_change))
            keeping = asyncio.create_task(_keep(house))
            try:
                await _Server(config).serve(sockets=[listening])
            finally:
                following.cancel()
                keeping.cancel()
                await callers.aclose()


class _Server(uvicorn.Server):
    """Ends when it is told to and leaves the process alive: begun calls still have to be recorded."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take the first signal as a request to finish, a second one as impatience."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def _caller_in(context: RequestContext) -> Caller:
    """Give the caller that the bearer token named; over HTTP there is always one."""
    caller: Caller = cast("Request", context.request).scope[CALLER]
    return caller


async def _serve_stdio(root: Path, name: str | None) -> None:
    async with open_house(root) as house:
        caller = local_caller(root, house.settings, name)
        mcp = _mcp_server(house, lambda _: caller)
        following = asyncio.create_task(_follow_changes(house, mcp.announce_change))
        keeping = asyncio.create_task(_keep(house))
        serving = asyncio.create_task(_converse(mcp))
        told_to_end = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
        ending = asyncio.create_task(told_to_end.wait())
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


async def _converse(mcp: McpServer) -> None:
    async with stdio_server() as (reading, writing):
        await mcp.server.run(reading, writing, mcp.server.create_initialization_options())


def _mcp_server(house: House, caller_of: Callable[[RequestContext], Any]) -> McpServer:
    edge = Edge(caller_of=caller_of, new_id=house.new_id, now=now, page_size=house.settings.page_size)
    return McpServer(house.gateway, edge)


async def _follow_changes(house: House, announce: Callable[[], Awaitable[None]]) -> None:
    """Take up changes: all on SIGHUP; by itself an activated policy or, in dev mode, what is on disk.

    What could not be read or recorded is tried again until it is: forgotten, it would stay out of force.
    """
    changes = _Changes(house, announce, _stamp(house))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, changes.asked.set)
    pause, told = LOOK_SECONDS, ""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changes.asked.wait(), LOOK_SECONDS)
        try:
            await changes.look()
        except Exception as error:  # noqa: BLE001 - whatever is wrong, this change and the next must be seen
            if repr(error) != told:
                _tell(error)
            told = repr(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            pause, told = LOOK_SECONDS, ""


def _tell(error: Exception) -> None:
    unexpected = None if isinstance(error, LedgerUnavailable) else error
    log.error("not taken up, and tried again until it is: %s", error, exc_info=unexpected)


@dataclass
class _Changes:
    """What is new, until it has been taken up or refused."""

    house: House
    announce: Callable[[], Awaitable[None]]
    stamp: list[tuple[str, int]]
    """Of the files that were read last."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self) -> None:
        """Take up what is new.

        Raises:
            LedgerUnavailable: it could not be read or recorded, and is still new.
        """
        dev = self.house.settings.mode == "dev"
        seen = _stamp(self.house) if dev else self.stamp
        try:
            if self.asked.is_set() or seen != self.stamp:
                await self._reload()
                self.stamp = seen
        finally:
            if not dev:  # a registry that cannot be read keeps no activated policy out of force
                await _take_up(self.house, self.house.follow, self.announce)

    async def _reload(self) -> None:
        asked = self.asked.is_set()
        self.asked.clear()  # before anything is read: who asks meanwhile may mean what has been read already
        try:
            await _take_up(self.house, self.house.reload, self.announce)
        except Exception:
            if asked:
                self.asked.set()
            raise


async def _take_up(
    house: House, read: Callable[[], Awaitable[Sequence[Fault]]], announce: Callable[[], Awaitable[None]]
) -> None:
    before = house.in_force.rulebook.version
    try:
        for fault in await read():
            log.error("not taken up, the last good version stays in force: %s", fault)
    finally:
        if house.in_force.rulebook.version != before:
            log.warning(
                "version %s is in force (policy %s)",
                house.in_force.rulebook.version,
                house.in_force.rulebook.policy.digest[:SHORT],
            )
            await announce()


async def _keep(house: House) -> None:
    """Look after the ledger, calls in doubt and credentials; none waits for another."""
    works = (house.keep, house.ask_around, house.lending.keep)
    await asyncio.gather(*(_again_and_again(work) for work in works))


async def _again_and_again(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` every few seconds; a database that is gone may come back."""
    while True:
        try:
            await work()
        except (LedgerUnavailable, OSError) as error:
            log.warning("the ledger could not be looked after: %s", error)
        await asyncio.sleep(KEEP_SECONDS)


def _stamp(house: House) -> list[tuple[str, int]]:
    folders = (house.root / house.settings.policies, house.root / house.settings.registry)
    files = sorted(file for folder in folders for file in folder.rglob("*"))
    stamps: list[tuple[str, int]] = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            stamps.append((str(file), file.stat().st_mtime_ns))
    return stamps


@contextlib.contextmanager
def _listening(settings: Settings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        opened = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        place = f"host {settings.host}, port {settings.port}"
        remedy = "stop what uses it, or set TOOLGATE_PORT (the address of this server changes with it)"
        raise Misconfigured(
            [Fault(FILE, place, f"cannot be listened on: {error.strerror}", remedy)]
        ) from error
    with opened:
        yield opened


def _resource(house: House) -> ProtectedResource:
    """Say of this server what a client must know; the scopes are those of the tools admitted at the start."""
    trusted = trusted_issuers(house.settings)
    issuers = [issuer.issuer for issuer in trusted if issuer.issuer != ISSUER]
    tools = house.in_force.rulebook.catalog.tools
    scopes = sorted({scope for tool in tools for scope in tool.terms.scopes})
    return ProtectedResource(uri=house.settings.resource, issuers=issuers, scopes=scopes)


def _hosts(settings: Settings, port: int) -> TransportSecuritySettings:
    """Which `Host` and `Origin` values are ours; everything else is refused, whatever the bind address."""
    hosts = [urlsplit(settings.resource).netloc, *settings.allowed_hosts]
    if settings.host in {"127.0.0.1", "localhost", "::1"}:
        hosts += [f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=list(settings.allowed_origins))


def _greet(settings: Settings, port: int) -> None:
    console = err()
    if settings.mode == "dev":
        said = " DEV MODE: anyone who can read keys/dev-issuer.pem can sign in as anybody. "
        console.print(Text(said, style="bold white on red"))
    console.print(f"Toolgate serves {settings.resource} (listening on {settings.host}:{port})")


def _calm_garbage_collector() -> None:
    """Leave what was built at the start alone, and look for cycles less often (docs/decisions/0007)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _log_to_stderr(*, as_json: bool) -> None:
    handler: logging.Handler = RichHandler(console=err(), show_path=False, markup=False)
    handler.setFormatter(logging.Formatter("%(message)s"))
    if as_json:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _JsonLines(logging.Formatter):
    """One JSON object a line, whatever is in the message."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)
