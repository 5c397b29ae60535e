"""What the ledger asks of a database's connection, whichever database that is."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from sqlalchemy.exc import DBAPIError

from toolgate.core.errors import LedgerUnavailable

Dialect: TypeAlias = Literal["sqlite", "postgresql"]


class SqlRow(Protocol):
    """A row, by names and by places."""

    def __getitem__(self, key: str | int, /) -> Any: ...  # noqa: ANN401 - any column

    def keys(self) -> list[str]: ...

    def __iter__(self) -> Iterator[Any]: ...


class SqlCursor(Protocol):
    """What came of a statement. Whether it was carried out is only sure once something was asked of this."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...  # noqa: ANN401 - a `SqlRow` or None

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class SqlConnection(Protocol):
    """Carries out statements in one database."""

    @property
    def dialect(self) -> Dialect: ...

    def execute(self, statement: str, parameters: Mapping[str, Any] | Sequence[Any] = (), /) -> SqlCursor: ...


class SqliteConnection(sqlite3.Connection):
    """SQLite's own, which says what it is."""

    dialect: Dialect = "sqlite"


def cause(error: BaseException) -> str:
    """Name a fault without a statement's parameters, which may hold what must not be shown."""
    if isinstance(error, DBAPIError):
        return cause(error.orig) if error.orig is not None else type(error).__name__
    if (said := getattr(getattr(error, "diag", None), "message_primary", None)) is not None:
        return str(said)
    if isinstance(error, sqlite3.Error | OSError | LedgerUnavailable):
        return f"{error}"
    return type(error).__name__
