"""The auditors' questions get the same answers from SQLite, from PostgreSQL and from an export."""

import asyncio
import json
import sqlite3
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.databases import postgres
from tests.gate_on_scripted_system import rig
from tests.ledger_copies import copied_to_postgres
from tests.test_audit_queries import BOB, CAT, KEYS, VAST, a_story, minting
from toolgate.backends.audit_queries import Filter, Filters, Found, NamedQuery, ask, show
from toolgate.backends.audit_questions import BY_NAME, QUERIES
from toolgate.backends.export_parquet import export_parquet
from toolgate.backends.ledger_database import LedgerDatabase, SqliteFile
from toolgate.backends.owed import OwedLease, OwedRun
from toolgate.backends.parquet_files import ParquetExport
from toolgate.backends.policy_stored import StoredPolicies
from toolgate.backends.recorded_calls import RecordedCalls, Window
from toolgate.backends.sql_records import SqlRecords
from toolgate.core.canonical import canonical

NUL = "a\x00b \\u0000 \\"
HOSTILE = (NUL, "\\u0000", 'quo"te', "ünï\u2028cøde", "100%")


@dataclass(frozen=True)
class Everywhere:
    """One ledger in all databases."""

    lite: LedgerDatabase
    postgres: LedgerDatabase
    parquet: LedgerDatabase


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("pg")
    folder.chmod(0o700)
    with postgres(folder) as address:
        yield address


@pytest.fixture(scope="module")
def stories(server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Everywhere]:
    told: dict[str, Everywhere] = {}
    for name, story in STORIES.items():
        folder = tmp_path_factory.mktemp(name)
        asyncio.run(story(folder))
        told[name] = _everywhere(folder, server, name)
    return told


def _everywhere(folder: Path, server: str, name: str) -> Everywhere:
    file = SqliteFile(folder / "ledger.db")
    # In small parts, so that calls end in another file than they began in.
    export_parquet(file.engine(), folder / "export", part=7)
    return Everywhere(file, copied_to_postgres(file.path, server, name), ParquetExport(folder / "export"))


async def _calls(folder: Path) -> None:
    await a_story(folder)
    async with rig(folder) as gate:
        await gate.call("desk.read", VAST)
        for amount in range(len(HOSTILE)):
            await gate.call("desk.read", amount)
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        rows = "SELECT idx FROM payload WHERE field = 'arguments' ORDER BY idx DESC"
        for said, (idx,) in zip(HOSTILE, connection.execute(rows).fetchall(), strict=False):
            value = canonical({"said": said, "deep": [{"er": [said, True, None]}]})
            connection.execute(
                "UPDATE payload SET value = ? WHERE idx = ? AND field = 'arguments'", (value, idx)
            )
        connection.commit()


async def _leases(folder: Path) -> None:
    made: Any = {"read": ("dynamic", "kept"), "destroy": ("dynamic", "queued"), "write": ("token", "lapses")}
    async with minting(folder, **made) as (gate, call):
        for name in ("read", "read", "destroy", "write"):
            await call(f"desk.{name}")
        book = gate.parts.leases
        living = (await book.living()).found
        leases = [one for one in living if isinstance(one, OwedLease)]
        await book.ended([(one, "queued") for one in leases if one.state == "ending"])
        await book.ended([(one, "orphan") for one in leases if one.state == "out"])
        runs = [one for one in living if isinstance(one, OwedRun)]
        by = await gate.parts.pseudonyms.of("subject", CAT, "eve")
        await book.shall_end(runs, by)


async def _shadow(folder: Path) -> None:
    rules = (
        "p, W1, allow, worker, acme, desk.*, *, -, -, -\n"
        "p, S1, shadow-deny, *, acme, desk.write, *, args.amount > 1, -, -\n"
    )
    async with rig(folder, rules=rules) as gate:
        for amount in (1, 2, 3):
            await gate.call(amount=amount)


async def _lost(folder: Path) -> None:
    """Leave a call without an end: the export is made from what its gate had published before."""
    async with rig(folder) as gate:
        gate.purse.empty = True
        await gate.call("desk.write", 1, key=KEYS[0])
        gate.purse.empty = False
        gate.desk.behaviour = "unknown"
        await gate.call("desk.write", 2, key=KEYS[1])
        lent = gate.parts.entries.bare(
            "lease", "lent", call_id="c-none", intent=2, role="agent", static=False, lease="l-1"
        )
        await gate.parts.writer.write(lambda batch: batch.append(lent))


async def _midnight(folder: Path) -> None:
    clock = [datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)]
    async with rig(folder, clock=lambda: clock[-1]) as gate:
        for step in range(9):
            clock.append(clock[-1] + timedelta(seconds=7_201.0005, milliseconds=step))
            await gate.call("desk.read", step, at=clock[-1], caller=BOB if step % 3 == 0 else CAT)
            await gate.parts.writer.publish()


STORIES = {"calls": _calls, "leases": _leases, "shadow": _shadow, "lost": _lost, "midnight": _midnight}


def _asked(everywhere: Everywhere, query: NamedQuery) -> list[Filters]:
    """Give every filter that the query takes, alone and all together, with values that some rows have."""
    call: Any = ask(everywhere.lite, BY_NAME["calls"], {}, most=1000)
    middle = call.rows[len(call.rows) // 2]
    row = dict(zip(call.columns, middle, strict=True))
    moment = int(datetime.fromisoformat(row["time"]).timestamp() * 1_000_000)
    each: dict[Filter, str | int] = {
        "since": moment,
        "until": moment,
        "tenant": "acme",
        "subject": row["subject"],
        "tool": row["tool"],
        "run": "nightly",
        "call": row["call_id"],
        "value": "7",
        "hours": "22-06",
    }
    needed: dict[Filter, str | int] = {name: each[name] for name in query.needed}
    return [needed, *({**needed, name: each[name]} for name in sorted(query.filters))]


def _same(one: Found, other: Found) -> bool:
    """Compare answers; an age that was told a second later is a second greater."""
    if (one.columns, one.more, len(one.rows)) != (other.columns, other.more, len(other.rows)):
        return False
    aged = one.columns.index("age_seconds") if "age_seconds" in one.columns else None
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        for at, (left, right) in enumerate(zip(mine, theirs, strict=True)):
            if at == aged:
                if abs(left - right) > 60:
                    return False
            elif left != right or type(left) is not type(right):
                return False
    return True


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
@pytest.mark.parametrize("story", STORIES)
def test_every_question_has_one_answer_wherever_it_is_asked(
    stories: dict[str, Everywhere], story: str, query: NamedQuery
) -> None:
    everywhere = stories[story]
    every = _asked(everywhere, query)
    for filters in every if story == "calls" else every[:1]:
        most = 1000 if filters else 5
        lite = ask(everywhere.lite, query, filters, most=most)
        for other in (everywhere.postgres, everywhere.parquet):
            found = ask(other, query, filters, most=most)
            assert _same(lite, found), (other, filters, lite.rows, found.rows)


@pytest.mark.parametrize("value", [f"{VAST}", "1", "true", 'quo"te', "ünï\u2028cøde", "100%", "%", "\\", ""])
def test_a_value_in_arguments_is_found_wherever_it_is_sought(
    stories: dict[str, Everywhere], value: str
) -> None:
    everywhere = stories["calls"]
    answers = [ask(one, BY_NAME["touched"], {"value": value}, most=99) for one in _all(everywhere)]

    assert len({json.dumps(answer.rows) for answer in answers}) == 1


def test_a_nul_in_arguments_breaks_no_question(stories: dict[str, Everywhere]) -> None:
    everywhere = stories["calls"]
    found = ask(everywhere.parquet, BY_NAME["touched"], {"value": NUL}, most=9)
    shown = ask(everywhere.postgres, BY_NAME["touched"], {"value": NUL.replace("\0", "\ufffd")}, most=9)

    (row,) = found.rows
    assert shown.rows == [row], (
        "in PostgreSQL U+FFFD stands for it; the arguments are shown as they were spelled"
    )
    assert r"a\u0000b \\u0000 \\" in row[found.columns.index("arguments")]
    for one in _all(everywhere):
        assert len(ask(one, BY_NAME["calls"], {"tool": "a\0b"}, most=9).rows) == 0


def test_a_nul_in_a_name_or_a_reason_breaks_no_question(
    server: str, tmp_path: Path, stories: dict[str, Everywhere]
) -> None:
    copy = tmp_path / "ledger.db"
    lite = stories["calls"].lite
    assert isinstance(lite, SqliteFile)
    with closing(sqlite3.connect(lite.path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        value = rb'["acme","test","eve\u0000\\u0000"]'
        target.execute("UPDATE pseudonym SET value = ? WHERE CAST(value AS TEXT) LIKE '%\"eve\"%'", (value,))
        reason = rb'"no such\u0000number"'
        target.execute("UPDATE payload SET value = ? WHERE field = 'because'", (reason,))
        target.commit()
    everywhere = _everywhere(tmp_path, server, "nul")

    names = [
        [(row[4], row[5]) for row in ask(one, BY_NAME["resolutions"], {}, most=9).rows]
        for one in _all(everywhere)
    ]

    exact, shown = ("eve\x00\\u0000", "no such\x00number"), ("eve\ufffd\\u0000", "no such\ufffdnumber")
    assert names == [[("eve", "no such")], [shown], [exact]], "SQLite shows a text up to its first NUL"


def test_one_entry_is_shown_wherever_it_is(stories: dict[str, Everywhere]) -> None:
    everywhere = stories["calls"]
    for entry in (0, 3, 7):
        shown = [show(one, entry) for one in _all(everywhere)]
        assert shown[0] == shown[1] == shown[2]


def test_readers_find_in_postgresql_what_they_find_in_sqlite(stories: dict[str, Everywhere]) -> None:
    for everywhere in stories.values():
        found = list[Any]()
        for one in (everywhere.lite, everywhere.postgres):
            records = SqlRecords(one)
            calls = records.calls(most=99, subject="cat", tool=None)
            doubtful = records.doubtful(most=9, subject=None, tool=None, is_lost=lambda _owner, _until: True)
            entries = [records.entries(call.call_id) for call in calls]
            with closing(RecordedCalls(one)) as recorded:
                window = Window(entries=1000)
                judged = (list(recorded.within(window)), recorded.count(window), recorded.people())
                of_call = [recorded.of_call(call.call_id) for call in calls]
            policies = StoredPolicies(one)
            stored = (policies.newest(), policies.standing(), policies.versions())
            found.append((calls, doubtful, entries, judged, of_call, stored))
        assert found[0] == found[1]


def _all(everywhere: Everywhere) -> tuple[LedgerDatabase, ...]:
    return everywhere.lite, everywhere.postgres, everywhere.parquet
