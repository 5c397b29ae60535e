"""Calls of which nobody knows what became: taken for lost, asked about and resolved, each by an entry."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Integer, and_, bindparam, or_, select, update

from toolgate.backends.lease_rows import LeaseRows
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries, micros
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.sql_claims import Claimed, Claims
from toolgate.backends.sql_connection import SqlRow
from toolgate.backends.sql_tables import CLAIM, ENTRY, Prepared, spelled
from toolgate.core.call import Call, Caller
from toolgate.core.claims import LOST, Asked, Doubtful, EarlierCall, Finding, State
from toolgate.core.errors import NothingRecorded
from toolgate.core.lease import Lent
from toolgate.core.outcome import Done, Failed, Outcome
from toolgate.core.tool import Tool

PAUSE: Final = timedelta(seconds=2)
"""How long a system is left alone after it was asked about a call."""
LONG: Final = timedelta(hours=1)
"""How long what was sent may be on its way to a system of which we know nothing any more."""
_MOST_AT_ONCE: Final = 100
_MOST_EXPIRED: Final = 1000

NOTHING_THERE: Final = Failed(
    code="found_nothing",
    detail="the system was asked, and has nothing of this call; it may be asked again under the same key",
    retryable=True,
)
RESOLVED_AS_NOTHING: Final = Failed(
    code="resolved_as_nothing",
    detail="a person found that nothing had been done; it may be asked again under the same key",
    retryable=True,
)


class SqlDoubts:
    """Settles unknown claims through one writer.

    Args:
        now: the clock (UTC).
    """

    def __init__(
        self, writer: LedgerWriter, entries: Entries, claims: Claims, *, now: Callable[[], datetime]
    ) -> None:
        self._writer, self._entries, self._claims, self._now = writer, entries, claims, now
        self._leases = LeaseRows()

    def seen(self, batch: Batch, claimed: Claimed, tool: Tool | None) -> Claimed:
        """Give a claim as it stands now: a call whose owner is gone or late is taken for lost.

        A quiet period begins when that is noticed, and anew when an owner that was alive then is found gone.
        """
        earlier = claimed.earlier
        quiet = timedelta(seconds=tool.terms.quiet_period) if tool else LONG
        until = self._now() + quiet
        if earlier.is_lost(self._now()):
            end = batch.append(self._entries.about("unknown", LOST.code, earlier, claimed.subject))
            self._claims.lose(batch, earlier, LOST, end, until)
        elif self._claims.is_newly_gone(claimed):
            self._claims.note_end(batch, earlier.call_id, earlier.attempt, claimed.owner, micros(until))
        else:
            return claimed
        return self._claims.of_call(batch, earlier.call_id) or claimed

    async def asked(self, earlier: EarlierCall, tool: Tool) -> Asked | None:
        """Record that the system is about to be asked; None when it was asked a moment ago, or is settled."""

        def work(batch: Batch) -> Asked | None:
            claimed = self._claims.of_call(batch, earlier.call_id)
            if claimed is None or not self._claims.ask(batch, earlier, self._now(), PAUSE):
                return None
            known = self.seen(batch, claimed, tool).earlier
            entry = batch.append(self._entries.about("reconcile", "asked", earlier, claimed.subject))
            return Asked(entry=entry, conclusive=known.owner_gone and self._now() >= known.until)

        return await self._writer.begin(work)

    async def found(
        self, earlier: EarlierCall, asked: Asked, finding: Finding, lent: Sequence[Lent] = ()
    ) -> None:
        """Record what the system said, and settle the claim when that says enough."""

        def work(batch: Batch) -> None:
            claimed = self._claims.of_call(batch, earlier.call_id)
            if claimed is None:
                return
            unsettled = (claimed.earlier.state, claimed.earlier.attempt) == ("unknown", earlier.attempt)
            state = finding.state(asked) if unsettled else None
            entry = self._entries.about(
                "reconcile",
                finding.verdict,
                earlier,
                claimed.subject,
                asked=asked.entry,
                settles=state is not None,
            )
            for one in lent:
                returned = self._entries.returned(earlier, claimed.subject, one)
                if self._leases.note_end(batch, returned):
                    batch.append(returned)
            end = batch.append(entry)
            if state is not None:
                outcome = finding.outcome if finding.outcome is not None else NOTHING_THERE
                self._claims.resolve(batch, earlier, outcome, state, end)
                self._forget_if_erased(batch, claimed)

        await self._writer.write(work)

    async def resolve(self, call_id: str, outcome: Done | None, *, by: str, because: str) -> int:
        """Record what a person says became of an unknown call: done with a result, or nothing.

        Raises:
            NothingRecorded: there is no such call, or it is not unknown.
        """

        def work(batch: Batch) -> int | str:
            claimed = self._claims.of_call(batch, call_id)
            if claimed is None:
                return f"no call {call_id} is recorded as a write or under a key"
            earlier = self.seen(batch, claimed, None).earlier
            if earlier.state != "unknown":
                return f"call {call_id} is not unknown: it is {earlier.state}"
            status = "nothing_done" if outcome is None else "done"
            entry = self._entries.resolution(status, earlier, claimed.subject, by, because)
            end = batch.append(entry)
            settled: Outcome = outcome if outcome is not None else RESOLVED_AS_NOTHING
            state: State = "succeeded" if outcome is not None else "failed_retriable"
            self._claims.resolve(batch, earlier, settled, state, end)
            self._forget_if_erased(batch, claimed)
            return end

        resolved = await self._writer.write(work)
        if isinstance(resolved, str):
            raise NothingRecorded(resolved)
        return resolved

    async def of_call(self, call_id: str, find: Callable[[str], Tool | None]) -> Doubtful | None:
        """Give an unknown call by its id, or None. `find` gives the admitted tool of a name."""

        def work(batch: Batch) -> Doubtful | None:
            claimed = self._claims.of_call(batch, call_id)
            if claimed is not None:
                claimed = self.seen(batch, claimed, find(claimed.tool))
            if claimed is None or claimed.earlier.state != "unknown":
                return None
            return _doubtful(claimed, self._now())

        return await self._writer.write(work)

    async def sweep(self, find: Callable[[str], Tool | None]) -> list[Doubtful]:
        """Take for lost what was left in the middle; give unknown calls whose systems it is time to ask."""

        def work(batch: Batch) -> list[Doubtful]:
            now = self._now()
            for claimed in self._read(batch, _IN_PROGRESS, {"most": _MOST_AT_ONCE}):
                self.seen(batch, claimed, find(claimed.tool))
            before = {"until": micros(now), "before": micros(now - PAUSE), "most": _MOST_AT_ONCE}
            askable: list[Doubtful] = []
            for claimed in self._read(batch, _UNKNOWN, before):
                tool = find(claimed.tool)
                if tool is not None and tool.terms.duplicates == "query":
                    askable.append(_doubtful(claimed, now))
                else:  # its turn comes again later, behind those that can be asked about
                    self._claims.ask(batch, claimed.earlier, now, PAUSE)
            return askable

        return await self._writer.write(work)

    async def expire(self) -> int:
        """Forget answers whose time is over; their keys stay, and are refused from then on.

        What tells that a call without a key is a repetition is of no use any more, and goes too.
        """
        parameters = {"now": micros(self._now()), "most": _MOST_EXPIRED}

        def work(batch: Batch) -> int:
            due: list[SqlRow] = batch.execute(_DUE, parameters).fetchall()
            for row in due:
                batch.change(_EXPIRE, {"id_": row["call_id"]}, row["call_id"])
            return len(due)

        return await self._writer.write(work)

    def _forget_if_erased(self, batch: Batch, claimed: Claimed) -> None:
        if not batch.erased:
            return
        batch.flush()
        intent = batch.find(_INTENT, {"idx_": claimed.earlier.intent})
        if intent is not None and batch.erased.named_in(intent["body"]):
            self._claims.forget(batch, claimed.earlier.call_id, self._now())

    def _read(self, batch: Batch, statement: Prepared, parameters: dict[str, Any]) -> list[Claimed]:
        rows: list[SqlRow] = batch.execute(statement, parameters).fetchall()
        return [self._claims.known(row) for row in rows]


def _doubtful(claimed: Claimed, now: datetime) -> Doubtful:
    request, earlier = claimed.request, claimed.earlier
    arguments = request.get("arguments")
    try:
        caller = Caller.model_validate(request.get("caller"))
    except ValidationError:
        return Doubtful(earlier=earlier, tool=claimed.tool, call=None)
    if not isinstance(arguments, dict):
        return Doubtful(earlier=earlier, tool=claimed.tool, call=None)
    call = Call(id=earlier.call_id, caller=caller, tool=claimed.tool, arguments=arguments, received_at=now)
    return Doubtful(earlier=earlier, tool=claimed.tool, call=call)


_INTENT = Prepared(select(ENTRY.c.body).where(ENTRY.c.idx == bindparam("idx_")))
_IN_PROGRESS = Prepared(
    select(CLAIM)
    .where(CLAIM.c.state == spelled("in_progress"))
    .order_by(CLAIM.c.until)
    .limit(bindparam("most"))
)
_WAITED: ColumnElement[int] = bindparam("before", type_=Integer) - CLAIM.c.asked_at
_UNKNOWN = Prepared(
    select(CLAIM)
    .where(
        CLAIM.c.state == spelled("unknown"),
        CLAIM.c.until <= bindparam("until"),
        # Each pause is as long as the call was in doubt when it was last asked about.
        or_(
            CLAIM.c.asked_at == 0,
            and_(_WAITED >= 0, CLAIM.c.asked_at - CLAIM.c.opened_at <= _WAITED),
        ),
    )
    .order_by(CLAIM.c.asked_at)
    .limit(bindparam("most"))
)
_SETTLED = and_(CLAIM.c.outcome.is_not(None), CLAIM.c.state != "unknown")
_DUE = Prepared(
    select(CLAIM.c.call_id)
    .where(CLAIM.c.expires_at <= bindparam("now"), _SETTLED)
    .order_by(CLAIM.c.expires_at)
    .limit(bindparam("most"))
)
_EXPIRE = Prepared(
    update(CLAIM)
    .where(CLAIM.c.call_id == bindparam("id_"))
    .values(state="expired", outcome=None, remembered=None, alike=bytes(32))
)
