"""`toolgate registry diff`: what a reviewer has to read, in full: what was, and what is."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Final

import typer
from rich.text import Text

from toolgate.backends.registry_lock import Standing
from toolgate.backends.registry_pins import Change, Pin, pin_of
from toolgate.backends.registry_spelling import visible, visible_json
from toolgate.cli.output import HERE, AsJson, Root, complain, out, print_json
from toolgate.cli.policy_parts import WRONG_USE, counted
from toolgate.cli.registry_parts import Tools, found_in
from toolgate.core.errors import Misconfigured
from toolgate.core.record import Json, JsonObject

_SCHEMAS: Final = ("input", "output")
_STYLES: Final = {"+": "green", "-": "red"}
_WHOLE: Final = 1_000_000
"""Lines around a change that are shown: all of them."""


def diff(tools: Tools = None, root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Show how the admitted tools differ from what was reviewed. Exits 0 when they do not, 1 when they do."""
    try:
        found = found_in(root, tools)
    except Misconfigured as error:
        complain(error, as_json=as_json)
        raise typer.Exit(WRONG_USE) from error
    other = [one for one in found if one.state != "pinned"]
    if as_json:
        print_json({"same": not other, "tools": [_document(one) for one in other]})
    else:
        _print(other, len(found))
    raise typer.Exit(1 if other else 0)


def _print(other: Sequence[Standing], all_: int) -> None:
    for one in other:
        for line in _lines(one):
            out().print(Text(line, style=_STYLES.get(line.lstrip()[:1], "")))
    if other:
        said = f"{counted(len(other), 'operation')} of {all_} to review; then: toolgate registry lock"
        out().print(Text(said, style="red"))
    else:
        out().print(Text(f"{counted(all_, 'operation')} as reviewed.", style="green"))


def _lines(one: Standing) -> Iterator[str]:
    yield f"{one.name}: {one.state}"
    match one.state:
        case "changed":
            for change in one.changes:
                yield f"  {visible(change.place)}: {change.kind}"
                yield from (f"    {line}" for line in _difference(change))
        case "not pinned" if one.tool is not None:
            for part, value in _reviewable(pin_of(one.tool)):
                yield f"  {part}:"
                yield from (f"    + {line}" for line in _spelled(part, value))
        case _:
            return


def _reviewable(pin: Pin) -> Iterator[tuple[str, Json]]:
    """Give the parts of a pin that say anything beside the tool's name."""
    return ((part, value) for part, value in pin.parts.items() if value and part != "tool")


def _difference(change: Change) -> Iterator[str]:
    before = [] if change.kind == "added" else _spelled(change.place, change.before)
    after = [] if change.kind == "removed" else _spelled(change.place, change.after)
    lines = difflib.unified_diff(before, after, n=_WHOLE, lineterm="")
    return (f"{line[0]} {line[1:]}" for number, line in enumerate(lines) if number >= _HEADER)


def _spelled(place: str, value: Json) -> list[str]:
    """Give the lines of a value, in which everything can be seen."""
    if isinstance(value, str) and place.partition(".")[0] not in _SCHEMAS:
        return [visible(line) for line in value.split("\n")]
    return visible_json(value, indent=2).split("\n")


def _document(one: Standing) -> JsonObject:
    return {
        "tool": one.name,
        "state": one.state,
        "changes": [
            {"place": change.place, "change": change.kind, "before": change.before, "after": change.after}
            for change in one.changes
        ],
        "reviewed": one.pin.parts if one.pin is not None else None,
        "admitted": pin_of(one.tool).parts if one.tool is not None else None,
    }


_HEADER: Final = 3
"""Lines that `unified_diff` begins with: two names and a place."""
