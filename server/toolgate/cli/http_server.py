"""uvicorn, as a gate needs it: it ends in good order, over TLS too, and leaves the process alive."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from toolgate.cli.service_manager import notify
from toolgate.core.limits import Limits
from toolgate.web.connections import protocol

LINGER_SECONDS: Final = 1.0
"""How long a kept connection may still bring a request after the gate was told to end: a client in the middle
of its work gets an answer that says `Connection: close`, and not a connection that breaks."""
ANSWER_SECONDS: Final = 10.0
"""How long answers may take to reach their clients after all work has ended or was cut."""
HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take for the TLS handshake."""
GOODBYE_SECONDS: Final = 1.0
"""How long a closed connection waits for the client's TLS `close_notify`."""
BACKLOG: Final = 128
"""How many connections may wait until they are accepted: fewer than the files that are kept back for them."""
_TLS_LIMITS: Final = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": GOODBYE_SECONDS}
_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What happens when the gate is told to end."""

    seconds: float
    """How long begun calls may go on."""
    end_streams: Callable[[], None]
    """Ends streams on which clients wait for news."""
    cut: Callable[[], None]
    """Lets calls that are still going on break off."""


def config_of(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """Configure uvicorn: a bare HTTP/1.1 server that believes no header of a proxy, and logs no request."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol(limits),
        ws="none",
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


class HttpServer(uvicorn.Server):
    """Serves until SIGTERM or SIGINT: then it listens no more, and what was asked is answered."""

    def __init__(self, config: uvicorn.Config, ending: Ending, tls: SSLContext | None) -> None:
        super().__init__(config)
        self._ending = ending
        self._tls_options: dict[str, Any] = {} if tls is None else {"ssl": tls, **_TLS_LIMITS}

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take the first signal as a request to finish, a second one as impatience."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield  # and keep them: what was begun may still have to be recorded, and more impatience may come

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; once that has begun, wait no longer.

        The method that it overrides is not called: sse-starlette hangs the end of every stream to it, and so
        that of calls whose progress is heard.
        """
        del sig, frame
        if self.should_exit:
            self.force_exit = True
            self._ending.cut()
            return
        self.should_exit = True
        self._say_close()
        self._ending.end_streams()
        notify("STOPPING=1")
        asyncio.get_running_loop().call_later(self._ending.seconds, self._ending.cut)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept connections, with time limits of our own for TLS."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self.servers = [await self._accept_on(listening) for listening in sockets or ()]
        self.started = True
        notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, let what was asked be answered, and end the application."""
        self._say_close()
        accepted = self._stop_listening(sockets)
        waiting = [asyncio.ensure_future(self._serve_accepted(each)) for each in accepted]
        await self._until_answered()
        for task in (*waiting, *self.server_state.tasks):
            task.cancel()
        await self.lifespan.shutdown()

    def _say_close(self) -> None:
        """Let every answer say `Connection: close`; until it ends, uvicorn makes these headers anew."""
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]

    async def _until_answered(self) -> None:
        """Wait for answers: as long as calls may go on, and then a while; with impatience only the while."""
        state, clock = self.server_state, asyncio.get_running_loop().time
        lingers, latest = clock() + LINGER_SECONDS, clock() + self._ending.seconds + ANSWER_SECONDS
        hurried = False
        await asyncio.sleep(_LOOK_SECONDS)  # a connection that was accepted just now shows itself
        handshakes = bool(self._tls_options)  # of which there is no sign before they have ended
        while (state.connections or state.tasks or (handshakes and clock() < lingers)) and clock() < latest:
            if self.force_exit and not hurried:
                hurried, latest = True, min(latest, clock() + ANSWER_SECONDS)
            self._ending.end_streams()
            for connection in tuple(state.connections) if clock() >= lingers else ():
                connection.shutdown()
            await asyncio.sleep(_LOOK_SECONDS)

    def _stop_listening(self, sockets: Sequence[socket.socket] | None) -> list[socket.socket]:
        """Take the connections that are there already, which closing the socket would reset, and close it."""
        accepted: list[socket.socket] = []
        for listening, server in zip(sockets or (), self.servers, strict=True):
            with contextlib.suppress(OSError):  # no more are there, or the process has no room for more
                for _ in range(BACKLOG + 1):  # Linux keeps one more
                    accepted.append(listening.accept()[0])  # noqa: PERF401 - what came before an error is kept
            server.close()
            listening.close()
        return accepted

    async def _accept_on(self, listening: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"sock": listening, "backlog": BACKLOG, **self._tls_options}
        if listening.family == socket.AF_UNIX:
            return await loop.create_unix_server(self._protocol, **options)
        return await loop.create_server(self._protocol, **options)

    async def _serve_accepted(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # its TLS handshake failed
            await loop.connect_accepted_socket(self._protocol, connection, **self._tls_options)

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        made: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made
