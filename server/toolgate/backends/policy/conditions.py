"""Conditions of rules: CEL (cel.dev), read once, asked with three answers.

A condition sees `args` (the call's arguments), `caller`, `now` and `run`. What is missing, of a wrong type or
in error is *unknown*: it makes a deny bite and an allow not match.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC
from functools import lru_cache
from typing import Any, Final, cast

import cel

from toolgate.backends.policy.cel_parser import LONGEST, parse
from toolgate.backends.policy.cel_tree import ConditionFault, Node, Path
from toolgate.backends.policy.coercion import coercer
from toolgate.backends.policy.condition_rules import OF_THE_RUN, Range, Reading, reading_of, tried_early
from toolgate.backends.policy.patterns import LONGEST_PATTERN, pattern
from toolgate.backends.policy.windows import window
from toolgate.core.call import Caller
from toolgate.core.decision import Question
from toolgate.core.record import JsonObject

__all__ = ["LONGEST", "MOST_ITEMS", "MOST_WORK", "Condition", "ConditionFault", "Facts"]

MOST_ITEMS: Final = 1000
"""Of a list that a condition goes through; with more of them it is unknown."""
MOST_WORK: Final = 20_000
"""Values looked at or copied on the way, as often as they are: about two milliseconds.

A text counts for one and each 100 characters, a call of a costly function for ten.
"""
_COSTLY: Final = 10

_QUOTED: Final = r"\"[^\"\n]*\"|'[^'\n]*'"
_NUMBER: Final = r"\b[0-9]{1,18}(?P<part>\.[0-9]+)?(?![\w.])"
_TELLING: Final = r"\b(?:during|matches|timestamp|duration|int|double|string)\s*\("
_KEPT: Final = rf"{_TELLING}(?:{_QUOTED}|[^()\"'])*\)|(?<=[\])\w])(?<!\bin)\[(?:{_QUOTED}|[0-9]+)\]"
_VALUES: Final = re.compile(rf"(?P<kept>{_KEPT})|(?P<quoted>{_QUOTED})|{_NUMBER}")
_TOLD: Final = re.compile(rf"{_TELLING}|[\])]\s*\[|\w(?<!\bin)\s*\[")
"""Behind these a text or a number matters for what a condition reads, or for whether it can be used."""
_ODD: Final = re.compile(r"[\ud800-\udfff]|\\|\"\"\"|\'\'\'|//")
MISSING: Final = object()

logging.getLogger("cel").setLevel(logging.CRITICAL)  # it warns of each function that cannot tell


class Facts:
    """What conditions may look at: plain values of one question, handed over once and only if one asks."""

    __slots__ = ("_arguments", "_context", "_given", "_question", "_used")

    def __init__(self, question: Question) -> None:
        self._question = question
        self._arguments: JsonObject | None = None
        self._used: Mapping[str, int] | None = None
        self._given: frozenset[str] = frozenset()
        self._context: cel.Context | None = None

    @property
    def arguments(self) -> JsonObject:
        """The call's arguments, with numbers of the kinds that the tool's schema says."""
        if self._arguments is None:
            given = self._question.arguments
            coerce = coercer(self._question.tool.input)
            coerced = given if coerce is None else coerce(given)
            self._arguments = coerced if isinstance(coerced, dict) else given
        return self._arguments

    @property
    def run_is_known(self) -> bool:
        """Whether anybody can tell what came before this call in its run."""
        return self._question.run is not None

    def context(self, needs: frozenset[str]) -> cel.Context:
        """Give the values as CEL has them; nothing live is reachable from there."""
        if self._context is None:
            self._context = cel.Context()
        if not needs <= self._given:
            self._context.update(self._values(needs - self._given))
            self._given |= needs
        return self._context

    def value_at(self, path: Path) -> object:
        """Find what stands at `path`; `MISSING` when nothing does."""
        found: object = self._values({path[0]}).get(path[0], MISSING)
        for name in path[1:]:
            fields = _fields(found)
            if name not in fields:
                return MISSING
            found = fields[name]
        return found

    def _values(self, needs: Iterable[str]) -> dict[str, Any]:
        """Give variables and functions by their names; what nobody can tell is not among them."""
        question, values = self._question, dict[str, Any]()
        for name in needs:
            match name:
                case "args":
                    values[name] = self.arguments
                case "caller":
                    values[name] = _shown(question.caller)
                case "now":
                    values[name] = question.at.astimezone(UTC)
                case "run" if question.run is not None:
                    values[name] = {"calls": len(question.run), "tools": sorted(self._tools())}
                case "during":
                    values[name] = self._during
                case "like":
                    values[name] = _like
                case "called" if question.run is not None:
                    values[name] = self._called
                case "count" if question.run is not None:
                    values[name] = self._count
                case _:
                    pass
        return values

    def _tools(self) -> Mapping[str, int]:
        """Give how often each tool was used before in the run. However long that is, it is counted once."""
        if self._used is None:
            self._used = Counter(past.tool for past in self._question.run or ())
        return self._used

    def _during(self, days: str, hours: str, zone: str) -> bool:
        return window(days, hours, zone).holds(self._question.at)

    def _called(self, text: str) -> bool:
        return any(map(pattern(text).holds, self._tools()))

    def _count(self, text: str) -> int:
        meant = pattern(text)
        return sum(times for tool, times in self._tools().items() if meant.holds(tool))


class Condition:
    """One condition, read.

    Raises:
        ConditionFault: it is too long or too deep, cannot be parsed, names or calls what is not there, goes
            through a list in a way whose cost has no bound, or holds a pattern, a window or a conversion that
            can never be used. Its offset says where.
    """

    __slots__ = ("_ready", "reading", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.reading = _reading_like(text)
        self._ready: cel.Program | None = None

    @property
    def tree(self) -> Node:
        """Its parts, with their places."""
        return parse(self.text)

    @property
    def uses_run(self) -> bool:
        """Whether it asks what came before in the call's run."""
        return not self.reading.needs.isdisjoint({"run", *OF_THE_RUN})

    @property
    def uses_now(self) -> bool:
        """Whether it asks when the call came in."""
        return not self.reading.needs.isdisjoint({"now", "during"})

    def holds(self, facts: Facts) -> bool | None:
        """Ask the condition: yes, no, or None where it cannot be told."""
        try:
            if self._ready is None:
                self._ready = cel.compile(self.text)
            if self.reading.ranges and _too_much(self.reading.ranges, facts):
                return None
            answer = self._ready.execute(facts.context(self.reading.needs))
        except Exception:  # noqa: BLE001 - whatever the evaluator raises, the answer is: cannot be told
            return None
        return answer if isinstance(answer, bool) else None

    def why_unknown(self, facts: Facts) -> str:
        """Say, without any value, why it could not be told; empty when it can."""
        if self.holds(facts) is not None:
            return ""
        if self.uses_run and not facts.run_is_known:
            return "nobody can tell what came before in the run"
        arguments = sorted(path for path in self.reading.paths if path[0] == "args" and len(path) > 1)
        if missing := [_named(path) for path in arguments if facts.value_at(path) is MISSING]:
            return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        if empty := [_named(path) for path in arguments if facts.value_at(path) is None]:
            return f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} null"
        if _too_much(self.reading.ranges, facts):
            return f"a list is an object, or too much to go through (at most {MOST_ITEMS} items)"
        what = " or ".join(map(_named, arguments))
        return f"{what} is not of the type or size that the condition needs" if what else "it has no answer"


def _reading_like(text: str) -> Reading:
    """Read `text`, or take what is known of another one that differs only in numbers and plain texts."""
    if len(text) > LONGEST_PATTERN or _ODD.search(text):
        return _reading(text)
    kept = 0

    def same(found: re.Match[str]) -> str:
        nonlocal kept
        if found["kept"]:
            kept += 1
            return found["kept"]
        return '""' if found["quoted"] else "0.0" if found["part"] else "0"

    alike = _VALUES.sub(same, text)
    try:
        return _reading(alike if kept == len(_TOLD.findall(text)) else text)
    except ConditionFault:
        return _reading(text)  # for the place of the fault


@lru_cache(maxsize=8192)
def _reading(text: str) -> Reading:
    tree = parse(text)
    reading = reading_of(tree)
    try:
        cel.compile(text)
    except ValueError as error:
        raise ConditionFault("it cannot be parsed") from error
    for call in tried_early(tree):
        try:
            cel.compile(call.spelled).execute(cel.Context())
        except Exception as error:
            raise ConditionFault(f"{call.name}() of this text has no answer", call.at) from error
    return reading


def _too_much(ranges: Iterable[Range], facts: Facts) -> bool:
    """Whether the lists of a condition are too long, hold too much, or are no lists."""
    work = 0
    for one in ranges:
        over = facts.value_at(one.over) if one.over else None
        items = len(_parts(over)) if one.over else one.items
        if items > MOST_ITEMS or isinstance(over, dict):  # an object has no order: answers could differ
            return True
        others = _weights((facts.value_at(path) for path in one.others), MOST_WORK // max(items, 1))
        whole = _weights([over], MOST_WORK) if one.over else others
        work += items * (others + 1 + _COSTLY * one.costly) + one.uses * whole
        work += items * _made(one, items, others, whole) // 2
        if work > MOST_WORK:
            return True
    return False


def _made(one: Range, items: int, others: int, whole: int) -> int:
    """Count at most what is in the list that a macro makes: the evaluator copies it for each item."""
    match one.macro:
        case "filter":
            return whole
        case "map":
            return one.uses * whole + items * (others + 1)
        case _:
            return 0


def _weights(values: Iterable[object], most: int) -> int:
    """Count the values in `values`, a text for one and each 100 characters. Stops when it is too much."""
    weight, left = 0, list(values)
    while left and weight <= most:
        part = left.pop()
        weight += 1 + (len(part) // 100 if isinstance(part, str) else len(_fields(part)))
        left.extend(_parts(part))
    return weight


def _parts(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else list(_fields(value).values())


def _fields(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _like(text: str, meant: str) -> bool:
    return pattern(meant).holds(text)


def _named(path: Path) -> str:
    return ".".join(path[1:])


def _shown(caller: Caller) -> dict[str, Any]:
    """What a condition may know of the caller."""
    return {
        "subject": caller.subject,
        "tenant": caller.tenant,
        "client": caller.client,
        "roles": sorted(caller.roles),
        "scopes": sorted(caller.scopes),
    }
