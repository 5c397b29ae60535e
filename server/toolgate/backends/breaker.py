"""Stops asking a system that does not answer, and tries it again after a while."""

import time
from dataclasses import dataclass
from typing import Final

from toolgate.core.outcome import Failed, Outcome, Unknown

OPENS_AFTER: Final = 5
REST_SECONDS: Final = 5.0
_SIGNS: Final = frozenset({"unreachable", "timeout", "upstream_error"})


@dataclass
class Breaker:
    """Counts calls of one system that got no answer, one after another."""

    silent: int = 0
    rests_until: float = 0.0

    def wait_ms(self) -> int:
        """Milliseconds until the system may be asked again; 0 for now. One call then tries it."""
        if self.silent < OPENS_AFTER:
            return 0
        now = time.monotonic()
        if now >= self.rests_until:
            self.rests_until = now + REST_SECONDS
            return 0
        return max(1, round((self.rests_until - now) * 1000))

    def saw(self, outcome: Outcome) -> None:
        """Learn from the end of a call."""
        if isinstance(outcome, Failed | Unknown) and outcome.code in _SIGNS:
            self.silent += 1
            self.rests_until = time.monotonic() + REST_SECONDS
        else:
            self.silent = 0
