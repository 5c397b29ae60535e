"""What may come in: size, depth and string bounds first, then the tool's JSON Schema (2020-12).

A fault says which argument and what is expected of it; it never repeats a value.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import jsonschema_rs

from toolgate.core.canonical import canonical
from toolgate.core.record import Json, JsonObject

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
MAX_TEXT: Final = 262_144

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_SHOWN_FAULTS: Final = 5
_FEW_VALUES: Final = 250
"""Among more values than these only the first fault is looked for: all of them would stall the gate."""


class Schema:
    """A JSON Schema of draft 2020-12, compiled once.

    Raises:
        ValueError: it is not a valid schema, or refers to another document.
    """

    def __init__(self, document: Mapping[str, Json]) -> None:
        self.document: JsonObject = dict(document)
        try:
            canonical(self.document)
            self._validator = jsonschema_rs.Draft202012Validator(
                self.document,
                mask="the value",
                retriever=_refuse_retrieval,
                pattern_options=jsonschema_rs.RegexOptions(),  # linear time; no look-around
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise ValueError(f"not a usable JSON Schema (2020-12): {error}") from error

    def fault_in(self, value: Json) -> str | None:
        """Say what is wrong with `value`, or None."""
        if self._validator.is_valid(value):
            return None
        if out_of_bounds({"": value}, most_values=_FEW_VALUES):
            return _first(self._validator, value)
        return _told(self._validator.iter_errors(value))


def out_of_bounds(
    arguments: JsonObject, *, most_values: int = MAX_VALUES, longest_text: int = MAX_TEXT
) -> str | None:
    """Say which general bound `arguments` break, or None; walks over at most `most_values` values."""
    seen = 0
    level: list[Json] = [arguments]
    for _ in range(MAX_DEPTH + 1):
        below: list[Json] = []
        for value in level:
            if fault := _bad_value(value, longest_text):
                return fault
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        seen += len(below)
        if seen > most_values:
            return f"there are more than {most_values} values"
        if not below:
            return None
        level = below
    return f"the values are nested deeper than {MAX_DEPTH} levels"


def closed(schema: dict[str, Any]) -> JsonObject:
    """Refuse arguments that a model does not name: silence about them would read as consent."""
    return cast("JsonObject", _closed(schema))


def _closed(schema: Json) -> Json:
    if isinstance(schema, dict):
        copy = {name: _closed(part) for name, part in schema.items()}
        if "properties" in copy and copy.get("type") == "object":
            copy.setdefault("additionalProperties", False)
        return copy
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    return schema


def _bad_value(value: Json, longest: int) -> str | None:
    match value:
        case str():
            return _bad_text(value, longest)
        case dict():
            return next(filter(None, (_bad_text(name, MAX_TEXT) for name in value)), None)
        case float() if not math.isfinite(value):
            return "a number is not finite"
        case _:
            return None


def _bad_text(text: str, longest: int) -> str | None:
    if len(text) > longest:
        return f"a text is longer than {longest} characters"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "a text is not valid Unicode (it holds a lone surrogate)"
    return None


def _told(errors: Iterable[jsonschema_rs.ValidationError]) -> str:
    faults: list[str] = []
    for error in errors:
        if len(faults) == _SHOWN_FAULTS:
            faults.append("and more")
            break
        path = "".join(_step(part) for part in error.instance_path)
        place = path.removeprefix(".") or "the arguments"
        faults.append(f"{place}: {_expected(error)}")
    return "; ".join(faults)


def _first(validator: jsonschema_rs.Draft202012Validator, value: Json) -> str:
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return _told([error])
    return "it does not match its schema"


def _step(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{_shown(part)}"


def _shown(name: str) -> str:
    """A name that a caller chose is only repeated when it looks like one."""
    return name if _NAME.fullmatch(name) else "(a name that is not shown)"


def _expected(error: jsonschema_rs.ValidationError) -> str:
    match error.kind:
        case (
            jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=names)
            | jsonschema_rs.ValidationErrorKind.UnevaluatedProperties(unexpected=names)
        ):
            return f"not expected: {', '.join(_shown(name) for name in names[:_SHOWN_FAULTS])}"
        case jsonschema_rs.ValidationErrorKind.PropertyNames():
            return "a name in it is not of the expected form"
        case _:
            return error.message


def _refuse_retrieval(uri: str) -> Json:
    raise ValueError(f"it refers to {uri!r}; only references inside the schema are followed")
