"""Sums up a period of the ledger, each number under the name of the query that shows its rows."""

from datetime import datetime
from typing import Any, Final

from toolgate.backends.audit_access import Access
from toolgate.backends.audit_pages import moment_of, up_to
from toolgate.backends.audit_queries import Filter, Found, NamedQuery
from toolgate.backends.audit_questions import BY_NAME
from toolgate.backends.audit_reading import Reading
from toolgate.backends.audit_shapes import Cell, Count, Counted, InDoubt, Newest, Period, Report
from toolgate.backends.ledger_entries import moment

MOST_COUNTS: Final = 20
"""Groups of each count."""


async def reported(wanted: Period, access: Access, deadline: datetime) -> Report:
    """Sum up a period, as far as `access` may see."""
    asked: dict[Filter, str | int] = {"since": moment_of(wanted.since, access.now)}
    if wanted.until is not None:
        asked["until"] = moment_of(wanted.until, access.now)
    reading = await access.reading("report", wanted.model_dump(mode="json", exclude_none=True), deadline)
    asked = up_to(asked, access.now)
    if access.tenant is not None:
        asked["tenant"] = access.tenant
    counting = _Counting(reading, asked)
    everything = access.tenant is None
    return Report(
        since=moment(int(asked["since"])).isoformat(),
        until=moment(int(asked["until"])).isoformat(),
        tenant=access.tenant,
        calls=await counting.of("calls", "tool", "status"),
        denials=await counting.of("denials-by-rule", "rule", "status", counted="sum(calls)"),
        in_doubt=await counting.in_doubt(),
        duplicates_prevented=await counting.of("duplicates-prevented", "status"),
        approvals_asked=await counting.of("approvals", "rule"),
        readers=await counting.of("who-read", "reader"),
        changes=await counting.of("changes", "changed") if everything else None,
        gaps=await counting.of("gaps", "kind", "status") if everything else None,
        refused_tokens=await counting.of("auth-failures", "source") if everything else None,
        checkpoint=_newest(await reading.find(BY_NAME["checkpoints"], {}, most=1)),
    )


class _Counting:
    """Counts the rows of named queries in one period."""

    def __init__(self, reading: Reading, asked: dict[Filter, str | int]) -> None:
        self._reading, self._asked = reading, asked

    async def of(self, query: str, *by: str, counted: str = "count(*)") -> Counted:
        found = await self._found(_counting(query, by, counted))
        return Counted(**_counts(query, by, found))

    async def in_doubt(self) -> InDoubt:
        by = ("status",)
        oldest_of_all = ", max(max(age_seconds)) OVER () AS oldest"
        found = await self._found(_counting("unknowns", by, "count(*)", oldest_of_all))
        oldest = found.rows[0][found.columns.index("oldest")] if found.rows else None
        return InDoubt(**_counts("unknowns", by, found), oldest_seconds=oldest)

    async def _found(self, query: NamedQuery) -> Found:
        return await self._reading.find(query, self._asked, most=MOST_COUNTS)


def _counting(query: str, by: tuple[str, ...], counted: str, more: str = "") -> NamedQuery:
    """Count the very rows of a named query by some of its columns, or sum up what it has counted."""
    named, columns = BY_NAME[query], ", ".join(by)
    return NamedQuery(
        name=query,
        question=named.question,
        sql=f"""
            SELECT {columns}, {counted} AS counted, sum({counted}) OVER () AS total{more}
            FROM ({named.sql}) rows_of_it GROUP BY {columns} ORDER BY counted DESC, {columns}
        """,  # noqa: S608 - of our own names
        filters=named.filters,
    )


def _counts(query: str, by: tuple[str, ...], found: Found) -> dict[str, Any]:
    at, total = len(by), found.columns.index("total")
    counts = [Count(of=[_cell(value) for value in row[:at]], count=int(row[at])) for row in found.rows]
    return {
        "query": query,
        "by": list(by),
        "total": int(found.rows[0][total]) if found.rows else 0,
        "counts": counts,
        "more": found.more,
    }


def _cell(value: Any) -> Cell:  # noqa: ANN401 - what a column holds
    return None if value is None else f"{value}"[:_LONGEST]


def _newest(found: Found) -> Newest | None:
    if not found.rows:
        return None
    said = dict(zip(found.columns, found.rows[0], strict=True))
    return Newest(query="checkpoints", size=said["size"], time=said["time"], root=said["root"])


_LONGEST: Final = 300
