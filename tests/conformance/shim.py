"""Stands before the gate and adds a token to requests that have none: the suite cannot be told one.

Nothing else changes on the way: heads go on byte by byte, bodies and answers as they come.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

_LARGEST_HEAD: Final = 65_536
_AT_ONCE: Final = 65_536
_HAS_TOKEN: Final = re.compile(rb"^authorization[ \t]*:", re.IGNORECASE | re.MULTILINE)
_LENGTH: Final = re.compile(rb"^content-length[ \t]*:[ \t]*(\d+)", re.IGNORECASE | re.MULTILINE)
_CHUNKED: Final = re.compile(rb"^transfer-encoding[ \t]*:.*chunked", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Shim:
    """Forwards what comes to one port to another one of this machine."""

    gate: int
    token: Callable[[], str]

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncGenerator[None]:
        """Forward what comes to `port`, until this ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=_LARGEST_HEAD)
        try:
            yield
        finally:
            server.close()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reading, writing = await asyncio.open_connection("127.0.0.1", self.gate)
        back = asyncio.create_task(_pour(reading, answer))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._forward(client, writing)
        finally:
            writing.close()
            await asyncio.wait({back}, timeout=5)
            back.cancel()
            answer.close()

    async def _forward(self, client: asyncio.StreamReader, gate: asyncio.StreamWriter) -> None:
        """Forward one request."""
        head = await client.readuntil(b"\r\n\r\n")
        if not _HAS_TOKEN.search(head):
            head = head[:-2] + f"Authorization: Bearer {self.token()}\r\n\r\n".encode()
        gate.write(head)
        if _CHUNKED.search(head):
            await _forward_chunks(client, gate)
        elif length := _LENGTH.search(head):
            gate.write(await client.readexactly(int(length[1])))
        await gate.drain()


async def _forward_chunks(client: asyncio.StreamReader, gate: asyncio.StreamWriter) -> None:
    """Forward a body in chunks (RFC 9112, section 7.1); what follows the last one ends with an empty line."""
    while True:
        head = await client.readuntil(b"\r\n")
        gate.write(head)
        size = int(head.split(b";")[0], 16)
        if size == 0:
            break
        gate.write(await client.readexactly(size + 2))
    line = b""
    while line != b"\r\n":
        line = await client.readuntil(b"\r\n")
        gate.write(line)


async def _pour(source: asyncio.StreamReader, into: asyncio.StreamWriter) -> None:
    """Pass on what comes, as it comes."""
    with contextlib.suppress(ConnectionError):
        while part := await source.read(_AT_ONCE):
            into.write(part)
            await into.drain()
        into.write_eof()
