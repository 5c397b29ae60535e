"""Ports and patience for programs that start others."""

import contextlib
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing

_SECONDS = 60.0
_PAUSE = 0.02
_NOBODYS_OWN = range(20_000, 32_000)
"""Below the ports that Linux and macOS give to connections by themselves."""


def free_port() -> int:
    """Find a port that nobody uses now, and that no connection gets for its own end until it is used."""
    while True:
        port = secrets.choice(_NOBODYS_OWN)
        with closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until something answers at `url`, whatever it says; False when `process` ends before that."""
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(_PAUSE)
        else:
            return True
    return False
