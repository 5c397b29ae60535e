"""The ledger's tables in PostgreSQL: made by their owner, and checked by every gate at its start.

The role that gates write under owns nothing. It may add to the ledger; what the tree, its checkpoints and the
policy's versions are made of it may neither change nor remove, and triggers refuse it to everybody.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Integer, LargeBinary, Table

from toolgate.backends.postgres_connection import PostgresConnection, PostgresError, told
from toolgate.backends.sql_tables import ACTIVATION, CHECKPOINT, ENTRY, NODE, SHARED_KEY, TIP, VERSION, Stored
from toolgate.core.errors import LedgerUnavailable

UNCHANGED: Final = tuple(table.name for table in (ENTRY, NODE, CHECKPOINT, VERSION, ACTIVATION))
"""Tables to which rows are only added."""
_MARK: Final = "toolgate_schema"
_EXCESS: Final = """
    SELECT r.verb || ' ' || t.name AS what
    FROM unnest(string_to_array(%(tables)s::text, ',')) WITH ORDINALITY AS t (name, place),
        unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) WITH ORDINALITY AS r (verb, place)
    WHERE has_table_privilege(t.name, r.verb)
        OR (r.verb = 'UPDATE' AND has_any_column_privilege(t.name, r.verb))
    UNION ALL
    SELECT 'own ' || t.name FROM unnest(string_to_array(%(all)s::text, ',')) AS t (name), pg_class c
    WHERE c.oid = t.name::regclass AND pg_has_role(c.relowner, 'MEMBER')
    UNION ALL
    SELECT 'own schema ' || nspname FROM pg_namespace
    WHERE nspname = current_schema() AND pg_has_role(nspowner, 'MEMBER')
"""
_NAMED: Final = """
    SELECT quote_ident(rolname) AS name, quote_ident(current_schema()) AS schema,
        rolname = current_user AS owns
    FROM pg_roles WHERE rolname = %s
"""
_INDEXES: Final = """
    SELECT quote_ident(indexname) AS name, indexdef AS definition FROM pg_indexes
    WHERE schemaname = current_schema() AND tablename = ANY(string_to_array(%(tables)s::text, ','))
        AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""
"""Those that are no table's key."""
_DURABLE: Final = {
    "fsync": frozenset({"on"}),
    "full_page_writes": frozenset({"on"}),
    "synchronous_commit": frozenset({"on", "remote_apply"}),
}
MIGRATIONS: Final = Path(__file__).with_name("migrations_postgresql")
"""A file for each revision: the statements that lead to it from the one before, with empty lines between."""
REVISIONS: Final = tuple(sorted(file.stem for file in MIGRATIONS.glob("*.sql")))


def demand_schema(connection: PostgresConnection, *, may_make: bool) -> None:
    """See that the tables are there, and of this version.

    Args:
        connection: to the database.
        may_make: make them where there are none; only a role that may create tables can.

    Raises:
        LedgerUnavailable: they are not there, or another version of this program made them.
    """
    revision = revision_of(connection)
    if may_make and (revision is None or revision in REVISIONS[:-1]):
        with whole(connection):
            make(connection)
        return
    if revision is None:
        raise LedgerUnavailable(
            "the database has none of the ledger's tables; let their owner run: toolgate ledger setup"
        )
    if problem := misfit(revision):
        raise LedgerUnavailable(problem)


def misfit(revision: str) -> str | None:
    """Say why this program cannot write to tables of `revision`, or None."""
    if revision == REVISIONS[-1]:
        return None
    if revision in REVISIONS:
        return (
            f"the ledger's tables are of revision {revision}, this program needs {REVISIONS[-1]}: let their "
            "owner run toolgate ledger setup of this program"
        )
    return (
        f"a newer program has set up the ledger's tables (revision {revision}, this program knows "
        f"{REVISIONS[-1]}): serve with that program"
    )


def revision_of(connection: PostgresConnection) -> str | None:
    """Give the revision of the tables, or None where there are none."""
    found = connection.execute("SELECT to_regclass(%s)::text AS found", (_MARK,)).fetchone()
    if found is None or found["found"] is None:
        return None
    row = connection.execute(f"SELECT revision FROM {_MARK}").fetchone()  # noqa: S608 - a constant
    return None if row is None else str(row["revision"])


def demand_durability(connection: PostgresConnection) -> None:
    """See that what is committed is on the disk.

    Raises:
        LedgerUnavailable: the server, the database or the role is set otherwise.
    """
    for name, allowed in _DURABLE.items():
        row = connection.execute("SELECT current_setting(%s) AS value", (name,)).fetchone()
        value = "" if row is None else row["value"]
        if value not in allowed:
            raise LedgerUnavailable(
                f"PostgreSQL's {name} is {value!r}: what is committed could be lost. Set it to 'on', for the "
                "server or for this role (ALTER ROLE … SET synchronous_commit = on)"
            )


def excess_rights(connection: PostgresConnection) -> list[str]:
    """Say what this role may do to what is never changed; nothing for a role that only writes."""
    found = [
        row["what"]
        for row in connection.execute(
            _EXCESS, {"tables": ",".join(UNCHANGED), "all": ",".join(_tables())}
        ).fetchall()
    ]
    return [str(what) for what in found]


@contextmanager
def whole(connection: PostgresConnection) -> Generator[None]:
    """Carry out several statements as one transaction."""
    connection.execute("BEGIN")
    with ExitStack() as undo:
        undo.callback(_roll_back, connection)
        yield
        connection.execute("COMMIT")
        undo.pop_all()


def _roll_back(connection: PostgresConnection) -> None:
    if not connection.is_lost:
        connection.execute("ROLLBACK")


def make(connection: PostgresConnection) -> None:
    """Make tables, indexes and triggers, or bring them to the newest revision; in the caller's transaction.

    Raises:
        LedgerUnavailable: a newer program has made them.
    """
    connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (_MARK,))
    before = revision_of(connection)
    if before is not None and before not in REVISIONS:
        raise LedgerUnavailable(f"{misfit(before)}")
    for revision in REVISIONS:
        if before is None or revision > before:
            for statement in (MIGRATIONS / f"{revision}.sql").read_text("utf-8").split("\n\n"):
                connection.execute(statement)
    if before is None:
        connection.execute(f"INSERT INTO {_MARK} (revision) VALUES (%s)", (REVISIONS[-1],))  # noqa: S608
    else:
        connection.execute(f"UPDATE {_MARK} SET revision = %s", (REVISIONS[-1],))  # noqa: S608


def grant(connection: PostgresConnection, *, writer: str | None, reader: str | None) -> None:
    """Let one role write and another read, and do nothing else to the tables; whoever calls it owns them.

    Raises:
        LedgerUnavailable: there is no such role, or the tables are somebody else's.
    """
    try:
        for role, rights in ((writer, _to_write), (reader, _to_read)):
            if role is not None:
                named = connection.execute(_NAMED, (role,)).fetchone()
                if named is None:
                    raise LedgerUnavailable(f"there is no role {role!r}: CREATE ROLE … LOGIN")
                if named["owns"]:
                    raise LedgerUnavailable(f"{role!r} owns the tables: gates and auditors need another role")
                for table in _tables():
                    connection.execute(f"REVOKE ALL ON {table} FROM {named['name']}")
                connection.execute(f"GRANT USAGE ON SCHEMA {named['schema']} TO {named['name']}")
                for statement in rights():
                    connection.execute(f"{statement} {named['name']}")
    except PostgresError as error:
        raise LedgerUnavailable(f"rights could not be given: {told(error)}") from error


def _tables() -> Iterator[str]:
    yield _MARK
    for table in Stored.metadata.sorted_tables:
        yield table.name


def _to_read() -> Iterator[str]:
    """An auditor reads everything but the log's key, sealed as it is."""
    yield from (f"GRANT SELECT ON {table} TO" for table in _tables() if table != SHARED_KEY.name)


def _to_write() -> Iterator[str]:
    yield from (f"GRANT SELECT ON {table} TO" for table in _tables())
    for table in Stored.metadata.sorted_tables:
        if table is TIP:
            yield f"GRANT UPDATE (size, frontier, erasures) ON {table.name} TO"
        elif table.name in UNCHANGED:
            yield f"GRANT INSERT ON {table.name} TO"
        else:
            yield f"GRANT INSERT, UPDATE, DELETE ON {table.name} TO"


@contextmanager
def indexed_later(connection: PostgresConnection) -> Generator[None]:
    """Take the indexes away while tables are filled, and make them at the end, which is faster."""
    made = connection.execute(_INDEXES, {"tables": ",".join(_tables())}).fetchall()
    for row in made:
        connection.execute(f"DROP INDEX {row['name']}")
    yield
    for row in made:
        connection.execute(row["definition"])


def sql_types(table: Table) -> list[str]:
    """Give the types of a table's columns, as PostgreSQL names them."""
    kinds = ((Integer, "int8"), (LargeBinary, "bytea"))
    return [
        next((name for kind, name in kinds if isinstance(column.type, kind)), "text")
        for column in table.columns
    ]
