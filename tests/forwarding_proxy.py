"""A reverse proxy, small and real: it says whom it saw, and passes on everything as it comes."""

import re
import socket
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress

_FORWARDED_FOR = re.compile(rb"\r\nx-forwarded-for: *([^\r]*)", re.IGNORECASE)


@contextmanager
def forwarding_to(to: tuple[str, int], *, itself: str) -> Generator[int]:
    """Pass on what comes to a port of its own, which is given; the gate sees the proxy as `itself`."""
    with socket.create_server((itself, 0)) as listening:
        serving = threading.Thread(target=_serve, args=(listening, to, itself))
        serving.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            serving.join()


def _serve(listening: socket.socket, to: tuple[str, int], itself: str) -> None:
    passing: list[threading.Thread] = []
    with suppress(OSError):  # it was shut down
        while True:
            client, (address, *_) = listening.accept()
            thread = threading.Thread(target=_pass_on, args=(client, address, to, itself))
            thread.start()
            passing.append(thread)
    for thread in passing:
        thread.join()


def _pass_on(client: socket.socket, address: str, to: tuple[str, int], itself: str) -> None:
    with closing(client), socket.create_connection(to, source_address=(itself, 0)) as gate:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        gate.sendall(_with_hop(head, address.encode()))
        back = threading.Thread(target=_copy, args=(gate, client))
        back.start()
        _copy(client, gate)
        back.join()


def _with_hop(head: bytes, address: bytes) -> bytes:
    """Add whom we saw behind what the request says already, as nginx, HAProxy and Envoy do."""
    if _FORWARDED_FOR.search(head):
        return _FORWARDED_FOR.sub(rb"\r\nX-Forwarded-For: \1, " + address, head, count=1)
    return head.replace(b"\r\n", b"\r\nX-Forwarded-For: " + address + b"\r\n", 1)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # one of them has gone
        while part := source.recv(65536):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
