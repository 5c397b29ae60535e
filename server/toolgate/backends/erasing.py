"""Erases a person: names, values, salts and answers go, the entries and every proof of them stay.

It begins with one transaction: an entry says so, and the pseudonyms stand for nobody from then on. What they
left is then removed in steps, each a short transaction that also says how far it is; whoever comes later goes
on from there. In the end an entry says how much that was. No entry says who it was.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Engine, and_, bindparam, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.erased_names import READ_NAMES
from toolgate.backends.erasing_survey import (
    LOOKED_AT,
    WINDOW,
    Kept,
    Person,
    Show,
    Survey,
    asks_about,
    mentions,
    people,
    questions_about,
    survey,
)
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries, micros
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.sql_claims import Claims
from toolgate.backends.sql_connection import cause
from toolgate.backends.sql_tables import (
    ENTRY,
    ERASED_NAME,
    ERASURE,
    PAYLOAD,
    PSEUDONYM,
    TIP,
    Prepared,
    spelled,
)
from toolgate.core.errors import LedgerUnavailable, NothingRecorded

T = TypeVar("T")

LEFT: Final = timedelta(seconds=60)
"""After which time without progress an erasure was left, and another process goes on with it."""
_A_STEP: Final = 100
"""Entries beside which one transaction removes what is kept: calls wait for it a few milliseconds."""
_BEHIND: Final = 1000
"""Entries that may be looked at while others wait to write."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An erasure that was begun."""

    entry: int
    kept: Kept
    """What there was to remove."""


@dataclass(frozen=True, kw_only=True)
class Erased:
    """An erasure that was finished."""

    begun: int
    done: int
    """The entry that says so."""
    values: int
    answers: int
    waiting: int
    """Calls in doubt, of which what was asked for stays until they are settled; then it goes by itself."""


class Erasing:
    """Erases through one writer, and reads beside it.

    Args:
        engine: reads the same database.
        now: the clock (UTC).
    """

    def __init__(
        self,
        writer: LedgerWriter,
        entries: Entries,
        claims: Claims,
        engine: Engine,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._writer, self._entries, self._claims = writer, entries, claims
        self._engine, self._now = engine, now

    async def people(self, subject: str, *, tenant: str | None, issuer: str | None) -> list[Person]:
        """Give everybody of this name, or pseudonym, as far as tenant and issuer are said."""

        def read() -> list[Person]:
            with self._engine.connect() as connection:
                return people(connection, subject, tenant=tenant, issuer=issuer)

        return await self._read(read)

    async def survey(self, person: Person, show: Show | None = None) -> Survey:
        """Say what the ledger keeps of somebody."""
        return await self._read(lambda: survey(self._engine, person, show))

    async def begin(self, seen: Survey, *, by: str, basis: str) -> Begun:
        """Let the pseudonyms of whom `seen` is about stand for nobody, and record that and why.

        Args:
            seen: what a survey found.
            by: the pseudonym of who erases.
            basis: why that is done; it is kept beside the entry.

        Raises:
            LedgerUnavailable: it could not be recorded; nothing was erased.
            NothingRecorded: nobody is known by that pseudonym any more.
        """
        behind = _BEHIND + 1
        while behind > _BEHIND:  # who adds entries adds fewer than are looked at
            behind = await self._read(partial(self._look_further, seen))
        reads, seen.reads = seen.reads, []
        asked = await self._read(partial(self._questions, seen.person, reads))
        begun = await self._writer.write(partial(self._begin, seen, asked, by, basis))
        if begun is None:
            raise NothingRecorded("somebody else has erased them meanwhile")
        return begun

    async def go_on(self, show: Show | None = None, *, left: bool = False) -> list[Erased]:
        """Finish what was begun; with `left`, only what nobody has worked at for a while.

        Raises:
            LedgerUnavailable: not now; it goes on from there the next time.
        """
        wanted = select(ERASURE).where(ERASURE.c.done.is_(None)).order_by(ERASURE.c.entry)
        if left:
            wanted = wanted.where(ERASURE.c.worked_at < micros(self._now() - LEFT))

        def read() -> list[tuple[int, int]]:
            with self._engine.connect() as connection:
                return [(row.entry, row.position) for row in connection.execute(wanted)]

        finished = [await self._finish(entry, at, show) for entry, at in await self._read(read)]
        return [one for one in finished if one is not None]

    async def _finish(self, entry: int, position: int, show: Show | None) -> Erased | None:
        """Remove what was kept up to the entry that says that it was begun: nothing is kept after it."""
        named = select(ERASED_NAME.c.name).where(
            ERASED_NAME.c.entry == entry, ERASED_NAME.c.kind == "subject"
        )

        def found(first: int, end: int) -> list[tuple[int, str]]:
            with self._engine.connect() as connection:
                return mentions(connection, connection.execute(named).scalars().all(), first, end)

        while position < entry:
            end = min(position + WINDOW, entry)
            for few, reached in _steps(await self._read(partial(found, position, end)), end):
                await self._writer.write(partial(self._remove, entry, few, reached))
            position = end
            if show is not None:
                show(position, entry)
        return await self._writer.write(partial(self._end, entry))

    def _begin(self, seen: Survey, asked: Sequence[int], by: str, basis: str, batch: Batch) -> Begun | None:
        batch.flush()
        if batch.find(_NAMED, {"name_": seen.person.name}) is None:
            return None
        seen.read(batch.execute(_SINCE, {"first": seen.size, "end": batch.tree.size}))
        latest = [batch.find(_ASKED, {"idx_": idx}) for idx in seen.reads]
        asked = [*asked, *(row["idx"] for row in latest if row and asks_about(row["value"], seen.person))]
        runs = [run for run in seen.runs if self._is_theirs_alone(batch, run, seen.person.name)]
        names = {"subject": [seen.person.name], "client": sorted(seen.clients), "run": sorted(runs)}
        kept = seen.kept
        entry = self._entries.committed(
            "erase",
            "begun",
            {"basis": basis},
            by=by,
            tenant=seen.person.tenant,
            names={kind: len(theirs) for kind, theirs in names.items()},
            found={"entries": kept.entries, "values": kept.values, "answers": kept.answers},
        )
        index = batch.append(entry)
        batch.flush()
        values = sum(batch.execute(_REMOVE_ASKED, {"idx_": idx}).rowcount for idx in asked)
        row = {"entry": index, "done": None, "position": 0, "values_removed": values, "answers": 0}
        batch.execute(_ADD, row | {"waiting": 0, "worked_at": micros(self._now())})
        erase_names(batch, index, names)
        return Begun(entry=index, kept=kept)

    def _is_theirs_alone(self, batch: Batch, run: str, name: str) -> bool:
        return batch.find(_RUN_OF_ANOTHER, {"run_": run, "name_": name}) is None

    def _remove(self, entry: int, few: Sequence[tuple[int, str]], reached: int, batch: Batch) -> None:
        """Remove what lies beside these entries and their calls; the step counts once, whoever made it."""
        standing = batch.find(_STANDING, {"entry_": entry})
        if standing is None or standing["position"] >= reached:
            return
        values = answers = waiting = 0
        for idx, call_id in few:
            values += batch.execute(_REMOVE, {"idx_": idx}).rowcount
            if call_id:
                for entry_of_it in batch.execute(_OF_CALL, {"id_": call_id}).fetchall():
                    values += batch.execute(_REMOVE, {"idx_": entry_of_it["idx"]}).rowcount
                answers += self._claims.forget(batch, call_id, self._now())
                waiting += self._claims.is_in_doubt(batch, call_id, idx)
        moved = {"entry_": entry, "position": reached, "worked_at": micros(self._now())}
        moved |= {"values_removed": standing["values_removed"] + values}
        moved |= {"answers": standing["answers"] + answers, "waiting": standing["waiting"] + waiting}
        batch.execute(_MOVE, moved)

    def _end(self, entry: int, batch: Batch) -> Erased | None:
        standing = batch.find(_STANDING, {"entry_": entry})
        if standing is None:  # another process has finished it
            return None
        counts = {
            "values": standing["values_removed"],
            "answers": standing["answers"],
            "waiting": standing["waiting"],
        }
        done = batch.append(self._entries.bare("erase", "done", begun=entry, removed={**counts}))
        batch.execute(_DONE, {"entry_": entry, "done": done})
        return Erased(begun=entry, done=done, **counts)

    def _look_further(self, seen: Survey) -> int:
        """Look at what was added since the survey; gives how much that was."""
        before = seen.size
        with self._engine.connect() as connection:
            rows = select(*LOOKED_AT).where(ENTRY.c.idx >= before).order_by(ENTRY.c.idx)
            seen.read(connection.execution_options(yield_per=1000).execute(rows))
        return seen.size - before

    def _questions(self, person: Person, reads: Sequence[int]) -> list[int]:
        with self._engine.connect() as connection:
            return questions_about(connection, person, reads)

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except SQLAlchemyError as error:
            raise LedgerUnavailable(f"the ledger cannot be read ({cause(error)})") from error


def erase_names(batch: Batch, entry: int, names: dict[str, list[str]]) -> None:
    """Let pseudonyms, by their kind, stand for nobody because of `entry`; every writer sees it by the tip."""
    for kind, theirs in names.items():
        for name in theirs:
            batch.execute(_FORGET_NAME, {"name_": name})
            batch.execute(_ADD_NAME, {"name": name, "entry": entry, "kind": kind})
    batch.execute(_COUNT, {})
    row = batch.find(_GENERATION, {})
    if row is None:
        raise LedgerUnavailable("the ledger's tip is gone; run: toolgate ledger verify")
    batch.erased.learn(row["erasures"], _names(batch.execute(READ_NAMES, {})))


def _names(rows: Iterable[Any]) -> Iterator[str]:
    return (row["name"] for row in rows)


def _steps(found: Sequence[tuple[int, str]], end: int) -> Iterator[tuple[Sequence[tuple[int, str]], int]]:
    """Give few entries at a time, and up to where all is looked at when what they left is removed."""
    for first in range(0, len(found), _A_STEP):
        few = found[first : first + _A_STEP]
        last = first + _A_STEP >= len(found)
        yield few, end if last else few[-1][0] + 1
    if not found:
        yield (), end


_NAMED = Prepared(select(PSEUDONYM.c.name).where(PSEUDONYM.c.name == bindparam("name_")))
_SINCE = Prepared(
    select(*LOOKED_AT)
    .where(ENTRY.c.idx >= bindparam("first"), ENTRY.c.idx < bindparam("end"))
    .order_by(ENTRY.c.idx)
)
_RUN_OF_ANOTHER = Prepared(
    select(ENTRY.c.idx)
    .where(ENTRY.c.run == bindparam("run_"), ENTRY.c.run != spelled(""), ENTRY.c.who != bindparam("name_"))
    .limit(1)
)
_REMOVE = Prepared(delete(PAYLOAD).where(PAYLOAD.c.idx == bindparam("idx_")))
_REMOVE_ASKED = Prepared(
    delete(PAYLOAD).where(PAYLOAD.c.idx == bindparam("idx_"), PAYLOAD.c.field == "asked")
)
_ASKED = Prepared(
    select(PAYLOAD.c.idx, PAYLOAD.c.value).where(
        PAYLOAD.c.idx == bindparam("idx_"), PAYLOAD.c.field == "asked"
    )
)
_OF_CALL = Prepared(select(ENTRY.c.idx).where(ENTRY.c.call_id == bindparam("id_")))
_FORGET_NAME = Prepared(delete(PSEUDONYM).where(PSEUDONYM.c.name == bindparam("name_")))
_ADD_NAME = Prepared(insert(ERASED_NAME))
_COUNT = Prepared(update(TIP).where(TIP.c.id == 1).values(erasures=TIP.c.erasures + 1))
_GENERATION = Prepared(select(TIP.c.erasures).where(TIP.c.id == 1))
_ADD = Prepared(insert(ERASURE))
_OPEN = and_(ERASURE.c.entry == bindparam("entry_"), ERASURE.c.done.is_(None))
_STANDING = Prepared(select(ERASURE).where(_OPEN))
_MOVE = Prepared(
    update(ERASURE)
    .where(_OPEN)
    .values(
        **{
            name: bindparam(name)
            for name in ("position", "values_removed", "answers", "waiting", "worked_at")
        }
    )
)
_DONE = Prepared(update(ERASURE).where(_OPEN).values(done=bindparam("done")))
