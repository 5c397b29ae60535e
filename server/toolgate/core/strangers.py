"""Callers that nobody vouches for: counted, so that the ledger tells of them, and too few to fill it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

MOST_SOURCES: Final = 8
"""Addresses that are told apart in a minute; the others are one."""
MOST_REASONS: Final = 16
OTHERS: Final = "others"
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Rejected:
    """What one source was refused in a minute."""

    source: str
    reasons: dict[str, int]

    @property
    def count(self) -> int:
        """How often."""
        return sum(self.reasons.values())


class Strangers:
    """Counts refused tokens by source and reason, a minute at a time.

    Args:
        now: the clock (UTC).
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._since = now()
        self._counts: dict[str, Counter[str]] = {}

    def reject(self, source: str, reason: str) -> None:
        """Count one more."""
        if source not in self._counts and len(self._counts) >= MOST_SOURCES:
            source = OTHERS
        reasons = self._counts.setdefault(source, Counter())
        reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else OTHERS] += 1

    def put_back(self, rejected: Sequence[Rejected]) -> None:
        """Count again what could not be recorded."""
        for each in rejected:
            for reason, count in each.reasons.items():
                self._counts.setdefault(each.source, Counter())[reason] += count

    def due(self, *, at_once: bool = False) -> list[Rejected]:
        """Give what was counted in the minute that is over, and begin the next; `at_once`, before its end."""
        if not at_once and self._now() - self._since < _MINUTE:
            return []
        counted = [Rejected(source, dict(reasons)) for source, reasons in sorted(self._counts.items())]
        self._counts.clear()
        self._since = self._now()
        return counted
