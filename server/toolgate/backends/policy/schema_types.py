"""What values a JSON Schema (2020-12) admits, as far as conditions and obligations need to know."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from toolgate.backends.policy.coercion import resolved
from toolgate.core.record import Json

Kind = Literal["bool", "int", "double", "text", "null", "list", "map", "time", "span", "type"]
NUMBERS: Final[frozenset[Kind]] = frozenset({"int", "double"})
_KINDS: Final[Mapping[str, Kind]] = {
    "boolean": "bool",
    "integer": "int",
    "number": "double",
    "string": "text",
    "null": "null",
    "array": "list",
    "object": "map",
}
_MAP: Final[frozenset[Kind]] = frozenset({"map"})
_DEEPEST: Final = 16
"""References and branches that are followed, one inside the other."""
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Type:
    """What a part of a condition can be."""

    kinds: frozenset[Kind]
    """Empty for anything."""
    item: "Type | None" = None
    """Of a list, or of an object whose names are free; None where it is not known."""
    schemas: tuple[Mapping[str, Json], ...] = ()
    """Of an argument: the parts of the schema that say it."""
    root: Json = field(default=True, repr=False, compare=False)
    """The schema that references are looked up in."""
    fields: "Mapping[str, Type]" = field(default_factory=dict[str, "Type"], compare=False)
    """Of an object that is always the same."""

    @property
    def anything(self) -> bool:
        """Whether nothing is known of it."""
        return not self.kinds

    def names(self) -> list[str]:
        """Give the names that its fields can have, where these are known."""
        declared = (_part(schema, "properties") for schema in self.schemas)
        return sorted({*self.fields, *(name for names in declared for name in names)})

    def listed(self) -> str:
        """Say which fields it has, as the end of a sentence."""
        names = self.names()
        more = ", ..." if len(names) > _SHOWN else ""
        return f"; there is {', '.join(names[:_SHOWN])}{more}" if names else "; there is none"


@dataclass(frozen=True, slots=True)
class Found:
    """A field of an object."""

    type: Type
    required: bool


ANYTHING: Final = Type(frozenset())


def of_kind(kind: Kind) -> Type:
    """Give the type of nothing but `kind`."""
    return Type(frozenset({kind}))


BOOL, INT, DOUBLE, TEXT = of_kind("bool"), of_kind("int"), of_kind("double"), of_kind("text")
NULL, TIME, SPAN, TYPE = of_kind("null"), of_kind("time"), of_kind("span"), of_kind("type")


def list_of(item: Type) -> Type:
    """Give the type of a list."""
    return Type(frozenset({"list"}), item=item)


def either(types: Sequence[Type]) -> Type:
    """Give what is one of `types`."""
    if not types or any(one.anything for one in types):
        return ANYTHING
    items = [one.item for one in types if one.kinds & {"list", "map"}]
    known = [item for item in items if item is not None]
    return Type(
        frozenset[Kind]().union(*(one.kinds for one in types)),
        item=either(known) if known and len(known) == len(items) else None,
        schemas=tuple(schema for one in types for schema in one.schemas),
        root=next((one.root for one in types if one.schemas), True),
        fields=types[0].fields if len(types) == 1 else {},
    )


def typed(schema: Json, root: Json) -> Type:
    """Give what `schema`, a part of `root`, admits."""
    parts = list(branches(schema, root))
    kinds = [_kinds_of(part) for part in parts]
    if not parts or not all(kinds):
        return ANYTHING
    return Type(frozenset[Kind]().union(*kinds), schemas=tuple(parts), root=root)


def branches(schema: Json, root: Json, depth: int = 0) -> Iterable[Mapping[str, Json]]:
    """Give the schemas of which a value matches one: references followed, `anyOf` and `oneOf` taken apart.

    A part about which too little is said is given as `{}`.
    """
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return [{}]
    below: list[Json] = []
    if isinstance(reference := schema.get("$ref"), str):
        below = [resolved(reference, root)]
    for word in ("anyOf", "oneOf"):
        said = schema.get(word)
        below += said if isinstance(said, list) else []
    if not below and isinstance(joined := schema.get("allOf"), list):
        return _joined(schema, joined, root, depth)
    if below and not _is_plain(schema):
        found = [part for one in below for part in branches(one, root, depth + 1)]
        return [{**part, **_own(schema)} for part in found] if "type" in schema else found
    return [part for one in below for part in branches(one, root, depth + 1)] if below else [schema]


def field_of(of: Type, name: str) -> Found | None:
    """Find a field; None when no schema of `of` admits one of that name."""
    if of.fields:
        return Found(of.fields[name], required=True) if name in of.fields else None
    objects = [schema for schema in of.schemas if "map" in (_kinds_of(schema) or {"map"})]
    if of.anything or not objects:
        return Found(of.item if of.item is not None and "map" in of.kinds else ANYTHING, required=True)
    types: list[Type] = []
    for schema in objects:
        declared = _part(schema, "properties")
        if name in declared:
            types.append(typed(declared[name], of.root))
        elif _is_open(schema):
            types.append(typed(schema.get("additionalProperties", True), of.root))
    if not types:
        return None
    required = all(name in _names(schema.get("required")) or _says_nothing(schema) for schema in objects)
    return Found(either(types), required=required)


def item_of(of: Type) -> Type:
    """Give what an item of a list, or a value of an object by a name that is not known, can be."""
    if of.item is not None:
        return of.item
    found = [
        typed(part, of.root)
        for schema in of.schemas
        if "list" in _kinds_of(schema)
        for part in [*_listed(schema.get("prefixItems")), schema.get("items", True)]
    ]
    return either(found) if found and "map" not in of.kinds else ANYTHING


def _joined(
    schema: Mapping[str, Json], joined: Sequence[Json], root: Json, depth: int
) -> Iterable[Mapping[str, Json]]:
    """Join `allOf` where that is plain: one part, or objects whose names are put together."""
    parts = [list(branches(part, root, depth + 1)) for part in joined]
    if len(parts) == 1:
        return [{**part, **_own(schema)} for part in parts[0]]
    if all(len(part) == 1 for part in parts):
        alone = [part[0] for part in parts]
        properties: dict[str, Json] = {}
        for part in (*alone, schema):
            properties |= _part(part, "properties")
        required: list[Json] = [name for part in (*alone, schema) for name in _names(part.get("required"))]
        said = next((part["type"] for part in (schema, *alone) if "type" in part), None)
        if said == "object":
            return [
                {
                    "type": "object",
                    "properties": properties,
                    "required": required,
                    "additionalProperties": True,
                }
            ]
        return [{"type": said}] if said is not None else [{}]
    return [{}]


def _kinds_of(schema: Mapping[str, Json]) -> frozenset[Kind]:
    """Give the kinds of one branch; none when it does not say."""
    said = schema.get("type")
    if said is not None:
        names = _names(said if isinstance(said, list) else [said])
        return frozenset([_KINDS[name] for name in names if name in _KINDS])
    if "const" in schema:
        return frozenset([_kind_of(schema["const"])])
    if "enum" in schema:
        return frozenset([_kind_of(one) for one in _listed(schema["enum"])])
    return _MAP if "properties" in schema else frozenset()


def _kind_of(value: Json) -> Kind:  # noqa: PLR0911 - one for each kind
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "double"
        case str():
            return "text"
        case list():
            return "list"
        case dict():
            return "map"
        case None:
            return "null"


def _is_open(schema: Mapping[str, Json]) -> bool:
    """Whether an object may have fields that it does not declare, and says so or declares none."""
    if "additionalProperties" in schema:
        return schema["additionalProperties"] is not False or bool(schema.get("patternProperties"))
    return "properties" not in schema or "patternProperties" in schema


def _says_nothing(schema: Mapping[str, Json]) -> bool:
    return "properties" not in schema


def _is_plain(schema: Mapping[str, Json]) -> bool:
    """Whether nothing but branches stands in it that matters here."""
    return not schema.keys() & {"type", "properties", "enum", "const", "items"}


def _own(schema: Mapping[str, Json]) -> dict[str, Json]:
    return {name: part for name, part in schema.items() if name not in {"$ref", "anyOf", "oneOf", "allOf"}}


def _part(schema: Mapping[str, Json], name: str) -> dict[str, Json]:
    found = schema.get(name)
    return found if isinstance(found, dict) else {}


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _names(value: Json) -> list[str]:
    return [one for one in _listed(value) if isinstance(one, str)]
