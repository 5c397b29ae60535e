"""Stands between a gate and its vault, sees every request, and kills the gate at one of them."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import requests

When = Literal["before", "after"]


@dataclass
class Proxy:
    """A way to the vault on which a gate can be killed.

    Args:
        to: the vault's address.
        ca: the certificates to trust there.
    """

    to: str
    ca: Path
    address: str = ""
    gate: int = 0
    """The process to kill."""
    path: str = ""
    """At the first request whose path is like this."""
    when: When = "before"
    """Before the vault gets it, or when the vault has done it and the gate has no answer yet."""
    killed: threading.Event = field(default_factory=threading.Event)

    def at(self, path: str, when: When) -> None:
        """Say where to kill the next gate."""
        self.path, self.when = path, when
        self.killed.clear()

    def lose(self, path: str) -> None:
        """Lose the next request for `path` on its way, and keep the gate alive."""
        self.path, self.when, self.gate = path, "before", 0
        self.killed.clear()

    def kill_if(self, path: str, when: When) -> bool:
        """Kill the gate where that was said."""
        if self.killed.is_set() or self.when != when or not fnmatchcase(path, f"/v1/{self.path}"):
            return self.killed.is_set() and self.gate != 0
        if self.gate:
            os.kill(self.gate, signal.SIGKILL)
        self.killed.set()
        return True


@contextmanager
def proxy(to: str, ca: Path) -> Generator[Proxy]:
    """Run a proxy before the vault at `to`."""
    way = Proxy(to, ca)
    session = requests.Session()
    session.trust_env = False
    session.verify = str(ca)

    class Passing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if way.kill_if(self.path, "before"):
                self.close_connection = True
                return
            said = {name: value for name, value in self.headers.items() if name.startswith("X-")}
            answer = session.request(self.command, way.to + self.path, data=body, headers=said, timeout=30)
            if way.kill_if(self.path, "after"):
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = _pass  # noqa: N815 - their names there

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing: it would be secret."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    way.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield way
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        session.close()
