"""What is written about a call: an entry, the columns that repeat parts of it, and what is kept beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from toolgate.core.call import Call
from toolgate.core.canonical import canonical
from toolgate.core.claims import Opened
from toolgate.core.commitment import SALT_BYTES, commitment
from toolgate.core.decision import Decision
from toolgate.core.outcome import Answer, Done, Outcome, Refused
from toolgate.core.ports import Rulebook
from toolgate.core.record import JsonObject
from toolgate.core.tool import Capture, Tool

_LONGEST_NAME: Final = 128
_REPEATED: Final = ("kind", "call_id", "at", "tenant", "subject", "tool", "status")


@dataclass(frozen=True)
class Entry:
    """An entry that has no index yet."""

    columns: dict[str, Any]
    payloads: list[dict[str, Any]]
    """Salts, and the values that the tool's `capture` keeps."""


class Entries:
    """Spells entries.

    Args:
        now: the clock (UTC).
        random: gives so many random bytes.
    """

    def __init__(self, *, now: Callable[[], datetime], random: Callable[[int], bytes]) -> None:
        self._now, self._random = now, random

    def intent(
        self, call: Call, tool: Tool, decision: Decision, book: Rulebook, call_id: str, attempt: int
    ) -> Entry:
        """Spell what is about to be tried, and why it may be."""
        body = self._body("intent", call, tool, call_id) | _judged(decision, book)
        body |= {"status": "opened", "attempt": attempt, "keyed": call.key is not None}
        return self._entry(body, {"arguments": call.arguments}, tool.terms.capture)

    def outcome(self, call: Call, tool: Tool, opened: Opened, outcome: Outcome) -> Entry:
        """Spell how an attempt ended."""
        body = self._body("outcome", call, tool, opened.call_id)
        body |= {"intent": opened.intent, "outcome": outcome.kind}
        if isinstance(outcome, Done):
            return self._entry(body | {"status": "done"}, {"result": outcome.value}, tool.terms.capture)
        return self._entry(body | {"status": outcome.code}, {}, tool.terms.capture)

    def refusal(
        self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None, book: Rulebook
    ) -> Entry:
        """Spell that nothing was done, and why. Arguments that broke their schema are not kept."""
        capture: Capture = tool.terms.capture if tool and refused.code != "bad_arguments" else "metadata"
        body = self._body("refusal", call, tool, call.id) | _judged(decision, book)
        body["status"] = refused.code
        return self._entry(body, {"arguments": call.arguments}, capture)

    def repeat(self, call: Call, tool: Tool, decision: Decision, book: Rulebook, answer: Answer) -> Entry:
        """Spell an answer out of memory: who got it, and what it points at."""
        status = answer.outcome.code if isinstance(answer.outcome, Refused) else "replayed"
        body = self._body("repeat", call, tool, answer.call_id) | _judged(decision, book)
        return self._entry(body | {"status": status, "answered_with": answer.entry}, {}, "metadata")

    def _entry(self, body: dict[str, Any], values: dict[str, JsonObject], capture: Capture) -> Entry:
        """Commit to each value under a salt of its own, and keep what `capture` says."""
        payloads: list[dict[str, Any]] = []
        for field, value in values.items() if capture != "metadata" else ():
            spelled, salt = canonical(value), self._random(SALT_BYTES)
            body[field] = {"hmac": commitment(salt, field, spelled), "length": len(spelled)}
            kept = capture == "full" or (capture == "arguments" and field == "arguments")
            payloads.append({"field": field, "salt": salt, "value": spelled if kept else None})
        columns = {name: body[name] for name in _REPEATED} | {"body": canonical(body)}
        return Entry(columns, payloads)

    def _body(self, kind: str, call: Call, tool: Tool | None, call_id: str) -> dict[str, Any]:
        caller = call.caller
        body: dict[str, Any] = {
            "v": 1,
            "kind": kind,
            "call_id": call_id,
            "at": micros(self._now()),
            "tenant": caller.tenant,
            "issuer": caller.issuer,
            "subject": caller.subject,
            "client": caller.client,
            "act": list(caller.act),
            "tool": tool.name if tool else _printable(call.tool),
            "effect": tool.terms.effect if tool else "",
        }
        if call.trace:
            body["trace"] = call.trace
        return body


def micros(when: datetime) -> int:
    """Microseconds since 1970-01-01 UTC."""
    return int(when.timestamp() * 1_000_000)


def moment(stored: int) -> datetime:
    """The moment that `micros` gave."""
    return datetime.fromtimestamp(stored / 1_000_000, UTC)


def _judged(decision: Decision | None, book: Rulebook) -> dict[str, Any]:
    """Under which registry and policy it was judged and, when it came to that, how."""
    judged: dict[str, Any] = {"registry": book.catalog.digest, "policy": book.policy.digest}
    if decision is not None:
        judged |= {"verdict": decision.verdict, "rules": list(decision.rules)}
    return judged


def _printable(name: str) -> str:
    """A tool's name as a stranger may write it, bounded, for the record."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name[:_LONGEST_NAME])
