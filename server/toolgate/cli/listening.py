"""The sockets that a gate serves on, and whose requests are answered there."""

import contextlib
import socket
from collections.abc import Generator, Sequence
from typing import Final
from urllib.parse import urlsplit

from mcp.server.transport_security import TransportSecuritySettings

from toolgate.cli.service_manager import inherited_sockets
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.loopback import is_loopback
from toolgate.settings import FILE, Settings

_HAND_OVER: Final = "write ListenStream= and Accept=no in the socket unit (systemd.socket(5))"


@contextlib.contextmanager
def listen(settings: Settings) -> Generator[list[socket.socket]]:
    """Listen on what the service manager has opened; where there is none, where the settings say.

    Raises:
        Misconfigured: it cannot be listened on there, or tokens would travel in the clear.
    """
    with contextlib.ExitStack() as closing:
        sockets = [closing.enter_context(each) for each in _handed_over() or [_opened(settings)]]
        if faults := [fault for each in sockets if (fault := _fault_in(settings, each))]:
            raise Misconfigured(faults)
        yield sockets


def in_the_clear(settings: Settings, host: str) -> Fault | None:
    """Say why nothing may listen on `host` in production mode: tokens would be readable on their way."""
    behind_proxy = settings.resource.startswith("https:") and settings.forwarded_allow_ips
    if settings.mode == "dev" or settings.tls_certificate is not None or behind_proxy or is_loopback(host):
        return None
    return Fault(
        FILE,
        "host",
        f"whoever is on the way to {host} could read tokens: the gate speaks plain HTTP there",
        "set tls_certificate and tls_key; or listen on 127.0.0.1; or name the proxy that speaks HTTPS for it "
        "in forwarded_allow_ips, and say public_url with https",
    )


def hosts_of(settings: Settings, sockets: Sequence[socket.socket]) -> TransportSecuritySettings:
    """Which `Host` and `Origin` values are ours; everything else is refused, whatever the bind address."""
    hosts = [urlsplit(settings.resource).netloc, *settings.allowed_hosts]
    for address, port in map(_bound_to, sockets):
        if is_loopback(address):
            hosts += [f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=list(settings.allowed_origins))


def spelled(listening: socket.socket) -> str:
    """Say where a socket listens."""
    address, port = _bound_to(listening)
    return f"{address}:{port}" if port else address


def _opened(settings: Settings) -> socket.socket:
    place = (settings.host, settings.port)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        opened = socket.create_server(place, family=family, reuse_port=settings.reuse_port)
    except OSError as error:
        where = f"host {settings.host}, port {settings.port}"
        remedy = "stop what uses it, or set TOOLGATE_PORT (the address of this server changes with it)"
        problem = f"cannot be listened on: {error.strerror}"
        raise Misconfigured([Fault(FILE, where, problem, remedy)]) from error
    opened.setblocking(False)
    return opened


def _handed_over() -> list[socket.socket]:
    try:
        return inherited_sockets()
    except (OSError, ValueError) as error:
        problem = f"what was handed over is not sockets: {error}"
        raise Misconfigured([Fault("environment", "LISTEN_FDS", problem, _HAND_OVER)]) from error


def _fault_in(settings: Settings, listening: socket.socket) -> Fault | None:
    if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return Fault("environment", "LISTEN_FDS", "a socket that was handed over does not listen", _HAND_OVER)
    address, port = _bound_to(listening)
    return in_the_clear(settings, address) if port else None


def _bound_to(listening: socket.socket) -> tuple[str, int]:
    """Give address and port; of a Unix socket its path, and no port."""
    if listening.family == socket.AF_UNIX:
        return f"the Unix socket {listening.getsockname()!r}", 0
    address, port = listening.getsockname()[:2]
    return str(address), int(port)
