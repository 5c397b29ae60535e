"""MCP over standard input and output: one message a line, read as strictly as over HTTP.

The SDK's parser takes what is not UTF-8, names that are there twice and lines of any length. So each line is
read here first; what is refused is answered, is not seen by the SDK, and the session goes on.
"""

import io
import os
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import IO, Any, BinaryIO, Final, cast

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import INVALID_REQUEST

from toolgate.web.messages import BadMessage, message

_PART: Final = 65_536
"""Bytes in which the rest of a line is read that is too long."""


async def converse(server: Server[Any], most_bytes: int) -> None:
    """Serve the client at the other end of standard input and output; a line has `most_bytes` at most."""
    with _own_pipes() as (reading, writing):
        async with _streams(Lines(reading, writing, most_bytes)) as (received, sent):
            await server.run(received, sent, server.create_initialization_options())


class Lines(io.TextIOBase):
    """What a client says and is told, line by line; both ends, for what is refused is answered here."""

    def __init__(self, reading: BinaryIO, writing: BinaryIO, most_bytes: int) -> None:
        super().__init__()
        self._reading, self._writing, self._most_bytes = reading, writing, most_bytes
        self._turn = threading.Lock()
        """Lines are written by two threads, one at a time."""

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        """Give the next line that is a message; empty when the client has left."""
        del size
        while line := self._reading.readline(self._most_bytes + 1):
            if line.isspace():
                continue
            try:
                self._check(line)
            except BadMessage as error:
                self.write(error.answer().decode() + "\n")
            else:
                return line.decode()
        return ""

    def write(self, text: str, /) -> int:
        """Say a whole line."""
        with self._turn:
            self._writing.write(text.encode())
            self._writing.flush()
        return len(text)

    def _check(self, line: bytes) -> None:
        """Look at a line, or at the beginning of one that is too long.

        Raises:
            BadMessage: it is none.
        """
        if len(line) > self._most_bytes and not line.endswith(b"\n"):
            self._pass_over()
            raise BadMessage(INVALID_REQUEST, f"the line has more than {self._most_bytes} bytes")
        message(line)

    def _pass_over(self) -> None:
        while (part := self._reading.readline(_PART)) and not part.endswith(b"\n"):
            pass


@asynccontextmanager
async def _streams(lines: Lines) -> AsyncGenerator[Any]:
    """Let the SDK read and write messages as `lines`."""
    text = cast("IO[str]", lines)
    async with stdio_server(anyio.wrap_file(text), anyio.wrap_file(text)) as streams:
        yield streams


@contextmanager
def _own_pipes() -> Generator[tuple[BinaryIO, BinaryIO]]:
    """Keep the client's pipes to ourselves: children read nothing, and what anybody prints goes to the log.

    They are not closed: a thread may still wait for the client's next line when the gate ends.
    """
    reading, writing = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    yield os.fdopen(reading, "rb", closefd=False), os.fdopen(writing, "wb", closefd=False)
