"""At most once: what an earlier call under the same key, or an identical one without a key, means now."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from toolgate.core.call import Call
from toolgate.core.outcome import Answer, Done, Failed, Outcome, Refused, Unknown
from toolgate.core.record import Json

State = Literal[
    "in_progress",
    "succeeded",
    "failed_retriable",
    "failed_final",
    "cancelled_before_send",
    "unknown",
]
SHORTEST_KEY, LONGEST_KEY = 16, 255
ASK_AGAIN_MS = 1000


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A call that is durable and may now be acted on, once."""

    call_id: str
    """Of the first attempt: an attempt under the same key is the same call."""
    intent: int
    """The ledger entry of this attempt's intent."""
    attempt: int = 1
    claimed: bool = True
    """Whether a claim row stands behind it; a read without a key needs none."""
    remembered: Mapping[str, Json]
    """What an earlier attempt made durable before it sent."""


@dataclass(frozen=True, kw_only=True)
class EarlierCall:
    """The claim that stands in the way of a call."""

    call_id: str
    fingerprint: str
    attempt: int
    state: State
    opened_at: datetime
    lapses_at: datetime
    """When an owner that has not come back by then is taken for dead."""
    intent: int
    end: int | None
    outcome: Outcome | None
    remembered: Mapping[str, Json]


def fault_in_key(key: str) -> str | None:
    """Say what is wrong with an idempotency key, or None. Its text is not repeated."""
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        return f"an idempotency key has {SHORTEST_KEY} to {LONGEST_KEY} characters, this one has {len(key)}"
    if not (key.isascii() and key.isprintable()):
        return "an idempotency key holds printable ASCII characters only"
    return None


def state_after(outcome: Outcome) -> State:
    """Give the state in which `outcome` leaves its claim."""
    match outcome:
        case Done():
            return "succeeded"
        case Failed(code="cancelled_before_send"):
            return "cancelled_before_send"
        case Failed(retryable=True):
            return "failed_retriable"
        case Failed() | Refused():
            return "failed_final"
        case Unknown():
            return "unknown"


def answer_under_key(earlier: EarlierCall, call: Call) -> Answer | None:
    """Answer a call whose key is taken; None when its earlier attempt is known to have done nothing."""
    if earlier.fingerprint != call.fingerprint:
        return _refused(
            earlier,
            "idempotency_conflict",
            "this key was used for a call with other arguments; use a new key for a new call",
        )
    if earlier.state in {"failed_retriable", "cancelled_before_send"}:
        return None
    if earlier.state == "in_progress" and call.received_at < earlier.lapses_at:
        wait = Refused(
            code="in_progress",
            detail="the first call under this key is still running; ask again under the same key",
            retry_after_ms=ASK_AGAIN_MS,
        )
        return Answer(outcome=wait, call_id=earlier.call_id, entry=earlier.intent)
    if earlier.outcome is None or earlier.end is None:
        return Answer(outcome=_LOST, call_id=earlier.call_id, entry=earlier.intent, replayed=True)
    return Answer(outcome=earlier.outcome, call_id=earlier.call_id, entry=earlier.end, replayed=True)


def answer_to_repetition(earlier: EarlierCall, call: Call) -> Answer:
    """Answer a call without a key that looks like `earlier` once more: say so, and run nothing."""
    age = max(0, round((call.received_at - earlier.opened_at).total_seconds()))
    end = _in_words(earlier, call)
    return _refused(
        earlier,
        "duplicate_suspected",
        f"an identical call {age} s ago {end}. It was not run again. To run it again on purpose, send an "
        'idempotency key, or _meta["dev.toolgate/again"] = true',
    )


def _in_words(earlier: EarlierCall, call: Call) -> str:
    match earlier.outcome:
        case Done():
            return f"succeeded (entry {earlier.end}, call {earlier.call_id})"
        case None if call.received_at < earlier.lapses_at:
            return f"is still running (call {earlier.call_id})"
        case _:
            unknown = f"has an unknown outcome (call {earlier.call_id})"
            return f"{unknown}; look in the system itself whether it happened"


def _refused(earlier: EarlierCall, code: str, detail: str) -> Answer:
    return Answer(
        outcome=Refused(code=code, detail=detail),
        call_id=earlier.call_id,
        entry=earlier.end if earlier.end is not None else earlier.intent,
    )


_LOST = Unknown(
    code="owner_lost",
    detail="the gate that ran this call went away before it recorded an end; it is not run again by itself",
)
