"""At most once: what an earlier call under the same key, or an identical one without a key, means now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from toolgate.core.call import Call
from toolgate.core.canonical import digest
from toolgate.core.outcome import Answer, Done, Failed, InputRequired, Outcome, Refused, Unknown
from toolgate.core.record import Json
from toolgate.core.tool import Terms, Tool

State = Literal[
    "in_progress",
    "succeeded",
    "failed_retriable",
    "failed_final",
    "input_required",
    "cancelled_before_send",
    "unknown",
    "expired",
]
SHORTEST_KEY, LONGEST_KEY = 16, 255
ASK_AGAIN_MS = 1000
_FORESEEABLE = timedelta(days=1)


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
    resent: bool = False
    """An earlier attempt may have taken effect: if this one is refused, that does not show otherwise."""
    remembered: Mapping[str, Json]
    """What an earlier attempt made durable before it sent."""


@dataclass(frozen=True)
class RunMovedOn:
    """Nothing was opened: the decision had looked at the run's earlier calls, and now there are others."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What is about to be tried: the first time, or once more under the same key."""

    call_id: str
    number: int = 1
    opened_at: datetime
    """When the first attempt was."""
    until: datetime
    """When its owner is taken for lost."""
    resent: bool = False
    remembered: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class Closed:
    """An attempt whose end is recorded."""

    entry: int
    late: bool = False
    """It had been taken for lost before: its end is in the ledger, and changes nothing."""


@dataclass(frozen=True, kw_only=True)
class EarlierCall:
    """The claim that stands in the way of a call."""

    call_id: str
    fingerprint: str
    attempt: int
    state: State
    opened_at: datetime
    until: datetime
    """In progress: when an owner that has not come back is taken for lost. Unknown: from when on nothing that
    was sent can still be on its way, so that what the system does not have has not happened."""
    expires_at: datetime
    """When its answer is forgotten."""
    owner_gone: bool
    """The process that ran it has ended, or recorded the attempt's end: it will send nothing any more. Of an
    unknown call, this counts from when it was noticed, and `until` is a quiet period later."""
    intent: int
    end: int | None
    outcome: Outcome | None
    remembered: Mapping[str, Json]

    def is_lost(self, now: datetime) -> bool:
        """Whether it was left in the middle: nobody will record an end."""
        return self.state == "in_progress" and (self.owner_gone or now >= self.until)

    def is_forgotten(self, now: datetime) -> bool:
        """Whether its answer is no longer kept. What is running or unknown is never forgotten."""
        settled = self.state not in {"in_progress", "unknown"}
        return self.state == "expired" or (settled and now >= self.expires_at)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question to a system about a call in doubt, as it was recorded before it was put."""

    entry: int
    conclusive: bool
    """Whether finding nothing shows that nothing happened: when the question was put, nobody was left who
    might still send, and nothing that was sent could be on its way any more."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a system says became of an earlier send."""

    verdict: Literal["found", "not_found", "cannot_tell"]
    outcome: Done | None = None
    """With `found`: the result."""

    def state(self, asked: Asked) -> State | None:
        """Give the state that it shows the call to be in, or None when it does not show it."""
        if self.verdict == "found":
            return "succeeded"
        return "failed_retriable" if self.verdict == "not_found" and asked.conclusive else None


@dataclass(frozen=True, kw_only=True)
class Busy:
    """The first call under the key is still running."""

    call_id: str
    intent: int


@dataclass(frozen=True, kw_only=True)
class InDoubt:
    """Nobody knows what became of the first call under the key; the system may be asked."""

    earlier: EarlierCall

    def answer(self, now: datetime, terms: Terms) -> Answer:
        """Tell a caller that it is not known (yet)."""
        earlier = self.earlier
        unknown = earlier.outcome if isinstance(earlier.outcome, Unknown) else LOST
        if terms.duplicates == "query" and now < earlier.until < now + _FORESEEABLE:
            wait = round((earlier.until - now).total_seconds() * 1000) + 1
            unknown = unknown.model_copy(update={"retry_after_ms": wait})
        entry = earlier.end if earlier.end is not None else earlier.intent
        return Answer(outcome=unknown, call_id=earlier.call_id, entry=entry, replayed=True)


@dataclass(frozen=True, kw_only=True)
class Doubtful:
    """A call of which nobody knows what became, as far as it can be made again."""

    earlier: EarlierCall
    tool: str
    call: Call | None
    """None when who asked for what is no longer kept."""


def fault_in_key(key: str) -> str | None:
    """Say what is wrong with an idempotency key, or None. Its text is not repeated."""
    if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        return f"an idempotency key has {SHORTEST_KEY} to {LONGEST_KEY} characters, this one has {len(key)}"
    if not (key.isascii() and key.isprintable()):
        return "an idempotency key holds printable ASCII characters only"
    return None


def with_derived_key(call: Call, tool: Tool) -> Call:
    """Give `call` the key that its place in an orchestrator's run means, where it has none of its own."""
    if call.key is not None or call.run is None or call.step is None:
        return call
    place: list[Json] = [call.run, call.step, call.ordinal, tool.name, call.fingerprint]
    return replace(call, key=digest(place), key_from="derived")


def state_after(  # noqa: PLR0911 - one for each end
    outcome: Outcome, *, resent: bool = False
) -> State:
    """Give the state in which `outcome` leaves its claim."""
    match outcome:
        case Done():
            return "succeeded"
        case Unknown():
            return "unknown"
        case Failed() | Refused() | InputRequired() if resent:
            return "unknown"
        case InputRequired():
            return "input_required"
        case Failed(code="cancelled_before_send"):
            return "cancelled_before_send"
        case Failed(retryable=True):
            return "failed_retriable"
        case Failed() | Refused():
            return "failed_final"


def in_doubt_still(outcome: Outcome) -> Outcome:
    """Say of a call that was sent again how it stands: a refusal now tells nothing of the first time."""
    if isinstance(outcome, Done | Unknown):
        return outcome
    return Unknown(
        code="still_unknown",
        detail=f"it was sent again and not accepted ({outcome.code}: {outcome.detail}); whether the first "
        "attempt took effect cannot be told",
    )


def answer_under_key(  # noqa: PLR0911 - one for each state that an earlier call can be in
    earlier: EarlierCall, call: Call, terms: Terms
) -> Answer | Busy | InDoubt | Literal["run", "resend"]:
    """Answer a call whose key is taken, or say how to go on.

    `run`: the earlier attempt is known to have done nothing. `resend`: it may have done something, and the
    system takes the forwarded key, or the operation itself, for one and the same.
    """
    if earlier.fingerprint != call.fingerprint:
        return _refused(
            earlier,
            "idempotency_conflict",
            "this key was used for a call with other arguments; use a new key for a new call",
        )
    if earlier.is_forgotten(call.received_at):
        return _refused(
            earlier,
            "idempotency_key_expired",
            "this key was used, and its answer is no longer kept; use a new key for a new call",
        )
    if earlier.state in {"failed_retriable", "cancelled_before_send", "input_required"}:
        return "run"
    if earlier.state == "in_progress":
        return Busy(call_id=earlier.call_id, intent=earlier.intent)
    if earlier.state != "unknown" and earlier.outcome is not None and earlier.end is not None:
        return Answer(outcome=earlier.outcome, call_id=earlier.call_id, entry=earlier.end, replayed=True)
    if terms.duplicates == "natural" or (terms.duplicates == "key" and _still_known(earlier, call, terms)):
        return "resend"
    return InDoubt(earlier=earlier)


def _still_known(earlier: EarlierCall, call: Call, terms: Terms) -> bool:
    """Whether the system still remembers the key that the first attempt forwarded."""
    return earlier.opened_at <= call.received_at < earlier.opened_at + timedelta(seconds=terms.key_ttl)


def still_running(busy: Busy) -> Answer:
    """Answer a call whose first one has not ended in the time that it waited."""
    wait = Refused(
        code="in_progress",
        detail="the first call under this key is still running; ask again under the same key",
        retry_after_ms=ASK_AGAIN_MS,
    )
    return Answer(outcome=wait, call_id=busy.call_id, entry=busy.intent)


def answer_to_repetition(earlier: EarlierCall, call: Call) -> Answer:
    """Answer a call without a key that looks like `earlier` once more: say so, and run nothing."""
    age = max(0, round((call.received_at - earlier.opened_at).total_seconds()))
    return _refused(
        earlier,
        "duplicate_suspected",
        f"an identical call {age} s ago {_in_words(earlier)}. It was not run again. To run it again on "
        'purpose, send an idempotency key, or _meta["dev.toolgate/again"] = true',
    )


def _in_words(earlier: EarlierCall) -> str:
    match earlier.state:
        case "succeeded":
            return f"succeeded (entry {earlier.end}, call {earlier.call_id})"
        case "in_progress":
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


LOST = Unknown(
    code="owner_lost",
    detail="the gate that ran this call went away before it recorded an end; it is not run again by itself",
)
