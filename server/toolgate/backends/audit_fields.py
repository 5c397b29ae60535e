"""What kinds of values the fields of entries have, and how moments are rounded, in every dialect."""

from typing import Final

_REMOVED: Final = ("values", "answers", "waiting", "arguments", "result", "caller", "addresses", "names")
WHOLE: Final = frozenset(
    {"attempt", "before", "cases", "config", "count", "issued", "rule", "ttl", "version"}
) | {
    *(f"names.{kind}" for kind in ("subject", "client", "run")),
    *(f"removed.{what}" for what in _REMOVED),
}
"""Fields of a body that are whole numbers."""
FLAGS: Final = frozenset({"override", "static"})
"""Fields of a body that are true or false: 1 or 0 in a view."""

_JULIAN: Final = 210_866_760_000_000
"""Milliseconds from the first Julian day to 1970."""


def column_of(name: str) -> str:
    """Give the column of an export that has a field of the body."""
    return name.replace(".", "_")


def milliseconds(column: str) -> str:
    """Round microseconds as SQLite does: as a double of milliseconds since the first Julian day."""
    since = f"CAST({column} AS DOUBLE PRECISION) / 1000000 * 1000 + {_JULIAN} + 0.5"
    return f"(CAST(floor({since}) AS BIGINT) - {_JULIAN})"
