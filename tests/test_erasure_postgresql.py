"""A person is erased from a ledger on PostgreSQL: no column of a table has them, and every proof verifies."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.postgresql import OWNER, Cluster
from tests.running_gate import PATIENCE, say, wait_until
from tests.shell import document, done, really, run
from tests.test_erasure import with_many_calls

VERIFIER: Final = Path(__file__).parent.parent / "tools" / "verify.py"
BASIS: Final = "GDPR Art. 17, request 4711"
_COLUMNS: Final = """
    SELECT table_name, column_name, data_type = 'bytea' FROM information_schema.columns
    JOIN information_schema.tables USING (table_schema, table_name)
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
"""
_THEIRS: Final = """
    SELECT p.salt FROM payload p JOIN ledger_entry e USING (idx) JOIN pseudonym n ON n.name = e.who
    WHERE convert_from(n.value, 'UTF8') LIKE '%%"mia"]'
"""


@pytest.fixture
def server(postgresql: Cluster, postgresql_database: str, monkeypatch: pytest.MonkeyPatch) -> "Server":
    monkeypatch.setenv("TOOLGATE_DATABASE_PASSWORD", postgresql.passwords[OWNER])
    monkeypatch.setenv("COLUMNS", "300")
    return Server(postgresql, postgresql_database)


class Server:
    """A database in a cluster."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self._cluster, self._database = cluster, database
        self.url = f"postgresql://{OWNER}@127.0.0.1:{cluster.port}/{database}"

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._cluster.ask(statement, *values, database=self._database)

    def places_of(self, sought: bytes) -> dict[str, int]:
        """Give in how many rows of which columns of all tables some bytes stand."""
        found: dict[str, int] = {}
        for table, column, binary in self.ask(_COLUMNS):
            name = f'"{table}"."{column}"'
            value = name if binary else f"convert_to(CAST({name} AS TEXT), 'UTF8')"
            counted = f'SELECT count(*) FROM "{table}" WHERE position(%s IN {value}) > 0'  # noqa: S608
            ((count,),) = self.ask(counted, psycopg.Binary(sought))
            if count:
                found[f"{table}.{column}"] = count
        return found

    def erasure(self) -> dict[str, Any] | None:
        columns = ("entry", "done", "values_removed", "answers", "waiting")
        rows = self.ask(f"SELECT {', '.join(columns)} FROM erasure")  # noqa: S608 - of names
        return dict(zip(columns, rows[0], strict=True)) if rows else None


@pytest.fixture
def here(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a deployment's folder, after calls of two people."""
    monkeypatch.chdir(root)
    for name, value in (("SUBJECT", "noa"), ("TENANT", "home"), ("ROLES", '["member"]')):
        monkeypatch.setenv(f"TOOLGATE_CALLERS__OTHER__{name}", value)
    monkeypatch.setenv("TOOLGATE_CALLERS__OTHER__SCOPES", '["notes:read", "notes:write"]')
    say(root, f'database_url = "{server.url}"')
    for text, who in (("a note of mine", "member"), ("somebody else's", "other")):
        key = f"erased-example-{who}"
        done("call", "notes.add", "--args", json.dumps({"text": text}), "--key", key, "--as", who)
    run("call", "notes.remove", "--args", '{"id": 424242}')
    done("call", "notes.search", "--args", '{"contains": "a note of mine"}')
    done("ledger", "query", "calls", "--subject", "mia")
    return root


@pytest.mark.usefixtures("here")
def test_nothing_of_the_person_is_left_in_any_table(server: Server) -> None:
    salts = [salt for (salt,) in server.ask(_THEIRS)]
    before = server.places_of(b"a note of mine")
    assert {"payload.value", "claim.outcome"} <= before.keys()
    assert {"payload.value", "pseudonym.value"} <= server.places_of(b"mia").keys()
    assert len(salts) >= 5
    assert all(server.places_of(salt) == {"payload.salt": 1} for salt in salts)

    erased = document("ledger", "erase", "mia", "--basis", BASIS, "--yes")

    for sought in (b"mia", b"a note of mine", *salts):
        assert server.places_of(sought) == {}, sought
    assert server.places_of(b"somebody else's")
    assert server.places_of(b"noa")
    assert (erased["erased"][0]["waiting"], erased["wal_emptied"]) == (0, True)


def test_every_proof_made_before_still_verifies(here: Path, tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    size = int((here / "data" / "checkpoint").read_text("utf-8").splitlines()[1])
    for entry in range(size):
        done("ledger", "prove", f"{entry}", "--out", f"{kept / f'{entry}.proof'}")
    for file in ("keys/ledger.vkey", "data/checkpoint"):
        (kept / Path(file).name).write_bytes((here / file).read_bytes())

    document("ledger", "erase", "mia", "--basis", BASIS, "--yes")

    outside = ("--key", f"{kept / 'ledger.vkey'}")
    assert run("ledger", "verify", *outside, "--checkpoint", f"{kept / 'checkpoint'}").exit_code == 0
    assert size > 5
    for entry in range(size):
        command = [sys.executable, f"{VERIFIER}", "proof", f"{kept / f'{entry}.proof'}", *outside]
        verified = subprocess.run(command, capture_output=True, text=True, check=False)
        assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize("killed_at", ["begun", "removing", "done"])
def test_killed_in_the_middle_it_goes_on_from_there(
    starter: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    root = with_many_calls(starter, tmp_path)
    monkeypatch.chdir(root)
    done("ledger", "migrate", "--to", server.url, "--yes")
    say(root, f'database_url = "{server.url}"')
    done("ledger", "prove", "100", "--out", "100.proof")
    person = "person000@example.com"
    assert server.places_of(person.encode())["pseudonym.value"] == 1
    command = [sys.executable, "-m", "toolgate", "ledger", "erase", person, "--basis", BASIS, "--yes"]
    moments: dict[str, Callable[[dict[str, Any]], bool]] = {
        "begun": lambda _row: True,
        "removing": lambda row: row["values_removed"] > 0,
        "done": lambda row: row["done"] is not None,
    }

    def is_there() -> bool:
        row = server.erasure()
        return row is not None and moments[killed_at](row)

    with subprocess.Popen([*command, "--root", f"{root}"], stdout=subprocess.DEVNULL) as erasing:
        wait_until(is_there, killed_at)
        erasing.send_signal(signal.SIGKILL)
        erasing.wait(timeout=PATIENCE)

    again = really("ledger", "erase", "--root", f"{root}", "--json")

    assert again.returncode == 0, again.stderr
    erasure = server.erasure()
    assert erasure is not None
    assert erasure["done"] is not None
    in_doubt = {"claim.request": erasure["waiting"]} if erasure["waiting"] else {}
    assert server.places_of(person.encode()) == in_doubt
    ((body,),) = server.ask("SELECT body FROM ledger_entry WHERE idx = %s", erasure["done"])
    assert json.loads(body)["removed"]["values"] == erasure["values_removed"] > 0
    assert run("ledger", "verify", "--proof", "100.proof", "--key", "keys/ledger.vkey").exit_code == 0
    verified = ("--key", "keys/ledger.vkey", "--checkpoint", "data/checkpoint")
    assert run("ledger", "verify", *verified).exit_code == 0


@pytest.mark.usefixtures("here")
def test_nothing_of_the_person_is_left_in_the_servers_statistics(server: Server) -> None:
    """The planner samples values."""
    server.ask("ANALYZE")
    held = (
        "SELECT tablename, attname FROM pg_stats WHERE schemaname = 'public' "
        "AND concat(most_common_vals, histogram_bounds) LIKE %s"
    )
    sought = [f"%{text.hex()}%" for text in (b'"mia"', b"a note of mine")]
    assert all(server.ask(held, one) for one in sought)

    document("ledger", "erase", "mia", "--basis", BASIS, "--yes")

    assert [server.ask(held, one) for one in sought] == [[], []]
