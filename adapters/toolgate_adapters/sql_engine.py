"""Opens databases: SQLite files and PostgreSQL, each once for reading and once for writing."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

CONNECT_SECONDS: Final = 10
"""How long PostgreSQL may take to be connected to: a thread waits for it that nothing else can end."""
_SIGN_IN: Final = frozenset({"user", "password", "passfile", "service", "sslpassword"})


def address_of(url: str, root: Path) -> URL:
    """Read a manifest's address; a file's begins at `root`.

    Raises:
        ValueError: it is none of ours, or says who signs in.
    """
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise ValueError("[system] url: it is not a database address") from error
    if address.username or address.password or not _SIGN_IN.isdisjoint(address.query):
        raise ValueError("[system] url: it holds a user; name a credential role instead")
    match address.get_backend_name():
        case "sqlite" if address.database:
            return address.set(database=str(root / address.database))
        case "postgresql":
            return address.set(drivername="postgresql+psycopg")
        case _:
            raise ValueError("[system] url: sqlite:///FILE or postgresql://HOST/DATABASE is expected")


def opened(url: URL, secret: str, *, idle: int, most: int) -> tuple[Engine, Engine]:
    """Give the engines for reading and for writing, signed in with `secret` (`user:password`).

    Of at most `most` connections, `idle` wait for the next statement.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, most, read_only=True), _sqlite(url, most, read_only=False)
    user, _, password = secret.partition(":")
    engine = create_engine(
        url.set(username=user or None, password=password or None),
        pool_size=idle,
        max_overflow=most - idle,
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    return engine.execution_options(postgresql_readonly=True), engine


def _sqlite(url: URL, most: int, *, read_only: bool) -> Engine:
    mode = "ro" if read_only else "rw"
    file = f"file:{quote(url.database or '')}"
    address = URL.create("sqlite", database=file, query={"mode": mode, "uri": "true"})
    engine = create_engine(address, pool_size=most, max_overflow=0, hide_parameters=True,
                           connect_args={"check_same_thread": False})  # fmt: skip

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:  # noqa: ANN401 - the driver's own
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 3000")
        connection.execute("PRAGMA foreign_keys = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
