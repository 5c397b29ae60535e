"""Makes leases durable before they are used, and records how they end outside of their call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

import orjson
from sqlalchemy import bindparam, select

from toolgate.backends.governing import Governing
from toolgate.backends.lease_rows import LeaseRows
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries, Names, micros
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.owed import Owed, OwedRun
from toolgate.backends.pseudonyms import Pseudonyms
from toolgate.backends.sql_tables import ENTRY, Prepared
from toolgate.core.call import Call
from toolgate.core.claims import Opened
from toolgate.core.lease import Lent
from toolgate.core.record import Json
from toolgate.core.tool import Tool

Because = Literal["queued", "orphan", "person", "shutdown", "run_over", "expired"]
"""Why a lease ended outside of its call: its giving back had been queued, its gate died, a person revoked it,
its gate stopped, its run was over, or nobody could end it before its time."""

_STATUS: Final = {
    "queued": "given_back",
    "run_over": "given_back",
    "expired": "expired",
    "orphan": "revoked",
    "person": "revoked",
    "shutdown": "given_back",
}


@dataclass(frozen=True, kw_only=True)
class Living:
    """Leases and run tokens that may still live."""

    found: tuple[Owed, ...]
    me: str
    """Which of the owners this process is."""
    orphans: frozenset[str]
    """The owners that have died."""

    def why_end(self, owed: Owed) -> Because | None:
        """Say why this gate has to end it now, or None."""
        if owed.state == "asked":
            return "person"
        if owed.owner in self.orphans:
            return "orphan"
        return "queued" if owed.state == "ending" else None


class LeaseBook:
    """The ledger, as who makes credentials needs it. Every method raises `LedgerUnavailable`.

    Args:
        running: gives the names in the intent of a call that runs in this process.
    """

    def __init__(
        self,
        writer: LedgerWriter,
        entries: Entries,
        pseudonyms: Pseudonyms,
        governing: Governing,
        *,
        now: Callable[[], datetime],
        running: Callable[[int], Names | None],
    ) -> None:
        self._running = running
        self._writer, self._entries, self._pseudonyms = writer, entries, pseudonyms
        self._governing, self._now = governing, now
        self._rows = LeaseRows()

    async def opened_run(
        self, call: Call, tool: Tool, opened: Opened, accessor: str, until: datetime, request: str
    ) -> None:
        """Make a run's accessor durable. Nothing is made under the run's token before this returns."""
        names = await self._names(call, opened)
        entry = self._entries.run_token(call, tool, names, opened, accessor, until, request)

        def work(batch: Batch) -> None:
            batch.append(entry)
            self._rows.add_run(
                batch,
                accessor=accessor,
                opened_at=micros(self._now()),
                until=micros(until),
                **self._common(call, tool, names, opened),
            )

        await self._writer.begin(work)

    async def lent(
        self, call: Call, tool: Tool, opened: Opened, lent: Lent, until: datetime, accessor: str = ""
    ) -> Lent:
        """Make a lease durable before it is used; gives what is said of it from then on."""
        names = await self._names(call, opened)
        entry = self._entries.lent(call, tool, names, opened, lent)

        def work(batch: Batch) -> int:
            issued = batch.append(entry)
            if lent.kind != "dynamic":
                return issued  # nothing but its time ends it
            self._rows.add_lease(
                batch,
                id=lent.id,
                accessor=accessor,
                role=lent.role,
                source=lent.source,
                kind=lent.kind,
                scope=lent.scope,
                issued=issued,
                lent_at=micros(self._now()),
                until=micros(until),
                **self._common(call, tool, names, opened),
            )
            return issued

        return lent.model_copy(update={"issued": await self._writer.begin(work)})

    async def living(self) -> "Living":
        """Give all that may still live, whoever holds it."""

        def work(batch: Batch) -> Living:
            found: tuple[Owed, ...] = (*self._rows.runs(batch), *self._rows.leases(batch))
            gone = self._writer.owners.is_gone
            orphans = frozenset(owner for owner in {one.owner for one in found} if gone(owner))
            return Living(found=found, me=self._writer.owners.me, orphans=orphans)

        return await self._writer.write(work)

    async def shall_end(self, owed: Sequence[Owed], by: str) -> None:
        """Record that a person wants these ended; whichever gate runs does it, this one or another."""

        def work(batch: Batch) -> None:
            for one in owed:
                batch.append(self._entries.lease_about("revoke_asked", one, by=by))
                self._rows.asked(batch, one)

        await self._writer.write(work)

    async def ended(self, ends: Sequence[tuple[Owed, Because]]) -> None:
        """Record that these are no more, and why; with a run token, all that was made under it."""

        def work(batch: Batch) -> None:
            for owed, because in ends:
                under = self._rows.under(batch, owed.accessor) if isinstance(owed, OwedRun) else []
                for one in (*under, owed):
                    if self._rows.ended(batch, one):
                        batch.append(self._entries.lease_about(_STATUS[because], one, because=because))

        if ends:
            await self._writer.write(work)

    async def _names(self, call: Call, opened: Opened) -> Names:
        """Give the names of the call's own intent: whoever was erased since gets no new ones by this."""
        names = self._running(opened.intent)
        if names is None:  # a call in doubt, say; its intent may have been lost with the ledger's end
            names = await self._writer.begin(lambda batch: _names_in(batch, opened.intent))
        if names is None:
            names = await self._pseudonyms.names(call, 0)
        return replace(names, config=self._governing.in_force)

    def _common(self, call: Call, tool: Tool, names: Names, opened: Opened) -> dict[str, Json]:
        return {
            "intent": opened.intent,
            "call_id": opened.call_id,
            "tool": tool.name,
            "tenant": call.caller.tenant,
            "who": names.who,
            "run": names.run,
            "owner": self._writer.owners.me,
        }


def _names_in(batch: Batch, intent: int) -> Names | None:
    """Give the names that an intent says, or None where there is none."""
    row = batch.find(_INTENT, {"idx_": intent})
    said: dict[str, Any] = {} if row is None else orjson.loads(row["body"])
    if "who" not in said:
        return None
    act, client, run = said.get("act", ()), said.get("client", ""), said.get("run", "")
    return Names(who=said["who"], client=client, act=tuple(act), run=run)


_INTENT = Prepared(select(ENTRY.c.body).where(ENTRY.c.idx == bindparam("idx_")))
