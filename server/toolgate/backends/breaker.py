"""Stops asking a system that does not answer, and tries it again after a while."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from toolgate.core.outcome import Failed, Outcome, Unknown

OPENS_AFTER: Final = 5
REST_SECONDS: Final = 5.0
_SIGNS: Final = frozenset({"unreachable", "timeout", "upstream_error", "upstream_unknown"})
_NOT_ASKED: Final = frozenset({"cancelled_before_send", "ledger_unavailable", "bad_arguments"})


@dataclass
class Breaker:
    """Counts calls of one system that got no answer, one after another.

    Args:
        clock: seconds that only grow.
    """

    clock: Callable[[], float] = time.monotonic
    silent: int = 0
    rests_until: float = 0.0

    def wait_ms(self) -> int:
        """Milliseconds until the system may be asked again; 0 for now. One call then tries it."""
        if self.silent < OPENS_AFTER:
            return 0
        now = self.clock()
        if now >= self.rests_until:
            self.rests_until = now + REST_SECONDS
            return 0
        return max(1, round((self.rests_until - now) * 1000))

    def saw(self, outcome: Outcome) -> None:
        """Learn from the end of a call."""
        code = outcome.code if isinstance(outcome, Failed | Unknown) else ""
        if code in _SIGNS:
            self.silent += 1
            self.rests_until = self.clock() + REST_SECONDS
        elif code not in _NOT_ASKED:
            self.silent = 0
