"""What the trials came to, as a table, a line and a page."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.torture.points import POINTS
from tests.torture.promises import Tally, totals
from tests.torture.trial import Result

_HEAD = (
    "mode",
    "processes",
    "kills",
    "calls",
    "answers",
    "effects",
    "duplicates",
    "effects without intent",
    "acked without end",
    "unsettled",
    "left unknown",
)


def table(results: Sequence[Result]) -> str:
    """Give a row for each mode and number of processes, and one for all."""
    rows = [
        (mode, str(number), *_figures(totals(result.tally for result in of)))
        for mode, number, of in _grouped(results)
    ]
    rows.append(("all", "", *_figures(totals(result.tally for result in results))))
    return "\n".join(_aligned([_HEAD, *rows]))


def summary(results: Sequence[Result], seconds: float) -> str:
    """Say it in one line."""
    total = totals(result.tally for result in results)
    broken = sum(len(result.violations) for result in results)
    verdict = "every promise was kept" if not broken else f"{broken} PROMISES WERE BROKEN"
    return f"{total.kills} kills, {total.calls} calls in {seconds:.0f} s: {verdict}"


def page(results: Sequence[Result]) -> str:
    """Give the page of the documentation."""
    total = totals(result.tally for result in results)
    return _PAGE.format(
        kills=total.kills,
        calls=total.calls,
        answers=total.answers,
        seeds=", ".join(sorted({str(result.cell.seed) for result in results}, key=int)),
        table=table(results),
        troubles=_troubles(results),
    )


def _figures(tally: Tally) -> tuple[str, ...]:
    figures = (
        tally.kills,
        tally.calls,
        tally.answers,
        tally.effects,
        tally.duplicates,
        tally.without_intent,
        tally.without_end,
        tally.unsettled,
        tally.unknown,
    )
    return tuple(map(str, figures))


def _grouped(results: Sequence[Result]) -> Iterable[tuple[str, int, list[Result]]]:
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result.cell.mode, result.cell.processes), []).append(result)
    return ((mode, number, of) for (mode, number), of in groups.items())


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _troubles(results: Sequence[Result]) -> str:
    met: Counter[str] = Counter()
    for result in results:
        met.update(result.troubles)
    actions = ("kill", "raise", "hang", "slow")
    rows = [(point, *(str(met[f"{point}|{action}"] or "") for action in actions)) for point in POINTS]
    killed = sum(met[f"{point}|kill"] for point in POINTS)
    kills = totals(result.tally for result in results).kills
    rows.append(("anywhere, from outside", str(kills - killed), "", "", ""))
    return "\n".join(_aligned([("where", *actions), *rows]))


_PAGE = """# Killed gates

What was found when this page was last written: {kills} gates killed with SIGKILL in the middle of {calls}
calls, each sent twice at the same time under one key and asked again until it was known what became of it
({answers} answers). `make torture` writes the page anew, with 3000 kills; `make crash` the same with 300,
in two or three minutes, and writes nothing.

Each trial runs one or three gates, each a process, on one SQLite ledger, before a system that is a
process of its own, survives them, and writes down what it did. The system deals with duplicates in one of
the four ways of a manifest (`duplicates`), and breaks the line before or after it acts, acts only after
the line broke, answers slowly or, for `key`, gets a request twice. The ledger, the gateway, the runner of
adapters and the reconciler are the real ones; the policy allows everything, the credential is made up,
and timeouts are short: a call is taken for lost after 1.4 s, a system is quiet after 0.4 s.

Seeds: {seeds}.

{table}

- **duplicates**: effects of one call beyond the first, by the system's own log.
- **effects without intent**: effects at whose moment the intent could not be read in the database by
  another process.
- **acked without end**: answers *done* at whose arrival no outcome could be read there.
- **unsettled**: calls open at the end or, but for mode `none`, unknown.
- **left unknown**: in mode `none` nobody but a person can tell; neither answer would be right for all of
  them.

Besides: all final answers of one call were equal byte for byte, no call took effect of which a caller had
heard that nothing was done, a system of mode `none` was sent no call twice, the tree was computed anew
from the entries' bodies and agreed with tip, nodes and every published checkpoint, `tools/verify.py` and
SQLite's `integrity_check` found nothing.

How often what happened where:

{troubles}

`raise` is an error of the disk, the database or the line; `hang` stops the whole process for longer than
its calls' lapse, or, at a commit, the one writer, with the lock in its hand; `slow` is a tenth of a
second.

# What this does not test

- Loss of power: SIGKILL leaves what was written in the operating system's cache.
- PostgreSQL; the gate's ledger is SQLite.
- A system that acts later than its manifest's `quiet_period` says, or forgets keys earlier than `key_ttl`
  says.
- By chance, hardly ever: a gate that is stopped between saying that it sends and sending, until its call was
  taken for lost, and whose request is then late as well.
- Callers that use a new key for the same wish.
- A `natural` system on which others set the same state in between.
"""
