"""The gates' database as strangers read it, whichever database that is and whatever happens to it."""

import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

Database = Literal["sqlite", "postgresql"]
PATIENCE = 30.0
"""Seconds for which a server may be away: it is restarted again and again."""


@dataclass(frozen=True)
class Book:
    """Where the gates write: a file, or a server's database. It can be handed to another process."""

    file: Path
    url: str = ""

    def open(self) -> "Reading":
        """Give somebody a look of his own at it."""
        return PostgresReading(self.url) if self.url else SqliteReading(self.file)


class SqliteReading:
    """Reads a file; each time as it is at that moment."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Give all rows; `?` stands for a value."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Nothing is open."""


class PostgresReading:
    """Reads a server's database over one connection; a new one after the server was away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Give all rows; `?` stands for a value. Where the server is away, wait until it is back."""
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
                return self._connection.execute(query.replace("?", "%s").encode(), values).fetchall()
            except psycopg.OperationalError:
                self.close()
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()


Reading = SqliteReading | PostgresReading
