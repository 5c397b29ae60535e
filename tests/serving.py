"""The gate as a process of its own, and clients of both eras to it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
from mcp.client.client import Client
from mcp.client.session import ElicitationFnT, MessageHandlerFnT
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

from examples.demo.waiting import answers, free_port
from toolgate.backends.dev_issuer import ISSUER, mint
from toolgate.cli.local import named_caller
from toolgate.settings import read_settings

Era = Literal["auto", "legacy"]
ERAS: tuple[Era, ...] = ("auto", "legacy")
KEY, AGAIN = "dev.toolgate/idempotencyKey", "dev.toolgate/again"
ERROR, ENTRY, REPLAYED = "dev.toolgate/error", "dev.toolgate/entry", "dev.toolgate/replayed"


@dataclass(frozen=True)
class Served:
    """A gate that serves."""

    root: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def token(self, name: str = "member") -> str:
        caller = named_caller(read_settings(self.root), name, ISSUER)
        return mint(self.root, caller, audience=self.url, seconds=600)

    @asynccontextmanager
    async def client(
        self,
        name: str = "member",
        era: Era = "auto",
        on_message: MessageHandlerFnT | None = None,
        on_question: ElicitationFnT | None = None,
    ) -> AsyncGenerator[Client]:
        """Connect an MCP client as a caller of `toolgate.toml`."""
        headers = {"Authorization": f"Bearer {self.token(name)}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(
                streamable_http_client(self.url, http_client=http),
                mode=era,
                message_handler=on_message,
                elicitation_callback=on_question,
            ) as client,
        ):
            yield client

    def post(self, body: bytes, **headers: str) -> httpx2.Response:
        """Send a raw request as `member`; a header may be replaced."""
        said = {
            "Authorization": f"Bearer {self.token()}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "notes_search",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.post(self.url, content=body, headers={n: v for n, v in said.items() if v}, timeout=30)


@contextmanager
def serving(root: Path, plugins: Path | None = None) -> Generator[Served]:
    """Serve `root` from a process of its own, on a port of its own; end it as a service manager would.

    What is in `plugins` is installed for that process: adapters of a stranger.
    """
    port = free_port()
    settings = root / "toolgate.toml"
    text = settings.read_text("utf-8").replace("8080", str(port))
    settings.write_text(text, "utf-8")
    log = root / "serve.log"
    command = [sys.executable, "-m", "toolgate", "serve", "--root", str(root)]
    environment = os.environ | ({"PYTHONPATH": str(plugins)} if plugins else {})
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, env=environment) as process:
        try:
            assert answers(process, f"http://127.0.0.1:{port}/readyz"), log.read_text("utf-8", "replace")
            yield Served(root, port, process)
        finally:
            process.terminate()
            process.wait(timeout=30)


def call_body(tool: str, arguments: object, id_: object = 1, **meta: object) -> bytes:
    """Spell a `tools/call` of 2026-07-28."""
    said = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    } | meta
    params = {"name": tool, "arguments": arguments, "_meta": said}
    return json.dumps({"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}).encode()


def meta_of(result: CallToolResult) -> dict[str, Any]:
    return dict(result.meta or {})


def text_of(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))
