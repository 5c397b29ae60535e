"""The claims on SQL: one row for every key and for every write, and what each statement may do to it."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import and_, bindparam, desc, insert, not_, or_, select, update

from toolgate.backends.ledger_batch import Batch, Read
from toolgate.backends.ledger_entries import micros, moment
from toolgate.backends.owners import Owners
from toolgate.backends.sql_connection import SqlRow
from toolgate.backends.sql_tables import CLAIM, Prepared
from toolgate.core.call import Call
from toolgate.core.canonical import canonical
from toolgate.core.claims import Attempt, EarlierCall, Opened, State
from toolgate.core.outcome import Failed, Outcome, OutcomeOf
from toolgate.core.record import Json, JsonObject
from toolgate.core.tool import Tool

log = logging.getLogger(__name__)

GRACE: Final = timedelta(seconds=90)
"""How long after its timeout a call may be busy recording its end before it is taken for lost: longer than
`Endings` tries."""


LONGEST_GUARD: Final = timedelta(days=1)
"""How long a call without a key may be taken for a repetition of an earlier one (`guard_window`)."""
ERASED: Final = Failed(
    code="erased", detail="whose call it was, and its answer, were erased", retryable=False
)
_NOTHING: Final = bytes(32)
"""In the place of a digest that was erased."""
_IN_DOUBT: Final = ("in_progress", "unknown")


@dataclass(frozen=True)
class Claimed:
    """A claim as it stands, with who asked for what."""

    earlier: EarlierCall
    tool: str
    owner: str
    request: JsonObject
    """Empty once it is known what became of it."""

    @property
    def subject(self) -> dict[str, Json]:
        """The fields by which an entry says whose and which call it is about."""
        said = self.request.get("subject")
        return said if isinstance(said, dict) else {"tool": self.tool}


@dataclass(frozen=True)
class Settlement:
    """What becomes of a claim when its attempt ends."""

    state: State
    outcome: bytes
    until: int


class Claims:
    """Reads and writes claims inside a batch.

    Args:
        owners: the writing processes, of which this is one.
        kept: for how long answers are kept.
    """

    def __init__(self, owners: Owners, kept: timedelta) -> None:
        self._owners, self._kept = owners, kept

    def in_the_way_of(self, call: Call, tool: Tool) -> tuple[Read, ...]:
        """Ask for the claim under the same key or, for a guarded call without one, of an identical call."""
        if call.key is not None:
            return (Read(_BY_KEY, {"key": _key_digest(call, tool)}),)
        if call.again or tool.terms.without_key != "guard" or tool.terms.effect == "read":
            return ()
        since = call.received_at - timedelta(seconds=tool.terms.guard_window)
        return (Read(_ALIKE, {"alike": _alike(call, tool), "since": micros(since)}),)

    def found(self, batch: Batch, reads: Sequence[Read]) -> Claimed | None:
        """Give the claim that was asked for."""
        row = batch.answer(reads[0]) if reads else None
        return self.known(row) if row is not None else None

    def of_call(self, batch: Batch, call_id: str) -> Claimed | None:
        """Find the claim of a call."""
        row = batch.find(_OF_CALL, {"id_": call_id})
        return self.known(row) if row is not None else None

    def known(self, row: SqlRow) -> Claimed:
        """Read a row."""
        state: State = row["state"]
        ended = row["ended"] == 1
        earlier = EarlierCall(
            call_id=row["call_id"],
            fingerprint=row["fingerprint"].hex(),
            attempt=row["attempt"],
            state=state,
            opened_at=moment(row["opened_at"]),
            until=moment(row["until"]),
            expires_at=moment(row["expires_at"]),
            owner_gone=ended or (state == "in_progress" and self._owners.is_gone(row["owner"])),
            intent=row["intent"],
            end=row["end"],
            outcome=_outcome(row["outcome"]),
            remembered=_json(row["remembered"]),
        )
        return Claimed(earlier, row["tool"], row["owner"], _json(row["request"]))

    def claim(
        self, batch: Batch, call: Call, tool: Tool, attempt: Attempt, intent: int, request: bytes
    ) -> None:
        """Claim a key, or just the call, for an attempt."""
        row = {
            "call_id": attempt.call_id,
            "attempt": attempt.number,
            "owner": self._owners.me,
            "until": micros(attempt.until),
            "expires_at": micros(attempt.opened_at + self._kept),
            "intent": intent,
            "request": request,
        }
        if attempt.number > 1:
            batch.change(_CLAIM_AGAIN, row | {"id_": attempt.call_id}, attempt.call_id, _alike(call, tool))
            return
        row |= {
            "key": _key_digest(call, tool) if call.key is not None else None,
            "alike": _alike(call, tool),
            "fingerprint": bytes.fromhex(call.fingerprint),
            "tool": tool.name,
            "state": "in_progress",
            "ended": 0,
            "opened_at": micros(attempt.opened_at),
            "asked_at": 0,
            "end": None,
            "outcome": None,
            "remembered": None,
        }
        batch.change(_CLAIM, row, row["call_id"], row["key"], row["alike"])

    def owning(self, opened: Opened, owner: str) -> Read:
        """Ask whether an attempt is still its owner's to end."""
        return Read(_OWNS, {"id_": opened.call_id, "attempt_": opened.attempt, "owner_": owner})

    def remember(self, batch: Batch, opened: Opened, value: JsonObject) -> bool:
        """Keep a value with the attempt; False when it owns the claim no more."""
        if batch.answer(self.owning(opened, self._owners.me)) is None:
            return False
        kept = {"id_": opened.call_id, "attempt_": opened.attempt, "remembered": canonical(value)}
        return batch.change(_REMEMBER, kept, opened.call_id).rowcount == 1

    def settle(self, batch: Batch, opened: Opened, settled: Settlement, end: int) -> None:
        """Let the owner of an attempt end its claim by the entry `end`."""
        statement = _LEAVE_OPEN if settled.state == "unknown" else _SETTLE
        row = {"id_": opened.call_id, "attempt_": opened.attempt, "end": end}
        batch.change(statement, row | vars(settled), opened.call_id)

    def is_newly_gone(self, claimed: Claimed) -> bool:
        """Whether a lost call's owner, which was alive when it was lost, has ended without a word since."""
        earlier = claimed.earlier
        return earlier.state == "unknown" and not earlier.owner_gone and self._owners.is_gone(claimed.owner)

    def note_end(self, batch: Batch, call_id: str, attempt: int, owner: str, until: int) -> None:
        """Keep that an attempt which was taken for lost has ended after all: the quiet period begins now."""
        row = {"id_": call_id, "attempt_": attempt, "owner_": owner, "until": until}
        batch.change(_NOTE_END, row, call_id)

    def lose(self, batch: Batch, earlier: EarlierCall, outcome: Outcome, end: int, until: datetime) -> bool:
        """Take an attempt for lost; False when its owner ended it meanwhile."""
        ended = int(earlier.owner_gone)
        lost = {"end": end, "outcome": stored(outcome), "until": micros(until), "ended": ended}
        return batch.change(_LOSE, lost | _attempt(earlier), earlier.call_id).rowcount == 1

    def ask(self, batch: Batch, earlier: EarlierCall, now: datetime, pause: timedelta) -> bool:
        """Take the turn to ask a system about an unknown call; False when somebody did a moment ago."""
        asked = {"now": micros(now), "before": micros(now - pause)}
        return batch.change(_ASK, asked | _attempt(earlier), earlier.call_id).rowcount == 1

    def forget(self, batch: Batch, call_id: str, now: datetime) -> int:
        """Remove all that a settled claim keeps of somebody who is erased; gives how many claims that were.

        The digest of the key stays, so that its call is never run a second time, and for as long as a call
        without a key may be taken for a repetition the digest by which that is seen. What is in doubt stays
        whole, because its system may have to be asked; it is forgotten when it is settled.
        """
        whose = {"id_": call_id, "before": micros(now - LONGEST_GUARD)}
        young = {"outcome": stored(ERASED), "soon": micros(now + LONGEST_GUARD)}
        forgotten = batch.execute(_FORGET, whose).rowcount
        return forgotten + batch.execute(_FORGET_YOUNG, whose | young).rowcount

    def is_in_doubt(self, batch: Batch, call_id: str, intent: int) -> bool:
        """Whether it is not known yet what becomes, or became, of a call that was last begun by `intent`."""
        row = batch.find(_OF_CALL, {"id_": call_id})
        return row is not None and row["intent"] == intent and row["state"] in _IN_DOUBT

    def resolve(self, batch: Batch, earlier: EarlierCall, outcome: Outcome, state: State, end: int) -> bool:
        """Say what became of an unknown call; False when it is unknown no more."""
        resolved = {"state": state, "end": end, "outcome": stored(outcome)}
        return batch.change(_RESOLVE, resolved | _attempt(earlier), earlier.call_id).rowcount == 1


def stored(outcome: Outcome) -> bytes:
    """Spell an outcome canonically: a replay gives the very bytes of the first answer."""
    return canonical(outcome.model_dump(mode="json"))


def _scope(call: Call, tool: Tool, about: str) -> bytes:
    caller = call.caller
    return hashlib.sha256(
        canonical([caller.tenant, caller.issuer, caller.subject, tool.name, about])
    ).digest()


def _key_digest(call: Call, tool: Tool) -> bytes:
    return _scope(call, tool, f"key {call.key}")


def _alike(call: Call, tool: Tool) -> bytes:
    return _scope(call, tool, f"asks {call.fingerprint}")


def _attempt(earlier: EarlierCall) -> dict[str, Any]:
    return {"id_": earlier.call_id, "attempt_": earlier.attempt}


def _outcome(stored_: bytes | None) -> Outcome | None:
    """Read a stored outcome; one that cannot be read counts as none, and its call as unknown."""
    try:
        return None if stored_ is None else OutcomeOf.validate_json(stored_)
    except ValidationError:
        log.error("a stored outcome cannot be read")  # noqa: TRY400 - the error would show it
        return None


def _json(stored_: bytes | None) -> JsonObject:
    read: JsonObject = {} if stored_ is None else json.loads(stored_)  # exact for integers of any size
    return read


_OF = and_(CLAIM.c.call_id == bindparam("id_"), CLAIM.c.attempt == bindparam("attempt_"))
_OPEN = and_(_OF, CLAIM.c.state == "in_progress")
_UNKNOWN = and_(_OF, CLAIM.c.state == "unknown")
_OWNS = Prepared(select(CLAIM.c.call_id).where(_OPEN, CLAIM.c.owner == bindparam("owner_")))
_OF_CALL = Prepared(select(CLAIM).where(CLAIM.c.call_id == bindparam("id_")))
_BY_KEY = Prepared(select(CLAIM).where(CLAIM.c.key == bindparam("key")))
_ALIKE = Prepared(
    select(CLAIM)
    .where(
        CLAIM.c.alike == bindparam("alike"),
        CLAIM.c.opened_at >= bindparam("since"),
        or_(*(CLAIM.c.state == state for state in ("in_progress", "succeeded", "unknown"))),
    )
    .order_by(desc(CLAIM.c.opened_at))
    .limit(1)
)
_CLAIM = Prepared(insert(CLAIM))
_CLAIM_AGAIN = Prepared(
    update(CLAIM)
    .where(CLAIM.c.call_id == bindparam("id_"))
    .values(
        state="in_progress",
        ended=0,
        asked_at=0,
        end=None,
        outcome=None,
        **{
            name: bindparam(name) for name in ("attempt", "owner", "until", "expires_at", "intent", "request")
        },
    )
)
_REMEMBER = Prepared(update(CLAIM).where(_OPEN).values(remembered=bindparam("remembered")))
_AT_ITS_END: Final[dict[str, Any]] = {name: bindparam(name) for name in ("state", "end", "outcome", "until")}
_ENDED: Final[dict[str, Any]] = {"ended": 1, **_AT_ITS_END}
_LEAVE_OPEN = Prepared(update(CLAIM).where(_OPEN).values(**_ENDED))
_SETTLE = Prepared(update(CLAIM).where(_OPEN).values(request=None, **_ENDED))
_NOTE_END = Prepared(
    update(CLAIM)
    .where(_UNKNOWN, CLAIM.c.owner == bindparam("owner_"))
    .values(ended=1, until=bindparam("until"))
)
_LOSE = Prepared(
    update(CLAIM)
    .where(_OPEN)
    .values(state="unknown", **{name: bindparam(name) for name in ("end", "outcome", "until", "ended")})
)
_ASK = Prepared(
    update(CLAIM).where(_UNKNOWN, CLAIM.c.asked_at < bindparam("before")).values(asked_at=bindparam("now"))
)
_RESOLVE = Prepared(
    update(CLAIM)
    .where(_UNKNOWN)
    .values(state=bindparam("state"), end=bindparam("end"), outcome=bindparam("outcome"), request=None)
)
_TO_FORGET = and_(
    CLAIM.c.call_id == bindparam("id_"),
    *(CLAIM.c.state != state for state in _IN_DOUBT),
    CLAIM.c.fingerprint != _NOTHING,
)
_IS_YOUNG = and_(CLAIM.c.state == "succeeded", CLAIM.c.opened_at >= bindparam("before"))
_EMPTIED: Final[dict[str, Any]] = {"request": None, "remembered": None, "fingerprint": _NOTHING}
_FORGET = Prepared(
    update(CLAIM)
    .where(_TO_FORGET, not_(_IS_YOUNG))
    .values(state="expired", outcome=None, alike=_NOTHING, **_EMPTIED)
)
_FORGET_YOUNG = Prepared(
    update(CLAIM)
    .where(_TO_FORGET, _IS_YOUNG)
    .values(outcome=bindparam("outcome"), expires_at=bindparam("soon"), **_EMPTIED)
)
