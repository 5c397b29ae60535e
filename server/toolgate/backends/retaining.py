"""Removes what was kept long enough, by the rules of retention, in short steps with an entry each.

What a step removes, the entry that tells of it, and how far the rule is by then are one transaction: nothing
is removed that no entry tells of, and whoever comes next goes on from there.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar, get_args

from sqlalchemy import Connection, Engine, Row, and_, bindparam, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.erasing import erase_names
from toolgate.backends.erasing_survey import Show, people, size_of
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries, Entry, micros
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.retaining_names import last_use, names_from
from toolgate.backends.sql_connection import cause
from toolgate.backends.sql_tables import ENTRY, PAYLOAD, RETENTION_MARK, RETENTION_RUN, Prepared
from toolgate.core.canonical import digest
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.retention import EntryKind, RetentionRule, class_of, first_that_fits

T = TypeVar("T")

MOST: Final = 500
"""Values that one step removes: calls wait for it a few milliseconds."""
_LOOKED_AT: Final = 20_000
"""Values that one step looks at."""
AGAIN: Final = timedelta(hours=1)
"""After which time names are looked through once more."""
_KINDS: Final = frozenset(get_args(EntryKind))


@dataclass(frozen=True)
class Over:
    """What one step found to be over."""

    position: int
    """Where it began to look."""
    reached: int
    """From where the next one looks."""
    values: tuple[tuple[int, str], ...] = ()
    """Entry and field."""
    names: tuple[tuple[str, str], ...] = ()
    """Kind and pseudonym."""
    name: str = ""
    """The pseudonym that was looked at last."""
    was: str = ""
    """The one before this step."""
    part: str = ""
    """`names`, where those were looked at."""

    @property
    def moved(self) -> bool:
        """Whether there is anything to write down."""
        return bool(self.values or self.names) or (self.position, self.was) != (self.reached, self.name)


@dataclass
class Retaining:
    """Applies rules of retention through one writer, and reads beside it.

    Args:
        engine: reads the same database.
        rules: the first that fits decides.
        now: the clock (UTC).
    """

    writer: LedgerWriter
    entries: Entries
    engine: Engine
    rules: Sequence[RetentionRule]
    now: Callable[[], datetime]
    removed: Counter[str] = field(default_factory=Counter[str])
    """What was removed since this was made."""

    async def go_on(
        self, *, seconds: float | None = None, all_names: bool = False, show: Show | None = None
    ) -> bool:
        """Remove what is over, step by step; says whether that was all.

        Args:
            seconds: after which no further step is begun.
            all_names: look through the names, however short a time ago that was done.
            show: hears how far it is.

        Raises:
            LedgerUnavailable: not now.
        """
        end = None if seconds is None else time.monotonic() + seconds
        for number, rule in enumerate(self.rules):
            for look in self._looks(rule):
                began = micros(self.now())
                while (over := await self._read(partial(look, number, began, all_names))).moved:
                    await self.writer.write(partial(self._apply, number, over))
                    if show is not None:
                        show(over.reached, None)
                    if end is not None and time.monotonic() >= end:
                        return False
        return True

    async def due(self, show: Show | None = None) -> list[Counter[str]]:
        """Count what is over now, by rule, and remove nothing."""
        return await self._read(partial(self._due, show))

    def _looks(self, rule: RetentionRule) -> Iterator[Callable[[int, int, bool, Connection], Over]]:
        if rule.days is not None:
            if set(rule.values) != {"names"}:
                yield self._values
            if "names" in rule.values:
                yield self._names

    def _values(self, number: int, _began: int, _all: bool, connection: Connection) -> Over:  # noqa: FBT001
        """Look at the values from where this rule was left, as far as they are old enough."""
        position = self._mark(connection, number)[0]
        found: list[tuple[int, str]] = []
        last, before, subjects = position - 1, self._before(number), self._held(connection)
        for looked, row in enumerate(_beside(connection, position), 1):
            if row.at >= before or looked > _LOOKED_AT or len(found) >= MOST:
                return Over(position, row.idx, tuple(found))
            if self._decides(number, row, subjects):
                found.append((row.idx, row.field))
            last = row.idx
        return Over(position, last + 1, tuple(found))

    def _names(self, number: int, began: int, again: bool, connection: Connection) -> Over:  # noqa: FBT001
        """Look at the names behind the one that was looked at last; after the last one the pass is over."""
        position, was = self._mark(connection, number, "names")
        if (
            not was
            and not (again and position < began)
            and position > began - AGAIN // timedelta(microseconds=1)
        ):
            return Over(position, position)
        before, found, name = self._before(number), list[tuple[str, str]](), ""
        for named in names_from(connection, was, MOST):
            name = named.name
            subject = named.clear if named.kind == "subject" else None
            fits = first_that_fits(self.rules, "names", tenant=named.tenant, kind=None, subject=subject)
            if fits == number and (used := named.last_used(connection)) is not None and used < before:
                found.append((named.kind, name))
        reached = position if name else began
        return Over(position, reached, names=tuple(found), name=name, was=was, part="names")

    def _apply(self, number: int, over: Over, batch: Batch) -> None:
        """Remove what is over, unless another process was faster."""
        key = {"rule_": self._key(number, over.part)}
        standing = batch.find(_MARK, key)
        if standing is not None and (standing["position"], standing["name"]) != (over.position, over.was):
            return
        removed: Counter[str] = Counter()
        for idx, name in over.values:
            if (value := class_of(name)) is not None:
                removed[value] += batch.execute(_REMOVE, {"idx_": idx, "field_": name}).rowcount
        gone: dict[str, list[str]] = {}
        for kind, name in over.names:
            used = last_use(batch, kind, name)
            if used is not None and used < self._before(number):
                gone.setdefault(kind, []).append(name)
        removed["names"] += sum(map(len, gone.values()))
        if removed := +removed:
            index = batch.append(self._entry(number, removed))
            batch.flush()
            if gone:
                erase_names(batch, index, gone)
            if over.values:
                row = {"entry": index, "first": over.values[0][0], "last": over.values[-1][0]}
                batch.execute(_RUN, row)
            else:
                batch.execute(_RUN, {"entry": index, "first": index, "last": index})
        moved = {"position": over.reached, "name": over.name}
        if standing is None:
            batch.execute(_ADD, {"rule": key["rule_"], **moved})
        else:
            batch.execute(_MOVE, key | {"position": over.reached, "name": over.name})
        self.removed += removed

    def _entry(self, number: int, removed: Mapping[str, int]) -> Entry:
        rule = self.rules[number]
        return self.entries.bare(
            "retention",
            "applied",
            rule=number + 1,
            tenant=rule.tenant or "",
            days=f"{rule.days:g}",
            before=self._before(number),
            removed=dict(removed.items()),
        )

    def _due(self, show: Show | None, connection: Connection) -> list[Counter[str]]:
        counts: list[Counter[str]] = [Counter() for _ in self.rules]
        subjects, size = self._held(connection), size_of(connection)
        for looked, row in enumerate(_beside(connection, 0)):
            for number, rule in enumerate(self.rules):
                value = class_of(row.field)
                old = rule.days is not None and row.at < self._before(number)
                if old and value is not None and self._decides(number, row, subjects):
                    counts[number][value] += 1
            if show is not None and looked % _LOOKED_AT == 0:
                show(row.idx, size)
        for named in names_from(connection, "", None):
            subject = named.clear if named.kind == "subject" else None
            fits = first_that_fits(self.rules, "names", tenant=named.tenant, kind=None, subject=subject)
            used = None if fits is None else named.last_used(connection)
            if fits is not None and used is not None and used < self._before(fits):
                counts[fits]["names"] += 1
        return counts

    def _decides(self, number: int, row: Row[Any], subjects: dict[str, str]) -> bool:
        value = class_of(row.field)
        if value is None or row.kind not in _KINDS or value not in self.rules[number].values:
            return False
        subject = subjects.get(row.who)
        return number == first_that_fits(self.rules, value, tenant=row.tenant, kind=row.kind, subject=subject)

    def _held(self, connection: Connection) -> dict[str, str]:
        """Give the pseudonyms of everybody whom a rule names."""
        named = {rule.subject for rule in self.rules if rule.subject is not None}
        return {one.name: one.subject for subject in named for one in people(connection, subject)}

    def _before(self, number: int) -> int:
        days = self.rules[number].days
        return 0 if days is None else micros(self.now() - timedelta(days=days))

    def _key(self, number: int, part: str) -> str:
        """Tell this rule, behind those that come before it, from any other."""
        behind = [rule for rule in self.rules[number + 1 :] if rule.hold]  # they decide before it, too
        return digest(
            [part, *(rule.model_dump(mode="json") for rule in (*self.rules[: number + 1], *behind))]
        )

    def _mark(self, connection: Connection, number: int, part: str = "") -> tuple[int, str]:
        wanted = select(RETENTION_MARK).where(RETENTION_MARK.c.rule == self._key(number, part))
        row = connection.execute(wanted).first()
        return (0, "") if row is None else (row.position, row.name)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def read() -> T:
            with self.engine.connect() as connection:
                return work(connection)

        try:
            return await asyncio.to_thread(read)
        except SQLAlchemyError as error:
            raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


def _beside(connection: Connection, first: int) -> Iterable[Any]:
    """Give what lies beside the entries from `first` on, in their order."""
    looked_at = (PAYLOAD.c.idx, PAYLOAD.c.field, ENTRY.c.kind, ENTRY.c.tenant, ENTRY.c.who, ENTRY.c.at)
    wanted = (
        select(*looked_at)
        .join(ENTRY, ENTRY.c.idx == PAYLOAD.c.idx)
        .where(PAYLOAD.c.idx >= first)
        .order_by(PAYLOAD.c.idx, PAYLOAD.c.field)
    )
    return connection.execution_options(yield_per=1000).execute(wanted)


_MARK = Prepared(select(RETENTION_MARK).where(RETENTION_MARK.c.rule == bindparam("rule_")))
_ADD = Prepared(insert(RETENTION_MARK))
_MOVE = Prepared(
    update(RETENTION_MARK)
    .where(RETENTION_MARK.c.rule == bindparam("rule_"))
    .values(position=bindparam("position"), name=bindparam("name"))
)
_RUN = Prepared(insert(RETENTION_RUN))
_REMOVE = Prepared(
    delete(PAYLOAD).where(and_(PAYLOAD.c.idx == bindparam("idx_"), PAYLOAD.c.field == bindparam("field_")))
)
