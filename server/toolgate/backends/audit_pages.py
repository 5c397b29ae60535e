"""Which filters a search means, and where its next page begins."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolgate.adapter import NothingDone
from toolgate.backends.audit_queries import Filter, moment_in
from toolgate.backends.audit_questions import BY_NAME
from toolgate.backends.audit_shapes import Search
from toolgate.backends.ledger_entries import micros
from toolgate.core.canonical import digest
from toolgate.core.record import JsonObject

DEEPEST: Final = 10_000
"""Rows that can be paged through: each page counts those before it anew."""

_HOURS: Final = re.compile(r"([01]\d|2[0-3])-([01]\d|2[0-4])")
_AS_SAID: Final[tuple[Filter, ...]] = ("tenant", "subject", "tool", "run", "call", "value")
_MARK: Final = 16
"""Hexadecimal digits by which a search is known again."""


class _Cursor(BaseModel):
    """Where a page begins. It is the caller's to keep, and opens nothing that it may not see."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    of: str
    since: int | None = Field(ge=0, lt=2**53)
    until: int = Field(ge=0, lt=2**53)
    skip: int = Field(ge=1, le=DEEPEST)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of an answer. What is added to the ledger while somebody turns pages moves no row."""

    of: str
    """Tells its search from another."""
    asked: dict[Filter, str | int]
    skip: int = 0

    @classmethod
    def of_search(cls, wanted: Search, now: datetime) -> "Page":
        """Give the page that is wanted.

        Raises:
            NothingDone: it cannot be asked so.
        """
        mark, asked = _mark(wanted), asked_in(wanted, now)
        if wanted.cursor is None:
            return cls(of=mark, asked=asked)
        cursor = _read(wanted.cursor)
        if cursor is None or cursor.of != mark:
            detail = "the cursor is of another search; ask with all else as it was then, or without a cursor"
            raise NothingDone("bad_cursor", detail)
        asked["until"] = cursor.until
        if cursor.since is not None:
            asked["since"] = cursor.since
        return cls(of=mark, asked=asked, skip=cursor.skip)

    def next(self, rows: int, asked: Mapping[Filter, str | int]) -> str | None:
        """Give the cursor of the page behind `rows` more; None where one cannot page further."""
        skip, since = self.skip + rows, asked.get("since")
        if skip > DEEPEST:
            return None
        since = None if since is None else int(since)
        cursor = _Cursor(of=self.of, since=since, until=int(asked["until"]), skip=skip)
        return base64.urlsafe_b64encode(cursor.model_dump_json().encode()).decode()


def asked_in(wanted: Search, now: datetime) -> dict[Filter, str | int]:
    """Give the filters of a search.

    Raises:
        NothingDone: the query does not take them so.
    """
    asked: dict[Filter, str | int] = {}
    said: Mapping[str, str | None] = wanted.model_dump(include={*_AS_SAID, "since", "until", "hours"})
    for name in _AS_SAID:
        if (value := said[name]) is not None:
            asked[name] = value
    if wanted.since is not None:
        asked["since"] = moment_of(wanted.since, now)
    if wanted.until is not None:
        asked["until"] = moment_of(wanted.until, now)
    if wanted.hours is not None:
        hours = _HOURS.fullmatch(wanted.hours)
        if hours is None or hours[1] == hours[2]:
            raise NothingDone("bad_filter", "hours: say 08-18, or 22-06 for those over midnight")
        asked["hours"] = wanted.hours
    if fault := BY_NAME[wanted.query].fault_in(asked):
        raise NothingDone("bad_filter", fault.replace("--", ""))
    return asked


def up_to(asked: dict[Filter, str | int], now: datetime) -> dict[Filter, str | int]:
    """Give the filters, with an end: what is added from `now` on belongs to no page."""
    return asked if "until" in asked else {**asked, "until": micros(now) + 1}


def moment_of(words: str, now: datetime) -> int:
    """Read a moment; gives microseconds.

    Raises:
        NothingDone: it is none.
    """
    try:
        return moment_in(words, now)
    except (ValueError, OverflowError) as error:
        detail = "since, until: say 2026-03-01, 2026-03-01T12:00+01:00, or how long ago: 7d, 24h"
        raise NothingDone("bad_filter", detail) from error


def _mark(wanted: Search) -> str:
    said: JsonObject = wanted.model_dump(mode="json", exclude={"cursor", "most"})
    return digest(said)[:_MARK]


def _read(text: str) -> _Cursor | None:
    try:
        return _Cursor.model_validate_json(base64.urlsafe_b64decode(text))
    except (ValueError, ValidationError):
        return None
