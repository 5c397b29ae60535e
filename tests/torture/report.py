"""What the trials came to, as a table, a line and a page."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.torture.books import Database
from tests.torture.gate import Setup
from tests.torture.plans import meaningful
from tests.torture.points import (
    ACTIONS,
    LOOKING_UP,
    OUTSIDE,
    POINTS,
    WITHOUT_MEANING,
    Action,
    is_meaningful,
)
from tests.torture.promises import Tally, totals
from tests.torture.server import BLOWS, SERVER, STOPPED
from tests.torture.trial import Result
from toolgate.backends.sql_claims import GRACE

_WIDTH = 110
_HEAD = (
    "database",
    "mode",
    "gates",
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
    """Give a row for each database, mode and number of gates, and one for all."""
    rows = [
        (database, mode, str(number), *_figures(totals(result.tally for result in of)))
        for (database, mode, number), of in _grouped(results)
    ]
    rows.append(("all", "", "", *_figures(totals(result.tally for result in results))))
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
        coverage=coverage(results),
        meaningless=textwrap.fill(f"`-`: {'; '.join(_reasons())}.", _WIDTH),
        blows=_blows(results),
        stopped=STOPPED,
        silence=Setup.silence,
        lapse=Setup.timeout + Setup.grace,
        quiet=Setup.quiet,
        server_hang=Setup.silence + 0.5,
        hang=Setup.timeout + Setup.grace + Setup.quiet + Setup.patience / 2,
        grace=round(GRACE.total_seconds()),
    )


def coverage(results: Sequence[Result]) -> str:
    """Say what of all that can happen has happened."""
    met = [(happened, cell) for cell, of in _grouped(results) for happened in _counts(of)]
    missing = [
        f"{place} ({action}, {', '.join(map(str, cell))})"
        for (place, action, times), cell in met
        if not times
    ]
    said = f"{len(met) - len(missing)} of {len(met)} combinations of place, action, database, mode and gates"
    least = min(times for (_, _, times), _ in met)
    rest = f"all but: {', '.join(missing)}" if missing else f"the rarest {least} times"
    return textwrap.fill(f"{said} were met, {rest}.", _WIDTH)


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


def unmet(results: Sequence[Result]) -> list[str]:
    """Name the places at which nothing has ever happened: the harness has lost its hold on them."""
    met = {line.partition("|")[0] for result in results for line in result.troubles}
    modes = {result.cell.mode for result in results}
    places = [point for point in POINTS if "query" in modes or point not in LOOKING_UP]
    return [place for place in places if place not in met]


def _grouped(results: Sequence[Result]) -> Iterable[tuple[tuple[Database, str, int], list[Result]]]:
    groups: dict[tuple[Database, str, int], list[Result]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.database, cell.mode, cell.gates), []).append(result)
    return groups.items()


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _counts(results: Sequence[Result]) -> Iterable[tuple[str, str, int]]:
    """Give how often everything happened that can happen in one mode on one database."""
    happened, cell = _happened(results), results[0].cell
    for place, action in meaningful(cell.mode, cell.database):
        yield place, action, happened[f"{place}|{action}"]
    for blow in BLOWS if cell.database == "postgresql" else ():
        yield SERVER, blow, happened[f"{SERVER}|{blow}"]


def _happened(results: Sequence[Result]) -> Counter[str]:
    happened: Counter[str] = Counter()
    for result in results:
        happened.update(result.troubles)
    killed = sum(happened[f"{point}|kill"] for point in POINTS)
    happened[f"{OUTSIDE}|kill"] = sum(result.tally.kills for result in results) - killed
    return happened


def _troubles(results: Sequence[Result]) -> str:
    happened = _happened(results)
    rows = [
        (
            place,
            *(str(happened[f"{place}|{action}"]) if _ever(place, action) else "-" for action in ACTIONS),
        )
        for place in (*POINTS, OUTSIDE)
    ]
    return "\n".join(_aligned([("where", *ACTIONS), *rows]))


def _ever(place: str, action: Action) -> bool:
    return any(is_meaningful(place, action, database) for database in WITHOUT_MEANING)


def _reasons() -> Iterable[str]:
    every = dict[str, None]()
    for place in (*POINTS, OUTSIDE):
        for action in ACTIONS:
            if not _ever(place, action):
                every[WITHOUT_MEANING["sqlite"][place, action]] = None
    return every


def _blows(results: Sequence[Result]) -> str:
    happened = _happened(results)
    return "\n".join(_aligned([BLOWS, [str(happened[f"{SERVER}|{blow}"]) for blow in BLOWS]]))


_PAGE = """# Killed gates

What was found when this page was last written: {kills} gates killed with SIGKILL in the middle of {calls}
calls, each sent twice at the same time under one key and asked again until it was known what became of it
({answers} answers). `make torture` writes the page anew, with 3000 kills on SQLite and 1000 on PostgreSQL;
`make crash` does the same with 300 and 100, and writes nothing.

Each trial runs one or three gates, each a process, on one ledger, before a system that is a
process of its own, survives them, and writes down what it did. The ledger is an SQLite file; or a database of
a PostgreSQL server, to which the gates sign in as writers that own nothing, each with a spill folder and a
checkpoint of its own, as if on machines of their own. The system deals with duplicates in one of
the four ways of a manifest (`duplicates`), and breaks the line before or after it acts, acts only after
the line broke, answers slowly or, for `key`, gets a request twice. The ledger, the gateway, the runner of
adapters and the reconciler are the real ones; the policy allows everything, the credential is made up,
and terms are short: a call that has not ended is taken for lost after {lapse:.1f} s (outside of tests,
{grace} s after its tool's timeout) or when its gate is gone, and nothing that was sent is on its way any
more {quiet:.1f} s (the tool's `quiet_period`) after it was noticed that its gate is gone or has ended it.

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

`raise` is an error of the disk, the database or the line; before the end, a writer that does not answer in
time; before the reply, a caller who hears nothing. On PostgreSQL it breaks the connection: before a commit is
sent or, only there, when it is done and its answer is on the way. `hang` stops the whole process for
{hang:.1f} s, longer than until its calls are lost and their system is quiet, or, at a commit or a checkpoint,
the one writer, with the lock in its hand, or, about spilling, one thread; on PostgreSQL for
{server_hang:.1f} s, longer than the {silence:.1f} s of silence after which a gate may be
taken for gone. `slow` is a tenth of a second. From outside, both are a signal that stops the process,
wherever it is. Before the end's commit, `raise` also makes ends spill.

{meaningless}

What happened to the PostgreSQL server meanwhile, one thing after the other, a few seconds apart:

{blows}

A `fast restart` ends all sessions and writes a checkpoint; an `immediate restart` and a `killed` postmaster
(SIGKILL) leave the server to recover from its WAL. `a session stopped` is the process that serves one of a
gate's connections, by SIGSTOP for {stopped:.1f} s, with whatever lock it holds. Every intent and every end
that could be read once could be read after the last of it.

{coverage}

# What this does not test

- Loss of power: SIGKILL leaves what was written in the operating system's cache.
- A PostgreSQL whose disk lies about what it has written, or a standby that takes over without what the gates
  were told (a gate refuses one: `tests/test_postgres_failover.py`).
- A system that acts later than its manifest's `quiet_period` says, or forgets keys earlier than `key_ttl`
  says.
- By chance, hardly ever: a gate that is stopped between saying that it sends and sending, until its call was
  taken for lost, and whose request is then late as well. A test of its own does that
  (`tests/test_torture_cases.py`).
- On SQLite: a commit that reports an error and holds all the same.
- Callers that use a new key for the same wish.
- A `natural` system on which others set the same state in between.
"""
