"""Connections that hold limits, where HTTP is parsed: uvicorn bounds neither heads nor how long they take.

What is overridden here are the events of `HttpToolsProtocol`; each does what uvicorn does, and counts.
"""

import asyncio
import math
from collections import Counter, deque
from typing import Any, ClassVar, Final, Literal, NoReturn

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from toolgate.core.limits import Limits

Phase = Literal["new", "head", "body", "answer", "idle", "over"]
"""Of a connection: nothing came yet; what comes now; what it waits for; nothing more is read."""
_LOOK_SECONDS: Final = 0.25
"""How often deadlines are looked at."""
_LINGER_SECONDS: Final = 2.0
"""How long a client may take to read why its connection is closed (RFC 9112, section 9.6)."""


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Give uvicorn the class of connections that hold `limits`, each of them and all together."""
    return type("LimitedConnection", (Connection,), {"crowd": Crowd(limits)})


class Crowd:
    """All connections of a process. It looks at each again and again, which costs less than a timer each."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._connections: set[Connection] = set()
        self._from: Counter[str] = Counter()

    def admit(self, connection: "Connection") -> str | None:
        """Count a connection in, or say why not."""
        address, limits = _address_of(connection), self.limits
        if len(self._connections) >= limits.max_connections:
            return f"{limits.max_connections} connections are open, and no more are taken"
        if 0 < limits.max_connections_per_address <= self._from[address]:
            return f"{limits.max_connections_per_address} connections from this address are open"
        if not self._connections:
            connection.loop.call_later(_LOOK_SECONDS, self._look, connection.loop)
        self._connections.add(connection)
        self._from[address] += 1
        return None

    def forget(self, connection: "Connection") -> None:
        """Count a connection out."""
        if connection in self._connections:
            self._connections.remove(connection)
            address = _address_of(connection)
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        for connection in self._connections:  # each by itself: what is the matter with one stays with it
            loop.call_soon(self._look_at, connection)
        if self._connections:
            loop.call_later(_LOOK_SECONDS, self._look, loop)

    def _look_at(self, connection: "Connection") -> None:
        if connection in self._connections:
            connection.look(connection.loop.time())


class Connection(HttpToolsProtocol):
    """One connection: its requests are answered in order, and none may keep the gate waiting."""

    crowd: ClassVar[Crowd]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = self.crowd.limits
        self.timeout_keep_alive = self._limits.idle_seconds
        self.ws_protocol_class = None
        self._phase: Phase = "new"
        self._due = math.inf
        self._stuck_since: float | None = None
        self._requests = 0
        self._head = 0
        """Bytes of the head that is read."""
        self._bare = 0
        """Bytes since the last of a body: a head, but also trailers and what chunks say of themselves."""
        self._refusal: tuple[int, str] | None = None
        self._asked: deque[RequestResponseCycle] = deque()
        """Requests that have no answer yet, the oldest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or close it when there are too many."""
        super().connection_made(transport)
        self._enter("new", self._limits.head_seconds)
        if refused := self.crowd.admit(self):
            self._enter("over")
            self._write_last(503, refused)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that its client has left; uvicorn tells the last."""
        super().connection_lost(exc)
        for cycle in self._asked:
            _give_up(cycle)
        self.crowd.forget(self)

    def data_received(self, data: bytes) -> None:
        """Read on, unless what came is too much without saying anything."""
        if self._phase == "over":
            return
        if self._phase == "new":
            self._phase = "head"
        elif self._phase == "idle":
            self._enter("head", self._limits.head_seconds)
        self._bare += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._end(*(self._refusal or (400, "this is not HTTP/1.1")))
        if self._bare > self._limits.max_head and self._phase in {"head", "body"}:
            self._end(431, self._too_large())

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._head = 0
        if self._phase != "head":
            self._enter("head", self._limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        """Read on in a request's line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and pass over one that follows the body (RFC 9110, section 6.5.1)."""
        if self._phase == "body":
            return
        self._count(len(name) + len(value) + len(b": \r\n"))
        if len(self.headers) >= self._limits.max_headers:
            self._refuse(431, f"there are more than {self._limits.max_headers} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin a request, behind those that wait already."""
        if self.parser.get_method() == b"CONNECT":
            self._refuse(405, "this is no proxy")
        if self._wants_upgrade():
            return
        if len(self.pipeline) >= self._limits.max_pipelined:
            self._refuse(503, f"{self._limits.max_pipelined} requests of this connection wait already")
        super().on_headers_complete()
        self._enter("body", self._limits.body_seconds)
        self._asked.append(self.cycle)
        self._requests += 1
        if self._requests >= self._limits.max_requests_per_connection:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._bare = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the answer, if it was not given already."""
        if self._wants_upgrade():
            return
        self._bare = 0
        super().on_message_complete()
        if self._asked:
            self._enter("answer")
        else:
            self._enter("idle", self._limits.idle_seconds)

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        self._asked.popleft()
        super().on_response_complete()
        if self._asked:
            return
        if self._phase == "over":
            self.transport.close()
        elif self._phase == "answer":
            self._enter("idle", self._limits.idle_seconds)

    def look(self, now: float) -> None:
        """Close the connection when its client takes too long."""
        if self.transport.get_write_buffer_size() == 0:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > self._limits.write_seconds:
            self.transport.abort()
            return
        if now >= self._due:
            self._end_late(now)

    def _end_late(self, now: float) -> None:
        if self.flow.read_paused and self._phase in {"head", "body"}:
            self._due = now + _LOOK_SECONDS  # it is we who do not read
            return
        match self._phase:
            case "head":
                seconds = self._limits.head_seconds
                self._end(408, f"the head of the request was not whole after {seconds:g} seconds")
            case "body":
                seconds = self._limits.body_seconds
                self._end(408, f"the body of the request was not whole after {seconds:g} seconds")
            case "new" | "answer" | "idle" | "over":
                self.transport.close()

    def _enter(self, phase: Phase, seconds: float = math.inf) -> None:
        self._phase, self._due = phase, self.loop.time() + seconds

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            else:
                return

    def _wants_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade())

    def _without_upgrade(self) -> bytes:
        """Spell the head anew without its wish for another protocol, which is not granted (RFC 9110, 7.8).

        The parser would take the body of such a request for the beginning of that protocol.
        """
        parser, self.parser = self.parser, httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        lines = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade")
        version = parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (parser.get_method(), self.url, version, lines)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self._limits.max_head:
            self._refuse(431, self._too_large())

    def _too_large(self) -> str:
        return f"the head of the request has more than {self._limits.max_head} bytes"

    def _refuse(self, status: int, said: str) -> NoReturn:
        """Stop the parser.

        Raises:
            ValueError: always.
        """
        self._refusal = (status, said)
        raise ValueError(said)

    def _end(self, status: int, said: str) -> None:
        """Read no more. Requests that came whole are answered first; else `said` is the last answer."""
        cut = self._phase == "body"
        self._enter("over")
        if cut and not (self._asked and self._asked[-1] is self.cycle):  # answered before its body was there
            self.transport.close()
            return
        if cut:
            _give_up(self._asked.pop())
            if self.pipeline:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self.transport.close()
                return
        if not self._asked:
            self._write_last(status, said)

    def _write_last(self, status: int, said: str) -> None:
        body = f"{said}\n".encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], lines, body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._enter("over", _LINGER_SECONDS)


def _give_up(cycle: RequestResponseCycle) -> None:
    """Let the application hear that nobody waits for its answer any more."""
    cycle.disconnected = True
    cycle.message_event.set()


def _address_of(connection: Connection) -> str:
    return connection.client[0] if connection.client else ""
