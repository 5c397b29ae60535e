"""How a gate reads its own ledger for its audit tools: recorded first, bounded in time and in room."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from pydantic import JsonValue, SecretStr
from sqlalchemy import text

from tests.gate_on_scripted_system import ANN, Rig, rig
from tests.postgresql import OWNER, Cluster
from toolgate.adapter import Admitted, Context, NothingDone, System
from toolgate.backends.adapters_installed import adapter_named
from toolgate.backends.audit_access import Access, AuditConnector, Scope, told_to_callers
from toolgate.backends.audit_queries import WINDOW, Found, NamedQuery, answer
from toolgate.backends.audit_questions import BY_NAME
from toolgate.backends.audit_reading import LedgerReader, Limit, Reading, TooSlow, Use
from toolgate.backends.audit_shapes import Search
from toolgate.backends.audit_tools import audit_adapter, search
from toolgate.backends.ledger_database import PostgresDatabase, SqliteFile
from toolgate.backends.sqlite_files import reader
from toolgate.core.errors import LedgerUnavailable
from toolgate.main import now

pytestmark = pytest.mark.anyio
ENDLESS: Final = NamedQuery(
    name="endless",
    question="How far can one count?",
    sql="SELECT * FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT 2 FROM c) SELECT sum(n) FROM c)",
    filters=WINDOW,
)


_LEFT: Final = "SELECT CAST(setting AS BIGINT) FROM pg_settings WHERE name = 'statement_timeout'"


@contextmanager
def _locked(server: Cluster, database: str, tables: str) -> Generator[None]:
    """Keep everybody from reading these tables."""
    with psycopg.connect(server.url(OWNER, database)) as connection:
        connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE".encode())
        yield


@dataclass(frozen=True)
class Reads:
    """A ledger, and one use of an audit tool on it."""

    gate: Rig
    reader: LedgerReader
    pool: ThreadPoolExecutor

    async def reading(self, seconds: float) -> Reading:
        use = Use(caller=ANN, tool="audit.search", call_id="c1", until=now() + timedelta(seconds=seconds))
        return await self.reader.recorded(use, self.pool, "calls", {"most": 1})

    async def entry(self) -> int:
        """Make a call, and give an entry of it that a checkpoint covers."""
        answer = await self.gate.call("desk.read", 1)
        await self.gate.parts.writer.publish()
        assert answer.entry is not None
        return answer.entry


@asynccontextmanager
async def _reads(folder: Path, url: str | None = None) -> AsyncGenerator[Reads]:
    async with rig(folder, url=url, every=60) as gate:
        with ThreadPoolExecutor(1) as pool:
            reader_of_it = LedgerReader(
                database=SqliteFile(folder / "ledger.db")
                if url is None
                else PostgresDatabase(SecretStr(url)),
                vkey=folder / "ledger.vkey",
                ledger=gate.parts,
                every=1,
                now=now,
            )
            yield Reads(gate, reader_of_it, pool)


async def test_a_question_that_takes_too_long_is_broken_off_while_others_are_served(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        reading = await reads.reading(1)
        begun, turns = time.monotonic(), 0
        asking = asyncio.ensure_future(reading.find(ENDLESS, {}, most=1))
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(TooSlow):
            asking.result()

        assert time.monotonic() - begun < 20
        assert turns > 10, "the event loop went on"
        assert (await (await reads.reading(30)).find(BY_NAME["who-read"], {}, most=5)).rows, (
            "the thread is free"
        )


async def test_who_gives_up_leaves_no_question_running(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        asking = asyncio.ensure_future((await reads.reading(3600)).find(ENDLESS, {}, most=1))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        found = await (await reads.reading(30)).find(BY_NAME["who-read"], {}, most=5)

        assert len(found.rows) == 2, "the only thread is free again"


async def test_what_waits_longer_than_its_time_for_a_thread_is_not_begun(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        first = asyncio.ensure_future((await reads.reading(2)).find(ENDLESS, {}, most=1))
        await asyncio.sleep(0)
        with pytest.raises(TooSlow):
            await (await reads.reading(0.2)).find(ENDLESS, {}, most=1)
        with pytest.raises(TooSlow):
            await first


async def test_a_proof_that_takes_too_long_is_broken_off(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        entry = await reads.entry()
        assert await (await reads.reading(30)).proof(entry) is not None
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
            ledger.execute("ALTER TABLE ledger_checkpoint RENAME TO kept_checkpoint")
            ledger.execute(
                "CREATE VIEW ledger_checkpoint AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT 2 FROM c)"
                " SELECT sum(n) AS size, '' AS note FROM c"
            )
            with pytest.raises(TooSlow):
                await (await reads.reading(1)).proof(entry)
            ledger.execute("DROP VIEW ledger_checkpoint")
            ledger.execute("ALTER TABLE kept_checkpoint RENAME TO ledger_checkpoint")

        assert await (await reads.reading(30)).proof(entry) is not None, "the thread is free"


async def test_a_proof_that_waits_longer_than_its_time_for_a_thread_is_not_begun(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        entry = await reads.entry()
        first = asyncio.ensure_future((await reads.reading(2)).find(ENDLESS, {}, most=1))
        await asyncio.sleep(0)
        with pytest.raises(TooSlow):
            await (await reads.reading(0.2)).proof(entry)
        with pytest.raises(TooSlow):
            await first


async def test_a_proof_of_a_ledger_that_is_gone_says_so(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        reading = await reads.reading(30)
        gone = replace(reads.reader, database=SqliteFile(tmp_path / "none.db"))
        with pytest.raises(LedgerUnavailable):
            await replace(reading, _reader=gone).proof(0)


async def test_on_a_server_a_proof_that_takes_too_long_is_broken_off(
    tmp_path: Path, postgresql: Cluster, postgresql_database: str
) -> None:
    async with _reads(tmp_path, postgresql.url(OWNER, postgresql_database)) as reads:
        entry = await reads.entry()
        assert await (await reads.reading(30)).proof(entry) is not None
        reading = await reads.reading(3)
        with _locked(postgresql, postgresql_database, "ledger_node, ledger_entry"):
            async with asyncio.timeout(8):  # what the connection gives a statement by itself is 10
                with pytest.raises(TooSlow):
                    await reading.proof(entry)

        assert await (await reads.reading(30)).proof(entry) is not None


async def test_on_a_server_all_statements_together_have_the_time_of_one_question(
    tmp_path: Path, postgresql: Cluster, postgresql_database: str
) -> None:
    async with _reads(tmp_path, postgresql.url(OWNER, postgresql_database)) as reads:
        limit = Limit(60)
        left: list[int] = []
        with limit.on(reads.reader.database.engine()).connect() as connection:
            for _ in range(3):
                left.append(connection.execute(text(_LEFT)).scalar_one())
                connection.execute(text("SELECT pg_sleep(0.1)"))
        with reads.reader.database.reading() as plain:
            bounded = limit.over(plain)
            for _ in range(2):
                left.append(int(bounded.execute(_LEFT).fetchone()[0]))
                bounded.execute("SELECT pg_sleep(0.1)")
        limit.stop()

        assert left[0] <= 60_000
        assert all(later <= earlier - 100 for earlier, later in pairwise(left)), left
        with pytest.raises(TooSlow), limit.on(reads.reader.database.engine()).connect() as connection:
            connection.execute(text("SELECT 1"))


async def test_where_it_cannot_be_recorded_there_is_nothing_to_read(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        await reads.reading(30)
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
            ledger.execute(
                "CREATE TRIGGER full BEFORE INSERT ON ledger_entry WHEN NEW.kind = 'audit_read' "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
            with pytest.raises(LedgerUnavailable):
                await reads.reading(30)
            ledger.execute("DROP TRIGGER full")


async def test_a_page_ends_where_its_room_does_and_the_next_goes_on(tmp_path: Path) -> None:
    async with _reads(tmp_path) as reads:
        for amount in range(6):
            await reads.gate.call("desk.read", amount)
    engine, calls = reader(tmp_path / "ledger.db"), BY_NAME["calls"]
    whole = answer(engine, calls, {}, most=10)
    paged: list[Any] = []
    while True:
        page = answer(engine, calls, {}, most=10, skip=len(paged), room=1)
        paged += page.rows
        assert len(page.rows) == 1, "one row is always given"
        if not page.more:
            break

    assert paged == whole.rows
    assert len(whole.rows) == 6


@pytest.mark.parametrize(
    ("raised", "code", "retryable"),
    [(TooSlow(), "too_slow", False), (LedgerUnavailable("gone"), "ledger_unavailable", True)],
)
def test_what_ended_a_reading_is_told_in_words_to_act_on(
    raised: Exception, code: str, retryable: bool
) -> None:
    with pytest.raises(NothingDone) as told, told_to_callers():
        raise raised

    assert (told.value.code, told.value.retryable) == (code, retryable)


@pytest.mark.parametrize("values", [False, True])
async def test_what_somebody_asked_or_gave_as_a_reason_is_shown_only_where_values_are(
    tmp_path: Path, values: bool
) -> None:
    async with _reads(tmp_path) as reads:
        parts = reads.gate.parts
        reads.gate.desk.behaviour = "unknown"
        unknown = await reads.gate.call("desk.write", 6, key="a-key-of-16-chars-or-more")
        eve = await parts.pseudonyms.of("subject", ANN, "eve")
        await parts.doubts.resolve(unknown.call_id, None, by=eve, because="the desk has no such number")
        access = Access(
            reader=reads.reader,
            pool=reads.pool,
            scope=Scope(tenants="all", values=values),
            caller=ANN,
            tool="audit.search",
            call_id="c1",
        )
        (resolved,) = await _searched(access, "resolutions")
        (read, *_) = await _searched(access, "who-read")
        assert "because" in (await _searched(access, "changes"))[0]
        reason = Found(columns=("entry", "basis"), rows=[(1, "a letter of hers")], more=False)
        erased = access.shown(BY_NAME["erasures"], reason).rows

    assert erased == [(1, "a letter of hers" if values else None)]
    assert (resolved["kind"], resolved["by_whom"]) == ("resolve", "eve")
    assert resolved["because"] == ("the desk has no such number" if values else None)
    assert (read["query"], read["reader"]) == ("who-read", "ann")
    assert read["asked"] == ('{"most":50}' if values else None)


async def _searched(access: Access, query: str) -> list[dict[str, Any]]:
    async def nothing(*_: object) -> None:
        pass

    context = Context(
        client=access,
        deadline=now() + timedelta(seconds=30),
        progress=nothing,
        idempotency_key="a-key-of-16-chars-or-more",
        remember=nothing,
        remembered={},
        sending=lambda: None,
    )
    found = await search(Search(query=query), context)
    return [dict(zip(found.columns, row.cells, strict=True)) for row in found.rows]


# --- the adapter


def _system(**options: JsonValue) -> System:
    return System(name="audit", root=Path(), options=options, tools={})


@pytest.mark.parametrize("options", [{"tenants": "mine"}, {"values": "perhaps"}, {"sql": "SELECT 1"}])
def test_a_manifest_that_says_it_otherwise_is_told_where(options: dict[str, JsonValue]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AuditConnector(None, _system(**options))


def test_unless_a_manifest_says_more_only_ones_own_is_shown_without_values() -> None:
    scope = AuditConnector(None, _system()).scope

    assert (scope.tenants, scope.values) == ("own", False)


async def test_a_deployment_that_is_only_looked_at_reads_nothing() -> None:
    connector = AuditConnector(None, _system())

    with pytest.raises(TypeError):
        connector.session(None, lambda: None)
    with pytest.raises(TypeError):
        async with connector.access(ANN, "audit.search", "c1"):
            pass
    await connector.aclose()


def test_the_tools_cannot_be_admitted_as_anything_but_reads() -> None:
    system = replace(_system(), tools={"search": Admitted(effect="write", options={})})

    with pytest.raises(ValueError, match=r'tools.search.*say "read"'):
        audit_adapter().operations(system)


def test_nobody_else_brings_an_adapter_of_this_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = audit_adapter()
    assert adapter_named("audit", own) == (own, "")
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[toolgate.adapters]\naudit = other:audit\n", "utf-8")
    monkeypatch.setattr(sys, "path", [f"{tmp_path}", *sys.path])

    assert adapter_named("audit", own) == (
        None,
        "adapter 'audit' is the gate's own, and other:audit brings another",
    )
