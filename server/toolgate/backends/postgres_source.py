"""A ledger's rows out of PostgreSQL, for the verifier: streamed, and all of one moment."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final, Unpack

from pydantic import SecretStr

from toolgate.backends.postgres_connection import PostgresConnection, PostgresError, shown, told
from toolgate.core.errors import LedgerUnavailable
from toolgate.verifier import Asked, Report, Row, Unreadable, verify_source

_ROWS: Final = 2000
_LARGEST_ENTRY: Final = 1 << 18
_LARGEST_VALUE: Final = 1 << 28
_TABLES: Final = {
    "ledger_entry": "idx leaf body kind call_id at tenant who tool status run refers",
    "ledger_node": "level number hash",
    "ledger_tip": "id size frontier",
    "ledger_checkpoint": "size note",
    "payload": "idx field salt value",
}
_SHAPE: Final = """
    SELECT relkind::text AS kind, (
        SELECT string_agg(attname::text, ' ') FROM pg_attribute
        WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
    ) AS columns FROM pg_class WHERE oid = to_regclass(%s)
"""
_BY_AN_INDEX: Final = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")


class PostgresSource:
    """The rows of a ledger, read in one transaction of `connection`.

    What is too large for the gate is not fetched: nothing stands in its place.

    Raises:
        Unreadable: the tables are not of this form.
    """

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection
        self._entries = 0
        for table, columns in _TABLES.items():
            self._demand(table, set(columns.split()))

    def last(self) -> object:
        """Give the largest index of an entry."""
        row = self._connection.execute("SELECT max(idx) AS last FROM ledger_entry").fetchone()
        return None if row is None else row["last"]

    def entries(self, columns: Sequence[str]) -> Iterator[list[Row]]:
        """Give `idx`, `leaf`, `body` and the columns."""
        named = ", ".join(["idx", *(_bounded(name, _LARGEST_ENTRY) for name in ("leaf", "body", *columns))])
        for rows in self._stream(f"SELECT {named} FROM ledger_entry ORDER BY idx"):  # noqa: S608 - of names
            self._entries += len(rows)
            yield rows

    def first(self) -> Iterator[Row]:
        """Give the `body` of the first entry."""
        body = _bounded("body", _LARGEST_ENTRY)
        return self._rows(f"SELECT {body} FROM ledger_entry WHERE idx = 0")  # noqa: S608

    def rotations(self) -> Iterator[Row]:
        """Give `idx` and `body` of the entries whose column `kind` is `key_rotate`."""
        body = _bounded("body", _LARGEST_ENTRY)
        return self._rows(
            f"SELECT idx, {body} FROM ledger_entry WHERE kind = 'key_rotate' ORDER BY idx"  # noqa: S608
        )

    def payloads(self) -> Iterator[Row]:
        """Give `idx`, `field`, `salt` and `value`."""
        named = ", ".join(["idx", *(_bounded(name, _LARGEST_VALUE) for name in ("field", "salt", "value"))])
        return self._rows(f"SELECT {named} FROM payload ORDER BY idx, field")  # noqa: S608

    def nodes(self, level: int) -> Iterator[Row]:
        """Give `number` and `hash` of a level."""
        named = f"number, {_bounded('hash', _LARGEST_ENTRY)}"
        return self._rows(f"SELECT {named} FROM ledger_node WHERE level = %s ORDER BY number", level)  # noqa: S608

    def nodes_elsewhere(self, levels: Sequence[int]) -> Iterator[Row]:
        """Give `level` and `number` of a node on no level of these."""
        sql = "SELECT level, number FROM ledger_node WHERE level <> ALL(%s::bigint[]) LIMIT 1"
        return self._rows(sql, list(levels))

    def tips(self) -> list[Row]:
        """Give `id`, `size` and `frontier` of two rows at most."""
        frontier = _bounded("frontier", _LARGEST_ENTRY)
        return list(self._rows(f"SELECT id, size, {frontier} FROM ledger_tip LIMIT 2"))  # noqa: S608

    def checkpoints(self) -> Iterator[Row]:
        """Give `size` and `note`, in UTF-8."""
        note = f"convert_to({_bounded('note', _LARGEST_ENTRY)}, 'UTF8')"
        return self._rows(f"SELECT size, {note} FROM ledger_checkpoint ORDER BY size")  # noqa: S608

    def is_cosigned(self) -> bool:
        """Whether cosignatures of witnesses are kept."""
        return any(True for _ in self._rows("SELECT 1 FROM ledger_cosignature LIMIT 1"))

    def cosignatures(self, size: int) -> Iterator[Row]:
        """Give the `line` of each cosignature that is kept for the checkpoint of that size."""
        sql = "SELECT line FROM ledger_cosignature WHERE size = %s ORDER BY witness"
        return self._rows(sql, size)

    def unnumbered(self, table: str, number: str) -> int:
        """Count the rows without a number, and of the entries those that the index has not led to."""
        for way in _BY_AN_INDEX:
            self._connection.execute(f"SET LOCAL {way} = off")
        counts = f"SELECT count(*) AS rows, count({number}) AS numbered FROM {table}"  # noqa: S608 - of names
        row = self._connection.execute(counts).fetchone()
        if row is None:
            return 0
        reached = self._entries if table == "ledger_entry" else row["numbered"]
        return int(row["rows"]) - int(reached)

    def _demand(self, table: str, columns: set[str]) -> None:
        """A view or a foreign table in the place of a table could show anything."""
        row = self._connection.execute(_SHAPE, (table,)).fetchone()
        if row is None or row["kind"] != "r":
            raise Unreadable(
                f"there is no table {table}; this is not a ledger of this form, or it was removed"
            )
        if missing := columns - set(str(row["columns"]).split()):
            raise Unreadable(f"{table} has no column {min(missing)}; this is not a ledger of this form")

    def _rows(self, statement: str, *values: object) -> Iterator[Row]:
        for rows in self._stream(statement, values):
            yield from rows

    def _stream(self, statement: str, values: Sequence[Any] = ()) -> Iterator[list[Row]]:
        return self._connection.stream(statement, values, rows=_ROWS)


def verify_postgres(url: SecretStr, **asked: Unpack[Asked]) -> Report:
    """Verify the whole ledger at `url`; what is asked and found is as in `verify_ledger`.

    Raises:
        Unreadable: it cannot be read, or is no ledger of this form.
    """
    try:
        with closing(
            PostgresConnection(url.get_secret_value(), seconds=10, purpose="verifier")
        ) as connection:
            connection.take_your_time()
            connection.execute("SET row_security = off")  # whoever may not see all rows gets an error
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return verify_source(PostgresSource(connection), **asked)
    except (PostgresError, LedgerUnavailable) as error:
        where = shown(url.get_secret_value())
        raise Unreadable(f"{where} cannot be read to its end: {told(error)}") from error


def _bounded(name: str, most: int) -> str:
    """Select a value where it is of a size that the gate may have written; numbers always are."""
    if name in {"at", "refers"}:
        return name
    return f"CASE WHEN octet_length({name}) <= {most} THEN {name} END"
