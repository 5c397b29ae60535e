"""The gate's SQLite file: opened for writing by one connection a process, for reading by any number."""

import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from toolgate.backends.sql_connection import SqliteConnection, cause
from toolgate.core.errors import LedgerUnavailable

SCHEMA: Final = "0008"
"""The newest revision under `migrations/versions`."""
MOVING, MOVED = "on its way to postgresql://", "moved to postgresql://"
"""What stands in the place of the revision while the ledger moves out of a file, and when it has."""
_MIGRATIONS: Final = Path(__file__).with_name("migrations")


def connected(path: Path) -> SqliteConnection:
    """Open `path` for the one writer.

    Every commit is on the disk, nobody folds the WAL by accident, and what is deleted is overwritten.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=5, factory=SqliteConnection
    )
    connection.row_factory = sqlite3.Row
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "wal_autocheckpoint = 0",
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def reader(path: Path) -> Engine:
    """Open `path` for reading only: such a connection never checkpoints, not even as the last to close."""
    return create_engine("sqlite://", creator=lambda: _read_only(path), poolclass=NullPool)


def read_only(path: Path) -> SqliteConnection:
    """Open `path` for reading only, with rows that have names, and no transaction but those one begins."""
    connection = _read_only(path)
    connection.isolation_level = None
    connection.row_factory = sqlite3.Row
    return connection


def prepare(path: Path) -> None:
    """Bring the tables in `path` to the newest revision; whoever calls it holds the writers' lock.

    Raises:
        LedgerUnavailable: a program that is newer, or older than revisions, has made them.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    event.listen(engine, "connect", _leave_transactions_alone)
    event.listen(engine, "begin", _begin_at_once)
    with engine.begin() as connection:
        revision = _revision(connection)
        if revision == SCHEMA:
            return
        if fault := foreign(path.name, revision):
            raise LedgerUnavailable(fault)
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, SCHEMA)
    path.chmod(0o600)


def fault_in_database(path: Path) -> str | None:
    """Say why an existing file cannot hold the ledger, or None; it is only read."""
    try:
        with reader(path).connect() as connection:
            revision = _revision(connection)
    except SQLAlchemyError as error:
        return f"{path.name} cannot be read as a database ({cause(error)})"
    return None if revision == SCHEMA else foreign(path.name, revision)


def identity(path: Path) -> tuple[int, int]:
    """Which file a path means: a deleted database can still be written to, and nobody would see it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _read_only(path: Path) -> SqliteConnection:
    file = f"file:{quote(str(path.absolute()))}?mode=ro"
    return sqlite3.connect(file, uri=True, factory=SqliteConnection)


def _leave_transactions_alone(connection: sqlite3.Connection, _record: object) -> None:
    """Keep the driver from committing before each change of a table: a revision is applied wholly or not."""
    connection.isolation_level = None


def _begin_at_once(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _revision(connection: Connection) -> str:
    """Give the revision of a database's tables; an empty text for one that has none."""
    count = "SELECT count(*) FROM sqlite_master"
    tables: int = connection.exec_driver_sql(count).scalar_one()
    named = connection.exec_driver_sql(f"{count} WHERE name = 'alembic_version'").scalar_one()
    if not named:
        return "older than 0001" if tables else ""
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return "" if revision is None else str(revision)


def foreign(name: str, revision: str) -> str | None:
    """Say why tables of this revision cannot be brought to ours, or None."""
    if revision.startswith(MOVING):
        return f"{name} is {revision}: run toolgate ledger migrate again, which finishes that"
    if revision.startswith(MOVED):
        return (
            f"{name} was {revision}, and nothing more is written to it: set database_url in toolgate.toml "
            "(docs/how-to/migrate.md)"
        )
    if revision == "" or any(_MIGRATIONS.glob(f"versions/{revision}_*.py")):
        return None
    return (
        f"{name} has schema {revision!r}, this program knows {SCHEMA}; "
        "use the program that wrote it, or move the file away"
    )
