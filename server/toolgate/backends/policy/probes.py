"""Arguments on, below and above the bounds that conditions state: calls to ask a judge about."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice, product
from typing import Final

from toolgate.backends.policy.text import Rule
from toolgate.core.record import Json, JsonObject

_MOST_PROBES: Final = 96
_LONGEST_TEXT: Final = 2_000
_NO_SUCH: Final = "(any other)"
_LITERAL: Final = r"-?\d+(?:\.\d+)?|\"[^\"\\]*\"|'[^'\\]*'|\[[^\[\]]*\]|true|false"
_BOUND: Final = re.compile(
    rf"(?P<size>size\(\s*)?args\.(?P<name>[A-Za-z_]\w*)(?(size)\s*\))\s*"
    rf"(?P<sign><=|>=|<|>|==|!=|\bin\b)\s*(?P<bound>{_LITERAL})"
)
_ITEM: Final = re.compile(r"-?\d+(?:\.\d+)?|\"[^\"\\]*\"|'[^'\\]*'|true|false")
_ARGUMENT: Final = re.compile(r"\bargs\.([A-Za-z_]\w*)")


def probes(rules: Iterable[Rule]) -> list[JsonObject]:
    """Make arguments at, below and above every bound that the conditions state, and without any."""
    values: dict[str, list[Json]] = {}
    for rule in rules:
        text = rule.when.text if rule.when else ""
        for name, value in bounds_in(text):
            known = values.setdefault(name, [])
            if not any(value is one or (type(value) is type(one) and value == one) for one in known):
                known.append(value)
        for name in _ARGUMENT.findall(text):
            values.setdefault(name, [])
    choices = [[(name, value) for value in found] or [(name, "")] for name, found in sorted(values.items())]
    return [*(dict(chosen) for chosen in islice(product(*choices), _MOST_PROBES)), {}]


def bounds_in(condition: str) -> Iterator[tuple[str, Json]]:
    """Give, for every plain bound in a condition, values of the argument on it and on both sides."""
    for found in _BOUND.finditer(condition):
        for item in _ITEM.findall(found["bound"]):
            for value in _around(_value(item)):
                if not found["size"]:
                    yield found["name"], value
                elif isinstance(value, int) and 0 <= value <= _LONGEST_TEXT:
                    yield found["name"], "x" * value
        if found["sign"] in {"==", "!=", "in"} and not found["size"] and not _ITEM.fullmatch(found["bound"]):
            yield found["name"], _NO_SUCH


def _value(literal: str) -> Json:
    if literal in {"true", "false"}:
        return literal == "true"
    if literal[0] in "\"'":
        return literal[1:-1]
    return float(literal) if "." in literal else int(literal)


def _around(value: Json) -> tuple[Json, ...]:
    match value:
        case bool():
            return (value, not value)
        case int():
            return (value, value - 1, value + 1)
        case float():
            return (value, round(value - 0.01, 6), round(value + 0.01, 6))
        case _:
            return (value, _NO_SUCH)
