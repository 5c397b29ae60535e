"""Lets SQLAlchemy speak to DuckDB, as far as reading an export, and writing one, needs it."""

from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import NullPool

from toolgate.core.errors import LedgerUnavailable

MEMORY_MB: Final = 256
"""What a question or an export may hold in memory; more of it lies in a temporary folder for as long."""

_SETTINGS: Final = (
    "SET TimeZone = 'UTC'",
    "SET integer_division = true",
    "SET enable_progress_bar = false",  # it would write between what a command prints
)


class DuckDbDialect(DefaultDialect):
    """What DuckDB's driver needs: positions for parameters, and no transaction around a question."""

    name = "duckdb"
    driver = "duckdb"
    supports_statement_cache = True
    supports_native_boolean = True
    default_paramstyle = "qmark"

    @classmethod
    def import_dbapi(cls) -> Any:  # noqa: ANN401 - the driver
        """Import the driver.

        Raises:
            LedgerUnavailable: it is not installed.
        """
        try:
            import duckdb  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise LedgerUnavailable(
                "Parquet needs DuckDB, which is not installed; say: pip install 'toolgate[parquet]'"
            ) from error
        return duckdb

    def do_begin(self, dbapi_connection: Any) -> None:  # noqa: ANN401 - the driver's
        """Begin none: each statement stands for itself."""

    def do_commit(self, dbapi_connection: Any) -> None:  # noqa: ANN401
        """Commit none."""

    def do_rollback(self, dbapi_connection: Any) -> None:  # noqa: ANN401
        """Roll none back."""


class _Cursor:
    """The connection itself as a cursor of it: a cursor of DuckDB's would be a connection of its own."""

    def __init__(self, own: Any) -> None:  # noqa: ANN401
        self._own = own

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._own, name)

    def close(self) -> None:
        """Leave the connection open."""


class _Connection:
    """One connection, whose settings and temporary views all statements see.

    What does not fit into memory lies in a folder of its own, which nobody else can read.
    """

    def __init__(self, own: Any, spilled: TemporaryDirectory[str]) -> None:  # noqa: ANN401
        self._own, self._spilled = own, spilled

    def cursor(self) -> _Cursor:
        """Give what runs statements, one after the other."""
        return _Cursor(self._own)

    def close(self) -> None:
        """Close it, and with it the database."""
        self._own.close()
        self._spilled.cleanup()


registry.register("duckdb", __name__, DuckDbDialect.__name__)


def duckdb_engine(*statements: str) -> Engine:
    """Give connections to databases in memory, each empty but for what `statements` make there.

    Raises:
        LedgerUnavailable: DuckDB is not installed.
    """
    driver = DuckDbDialect.import_dbapi()
    config = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": f"{MEMORY_MB}MB",
        "preserve_insertion_order": "true",
    }

    def connected() -> Any:  # noqa: ANN401 - the driver's
        with ExitStack() as undo:
            spilled = TemporaryDirectory(prefix="toolgate-")
            undo.callback(spilled.cleanup)
            connection = driver.connect(":memory:", config=config | {"temp_directory": spilled.name})
            undo.callback(connection.close)
            for statement in (*_SETTINGS, *statements):
                connection.execute(statement)
            undo.pop_all()
        return _Connection(connection, spilled)

    return create_engine(URL.create("duckdb"), creator=connected, poolclass=NullPool)
