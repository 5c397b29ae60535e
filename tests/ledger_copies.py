"""The same ledger in other databases: what an SQLite file holds, copied table by table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.pool import NullPool

from toolgate.backends.sql_tables import Stored
from toolgate.backends.sqlite_files import reader


@dataclass(frozen=True)
class PostgresSchema:
    """A ledger's tables in a schema of a PostgreSQL; satisfies `LedgerDatabase`."""

    address: str
    schema: str

    @property
    def name(self) -> str:
        return self.schema

    def engine(self) -> Engine:
        options = f"-c search_path={self.schema} -c default_transaction_read_only=on"
        return create_engine(_url(self.address), connect_args={"options": options}, poolclass=NullPool)

    def fault(self) -> str | None:
        return None

    def exists(self) -> bool:
        return True


def copied_to_postgres(database: Path, address: str, schema: str) -> PostgresSchema:
    """Make the tables anew in `schema`, and fill them with the rows of an SQLite ledger."""
    tables = MetaData(schema=schema)
    for table in Stored.metadata.sorted_tables:
        _with_large_numbers(table.to_metadata(tables, schema=schema))
    engine = create_engine(_url(address), poolclass=NullPool)
    with engine.begin() as target, reader(database).connect() as source:
        target.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
        target.execute(text(f"CREATE SCHEMA {schema}"))
        tables.create_all(target)
        for table in Stored.metadata.sorted_tables:
            rows: Sequence[dict[str, Any]] = [dict(row) for row in source.execute(select(table)).mappings()]
            if rows:
                target.execute(insert(tables.tables[f"{schema}.{table.name}"]), rows)
    return PostgresSchema(address, schema)


def _url(address: str) -> Any:  # noqa: ANN401 - SQLAlchemy's URL
    return make_url(f"{address}&user=postgres").set(drivername="postgresql+psycopg")


def _with_large_numbers(table: Table) -> None:
    for column in table.columns:
        if isinstance(column.type, Integer):
            column.type = BigInteger()
