"""A gate as a process, met as raw HTTP over TCP or TLS, and a system that takes its time."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.demo.waiting import free_port
from tests.serving import call_body
from toolgate.backends.dev_issuer import ISSUER, mint
from toolgate.cli.local import named_caller
from toolgate.settings import read_settings

PATIENCE = 60.0
"""Seconds after which a test gives up to wait for another process."""
MODERN = "2026-07-28"
LEGACY = "2025-11-25"

_ADAPTER = '''
"""A desk that works until somebody says that it may end."""

import asyncio
from contextlib import asynccontextmanager

from pydantic import BaseModel
from toolgate.adapter import Adapter, Context

class Work(BaseModel):
    name: str

class Desk:
    marks_sending = True
    def __init__(self, root):
        self.root = root
    @asynccontextmanager
    async def session(self, credential, sending):
        yield self
    async def aclose(self):
        pass

slow = Adapter("slow", connect=lambda system: Desk(system.root))

@slow.operation
async def work(wanted: Work, context: Context[Desk]) -> Work:
    """Work until it may end."""
    context.sending()
    root = context.client.root
    (root / f"{wanted.name}.begun").touch()
    await context.progress(1, 2, "begun")
    while not (root / f"{wanted.name}.may-end").exists():
        await asyncio.sleep(0.02)
    return wanted
'''
_MANIFEST = """adapter = "slow"
owner = "test@example.com"

[system]

[tools.work]
effect = "write"
timeout = 600
duplicates = "none"
without_key = "allow"
capture = "full"
scopes = []
credential = "none"
"""


@dataclass(frozen=True)
class Gate:
    """A gate that serves."""

    root: Path
    port: int
    process: subprocess.Popen[bytes]
    trusts: ssl.SSLContext | None = None

    @property
    def resource(self) -> str:
        return read_settings(self.root).resource

    def token(self, name: str = "member") -> str:
        caller = named_caller(read_settings(self.root), name, ISSUER)
        return mint(self.root, caller, audience=self.resource, seconds=600)

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPConnection:
        """Open a connection from `source`, an address of this machine."""
        if self.trusts is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=PATIENCE, context=self.trusts, source_address=(source, 0)
            )
        else:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self.port, timeout=PATIENCE, source_address=(source, 0)
            )
        connection.connect()
        return connection

    def get(self, path: str) -> http.client.HTTPResponse:
        with closing(self.connect()) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response

    def log(self) -> str:
        return " ".join((self.root / "serve.log").read_text("utf-8", "replace").split())

    def ask(self, connection: http.client.HTTPConnection, tool: str, /, **arguments: object) -> None:
        """Send a call of 2026-07-28, and do not wait for its answer."""
        body = call_body(tool, arguments)
        connection.request("POST", "/mcp", body, self.headers("tools/call", **{"Mcp-Name": tool}))

    def call(self, tool: str, /, **arguments: object) -> dict[str, Any]:
        """Call over a connection of its own, and give the result."""
        with closing(self.connect()) as connection:
            self.ask(connection, tool, **arguments)
            return result_of(connection.getresponse())

    def headers(self, method: str, version: str = MODERN, **more: str) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.token()}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": version,
            "Mcp-Method": method,
        } | more


def result_of(response: http.client.HTTPResponse) -> dict[str, Any]:
    body = response.read()
    assert response.status == 200, (response.status, body)
    result: dict[str, Any] = json.loads(body)["result"]
    return result


def with_slow_desk(root: Path, plugins: Path) -> Path:
    """Admit the desk to the deployment; gives the folder from which the gate loads it."""
    info = plugins / "slow_desk-1.0.dist-info"
    info.mkdir(parents=True)
    (plugins / "slow_desk.py").write_text(_ADAPTER, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-desk\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[toolgate.adapters]\nslow = slow_desk:slow\n", "utf-8")
    (root / "registry" / "desk.toml").write_text(_MANIFEST, "utf-8")
    (root / "registry" / "lock.toml").unlink(missing_ok=True)
    with (root / "policies" / "rules.csv").open("a", encoding="utf-8") as rules:
        rules.write("p, D01, allow, member, home, desk.*, write, -, -, -\n")
    return plugins


def say(root: Path, settings: str, port: int | None = None) -> int:
    """Add settings before the tables of `toolgate.toml`, and choose a port; gives the port."""
    file, port = root / "toolgate.toml", port or free_port()
    text = file.read_text("utf-8").replace("port = 8080", f"port = {port}")
    file.write_text(f"{settings}\n{text}", "utf-8")
    return port


@contextmanager
def running(
    root: Path,
    port: int,
    *,
    plugins: Path | None = None,
    trusts: ssl.SSLContext | None = None,
    environment: Mapping[str, str] | None = None,
    words: tuple[str, ...] = (),
    log: str = "serve.log",
) -> Generator[Gate]:
    """Serve `root` from a process of its own until the test has ended it, or is over."""
    command = [sys.executable, "-m", "toolgate", "serve", "--root", str(root), *words]
    said = os.environ | (environment or {}) | ({"PYTHONPATH": str(plugins)} if plugins else {})
    with (
        (root / log).open("wb") as output,
        subprocess.Popen(command, stderr=output, env=said) as process,
    ):
        gate = Gate(root, port, process, trusts)
        try:
            wait_until(lambda: process.poll() is not None or _answers(gate), "the gate answers")
            assert process.poll() is None, gate.log()
            yield gate
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def refuses_connections(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _answers(gate: Gate) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return gate.get("/readyz").status == 200
    return False
