"""Numbers of a call as conditions see them: the schema says which kind, not how a client wrote them.

JSON has one kind of number, and JSON Schema (2020-12, section 4.2.3) admits 5.0 as an integer.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from toolgate.core.arguments import Schema
from toolgate.core.record import Json

Coercer = Callable[[Json], Json]
_BRANCHES: Final = ("allOf", "anyOf", "oneOf")
_REMEMBERED: Final = 8192


@lru_cache(maxsize=_REMEMBERED)
def coercer(schema: Schema) -> Coercer | None:
    """Give what turns numbers of a value into the kinds that `schema` says; None when it says none."""
    return _Reader(schema.document).of(schema.document)


def resolved(reference: str, root: Json) -> Json:
    """Follow a reference inside a schema, such as `#/$defs/Money` (RFC 6901); True where it leads nowhere."""
    found = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return True
    return found if reference.startswith("#") else True


class _Reader:
    """Reads one schema. A part that refers to itself is looked up when it is used."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._known: dict[str, Coercer | None] = {}
        self._begun: set[str] = set()

    def of(self, schema: Json) -> Coercer | None:
        if not isinstance(schema, dict):
            return None
        found = [self._of_reference(schema.get("$ref"))]
        for branch in _BRANCHES:
            parts = schema.get(branch)
            found += [self.of(part) for part in parts] if isinstance(parts, list) else []
        found += [_of_type(schema.get("type")), self._of_fields(schema), self._of_items(schema)]
        return _in_turn([one for one in found if one is not None])

    def _of_reference(self, reference: Json) -> Coercer | None:
        if not isinstance(reference, str):
            return None
        if reference in self._begun:
            return lambda value: _with(self._known.get(reference), value)
        self._begun.add(reference)
        self._known[reference] = self.of(resolved(reference, self._root))
        self._begun.discard(reference)
        return self._known[reference]

    def _of_fields(self, schema: Mapping[str, Json]) -> Coercer | None:
        declared = schema.get("properties")
        fields = {
            name: one
            for name, part in (declared.items() if isinstance(declared, dict) else ())
            if (one := self.of(part)) is not None
        }
        known = frozenset(declared if isinstance(declared, dict) else ())
        other = self.of(schema.get("additionalProperties"))
        return _fields(fields, known, other) if fields or other else None

    def _of_items(self, schema: Mapping[str, Json]) -> Coercer | None:
        leading = schema.get("prefixItems")
        first = [self.of(part) for part in leading] if isinstance(leading, list) else []
        rest = self.of(schema.get("items"))
        return _items(first, rest) if rest or any(first) else None


def _of_type(said: Json) -> Coercer | None:
    types = said if isinstance(said, list) else [said]
    if "number" in types:
        return _double
    return _whole if "integer" in types else None


def _double(value: Json) -> Json:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return value  # the evaluator has no such number: the condition is unknown
    return value


def _whole(value: Json) -> Json:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_turn(coercers: Sequence[Coercer]) -> Coercer | None:
    """Join what the branches of a schema say. Where one says number, a number it is."""
    if len(coercers) <= 1:
        return coercers[0] if coercers else None
    ordered = sorted(coercers, key=lambda one: one is _double)

    def apply(value: Json) -> Json:
        for one in ordered:
            value = one(value)
        return value

    return apply


def _fields(fields: Mapping[str, Coercer], known: frozenset[str], other: Coercer | None) -> Coercer:
    def apply(value: Json) -> Json:
        if not isinstance(value, dict):
            return value
        if other is None:
            changed = {name: one(value[name]) for name, one in fields.items() if name in value}
            return {**value, **changed}
        return {
            name: _with(fields.get(name) if name in known else other, part) for name, part in value.items()
        }

    return apply


def _items(first: Sequence[Coercer | None], rest: Coercer | None) -> Coercer:
    def apply(value: Json) -> Json:
        if not isinstance(value, list):
            return value
        lead = [_with(one, part) for one, part in zip(first, value, strict=False)]
        return lead + [_with(rest, part) for part in value[len(lead) :]]

    return apply


def _with(coercer: Coercer | None, value: Json) -> Json:
    return value if coercer is None else coercer(value)
