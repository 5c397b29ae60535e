"""Ports and patience for programs that start others."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing

_SECONDS = 60.0
_PAUSE = 0.02


def free_port() -> int:
    """Find a port that nobody uses now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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
