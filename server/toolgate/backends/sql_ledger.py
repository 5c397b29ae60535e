"""The ledger on SQL tables: every call's intent before its act, its end before its answer."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import orjson
from sqlalchemy import bindparam, select

from toolgate.backends.endings import Ending, Endings
from toolgate.backends.governing import Governing
from toolgate.backends.ledger_batch import Batch, Read
from toolgate.backends.ledger_entries import Entries, Entry, Names, micros
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.pseudonyms import Pseudonyms
from toolgate.backends.sql_claims import GRACE, Claims, Settlement, stored
from toolgate.backends.sql_doubts import SqlDoubts
from toolgate.backends.sql_runs import earlier_calls
from toolgate.backends.sql_tables import ENTRY, Prepared
from toolgate.core.call import Call
from toolgate.core.claims import (
    Attempt,
    Busy,
    Closed,
    EarlierCall,
    InDoubt,
    Opened,
    RunMovedOn,
    answer_to_repetition,
    answer_under_key,
    state_after,
    still_running,
)
from toolgate.core.decision import Decision, Past
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.lease import Lent
from toolgate.core.outcome import Answer, Failed, Outcome, Refused
from toolgate.core.ports import Rulebook
from toolgate.core.record import JsonObject
from toolgate.core.strangers import Rejected
from toolgate.core.tool import Tool

WAIT: Final = 2.0
"""Seconds that a call waits for the first one under its key."""
FIRST_LOOK, LONGEST_LOOK = 0.02, 0.2
"""Seconds between two looks whether another process has ended a call."""

_WHO = Prepared(select(ENTRY.c.who).where(ENTRY.c.idx == bindparam("idx_")))
_USED_AND_ERASED: Final = Refused(
    code="idempotency_key_expired",
    detail="this key was used, and its answer is no longer kept; use a new key for a new call",
)
_ALIKE_AND_ERASED: Final = Refused(
    code="duplicate_suspected",
    detail="an identical call was made a short time ago, and its answer is no longer kept. To run it again "
    'on purpose, send an idempotency key, or _meta["dev.toolgate/again"] = true',
)


class SqlLedger:
    """Writes entries and settles claims through one writer.

    Args:
        governing: says which entry tells what governs a call.
        doubts: takes calls for lost.
        endings: records ends, whatever the database does.
        now: the clock (UTC).
        wait: seconds that a call waits for the first one under its key.
    """

    def __init__(  # noqa: PLR0913 - each is one part of a ledger
        self,
        writer: LedgerWriter,
        entries: Entries,
        pseudonyms: Pseudonyms,
        claims: Claims,
        *,
        governing: Governing,
        doubts: SqlDoubts,
        endings: Endings,
        now: Callable[[], datetime],
        wait: float = WAIT,
    ) -> None:
        self._writer, self._entries, self._pseudonyms = writer, entries, pseudonyms
        self._claims, self._governing = claims, governing
        self._doubts, self._endings = doubts, endings
        self._now, self._wait = now, wait
        self._running: dict[int, _Running] = {}
        """By the intent."""
        self._closing: set[asyncio.Task[None]] = set()

    async def run_of(self, call: Call, tool: Tool) -> tuple[Past, ...] | None:
        """Give the earlier calls of the run that `call` is part of; None where nobody can tell."""
        if call.run is None:
            return None
        who = await self._pseudonyms.of("subject", call.caller, call.caller.subject)
        run = await self._pseudonyms.of("run", call.caller, call.run)
        return await self._writer.begin(lambda batch: self._earlier(batch, call, tool, run, who))

    def _earlier(self, batch: Batch, call: Call, tool: Tool, run: str, who: str) -> tuple[Past, ...] | None:
        reads = self._claims.in_the_way_of(call, tool) if call.key is not None else ()
        claimed = self._claims.found(batch, reads)
        return earlier_calls(batch, run, who, but=claimed.earlier.call_id if claimed is not None else None)

    async def open(
        self, call: Call, tool: Tool, decision: Decision, book: Rulebook, *, last_word: bool = False
    ) -> Opened | Answer | InDoubt | RunMovedOn:
        """Record the intent and claim the key in one transaction, or give the answer of an earlier call."""
        since, reads = time.monotonic(), self._claims.in_the_way_of(call, tool)
        asked = _Asked(call, tool, decision, await self._names(call, book), reads, last_word)
        opened: Opened | Answer | InDoubt | Busy | RunMovedOn
        if call.key is None and tool.terms.effect == "read":
            opened = await self._open_unclaimed(asked)
        else:
            opened = await self._attempt(asked)
        if isinstance(opened, Busy):
            opened = await self._after_the_first(asked, opened)
        if isinstance(opened, Opened):
            self._running[opened.intent] = _Running(asked.names, since)
        return opened

    def may_act(self, opened: Opened) -> bool:
        """Whether the others have seen that this process is alive for as long as the attempt is open."""
        return self._writer.may_act(self._running[opened.intent].since)

    async def remember(self, opened: Opened, value: JsonObject) -> None:
        """Keep what the adapter must know again if this attempt dies after its send."""
        if not opened.claimed:
            raise LedgerUnavailable("a read has nothing to remember before a send")

        if not await self._writer.write(lambda batch: self._claims.remember(batch, opened, value)):
            raise LedgerUnavailable("the call has another owner now")

    async def close(
        self, call: Call, tool: Tool, opened: Opened, outcome: Outcome, lent: Sequence[Lent] = ()
    ) -> Closed:
        """Record the end and settle the claim; what cannot be recorded is kept outside, and withheld."""
        running = self._running[opened.intent]
        names = running.names
        ending = Ending(
            opened=opened,
            owner=self._writer.owners.me,
            entry=self._entries.outcome(call, tool, names, opened, outcome),
            leases=tuple(self._entries.lease(call, tool, names, opened, one) for one in lent),
            settlement=Settlement(
                state=state_after(outcome, resent=opened.resent),
                outcome=stored(outcome) if opened.claimed else b"",
                until=micros(self._now() + timedelta(seconds=tool.terms.quiet_period)),
            ),
        )
        try:
            return await self._endings.record(ending)
        finally:
            del self._running[opened.intent]
            running.ended.set()

    async def refuse(
        self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None, book: Rulebook
    ) -> int:
        """Record that nothing was done, and why; gives the entry."""
        index = None
        while index is None:  # until no erasure comes between the names and their entry
            names = await self._names(call, book)
            entry = self._entries.refusal(call, tool, refused, decision, names)
            index = await self._writer.begin(partial(_unless_erased, entry, names))
        return index

    def names_of(self, intent: int) -> Names | None:
        """Give the names in the intent of a call that runs in this process."""
        running = self._running.get(intent)
        return None if running is None else running.names

    async def note_rejected(self, rejected: Sequence[Rejected]) -> None:
        """Record which sources came with tokens that were refused; an address is kept beside the tree."""
        if rejected:
            entries = [
                self._entries.committed(
                    "auth_failure",
                    "coalesced",
                    {"source": each.source},
                    count=each.count,
                    reasons=dict(each.reasons),
                )
                for each in rejected
            ]
            await self._writer.begin(lambda batch: [batch.append(entry) for entry in entries])

    async def _names(self, call: Call, book: Rulebook) -> Names:
        return await self._pseudonyms.names(call, await self._governing.entry_of(book))

    async def _open_unclaimed(self, asked: "_Asked") -> Opened | RunMovedOn:
        entry = self._intent(asked, self._first(asked))

        def work(batch: Batch) -> int | None:
            return None if self._has_moved_on(batch, asked) else batch.append(entry)

        intent = await self._writer.begin(work)
        if intent is None:
            return RunMovedOn()
        return Opened(call_id=asked.call.id, intent=intent, claimed=False, remembered={})

    def _has_moved_on(self, batch: Batch, asked: "_Asked") -> bool:
        """Whether the run's earlier calls, which the decision looked at, are no longer all of them.

        So it is, too, where the names under which it was looked up stand for nobody any more.
        """
        if batch.erased.any_of(asked.names):
            return True
        if asked.decision.run is None:
            return False
        run, who = asked.names.run, asked.names.who
        return self._earlier(batch, asked.call, asked.tool, run, who) != asked.decision.run

    async def _after_the_first(self, asked: "_Asked", busy: Busy) -> Opened | Answer | InDoubt | RunMovedOn:
        """Wait a bounded time for the first call under the key, whichever process runs it."""
        give_up, pause = time.monotonic() + self._wait, FIRST_LOOK
        while (left := give_up - time.monotonic()) > 0:
            running = self._running.get(busy.intent)
            if running is None:  # another process's: we have to look
                await self._writer.some_end(busy.intent, min(pause, left))
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(running.ended.wait(), left)
            pause = min(2 * pause, LONGEST_LOOK)
            opened = await self._attempt(asked)
            if not isinstance(opened, Busy):
                return opened
        return await self._writer.write(lambda batch: self._repeated(batch, asked, still_running(busy)))

    async def _attempt(self, asked: "_Asked") -> Opened | Answer | InDoubt | Busy | RunMovedOn:
        def given_up(opened: Opened | Answer | InDoubt | Busy | RunMovedOn) -> None:
            if isinstance(opened, Opened):
                self._closing.add(closing := asyncio.ensure_future(self._close_unsent(asked, opened)))
                closing.add_done_callback(self._closing.discard)

        return await self._writer.begin(partial(self._try_to_open, asked), *asked.reads, given_up=given_up)

    async def _close_unsent(self, asked: "_Asked", opened: Opened) -> None:
        """End a call whose intent became durable when its caller had been told already that nothing was."""
        self._running[opened.intent] = _Running(asked.names, time.monotonic())
        unsent = Failed(code="cancelled_before_send", detail="the disk was too slow", retryable=True)
        with contextlib.suppress(LedgerUnavailable):  # then its end is kept outside
            await self.close(asked.call, asked.tool, opened, unsent)

    def _try_to_open(  # noqa: PLR0911 - one for each thing that an earlier call can mean
        self, asked: "_Asked", batch: Batch
    ) -> Opened | Answer | InDoubt | Busy | RunMovedOn:
        call, tool = asked.call, asked.tool
        if batch.erased.any_of(asked.names):
            return RunMovedOn()
        claimed = self._claims.found(batch, asked.reads)
        if claimed is None:
            return self._claim(batch, asked, self._first(asked))
        if batch.erased and self._is_nobodys(batch, claimed.earlier):
            return self._refused_as_erased(batch, asked)
        earlier = self._doubts.seen(batch, claimed, tool).earlier
        if call.key is None:
            return self._repeated(batch, asked, answer_to_repetition(earlier, call))
        match answer_under_key(earlier, call, tool.terms):
            case "run" | "resend" as how:
                return self._claim(batch, asked, self._next(asked, earlier, resent=how == "resend"))
            case InDoubt() as doubt:
                if tool.terms.duplicates == "query" and not asked.last_word:
                    return doubt
                return self._repeated(batch, asked, doubt.answer(self._now(), tool.terms))
            case Answer() as answer:
                return self._repeated(batch, asked, answer)
            case Busy() as busy:
                return busy

    def _is_nobodys(self, batch: Batch, earlier: EarlierCall) -> bool:
        """Whether the caller of an earlier call was erased."""
        batch.flush()
        row = batch.find(_WHO, {"idx_": earlier.intent})
        return row is not None and row["who"] in batch.erased

    def _refused_as_erased(self, batch: Batch, asked: "_Asked") -> Answer:
        """Refuse to repeat a call of somebody who was erased since; nothing names that call.

        An entry that did would tell whom the erased pseudonym stood for.
        """
        refused = _USED_AND_ERASED if asked.call.key is not None else _ALIKE_AND_ERASED
        entry = self._entries.refusal(asked.call, asked.tool, refused, asked.decision, asked.names)
        return Answer(outcome=refused, call_id=asked.call.id, entry=batch.append(entry))

    def _claim(self, batch: Batch, asked: "_Asked", attempt: Attempt) -> Opened | RunMovedOn:
        if self._has_moved_on(batch, asked):
            return RunMovedOn()
        intent = batch.append(self._intent(asked, attempt))
        self._claims.claim(batch, asked.call, asked.tool, attempt, intent, asked.request)
        return Opened(
            call_id=attempt.call_id,
            intent=intent,
            attempt=attempt.number,
            resent=attempt.resent,
            remembered=attempt.remembered,
        )

    def _repeated(self, batch: Batch, asked: "_Asked", answer: Answer) -> Answer:
        """Record that a call was answered out of memory; a replay keeps the first call's entry."""
        entry = self._entries.repeat(asked.call, asked.tool, asked.decision, asked.names, answer)
        index = batch.append(entry)
        return answer if answer.replayed else answer.model_copy(update={"entry": index})

    def _intent(self, asked: "_Asked", attempt: Attempt) -> Entry:
        return self._entries.intent(asked.call, asked.tool, asked.decision, asked.names, attempt)

    def _first(self, asked: "_Asked") -> Attempt:
        call = asked.call
        return Attempt(
            call_id=call.id, opened_at=call.received_at, until=self._lapse(asked.tool), remembered={}
        )

    def _next(self, asked: "_Asked", earlier: EarlierCall, *, resent: bool) -> Attempt:
        return Attempt(
            call_id=earlier.call_id,
            number=earlier.attempt + 1,
            opened_at=earlier.opened_at,
            until=self._lapse(asked.tool),
            resent=resent,
            remembered=earlier.remembered,
        )

    def _lapse(self, tool: Tool) -> datetime:
        waits = 2 if tool.terms.witnessed else 1  # for its witnesses first, and then for the system
        return self._now() + timedelta(seconds=waits * tool.terms.timeout) + GRACE


def _unless_erased(entry: Entry, names: Names, batch: Batch) -> int | None:
    return None if batch.erased.any_of(names) else batch.append(entry)


@dataclass(frozen=True)
class _Running:
    """A call that runs in this process."""

    names: Names
    since: float
    """When it began to be opened, on the monotonic clock."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _Asked:
    """A call that was allowed and wants to be opened."""

    call: Call
    tool: Tool
    decision: Decision
    names: Names
    reads: tuple[Read, ...]
    """For the claim that may stand in the way."""
    last_word: bool

    @property
    def request(self) -> bytes:
        """Who asked for what, in JSON, to be kept until it is known what became of it."""
        caller = self.call.caller.model_dump_json().encode()
        subject = orjson.dumps(self.names.subject(self.call, self.tool.name))
        return b'{"arguments":%b,"caller":%b,"subject":%b}' % (self.call.spelled, caller, subject)
