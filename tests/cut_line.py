"""A line to a server that can be cut, at once or in the middle of a commit."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_COMMITTED = b"COMMIT\0"
"""What the server says when it has committed."""


@dataclass
class Line:
    """Forwards connections to a server's port, while it is whole."""

    to: int
    port: int = 0
    whole: threading.Event = field(default_factory=threading.Event)
    cut_at_commit: threading.Event = field(default_factory=threading.Event)
    _open: list[socket.socket] = field(default_factory=list[socket.socket])

    def cut(self) -> None:
        """Break all connections, and let nobody through."""
        self.whole.clear()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            if not self.whole.is_set():
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.to))
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while said := source.recv(65_536):
                if not asks and _COMMITTED in said and self.cut_at_commit.is_set():
                    self.cut_at_commit.clear()
                    self.cut()
                    return
                target.sendall(said)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for each in self._open:
            each.close()


@contextmanager
def line_to(port: int) -> Generator[Line]:
    """Listen on a port of its own; the line is whole at first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = Line(port, listening.getsockname()[1])
        line.whole.set()
        thread = threading.Thread(target=line.accept, args=(listening,), daemon=True)
        thread.start()
        yield line
        listening.shutdown(socket.SHUT_RDWR)
        line.close()
        thread.join()
