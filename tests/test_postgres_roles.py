"""`toolgate ledger setup`, and what the roles that it lets in may do: real roles on a real server."""

from collections.abc import Generator

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, RaiseException

from tests.postgres_ddl import text
from tests.postgresql import OWNER, WRITER, Cluster, cluster
from tests.shell import document, faults, run
from toolgate.backends.postgres_connection import PostgresConnection
from toolgate.backends.postgres_schema import (
    MIGRATIONS,
    REVISIONS,
    UNCHANGED,
    demand_schema,
    excess_rights,
    grant,
    make,
    whole,
)
from toolgate.backends.sql_tables import Stored
from toolgate.core.errors import LedgerUnavailable

TABLES = sorted(table.name for table in Stored.metadata.sorted_tables)
COLUMN = {table.name: next(iter(table.columns)).name for table in Stored.metadata.sorted_tables}
_STRUCTURE = """
    SELECT table_name, column_name, data_type, collation_name, is_nullable, '' FROM information_schema.columns
    WHERE table_schema = %(schema)s
    UNION ALL
    SELECT tablename, indexname, replace(indexdef, %(schema)s || '.', ''), '', '', '' FROM pg_indexes
    WHERE schemaname = %(schema)s
    UNION ALL
    SELECT c.relname, t.tgname, t.tgtype::text, t.tgenabled::text, '', '' FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = %(schema)s::regnamespace
    ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def server() -> Generator[Cluster]:
    with cluster() as running:
        running.ask(f"CREATE ROLE reader LOGIN PASSWORD '{running.passwords[WRITER]}'")
        running.passwords["reader"] = running.passwords[WRITER]
        yield running


@pytest.fixture(scope="module")
def database(server: Cluster) -> str:
    """A database that was set up twice."""
    database = server.create()
    words = ["--owner-url", server.url(OWNER, database), "--writer", WRITER, "--reader", "reader"]
    first, again = document("ledger", "setup", *words), document("ledger", "setup", *words)
    assert first["before"] is None
    assert again == first | {"before": REVISIONS[-1]}
    assert server.passwords[OWNER] not in str(first)
    return database


@pytest.mark.parametrize("table", TABLES)
def test_the_writer_may_only_add_to_what_never_changes(server: Cluster, database: str, table: str) -> None:
    with psycopg.connect(server.url(WRITER, database), autocommit=True) as writer:
        refused = {verb for verb, done in _tries(table).items() if _is_refused(writer, done)}

    assert "TRUNCATE" in refused
    assert {"UPDATE", "DELETE"} <= refused or table not in UNCHANGED
    assert "DELETE" in refused or table != "ledger_tip"
    assert {"ALTER", "DROP", "TRIGGER", "DISABLE", "REWRITE"} <= refused


@pytest.mark.parametrize("table", [*TABLES, "toolgate_schema"])
def test_the_reader_may_only_read(server: Cluster, database: str, table: str) -> None:
    tries = _tries(table)
    with psycopg.connect(server.url("reader", database), autocommit=True) as reader:
        refused = {verb for verb, done in tries.items() if _is_refused(reader, done)}
        reads = not _is_refused(reader, f"TABLE {table}")

    assert refused == tries.keys()
    assert reads == (table != "shared_key")


@pytest.mark.parametrize("table", UNCHANGED)
def test_even_the_owner_and_the_administrator_are_refused_by_triggers(
    server: Cluster, database: str, table: str
) -> None:
    for url in (server.url(OWNER, database), server.url("postgres", database)):
        with psycopg.connect(url, autocommit=True) as role:
            if url == server.url("postgres", database):
                role.execute("SET session_replication_role = replica")
            for verb in ("UPDATE", "DELETE", "TRUNCATE"):
                with pytest.raises(RaiseException, match="never changed"):
                    role.execute(_tries(table)[verb].encode())


def test_in_production_a_gate_refuses_to_write_as_a_role_that_could_change_what_is_there(
    server: Cluster, database: str
) -> None:
    for role, excess in ((WRITER, False), (OWNER, True), ("postgres", True)):
        connection = PostgresConnection(server.url(role, database), seconds=10, purpose="test")
        assert bool(excess_rights(connection)) is excess
        connection.close()
    server.ask(f"GRANT UPDATE (kind) ON ledger_entry TO {WRITER}", database=database)
    connection = PostgresConnection(server.url(WRITER, database), seconds=10, purpose="test")
    assert excess_rights(connection) == ["UPDATE ledger_entry"]
    connection.close()
    again = ["--owner-url", server.url(OWNER, database), "--writer", WRITER]
    server.ask(f"REVOKE UPDATE (kind) ON ledger_entry FROM {WRITER}", database=database)
    assert document("ledger", "setup", *again)["ok"]


def test_setup_says_what_is_wrong(server: Cluster, database: str) -> None:
    owner = server.url(OWNER, database)
    nobody = faults("ledger", "setup", "--owner-url", owner, "--writer", "nobody")
    itself = faults("ledger", "setup", "--owner-url", owner, "--writer", OWNER)
    writer = faults("ledger", "setup", "--owner-url", server.url(WRITER, database), "--writer", "reader")
    same = run("ledger", "setup", "--owner-url", owner, "--writer", "reader", "--reader", "reader")

    assert "there is no role 'nobody'" in nobody
    assert f"{OWNER!r} owns the tables" in itself
    assert "permission denied" in writer
    assert server.passwords[WRITER] not in writer
    assert same.exit_code == 2
    bad = run("ledger", "setup", "--owner-url", "postgresql://o:100%zcanary@h/l", "--writer", "w")
    assert bad.exit_code == 2
    assert "canary" not in bad.output


def test_a_gate_says_of_which_revision_the_tables_are(server: Cluster) -> None:
    database = server.create()
    connection = PostgresConnection(server.url(OWNER, database), seconds=10, purpose="test")
    with pytest.raises(LedgerUnavailable, match="has none of the ledger's tables"):
        demand_schema(connection, may_make=False)
    with whole(connection):
        make(connection)
    demand_schema(connection, may_make=False)
    connection.execute("UPDATE toolgate_schema SET revision = '9999'")
    with pytest.raises(LedgerUnavailable, match="a newer program has set up"):
        demand_schema(connection, may_make=True)
    with pytest.raises(LedgerUnavailable, match="a newer program has set up"), whole(connection):
        make(connection)
    connection.close()


def test_the_frozen_text_makes_the_tables_that_are_declared(server: Cluster) -> None:
    """After a change of sql_tables.py: a new revision or, before a release, python -m tests.postgres_ddl."""
    database = server.create()
    frozen = [(MIGRATIONS / f"{revision}.sql").read_text("utf-8") for revision in REVISIONS]
    structures: list[list[tuple[object, ...]]] = []
    for schema, statements in (("frozen", frozen), ("declared", [text()])):
        with psycopg.connect(server.url(OWNER, database), autocommit=True) as owner:
            owner.execute(f"CREATE SCHEMA {schema}".encode())
            owner.execute(f"SET search_path = {schema}".encode())
            for statement in statements:
                owner.execute(statement.encode())
            structures.append(owner.execute(_STRUCTURE.encode(), {"schema": schema}).fetchall())

    assert structures[0] == structures[1]
    assert len(structures[0]) > len(TABLES)


def test_a_grant_to_a_role_takes_away_what_it_had_before(server: Cluster) -> None:
    database = server.create()
    connection = PostgresConnection(server.url(OWNER, database), seconds=10, purpose="test")
    with whole(connection):
        make(connection)
    connection.execute(f"GRANT ALL ON ledger_entry TO {WRITER}")
    with whole(connection):
        grant(connection, writer=WRITER, reader=None)
    connection.close()
    writer = PostgresConnection(server.url(WRITER, database), seconds=10, purpose="test")
    assert excess_rights(writer) == []
    writer.close()


def _tries(table: str) -> dict[str, str]:
    column = COLUMN.get(table, "revision")
    return {
        "UPDATE": f'UPDATE {table} SET "{column}" = "{column}"',  # noqa: S608 - of names
        "DELETE": f"DELETE FROM {table} WHERE false",  # noqa: S608
        "TRUNCATE": f"TRUNCATE {table}",
        "ALTER": f"ALTER TABLE {table} ADD COLUMN more TEXT",
        "DROP": f"DROP TABLE {table}",
        "DISABLE": f"ALTER TABLE {table} DISABLE TRIGGER ALL",
        "REWRITE": f"CREATE RULE no AS ON INSERT TO {table} DO INSTEAD NOTHING",
        "TRIGGER": f"CREATE TRIGGER no BEFORE INSERT ON {table} EXECUTE FUNCTION toolgate_never_changed()",
    }


def _is_refused(role: psycopg.Connection, statement: str) -> bool:
    try:
        with role.transaction(force_rollback=True):
            role.execute(statement.encode())
    except (InsufficientPrivilege, RaiseException):
        return True
    return False
