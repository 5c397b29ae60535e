"""Whether a vault, and each engine and auth method of it, answers, and how much of us it may hold up."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from toolgate.backends.breaker import OPENS_AFTER

REST_SECONDS: Final = 1.0
"""How long a vault that does not answer is left alone."""


@dataclass
class Quiet:
    """Counts requests in a row without an answer."""

    count: int = 0
    until: float = 0.0

    def saw(self, *, answered: bool) -> None:
        """Learn how a request ended."""
        self.count = 0 if answered else self.count + 1
        if not answered:
            self.until = time.monotonic() + REST_SECONDS

    def rests(self) -> bool:
        """Whether it is left alone; one request a while is let through."""
        if self.count < OPENS_AFTER:
            return False
        if time.monotonic() < self.until:
            return True
        self.until = time.monotonic() + REST_SECONDS
        return False


class Mount:
    """One engine or auth method of the vault: how many requests it may hold up, and whether it answers."""

    def __init__(self, at_once: int) -> None:
        self.slots = asyncio.Semaphore(at_once)
        self.waiting = 0
        self.quiet = Quiet()
