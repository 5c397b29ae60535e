"""What makes the ledger's tables in PostgreSQL, spelled out of their declarations.

The program carries it as a text that does not change any more once it was released: a later revision is a new
file beside it. Until then, after a change of sql_tables.py, write it anew: python -m tests.postgres_ddl
"""

from collections.abc import Iterator

from sqlalchemy import Index, Integer, LargeBinary, Table
from sqlalchemy.types import TypeEngine

from toolgate.backends.postgres_schema import MIGRATIONS, UNCHANGED
from toolgate.backends.sql_tables import TIP, Stored

FIRST = MIGRATIONS / "0001.sql"
_REFUSE = """
CREATE FUNCTION toolgate_never_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME; END $$
""".strip()


def text() -> str:
    """Give the whole file."""
    return "\n\n".join(f"{statement};" for statement in statements()) + "\n"


def statements() -> Iterator[str]:
    """Give the statements that make the tables of this version."""
    yield "CREATE TABLE toolgate_schema (revision TEXT NOT NULL)"
    for table in Stored.metadata.sorted_tables:
        yield _table(table)
        for index in sorted(table.indexes, key=lambda index: f"{index.name}"):
            yield _index(table, index)
    yield f"INSERT INTO {TIP.name} (id, size, frontier, erasures) VALUES (1, 0, ''::bytea, 0)"  # noqa: S608
    yield _REFUSE
    for name in UNCHANGED:
        yield (
            f"CREATE TRIGGER {name}_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
            "FOR EACH STATEMENT EXECUTE FUNCTION toolgate_never_changed()"
        )
        yield f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {name}_never_changed"


def _table(table: Table) -> str:
    columns = [
        f'"{column.name}" {_type(column.type)}{"" if column.nullable else " NOT NULL"}'
        for column in table.columns
    ]
    key = ", ".join(f'"{column.name}"' for column in table.primary_key.columns)
    lines = ",\n    ".join([*columns, f"PRIMARY KEY ({key})"])
    return f"CREATE TABLE {table.name} (\n    {lines}\n)"


def _type(type_: TypeEngine[object]) -> str:
    if isinstance(type_, Integer):
        return "BIGINT"
    return "BYTEA" if isinstance(type_, LargeBinary) else 'TEXT COLLATE "C"'


def _index(table: Table, index: Index) -> str:
    if index.name == "uq_pseudonym_value":  # a name may be longer than what fits in an ordinary index
        return f"CREATE INDEX ix_pseudonym_value ON {table.name} USING hash (value)"
    columns = ", ".join(f'"{column.name}"' for column in index.columns)
    where = index.dialect_kwargs.get("sqlite_where")
    unique = "UNIQUE " if index.unique else ""
    only = "" if where is None else f" WHERE {where}"
    return f"CREATE {unique}INDEX {index.name} ON {table.name} ({columns}){only}"


if __name__ == "__main__":
    FIRST.write_text(text(), "utf-8")
