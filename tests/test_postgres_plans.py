"""How a real server carries out what gates ask it: by an index, however large the ledger is."""

import pkgutil
import re
from collections.abc import Generator, Iterator
from importlib import import_module
from typing import Any

import psycopg
import pytest

import toolgate.backends
from tests.postgresql import OWNER, Cluster
from toolgate.backends.postgres_connection import PostgresConnection
from toolgate.backends.postgres_schema import make
from toolgate.backends.sql_tables import Prepared

GROW = {
    "claim",
    "ledger_checkpoint",
    "ledger_cosignature",
    "ledger_entry",
    "ledger_node",
    "payload",
    "pseudonym",
}
"""Tables that have a row, or several, for each call, caller or checkpoint."""
OF_FEW = {"ix_claim_open", "ix_entry_rare"}
_FILL = """
INSERT INTO ledger_entry SELECT n, 'leaf', CASE n % 2 WHEN 0 THEN 'intent' ELSE 'outcome' END,
    'call-' || n / 2, n, 'acme', 'who-' || n % 50, 'tool-' || n % 9, 'done', '', n, '{}'
    FROM generate_series(0, ROWS) n;
INSERT INTO claim SELECT 'call-' || n, n::text::bytea, n::text::bytea, '', 'tool', 'succeeded', 1, 'gate', 1,
    n, n, 2 * n, 0, n, n, 'outcome', NULL, NULL FROM generate_series(0, ROWS) n;
INSERT INTO payload SELECT n, 'arguments', 'salt', 'value' FROM generate_series(0, ROWS) n;
INSERT INTO pseudonym SELECT 'name-' || n, 'subject', n::text::bytea FROM generate_series(0, ROWS) n;
INSERT INTO ledger_checkpoint SELECT n, n, 'note' FROM generate_series(0, ROWS) n;
INSERT INTO ledger_cosignature SELECT n, 'witness', n, 'line' FROM generate_series(0, ROWS) n;
INSERT INTO ledger_node SELECT 1, n, 'hash' FROM generate_series(0, ROWS) n
"""


def statements() -> Iterator[tuple[str, str]]:
    """Every statement that is prepared, by its name, as PostgreSQL takes it."""
    seen: set[int] = set()
    folder, prefix = toolgate.backends.__path__, f"{toolgate.backends.__name__}."
    for module in pkgutil.walk_packages(folder, prefix):
        if ".migrations" not in module.name:
            for name, value in vars(import_module(module.name)).items():
                if isinstance(value, Prepared) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{module.name.removeprefix(prefix)}.{name}", value.texts["postgresql"]


STATEMENTS = dict(statements())


@pytest.fixture(scope="module", params=["few", "many", "analyzed"])
def server(request: pytest.FixtureRequest, postgresql: Cluster) -> Generator[psycopg.Connection[Any]]:
    """A ledger that has just begun; a large one, of which the server knows nothing, or all it wants to."""
    database = postgresql.create()
    url = postgresql.url(OWNER, database)
    owner = PostgresConnection(url, seconds=30, purpose="tests")
    make(owner)
    owner.close()
    with psycopg.connect(url, autocommit=True) as connection:
        for table in GROW:
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        for statement in _FILL.split(";"):
            rows = "300" if request.param == "few" else "20000"
            connection.execute(statement.replace("ROWS", rows).encode())
        if request.param == "analyzed":
            connection.execute("ANALYZE")
        yield connection
    postgresql.drop(database)


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_a_whole_table_that_grows(server: psycopg.Connection[Any], name: str) -> None:
    numbers: dict[str, int] = {}
    spelled = re.sub(
        r"%\((\w+)\)s", lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", STATEMENTS[name]
    )
    row = server.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {spelled}".encode()).fetchone()
    assert row is not None
    whole = [
        node for node in _nodes(row[0][0]["Plan"]) if node.get("Relation Name") in GROW and _reads_all(node)
    ]

    assert whole == []


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _reads_all(node: dict[str, Any]) -> bool:
    if "Index" in node["Node Type"]:  # one of few rows may be read from its beginning to its end
        return "Index Cond" not in node and "Filter" in node and node["Index Name"] not in OF_FEW
    return bool(node["Node Type"].endswith("Seq Scan"))
