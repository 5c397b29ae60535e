"""What systemd and its like hand to a service, and hear from it: sd_listen_fds(3) and sd_notify(3).

The environment is read here because this is no setting: whoever starts the process says it to this one alone,
and it is taken out of sight before anything else is started.
"""

import logging
import os
import socket
from typing import Final

log = logging.getLogger("toolgate")

FIRST: Final = 3
"""The first file descriptor that is handed over (SD_LISTEN_FDS_START)."""
_HANDED_OVER: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def inherited_sockets() -> list[socket.socket]:
    """Take the sockets that were handed to this process; none where it was started by hand.

    Raises:
        OSError: what was handed over is not a socket.
        ValueError: how many there are is not a number.
    """
    process, count = (os.environ.get(name, "") for name in _HANDED_OVER[:2])
    for name in _HANDED_OVER:
        os.environ.pop(name, None)
    if process != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=number) for number in range(FIRST, FIRST + int(count or 0))]
    for each in sockets:
        each.set_inheritable(False)
        each.setblocking(False)
    return sockets


def notify(state: str) -> None:
    """Tell the service manager, where one listens: `READY=1`, `STOPPING=1`. It never stops the gate."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect("\0" + address[1:] if address.startswith("@") else address)
            manager.sendall(state.encode())
    except OSError as error:
        log.warning("the service manager does not hear %r: %s", state, error.strerror)
