"""The nearest call that rules would allow: bounds of single arguments, where they are stated plainly."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

from toolgate.backends.policy.text import Rule
from toolgate.core.record import Json, JsonObject
from toolgate.core.tool import Tool

_PLAIN: Final = re.compile(
    r"\s*(?P<size>size\()?args\.(?P<name>[A-Za-z_]\w*)(?(size)\))\s*(?P<sign><=|>=|<|>|==|!=|in)\s*"
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
_STEPS: Final = {"<": -1, ">": 1, "!=": 1}
"""From the bound to a value that keeps it."""
_LONGEST: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Bound:
    name: str
    of_size: bool
    sign: str
    spelled: str
    values: tuple[Json, ...]
    """What the condition compares with."""

    def __str__(self) -> str:
        what = f"the size of {self.name}" if self.of_size else self.name
        return f"{what} {_WORDS[self.sign]} {self.spelled}"

    def is_shown_by(self, schema: JsonObject) -> bool:
        """Whether a caller may be told: numbers, and texts that the schema lists for this argument."""
        if all(isinstance(value, int | float) for value in self.values):
            return True
        properties = schema.get("properties")
        shown = properties.get(self.name) if isinstance(properties, dict) else None
        listed = shown.get("enum") if isinstance(shown, dict) else None
        return isinstance(listed, list) and all(value in listed for value in self.values)

    def met_by(self, given: Json) -> Json:
        """Give a value that keeps it, as near as may be; None when there is no telling."""
        bound = self.values[0]
        if self.sign in _STEPS:
            bound = bound + _STEPS[self.sign] if isinstance(bound, int | float) else None
        return _sized(given, bound) if self.of_size else bound


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a call's arguments would have to keep, in words and as arguments that do."""

    words: str
    _parts: tuple[_Bound, ...]

    @classmethod
    def of(cls, rule: Rule, tool: Tool) -> "Bounds | None":
        """Read what an allow asks for, or what a deny leaves.

        None where its condition is not made of bounds, or holds a text that the tool's schema does not show
        to callers already.
        """
        opposite = rule.effect == "deny"
        bounds = _bounds_in(rule.when.text, opposite=opposite) if rule.when else ()
        if not bounds or not all(bound.is_shown_by(tool.input.document) for bound in bounds):
            return None
        said = " and ".join(map(str, bounds))
        return cls(said if opposite else f"{said} (rule {rule.id})", bounds)

    def met_by(self, arguments: Mapping[str, Json]) -> JsonObject | None:
        """Give `arguments` changed so that they keep the bounds; None when there is no telling how."""
        changed = dict(arguments)
        for bound in self._parts:
            value = bound.met_by(changed.get(bound.name))
            if value is None:
                return None
            changed[bound.name] = value
        return changed


@lru_cache(maxsize=8192)
def _bounds_in(text: str, *, opposite: bool) -> tuple[_Bound, ...]:
    """Read the bounds of which a condition is made; none when it is made of anything else."""
    parts = [_PLAIN.fullmatch(part) for part in text.split("&&")]
    if opposite and len(parts) > 1:
        return ()
    bounds: list[_Bound] = []
    for part in parts:
        values = _values(part["bound"]) if part else ()
        if part is None or not values or (opposite and part["sign"] not in _OPPOSITE):
            return ()
        sign = _OPPOSITE[part["sign"]] if opposite else part["sign"]
        bounds.append(_Bound(part["name"], part["size"] is not None, sign, part["bound"], values))
    return tuple(bounds)


def _values(spelled: str) -> tuple[Json, ...]:
    try:
        read = cast("Json", ast.literal_eval(spelled))
    except (ValueError, SyntaxError):
        return ()
    return tuple(read) if isinstance(read, list) else (read,)


def _sized(given: Json, size: Json) -> Json:
    if not isinstance(size, int) or not 0 <= size <= _LONGEST:
        return None
    if isinstance(given, list):
        return given[:size] if size <= len(given) else None
    return "x" * size
