"""Records how calls ended, whatever the database does: tried again, and kept outside until then."""

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import orjson
from sqlalchemy import bindparam, or_, select

from toolgate.backends.lease_rows import LeaseRows
from toolgate.backends.ledger_batch import Batch, Read
from toolgate.backends.ledger_entries import Entry, changed, entry_of, moment
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.spill import Spill, Spilled
from toolgate.backends.sql_claims import Claims, Settlement
from toolgate.backends.sql_tables import ENTRY, Prepared
from toolgate.core.claims import Closed, Opened
from toolgate.core.errors import LedgerUnavailable

log = logging.getLogger(__name__)

PAUSES: Final = (0.05, 0.2, 1.0)
"""Seconds between the tries to record an end before it is kept outside."""

NEVER: Final = 2**53 - 1
"""A moment that does not come, in microseconds."""

_INTENT = Prepared(select(ENTRY.c.kind, ENTRY.c.call_id).where(ENTRY.c.idx == bindparam("idx_")))
_RECORDED = Prepared(
    select(ENTRY.c.idx, ENTRY.c.kind).where(
        ENTRY.c.call_id == bindparam("id_"),
        ENTRY.c.refers == bindparam("intent"),
        or_(ENTRY.c.kind == "outcome", ENTRY.c.kind == "late_outcome"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of an attempt: its entries, and what becomes of its claim."""

    opened: Opened
    owner: str
    entry: Entry
    leases: tuple[Entry, ...]
    settlement: Settlement
    again: bool = False
    """It was tried before, and may be recorded already."""


class Endings:
    """Records ends through one writer, and spills those that it will not take."""

    def __init__(self, writer: LedgerWriter, claims: Claims, leases: LeaseRows, spill: Spill) -> None:
        self._writer, self._claims, self._leases, self._spill = writer, claims, leases, spill

    async def record(self, ending: Ending) -> Closed:
        """Record an end.

        Raises:
            LedgerUnavailable: it could not be recorded now; it is kept outside until it can be.
        """
        for pause in PAUSES:
            try:
                return await self._writer.write(partial(self._end, ending), *self._reads(ending))
            except LedgerUnavailable as error:
                log.warning("call %s: its end is not recorded yet (%s)", ending.opened.call_id, error)
            await asyncio.sleep(pause)
            ending = replace(ending, again=True)
        try:
            await asyncio.to_thread(self._spill.keep, _spilled(ending))
        except OSError:
            log.exception("call %s: its end could not even be kept outside", ending.opened.call_id)
        raise LedgerUnavailable("the end could not be recorded")

    async def take_back(self) -> int:
        """Record what was spilled; gives how many ends that were.

        Raises:
            LedgerUnavailable: the database still takes nothing.
        """
        taken = 0
        failed: LedgerUnavailable | None = None
        for spilled in await asyncio.to_thread(lambda: list(self._spill.kept())):
            try:
                await self._writer.write(partial(self._end, _from_spill(spilled)))
            except LedgerUnavailable as error:  # the next one may be all right
                failed = error
                continue
            await asyncio.to_thread(self._spill.forget, spilled)
            taken += 1
        if failed is not None:
            raise failed
        return taken

    def _has_intent(self, batch: Batch, opened: Opened) -> bool:
        """Whether the intent is there: one that was spilled may have been lost with the end of the ledger."""
        row = batch.find(_INTENT, {"idx_": opened.intent})
        return row is not None and (row["kind"], row["call_id"]) == ("intent", opened.call_id)

    def _reads(self, ending: Ending) -> tuple[Read, ...]:
        """Ask whether the attempt is still its owner's; a read has none."""
        opened = ending.opened
        return (self._claims.owning(opened, ending.owner),) if opened.claimed else ()

    def _end(self, ending: Ending, batch: Batch) -> Closed:
        opened = ending.opened
        if ending.again or batch.again:
            batch.flush()
            asked = {"id_": opened.call_id, "intent": opened.intent}
            if (recorded := batch.find(_RECORDED, asked)) is not None:
                return Closed(entry=recorded["idx"], late=recorded["kind"] == "late_outcome")
            if not self._has_intent(batch, opened):
                log.error("call %s: its intent was lost with the ledger's end; so is its own", opened.call_id)
                return Closed(entry=opened.intent, late=True)
        late = any(batch.answer(read) is None for read in self._reads(ending))
        for lease in ending.leases:
            if self._leases.note_end(batch, lease):
                batch.append(lease)
        index = batch.append(changed(ending.entry, kind="late_outcome") if late else ending.entry)
        if late:
            # When it is known to have taken effect, a look-up that finds nothing shows nothing, ever.
            until = NEVER if ending.settlement.state == "succeeded" else ending.settlement.until
            self._claims.note_end(batch, opened.call_id, opened.attempt, ending.owner, until)
        elif opened.claimed:
            self._claims.settle(batch, opened, ending.settlement, index)
            batch.ended.append(opened.intent)
        if opened.claimed and batch.erased.named_in(ending.entry.spelled + b"}"):
            self._claims.forget(batch, opened.call_id, moment(ending.entry.columns["at"]))
        return Closed(entry=index, late=late)


def _spilled(ending: Ending) -> Spilled:
    opened = ending.opened
    return Spilled(
        call_id=opened.call_id,
        attempt=opened.attempt,
        intent=opened.intent,
        claimed=opened.claimed,
        owner=ending.owner,
        state=ending.settlement.state,
        outcome=ending.settlement.outcome.decode(),
        until=ending.settlement.until,
        leases=tuple(orjson.loads(lease.spelled + b"}") for lease in ending.leases),
        end=orjson.loads(ending.entry.spelled + b"}") | {"spilled": True},
        salts={payload["field"]: payload["salt"].hex() for payload in ending.entry.payloads},
        values={
            payload["field"]: payload["value"].decode()
            for payload in ending.entry.payloads
            if payload["value"] is not None
        },
    )


def _from_spill(spilled: Spilled) -> Ending:
    payloads = [
        {
            "field": field,
            "salt": bytes.fromhex(salt),
            "value": spilled.values[field].encode() if field in spilled.values else None,
        }
        for field, salt in spilled.salts.items()
    ]
    return Ending(
        opened=Opened(
            call_id=spilled.call_id,
            intent=spilled.intent,
            attempt=spilled.attempt,
            claimed=spilled.claimed,
            remembered={},
        ),
        owner=spilled.owner,
        entry=entry_of(spilled.end, tuple(payloads)),
        leases=tuple(entry_of(lease) for lease in spilled.leases),
        settlement=Settlement(spilled.state, spilled.outcome.encode(), spilled.until),
        again=True,
    )
