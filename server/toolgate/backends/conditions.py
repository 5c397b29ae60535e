"""Conditions of rules: CEL (cel.dev), read once, asked with three answers.

A condition sees `args` (the call's arguments) and `caller` (subject, tenant, client, roles, scopes). What is
missing, of a wrong type or in error is *unknown*: it makes a deny bite and an allow not match.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import cel

from toolgate.core.record import JsonObject

LONGEST: Final = 1000
_ROOTS: Final = frozenset({"args", "caller"})
_MACROS: Final = re.compile(r"\.\s*(all|exists|exists_one|existsOne|map|filter)\s*\(")
_MATCHES: Final = re.compile(r"\bmatches\s*\(")
_MATCHES_LITERAL: Final = re.compile(r"""\bmatches\s*\(\s*r?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*\)""")
_COUNTS: Final = re.compile(r"\{\s*\d*\s*,?\s*(\d+)\s*\}")
_MOST_REPEATS: Final = 100
_FUNCTIONS: Final = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "timestamp", "duration", "type", "dyn"}
    | {"int", "uint", "double", "string", "bytes"}
    | {"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"}
    | {"getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
"""What the evaluator knows. It would notice another only at a call, and a rule with it would never match."""
_TYPES: Final = frozenset({"bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type"})
_SIMPLE: Final = re.compile(
    r"\s*(size\()?args\.(?P<name>[A-Za-z_]\w*)(?(1)\))\s*(?P<sign><=|>=|<|>|==|!=|in)\s*"
    r"(?P<bound>-?\d+(?:\.\d+)?|\"[^\"\\]*\"|'[^'\\]*'|\[[^\[\]]*\])\s*"
)
_OPPOSITE: Final = {"<=": ">", ">": "<=", "<": ">=", ">=": "<", "==": "!=", "!=": "=="}
_WORDS: Final = {
    "<=": "at most",
    "<": "less than",
    ">=": "at least",
    ">": "more than",
    "==": "exactly",
    "!=": "anything but",
    "in": "one of",
}


@dataclass(frozen=True)
class Facts:
    """What conditions may look at: plain values, handed over once for a decision and only if one asks."""

    arguments: JsonObject
    caller: Mapping[str, Any]

    @cached_property
    def context(self) -> cel.Context:
        """The values as CEL has them; nothing live is reachable from there."""
        return cel.Context({"args": self.arguments, "caller": self.caller})


class Condition:
    """One condition, parsed.

    Raises:
        ValueError: it is too long, cannot be parsed, names something that is not there, iterates, or holds
            a pattern whose cost a caller could drive up.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"a condition has at most {LONGEST} characters")
        if macro := _MACROS.search(text):
            raise ValueError(f"a condition cannot iterate with {macro[1]}(): its cost has no bound")
        if len(_MATCHES.findall(text)) != len(_MATCHES_LITERAL.findall(text)):
            raise ValueError("matches() takes a pattern in quotes, not one that a caller could choose")
        if any(int(count) > _MOST_REPEATS for count in _COUNTS.findall(text)):
            raise ValueError(f"a pattern repeats a part at most {_MOST_REPEATS} times")
        self.text = text
        try:
            self._program = cel.compile(text)
        except ValueError as error:
            first = str(error).partition("\n")[0]
            raise ValueError(
                first.partition("ERROR: ")[2].partition(" expecting ")[0] or "it cannot be parsed"
            ) from error
        named = self._program.references()
        if strangers := set(named["variables"]) - _ROOTS - _TYPES:
            names = ", ".join(sorted(strangers))
            raise ValueError(f"unknown name {names}; a condition sees args and caller")
        called = {name for name in named["functions"] if name[0].isalpha()}
        if strangers := called - _FUNCTIONS:
            raise ValueError(f"unknown function {', '.join(sorted(strangers))}")

    def holds(self, facts: Facts) -> bool | None:
        """Ask the condition: yes, no, or None where it cannot be told."""
        try:
            answer = self._program.execute(facts.context)
        except Exception:  # noqa: BLE001 - whatever the evaluator raises, the answer is: cannot be told
            return None
        return answer if isinstance(answer, bool) else None

    def bounds(self, *, opposite: bool = False) -> str:
        """Say what it asks of the arguments, when it asks only for plain bounds; else an empty text."""
        parts = [_SIMPLE.fullmatch(part) for part in self.text.split("&&")]
        if opposite and len(parts) > 1:
            return ""
        told: list[str] = []
        for part in parts:
            if part is None or (opposite and part["sign"] not in _OPPOSITE):
                return ""
            sign = _OPPOSITE[part["sign"]] if opposite else part["sign"]
            what = f"the size of {part['name']}" if part[1] else part["name"]
            told.append(f"{what} {_WORDS[sign]} {part['bound']}")
        return " and ".join(told)
