"""Statements that are queued, sent and read together, on a real PostgreSQL."""

from collections.abc import Generator, Sequence

import pytest

from tests.postgresql import OWNER, Cluster
from toolgate.backends.postgres_connection import PostgresConnection, PostgresError
from toolgate.backends.postgres_wire import Answer


@pytest.fixture
def connection(postgresql: Cluster, postgresql_database: str) -> Generator[PostgresConnection]:
    made = PostgresConnection(postgresql.url(OWNER, postgresql_database), seconds=5.0, purpose="test")
    made.execute("CREATE TABLE thing (id BIGINT PRIMARY KEY, name TEXT, value BYTEA)")
    yield made
    made.close()


ADD = "INSERT INTO thing VALUES (%s, %s, %s)"
ONE = "INSERT INTO thing VALUES (1, 'one', NULL)"


def together(connection: PostgresConnection, *statements: str, values: Sequence[object] = ()) -> None:
    """Say all of it at once; the values are the last one's."""
    with connection.together():
        for statement in statements[:-1]:
            connection.execute(statement)
        connection.execute(statements[-1], values)


def test_values_of_every_kind_come_back_as_they_went(connection: PostgresConnection) -> None:
    rows = [(-(2**63), "naïve 100 %", b"\x00\xff"), (2**63 - 1, "", b""), (0, None, None)]
    with connection.together():
        for row in rows:
            connection.execute(ADD, row)
    found = connection.execute("SELECT id, name, value FROM thing").fetchall()
    assert [tuple(row) for row in found] == rows


def test_values_go_where_their_names_stand(connection: PostgresConnection) -> None:
    asked = "SELECT %(a)s::bigint AS one, %(b)s::text AS two, %(a)s::bigint + 1 AS three, 7 %% 4 AS four"
    row = connection.execute(asked, {"unused": "x", "b": "bee", "a": 1}).fetchone()
    assert row is not None
    assert {name: row[name] for name in row.keys()} == {"one": 1, "two": "bee", "three": 2, "four": 3}  # noqa: SIM118


def test_what_is_asked_for_is_answered_while_more_is_queued(connection: PostgresConnection) -> None:
    with connection.together():
        connection.execute("BEGIN")
        connection.execute(ADD, (1, "one", b""))
        counted = connection.execute("SELECT count(*) FROM thing")
        later = connection.execute(ADD, (2, "two", b""))
        assert [row[0] for row in counted] == [1]
        assert later.rowcount == 1
        connection.execute("COMMIT")
    assert len(connection.execute("SELECT 1 FROM thing").fetchall()) == 2


def test_behind_a_statement_that_fails_nothing_is_carried_out(connection: PostgresConnection) -> None:
    with pytest.raises(PostgresError, match="duplicate key"):
        together(connection, "BEGIN", ONE, ONE, "INSERT INTO thing VALUES (2, 'two', NULL)", "COMMIT")
    assert connection.execute("SELECT id FROM thing").fetchall() == []


def test_a_statement_that_could_not_be_prepared_can_be_said_again(connection: PostgresConnection) -> None:
    for _ in range(2):
        with pytest.raises(PostgresError, match="does not exist"):
            connection.execute("SELECT 1 FROM elsewhere WHERE id = %s", (1,))
    connection.execute("CREATE TABLE elsewhere (id BIGINT)")
    assert connection.execute("SELECT 1 FROM elsewhere WHERE id = %s", (1,)).fetchall() == []


def test_what_stands_behind_a_failure_is_prepared_the_next_time(connection: PostgresConnection) -> None:
    with pytest.raises(PostgresError, match="division by zero"):
        together(connection, "SELECT 1 / 0", "SELECT id FROM thing")
    assert connection.execute("SELECT id FROM thing").fetchall() == []


def test_no_transaction_is_left_open_when_the_work_fails(connection: PostgresConnection) -> None:
    with pytest.raises(TypeError, match="float"):
        together(connection, "BEGIN", ONE, "SELECT %s", values=(0.5,))
    assert connection.execute("SELECT id FROM thing").fetchall() == []


def test_a_connection_whose_server_has_gone_says_so(connection: PostgresConnection) -> None:
    with pytest.raises(PostgresError):
        together(connection, "BEGIN", ONE, "SELECT pg_terminate_backend(pg_backend_pid())", "COMMIT")
    assert connection.is_lost
    with pytest.raises(PostgresError):
        connection.execute("SELECT 1")


def test_large_batches_do_not_stand_still(connection: PostgresConnection) -> None:
    """Both sides write before they read, and neither buffer holds it all."""
    big = b"x" * 200_000
    with connection.together():
        connection.execute("BEGIN")
        answers: list[Answer] = []
        for number in range(60):
            connection.execute(ADD, (number, "big", big))
            answers.append(connection.execute("SELECT value FROM thing WHERE id = %s", (number,)))
        assert all(answer.fetchall()[0][0] == big for answer in answers)
        connection.execute("COMMIT")


def test_a_server_that_says_nothing_is_given_up(postgresql: Cluster, postgresql_database: str) -> None:
    quick = PostgresConnection(postgresql.url(OWNER, postgresql_database), seconds=0.2, purpose="test")
    quick.execute("SET statement_timeout = 0")
    with pytest.raises(PostgresError, match="does not answer"):
        quick.execute("SELECT pg_sleep(60)::text")
    assert quick.is_lost


def test_what_is_said_on_a_channel_is_heard(connection: PostgresConnection) -> None:
    connection.execute("LISTEN here")
    for said in ("one", "two"):
        connection.execute("SELECT pg_notify(%s, %s)", ("here", said))
    heard = connection.notifications(5.0)
    assert [next(heard), next(heard)] == ["one", "two"]
    assert list(connection.notifications(0.0)) == []
