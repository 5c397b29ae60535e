"""What one client, or all of them together, may ask of the gate's connections: the `[limits]` table.

`max_body` stands beside it, for it is a limit of what is said and not of a connection.
"""

from typing import Final

from pydantic import Field

from toolgate.core.record import Record

FILES_BESIDE_CONNECTIONS: Final = 256
"""File descriptors kept for the ledger, credentials, systems, and connections that are being refused."""


class Limits(Record):
    """How many, how large and how slow. What is over is answered 408, 431 or 503, and closed."""

    max_connections: int = Field(default=1_000, ge=1, le=100_000)
    """Open at the same time; each takes a file descriptor."""
    max_connections_per_address: int = Field(default=0, ge=0, le=100_000)
    """0: any number. Behind a proxy every connection comes from the proxy's address."""
    max_requests_per_connection: int = Field(default=100_000, ge=1, le=1_000_000_000)
    """After so many a connection is closed in good order, so that clients spread anew over several gates."""
    max_pipelined: int = Field(default=16, ge=1, le=1_000)
    """Requests of a connection that wait for the answer of the one before them."""
    max_head: int = Field(default=32_768, ge=1_024, le=1_048_576)
    """Bytes of a request's line and headers."""
    max_headers: int = Field(default=100, ge=10, le=10_000)
    head_seconds: float = Field(default=10, gt=0, le=3_600)
    """From a request's first byte, or from the connection's beginning, to the end of its headers."""
    body_seconds: float = Field(default=30, gt=0, le=3_600)
    """From there to the end of the body."""
    write_seconds: float = Field(default=30, gt=0, le=3_600)
    """How long an answer may wait for a client that does not read it."""
    idle_seconds: int = Field(default=75, ge=1, le=3_600)
    """Between two requests; longer than that of a proxy before the gate."""

    @property
    def files(self) -> int:
        """File descriptors that a process needs for them."""
        return self.max_connections + FILES_BESIDE_CONNECTIONS
