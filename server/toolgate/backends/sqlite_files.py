"""The gate's SQLite file: opened for writing by one connection a process, for reading by any number."""

import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from toolgate.core.errors import LedgerUnavailable

SCHEMA: Final = "0004"
"""The newest revision under `migrations/versions`."""
_MIGRATIONS: Final = Path(__file__).with_name("migrations")


def connected(path: Path) -> sqlite3.Connection:
    """Open `path` for the one writer: every commit is on the disk, and nobody folds the WAL by accident."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def reader(path: Path) -> Engine:
    """Open `path` for reading only: such a connection never checkpoints, not even as the last to close."""
    return create_engine("sqlite://", creator=lambda: _read_only(path), poolclass=NullPool)


def read_only(path: Path) -> sqlite3.Connection:
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
        if fault := _foreign(path, revision):
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
    return None if revision == SCHEMA else _foreign(path, revision)


def identity(path: Path) -> tuple[int, int]:
    """Which file a path means: a deleted database can still be written to, and nobody would see it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def cause(error: BaseException) -> str:
    """Name a fault without a statement's parameters, which may hold what must not be shown."""
    if isinstance(error, DBAPIError):
        return f"{error.orig}"
    if isinstance(error, sqlite3.Error | OSError | LedgerUnavailable):
        return f"{error}"
    return type(error).__name__


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)


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


def _foreign(path: Path, revision: str) -> str | None:
    """Say why tables of this revision cannot be brought to ours, or None."""
    if revision == "" or any(_MIGRATIONS.glob(f"versions/{revision}_*.py")):
        return None
    return (
        f"{path.name} has schema {revision!r}, this program knows {SCHEMA}; "
        "use the program that wrote it, or move the file away"
    )
