"""The operating system's random bytes, fetched many at a time: a system call costs more than their use."""

import os
from threading import Lock
from typing import Final

_AT_A_TIME: Final = 4096


class RandomPool:
    """Hands out every byte once, to whichever thread asks."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bytes = b""
        self._next = 0

    def take(self, count: int) -> bytes:
        """Give `count` bytes, at most 4096."""
        with self._lock:
            if self._next + count > len(self._bytes):
                self._bytes, self._next = os.urandom(_AT_A_TIME), 0
            taken = self._bytes[self._next : self._next + count]
            self._next += count
        return taken
