"""What a reviewer saw of an operation, and how it differs from what the adapter says today."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final, Literal

from toolgate.backends.manifest_catalog import AdmittedTool
from toolgate.backends.registry_spelling import visible
from toolgate.core.canonical import canonical, digest
from toolgate.core.record import Json, JsonObject

_MOST_PLACES: Final = 5
_LONGEST_PLACE: Final = 100
_SCHEMAS: Final[Mapping[str, str]] = {"input": "input schema", "output": "output schema"}


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One operation as callers and models see it, and the adapter that it comes from."""

    tool: str
    """`system.operation`; the name that clients see is made of it."""
    adapter: str
    effect: str
    title: str
    description: str
    input: JsonObject
    output: JsonObject
    resource: str = ""
    """The address as a resource; empty: it is none."""
    prompt: bool = False

    @cached_property
    def parts(self) -> JsonObject:
        """Everything that is pinned, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def digest(self) -> str:
        """Tells it from any other: SHA-256 over its parts in canonical JSON (RFC 8785)."""
        return f"sha256:{digest(self.parts)}"


@dataclass(frozen=True)
class Change:
    """One difference. `before` and `after` are None where there is nothing, as `kind` says."""

    place: str
    """The part, and in a schema the way to it: `input.properties.amount.maximum`."""
    kind: Literal["added", "removed", "changed"]
    before: Json
    after: Json


def pin_of(tool: AdmittedTool) -> Pin:
    """Give what there is to review of a tool."""
    return Pin(
        tool=tool.name,
        adapter=tool.adapter,
        effect=tool.terms.effect,
        title=tool.title,
        description=tool.description,
        input=tool.input.document,
        output=tool.output.document,
        resource=tool.resource.text if tool.resource is not None else "",
        prompt=tool.prompt,
    )


def changes(before: Pin, after: Pin) -> list[Change]:
    """Say every difference between two pins, each with its place; none for pins of one digest."""
    return [
        change for part, value in before.parts.items() for change in _between(part, value, after.parts[part])
    ]


def in_words(found: Sequence[Change]) -> str:
    """Say briefly what is different. Of the adapter's words it repeats names of places, and no text."""
    said: list[str] = []
    for part in dict.fromkeys(change.place.partition(".")[0] for change in found):
        name = _SCHEMAS.get(part)
        if name is None:
            said.append(f"its {part} changed")
            continue
        inside = [change for change in found if change.place.startswith(f"{part}.") or change.place == part]
        places = [f"{_place(change, part)} {change.kind}" for change in inside[:_MOST_PLACES]]
        if len(inside) > _MOST_PLACES:
            places.append(f"and {len(inside) - _MOST_PLACES} more")
        said.append(f"its {name} changed ({', '.join(places)})")
    return "; ".join(said)


def _place(change: Change, part: str) -> str:
    place = visible(change.place.removeprefix(f"{part}."))
    return place if len(place) <= _LONGEST_PLACE else f"{place[:_LONGEST_PLACE]}..."


def _between(place: str, before: Json, after: Json) -> Iterator[Change]:
    if canonical(before) == canonical(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _of_member(f"{place}.{name}", name, before, after)
        return
    old, new = _names(before), _names(after)
    if old is None or new is None or old == new:
        yield Change(place, "changed", before, after)
        return
    yield from (Change(place, "added", None, name) for name in sorted(new - old))
    yield from (Change(place, "removed", name, None) for name in sorted(old - new))


def _of_member(place: str, name: str, before: JsonObject, after: JsonObject) -> Iterator[Change]:
    if name not in before:
        yield Change(place, "added", None, after[name])
    elif name not in after:
        yield Change(place, "removed", before[name], None)
    else:
        yield from _between(place, before[name], after[name])


def _names(value: Json) -> set[str] | None:
    """Give what a list such as that of required properties holds; its order says nothing."""
    if not isinstance(value, list):
        return None
    names = {part for part in value if isinstance(part, str)}
    return names if len(names) == len(value) else None
