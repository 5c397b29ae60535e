"""Whether tools have what a rule obliges to hide, to shorten or to sign in with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from toolgate.backends.policy.coercion import resolved
from toolgate.backends.policy.schema_types import branches, field_of, typed
from toolgate.core.arguments import Schema
from toolgate.core.obligations import MASKED
from toolgate.core.record import Json
from toolgate.core.tool import Tool

_NESTING: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_INSIDE: Final = ("items", "additionalProperties", "$ref")


class ObligationChecks:
    """Asks tools; their output schemas each once for a question."""

    def __init__(self) -> None:
        self._fields: dict[int, tuple[Schema, Mapping[str, list[Json]]]] = {}
        self._masks: dict[tuple[int, str], str | None] = {}

    def mask_fault(self, name: str, tools: Sequence[Tool]) -> str | None:
        """Say why `name` cannot be hidden in the results of `tools`, or None."""
        having = [tool for tool in tools if name in self._fields_of(tool.output)]
        if not having:
            return f"no tool that the rule can match has a field {name} in its result"
        for tool in having:
            key = (id(tool.output), name)
            if key not in self._masks:
                self._masks[key] = self._unmaskable(tool.output, name)
            if problem := self._masks[key]:
                return f"{tool.name} could not answer without {name}: {problem}"
        return None

    def rows_fault(self, rows: int, tools: Sequence[Tool]) -> str | None:
        """Say why results of `tools` cannot be shortened to `rows` items, or None."""
        found = False
        for tool in tools:
            for name, least in _lists_of(tool.output.document):
                found = True
                if least > rows:
                    return f"{tool.name} answers with at least {least} items of {name}"
        return None if found else "no tool that the rule can match has a list at the top of its result"

    def dynamic_fault(self, tools: Sequence[Tool]) -> str | None:
        """Say why no call of `tools` could have a credential that ends with it, or None."""
        if any(tool.credential is not None and not tool.credential.static for tool in tools):
            return None
        if all(tool.credential is None for tool in tools):
            return "no tool that the rule can match signs in with a credential"
        return "each tool that the rule can match signs in with a static credential: it would only be refused"

    def _fields_of(self, schema: Schema) -> Mapping[str, list[Json]]:
        known = self._fields.get(id(schema))
        if known is None:
            fields: dict[str, list[Json]] = {}
            for name, part in _fields(schema.document):
                fields.setdefault(name, []).append(part)
            known = self._fields[id(schema)] = (schema, fields)  # the schema is kept, and its id with it
        return known[1]

    def _unmaskable(self, schema: Schema, name: str) -> str | None:
        problems = (_hidden_fault(part, schema.document) for part in self._fields_of(schema)[name])
        return next(filter(None, problems), None)


def _hidden_fault(field: Json, root: Mapping[str, Json]) -> str | None:
    """Say why what the gate puts in place of a field's value does not match the field's schema."""
    kinds = typed(field, dict(root)).kinds
    if "text" in kinds and (not _admits(field, root, MASKED) or _has_format(field, root)):
        return f"its schema does not admit the text {MASKED!r}"
    if "list" in kinds and not _admits(field, root, []):
        return "its schema does not admit an empty list"
    if kinds - {"text", "list"} and not _admits(field, root, None):
        return "its schema does not admit null"
    return None


def _admits(field: Json, root: Mapping[str, Json], value: Json) -> bool:
    document: dict[str, Json] = {"allOf": [field]}
    document |= {name: root[name] for name in ("$defs", "definitions") if name in root}
    try:
        return Schema(document).fault_in(value) is None
    except ValueError:
        return False


def _has_format(field: Json, root: Mapping[str, Json]) -> bool:
    """A format is only noted by the gate; clients may insist on it."""
    return any("format" in branch for branch in branches(field, dict(root)))


def _fields(root: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """Give every declared field of a schema, at any depth, with its own schema."""
    left: list[Json] = [dict(root)]
    followed: set[str] = set()
    while left:
        schema = left.pop()
        if not isinstance(schema, dict):
            continue
        declared = schema.get("properties")
        for name, part in declared.items() if isinstance(declared, dict) else ():
            yield name, part
            left.append(part)
        for word in _NESTING:
            parts = schema.get(word)
            left.extend(parts if isinstance(parts, list) else [])
        for word in _INSIDE:
            part = schema.get(word)
            if not isinstance(part, str):
                left.append(part)
            elif part not in followed:
                followed.add(part)
                left.append(resolved(part, dict(root)))


def _lists_of(root: Mapping[str, Json]) -> Iterator[tuple[str, int]]:
    """Give each list at the top of a result, and how many items it has at least."""
    document = dict(root)
    whole = typed(document, document)
    for name in whole.names():
        found = field_of(whole, name)
        for schema in found.type.schemas if found else ():
            if "list" in typed(dict(schema), document).kinds:
                least = schema.get("minItems", 0)
                yield name, least if isinstance(least, int) else 0
