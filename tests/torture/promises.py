"""What a gate promises, and whether what was heard, done and written keeps to it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.torture.books import Reading
from tests.torture.stage import Reply
from toolgate.core.canonical import canonical
from toolgate.core.outcome import Done, Failed, Refused, Unknown
from toolgate.core.tool import Duplicates

Verdict = Literal["final", "again", "unknown"]
_WHILE_RUNNING = frozenset({"in_progress"})


@dataclass
class Tally:
    """What is counted of one trial."""

    kills: int = 0
    calls: int = 0
    answers: int = 0
    effects: int = 0
    duplicates: int = 0
    without_intent: int = 0
    without_end: int = 0
    unknown: int = 0
    unsettled: int = 0


@dataclass
class Promises:
    """Hears every answer, and says which promise was broken."""

    book: Reading
    mode: Duplicates
    tally: Tally = field(default_factory=Tally)
    violations: list[str] = field(default_factory=list[str])
    _first: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])
    """By number of the call: its id, and its first final answer as it was spelled."""
    _nothing_done: set[int] = field(default_factory=set[int])
    _ended: set[str] = field(default_factory=set[str])
    """Calls whose end could be read."""

    def hear(self, number: int, reply: Reply) -> Verdict:
        """Take an answer; says whether the caller has to ask again."""
        self.tally.answers += 1
        answer, outcome = reply.answer, reply.answer.outcome
        if isinstance(outcome, Unknown):
            return "unknown"
        if isinstance(outcome, Done):
            if not self._has_end(answer.call_id):
                self.tally.without_end += 1
                self._broken(number, f"{answer.call_id} was answered, and no outcome is recorded")
            else:
                self._ended.add(answer.call_id)
            self._hear_final(number, answer.call_id, reply.value or "")
            return "final"
        if isinstance(outcome, Failed) and not outcome.retryable:
            self._nothing_done.add(number)
            self._hear_final(number, answer.call_id, canonical(outcome.model_dump(mode="json")).decode())
            return "final"
        if isinstance(outcome, Refused) and outcome.code not in _WHILE_RUNNING:
            self._broken(number, f"it was refused: {outcome.code}")
        return "again"

    def judge(self, log: list[dict[str, Any]]) -> None:
        """Hold what the system did against what was said of it, when all is quiet."""
        effects = [line for line in log if line["what"] == "effect"]
        self.tally.effects = len(effects)
        for number, times in Counter(line["number"] for line in effects).items():
            if times > 1:
                self.tally.duplicates += times - 1
                self._broken(number, f"it took effect {times} times")
            if number in self._nothing_done:
                self._broken(number, "a caller heard that nothing was done, and it took effect")
        for line in effects:
            if not line["intent"]:
                self.tally.without_intent += 1
                self._broken(line["number"], f"{line['key']} took effect before its intent could be read")
        if self.mode == "none":
            sent = Counter(line["number"] for line in log if line["what"] == "request")
            for number, times in sent.items():
                if times > 1:
                    self._broken(number, f"it was sent {times} times to a system that cannot tell")
        self._judge_memory({line["key"] for line in effects if line["intent"]})
        self._judge_claims()

    def _judge_memory(self, done: set[str]) -> None:
        """What could be read once can be read for good, whatever became of the database meanwhile."""
        kept = {row[0] for row in self.book.ask("SELECT call_id FROM ledger_entry WHERE kind = 'intent'")}
        self.violations.extend(f"the intent of {key} is no longer there" for key in done - kept)
        ended = {row[0] for row in self.book.ask(_ENDS)}
        self.violations.extend(f"the end of {call_id} is no longer there" for call_id in self._ended - ended)

    def _judge_claims(self) -> None:
        """No call is open, or in doubt where that can be settled."""
        states = Counter(row[0] for row in self.book.ask("SELECT state FROM claim"))
        self.tally.unknown = states["unknown"]
        open_ = states["in_progress"] + (states["unknown"] if self.mode != "none" else 0)
        self.tally.unsettled = open_
        if open_:
            self.violations.append(f"{open_} calls are not settled when all is quiet: {dict(states)}")

    def _hear_final(self, number: int, call_id: str, spelled: str) -> None:
        first = self._first.setdefault(number, (call_id, spelled))
        if first != (call_id, spelled):
            self._broken(number, f"first it was answered with {first}, then with {(call_id, spelled)}")

    def _has_end(self, call_id: str) -> bool:
        """Whether an end of the call can be read at this moment by a stranger."""
        return bool(self.book.ask(_END, call_id))

    def _broken(self, number: int, how: str) -> None:
        self.violations.append(f"call {number}: {how}")


_ENDS = """
    SELECT call_id FROM ledger_entry
    WHERE ((kind = 'outcome' AND status = 'done') OR (kind = 'reconcile' AND status = 'found'))
"""
_END = f"{_ENDS} AND call_id = ?"


def totals(tallies: Iterator[Tally]) -> Tally:
    """Add tallies up."""
    total = Tally()
    for tally in tallies:
        for name, counted in vars(tally).items():
            setattr(total, name, getattr(total, name) + counted)
    return total
