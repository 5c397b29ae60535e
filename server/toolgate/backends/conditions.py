"""Conditions of rules: CEL (cel.dev), read once, asked with three answers.

A condition sees `args` (the call's arguments) and `caller` (subject, tenant, client, roles, scopes). What is
missing, of a wrong type or in error is *unknown*: it makes a deny bite and an allow not match.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cel

from toolgate.core.record import JsonObject

LONGEST: Final = 1000
_ROOTS: Final = frozenset({"args", "caller"})
_STRINGS: Final = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_MACROS: Final = re.compile(r"\.\s*(all|exists|exists_one|map|filter)\s*\(")
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
    """What conditions may look at, built once for a decision."""

    context: cel.Context

    @classmethod
    def of(cls, arguments: JsonObject, caller: Mapping[str, Any]) -> "Facts":
        """Hand over plain values; nothing live is reachable from a condition."""
        return cls(cel.Context({"args": arguments, "caller": caller}))


class Condition:
    """One condition, parsed.

    Raises:
        ValueError: it is too long, cannot be parsed, names something that is not there, or iterates.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"a condition has at most {LONGEST} characters")
        if macro := _MACROS.search(_STRINGS.sub('""', text)):
            raise ValueError(f"a condition cannot iterate with {macro[1]}(): its cost has no bound")
        self.text = text
        try:
            self._program = cel.compile(text)
        except ValueError as error:
            first = str(error).partition("\n")[0]
            raise ValueError(first.partition("ERROR: ")[2] or "it cannot be parsed") from error
        if strangers := set(self._program.references()["variables"]) - _ROOTS:
            names = ", ".join(sorted(strangers))
            raise ValueError(f"unknown name {names}; a condition sees args and caller")

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
