"""A small ticket system on loopback."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from pydantic import JsonValue

from toolgate.adapter import (
    System,
)


@dataclass
class Desk:
    """A small ticket system on loopback that keeps what it was asked."""

    url: str = ""
    asked: list[tuple[str, str, Mapping[str, str]]] = field(
        default_factory=list[tuple[str, str, Mapping[str, str]]]
    )
    made: dict[str, str] = field(default_factory=dict[str, str])
    """Titles by idempotency key."""

    def system(self, **options: JsonValue) -> System:
        return System(name="tickets", root=Path(), options={"base_url": self.url, **options}, tools={})

    def answer(self, method: str, path: str, key: str, body: bytes) -> tuple[int, JsonValue]:
        match method, path.strip("/").split("/"):
            case "POST", ["tickets"]:
                self.made[key] = json.loads(body)["title"]
                return 201, {"id": len(self.made), "title": self.made[key]}
            case "GET", [listing] if listing.startswith("tickets?key="):
                title = self.made.get(listing.removeprefix("tickets?key="))
                return 200, [{"id": 1, "title": title}] if title else []
            case "GET", ["tickets", "1"]:
                return 200, {"id": 1, "title": "Printer"}
            case "GET", ["tickets", "2"]:
                return 200, {"id": 2, "title": ""}
            case _, ["status", status]:
                return int(status), None
            case _:
                return 404, None


@contextmanager
def open_desk() -> Generator[Desk]:
    kept = Desk()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept.asked.append((self.command, self.path, dict(self.headers.items())))
            key = self.headers.get("Idempotency-Key", "")
            status, value = kept.answer(self.command, self.path, key, body)
            reply = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{kept.url}tickets/1")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = handle_any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - http.server's own
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}/"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()
