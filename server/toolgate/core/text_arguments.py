"""Arguments that come as texts: those in a resource's address, and those that fill in a prompt."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from toolgate.core.record import Json, JsonObject

Kind = Literal["text", "integer", "boolean"]
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NULL: Final[JsonObject] = {"type": "null"}
_BOOLEANS: Final[Mapping[str, bool]] = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class TextArgument:
    """An argument that one text can stand for."""

    name: str
    title: str
    description: str
    required: bool
    kind: Kind
    choices: tuple[str, ...]
    """All that it may be, in the schema's order; empty where the schema does not list that."""

    def value_of(self, text: str) -> Json:
        """Give the value that `text` spells; a text that spells none stays one, and breaks the schema.

        A value has one spelling: an integer no needless sign or zero, a boolean no capitals.
        """
        match self.kind:
            case "integer":
                return int(text) if _INTEGER.fullmatch(text) else text
            case "boolean":
                return _BOOLEANS.get(text, text)
            case "text":
                return text


def text_arguments(schema: JsonObject) -> dict[str, TextArgument]:
    """Give the arguments in `schema` that a text can stand for, in its order; others are left out."""
    found: dict[str, TextArgument] = {}
    for name, shape in _table(schema.get("properties")).items():
        single = _single(_table(shape), _table(schema.get("$defs")))
        kind = _kind(single)
        if kind is None:
            continue
        about = single | _table(shape)
        found[name] = TextArgument(
            name=name,
            title=str(about.get("title", "")),
            description=str(about.get("description", "")),
            required=name in required_by(schema),
            kind=kind,
            choices=_choices(single),
        )
    return found


def required_by(schema: JsonObject) -> frozenset[str]:
    """Give the names of the arguments that may not be left out."""
    names = schema.get("required")
    return frozenset(map(str, names)) if isinstance(names, list) else frozenset()


def values_of(texts: Mapping[str, str], schema: JsonObject) -> JsonObject:
    """Give the arguments that `texts` spell; a name that the schema does not know stays, and breaks it."""
    known = text_arguments(schema)
    return {name: known[name].value_of(text) if name in known else text for name, text in texts.items()}


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _single(shape: JsonObject, defined: JsonObject) -> JsonObject:
    """Find the schema behind `shape`: itself, what it refers to, or the one that it has beside null."""
    match shape:
        case {"$ref": str(where)}:
            name = where.removeprefix("#/$defs/")
            others = {other: schema for other, schema in defined.items() if other != name}
            return _single(_table(defined.get(name)), others)
        case {"anyOf": list(kinds)}:
            filled = [kind for kind in kinds if kind != _NULL]
            return _single(_table(filled[0]), defined) if len(filled) == 1 else {}
        case _:
            return shape


def _kind(single: JsonObject) -> Kind | None:
    match single.get("type"):
        case "string":
            return "text"
        case "integer":
            return "integer"
        case "boolean":
            return "boolean"
        case _:
            return None


def _choices(single: JsonObject) -> tuple[str, ...]:
    match single:
        case {"type": "boolean"}:
            return tuple(_BOOLEANS)
        case {"enum": list(values)}:
            return tuple(map(str, values))
        case {"const": str() | int() as value}:
            return (str(value),)
        case _:
            return ()
