"""What is written about a call: an entry, the columns that repeat parts of it, and what is kept beside it.

The form is in `docs/reference/ledger.md`. An entry is spelled here but for its writer and that writer's
count, which it gets when it is added to the tree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from toolgate.backends.owed import Owed, OwedLease
from toolgate.core.call import Call
from toolgate.core.canonical import canonical
from toolgate.core.claims import Attempt, EarlierCall, Opened
from toolgate.core.commitment import SALT_BYTES, commitment
from toolgate.core.decision import Decision
from toolgate.core.lease import Lent
from toolgate.core.outcome import Answer, Done, Outcome, Refused
from toolgate.core.record import Json, JsonObject
from toolgate.core.tool import Capture, Tool

FORM: Final = 2
_LONGEST_NAME: Final = 128
_FURTHER: Final = {"scope", "ttl", "version", "request", "issued"}
_REPEATED: Final = ("kind", "call_id", "at", "tenant", "who", "tool", "status", "run")


@dataclass(frozen=True, kw_only=True)
class Names:
    """How an entry speaks of a call's surroundings."""

    who: str
    client: str = ""
    act: tuple[str, ...] = ()
    run: str = ""
    config: int = 0
    """The entry that says what governs."""

    def subject(self, call: Call, tool: str) -> dict[str, Json]:
        """Give the fields by which a later entry says whose and which call it is about."""
        about: dict[str, Json] = {"tenant": call.caller.tenant, "who": self.who, "tool": tool}
        return about | {"config": self.config} | ({"run": self.run} if self.run else {})


@dataclass(frozen=True)
class Entry:
    """An entry that has no index yet."""

    columns: Mapping[str, Any]
    spelled: bytes
    """The body without its last brace and its last two fields, `writer` and `wseq`."""
    payloads: tuple[Mapping[str, Any], ...] = ()
    """Salts, and the values that are kept."""

    def body(self, writer: str, wseq: int) -> bytes:
        """Give the body as the entry number `wseq` of `writer`; these two names sort behind all others."""
        return b'%b,"writer":"%b","wseq":%d}' % (self.spelled, writer.encode(), wseq)


def changed(entry: Entry, **fields: Json) -> Entry:
    """Spell an entry again with other fields."""
    return entry_of(orjson.loads(entry.spelled + b"}") | fields, entry.payloads)


def repeated(body: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns that repeat parts of a body."""
    columns = {name: body.get(name, "") for name in _REPEATED}
    columns["refers"] = body.get("intent", body.get("answered_with"))
    return columns


def entry_of(body: dict[str, Any], payloads: tuple[Mapping[str, Any], ...] = ()) -> Entry:
    """Spell a body that has no commitments, or only those that were made already."""
    columns = repeated(body)
    # No fractions, no large integers, ASCII names only: so orjson's sorted spelling is RFC 8785's.
    return Entry(columns, orjson.dumps(body, option=orjson.OPT_SORT_KEYS)[:-1], payloads)


class Entries:
    """Spells entries.

    Args:
        now: the clock (UTC).
        random: gives so many random bytes.
    """

    def __init__(self, *, now: Callable[[], datetime], random: Callable[[int], bytes]) -> None:
        self._now, self._random = now, random

    def bare(self, kind: str, status: str, **fields: Json) -> Entry:
        """Spell an entry that is about no call."""
        return entry_of({"v": FORM, "kind": kind, "at": micros(self._now()), "status": status, **fields})

    def committed(self, kind: str, status: str, kept: Mapping[str, Json], **fields: Json) -> Entry:
        """Spell an entry that is about no call, with values that are kept beside it."""
        body = {"v": FORM, "kind": kind, "at": micros(self._now()), "status": status, **fields}
        return self._entry(body, kept, "full")

    def intent(self, call: Call, tool: Tool, decision: Decision, names: Names, attempt: Attempt) -> Entry:
        """Spell what is about to be tried, and why it may be."""
        body = self._body("intent", "opened", call, tool, names, attempt.call_id) | _judged(decision)
        body |= {
            "effect": tool.terms.effect,
            "role": tool.terms.credential,
            "definition": tool.definition,
            "attempt": attempt.number,
            "key": call.key_from,
            "lapses": micros(attempt.until),
        }
        values: dict[str, Json | bytes] = {"arguments": call.spelled, "caller": _claimed_by(call)}
        if call.step is not None:
            values["step"] = call.step
        if call.answers is not None:
            values["answers"] = call.answers
        return self._entry(body, values, tool.terms.capture)

    def outcome(self, call: Call, tool: Tool, names: Names, opened: Opened, outcome: Outcome) -> Entry:
        """Spell how an attempt ended."""
        status = "done" if isinstance(outcome, Done) else outcome.code
        body = self._body("outcome", status, call, tool, names, opened.call_id)
        took = micros(self._now()) - micros(call.received_at)
        body |= {
            "intent": opened.intent,
            "attempt": opened.attempt,
            "outcome": outcome.kind,
            "took_us": max(0, took),
        }
        values = {"result": outcome.value} if isinstance(outcome, Done) else {}
        return self._entry(body, values, tool.terms.capture)

    def lent(self, call: Call, tool: Tool, names: Names, opened: Opened, lent: Lent) -> Entry:
        """Spell a credential that was made for a call and is about to be used."""
        return entry_of(
            self._body("lease", "lent", call, tool, names, opened.call_id) | _of(opened.intent, lent)
        )

    def lease(self, call: Call, tool: Tool, names: Names, opened: Opened, lent: Lent) -> Entry:
        """Spell which credential a call had, and what became of it in the end."""
        return entry_of(
            self._body("lease", lent.end, call, tool, names, opened.call_id) | _of(opened.intent, lent)
        )

    def returned(self, earlier: EarlierCall, subject: Mapping[str, Json], lent: Lent) -> Entry:
        """Spell what became of a credential with which a system was asked about an earlier call."""
        about = self._about("lease", lent.end, earlier, subject)
        return entry_of(about | _of(earlier.intent, lent))

    def run_token(  # noqa: PLR0913, PLR0917 - whose token it is, and what
        self,
        call: Call,
        tool: Tool,
        names: Names,
        opened: Opened,
        accessor: str,
        until: datetime,
        request: str,
    ) -> Entry:
        """Spell a vault's token that was made for a run; under it the leases of the run will be made."""
        body = self._body("lease", "run_opened", call, tool, names, opened.call_id)
        body |= {"intent": opened.intent, "source": "vault", "accessor": accessor, "request": request}
        return entry_of(body | {"ttl": max(0, round((until - self._now()).total_seconds()))})

    def lease_about(self, status: str, owed: Owed, **said: Json) -> Entry:
        """Spell what became of a lease, or of a run's token, outside of its call."""
        body = {"v": FORM, "kind": "lease", "at": micros(self._now()), "status": status}
        body |= {"call_id": owed.call_id, "intent": owed.intent, "tenant": owed.tenant, "who": owed.who}
        body |= {"tool": owed.tool} | ({"run": owed.run} if owed.run else {})
        if isinstance(owed, OwedLease):
            body |= {"lease": owed.id, "role": owed.role, "source": owed.source, "made": owed.kind}
            body |= {"static": False, "issued": owed.issued}
        else:
            body |= {"source": "vault", "accessor": owed.accessor}
        return entry_of(body | said)

    def refusal(
        self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None, names: Names
    ) -> Entry:
        """Spell that nothing was done, and why. Arguments that nobody checked are neither kept nor read."""
        capture: Capture = tool.terms.capture if tool and refused.code != "bad_arguments" else "metadata"
        body = self._body("refusal", refused.code, call, tool, names, call.id) | _judged(decision)
        if tool is None:
            return self._entry(body, {"asked": _printable(call.tool)}, "full")
        if capture == "metadata":
            return self._entry(body, {}, capture)
        values: dict[str, Json | bytes] = {"arguments": call.spelled, "caller": _claimed_by(call)}
        return self._entry(body, values, capture)

    def repeat(self, call: Call, tool: Tool, decision: Decision, names: Names, answer: Answer) -> Entry:
        """Spell an answer out of memory: who got it, and what it points at."""
        refused = isinstance(answer.outcome, Refused) and not answer.replayed
        status = answer.outcome.code if isinstance(answer.outcome, Refused) and refused else "replayed"
        body = self._body("repeat", status, call, tool, names, answer.call_id) | _judged(decision)
        return entry_of(body | {"answered_with": answer.entry})

    def about(
        self, kind: str, status: str, earlier: EarlierCall, subject: Mapping[str, Json], **fields: Json
    ) -> Entry:
        """Spell something that became known of an earlier call; `subject` says whose and which it was."""
        return entry_of(self._about(kind, status, earlier, subject) | fields)

    def resolution(
        self, status: str, earlier: EarlierCall, subject: Mapping[str, Json], by: str, because: str
    ) -> Entry:
        """Spell what a person says became of an earlier call, and on what evidence."""
        body = self._about("resolve", status, earlier, subject) | {"by": by}
        return self._entry(body, {"because": because}, "full")

    def _about(
        self, kind: str, status: str, earlier: EarlierCall, subject: Mapping[str, Json]
    ) -> dict[str, Any]:
        body = {"v": FORM, "kind": kind, "at": micros(self._now()), "status": status, **subject}
        return body | {"call_id": earlier.call_id, "intent": earlier.intent, "attempt": earlier.attempt}

    def _entry(self, body: dict[str, Any], values: Mapping[str, Json | bytes], capture: Capture) -> Entry:
        """Commit to each value (bytes: already spelled) under a salt of its own; keep what `capture` says."""
        payloads: list[Mapping[str, Any]] = []
        for field, value in values.items() if capture != "metadata" else ():
            spelled, salt = value if isinstance(value, bytes) else canonical(value), self._random(SALT_BYTES)
            body[field] = {"hmac": commitment(salt, field, spelled), "length": len(spelled)}
            kept = capture == "full" or (capture == "arguments" and field != "result")
            payloads.append({"field": field, "salt": salt, "value": spelled if kept else None})
        return entry_of(body, tuple(payloads))

    def _body(
        self, kind: str, status: str, call: Call, tool: Tool | None, names: Names, call_id: str
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "v": FORM,
            "kind": kind,
            "at": micros(self._now()),
            "status": status,
            "call_id": call_id,
            "tenant": call.caller.tenant,
            "who": names.who,
            "tool": tool.name if tool else "",
            "config": names.config,
        }
        said = {"client": names.client, "act": list(names.act), "run": names.run, "trace": call.trace}
        return body | {field: value for field, value in said.items() if value}


def micros(when: datetime) -> int:
    """Microseconds since 1970-01-01 UTC."""
    return int(when.timestamp() * 1_000_000)


def moment(stored: int) -> datetime:
    """The moment that `micros` gave."""
    return datetime.fromtimestamp(stored / 1_000_000, UTC)


def _judged(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {}
    judged: dict[str, Any] = {"verdict": decision.verdict, "rules": list(decision.rules)}
    if obliged := decision.obligations.spelled():
        judged["obligations"] = obliged
    if decision.unknown:
        judged["unknown_rules"] = list(decision.unknown)
    if other := decision.would_be:
        judged["shadow"] = {"verdict": other.verdict, "rules": list(other.rules), "policy": other.policy}
    return judged


def _of(intent: int, lent: Lent) -> dict[str, Any]:
    """What every entry says of a lease; never the secret."""
    said: dict[str, Any] = {"intent": intent, "lease": lent.id, "static": lent.static}
    said |= {"role": lent.role, "source": lent.source, "made": lent.kind}
    return said | lent.model_dump(include=_FURTHER, exclude_none=True, exclude_defaults=True)


def _claimed_by(call: Call) -> JsonObject:
    """What the token said of its bearer beside the name, as far as rules look at it."""
    return {"roles": [*sorted(call.caller.roles)], "scopes": [*sorted(call.caller.scopes)]}


def _printable(name: str) -> str:
    """A tool's name as a stranger may write it, bounded, for the record."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name[:_LONGEST_NAME])
