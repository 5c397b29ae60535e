"""The ledger on SQL tables: every call's intent before its act, its end before its answer."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from sqlalchemy import and_, bindparam, desc, insert, or_, select, update

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
from toolgate.core.commitment import SALT_BYTES, commitment
from toolgate.core.decision import Decision
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.outcome import Answer, Done, Outcome, OutcomeOf, Refused
from toolgate.core.ports import Rulebook
from toolgate.core.record import JsonObject
from toolgate.core.tool import Capture, Tool

GRACE: Final = timedelta(seconds=30)
"""How long after its timeout a call may still be busy recording its end before it is taken for lost."""

_LONGEST_NAME: Final = 128


class SqlLedger:
    """Writes entries and settles claims through one writer.

    Args:
        now: the clock (UTC).
        random: gives so many random bytes.
        rulebook: what is in force, for the catalogue's digest in each entry.
    """

    def __init__(
        self,
        writer: SqliteWriter,
        *,
        now: Callable[[], datetime],
        random: Callable[[int], bytes],
        rulebook: Callable[[], Rulebook],
    ) -> None:
        self._writer = writer
        self._now = now
        self._rulebook = rulebook
        self._random = random

    async def open(self, call: Call, tool: Tool, decision: Decision) -> Opened | Answer:
        """Record the intent and claim the key in one transaction, or give the answer of an earlier call."""
        if call.key is None and tool.terms.effect == "read":
            return await self._open_unclaimed(call, tool, decision)
        scope = _scope(call, tool)
        fingerprint = call.fingerprint

        def work(batch: Batch) -> Opened | Answer:
            earlier = _earlier(batch, call, scope, fingerprint, tool)
            if earlier is None:
                return self._claim(batch, call, tool, decision, scope)
            known = _known(earlier)
            if call.key is None:
                answer = answer_to_repetition(known, call)
            else:
                maybe = answer_under_key(known, call)
                if maybe is None:
                    return self._claim_again(batch, call, tool, decision, earlier)
                answer = maybe
            entry = self._append_repeat(batch, call, tool, decision, answer)
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
        value = outcome.value if isinstance(outcome, Done) else None
        payloads, committed = _commitments({"result": value}, tool.terms.capture, self._random)
        status = outcome.kind if isinstance(outcome, Done) else outcome.code
        body = self._body("outcome", call, tool, opened.call_id) | {
            "intent": opened.intent,
            "outcome": outcome.kind,
            "status": status,
            **committed,
        }
        parameters = {"id_": opened.call_id, "attempt_": opened.attempt, "state": state_after(outcome)}

        def work(batch: Batch) -> int:
            entry = batch.append(_columns(body), payloads)
            if opened.claimed:
                batch.execute(_SETTLE, parameters | {"end": entry, "outcome": stored})
            return entry

        return await self._writer.write(work)

    async def refuse(self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None) -> int:
        """Record that nothing was done, and why; gives the entry."""
        capture: Capture = tool.terms.capture if tool and refused.code != "bad_arguments" else "metadata"
        payloads, committed = _commitments({"arguments": call.arguments}, capture, self._random)
        body = self._body("refusal", call, tool, call.id) | _judged(decision) | committed
        body["status"] = refused.code
        return await self._writer.write(lambda batch: batch.append(_columns(body), payloads))

    async def _open_unclaimed(self, call: Call, tool: Tool, decision: Decision) -> Opened:
        body, payloads = self._intent(call, tool, decision, call.id, 1)
        entry = await self._writer.write(lambda batch: batch.append(_columns(body), payloads))
        return Opened(call_id=call.id, intent=entry, claimed=False, remembered={})

    def _claim(
        self, batch: Batch, call: Call, tool: Tool, decision: Decision, scope: dict[str, str]
    ) -> Opened:
        body, payloads = self._intent(call, tool, decision, call.id, 1)
        entry = batch.append(_columns(body), payloads)
        row = scope | {
            "call_id": call.id,
            "key": call.key,
            "fingerprint": call.fingerprint,
            "state": "in_progress",
            "attempt": 1,
            "opened_at": body["at"],
            "lapses_at": self._lapse(tool),
            "intent": entry,
            "end": None,
            "outcome": None,
            "remembered": None,
        }
        batch.execute(_CLAIM, row)
        return Opened(call_id=call.id, intent=entry, remembered={})

    def _claim_again(
        self, batch: Batch, call: Call, tool: Tool, decision: Decision, earlier: sqlite3.Row
    ) -> Opened:
        attempt = earlier["attempt"] + 1
        body, payloads = self._intent(call, tool, decision, earlier["call_id"], attempt)
        entry = batch.append(_columns(body), payloads)
        batch.execute(
            _CLAIM_AGAIN,
            {
                "id_": earlier["call_id"],
                "attempt": attempt,
                "lapses_at": self._lapse(tool),
                "intent": entry,
            },
        )
        return Opened(
            call_id=earlier["call_id"],
            intent=entry,
            attempt=attempt,
            remembered=_read_json(earlier["remembered"]) or {},
        )

    def _append_repeat(self, batch: Batch, call: Call, tool: Tool, decision: Decision, answer: Answer) -> int:
        """Record an answer out of memory: who got it, and what it points at."""
        outcome = answer.outcome
        status = outcome.code if isinstance(outcome, Refused) else "replayed"
        body = self._body("repeat", call, tool, answer.call_id) | _judged(decision)
        return batch.append(_columns(body | {"status": status, "answered_with": answer.entry}), [])

    def _intent(
        self, call: Call, tool: Tool, decision: Decision, call_id: str, attempt: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        payloads, committed = _commitments({"arguments": call.arguments}, tool.terms.capture, self._random)
        body = self._body("intent", call, tool, call_id) | _judged(decision) | committed
        return body | {"status": "opened", "attempt": attempt, "keyed": call.key is not None}, payloads

    def _body(self, kind: str, call: Call, tool: Tool | None, call_id: str) -> dict[str, Any]:
        caller = call.caller
        body: dict[str, Any] = {
            "v": 1,
            "kind": kind,
            "call_id": call_id,
            "at": _micros(self._now()),
            "tenant": caller.tenant,
            "issuer": caller.issuer,
            "subject": caller.subject,
            "client": caller.client,
            "act": list(caller.act),
            "tool": tool.name if tool else _printable(call.tool),
            "effect": tool.terms.effect if tool else "",
            "registry": self._rulebook().catalog.digest,
        }
        if call.trace:
            body["trace"] = call.trace
        return body

    def _lapse(self, tool: Tool) -> int:
        return _micros(self._now() + timedelta(seconds=tool.terms.timeout) + GRACE)


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
    return batch.find(_LIKE, scope | {"fingerprint": fingerprint, "since": _micros(since)})


def _known(row: sqlite3.Row) -> EarlierCall:
    return EarlierCall(
        call_id=row["call_id"],
        fingerprint=row["fingerprint"],
        state=row["state"],
        opened_at=_moment(row["opened_at"]),
        lapses_at=_moment(row["lapses_at"]),
        intent=row["intent"],
        end=row["end"],
        outcome=None if row["outcome"] is None else OutcomeOf.validate_json(row["outcome"]),
    )


def _judged(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {}
    return {
        "verdict": decision.verdict,
        "rules": list(decision.rules),
        "policy": decision.policy,
    }


def _commitments(
    values: dict[str, JsonObject | None], capture: Capture, random: Callable[[int], bytes]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Commit to each value under a salt of its own, and keep what `capture` says."""
    payloads: list[dict[str, Any]] = []
    committed: dict[str, Any] = {}
    if capture == "metadata":
        return payloads, committed
    for field, value in values.items():
        if value is None:
            continue
        spelled = canonical(value)
        salt = random(SALT_BYTES)
        proof = commitment(salt, field, spelled)
        committed[field] = {"hmac": proof, "length": len(spelled)}
        kept = capture == "full" or (capture == "arguments" and field == "arguments")
        payloads.append({"field": field, "salt": salt, "value": spelled if kept else None})
    return payloads, committed


def _columns(body: dict[str, Any]) -> dict[str, Any]:
    repeated = ("kind", "call_id", "at", "tenant", "subject", "tool", "status")
    return {name: body[name] for name in repeated} | {"body": canonical(body)}


def _printable(name: str) -> str:
    """A tool's name as a stranger may write it, bounded, for the record."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name[:_LONGEST_NAME])


def _read_json(stored: bytes | None) -> Any:  # noqa: ANN401 - whatever was stored
    return None if stored is None else orjson.loads(stored)


def _micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1_000_000, UTC)


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
