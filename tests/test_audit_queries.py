"""What auditors ask a ledger: each named query on a small real one, at the gate, at a shell and on a copy."""

import asyncio
import csv
import io
import json
import re
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import URL, create_engine, text

from tests.gate_on_scripted_system import ANN, Rig, ledger_in, rig
from tests.shell import document, done, faults, run
from toolgate.backends import audit_queries
from toolgate.backends.audit_queries import Filter, NamedQuery, ask, moment_in, show
from toolgate.backends.audit_questions import BY_NAME, QUERIES
from toolgate.backends.lease_book import LeaseBook, Living
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.owed import OwedLease, OwedRun
from toolgate.backends.sql_records import SqlRecords
from toolgate.backends.sql_tables import Stored
from toolgate.backends.sqlite_files import prepare
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Opened
from toolgate.core.errors import LedgerUnavailable, NothingRecorded
from toolgate.core.lease import Lease, LeaseEnd, LeaseKind, Lent
from toolgate.core.outcome import Answer, Outcome
from toolgate.core.retention import RetentionRule
from toolgate.core.tool import Tool
from toolgate.main import new_call_id, now
from toolgate.verifier import verify_ledger

BOB = Caller(subject="bob", issuer="test", tenant="acme", client="desk-bot", act=("helper",))
"""Has no role: nothing is visible to him."""
CAT = Caller(subject="cat", issuer="test", tenant="acme", client="desk-bot", roles=frozenset({"worker"}))
FORMULA = "=HYPERLINK(1)"
VAST = 12345678901234567890123
KEYS = tuple(f"a-key-of-16-chars-{number}" for number in range(5))
MIGRATIONS = Path(audit_queries.__file__).with_name("migrations")


class Told:
    """The ledger of a short story, and the answers that its callers got."""

    def __init__(self, database: Path, answers: dict[str, Answer]) -> None:
        self.database, self._answers = database, answers

    def id(self, name: str) -> str:
        return self._answers[name].call_id

    def entry(self, name: str) -> int:
        entry = self._answers[name].entry
        assert entry is not None
        return entry

    def rows(self, query: str, *columns: str, **asked: str | int) -> list[Any]:
        """Ask, and give some columns of each row."""
        filters: Any = asked
        assert BY_NAME[query].fault_in(filters) is None
        found = ask(SqliteFile(self.database), BY_NAME[query], filters, most=1000)
        picked = [found.columns.index(column) for column in columns]
        return [row[picked[0]] if len(picked) == 1 else tuple(row[at] for at in picked) for row in found.rows]


async def a_story(folder: Path) -> Told:
    answers: dict[str, Answer] = {}
    async with rig(folder) as gate:
        answers["read"] = await gate.call("desk.read", 7)
        answers["write"] = await gate.call("desk.write", 2, key=KEYS[0])
        answers["replay"] = await gate.call("desk.write", 2, key=KEYS[0])
        answers["conflict"] = await gate.call("desk.write", 3, key=KEYS[0])
        answers["denied"] = await gate.call("desk.write", 101, key=KEYS[1])
        answers["unseen"] = await gate.call("desk.read", 1, caller=BOB)
        answers["formula"] = await gate.call(FORMULA, 1)
        answers["destroy"] = await gate.call("desk.destroy", 4, key=KEYS[2], caller=CAT)
        gate.desk.behaviour = "unknown"
        answers["unknown"] = await gate.call("desk.write", 5, key=KEYS[3])
        answers["resolved"] = await gate.call("desk.write", 6, key=KEYS[4])
        gate.desk.behaviour = "does"
        await _say_nothing_was_done(gate, answers["resolved"].call_id)
        answers["in a run"] = await _in_a_run(gate)
        await gate.parts.writer.publish()
    return Told(folder / "ledger.db", answers)


async def _in_a_run(gate: Rig) -> Answer:
    return await gate.gateway.carry_out(
        Call(
            id=new_call_id(),
            caller=CAT,
            tool="desk.read",
            arguments={"amount": 8},
            received_at=now(),
            run="nightly",
            step="1",
        )
    )


async def _say_nothing_was_done(gate: Rig, call_id: str) -> None:
    by = await gate.parts.pseudonyms.of("subject", ANN, "eve")
    await gate.parts.doubts.resolve(call_id, None, by=by, because="the desk has no such number")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return asyncio.run(a_story(tmp_path_factory.mktemp("story")))


# --- the questions


def test_calls_are_told_with_who_what_and_how_they_ended(told: Told) -> None:
    columns = ("subject", "acting", "client", "tool", "asked", "effect", "verdict", "rules", "status")
    by_ann = ("ann", "[]", None)
    by_cat = ("cat", "[]", "desk-bot")

    assert told.rows("calls", *columns) == [
        (*by_cat, "desk.read", None, "read", "allow", '["W1"]', "done"),
        (*by_ann, "desk.write", None, "write", "allow", '["W1"]', "upstream_unknown"),
        (*by_ann, "desk.write", None, "write", "allow", '["W1"]', "upstream_unknown"),
        (*by_cat, "desk.destroy", None, "destroy", "allow", '["W1"]', "done"),
        (*by_ann, "", FORMULA, None, None, None, "unknown_tool"),
        ("bob", '["helper"]', "desk-bot", "", "desk.read", None, None, None, "unknown_tool"),
        (*by_ann, "desk.write", None, None, "deny", '["W2"]', "forbidden"),
        (*by_ann, "desk.write", None, None, "allow", '["W1"]', "idempotency_conflict"),
        (*by_ann, "desk.write", None, None, "allow", '["W1"]', "replayed"),
        (*by_ann, "desk.write", None, "write", "allow", '["W1"]', "done"),
        (*by_ann, "desk.read", None, "read", "allow", '["W1"]', "done"),
    ]


def test_a_call_names_the_entries_that_answered_its_caller(told: Told) -> None:
    ends = told.rows("calls", "end_entry", "call_id", tool="desk.destroy")

    assert ends == [(told.entry("destroy"), told.id("destroy"))]


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"tool": "desk.read"}, 2),
        ({"subject": "cat"}, 2),
        ({"subject": "nobody"}, 0),
        ({"tenant": "acme"}, 11),
        ({"tenant": "globex"}, 0),
        ({"run": "nightly"}, 1),
        ({"run": ""}, 0),
        ({"subject": "cat", "tool": "desk.read"}, 1),
        ({"since": 0}, 11),
        ({"until": 1}, 0),
        ({"subject": "' OR 1 --"}, 0),
        ({"tool": "%"}, 0),
        ({"call": "c\x00"}, 0),
        ({"tenant": "acme' UNION SELECT leaf FROM ledger_entry --"}, 0),
    ],
)
def test_a_filter_is_a_value_and_never_a_part_of_the_question(
    told: Told, asked: dict[str, str | int], count: int
) -> None:
    assert len(told.rows("calls", "entry", **asked)) == count


def test_a_call_is_found_by_its_id(told: Told) -> None:
    assert told.rows("calls", "status", call=told.id("denied")) == ["forbidden"]


def test_a_run_is_told_in_order(told: Told) -> None:
    assert told.rows("run", "subject", "tool", "status", "end_entry", run="nightly") == [
        ("cat", "desk.read", "done", told.entry("in a run"))
    ]


def test_a_decision_leads_to_the_policy_that_made_it(told: Told) -> None:
    ((rules, policy, registry, still),) = told.rows(
        "allowed-by", "rules", "policy", "registry", "still_in_force", call=told.id("read")
    )

    assert (rules, registry, still) == ('["W1"]', "c" * 64, "yes")
    assert told.rows("changes", "changed", "policy") == [("policy registry", policy)]


def test_denials_are_told_one_by_one_and_by_rule(told: Told) -> None:
    assert told.rows("denials", "subject", "asked", "status", "rules") == [
        ("ann", FORMULA, "unknown_tool", None),
        ("bob", "desk.read", "unknown_tool", None),
        ("ann", None, "forbidden", '["W2"]'),
    ]
    assert told.rows("denials-by-rule", "rule", "status", "subject", "calls") == [
        (None, "unknown_tool", "ann", 1),
        (None, "unknown_tool", "bob", 1),
        ("W2", "forbidden", "ann", 1),
    ]
    assert told.rows("approvals", "entry") == []


def test_only_what_nobody_has_settled_is_unknown(told: Told) -> None:
    assert told.rows("unknowns", "entry", "status", "why", "call_id") == [
        (told.entry("unknown"), "upstream_unknown", "it ended unknown", told.id("unknown"))
    ]
    assert told.rows("unknowns", "call_id", subject="cat") == []
    assert all(0 <= age < 3600 for age in told.rows("unknowns", "age_seconds"))


def test_a_resolution_is_told_with_who_made_it_and_why(told: Told) -> None:
    assert told.rows("resolutions", "kind", "status", "by_whom", "because", "call_id") == [
        ("resolve", "nothing_done", "eve", "the desk has no such number", told.id("resolved"))
    ]


def test_duplicates_prevented_point_at_the_first_answer(told: Told) -> None:
    first = told.entry("write")

    assert told.rows("duplicates-prevented", "status", "answered_with", "call_id") == [
        ("idempotency_conflict", first, told.id("write")),
        ("replayed", first, told.id("write")),
    ]


def test_every_credential_was_given_back_before_its_call_ended(told: Told) -> None:
    lent = told.rows("leases", "lease", "role", "static", "status", "end_entry", subject="cat")

    assert lent == [
        (told.id(name), "agent", 1, "given_back", told.entry(name)) for name in ("in a run", "destroy")
    ]
    assert told.rows("leases-astray", "lease") == []


async def test_a_credential_is_astray_when_its_gate_died_before_it_was_given_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.hold = asyncio.Event()
        calling = asyncio.create_task(gate.call("desk.write", 1, key=KEYS[0]))
        await gate.desk.at_work.wait()
        killed = Told(_copied(gate.database, tmp_path / "killed.db"), {})
        gate.desk.hold.set()
        answer = await calling
    hour = 3600 * 1_000_000
    late = int(now().timestamp() * 1_000_000) + hour

    assert killed.rows("leases-astray", "tool", "role", "end_entry", "call_id", until=late) == [
        ("desk.write", "agent", None, answer.call_id)
    ]
    assert killed.rows("leases", "status", "lent_ms") == [("lent", None)]
    assert all(0 <= age < 3600 for age in killed.rows("leases-astray", "age_seconds"))
    assert killed.rows("leases-astray", "call_id", until=late - 2 * hour) == [], "it is not that old"
    alive = Told(gate.database, {})
    assert alive.rows("leases-astray", "call_id") == []
    assert alive.rows("leases", "status", "call_id") == [("given_back", answer.call_id)]


async def test_a_credential_that_was_lent_is_astray_even_where_its_call_ended(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.purse.empty = True
        answer = await gate.call("desk.write", 1, key=KEYS[0])
        story = Told(gate.database, {})
        assert story.rows("leases", "entry") == story.rows("leases-astray", "entry") == [], "none was lent"

        intent = show(SqliteFile(gate.database), answer.entry or 0).body["intent"]
        lent = gate.parts.entries.bare(
            "lease", "lent", call_id=answer.call_id, intent=intent, role="agent", static=False, lease="l-1"
        )
        await gate.parts.writer.write(lambda batch: batch.append(lent))

        assert story.rows("leases-astray", "lease", "intent", "end_entry") == [("l-1", intent, answer.entry)]


class Mint:
    """A vault that makes credentials as `made` says of their tools, and before that the token of the run."""

    def __init__(self, book: LeaseBook, made: dict[str, tuple[LeaseKind, LeaseEnd]]) -> None:
        self._book, self._made, self._kept = book, made, dict[str, Lease]()

    async def lend(self, tool: Tool, call: Call, opened: Opened) -> Lease:
        """Lend a credential; what the run keeps is lent once."""
        if (kept := self._kept.get(tool.name)) is not None:
            return kept
        kind, end = self._made[tool.name]
        until, request = now() + timedelta(seconds=60), call.id
        if not self._kept:
            await self._book.opened_run(call, tool, opened, "a-nightly", until, f"r-{request}")
        lent = Lent(id=f"{tool.name}-{request}", role="agent", source="vault", kind=kind, request=request)
        lent = lent.model_copy(update={"scope": "database/creds/a as a", "ttl": 60, "end": end})
        if kind != "static":
            lent = await self._book.lent(call, tool, opened, lent, until, "a-nightly")
        lease = Lease(secret=SecretStr("s"), lent=lent, until=until, shared=end == "kept")
        self._kept |= {tool.name: lease} if lease.shared else {}
        return lease

    async def take_back(self, lease: Lease, outcome: Outcome | None = None) -> tuple[Lent, ...]:
        """Nothing is ended but on paper."""
        return (lease.lent,)


@asynccontextmanager
async def minting(
    folder: Path, clock: Callable[[], datetime] = now, **made: tuple[LeaseKind, LeaseEnd]
) -> AsyncGenerator[tuple[Rig, Callable[[str], Awaitable[Answer]]]]:
    """Open a gate whose vault makes credentials, and give it with a call of a tool in the run `nightly`."""
    async with rig(folder, clock=clock) as gate:
        mint = Mint(gate.parts.leases, {f"desk.{name}": how for name, how in made.items()})
        gateway, keys = replace(gate.gateway, vault=mint), iter(KEYS)
        await gate.parts.governing.take_up(gateway.rulebook(), {})

        async def call(tool: str) -> Answer:
            asked = Call(
                id=new_call_id(),
                caller=CAT,
                tool=tool,
                arguments={"amount": 1},
                received_at=now(),
                key=next(keys),
                run="nightly",
            )
            return await gateway.carry_out(asked)

        yield gate, call


async def test_only_what_may_still_live_is_astray(tmp_path: Path) -> None:
    made: Any = {"read": ("static", "kept"), "write": ("token", "kept"), "destroy": ("dynamic", "kept")}
    async with minting(tmp_path / "1", **made) as (gate, call):
        for name in made:
            await call(f"desk.{name}")
        assert Told(gate.database, {}).rows("leases-astray", "tool") == ["desk.destroy", "desk.write"]
    past = datetime(2026, 3, 1, tzinfo=UTC)
    async with minting(tmp_path / "2", lambda: past, **made) as (gate, call):
        for name in made:
            await call(f"desk.{name}")
        assert Told(gate.database, {}).rows("leases-astray", "tool") == ["desk.destroy"], (
            "nobody recorded its end"
        )


async def test_a_lease_is_told_with_what_it_was_good_for_and_how_it_ended(tmp_path: Path) -> None:
    made: Any = {"read": ("dynamic", "kept"), "destroy": ("dynamic", "queued"), "write": ("token", "lapses")}
    async with minting(tmp_path, **made) as (gate, call):
        first, second, slow, signed = [
            (await call(tool)).call_id for tool in ("desk.read", "desk.read", "desk.destroy", "desk.write")
        ]
        told, book = Told(gate.database, {}), gate.parts.leases
        columns = ("call_id", "status", "because")
        assert told.rows("leases", *columns) == [
            (signed, "lapses", None),
            (slow, "queued", None),
            (second, "kept", None),
            (first, "kept", None),
        ]
        fields = ("role", "source", "made", "static", "scope", "ttl", "version", "request", "lent_ms")
        assert told.rows("leases", *fields, call=second) == [
            ("agent", "vault", "dynamic", 0, "database/creds/a as a", 60, None, first, None)
        ]
        assert told.rows("leases-astray", "call_id", "status") == [(slow, "queued"), (first, "kept")]

        leases = [one for one in (await book.living()).found if isinstance(one, OwedLease)]
        await book.ended([(one, "queued") for one in leases if one.state == "ending"])
        await book.ended([(one, "orphan") for one in leases if one.state == "out"])

        assert told.rows("leases", *columns) == [
            (signed, "lapses", None),
            (slow, "given_back", "queued"),
            (second, "revoked", "orphan"),
            (first, "revoked", "orphan"),
        ]
        assert all(0 <= lent < 60_000 for lent in told.rows("leases", "lent_ms") if lent is not None)
        assert [lent is None for lent in told.rows("leases", "lent_ms")] == [True, False, False, False]
        assert told.rows("leases-astray", "call_id") == []


async def test_a_token_of_a_run_is_told_with_who_wanted_its_end(tmp_path: Path) -> None:
    async with minting(tmp_path, read=("dynamic", "kept")) as (gate, call):
        first = await call("desk.read")
        told, book = Told(gate.database, {}), gate.parts.leases
        columns = ("run_name", "subject", "accessor", "request", "status", "because", "asked_by", "end_entry")
        opened = ("nightly", "cat", "a-nightly", f"r-{first.call_id}")
        assert told.rows("vault-runs", *columns) == [(*opened, "open", None, None, None)]

        by = await gate.parts.pseudonyms.of("subject", ANN, "eve")
        await book.shall_end(_runs_in(await book.living()), by)
        await book.ended([(run, "person") for run in _runs_in(await book.living())])

        ((*row, end),) = told.rows("vault-runs", *columns, run="nightly", call=first.call_id)
        assert row == [*opened, "revoked", "person", "eve"]
        assert show(SqliteFile(gate.database), end).body["accessor"] == "a-nightly"
        assert told.rows("leases", "status", "because") == [("revoked", "person")], "it went with the run"
        assert told.rows("vault-runs", "entry", tool="desk.write") == []
    assert verify_ledger(tmp_path / "ledger.db").faults == []


def _runs_in(living: Living) -> list[OwedRun]:
    return [one for one in living.found if isinstance(one, OwedRun)]


@pytest.mark.parametrize(
    ("value", "tools"), [("7", ["desk.read"]), ("4", ["desk.destroy"]), ('"', []), ("", []), ("%", [])]
)
def test_what_touched_a_value_is_found_in_the_arguments_that_were_kept(
    told: Told, value: str, tools: list[str]
) -> None:
    assert told.rows("touched", "tool", value=value) == tools


def test_definitions_count_the_calls_that_were_made_under_them(told: Told) -> None:
    rows = told.rows("definitions", "tool", "calls", "definition")

    assert [row[:2] for row in rows] == [("desk.destroy", 1), ("desk.read", 2), ("desk.write", 3)]
    assert len({row[2] for row in rows}) == 3


def test_what_destroyed_something_is_told(told: Told) -> None:
    assert told.rows("destroyed", "subject", "call_id") == [("cat", told.id("destroy"))]


def test_calls_outside_the_usual_hours_are_those_that_are_not_inside(told: Told) -> None:
    assert told.rows("outside-hours", "entry", hours="00-24") == []


@pytest.mark.parametrize(
    ("hours", "outside"),
    [
        ("08-18", [5, 6, 18, 21, 22]),
        ("22-06", [6, 8, 17, 18, 21]),
        ("18-00", [5, 6, 8, 17]),
        ("00-06", [6, 8, 17, 18, 21, 22]),
    ],
)
async def test_hours_may_go_over_midnight(tmp_path: Path, hours: str, outside: list[int]) -> None:
    clock = [datetime(2026, 3, 1, tzinfo=UTC)]
    async with rig(tmp_path, clock=lambda: clock[-1]) as gate:
        for hour in (5, 6, 8, 17, 18, 21, 22):
            clock.append(datetime(2026, 3, 1, hour, 30, tzinfo=UTC))
            await gate.call("desk.read", hour, at=clock[-1])

        found = Told(gate.database, {}).rows("outside-hours", "time", hours=hours)

    assert [int(time[11:13]) for time in reversed(found)] == outside


def test_clients_and_callers_are_counted(told: Told) -> None:
    assert told.rows("clients", "client", "subjects", "calls") == [(None, 1, 8), ("desk-bot", 2, 3)]
    assert told.rows("top-callers", "tenant", "subject", "calls", "refused") == [
        ("acme", "ann", 8, 2),
        ("acme", "cat", 2, 0),
        ("acme", "bob", 1, 1),
    ]


def test_latencies_are_those_of_calls_that_ended(told: Told) -> None:
    rows = told.rows("latency", "tool", "calls", "p50_ms", "p99_ms", "max_ms")

    assert {row[:2] for row in rows} == {("desk.write", 3), ("desk.read", 2), ("desk.destroy", 1)}
    assert all(0 <= p50 <= p99 == most for _, _, p50, p99, most in rows)


def test_the_first_use_of_a_tool_is_told_for_each_subject(told: Told) -> None:
    firsts = told.rows("first-use", "subject", "tool", "call_id")

    assert firsts == [
        ("cat", "desk.read", told.id("in a run")),
        ("cat", "desk.destroy", told.id("destroy")),
        ("ann", "desk.write", told.id("write")),
        ("ann", "desk.read", told.id("read")),
    ]
    assert told.rows("first-use", "tool", subject="cat", tool="desk.read") == ["desk.read"]


def test_a_writer_has_its_begin_and_its_end(told: Told) -> None:
    rows = told.rows("gaps", "entry", "kind", "stop_entry")

    assert rows == [(1, "writer_start", told.entry("in a run") + 1), (0, "genesis", None)]


def test_a_call_is_covered_by_the_first_checkpoint_behind_its_end(told: Told) -> None:
    last = told.entry("in a run")

    assert told.rows("published", "checkpoint", "proof", call=told.id("in a run")) == [
        (last + 1, f"toolgate ledger prove {last}")
    ]
    checkpoints = told.rows("checkpoints", "size", "root")
    assert [size for size, _ in checkpoints] == [last + 2, last + 1]
    assert all(len(root) == 44 and root.endswith("=") for _, root in checkpoints)


async def test_what_rules_in_shadow_would_have_said_is_counted(tmp_path: Path) -> None:
    rules = (
        "p, W1, allow, worker, acme, desk.*, *, -, -, -\n"
        "p, S1, shadow-deny, *, acme, desk.write, *, args.amount > 1, -, -\n"
    )
    async with rig(tmp_path, rules=rules) as gate:
        for amount in (1, 2, 3):
            await gate.call(amount=amount)

    told = Told(tmp_path / "ledger.db", {})
    columns = ("would_rule", "tool", "verdict", "would_be", "calls")
    assert told.rows("shadow", *columns) == [("S1", "desk.write", "allow", "deny", 2)]


def test_arguments_are_shown_as_they_were_kept(told: Told) -> None:
    assert told.rows("arguments", "field", "kept", "value", call=told.id("write")) == [
        ("arguments", 1, '{"amount":2}'),
        ("caller", 1, '{"roles":["worker"],"scopes":[]}'),
        ("result", 1, '{"number":2}'),
    ]


def test_nobody_has_read_nobody_was_refused_a_token_and_nobody_is_erased(told: Told) -> None:
    for query in ("who-read", "auth-failures", "erased"):
        assert told.rows(query, "entry" if query != "erased" else "who") == []


def test_somebody_whose_name_was_erased_stays_in_the_ledger_as_a_pseudonym(
    told: Told, tmp_path: Path
) -> None:
    copy = _copied(told.database, tmp_path / "copy.db")
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("DELETE FROM pseudonym WHERE json_extract(CAST(value AS TEXT), '$[2]') = 'cat'")
        connection.commit()
    erased = Told(copy, {})

    ((who, calls),) = erased.rows("erased", "who", "calls")
    assert calls == 2
    assert erased.rows("calls", "subject", subject=who) == [who, who]
    assert erased.rows("calls", "subject", subject="cat") == []


async def test_what_was_erased_and_what_was_over_is_told_with_its_reason(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await gate.call("desk.read")
        await gate.call("desk.read", caller=ANN.model_copy(update={"subject": "cat"}))
        parts = gate.parts
        (cat,) = await parts.erasing.people("cat", tenant=None, issuer=None)
        begun = await parts.erasing.begin(await parts.erasing.survey(cat), by="p0", basis="request 7")
        before = Told(gate.database, {}).rows("erasures", "entry", "stands", "done_entry", "removed_values")
        (erased,) = await parts.erasing.go_on()
        rules = (RetentionRule(values=("result",), days=1e-9),)
        await replace(parts.retaining, rules=rules).go_on()

        told = Told(gate.database, {})
        assert before == [(begun.entry, "begun", None, None)]
        row = ("basis", "stands", "done_entry", "removed_values", "by_whom", "subjects", "clients", "runs")
        assert told.rows("erasures", *row) == [("request 7", "done", erased.done, 3, "p0", 1, 0, 0)]
        assert told.rows("erasures", "entry", tenant="another") == []
        assert told.rows("retention", "rule", "days", "results", "names", "arguments") == [
            (1, "1e-09", 1, None, None)
        ]


async def test_a_call_that_was_lost_is_unknown_until_it_is_asked_again(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.hold = asyncio.Event()
        calling = asyncio.create_task(gate.call("desk.write", 1, key=KEYS[0]))
        await gate.desk.at_work.wait()
        before = Told(gate.database, {})
        assert before.rows("unknowns", "status", "why") == [("opened", "no end is recorded")]
        assert before.rows("calls", "status", "end_entry") == [("open", None)]
        gate.desk.hold.set()
        await calling
        assert before.rows("unknowns", "status") == []


def test_an_answer_says_that_there_is_more(told: Told) -> None:
    found = ask(SqliteFile(told.database), BY_NAME["calls"], {}, most=10)

    assert (len(found.rows), found.more) == (10, True)
    assert not ask(SqliteFile(told.database), BY_NAME["calls"], {}, most=11).more


def test_every_question_is_tested_here_and_explained() -> None:
    tests = Path(__file__).read_text("utf-8")
    page = (Path(__file__).resolve().parents[1] / "docs/reference/queries.md").read_text("utf-8")

    for query in QUERIES:
        assert f'"{query.name}"' in tests, query.name
        assert f"## `{query.name}`" in page, query.name


def test_every_column_is_explained(told: Told) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/reference/queries.md").read_text("utf-8")
    beside: dict[Filter, str] = {"value": "7", "hours": "08-18", "run": "nightly", "call": told.id("write")}
    for query in QUERIES:
        asked: Any = {name: text for name, text in beside.items() if name in query.needed}
        section = page.split(f"## `{query.name}`\n")[1].split("\n## ")[0]
        for column in ask(SqliteFile(told.database), query, asked, most=1).columns:
            assert f"`{column}`" in section, f"{query.name} {column}"


# --- one entry


def test_an_entry_is_shown_with_names_and_the_values_that_it_commits_to(told: Told) -> None:
    shown = show(SqliteFile(told.database), told.entry("write"))

    assert shown.body["kind"] == "outcome"
    assert list(shown.names.values()) == ["ann"]
    (result,) = shown.committed
    assert (result.field, result.value, result.opens) == ("result", {"number": 2}, True)


def test_a_value_that_was_changed_does_not_open_its_commitment(told: Told, tmp_path: Path) -> None:
    copy = _copied(told.database, tmp_path / "copy.db")
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE payload SET value = CAST('{\"number\":3}' AS BLOB) WHERE field = 'result'")
        connection.execute("UPDATE payload SET value = NULL WHERE field = 'arguments'")
        connection.commit()

    (result,) = show(SqliteFile(copy), told.entry("write")).committed
    assert (result.value, result.opens) == ({"number": 3}, False)
    arguments, caller = show(SqliteFile(copy), told.entry("write") - 2).committed
    assert (arguments.kept, arguments.opens) == (False, None)
    assert (caller.kept, caller.opens) == (True, True)


async def test_an_integer_of_any_size_is_shown_as_it_was_kept(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        answer = await gate.call("desk.read", VAST)
        assert answer.entry is not None
        shown = show(SqliteFile(gate.database), answer.entry)
        intent, *_, outcome = SqlRecords(SqliteFile(gate.database)).entries(answer.call_id)

    (result,) = shown.committed
    assert (result.value, result.opens) == ({"number": VAST}, True)
    caller: dict[str, Any] = {"roles": ["worker"], "scopes": []}
    assert intent["captured"] == {"arguments": {"amount": VAST}, "caller": caller}
    assert outcome["captured"] == {"result": {"number": VAST}}
    story = Told(tmp_path / "ledger.db", {})
    assert story.rows("touched", "call_id", value=f"{VAST}") == [answer.call_id]
    assert story.rows("touched", "call_id", value=f"{VAST + 1}") == []


def test_an_entry_that_is_not_there_is_said_to_be_none(told: Told) -> None:
    with pytest.raises(NothingRecorded, match="there is no entry 999"):
        show(SqliteFile(told.database), 999)


# --- times


@pytest.mark.parametrize(
    ("words", "moment"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:30", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("2026-03-01T12:30:00+02:00", datetime(2026, 3, 1, 10, 30, tzinfo=UTC)),
        ("7d", datetime(2026, 3, 24, tzinfo=UTC)),
        ("24h", datetime(2026, 3, 30, tzinfo=UTC)),
        ("90m", datetime(2026, 3, 30, 22, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_a_date_or_so_long_ago(words: str, moment: datetime) -> None:
    assert moment_in(words, datetime(2026, 3, 31, tzinfo=UTC)) == int(moment.timestamp()) * 1_000_000


@pytest.mark.parametrize("words", ["", "yesterday", "7", "-7d", "7y", "999999w", "2026-13-01", "1; DROP"])
def test_what_is_no_time_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|before all times"):
        moment_in(words, datetime(2026, 3, 31, tzinfo=UTC))


# --- the tables and the views


def test_the_migrations_make_the_tables_that_the_program_declares(tmp_path: Path) -> None:
    migrated, declared = tmp_path / "migrated.db", tmp_path / "declared.db"
    prepare(migrated)
    Stored.metadata.create_all(create_engine(URL.create("sqlite", database=str(declared))))

    engine = create_engine(URL.create("sqlite", database=str(migrated)))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Stored.metadata) == []
    assert _shape(migrated) == _shape(declared)


def test_a_ledger_of_the_first_revision_is_brought_up_with_its_tree(tmp_path: Path) -> None:
    told = asyncio.run(a_story(tmp_path))
    before = _tree(told.database)
    _take_back_to_the_first_revision(told.database)
    with pytest.raises(LedgerUnavailable, match="none of the views"):
        ask(SqliteFile(told.database), BY_NAME["calls"], {}, most=1)

    asyncio.run(ledger_in(tmp_path).aclose())

    assert _tree(told.database) == before, "nothing was written, so the tree is the same"
    assert len(told.rows("calls", "entry")) == 11


# --- at a shell


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a deployment's folder, on a wide terminal, after one call and one refusal."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    done("call", "notes.add", "--args", '{"text": "once"}', "--key", KEYS[0])
    run("call", "notes.remove", "--args", '{"id": 1}', "--key", KEYS[1])
    return root


@pytest.mark.usefixtures("here")
def test_without_a_name_the_questions_are_listed() -> None:
    assert {named["name"] for named in document("ledger", "query")} == set(BY_NAME)
    assert "Who called which tool" in done("ledger", "query")


@pytest.mark.usefixtures("here")
def test_a_question_is_answered_for_people_and_for_programs() -> None:
    calls = document("ledger", "query", "calls", "--tool", "notes.add", "--since", "1h")

    assert [(call["subject"], call["status"]) for call in calls] == [("mia", "done")]
    table = done("ledger", "query", "approvals")
    assert "N04" in table
    assert "notes.remove" in table


@pytest.mark.usefixtures("here")
def test_more_rows_than_were_asked_for_are_announced() -> None:
    result = run("ledger", "query", "calls", "--most", "1", "--json")

    assert len(json.loads(result.stdout)) == 1
    assert "there are more than 1" in result.stderr


@pytest.mark.usefixtures("here")
def test_who_reads_is_recorded_before_anything_is_shown() -> None:
    done("ledger", "query", "calls", "--subject", "mia")
    reads = document("ledger", "query", "who-read")

    assert [read["query"] for read in reads] == ["who-read", "calls"]
    assert json.loads(reads[1]["asked"]) == {"most": 100, "subject": "mia"}
    assert reads[0]["reader"] == reads[1]["reader"] != ""
    shown = document("ledger", "show", str(reads[1]["entry"]))
    assert shown["body"]["kind"] == "audit_read"
    assert shown["names"] == {shown["body"]["by"]: reads[1]["reader"]}


def test_nothing_is_shown_where_the_reading_cannot_be_recorded(here: Path) -> None:
    (here / "data" / "checkpoint").unlink()

    result = run("ledger", "query", "calls")

    assert result.exit_code == 1
    assert "mia" not in result.output
    assert "checkpoint" in faults("ledger", "show", "0")


def test_reading_a_copy_is_not_recorded_and_needs_no_deployment(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _copied(here / "data" / "toolgate.db", tmp_path / "copy.db")
    monkeypatch.chdir(tmp_path)
    before = copy.read_bytes()

    assert len(document("ledger", "query", "calls", "--db", str(copy))) == 2
    assert document("ledger", "show", "0", "--db", str(copy))["body"]["kind"] == "genesis"
    assert copy.read_bytes() == before


@pytest.mark.usefixtures("here")
def test_a_spreadsheet_runs_nothing_of_what_a_caller_wrote() -> None:
    for name in ("=1+1", "+1", "-1", "@x", "plain"):
        run("call", "--", name)

    rows = list(csv.DictReader(io.StringIO(done("ledger", "query", "denials", "--csv"))))

    asked = {row["asked"] for row in rows}
    assert {"'=1+1", "'+1", "'-1", "'@x", "plain"} <= asked
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.usefixtures("here")
def test_an_entry_is_shown_to_people_with_what_it_commits_to() -> None:
    (call,) = document("ledger", "query", "calls", "--tool", "notes.add")

    said = done("ledger", "show", str(call["entry"]))

    assert "is mia" in said
    assert '{"text": "once"} (as committed)' in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense",), "there is no query 'nonsense'"),
        (("run",), "run needs --run"),
        (("changes", "--tool", "x"), "changes takes no --tool"),
        (("calls", "--since", "someday"), "is no time"),
        (("outside-hours", "--hours", "8-6pm"), "are no hours"),
        (("outside-hours", "--hours", "09-25"), "are no hours"),
        (("outside-hours", "--hours", "08-08"), "are no hours; say 08-18, or 22-06 for those over midnight"),
        (("calls", "--most", "0"), "--most"),
    ],
)
def test_a_question_that_is_asked_wrongly_ends_with_2_and_is_not_recorded(
    words: tuple[str, ...], said: str
) -> None:
    result = run("ledger", "query", *words)

    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert [read["query"] for read in document("ledger", "query", "who-read")] == ["who-read"]


def test_a_file_that_is_no_ledger_is_said_to_be_none(tmp_path: Path) -> None:
    missing, text_, foreign = tmp_path / "none.db", tmp_path / "text.db", tmp_path / "foreign.db"
    text_.write_text("no database, but long enough to be looked at as one " * 20, "utf-8")
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE mine (id)")
        connection.commit()

    for file, said in (
        (missing, "there is no ledger at"),
        (text_, "text.db cannot be read"),
        (foreign, "has"),
    ):
        assert said in faults("ledger", "query", "calls", "--db", str(file))
    assert not missing.exists()


def test_a_deployment_that_has_no_ledger_yet_gets_none_by_being_asked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)

    assert "nothing was called yet" in faults("ledger", "query", "calls")
    assert not (root / "data" / "toolgate.db").exists()


def _copied(database: Path, copy: Path) -> Path:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
    return copy


def _tree(database: Path) -> list[Any]:
    tables = (
        "ledger_entry",
        "ledger_node",
        "ledger_tip",
        "ledger_checkpoint",
        "payload",
        "pseudonym",
        "claim",
    )
    with closing(sqlite3.connect(database)) as connection:
        return [connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in tables]  # noqa: S608


def _take_back_to_the_first_revision(database: Path) -> None:
    """Leave what a database had before there were views."""
    fresh = database.with_name("fresh.db")
    engine = create_engine(URL.create("sqlite", database=str(fresh)))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        kept = {row.name for row in connection.execute(text("SELECT name FROM sqlite_master"))}
    with closing(sqlite3.connect(database)) as connection:
        later = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
        for kind, name in later:
            if name not in kept:
                connection.execute(f"DROP {kind} IF EXISTS {name}")
        connection.execute("ALTER TABLE ledger_tip DROP COLUMN erasures")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()


def _shape(database: Path) -> dict[str, Any]:
    """Tables and indexes as SQLite sees them, and the conditions of partial indexes."""
    shape: dict[str, Any] = {}
    with closing(sqlite3.connect(database)) as connection:
        for name, sql in _declared(connection, "table"):
            shape[name] = connection.execute(f"PRAGMA table_info({name})").fetchall()
            shape[f"{name}, its rowid"] = "WITHOUT ROWID" in sql
        for name, sql in _declared(connection, "index"):
            columns = connection.execute(f"PRAGMA index_xinfo({name})").fetchall()
            shape[name] = ("UNIQUE" in sql, [row[2] for row in columns], sql.partition(" WHERE ")[2].strip())
    return shape


def _declared(connection: sqlite3.Connection, kind: str) -> Generator[tuple[str, str]]:
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = ? AND sql <> ''", (kind,))
    for name, sql in found.fetchall():
        if name != "alembic_version":
            yield name, " ".join(sql.replace('"', "").split())


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_what_is_selected_from_has_a_name(query: NamedQuery) -> None:
    """PostgreSQL before 16 refuses a subquery in FROM that has none."""
    for sql in filter(None, (query.sql, query.page)):
        opened: list[bool] = []
        for bracket in re.finditer(
            r"((?:FROM|JOIN)\s+)?\(|\)(\s+(?!WHERE|GROUP|ORDER|LEFT|JOIN|ON)\w+)?", sql
        ):
            if bracket[0].endswith("("):
                opened.append(bracket[1] is not None)
            elif opened.pop():
                assert bracket[2], sql[: bracket.end()]
