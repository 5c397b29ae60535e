"""How a replay is said: to people, to programs, and in a pull request."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from toolgate.backends.ledger_entries import moment
from toolgate.backends.policy.replaying import Flip, Replayed
from toolgate.backends.recorded_calls import Window
from toolgate.cli.policy_parts import markdown_table, short

_MOST_ROWS: Final = 50
"""In text and Markdown; JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Replaying:
    """A replay that was done."""

    policy: str
    window: Window
    own_copies: bool
    """The ledger was verified by the key and the checkpoint beside it, not by copies from elsewhere."""
    found: Replayed

    @property
    def flips(self) -> list[tuple[Flip, int]]:
        """Give the flips: those that allow more first, then the most frequent."""
        found = self.found.flips.items()
        return sorted(found, key=lambda one: (one[0].direction != "gain", -one[1], _place(one[0])))

    @property
    def headline(self) -> str:
        """Say what came of it in one line."""
        found = self.found
        told = found.flips.total()
        return (
            f"{told} of {found.judged} calls would be answered otherwise "
            f"({found.flipped('gain')} allowed more, {found.flipped('loss')} allowed less); "
            f"of {found.untold.total()} it cannot be told"
        )


def lines(done: Replaying) -> Iterator[str]:
    """Say it to a person."""
    yield f"Policy {short(done.policy)}, {_span(done)}: {done.headline}."
    yield f"  {_verified(done)}"
    for flip, count in done.flips[:_MOST_ROWS]:
        sign = "+" if flip.direction == "gain" else "-"
        yield (
            f"  {sign} {count} x {flip.subject} in {flip.tenant}, {flip.tool}: {_was(flip)} -> {_is(flip)}"
            f" (call {done.found.examples[flip][0]})"
        )
    if more := len(done.flips[_MOST_ROWS:]):
        yield f"  and {more} more; --json has all"
    if done.found.untold:
        yield "Cannot tell:"
        for untold, count in done.found.untold.most_common():
            yield f"  {count} x {untold.tool}: {untold.reason}"
    for title, counts in (
        ("Tools that are gone", done.found.gone),
        ("Refused before the policy was asked", done.found.not_judged),
    ):
        if counts:
            yield f"{title}: {', '.join(f'{count} x {name}' for name, count in counts.most_common())}"


def markdown(done: Replaying) -> Iterator[str]:
    """Say it in a pull request: what allows more stands first."""
    yield f"### Policy replay: {done.headline}"
    yield ""
    yield f"Policy `{short(done.policy)}`, {_span(done)}. {_verified(done)}"
    if done.flips:
        yield ""
        columns = ("", "calls", "who", "tenant", "tool", "was", "would be", "such as")
        yield from markdown_table(columns, (_cells(done, *one) for one in done.flips[:_MOST_ROWS]))
    if more := len(done.flips[_MOST_ROWS:]):
        yield f"\nand {more} more; `--format json` has all"
    if done.found.untold:
        yield from ("", "**Cannot tell**", "")
        rows = [(f"{count}", one.tool, one.reason) for one, count in done.found.untold.most_common()]
        yield from markdown_table(("calls", "tool", "because"), rows)
    if done.found.gone:
        yield from ("", "**Tools that are gone**", "")
        gone = [(f"{count}", tool) for tool, count in done.found.gone.most_common()]
        yield from markdown_table(("calls", "tool"), gone)


def document(done: Replaying) -> dict[str, Any]:
    """Say it to a program."""
    found = done.found
    return {
        "policy": done.policy,
        "since": moment(done.window.since).isoformat(),
        "verified": {"entries": done.window.entries, "by_copies_kept_elsewhere": not done.own_copies},
        "judged": found.judged,
        "gain": found.flipped("gain"),
        "loss": found.flipped("loss"),
        "flips": [_said(done, *one) for one in done.flips],
        "cannot_tell": [
            {"tool": untold.tool, "because": untold.reason, "calls": count}
            for untold, count in found.untold.most_common()
        ],
        "gone": dict(found.gone),
        "not_judged": dict(found.not_judged),
    }


def _said(done: Replaying, flip: Flip, count: int) -> dict[str, Any]:
    return {
        "direction": flip.direction,
        "calls": count,
        "subject": flip.subject,
        "tenant": flip.tenant,
        "tool": flip.tool,
        "before": flip.before,
        "after": flip.after,
        "rule_before": flip.rule_before,
        "rule_after": flip.rule_after,
        "examples": done.found.examples[flip],
    }


def _cells(done: Replaying, flip: Flip, count: int) -> tuple[str, ...]:
    sign = "+" if flip.direction == "gain" else "-"
    example = done.found.examples[flip][0]
    return sign, f"{count}", flip.subject, flip.tenant, flip.tool, _was(flip), _is(flip), example


def _place(flip: Flip) -> tuple[str, ...]:
    return flip.tenant, flip.subject, flip.tool, flip.before, flip.after, flip.rule_before, flip.rule_after


def _was(flip: Flip) -> str:
    return f"{flip.before} ({flip.rule_before or 'no rule'})"


def _is(flip: Flip) -> str:
    return f"{flip.after} ({flip.rule_after or 'no rule'})"


def _span(done: Replaying) -> str:
    return f"calls since {moment(done.window.since):%Y-%m-%d %H:%M} UTC"


def _verified(done: Replaying) -> str:
    by = "the key and the checkpoint beside it" if done.own_copies else "copies that were kept elsewhere"
    return f"The ledger's {done.window.entries} entries are verified, by {by}."
