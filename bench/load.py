"""A strict load generator for `tools/call` over Streamable HTTP, 2026-07-28.

Closed loop: each of C connections sends its next call when the last answer was checked, on a raw HTTP/1.1
keep-alive protocol, so that the client costs little beside the server. Every answer is checked: HTTP 200, the
JSON-RPC id, no error, and the text that was sent.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import orjson

PROTOCOL = "2026-07-28"
KEY = "dev.toolgate/idempotencyKey"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is called, and how."""

    url: str
    others: tuple[str, ...] = ()
    """More servers of the same, to which connections are spread."""
    tool: str
    token: str = ""
    keyed: bool = False
    """Send a fresh idempotency key with each call."""


@dataclass
class Result:
    """What came of one run."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list[float])
    """Seconds, of every checked answer."""
    errors: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds that `share` of the answers took at most."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


async def load(target: Target, *, connections: int, seconds: float) -> Result:
    """Call `target` from `connections` connections for `seconds`."""
    result = Result()
    begin = time.perf_counter()
    end = begin + seconds
    await asyncio.gather(*(_caller(target, number, end, result) for number in range(connections)))
    result.seconds = time.perf_counter() - begin
    return result


async def _caller(target: Target, number: int, end: float, result: Result) -> None:
    servers = (target.url, *target.others)
    address = urlsplit(servers[number % len(servers)])
    loop = asyncio.get_running_loop()
    host, port = address.hostname or "", address.port or 80
    _, connection = await loop.create_connection(_Connection, host, port)
    head = _head(target, urlsplit(target.url).netloc)
    count = 0
    while (begin := time.perf_counter()) < end:
        count += 1
        text = f"{number}-{count}-{begin}"
        fault = _fault(await connection.ask(_request(head, target, count, text)), count, text)
        if fault:
            result.errors[fault] = result.errors.get(fault, 0) + 1
        else:
            result.latencies.append(time.perf_counter() - begin)
    connection.close()


def _head(target: Target, host: str) -> str:
    lines = [
        "POST /mcp HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {PROTOCOL}",
        "Mcp-Method: tools/call",
        f"Mcp-Name: {target.tool}",
    ]
    if target.token:
        lines.append(f"Authorization: Bearer {target.token}")
    return "\r\n".join(lines)


def _request(head: str, target: Target, id_: int, text: str) -> bytes:
    meta: dict[str, object] = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientInfo": {"name": "load", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    if target.keyed:
        meta[KEY] = f"load-{text:0>24}"
    params = {"name": target.tool, "arguments": {"text": text}, "_meta": meta}
    body = orjson.dumps({"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params})
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _fault(reply: bytes, id_: int, text: str) -> str:
    """Say what is wrong with a reply; an empty text for nothing."""
    head, _, body = reply.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return head.split(b"\r\n", 1)[0].decode("latin-1")
    message = json.loads(body)
    if message.get("id") != id_ or "result" not in message:
        return f"no result: {str(message)[:120]}"
    result = message["result"]
    said = result["content"][0]["text"]
    if result.get("isError") or text not in said:
        return f"another answer: {said[:120]}"
    return ""


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request on its way; replies have a Content-Length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is not a subclass

    def ask(self, request: bytes) -> "asyncio.Future[bytes]":
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(self._buffer) >= end + 4 + length and self._waiting is not None:
            reply = bytes(self._buffer)
            self._buffer.clear()
            self._waiting.set_result(reply)
            self._waiting = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()
