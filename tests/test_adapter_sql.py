"""The sql adapter on a real SQLite and a real PostgreSQL: what its statements do, and what they never do."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import JsonValue, SecretStr
from sqlalchemy import Engine

from tests.databases import Deployed, postgres, postgres_desk, sqlite_desk
from toolgate.adapter import Credential, NothingDone, OutcomeUnknown
from toolgate.testing import Tried
from toolgate_adapters.sql import sql
from toolgate_adapters.sql_connection import SqlConnector, Statement

pytestmark = pytest.mark.anyio
TITLE: Final = {"title": {"type": "text", "description": "Its title."}}
ID: Final = {"id": {"type": "integer", "description": "Its number."}}
COLUMNS: Final = {"id": "integer", "title": "text"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as address:
        yield address


@pytest.fixture
def pg(server: str, tmp_path: Path) -> Deployed:
    return postgres_desk(tmp_path, server)


@pytest.fixture(params=["sqlite", "postgresql"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Deployed:
    if request.param == "sqlite":
        return sqlite_desk(tmp_path / "a folder, 100% #1?")
    return postgres_desk(tmp_path, request.getfixturevalue("server"))


async def search(desk: Deployed, arguments: dict[str, JsonValue] | None = None, **declared: Any) -> Any:  # noqa: ANN401
    everything: dict[str, Any] = {
        "statement": "SELECT id, title FROM ticket ORDER BY id",
        "result": "rows",
        "columns": COLUMNS,
    }
    return await desk.run("read", arguments or {}, **everything | declared)


async def add(desk: Deployed, title: str, **declared: Any) -> Any:  # noqa: ANN401
    statement = "INSERT INTO ticket (id, title, open) VALUES (9, :title, true)"
    with_title: dict[str, Any] = {"statement": statement, "parameters": TITLE, "result": "changed"}
    return await desk.run("write", {"title": title}, **with_title | declared)


async def refusal(tried: Any) -> tuple[str, bool]:  # noqa: ANN401
    with pytest.raises(NothingDone) as refused:
        await tried
    return refused.value.code, refused.value.retryable


# --- what a statement gives


async def test_rows_are_given_in_the_declared_types(desk: Deployed) -> None:
    found = await search(
        desk,
        statement="SELECT title, weight, due, open FROM ticket ORDER BY id",
        columns={"title": "text", "weight": "number", "due": "date", "open": "boolean"},
        nullable=["weight", "due"],
        max_rows=2,
    )

    printer = {"title": "Printer", "weight": 1.5, "due": "2026-03-01", "open": True}
    scanner = {"title": "Scanner", "weight": None, "due": None, "open": False}
    assert found == {"rows": [printer, scanner], "truncated": True}


@pytest.mark.parametrize(("most", "truncated"), [(2, True), (3, False)])
async def test_what_is_left_out_is_said(desk: Deployed, most: int, truncated: bool) -> None:
    found = await search(desk, max_rows=most)

    assert (len(found["rows"]), found["truncated"]) == (most, truncated)


async def test_one_row_is_given_or_told_to_be_missing(desk: Deployed) -> None:
    one = {"statement": "SELECT id, title FROM ticket WHERE id = :id", "result": "row", "parameters": ID}

    assert await search(desk, {"id": 2}, **one) == {"id": 2, "title": "Scanner"}
    assert await refusal(search(desk, {"id": 7}, **one)) == ("not_found", False)


async def test_a_write_says_how_many_rows_it_changed_and_is_announced(desk: Deployed) -> None:
    tried = Tried()

    assert await add(desk, "Mouse", tried=tried) == {"changed": 1}
    assert tried.sends == 1
    assert (await desk.titles())[-1] == "Mouse"


async def test_a_write_may_give_its_rows_even_more_than_are_shown(desk: Deployed) -> None:
    found = await desk.run(
        "write",
        {},
        statement="UPDATE ticket SET weight = 0 RETURNING id",
        result="rows",
        columns={"id": "integer"},
        max_rows=1,
        expect_changed=3,
    )

    assert found["truncated"] is True
    assert await search(desk, statement="SELECT id FROM ticket WHERE weight = 0", columns={"id": "integer"})


async def test_dates_and_times_are_bound_as_such(desk: Deployed) -> None:
    kinds = {"due": "date", "seen": "timestamp"}
    parameters = {name: {"type": kind, "description": "When."} for name, kind in kinds.items()}
    found = await desk.run(
        "write",
        {"due": "2026-02-03", "seen": "2026-02-03T04:05:06Z"},
        statement="UPDATE ticket SET due = :due, seen = :seen WHERE id = 1 RETURNING due, seen",
        result="row",
        parameters=parameters,
        columns=kinds,
    )

    assert found["due"] == "2026-02-03"
    assert datetime.fromisoformat(str(found["seen"])) == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


async def test_the_calls_key_is_bound_and_no_caller_sees_or_sets_it(desk: Deployed) -> None:
    statement = "INSERT INTO ticket (id, title, open, call_key) VALUES (9, :title, true, :idempotency_key)"
    await add(desk, "Mouse", statement=statement)

    assert await asyncio.to_thread(desk.look, "SELECT call_key FROM ticket WHERE id = 9") == [("c-1",)]
    declared: dict[str, Any] = {"statement": statement, "parameters": TITLE, "result": "changed"}
    schema = sql.operations(desk.system("write", declared))["act"].input_model.model_json_schema()
    assert list(schema["properties"]) == ["title"]
    with pytest.raises(ValueError, match="not expected: idempotency_key"):
        await desk.run("write", {"title": "x", "idempotency_key": "mine"}, **declared)


# --- what a statement never does


@pytest.mark.parametrize(
    "title", ["'; DROP TABLE ticket; --", "' OR '1'='1", ":id", "%(id)s", "$1", "\\'; SELECT 1", "ünï 100%"]
)
async def test_a_value_is_never_read_as_part_of_the_statement(desk: Deployed, title: str) -> None:
    find = {"statement": "SELECT id, title FROM ticket WHERE title = :title", "parameters": TITLE}
    assert (await search(desk, {"title": title}, **find))["rows"] == []

    await add(desk, title)
    assert await desk.titles() == ["Printer", "Scanner", "Phone", title]


async def test_a_read_cannot_write(desk: Deployed) -> None:
    inserted = "INSERT INTO ticket (id, title, open) VALUES (9, 'x', true)"
    statement = f"WITH x AS (SELECT 1) {inserted} RETURNING id, title"
    if desk.kind == "postgresql":
        statement = f"WITH x AS ({inserted} RETURNING id, title) SELECT id, title FROM x"  # noqa: S608

    assert await refusal(search(desk, statement=statement)) == ("statement_failed", False)
    assert await desk.titles() == ["Printer", "Scanner", "Phone"]


async def test_a_function_called_in_a_read_cannot_write(pg: Deployed) -> None:
    await asyncio.to_thread(
        pg.look,
        "CREATE OR REPLACE FUNCTION sneak() RETURNS int LANGUAGE sql SECURITY DEFINER"
        " AS 'DELETE FROM ticket RETURNING 1'",
    )

    statement = "SELECT sneak() AS id"
    assert (await refusal(search(pg, statement=statement, columns={"id": "integer"})))[
        0
    ] == "statement_failed"
    assert len(await pg.titles()) == 3


@pytest.mark.parametrize(
    ("expected", "where", "code"),
    [(1, "id > 0", "conflict"), (2, "id = 1", "conflict"), (1, "id = 7", "not_found")],
)
async def test_another_number_of_rows_than_expected_is_rolled_back(
    desk: Deployed, expected: int, where: str, code: str
) -> None:
    delete = desk.run(
        "destroy",
        {},
        statement=f"DELETE FROM ticket WHERE {where}",  # noqa: S608
        result="changed",
        expect_changed=expected,
    )

    assert await refusal(delete) == (code, False)
    assert await desk.titles() == ["Printer", "Scanner", "Phone"]


async def test_a_write_that_should_give_a_row_and_gives_none_is_rolled_back(pg: Deployed) -> None:
    statement = "WITH gone AS (DELETE FROM ticket RETURNING id) SELECT id FROM gone WHERE id = 7"
    delete = pg.run("destroy", {}, statement=statement, result="row", columns={"id": "integer"})

    assert await refusal(delete) == ("not_found", False)
    assert len(await pg.titles()) == 3


async def test_a_broken_constraint_is_a_conflict_and_changes_nothing(desk: Deployed) -> None:
    assert await refusal(add(desk, "Printer")) == ("conflict", False)
    assert await desk.titles() == ["Printer", "Scanner", "Phone"]


async def test_a_constraint_that_is_checked_at_the_commit_is_a_conflict_too(pg: Deployed) -> None:
    alter = "ALTER TABLE ticket ADD CONSTRAINT late UNIQUE (call_key) DEFERRABLE INITIALLY DEFERRED"
    await asyncio.to_thread(pg.look, alter)
    change = pg.run("write", {}, statement="UPDATE ticket SET call_key = 'same'", result="changed")

    assert await refusal(change) == ("conflict", False)


async def test_a_number_too_big_for_the_database_changes_nothing(desk: Deployed) -> None:
    statement = "DELETE FROM ticket WHERE id = :id RETURNING CAST(:id AS SMALLINT) AS id"
    declared: dict[str, Any] = {"statement": statement, "parameters": ID, "result": "changed"}

    assert (await refusal(desk.run("destroy", {"id": 10**30}, expect_changed=1, **declared)))[0] in {
        "statement_failed",
        "not_found",
    }


async def test_a_statement_that_the_database_does_not_understand_is_told_and_not_asked_again(
    desk: Deployed,
) -> None:
    assert await refusal(search(desk, statement="SELECT id, title FROM nowhere")) == (
        "statement_failed",
        False,
    )


# --- when the database does not answer

FOREVER: Final = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS id FROM n",
    "postgresql": "SELECT 1 AS id FROM pg_sleep(600)",
}


def statement(text: str) -> Statement:
    return Statement(text=text, parameters={}, most_rows=10, needs_row=False, expect_changed=None)


async def test_a_statement_that_takes_too_long_is_ended_and_its_connection_goes_on_working(
    desk: Deployed,
) -> None:
    connector = SqlConnector(desk.system("read", {}, {**desk.options, "max_connections": 1}))
    endless = statement(FOREVER[desk.kind])
    async with connector.session(desk.credential, lambda: None) as client:
        for write in (False, True):
            deadline = datetime.now(UTC) + timedelta(seconds=0.1)
            with pytest.raises((TimeoutError, NothingDone)):
                async with asyncio.timeout(0.15):
                    await (
                        client.write(endless, deadline, lambda: None)
                        if write
                        else client.read(endless, deadline)
                    )
        deadline = datetime.now(UTC) + timedelta(seconds=60)
        answer = await client.read(statement("SELECT 1 AS id"), deadline)
    await connector.aclose()

    assert answer.rows == [{"id": 1}]


async def test_a_write_that_nobody_waits_for_any_more_is_not_done(desk: Deployed) -> None:
    connector = SqlConnector(desk.system("write", {}, {**desk.options, "max_connections": 1}))
    late = statement("INSERT INTO ticket (id, title, open) VALUES (9, 'late', true)")
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    sent: list[str] = []
    async with connector.session(desk.credential, lambda: None) as client:
        with desk.locked(), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.write(late, deadline, lambda: sent.append("late"))
        counted = await client.read(statement("SELECT count(*) AS n FROM ticket"), deadline)
    await connector.aclose()

    assert counted.rows == [{"n": 3}], "the only thread had done with the write before"
    assert sent == [], "waiting for a lock is not sending: nothing was done, and the gate may say so"


async def test_a_connection_lost_during_the_commit_leaves_it_unknown(pg: Deployed) -> None:
    await asyncio.to_thread(
        pg.look,
        "CREATE OR REPLACE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ticket DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION hang_up()",
    )

    with pytest.raises(OutcomeUnknown, match="failed during the commit"):
        await add(pg, "Mouse")


async def test_a_connection_lost_before_the_commit_changed_nothing(pg: Deployed) -> None:
    statement = "UPDATE ticket SET open = (SELECT pg_terminate_backend(pg_backend_pid()))"

    assert await refusal(pg.run("write", {}, statement=statement, result="changed")) == ("unreachable", True)


@pytest.mark.parametrize("secret", ["agent:wrong", "agent"])
async def test_a_wrong_password_does_nothing_and_is_told_as_such(pg: Deployed, secret: str) -> None:
    stranger = Deployed(pg.kind, pg.options, pg.root, Credential(secret=SecretStr(secret), sign_in="basic"))

    assert await refusal(search(stranger)) == ("upstream_sign_in", False)
    assert await refusal(add(stranger, "Mouse")) == ("upstream_sign_in", False)
    assert len(await pg.titles()) == 3


async def test_another_credential_signs_in_anew(pg: Deployed) -> None:
    connector = SqlConnector(pg.system("read", {}))
    agent, wrong = pg.credential, Credential(secret=SecretStr("agent:wrong"), sign_in="basic")
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    ends: list[str] = []
    for credential in (agent, agent, wrong, agent):
        async with connector.session(credential, lambda: None) as client:
            try:
                await client.read(statement("SELECT 1 AS id"), deadline)
                ends.append("read")
            except NothingDone as refused:
                ends.append(refused.code)
    await connector.aclose()

    assert ends == ["read", "read", "upstream_sign_in", "read"]


@pytest.mark.parametrize("url", ["sqlite:///gone.db", "postgresql://127.0.0.1:9/desk"])
async def test_a_database_that_is_not_there_may_be_asked_again(tmp_path: Path, url: str) -> None:
    gone = Deployed("gone", {"url": url}, tmp_path, None)

    assert await refusal(search(gone)) == ("unreachable", True)
    assert await refusal(add(gone, "x")) == ("unreachable", True)
    assert os.listdir(tmp_path) == [], "no file is made"  # noqa: PTH208


async def test_many_reads_at_once_all_get_their_own_answer(desk: Deployed) -> None:
    connector = SqlConnector(desk.system("read", {}))
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    async with connector.session(desk.credential, lambda: None) as client:
        answers = await asyncio.gather(
            *(client.read(statement(f"SELECT {number} AS id"), deadline) for number in range(32))
        )
    await connector.aclose()

    assert [answer.rows[0]["id"] for answer in answers] == list(range(32))


# --- credentials that end

ME: Final = Statement(
    text="SELECT pg_backend_pid() AS id", parameters={}, most_rows=1, needs_row=True, expect_changed=None
)


@pytest.fixture
async def worker(pg: Deployed) -> AsyncGenerator[str]:
    """A user who is let in with any password."""
    await asyncio.to_thread(pg.look, "CREATE ROLE worker LOGIN IN ROLE agent")
    yield "worker"
    await asyncio.to_thread(pg.look, "DROP ROLE worker")


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def ending(password: str, *, shared: bool, seconds: float = 60) -> Credential:
    secret, until = SecretStr(f"worker:{password}"), in_seconds(seconds)
    return Credential(secret=secret, sign_in="basic", until=until, shared=shared)


async def sessions(desk: Deployed, *, at_most: int) -> int:
    """Count the sessions of `worker`; they go away a moment after they were closed."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'worker'"
    deadline = in_seconds(20)
    while True:
        ((found,),) = await asyncio.to_thread(desk.look, asked)
        if found <= at_most or datetime.now(UTC) > deadline:
            return int(found)
        await asyncio.sleep(0.01)


async def asked_by(connector: SqlConnector, credential: Credential) -> int:
    """Make a call, and give the server's process that answered."""
    async with connector.session(credential, lambda: None) as client:
        return int((await client.read(ME, in_seconds(60))).rows[0]["id"])


@pytest.mark.parametrize("write", [False, True])
async def test_a_call_with_a_user_of_its_own_leaves_no_session_behind(
    pg: Deployed, worker: str, write: bool
) -> None:
    connector = SqlConnector(pg.system("write", {}))
    async with connector.session(ending("x", shared=False), lambda: None) as client:
        if write:
            await client.write(statement("UPDATE ticket SET weight = 0"), in_seconds(60), lambda: None)
        else:
            await client.read(statement("SELECT id FROM ticket"), in_seconds(60))

    assert await sessions(pg, at_most=0) == 0
    await connector.aclose()


async def test_a_call_that_is_given_up_leaves_no_session_behind(pg: Deployed, worker: str) -> None:
    connector = SqlConnector(pg.system("read", {}))
    with pytest.raises(TimeoutError):
        async with (
            asyncio.timeout(0.1),
            connector.session(ending("x", shared=False), lambda: None) as client,
        ):
            await client.read(statement(FOREVER["postgresql"]), in_seconds(0.2))

    assert await sessions(pg, at_most=0) == 0
    await connector.aclose()


async def test_many_calls_with_users_of_their_own_leave_no_engine_and_no_thread_behind(
    pg: Deployed, worker: str
) -> None:
    connector = SqlConnector(pg.system("read", {}, {**pg.options, "max_connections": 3}))
    before = engines()
    for number in range(50):
        await asked_by(connector, ending(f"p{number}", shared=False))

    assert engines() <= before
    assert len(threads()) <= 3
    assert await sessions(pg, at_most=0) == 0
    await connector.aclose()
    deadline = in_seconds(20)
    while threads() and datetime.now(UTC) < deadline:
        await asyncio.sleep(0.01)
    assert threads() == []


async def test_calls_of_one_run_share_a_session_until_their_credential_ends(
    pg: Deployed, worker: str
) -> None:
    connector = SqlConnector(pg.system("read", {}))
    credential = ending("x", shared=True, seconds=3)

    first, *others = [await asked_by(connector, credential) for _ in range(3)]
    assert others == [first, first]
    assert await sessions(pg, at_most=1) == 1
    assert await sessions(pg, at_most=0) == 0, "nobody has to come for it to be closed"
    assert await refusal(asked_by(connector, credential)) == ("credential_expired", True)
    await connector.aclose()


async def test_no_statement_outlives_its_credential(pg: Deployed, worker: str) -> None:
    connector = SqlConnector(pg.system("read", {}))
    async with (
        asyncio.timeout(20),
        connector.session(ending("x", shared=True, seconds=0.3), lambda: None) as client,
    ):
        with pytest.raises(NothingDone):
            await client.read(statement(FOREVER["postgresql"]), in_seconds(600))

    assert await sessions(pg, at_most=0) == 0
    await connector.aclose()


async def test_the_sessions_of_many_runs_are_bounded(pg: Deployed, worker: str) -> None:
    connector = SqlConnector(pg.system("read", {}))
    runs = [ending(f"run-{number}", shared=True) for number in range(66)]
    served = [await asked_by(connector, run) for run in runs]

    assert await sessions(pg, at_most=64) == 64
    assert await asked_by(connector, runs[-1]) == served[-1], "those used last are kept"
    assert await asked_by(connector, runs[0]) not in served[:1], "those used first sign in anew"
    await connector.aclose()
    assert await sessions(pg, at_most=0) == 0


async def test_a_file_knows_no_users_and_stays_open_whoever_comes(tmp_path: Path) -> None:
    desk = sqlite_desk(tmp_path)
    connector = SqlConnector(desk.system("read", {}))
    before = engines()
    for number in range(3):
        async with connector.session(ending(f"p{number}", shared=False), lambda: None) as client:
            assert (await client.read(statement("SELECT 1 AS id"), in_seconds(60))).rows == [{"id": 1}]

    assert engines() - before == 2, "one to read, one to write"
    await connector.aclose()


def engines() -> int:
    gc.collect()
    return sum(isinstance(found, Engine) for found in gc.get_objects())


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sql-desk")]
