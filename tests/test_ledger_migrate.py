"""A ledger moves from SQLite to PostgreSQL: the same tree and promises, and never two places to write to."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from tests.postgresql import OWNER, Cluster, cluster
from tests.running_gate import Gate, result_of, running, say, wait_until, with_slow_desk
from tests.serving import KEY, call_body
from tests.shell import document, done, faults, really, run
from toolgate.backends.postgres_connection import PostgresConnection
from toolgate.backends.postgres_schema import make, whole
from toolgate.backends.spill import Spill, Spilled

_KEY: Final = "0123456789abcdef"
_HELD: Final = 7_001
"""The advisory lock with which a test holds up the commit of a move."""
_WAIT: Final = f"""
    CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock({_HELD}); RETURN NULL; END $$
"""


@pytest.fixture(scope="module")
def server() -> Generator[Cluster]:
    with cluster() as started:
        yield started


@pytest.fixture
def url(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """The address of an empty database, without the password, which is in the environment."""
    database = server.create()
    monkeypatch.setenv("TOOLGATE_DATABASE_PASSWORD", server.passwords[OWNER])
    yield f"postgresql://{OWNER}@127.0.0.1:{server.port}/{database}"
    server.drop(database)


@pytest.fixture
def kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with two calls in it, and a folder with what an auditor keeps: key, checkpoint and a proof."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    for text in ("x", "y"):
        done("call", "notes.add", "--args", json.dumps({"text": text}), "--key", _KEY + text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done("ledger", "prove", "3", "--out", f"{elsewhere / 'proof'}")
    shutil.copy(root / "keys" / "ledger.vkey", elsewhere)
    shutil.copy(root / "data" / "checkpoint", elsewhere)
    return elsewhere


def _verified(kept: Path, *words: str) -> tuple[int, dict[str, Any]]:
    given = ("--key", f"{kept / 'ledger.vkey'}", "--checkpoint", f"{kept / 'checkpoint'}")
    found = run("ledger", "verify", *given, *words, "--json")
    return found.exit_code, json.loads(found.stdout)


def _rows(url: str, server: Cluster, statement: str) -> list[tuple[Any, ...]]:
    return server.ask(statement, database=url.rpartition("/")[2])


def _in_the_file(root: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as file:
        return file.execute(statement).fetchall()


def _serves_from(root: Path, url: str) -> None:
    say(root, f'database_url = "{url}"')


def _call(gate: Gate, key: str, tool: str = "notes.add", **arguments: object) -> dict[str, Any]:
    headers = gate.headers("tools/call", **{"Mcp-Name": tool})
    with closing(gate.connect()) as connection:
        connection.request("POST", "/mcp", call_body(tool, arguments, **{KEY: key}), headers)
        return result_of(connection.getresponse())


ENTRIES: Final = "SELECT idx, leaf, body FROM ledger_entry ORDER BY idx"


@contextmanager
def _migrating(root: Path, url: str, **environment: str) -> Generator[subprocess.Popen[bytes]]:
    """Run the command in a process of its own, until the test has ended it."""
    command = [
        sys.executable,
        "-m",
        "toolgate",
        "ledger",
        "migrate",
        "--to",
        url,
        "--yes",
        "--root",
        str(root),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | environment) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _held_up(server: Cluster, url: str, when: Literal["IMMEDIATE", "DEFERRED"]) -> Generator[None]:
    """Have whoever fills the database wait, with the rows or with the commit, until this is over."""
    database = url.rpartition("/")[2]
    connection = PostgresConnection(server.url(OWNER, database), seconds=30, purpose="test")
    with closing(connection):
        with whole(connection):
            make(connection)
        connection.execute(_WAIT)
        connection.execute(
            f"CREATE CONSTRAINT TRIGGER held AFTER INSERT ON ledger_checkpoint DEFERRABLE INITIALLY {when} "
            "FOR EACH ROW EXECUTE FUNCTION held()"
        )
        connection.execute("SELECT pg_advisory_lock(%s)", (_HELD,))
        connection.take_your_time()
        yield


def _waits(server: Cluster) -> Callable[[], bool]:
    """Give whether a move stands at its commit."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
    return lambda: server.ask(asked) == [(1,)]


def _cut_off_the_move(server: Cluster) -> None:
    """End its session and no other: whoever holds up its commit goes on with that."""
    server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'advisory'")


def test_calls_proofs_and_checkpoints_outlive_the_move(
    root: Path, kept: Path, server: Cluster, url: str
) -> None:
    port = say(root, "")
    second = say(root, f'public_url = "http://127.0.0.1:{port}/mcp"')
    with running(root, port) as gate:
        first = _call(gate, _KEY + "z", text="z")
    checkpoint = (root / "data" / "checkpoint").read_text("utf-8")
    assert document("ledger", "migrate", "--to", url, "--yes")["ok"]
    assert (root / "data" / "checkpoint").read_text("utf-8") != checkpoint, "who moves it is recorded"
    before = _in_the_file(root, ENTRIES)
    assert [(idx, bytes(leaf), bytes(body)) for idx, leaf, body in _rows(url, server, ENTRIES)] == before
    assert json.loads(before[-2][2])["query"] == "migrate"
    _serves_from(root, url)
    with ExitStack() as gates:
        one = gates.enter_context(running(root, port))
        other = gates.enter_context(
            running(root, second, environment={"TOOLGATE_PORT": f"{second}"}, log="second.log")
        )
        for gate in (one, other):
            again = _call(Gate(root, gate.port, gate.process), _KEY + "z", text="z")
            assert again["_meta"]["dev.toolgate/replayed"] is True
            assert again["structuredContent"] == first["structuredContent"]
            assert _call(gate, f"{_KEY}{gate.port}", text="new")["_meta"]["dev.toolgate/replayed"] is False
    assert _verified(kept)[0] == 0
    assert (
        run("ledger", "verify", "--proof", f"{kept / 'proof'}", "--key", f"{kept / 'ledger.vkey'}").exit_code
        == 0
    )
    both = (f"{kept / 'checkpoint'}", "data/checkpoint")
    extended = run("ledger", "verify", "--consistency", *both, "--key", f"{kept / 'ledger.vkey'}", "--json")
    assert (extended.exit_code, json.loads(extended.stdout)["entries"] > len(before)) == (0, True)
    assert _in_the_file(root, ENTRIES) == before
    assert _verified(kept, "--db", "data/toolgate.db")[0] == 0


def test_proofs_keys_and_recovery_go_on_in_postgresql(root: Path, kept: Path, url: str) -> None:
    done("ledger", "migrate", "--to", url, "--yes")
    _serves_from(root, url)
    done("call", "notes.search")
    done("ledger", "prove", "3", "--out", "again")
    key = ("--key", f"{kept / 'ledger.vkey'}")
    assert run("ledger", "verify", "--proof", "again", *key).exit_code == 0
    assert "nothing is lost" in done("ledger", "recover")
    assert document("ledger", "rotate-key")["ok"]
    assert _verified(kept)[0] == 0, "who has only the old key can follow"
    (root / "data" / "checkpoint").write_text("x", "utf-8")
    assert "is no checkpoint" in faults("call", "notes.search")


def test_calls_of_a_dead_gate_are_settled_after_the_move(root: Path, tmp_path: Path, url: str) -> None:
    plugins = with_slow_desk(root, tmp_path / "plugins")
    port = say(root, "")
    with running(root, port, plugins=plugins) as gate, ExitStack() as calls:
        for name in ("spilled", "lost"):
            connection = calls.enter_context(closing(gate.connect()))
            headers = gate.headers("tools/call", **{"Mcp-Name": "desk.work"})
            body = call_body("desk.work", {"name": name}, **{KEY: _KEY + name})
            connection.request("POST", "/mcp", body, headers)
            wait_until((root / f"{name}.begun").exists, "the call is begun")
        gate.process.kill()
    _spill_the_end_of_the_first(root)
    done("ledger", "migrate", "--to", url, "--yes", "--root", str(root))
    _serves_from(root, url)
    with running(root, port, plugins=plugins) as gate:
        wait_until(lambda: not list((root / "data" / "spill").glob("*.json")), "the end is taken back")
        spilled = _call(gate, _KEY + "spilled", "desk.work", name="spilled")
        assert spilled["structuredContent"] == {"name": "spilled"}
        lost = _call(gate, _KEY + "lost", "desk.work", name="lost")
        assert lost["_meta"]["dev.toolgate/error"]["code"] == "owner_lost"


def _spill_the_end_of_the_first(root: Path) -> None:
    """Leave what a gate leaves that could not record an end any more."""
    claims = "SELECT call_id, attempt, intent, owner FROM claim ORDER BY intent LIMIT 1"
    [(call_id, attempt, intent, owner)] = _in_the_file(root, claims)
    [(body,)] = _in_the_file(root, f"SELECT body FROM ledger_entry WHERE idx = {intent}")  # noqa: S608
    about = {
        name: json.loads(body)[name] for name in ("v", "at", "call_id", "tenant", "who", "tool", "config")
    }
    ended = {"kind": "outcome", "status": "done", "outcome": "done", "intent": intent, "attempt": attempt}
    Spill(root / "data" / "spill").keep(
        Spilled(
            call_id=call_id,
            attempt=attempt,
            intent=intent,
            claimed=True,
            owner=owner,
            state="succeeded",
            outcome='{"kind":"done","value":{"name":"spilled"}}',
            until=0,
            leases=(),
            end=about | ended | {"took_us": 1, "spilled": True},
            salts={},
            values={},
        )
    )


def test_move_is_refused_while_a_gate_serves(root: Path, url: str, server: Cluster) -> None:
    port = say(root, "")
    with running(root, port):
        refused = faults("ledger", "migrate", "--to", url, "--yes", "--root", str(root))
    assert "toolgate.db is open in 1 other process: stop every gate" in refused
    assert _rows(url, server, "SELECT to_regclass('ledger_entry')") == [(None,)]


def test_nothing_is_written_to_the_file_after_the_move(root: Path, kept: Path, url: str) -> None:
    done("ledger", "migrate", "--to", url, "--yes")
    before = (root / "data" / "toolgate.db").read_bytes()
    for words in (("call", "notes.search"), ("ledger", "rotate-key"), ("ledger", "show", "1")):
        assert "toolgate.db was moved to postgresql://" in faults(*words)
    assert "set database_url in toolgate.toml" in run("check", "--json").output
    assert (root / "data" / "toolgate.db").read_bytes() == before


def test_second_move_changes_nothing(root: Path, kept: Path, server: Cluster, url: str) -> None:
    first = document("ledger", "migrate", "--to", url, "--yes")
    assert document("ledger", "migrate", "--to", url, "--yes") == first
    assert len(_rows(url, server, ENTRIES)) == first["entries"]
    other = url.replace("127.0.0.1", "localhost")
    assert "it can go nowhere else" in faults("ledger", "migrate", "--to", other, "--yes")


def test_database_with_another_ledger_is_refused(
    root: Path, starter: Path, kept: Path, tmp_path: Path, url: str
) -> None:
    done("ledger", "migrate", "--to", url, "--yes")
    other = Path(shutil.copytree(starter, tmp_path / "other"))
    done("call", "notes.search", "--root", str(other))
    refused = faults("ledger", "migrate", "--to", url, "--yes", "--root", str(other))
    assert "the database holds another ledger already" in refused
    done("call", "notes.search", "--root", str(other))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE ledger_entry SET body = CAST(body || ' ' AS BLOB) WHERE idx = 3",
            "entry 3 of toolgate.db is not sound",
        ),
        ("DELETE FROM ledger_entry WHERE idx = 3", "are not those that were published"),
        ("INSERT INTO ledger_node VALUES (8, 1, zeroblob(32))", "is not that of its entries"),
        ("UPDATE claim SET until = 'soon'", "a value in claim is of a wrong type"),
    ],
)
def test_damaged_file_goes_nowhere(
    root: Path, kept: Path, server: Cluster, url: str, change: str, said: str
) -> None:
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as file, file:
        for (trigger,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            file.execute(f"DROP TRIGGER {trigger}")
        file.execute(change)
    assert said in faults("ledger", "migrate", "--to", url, "--yes")
    assert _rows(url, server, "SELECT to_regclass('ledger_entry')") == [(None,)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_move_that_is_stopped_while_rows_go_over_has_changed_nothing(
    root: Path, kept: Path, server: Cluster, url: str, how: signal.Signals
) -> None:
    with _held_up(server, url, "IMMEDIATE"), _migrating(root, url) as process:
        wait_until(_waits(server), "rows go over")
        process.send_signal(how)
        said = process.communicate(timeout=60)[1].decode()
        if how == signal.SIGINT:
            assert (process.returncode, "run it again, it loses nothing" in said) == (130, True), said
    wait_until(lambda: not _waits(server)(), "the server has noticed")
    assert _rows(url, server, "SELECT count(*) FROM ledger_entry") == [(0,)]
    done("call", "notes.search")
    done("ledger", "migrate", "--to", url, "--yes")
    _serves_from(root, url)
    assert _verified(kept)[0] == 0


@pytest.mark.parametrize("committed", [True, False])
def test_move_that_dies_at_its_commit_leaves_one_place_to_write_to(
    root: Path, kept: Path, server: Cluster, url: str, committed: bool
) -> None:
    with _held_up(server, url, "DEFERRED"), _migrating(root, url) as process:
        wait_until(_waits(server), "the move stands at its commit")
        process.kill()
        process.wait()
        if not committed:
            _cut_off_the_move(server)
    count = "SELECT count(*) FROM ledger_entry"
    [(entries,)] = _in_the_file(root, count)
    wait_until(lambda: not _waits(server)(), "the server has ended it")
    wait_until(lambda: _rows(url, server, count) == [(entries if committed else 0,)], "it holds, or does not")
    refused = " ".join(really("call", "notes.search").stderr.split())
    assert "toolgate.db is on its way to postgresql://" in refused
    assert "run toolgate ledger migrate again" in refused
    assert document("ledger", "migrate", "--to", url, "--yes")["entries"] == entries
    _serves_from(root, url)
    assert done("call", "notes.add", "--args", '{"text": "x"}', "--key", _KEY + "x")
    assert _verified(kept)[0] == 0


def test_move_whose_connection_breaks_at_its_commit_says_what_to_do(
    root: Path, kept: Path, server: Cluster, url: str
) -> None:
    with _held_up(server, url, "DEFERRED"), _migrating(root, url) as process:
        wait_until(_waits(server), "the move stands at its commit")
        _cut_off_the_move(server)
        said = " ".join(process.communicate(timeout=60)[1].decode().split())
    assert process.returncode == 1
    assert "toolgate.db is out of service until then; run this again" in said
    assert server.passwords[OWNER] not in said
    done("ledger", "migrate", "--to", url, "--yes")
    assert _rows(url, server, "SELECT count(*) FROM ledger_entry")[0][0] > 0


def test_move_that_the_database_refuses_at_its_end_leaves_the_file_in_service(
    root: Path, kept: Path, server: Cluster, url: str
) -> None:
    with _held_up(server, url, "DEFERRED"), _migrating(root, url) as process:
        wait_until(_waits(server), "the move stands at its commit")
        server.ask("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'advisory'")
        assert process.wait(timeout=60) == 1
    done("call", "notes.search")
    done("ledger", "migrate", "--to", url, "--yes")


def test_backup_from_before_the_move_is_refused(root: Path, kept: Path, tmp_path: Path, url: str) -> None:
    backup = Path(shutil.copy(root / "data" / "toolgate.db", tmp_path / "backup.db"))
    done("ledger", "migrate", "--to", url, "--yes")
    shutil.copy(backup, root / "data" / "toolgate.db")
    (root / "data" / "toolgate.db-wal").unlink(missing_ok=True)
    for words in (("call", "notes.search"), ("ledger", "migrate", "--to", url, "--yes")):
        refused = really(*words)
        assert refused.returncode == 1
        assert "it is an old copy" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--yes",), "nothing says where to"),
        (("--to", "sqlite:///x.db", "--yes"), "it is no address of PostgreSQL"),
        (("--to", "postgresql://a:secret@h/d", "--yes"), "everybody on this machine can see it"),
        (("--to", "postgresql://a@127.0.0.1:1/d"), "say --yes"),
        (("--to", "postgresql://a@127.0.0.1:1/d", "--yes"), "cannot be reached"),
    ],
)
def test_move_that_cannot_be_made_says_why(kept: Path, words: tuple[str, ...], said: str) -> None:
    refused = faults("ledger", "migrate", *words)
    assert said in refused
    assert "secret" not in refused.replace("secrets", "")
    done("call", "notes.search")
