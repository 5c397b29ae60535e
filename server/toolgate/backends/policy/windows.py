"""Windows of time in a week, such as Monday to Friday from nine to five in Berlin."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_HOURS: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """Days of the week, and minutes of the day from `begin` to before `end`, by the clocks of `zone`."""

    days: frozenset[int]
    """Monday is 0."""
    begin: int
    end: int
    """At most `begin` where the window ends on the day after it began."""
    zone: ZoneInfo

    def holds(self, moment: datetime) -> bool:
        """Whether the aware `moment` is inside. After midnight it belongs to the day before."""
        local = moment.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        if self.begin < self.end:
            return local.weekday() in self.days and self.begin <= minute < self.end
        if minute >= self.begin:
            return local.weekday() in self.days
        return minute < self.end and (local.date() - timedelta(days=1)).weekday() in self.days


@lru_cache(maxsize=1024)
def window(days: str, hours: str, zone: str) -> Window:
    """Read a window: days such as `Mon-Fri|Sun`, hours such as `22:00-06:00`, an IANA zone.

    Raises:
        ValueError: one of them cannot be read, or this machine does not know the zone.
    """
    begin, end = _minutes(hours)
    return Window(_days(days), begin, end, _zone(zone))


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split("|"):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"the days are {text[:40]!r}; write such as Mon-Fri, or Sat|Sun")
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % 7 if dash else 0
        found.update((begin + step) % 7 for step in range(length + 1))
    return frozenset(found)


def _minutes(text: str) -> tuple[int, int]:
    found = _HOURS.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ValueError(f"the hours are {text[:40]!r}; write such as 09:00-17:00")
    begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if begin == end or end > _DAY:
        raise ValueError(f"the hours are {text[:40]!r}; a whole day is 00:00-24:00")
    return begin, end


def _zone(name: str) -> ZoneInfo:
    try:
        if name.lower() == "localtime":
            raise ValueError("the zone is this machine's, and another's may differ")
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"the zone {name[:40]!r} is not known here; write such as Europe/Berlin") from error
