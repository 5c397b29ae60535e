"""Whatever the owner of the tables does to a ledger in PostgreSQL is found, and where it begins."""

# ruff: noqa: S608 - names of tables and columns stand in the statements; all of it is ours

import json
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from pydantic import SecretStr

from tests.ledgers import FIRST_ROUND, LENT, ROUND, Signer, a_story, note_of, write
from tests.postgresql import OWNER, Cluster, cluster
from tests.shell import run
from toolgate.backends.postgres_connection import PostgresConnection
from toolgate.backends.postgres_schema import UNCHANGED, make, sql_types, whole
from toolgate.backends.postgres_source import verify_postgres
from toolgate.backends.sql_tables import TIP, Stored
from toolgate.verifier import Note, Report, Unreadable, VerifierKey

OURS: Final = Signer(1)
ROUNDS: Final = 40
SIZE: Final = FIRST_ROUND + ROUNDS * ROUND + LENT
OUTSIDE: Final = 400
SIZES: Final = (100, 200, 256, OUTSIDE, SIZE)
INTENT: Final = 124
COPY: Final = "leaf, body, kind, call_id, at, tenant, who, tool, status, run, refers"

KEYLESS: Final = "ALTER TABLE ledger_entry DROP CONSTRAINT ledger_entry_pkey"
NULLABLE: Final = "ALTER TABLE ledger_entry ALTER idx DROP NOT NULL"


def copied(index: str, of: int) -> str:
    return f"INSERT INTO ledger_entry (idx, {COPY}) SELECT {index}, {COPY} FROM ledger_entry WHERE idx = {of}"


CASES: Final[list[tuple[str, str, int]]] = [
    ("a body is edited", f"UPDATE ledger_entry SET body = body || ' ' WHERE idx = {INTENT}", INTENT),
    ("a leaf is edited", f"UPDATE ledger_entry SET leaf = sha256('x') WHERE idx = {INTENT}", INTENT),
    ("a column is edited", f"UPDATE ledger_entry SET tenant = 'globex' WHERE idx = {INTENT}", INTENT),
    ("a column is emptied", "UPDATE ledger_entry SET refers = NULL WHERE idx = 127", 127),
    (
        "a body is far too large",
        f"UPDATE ledger_entry SET body = convert_to(repeat('x', 1000000), 'UTF8') WHERE idx = {INTENT}",
        INTENT,
    ),
    ("an entry is removed", f"DELETE FROM ledger_entry WHERE idx = {INTENT}", INTENT),
    ("the first entry is removed", "DELETE FROM ledger_entry WHERE idx = 0", 0),
    ("the last entry is removed", f"DELETE FROM ledger_entry WHERE idx = {SIZE - 1}", SIZE - 1),
    ("an entry is inserted", f"{KEYLESS}; {copied('idx', INTENT)}", INTENT + 1),
    ("an entry is added", copied(f"{SIZE}", 9), SIZE),
    ("an entry is added without a number", f"{KEYLESS}; {NULLABLE}; {copied('NULL', 9)}", SIZE),
    ("a node is edited", "UPDATE ledger_node SET hash = sha256('x')", 0),
    ("a node is removed", "DELETE FROM ledger_node", 0),
    ("a node is added", "INSERT INTO ledger_node VALUES (8, 1, sha256('x'))", 256),
    ("a node of an unknown level", "INSERT INTO ledger_node VALUES (3, 2, sha256('x'))", 16),
    ("the tip's size is edited", "UPDATE ledger_tip SET size = 300", 300),
    ("the tip's frontier is edited", "UPDATE ledger_tip SET frontier = ''", SIZE),
    ("the tip is removed", "DELETE FROM ledger_tip", SIZE),
    ("a checkpoint is edited", "UPDATE ledger_checkpoint SET note = replace(note, '200', '201')", 200),
    ("a checkpoint moves", "UPDATE ledger_checkpoint SET size = 201 WHERE size = 200", 201),
    ("a payload's value is edited", f"UPDATE payload SET value = '{{}}' WHERE idx = {INTENT}", INTENT),
    ("a payload's salt is edited", f"UPDATE payload SET salt = sha256('x') WHERE idx = {INTENT}", INTENT),
    ("a payload of no entry", f"UPDATE payload SET idx = 9999 WHERE idx = {INTENT}", 9999),
]


@pytest.fixture(scope="module")
def server() -> Generator[Cluster]:
    with cluster() as started:
        yield started


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ledger as SQLite, and with the key and the checkpoint that an auditor keeps."""
    folder = tmp_path_factory.mktemp("outside")
    story = a_story(ROUNDS)
    story.lent(ROUNDS)
    write(story, folder / "ledger.db", [(size, OURS) for size in SIZES])
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        (folder / "kept.note").write_text(note_of(connection, OUTSIDE, OURS), "utf-8")
    (folder / "log.vkey").write_text(f"{OURS.key}\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def sound(server: Cluster, outside: Path) -> str:
    """A database with a ledger that nobody has touched; tests copy it."""
    name = server.create()
    target = PostgresConnection(server.url(OWNER, name), seconds=30, purpose="test")
    with closing(target), closing(sqlite3.connect(outside / "ledger.db")) as source, whole(target):
        make(target)
        target.execute("DELETE FROM ledger_tip")
        for table in Stored.metadata.sorted_tables:
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            rows = source.execute(f"SELECT {names} FROM {table.name}")
            target.copy_in(f"COPY {table.name} ({names}) FROM STDIN (FORMAT binary)", rows, sql_types(table))
    return name


@pytest.fixture
def database(server: Cluster, sound: str) -> Generator[str]:
    name = server.create(sound)
    yield name
    server.drop(name)


def by_its_owner(server: Cluster, database: str, script: str) -> None:
    """Change what is never changed: its owner takes the triggers away first."""
    with psycopg.connect(server.url(OWNER, database), autocommit=True) as owner:
        for table in (*UNCHANGED, TIP.name):
            owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        owner.execute(script.encode())


def audited(server: Cluster, database: str, outside: Path, **more: Any) -> Report:  # noqa: ANN401
    kept = "kept", Note.parse((outside / "kept.note").read_text("utf-8"))
    url = SecretStr(server.url(OWNER, database))
    return verify_postgres(url, keys=[VerifierKey.parse(f"{OURS.key}")], checkpoints=[kept], **more)


def test_untouched_ledger_is_verified(server: Cluster, database: str, outside: Path) -> None:
    heard: list[tuple[int, int]] = []

    def hear(done: int, total: int) -> None:
        heard.append((done, total))

    report = audited(server, database, outside, progress=hear)
    assert (report.verdict, report.faults, report.doubts) == ("verified", [], [])
    assert (report.entries, report.covered, heard[-1]) == (SIZE, OUTSIDE, (SIZE, SIZE))
    assert audited(server, database, outside, hashes_only=True).verdict == "verified"
    assert verify_postgres(SecretStr(server.url(OWNER, database))).verdict == "cannot tell"


@pytest.mark.parametrize(("script", "index"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_tampering_is_found_where_it_begins(
    server: Cluster, database: str, outside: Path, script: str, index: int
) -> None:
    by_its_owner(server, database, script)
    report = audited(server, database, outside)
    assert (report.verdict, report.first_bad) == ("tampered", index)


def test_triggers_stop_even_the_owner_who_left_them(server: Cluster, database: str) -> None:
    with (
        psycopg.connect(server.url(OWNER, database), autocommit=True) as owner,
        pytest.raises(psycopg.errors.RaiseException, match="never changed"),
    ):
        owner.execute("DELETE FROM ledger_entry WHERE idx = 9")


@pytest.mark.parametrize(
    "script",
    [
        "DROP TABLE payload",
        "ALTER TABLE ledger_tip RENAME COLUMN frontier TO edge",
        "ALTER TABLE ledger_node RENAME TO x; CREATE VIEW ledger_node AS SELECT * FROM x",
    ],
    ids=["no table", "no column", "a view"],
)
def test_database_of_another_shape_is_not_judged(
    server: Cluster, database: str, outside: Path, script: str
) -> None:
    by_its_owner(server, database, script)
    with pytest.raises(Unreadable, match="this is not a ledger of this form"):
        audited(server, database, outside)


def test_rows_that_the_reader_may_not_see_are_no_verdict(
    server: Cluster, database: str, outside: Path
) -> None:
    hide = "ALTER TABLE ledger_entry ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    by_its_owner(server, database, hide)
    with pytest.raises(Unreadable, match="row-level security"):
        audited(server, database, outside)


def test_command_verifies_a_database_by_its_address(server: Cluster, database: str, outside: Path) -> None:
    words = ["ledger", "verify", "--db", server.url(OWNER, database), "--json"]
    words += ["--key", f"{outside / 'log.vkey'}", "--checkpoint", f"{outside / 'kept.note'}"]
    assert run(*words).exit_code == 0
    by_its_owner(server, database, f"UPDATE ledger_entry SET body = body || ' ' WHERE idx = {INTENT}")
    found = run(*words)
    assert (found.exit_code, json.loads(found.stdout)["first_bad"]) == (1, INTENT)
    server.drop(database)
    lost = run(*words)
    assert lost.exit_code == 2
    assert server.passwords[OWNER] not in lost.output
