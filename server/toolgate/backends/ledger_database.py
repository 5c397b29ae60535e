"""Where a ledger is kept, for those who read it: a file, or whatever else has its tables."""

import sqlite3
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr
from sqlalchemy import Engine

from toolgate.backends import postgres_connection
from toolgate.backends.postgres_connection import PostgresConnection, PostgresError, told
from toolgate.backends.postgres_schema import misfit, revision_of
from toolgate.backends.sql_connection import SqlConnection, cause
from toolgate.backends.sqlite_files import fault_in_database, read_only, reader
from toolgate.core.errors import LedgerUnavailable


class LedgerDatabase(Protocol):
    """A database that holds, or may come to hold, a ledger's tables; it is only read."""

    @property
    def name(self) -> str:
        """Its name in messages; never a password."""
        ...

    def engine(self) -> Engine:
        """Give read-only connections; each is opened when it is used."""
        ...

    def fault(self) -> str | None:
        """Say why an existing database cannot hold the ledger; None also where there is none yet."""
        ...

    def exists(self) -> bool:
        """Whether there is one."""
        ...


class TreeDatabase(LedgerDatabase, Protocol):
    """One with the tree itself, to which gates write."""

    def reading(self) -> AbstractContextManager[SqlConnection]:
        """Give one connection on which all that is read is of the same moment.

        Raises:
            LedgerUnavailable: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class SqliteFile:
    """A ledger in an SQLite file."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def engine(self) -> Engine:
        """Give read-only connections, which never get in the writer's way."""
        return reader(self.path)

    def fault(self) -> str | None:
        """Say why the file is no ledger of this version, or None."""
        return fault_in_database(self.path) if self.exists() else None

    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.is_file()

    @contextmanager
    def reading(self) -> Generator[SqlConnection]:
        """Read the file as it is at one moment."""
        connection = read_only(self.path)
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"{self.name} cannot be read ({cause(error)})") from error
        finally:
            connection.close()


@dataclass(frozen=True)
class PostgresDatabase:
    """A ledger in PostgreSQL."""

    url: SecretStr

    @property
    def name(self) -> str:
        """Its address, without a password."""
        return postgres_connection.shown(self.url.get_secret_value())

    def engine(self) -> Engine:
        """Give connections whose transactions only read."""
        return postgres_connection.reader(self.url.get_secret_value())

    def fault(self) -> str | None:
        """Say why the database cannot hold the ledger, or None."""
        try:
            revision = self._revision()
        except LedgerUnavailable as error:
            return str(error)
        return None if revision is None else misfit(revision)

    def exists(self) -> bool:
        """Whether the ledger's tables are there.

        Raises:
            LedgerUnavailable: the server cannot be asked.
        """
        return self._revision() is not None

    @contextmanager
    def reading(self) -> Generator[SqlConnection]:
        """Read the database as it is at one moment."""
        connection = self._connection()
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection
        except PostgresError as error:
            raise LedgerUnavailable(f"{self.name} cannot be read ({told(error)})") from error
        finally:
            connection.close()

    def _revision(self) -> str | None:
        connection = self._connection()
        try:
            return revision_of(connection)
        except PostgresError as error:
            raise LedgerUnavailable(f"{self.name} cannot be read ({told(error)})") from error
        finally:
            connection.close()

    def _connection(self) -> PostgresConnection:
        return PostgresConnection(self.url.get_secret_value(), seconds=10, purpose="reader")


def demand(database: LedgerDatabase) -> Engine:
    """Give connections to a ledger that is there.

    Raises:
        LedgerUnavailable: there is none yet.
    """
    if not database.exists():
        raise LedgerUnavailable(f"there is no ledger at {database.name}; nothing was called yet")
    return database.engine()
