"""The ledger on SQL tables: every call's intent before its act, its end before its answer."""

import logging
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import orjson
from pydantic import ValidationError
from sqlalchemy import and_, bindparam, desc, insert, or_, select, update

from toolgate.backends.ledger_entries import Entries, Entry, micros, moment
from toolgate.backends.sql_tables import CLAIM, Prepared
from toolgate.backends.sqlite_writer import Batch, SqliteWriter
from toolgate.core.call import Call
from toolgate.core.canonical import canonical
from toolgate.core.claims import (
    EarlierCall,
    Opened,
    answer_to_repetition,
    answer_under_key,
    state_after,
)
from toolgate.core.decision import Decision
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.outcome import Answer, Outcome, OutcomeOf, Refused
from toolgate.core.ports import Rulebook
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

log = logging.getLogger(__name__)

GRACE: Final = timedelta(seconds=30)
"""How long after its timeout a call may still be busy recording its end before it is taken for lost."""


class SqlLedger:
    """Writes entries and settles claims through one writer.

    Args:
        now: the clock (UTC).
        random: gives so many random bytes.
    """

    def __init__(
        self,
        writer: SqliteWriter,
        *,
        now: Callable[[], datetime],
        random: Callable[[int], bytes],
    ) -> None:
        self._writer = writer
        self._now = now
        self._entries = Entries(now=now, random=random)

    async def open(self, call: Call, tool: Tool, decision: Decision, book: Rulebook) -> Opened | Answer:
        """Record the intent and claim the key in one transaction, or give the answer of an earlier call."""
        intent = partial(self._entries.intent, call, tool, decision, book)
        if call.key is None and tool.terms.effect == "read":
            return await self._open_unclaimed(call, intent(call.id, 1))
        scope = _scope(call, tool)
        fingerprint = call.fingerprint

        def work(batch: Batch) -> Opened | Answer:
            earlier = _earlier(batch, call, scope, fingerprint, tool)
            if earlier is None:
                return self._claim(batch, call, tool, intent(call.id, 1), scope)
            known = _known(earlier)
            if call.key is None:
                answer = answer_to_repetition(known, call)
            else:
                maybe = answer_under_key(known, call)
                if maybe is None:
                    attempt = known.attempt + 1
                    return self._claim_again(batch, tool, known, intent(known.call_id, attempt))
                answer = maybe
            entry = batch.append(self._entries.repeat(call, tool, decision, book, answer))
            return answer if answer.replayed else answer.model_copy(update={"entry": entry})

        return await self._writer.write(work)

    async def remember(self, opened: Opened, value: JsonObject) -> None:
        """Keep what the adapter must know again if this attempt dies after its send."""
        if not opened.claimed:
            raise LedgerUnavailable("a read has nothing to remember before a send")
        parameters = {
            "id_": opened.call_id,
            "attempt_": opened.attempt,
            "remembered": canonical(value),
        }

        def work(batch: Batch) -> None:
            if batch.execute(_REMEMBER, parameters).rowcount != 1:
                raise LedgerUnavailable("the call has another owner now")

        await self._writer.write(work)

    async def close(self, call: Call, tool: Tool, opened: Opened, outcome: Outcome) -> int:
        """Record the end and settle the claim; gives the entry."""
        stored = OutcomeOf.dump_json(outcome)
        entry = self._entries.outcome(call, tool, opened, outcome)
        parameters = {"id_": opened.call_id, "attempt_": opened.attempt, "state": state_after(outcome)}

        def work(batch: Batch) -> int:
            end = batch.append(entry)
            if opened.claimed:
                batch.execute(_SETTLE, parameters | {"end": end, "outcome": stored})
            return end

        return await self._writer.write(work)

    async def refuse(
        self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None, book: Rulebook
    ) -> int:
        """Record that nothing was done, and why; gives the entry."""
        entry = self._entries.refusal(call, tool, refused, decision, book)
        return await self._writer.write(lambda batch: batch.append(entry))

    async def _open_unclaimed(self, call: Call, entry: Entry) -> Opened:
        intent = await self._writer.write(lambda batch: batch.append(entry))
        return Opened(call_id=call.id, intent=intent, claimed=False, remembered={})

    def _claim(self, batch: Batch, call: Call, tool: Tool, entry: Entry, scope: dict[str, str]) -> Opened:
        intent = batch.append(entry)
        row = scope | {
            "call_id": call.id,
            "key": call.key,
            "fingerprint": call.fingerprint,
            "state": "in_progress",
            "attempt": 1,
            "opened_at": entry.columns["at"],
            "lapses_at": self._lapse(tool),
            "intent": intent,
            "end": None,
            "outcome": None,
            "remembered": None,
        }
        batch.execute(_CLAIM, row)
        return Opened(call_id=call.id, intent=intent, remembered={})

    def _claim_again(self, batch: Batch, tool: Tool, earlier: EarlierCall, entry: Entry) -> Opened:
        intent, attempt = batch.append(entry), earlier.attempt + 1
        parameters = {"attempt": attempt, "lapses_at": self._lapse(tool), "intent": intent}
        batch.execute(_CLAIM_AGAIN, parameters | {"id_": earlier.call_id})
        return Opened(call_id=earlier.call_id, intent=intent, attempt=attempt, remembered=earlier.remembered)

    def _lapse(self, tool: Tool) -> int:
        return micros(self._now() + timedelta(seconds=tool.terms.timeout) + GRACE)


def _scope(call: Call, tool: Tool) -> dict[str, str]:
    caller = call.caller
    return {
        "tenant": caller.tenant,
        "issuer": caller.issuer,
        "subject": caller.subject,
        "tool": tool.name,
    }


def _earlier(
    batch: Batch, call: Call, scope: dict[str, str], fingerprint: str, tool: Tool
) -> sqlite3.Row | None:
    """Find the claim that stands in the way: under the same key or, without one, an identical recent call."""
    if call.key is not None:
        return batch.find(_BY_KEY, scope | {"key": call.key})
    if call.again or tool.terms.without_key != "guard":
        return None
    since = call.received_at - timedelta(seconds=tool.terms.guard_window)
    return batch.find(_LIKE, scope | {"fingerprint": fingerprint, "since": micros(since)})


def _known(row: sqlite3.Row) -> EarlierCall:
    return EarlierCall(
        call_id=row["call_id"],
        fingerprint=row["fingerprint"],
        attempt=row["attempt"],
        state=row["state"],
        opened_at=moment(row["opened_at"]),
        lapses_at=moment(row["lapses_at"]),
        intent=row["intent"],
        end=row["end"],
        outcome=_outcome(row["outcome"]),
        remembered=_read_json(row["remembered"]) or {},
    )


def _outcome(stored: bytes | None) -> Outcome | None:
    """Read a stored outcome; one that cannot be read counts as none, and its call as unknown."""
    try:
        return None if stored is None else OutcomeOf.validate_json(stored)
    except ValidationError:
        log.exception("a stored outcome cannot be read")
        return None


def _read_json(stored: bytes | None) -> Any:  # noqa: ANN401 - whatever was stored
    return None if stored is None else orjson.loads(stored)


_SAME_SCOPE = and_(*(CLAIM.c[name] == bindparam(name) for name in ("tenant", "issuer", "subject", "tool")))
_OWNED = and_(
    CLAIM.c.call_id == bindparam("id_"),
    CLAIM.c.attempt == bindparam("attempt_"),
    CLAIM.c.state == "in_progress",
)
_BY_KEY = Prepared(select(CLAIM).where(_SAME_SCOPE, CLAIM.c.key == bindparam("key")))
_LIKE = Prepared(
    select(CLAIM)
    .where(
        _SAME_SCOPE,
        CLAIM.c.fingerprint == bindparam("fingerprint"),
        CLAIM.c.opened_at >= bindparam("since"),
        or_(*(CLAIM.c.state == state for state in ("in_progress", "succeeded", "unknown"))),
    )
    .order_by(desc(CLAIM.c.opened_at))
    .limit(1)
)
_CLAIM = Prepared(insert(CLAIM))
_REMEMBER = Prepared(update(CLAIM).where(_OWNED).values(remembered=bindparam("remembered")))
_SETTLE = Prepared(
    update(CLAIM)
    .where(_OWNED)
    .values(state=bindparam("state"), end=bindparam("end"), outcome=bindparam("outcome"))
)
_CLAIM_AGAIN = Prepared(
    update(CLAIM)
    .where(CLAIM.c.call_id == bindparam("id_"))
    .values(
        state="in_progress",
        attempt=bindparam("attempt"),
        lapses_at=bindparam("lapses_at"),
        intent=bindparam("intent"),
        end=None,
        outcome=None,
    )
)
