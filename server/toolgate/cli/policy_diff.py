"""`toolgate policy diff`: who gains and loses what between two policies."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.text import Text

from toolgate.backends.policy.access import Access, known_people
from toolgate.backends.policy.comparing import Difference, Shift, Witness, compare, place_of
from toolgate.backends.policy.explaining import aloud
from toolgate.cli.output import HERE, AsJson, Root, complain, out, print_json, printable
from toolgate.cli.policy_parts import (
    WRONG_USE,
    callers_of,
    catalog_of,
    counted,
    markdown_table,
    policy_called,
    short,
)
from toolgate.cli.policy_who_can import said_of
from toolgate.core.errors import LedgerUnavailable, Misconfigured, NothingRecorded
from toolgate.core.record import Json
from toolgate.settings import read_settings

Format = Literal["text", "markdown", "json"]
_SIGNS: Final = {"gain": "+", "loss": "-", "both": "±", "unclear": "~"}
_WORDS: Final = {
    "gain": "may do more",
    "loss": "may do less",
    "both": "more here, less there",
    "unclear": "other terms; no call that was tried tells them apart",
}


def diff(
    before: Annotated[str, typer.Argument(help="A folder, `active`, or a stored version.", metavar="A")],
    after: Annotated[str, typer.Argument(help="The same, of the newer one.", metavar="B")],
    tenant: Annotated[str | None, typer.Option(help="Only in this tenant.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = "text",
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Say who gains and loses what. Exits 0 when nothing changes in meaning, 1 when something does."""
    as_json = as_json or form == "json"
    try:
        found = _found(root, before, after, tenant)
    except (Misconfigured, NothingRecorded, LedgerUnavailable) as error:
        complain(error, as_json=as_json)
        raise typer.Exit(WRONG_USE) from error
    if as_json:
        print_json(_document(found))
    else:
        lines = _markdown(found) if form == "markdown" else _lines(found)
        for line in lines:
            out().print(Text(line if form == "markdown" else printable(line)))
    raise typer.Exit(0 if found.means_the_same else 1)


def _found(root: Path, before: str, after: str, tenant: str | None) -> Difference:
    settings = read_settings(root)
    old, new = (policy_called(root, settings, name) for name in (before, after))
    people = known_people([old, new], callers_of(settings), tenant)
    return compare(old, new, people, catalog_of(root, settings).tools)


def _lines(found: Difference) -> Iterator[str]:
    yield headline(found)
    if found.weakenings:
        yield "Weaker:"
        for weak in found.weakenings[:_MOST_ROWS]:
            where = " ".join(part for part in (weak.rule, weak.place) if part)
            yield f"  ! {weak.what}{f' ({where})' if where else ''}"
        yield from _more(found.weakenings)
    if found.shifts:
        yield "Who gains (+) and loses (-) what:"
        for shift in found.shifts[:_MOST_ROWS]:
            yield from _shift_lines(shift)
        yield from _more(found.shifts)
    yield from _rule_lines(found)


def headline(found: Difference) -> str:
    """Say in one line what changes between two policies."""
    if found.means_the_same:
        return f"{short(found.before)} and {short(found.after)} answer every call alike."
    gains, losses = (sum(s.direction in {way, "both"} for s in found.shifts) for way in ("gain", "loss"))
    return (
        f"{short(found.before)} to {short(found.after)}: {counted(len(found.weakenings), 'weakening')}, "
        f"{counted(gains, 'gain')}, {counted(losses, 'loss', 'losses')}"
    )


def _shift_lines(shift: Shift) -> Iterator[str]:
    people = ", ".join(_people(shift))
    yield f"  {_SIGNS[shift.direction]} {people} in {shift.tenant}: {shift.tool}: {_WORDS[shift.direction]}"
    yield f"      was: {_spoken(shift.before)}"
    yield f"      is:  {_spoken(shift.after)}"
    for witness in shift.witnesses:
        yield f"      such as {_spelled(witness)}: was {witness.before}, is {witness.after}"
    for title, lost in (("no longer obliged to", shift.obligations_lost), ("now", shift.obligations_new)):
        if lost:
            yield f"      {title}: {', '.join(lost)}"


def _people(shift: Shift) -> list[str]:
    names = ["anybody else" if name == "*" else name for name in shift.people]
    return names if len(names) <= _MOST_NAMED else [*names[:_MOST_NAMED], f"{len(names) - _MOST_NAMED} more"]


def _spoken(access: Access) -> str:
    terms = "; ".join(access.terms.spoken())
    return f"{access.level} {terms}" if access.level == "only if" else access.level


def _spelled(witness: Witness) -> str:
    if not witness.arguments:
        return "a call without arguments"
    return ", ".join(f"{name} = {_value(value)}" for name, value in witness.arguments.items())


def _value(value: Json) -> str:
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"a text of {len(value)} characters"
    return json.dumps(value, ensure_ascii=False)


def _rule_lines(found: Difference) -> Iterator[str]:
    if found.added or found.removed or found.changed:
        yield "Rules:"
    for rule in found.added:
        yield f"  + {rule.id} {place_of(rule)}: {aloud(rule)}"
    for rule in found.removed:
        yield f"  - {rule.id}: {aloud(rule)}"
    for change in found.changed:
        yield f"  ~ {change.id} {change.place}: {change.cell}: {change.before} -> {change.after}"


def _markdown(found: Difference) -> Iterator[str]:
    yield f"### Policy: {headline(found)}"
    if found.weakenings:
        yield from ("", "**Weaker**", "")
        rows = [(weak.what, weak.rule, weak.place) for weak in found.weakenings[:_MOST_ROWS]]
        yield from markdown_table(("what", "rule", "where"), rows)
        yield from _more(found.weakenings)
    if found.shifts:
        yield from ("", "**Who gains and loses what**", "")
        yield from markdown_table(
            ("", "who", "tenant", "tool", "was", "is", "such as"), map(_cells, found.shifts[:_MOST_ROWS])
        )
        yield from _more(found.shifts)
    if found.changed:
        yield from ("", "**Rules that changed**", "")
        rows_ = [(one.id, one.cell, one.before, one.after) for one in found.changed[:_MOST_ROWS]]
        yield from markdown_table(("rule", "cell", "was", "is"), rows_)


def _more(rows: Sequence[object]) -> Iterator[str]:
    if len(rows) > _MOST_ROWS:
        yield f"\nand {len(rows) - _MOST_ROWS} more; --json has all"


def _cells(shift: Shift) -> tuple[str, ...]:
    witness = "; ".join(f"{_spelled(one)}: {one.before} → {one.after}" for one in shift.witnesses)
    people = ", ".join(_people(shift))
    sign = _SIGNS[shift.direction]
    return sign, people, shift.tenant, shift.tool, _spoken(shift.before), _spoken(shift.after), witness


def _document(found: Difference) -> dict[str, Any]:
    return {
        "same": found.means_the_same,
        "before": found.before,
        "after": found.after,
        "weakenings": [vars(weak) for weak in found.weakenings],
        "shifts": [_said(shift) for shift in found.shifts],
        "rules": {
            "added": [rule.id for rule in found.added],
            "removed": [rule.id for rule in found.removed],
            "changed": [vars(change) for change in found.changed],
        },
    }


def _said(shift: Shift) -> dict[str, Any]:
    return {
        "direction": shift.direction,
        "who": list(shift.people),
        "tenant": shift.tenant,
        "tool": shift.tool,
        "before": said_of(shift.before),
        "after": said_of(shift.after),
        "examples": [vars(witness) for witness in shift.witnesses],
        "obligations_lost": list(shift.obligations_lost),
        "obligations_new": list(shift.obligations_new),
    }


_MOST_NAMED: Final = 5
_MOST_ROWS: Final = 50
_LONGEST: Final = 60
