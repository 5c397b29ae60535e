"""A gate as bytes on a socket meet it: requests that no client library would send, and what comes back."""

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import parse_headers
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import httpx2

from tests.serving import Served, call_body
from tests.shell import run
from toolgate.backends.dev_issuer import ISSUER, mint
from toolgate.cli.local import named_caller
from toolgate.settings import read_settings

Wires = Literal["2026-07-28", "2025-11-25"]
WIRES: tuple[Wires, ...] = ("2026-07-28", "2025-11-25")
PATIENCE = 20.0
_SHIFT = 8 * 3600
LIMITS = """
[limits]
max_connections = 60
max_head = 8192
max_headers = 50
max_pipelined = 8
max_requests_per_connection = 500
head_seconds = 1
body_seconds = 1
write_seconds = 1
idle_seconds = 2
"""
"""Small enough for tests to be over them."""


class Closed(Exception):  # noqa: N818 - what happened
    """The gate closed the connection and said nothing."""


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: Message
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        """The message in it, plain or the last of a stream."""
        text = self.body.decode()
        if self.headers["content-type"].startswith("text/event-stream"):
            text = next(line[5:] for line in reversed(text.splitlines()) if line.startswith("data:"))
        said: dict[str, Any] = json.loads(text)
        return said

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.said["error"]
        return error


class Wire:
    """A connection to a gate."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._reading: BinaryIO = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        self._reading.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def reply(self) -> Reply:
        """Read one answer, byte by byte what HTTP says of it."""
        try:
            line = self._reading.readline()
        except ConnectionResetError as error:
            raise Closed from error
        if not line:
            raise Closed
        version, status, _ = line.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers = parse_headers(self._reading)
        return Reply(int(status), headers, self._body(int(status), headers))

    def is_closed(self) -> bool:
        """Wait until the gate has closed the connection; what it still says is passed over."""
        try:
            while self._reading.read(65_536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def _body(self, status: int, headers: Message) -> bytes:
        if headers["transfer-encoding"] != "chunked":
            return self._reading.read(int(headers.get("content-length", 0))) if status != 304 else b""
        parts: list[bytes] = []
        while size := int(self._reading.readline(), 16):
            parts.append(self._reading.read(size))
            assert self._reading.readline() == b"\r\n"
        assert self._reading.readline() == b"\r\n"
        return b"".join(parts)


@dataclass
class Gate:
    """A gate that serves, and what one of its callers needs to ask it."""

    served: Served
    token: str = field(repr=False)
    session: str = ""
    """Of the handshake era."""

    @property
    def port(self) -> int:
        return self.served.port

    def wire(self) -> Wire:
        return Wire(self.port)

    def head(self, size: int | None, wire: Wires = WIRES[0], /, **changed: str | None) -> bytes:
        """Spell a head for a body of `size` bytes, or in chunks (None). A header that is None is left out."""
        said: dict[str, str | None] = {
            "Host": f"127.0.0.1:{self.port}",
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": wire,
        }
        said |= {"Content-Length": str(size)} if size is not None else {"Transfer-Encoding": "chunked"}
        if wire == "2026-07-28":
            said |= {"Mcp-Method": "tools/call", "Mcp-Name": "notes_search"}
        else:
            said |= {"Mcp-Session-Id": self.session}
        said |= {name.replace("_", "-"): value for name, value in changed.items()}
        lines = [f"{name}: {value}\r\n" for name, value in said.items() if value is not None]
        return f"POST /mcp HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")

    def ask(self, body: bytes, wire: Wires = WIRES[0], /, **changed: str | None) -> Reply:
        """Send a request over a connection of its own."""
        with self.wire() as connection:
            connection.send(self.head(len(body), wire, **changed), body)
            return connection.reply()

    def call(self, tool: str, arguments: object, wire: Wires = WIRES[0]) -> Reply:
        """Make a call that nothing is wrong with, as far as HTTP and JSON-RPC go."""
        return self.ask(body_of(tool, arguments, wire), wire, Mcp_Name=tool)

    def still_serves(self) -> bool:
        """Whether it is ready, and a governed call comes through: by hand and for a client of each era."""
        ready = httpx2.get(f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE).json()["ready"]
        answers = [self.call("notes_search", {"contains": "set up"}, wire) for wire in WIRES]
        results = [reply.said["result"] for reply in answers]
        assert all("rows" in result.get("structuredContent", {}) for result in results), results
        return bool(ready)

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.served.process.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Bytes that its process holds."""
        pages = int(Path(f"/proc/{self.served.process.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self) -> str:
        return (self.served.root / "serve.log").read_text("utf-8", "replace")

    def ended(self, tool: str = "notes.add") -> dict[str, int]:
        """Count the ledger's calls of `tool` by how they ended; `open` are those that did not yet."""
        where = self.served.root / "data" / "toolgate.db"
        asked = "SELECT status, count(*) FROM audit_calls_v1 WHERE tool = ? GROUP BY 1"
        with closing(sqlite3.connect(f"file:{where}?mode=ro", uri=True)) as database:
            return dict(database.execute(asked, (tool,)).fetchall())

    def notes(self, text: str = "%") -> int:
        """Count the notes that were written, in the system itself."""
        with closing(sqlite3.connect(f"file:{self.served.root}/data/notes.db?mode=ro", uri=True)) as database:
            found: int = database.execute("SELECT count(*) FROM note WHERE text LIKE ?", (text,)).fetchone()[
                0
            ]
            return found

    def verifies(self) -> bool:
        """Whether its ledger does, by its own key and last checkpoint."""
        root = self.served.root
        words = ("--key", f"{root}/keys/ledger.vkey", "--checkpoint", f"{root}/data/checkpoint")
        return run("ledger", "verify", "--root", f"{root}", *words).exit_code == 0


def body_of(tool: str, arguments: object, wire: Wires = WIRES[0], /, **meta: object) -> bytes:
    """Spell a call."""
    if wire == "2026-07-28":
        return call_body(tool, arguments, **meta)
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


@contextmanager
def wired(gate: Served) -> Generator[Gate]:
    """Open a session of the handshake era for `member` of a gate, beside what needs none."""
    caller = named_caller(read_settings(gate.root), "member", ISSUER)
    opened = Gate(gate, mint(gate.root, caller, audience=gate.url, seconds=_SHIFT))
    client = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": client}
    reply = opened.ask(json.dumps(hello).encode(), "2025-11-25", Mcp_Session_Id=None)
    opened.session = reply.headers["mcp-session-id"]
    ready = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    assert opened.ask(ready, "2025-11-25").status == 202
    yield opened


def becomes(true: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
