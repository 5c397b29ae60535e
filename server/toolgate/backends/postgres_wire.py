"""Statements to PostgreSQL by libpq's pipeline, as `psycopg.pq` gives it: sent and read together.

A psycopg cursor waits for the socket once for each statement, and lets go of the interpreter each time.
Beside a busy event loop that is most of what a commit takes, while all other gates wait for its turn.
Here a round trip is one flush and one wait (docs/decisions/0027). Values and results travel in binary.
"""

import re
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

_PLACE: Final = re.compile(r"%(?:\((\w+)\))?s|%%")
_INT8: Final = 20
_GOOD: Final = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY})


def _int(value: bytes) -> int:
    return int.from_bytes(value, signed=True)


_READ: Final[Mapping[int, Callable[[bytes], Any]]] = {
    16: lambda value: value == b"\1",  # bool
    17: bytes,  # bytea
    18: bytes.decode,  # char
    19: bytes.decode,  # name
    20: _int,  # int8
    21: _int,  # int2
    23: _int,  # int4
    25: bytes.decode,  # text
    26: int.from_bytes,  # oid
    1043: bytes.decode,  # varchar
    2278: bytes.decode,  # void
}
"""By the type's number in `pg_type`."""


class Row:
    """A row, by names and by places."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: dict[str, int], values: Sequence[Any]) -> None:
        self._names, self._values = names, values

    def __getitem__(self, key: str | int) -> Any:  # noqa: ANN401 - any column
        return self._values[self._names[key] if isinstance(key, str) else key]

    def keys(self) -> list[str]:
        """Give the columns' names."""
        return list(self._names)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


class Answer:
    """What comes of a statement; asked for it, it waits for the server."""

    __slots__ = ("_next", "_result", "_wire")

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire
        self._result: pq.abc.PGresult | None = None
        self._next = 0

    def arrive(self, result: pq.abc.PGresult | None) -> None:
        """Take what the server has said; nothing, when a statement before this one failed."""
        self._result = result

    @property
    def rowcount(self) -> int:
        """How many rows were changed or found."""
        return self._arrived().command_tuples or 0

    def fetchone(self) -> Row | None:
        """Give the next row."""
        result = self._arrived()
        return next(self._rows(result), None) if self._next < result.ntuples else None

    def fetchall(self) -> list[Row]:
        """Give all rows that are left."""
        return list(self)

    def __iter__(self) -> Iterator[Row]:
        return self._rows(self._arrived())

    def _arrived(self) -> pq.abc.PGresult:
        if self._result is None:
            self._wire.wait()
        if self._result is None:
            raise psycopg.InterfaceError("nothing came of a statement that was given up")
        return self._result

    def _rows(self, result: pq.abc.PGresult) -> Iterator[Row]:
        columns = range(result.nfields)
        names = {(result.fname(column) or b"").decode(): column for column in columns}
        reads = [_READ[result.ftype(column)] for column in columns]
        while self._next < result.ntuples:
            row, self._next = self._next, self._next + 1
            found = [result.get_value(row, column) for column in columns]
            yield Row(names, [None if value is None else reads[n](value) for n, value in enumerate(found)])


class Wire:
    """Speaks to one server, for one thread at a time.

    Args:
        connection: in which no other statement is under way meanwhile.
        seconds: how long the server may say nothing before the connection is given up.
    """

    def __init__(self, connection: psycopg.Connection[Any], *, seconds: float) -> None:
        self._connection, self._libpq = connection, connection.pgconn
        self.seconds: float | None = seconds
        """None: as long as it takes."""
        self._spelled: dict[str, _Spelled] = {}
        self._named = 0
        self._queue: list[Answer | _Spelled] = []
        """Whom the results that are to come are for: a statement, or a preparation."""

    def send(self, statement: str, values: Mapping[str, Any] | Sequence[Any]) -> Answer:
        """Queue a statement; it is carried out at the latest when something is waited for."""
        spelled = self._spelled.get(statement)
        if spelled is None:
            spelled = self._spelled[statement] = _Spelled(statement, named=isinstance(values, Mapping))
        given = spelled.order(values)
        if not self._queue:
            self._libpq.enter_pipeline_mode()
        if not spelled.name:
            self._named += 1
            spelled.name = b"tg%d" % self._named
            types = [_INT8 if isinstance(value, int) else 0 for value in given]
            self._libpq.send_prepare(spelled.name, spelled.text, types)
            self._queue.append(spelled)
        formats = [0 if isinstance(value, str) else 1 for value in given]
        self._libpq.send_query_prepared(spelled.name, [_binary(value) for value in given], formats, 1)
        answer = Answer(self)
        self._queue.append(answer)
        return answer

    def wait(self) -> None:
        """Send what is queued and take all that comes of it.

        Raises:
            psycopg.Error: of the first statement that failed; those behind it were not carried out.
        """
        if not self._queue:
            return
        waiting, self._queue = iter(self._queue), []
        self._libpq.pipeline_sync()
        failed: pq.abc.PGresult | None = None
        for result in self._results():
            if result.status not in _GOOD:
                failed = result
                break
            next(waiting).arrive(result)
        if failed is not None:
            for never in waiting:
                never.arrive(None)
            deque(self._results(), maxlen=0)
        self._libpq.exit_pipeline_mode()
        if failed is not None:
            raise error_from_result(failed)

    def notifications(self, seconds: float) -> Iterator[str]:
        """Give what is said on the channels that are listened to, for so long."""
        until = time.monotonic() + seconds
        while True:
            while (notify := self._libpq.notifies()) is not None:
                yield notify.extra.decode("utf-8", "replace")
            if (left := until - time.monotonic()) <= 0:
                return
            if self._is_ready(select.POLLIN, left):
                self._read()

    def _results(self) -> Iterator[pq.abc.PGresult]:
        """Give the results up to the end of what was sent."""
        while True:
            result = self._next_result()
            if result is not None and result.status == pq.ExecStatus.PIPELINE_SYNC:
                return
            if result is not None:  # None ends the results of each statement
                yield result

    def _next_result(self) -> pq.abc.PGresult | None:
        while self._libpq.is_busy():
            unsent = self._flushed()
            if not self._is_ready(select.POLLIN | (select.POLLOUT if unsent else 0), self.seconds):
                self._connection.close()
                raise psycopg.OperationalError("the server does not answer")
            self._read()
        result = self._libpq.get_result()
        if self._libpq.status == pq.ConnStatus.BAD:
            said = b"" if result is None else result.error_message
            self._connection.close()
            raise psycopg.OperationalError(said.decode("utf-8", "replace") or "the connection broke")
        return result

    def _flushed(self) -> bool:
        """Send as much as the socket takes; whether something is left."""
        try:
            return self._libpq.flush() != 0
        except psycopg.OperationalError:
            return False  # what the server said last is still to be read

    def _read(self) -> None:
        try:
            self._libpq.consume_input()
        except psycopg.OperationalError:
            self._connection.close()
            raise

    def _is_ready(self, events: int, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self._libpq.socket, events)
        return bool(poll.poll(None if seconds is None else seconds * 1000))


class _Spelled:
    """A statement as the server takes it, with `$1` for the first value."""

    __slots__ = ("_names", "name", "text")

    def __init__(self, statement: str, *, named: bool) -> None:
        self.name = b""
        """Under which the server knows it; empty as long as it does not."""
        self._names: dict[str, int] = {}
        places = 0

        def place(found: re.Match[str]) -> str:
            nonlocal places
            if found[0] == "%%":
                return "%"
            if not named:
                places += 1
                return f"${places}"
            return f"${self._names.setdefault(found[1], len(self._names) + 1)}"

        self.text = _PLACE.sub(place, statement).encode()

    def arrive(self, result: pq.abc.PGresult | None) -> None:
        """Hear whether the server knows it now."""
        if result is None:
            self.name = b""

    def order(self, values: Mapping[str, Any] | Sequence[Any]) -> list[Any]:
        """Give the values in the order of their places."""
        return [values[name] for name in self._names] if isinstance(values, Mapping) else list(values)


def _binary(value: object) -> bytes | None:
    match value:
        case None | bytes():
            return value
        case int():
            return value.to_bytes(8, signed=True)
        case str():
            return value.encode()
        case _:
            raise TypeError(f"no value for a column: {type(value).__name__}")
