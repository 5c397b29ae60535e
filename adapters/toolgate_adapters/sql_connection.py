"""A database connection that does one statement a transaction, off the event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from sqlalchemy import URL, Connection, CursorResult, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from toolgate.adapter import (
    Credential,
    NothingDone,
    OutcomeUnknown,
    Sending,
    System,
    first_fault,
)

KEY_PARAMETER: Final = "idempotency_key"
"""A statement that binds `:idempotency_key` gets the call's key; no caller can set it."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A declared statement with this call's arguments."""

    text: str
    parameters: dict[str, JsonValue]
    most_rows: int
    expect_changed: int | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the database gave back."""

    rows: list[dict[str, Any]]
    changed: int


class SqlSystem(BaseModel):
    """The `[system]` table."""

    model_config = ConfigDict(extra="forbid")

    url: str
    """`sqlite:///data/crm.db` (from the deployment's folder) or `postgresql://host:port/database`."""
    max_connections: int = Field(default=8, ge=1, le=100)


class SqlConnector:
    """One pool of connections, and of threads to wait for them in."""

    marks_sending = True

    def __init__(self, system: System) -> None:
        try:
            options = SqlSystem.model_validate(dict(system.options))
        except ValidationError as error:
            raise ValueError(first_fault(error, "[system]")) from error
        self._url = _address(options.url, system.root)
        self._threads = ThreadPoolExecutor(options.max_connections, f"sql-{system.name}")
        self._most = options.max_connections
        self._engines: dict[str, tuple[Engine, Engine]] = {}

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Database"]:
        """Lend the database, signed in with `credential` (`user:password`) where it has users."""
        del sending  # each write calls the one in its context
        yield Database(*self._signed_in(credential), self._threads)

    async def aclose(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False)
        for engines in self._engines.values():
            for engine in engines:
                engine.dispose()

    def _signed_in(self, credential: Credential | None) -> tuple[Engine, Engine]:
        """Give the engines for reading and writing; another credential closes what the last one had open."""
        secret = credential.secret.get_secret_value() if credential else ""
        known = self._engines.get(secret)
        if known is None:
            for engines in self._engines.values():
                for engine in engines:
                    engine.dispose()
            self._engines = {secret: self._opened(secret)}
            known = self._engines[secret]
        return known

    def _opened(self, secret: str) -> tuple[Engine, Engine]:
        if self._url.get_backend_name() == "sqlite":
            return _sqlite(self._url, self._most, read_only=True), _sqlite(
                self._url, self._most, read_only=False
            )
        user, _, password = secret.partition(":")
        url = self._url.set(username=user or None, password=password or None)
        engine = create_engine(url, pool_size=self._most, max_overflow=0, hide_parameters=True)
        return engine.execution_options(postgresql_readonly=True), engine


class Database:
    """What an operation gets: a read or a write, each a transaction of its own."""

    def __init__(self, reading: Engine, writing: Engine, threads: ThreadPoolExecutor) -> None:
        self._reading, self._writing, self._threads = reading, writing, threads

    async def read(self, statement: Statement, deadline: datetime) -> Answer:
        """Run a statement in a read-only transaction.

        Raises:
            NothingDone: the database refused it or could not be reached.
        """
        work = _Work(self._reading, statement, deadline)
        return await self._in_thread(work.read, work)

    async def write(self, statement: Statement, deadline: datetime, sending: Sending) -> Answer:
        """Run a statement and commit it.

        Raises:
            NothingDone: it was refused and rolled back.
            OutcomeUnknown: the connection was lost during the commit.
        """
        sending()
        work = _Work(self._writing, statement, deadline)
        return await self._in_thread(work.write, work)

    async def _in_thread(self, run: Callable[[], T], work: "_Work") -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, run)
        except asyncio.CancelledError:
            work.interrupt()
            raise


class _Work:
    """One statement on its way; it can be interrupted from the event loop."""

    def __init__(self, engine: Engine, statement: Statement, deadline: datetime) -> None:
        self._engine, self._statement, self._deadline = engine, statement, deadline
        self._connection: Connection | None = None

    def read(self) -> Answer:
        try:
            with self._engine.connect() as connection, connection.begin():
                return self._execute(connection)
        except SQLAlchemyError as error:
            raise _refusal(error) from error

    def write(self) -> Answer:
        try:
            with self._engine.connect() as connection:
                transaction = connection.begin()
                try:
                    answer = self._execute(connection)
                except BaseException:
                    transaction.rollback()
                    raise
                try:
                    transaction.commit()
                except SQLAlchemyError as error:
                    raise _after_commit(error) from error
        except SQLAlchemyError as error:
            raise _refusal(error) from error
        return answer

    def interrupt(self) -> None:
        connection = self._connection
        if connection is None:
            return
        driver: Any = connection.connection.driver_connection
        stop = getattr(driver, "interrupt", None) or getattr(driver, "cancel", None)
        if stop is not None:
            stop()

    def _execute(self, connection: Connection) -> Answer:
        self._connection = connection
        try:
            self._limit_time(connection)
            result = connection.execute(text(self._statement.text), self._statement.parameters)
            return self._answer(result)
        finally:
            self._connection = None

    def _answer(self, result: CursorResult[Any]) -> Answer:
        rows: list[dict[str, Any]] = []
        if result.returns_rows:
            rows = [dict(row) for row in result.mappings().fetchmany(self._statement.most_rows)]
        changed = max(0, result.rowcount)
        expected = self._statement.expect_changed
        if expected is not None and changed != expected:
            raise NothingDone(
                "not_found" if changed == 0 else "conflict",
                f"the statement would have changed {changed} rows, not {expected}; it was rolled back",
            )
        return Answer(rows=rows, changed=changed)

    def _limit_time(self, connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            left = max(1, round((self._deadline - datetime.now(UTC)).total_seconds() * 1000))
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {left}")


def _address(url: str, root: Path) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise ValueError("[system] url: it is not a database address") from error
    if address.username or address.password:
        raise ValueError("[system] url: it holds a user; name a credential role instead")
    match address.get_backend_name():
        case "sqlite" if address.database:
            return address.set(database=str(root / address.database))
        case "postgresql":
            return address.set(drivername="postgresql+psycopg")
        case _:
            raise ValueError("[system] url: sqlite:///FILE or postgresql://HOST/DATABASE is expected")


def _sqlite(url: URL, most: int, *, read_only: bool) -> Engine:
    mode = "ro" if read_only else "rw"
    address = f"sqlite:///file:{url.database}?mode={mode}&uri=true"
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


def _refusal(error: SQLAlchemyError) -> NothingDone:
    """Before the commit everything is rolled back, whatever it was: nothing was done."""
    if isinstance(error, IntegrityError):
        return NothingDone("conflict", "the database refused the change: it breaks a constraint")
    if isinstance(error, OperationalError | InterfaceError):
        return NothingDone("unreachable", "the database could not be reached, or was busy", retryable=True)
    return NothingDone("statement_failed", "the database could not run the declared statement")


def _after_commit(error: SQLAlchemyError) -> NothingDone | OutcomeUnknown:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return OutcomeUnknown("the connection to the database was lost during the commit")
    return _refusal(error)
