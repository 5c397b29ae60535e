"""PostgreSQL by psycopg 3: the only module that knows it, but for what travels on its wire."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from toolgate.backends.postgres_wire import Answer, Wire
from toolgate.backends.sql_connection import Dialect, cause
from toolgate.core.errors import LedgerUnavailable

PostgresError: Final = psycopg.Error
"""Whatever the server or the way to it says."""

NotReplicated: Final = psycopg.OperationalError
"""What the writer raises for a commit that the server did not wait for a standby to have."""
_NOT_IN_TIME: Final = ("55P03", "57014", "25P03")
"""SQLSTATE: a lock was not to be had, a statement was cut, a transaction stood still for too long."""
_KEPT_ALIVE: Final[dict[str, Any]] = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}


class PostgresConnection:
    """One connection; each statement is a transaction, unless one was begun.

    Args:
        url: `postgresql://…`, or libpq's own spelling; of several hosts the one that takes writes.
        seconds: how long a connection, a lock or a statement may take.
        purpose: what it is for, as `pg_stat_activity` shows it.

    Raises:
        LedgerUnavailable: the server cannot be reached, or does not let us in.
    """

    dialect: Dialect = "postgresql"

    def __init__(self, url: str, *, seconds: float, purpose: str) -> None:
        limit = f"{round(seconds * 1000)}ms"
        try:
            self._connection = psycopg.connect(
                _where_writes_are_taken(url),
                autocommit=True,
                connect_timeout=max(2, round(seconds / _hosts_in(url))),
                tcp_user_timeout=round(seconds * 1000),
                application_name=f"toolgate {purpose}",
                **_KEPT_ALIVE,
            )
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                self._connection.execute(f"SET {name} = '{limit}'".encode())
            for name, value in (("idle", 5), ("interval", 2), ("count", 3)):
                self._connection.execute(f"SET tcp_keepalives_{name} = {value}".encode())
        except PostgresError as error:
            raise LedgerUnavailable(f"{shown(url)} cannot be reached: {told(error)}") from error
        self._wire, self._together = Wire(self._connection, seconds=2 * seconds), False
        self._streams = 0
        self.warned = ""
        """The last warning of the server; a commit whose wait for a standby was cut off has only that."""
        self._connection.add_notice_handler(self._hear)

    def _hear(self, said: Diagnostic) -> None:
        if said.severity_nonlocalized == "WARNING":
            self.warned = said.message_primary or "a warning"

    @property
    def is_lost(self) -> bool:
        """Whether the server can no longer be spoken to."""
        return self._connection.closed

    def execute(self, statement: str, parameters: Mapping[str, Any] | Sequence[Any] = (), /) -> Answer:
        """Carry out a statement; between `together` and its end, some time before it is asked for."""
        answer = self._wire.send(statement, parameters)
        if not self._together:
            self._wire.wait()
        return answer

    @contextmanager
    def together(self) -> Generator[None]:
        """Send what does not need an answer without waiting for one; leave no transaction open."""
        self._together = True
        try:
            yield
            self._wire.wait()
        finally:
            self._together = False
            if not self.is_lost:
                with suppress(PostgresError):
                    self._wire.wait()
                if self._connection.info.transaction_status != TransactionStatus.IDLE:
                    with suppress(PostgresError):
                        self.execute("ROLLBACK")

    def sync(self) -> None:
        """Wait until all that was sent has been carried out."""
        self._wire.wait()

    def notifications(self, seconds: float) -> Iterator[str]:
        """Give what is said on the channels that are listened to, for so long."""
        return self._wire.notifications(seconds)

    def stream(
        self, statement: str, parameters: Sequence[Any] = (), *, rows: int
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Give what a statement finds, so many rows at a time, from a cursor of the server.

        It is used in a transaction, and may be left before its end.
        """
        self._streams += 1
        cursor = self._connection.cursor(f"stream_{self._streams}", row_factory=tuple_row)
        with closing(cursor):
            cursor.execute(statement.encode(), parameters or None, binary=True)
            while found := cursor.fetchmany(rows):
                yield found

    def take_your_time(self) -> None:
        """Let statements and transactions last as long as they do: nobody waits for them."""
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            self._connection.execute(f"SET {name} = 0".encode())
        self._wire.seconds = None

    def copy_in(self, statement: str, rows: Iterator[Sequence[Any]], types: Sequence[str]) -> None:
        """Insert rows by `COPY … FROM STDIN (FORMAT binary)`, with columns of these types."""
        with self._connection.cursor().copy(statement.encode()) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)

    def close(self) -> None:
        """Let go of it."""
        with suppress(PostgresError):
            self._connection.close()


def reader(url: str) -> Engine:
    """Give connections that only read, each opened when it is used."""

    def connect() -> Connection[Any]:
        connection = psycopg.connect(url, application_name="toolgate reader", connect_timeout=10)
        connection.read_only = True
        return connection

    return create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)


def shown(url: str) -> str:
    """Spell an address for people, without its password."""
    try:
        parts = conninfo_to_dict(url)
    except PostgresError:
        return "database_url"
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"postgresql://{host}/{parts.get('dbname') or parts.get('user') or ''}"


def place(url: str) -> str:
    """Spell which database an address means, whoever asks: without role and password, with all hosts."""
    parts = conninfo_to_dict(url)
    host = f"{parts.get('host') or parts.get('hostaddr') or 'localhost'}"
    return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"


def fault_in(url: str) -> str | None:
    """Say why an address cannot be one, or None; nothing is connected to.

    What libpq says of it may quote the password.
    """
    try:
        conninfo_to_dict(url)
    except PostgresError:
        return (
            "it is no address of a PostgreSQL database (a % in a password is written %25, a @ %40, a / %2F)"
        )
    return None


def with_password(url: str, password: str) -> str:
    """Give the address with a password in it."""
    return make_conninfo(url, password=password)


def has_password(url: str) -> bool:
    """Whether a password stands in the address."""
    return "password" in conninfo_to_dict(url)


def told(error: BaseException) -> str:
    """Say what went wrong, in one line and without values."""
    said = cause(error)
    if isinstance(error, psycopg.OperationalError) and error.diag.message_primary is None:
        said = " ".join(str(error).split())
    return said


def came_too_late(error: BaseException) -> bool:
    """Whether a lock, a statement or a transaction took longer than it may: nothing of it holds."""
    return isinstance(error, PostgresError) and error.sqlstate in _NOT_IN_TIME


def _hosts_in(url: str) -> int:
    """How many servers an address names: each may be dead, and the next one is to be tried in time."""
    parts = conninfo_to_dict(url)
    return f"{parts.get('hostaddr') or parts.get('host') or ''}".count(",") + 1


def _where_writes_are_taken(url: str) -> str:
    """Of several servers, take the one that is no standby."""
    attributes = {"target_session_attrs": "read-write"}
    return url if attributes.keys() <= conninfo_to_dict(url).keys() else make_conninfo(url, **attributes)
