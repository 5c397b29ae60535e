"""`toolgate leases list` and `revoke`, with a real vault and PostgreSQL, and beside a gate that runs."""

import asyncio
import contextlib
import getpass
import json
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import Result

from tests.canaries import secrets_in, secrets_under
from tests.shell import document, faults, run
from tests.vault_deployment import Deployment, Opened, deployed
from tests.vault_server import until
from tests.vault_setup import Governed, running_vault
from toolgate.core.outcome import Done
from toolgate.verifier import verify_ledger

pytestmark = [pytest.mark.anyio, pytest.mark.canaries]


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Governed]:
    yield from running_vault(tmp_path_factory)


@pytest.fixture(autouse=True)
def nothing_secret_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Generator[None]:
    """Whatever a command does, no secret of any kind stands in a file or on the terminal."""
    yield
    said = capfd.readouterr()
    assert secrets_in((said.out + said.err).encode()) == []
    assert secrets_under(tmp_path) == []


@pytest.fixture
def deployment(governed: Governed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment, in whose folder the shell stands, before a wide terminal."""
    made = deployed(tmp_path / "gate", governed)
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("COLUMNS", "300")
    return made


@pytest.fixture
async def gate(deployment: Deployment) -> AsyncGenerator[Opened]:
    """A gate that has signed in; nobody can with its secret id any more."""
    async with deployment.open() as gate:
        yield gate


@asynccontextmanager
async def at_work(gate: Opened) -> AsyncGenerator[None]:
    """Let the gate look after its leases, as it does while it serves."""

    async def keep() -> None:
        while True:
            await gate.house.lending.keep()
            await asyncio.sleep(0.05)

    keeping = asyncio.ensure_future(keep())
    try:
        yield
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


async def user(gate: Opened, tool: str = "crm.whoami", *, who: str = "ann", run_: str = "r-1") -> str:
    """Call a tool that keeps its database user for the run, and give that user."""
    answer = await gate.call(tool, who=who, run=run_)
    assert isinstance(answer.outcome, Done), answer.outcome
    return str(answer.outcome.value["name"])


async def shell(*words: str) -> Result:
    """Run a command beside the gate."""
    return await asyncio.to_thread(run, *words)


async def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await asyncio.to_thread(document, "leases", "list")
    return found


def entries(root: Path, status: str) -> list[dict[str, Any]]:
    """Give the entries about leases of one status, and whom their pseudonyms stand for."""
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as database:
        names = {
            name: json.loads(value)[2]
            for name, value in database.execute("SELECT name, value FROM pseudonym")
        }
        rows = database.execute(
            "SELECT body FROM ledger_entry WHERE kind = 'lease' AND status = ? ORDER BY idx", (status,)
        )
        bodies = [json.loads(body) for (body,) in rows]
    return [body | {name: names[body[name]] for name in ("who", "by") if name in body} for body in bodies]


# --- list


async def test_what_may_still_live_is_listed_with_whose_it_is(gate: Opened) -> None:
    await user(gate)
    await user(gate, who="gus", run_="r-2")

    found = await listed()

    assert [(one["kind"], one["subject"], one["tenant"], one["run"], one["state"]) for one in found] == [
        ("run", "ann", "acme", "r-1", "out"),
        ("lease", "ann", "acme", "r-1", "out"),
        ("run", "gus", "globex", "r-2", "out"),
        ("lease", "gus", "globex", "r-2", "out"),
    ]
    token, lease = found[:2]
    assert (lease["tool"], lease["scope"]) == ("crm.whoami", "database/creds/acme-crm-read as acme-crm-read")
    assert (lease["accessor"], token["tool"]) == (token["id"], "")
    assert lease["issued_at"] < lease["ends_at"] < token["ends_at"]
    said = (await shell("leases", "list")).stdout
    assert lease["id"].rpartition("/")[2][:12] in said
    assert lease["id"] not in said
    assert "ann (acme)" in said


async def test_what_a_dead_gate_left_is_listed_as_an_orphan(gate: Opened, deployment: Deployment) -> None:
    await user(gate)
    data = deployment.root / "data"
    (data / "toolgate.db.writers" / "0123456789abcdef").touch()  # nobody holds it any more
    with closing(sqlite3.connect(data / "toolgate.db")) as database, database:
        database.execute("UPDATE lease SET owner = '0123456789abcdef'")

    assert {(one["kind"], one["state"]) for one in await listed()} == {("run", "out"), ("lease", "orphan")}


async def test_what_waits_for_its_end_is_listed_as_such(governed: Governed, tmp_path: Path) -> None:
    made = deployed(tmp_path / "gate", governed, more="give_back_seconds = 0")
    async with made.open() as gate:
        await user(gate, "crm.who")
        found = await asyncio.to_thread(document, "leases", "list", "--root", str(made.root))

    assert {(one["kind"], one["state"]) for one in found} == {("run", "out"), ("lease", "ending")}


@pytest.mark.usefixtures("gate")
async def test_who_looks_is_recorded() -> None:
    await listed()

    reads = await asyncio.to_thread(document, "ledger", "query", "who-read")
    assert [read["query"] for read in reads] == ["who-read", "leases list"]


# --- revoke


@pytest.mark.parametrize(
    ("words", "ended"),
    [
        (("--subject", "ann"), {"ann r-1", "ann r-2"}),
        (("--subject", "ann", "--tenant", "globex"), {"nothing"}),
        (("--run", "r-1"), {"ann r-1", "gus r-1"}),
        (("--run", "r-1", "--tenant", "globex"), {"gus r-1"}),
        (("--tool", "crm.whoami"), {"ann r-1", "ann r-2", "gus r-1"}),
        (("--all",), {"ann r-1", "ann r-2", "gus r-1"}),
        (("--all", "--tenant", "acme"), {"ann r-1", "ann r-2"}),
    ],
)
async def test_what_is_selected_ends_and_nothing_else(
    gate: Opened, governed: Governed, words: tuple[str, ...], ended: set[str]
) -> None:
    users = {
        f"{who} {run_}": await user(gate, who=who, run_=run_)
        for who, run_ in (("ann", "r-1"), ("ann", "r-2"), ("gus", "r-1"))
    }

    async with at_work(gate):
        result = await shell("leases", "revoke", *words)

    assert result.exit_code == (1 if ended == {"nothing"} else 0), result.output
    assert {name for name, user_ in users.items() if user_ not in governed.users()} == ended - {"nothing"}


async def test_a_run_ends_by_its_one_token_and_its_leases_with_it(gate: Opened, governed: Governed) -> None:
    first = await user(gate)
    other = await user(gate, "crm.who")
    lease, token = sorted(await listed(), key=lambda one: one["kind"])

    async with at_work(gate):
        result = await shell("leases", "revoke", "--run", "r-1", "--json")

    said = json.loads(result.stdout)
    assert (result.exit_code, said["ok"], said["left"]) == (0, True, [])
    assert [one["id"] for one in said["ended"]] == [token["id"], lease["id"]]
    assert governed.users().isdisjoint({first, other})
    (asked,) = entries(gate.house.root, "revoke_asked")
    assert (asked["accessor"], asked["by"], asked["who"]) == (token["id"], getpass.getuser(), "ann")
    revoked = entries(gate.house.root, "revoked")
    assert {(one.get("lease"), one.get("accessor"), one["because"]) for one in revoked} == {
        (lease["id"], None, "person"),
        (None, token["id"], "person"),
    }
    assert await user(gate) not in {first, other}, "the run goes on with another token"


async def test_a_credential_that_is_revoked_under_a_call_ends_once(gate: Opened, governed: Governed) -> None:
    with psycopg.connect(f"{governed.postgres}&user=postgres") as admin:
        admin.execute("SELECT FROM customer WHERE id = 1 FOR UPDATE")
        calling = asyncio.ensure_future(gate.call("crm.credit", {"amount": 1}, run="r-1"))
        async with asyncio.timeout(20):
            while not waiting_for_a_lock(governed):
                await asyncio.sleep(0.02)
        async with at_work(gate):
            result = await shell("leases", "revoke", "--run", "r-1")

    assert result.exit_code == 0, result.output
    assert not isinstance((await calling).outcome, Done), "its session was cut"
    assert verify_ledger(gate.house.root / "data" / "toolgate.db").faults == []
    ended = [*entries(gate.house.root, "revoked"), *entries(gate.house.root, "given_back")]
    assert sorted("lease" in one for one in ended) == [False, True], "the token of the run, and the lease"


def waiting_for_a_lock(governed: Governed) -> bool:
    """Whether the user of a lease waits for a row that somebody has locked."""
    waits = "SELECT FROM pg_stat_activity WHERE usename LIKE 'v-%' AND wait_event_type = 'Lock'"
    with psycopg.connect(f"{governed.postgres}&user=postgres", autocommit=True) as admin:
        return admin.execute(waits).fetchone() is not None


@pytest.mark.parametrize("length", [4, 12, 100])
async def test_a_lease_is_named_by_its_id_or_the_begin_of_its_last_part(
    gate: Opened, governed: Governed, length: int
) -> None:
    name, kept = await user(gate), await user(gate, run_="r-2")
    id_ = next(one["id"] for one in await listed() if one["kind"] == "lease" and one["run"] == "r-1")
    words = id_ if length > len(id_) else id_.rpartition("/")[2][:length]

    async with at_work(gate):
        result = await shell("leases", "revoke", words, words)

    assert (result.exit_code, result.stdout) == (0, "1 lease has ended\n")
    until(lambda: name not in governed.users(), "the user to be gone")
    assert kept in governed.users()


@pytest.fixture
async def killed(
    gate: Opened, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Deployment, str]:
    """What a gate leaves that was killed while a database user was out, where the shell stands; that user."""
    name = await user(gate)
    left = Deployment(tmp_path / "killed", deployment.governed)
    shutil.copytree(deployment.root, left.root)
    database = left.root / "data" / "toolgate.db"
    for file in database.parent.glob("toolgate.db*[lm]"):  # -wal and -shm, of which the copy has everything
        file.unlink()
    with (
        closing(sqlite3.connect(deployment.root / "data" / "toolgate.db")) as source,
        closing(sqlite3.connect(database)) as copy,
    ):
        source.backup(copy)
    monkeypatch.chdir(left.root)
    return left, name


async def test_a_run_is_named_by_its_accessor_and_takes_its_leases_along(
    gate: Opened, governed: Governed
) -> None:
    name, kept = await user(gate), await user(gate, run_="r-2")
    token = next(one["id"] for one in await listed() if (one["kind"], one["run"]) == ("run", "r-1"))

    async with at_work(gate):
        result = await shell("leases", "revoke", token)

    assert (result.exit_code, result.stdout) == (0, "1 lease and 1 run token have ended\n")
    until(lambda: name not in governed.users(), "the user to be gone")
    assert kept in governed.users()


async def test_less_of_an_id_than_may_be_chance_names_nothing(gate: Opened) -> None:
    await user(gate)
    token = next(one["id"] for one in await listed() if one["kind"] == "run")

    assert "nothing of the id" in await asyncio.to_thread(faults, "leases", "revoke", token[:3])


async def test_where_no_gate_runs_the_command_does_it(
    killed: tuple[Deployment, str], governed: Governed
) -> None:
    left, name = killed
    left.sign_in_again()

    result = await shell("leases", "revoke", "--all")

    assert (result.exit_code, result.stdout) == (0, "1 lease and 1 run token have ended\n")
    until(lambda: name not in governed.users(), "the user to be gone")
    assert {one["because"] for one in entries(left.root, "revoked")} == {"person"}


async def test_what_cannot_be_ended_yet_is_told_and_ended_by_the_next_gate(
    killed: tuple[Deployment, str], governed: Governed
) -> None:
    left, name = killed

    result = await shell("leases", "revoke", "--all", "--wait", "0.5")

    found = await listed()
    assert (result.exit_code, {one["state"] for one in found}) == (3, {"asked", "orphan"})
    for one in found:
        assert f"lapses at {one['ends_at'][:19].replace('T', ' ')} UTC" in result.stderr
    assert name in governed.users()
    left.sign_in_again()
    async with left.open() as gate:
        await gate.house.lending.keep()
        until(lambda: name not in governed.users(), "the user to be gone")
    assert {one["because"] for one in entries(left.root, "revoked")} == {"person"}


async def test_a_secret_id_that_opens_once_is_left_to_the_gate_that_runs(
    governed: Governed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = deployed(tmp_path / "gate", governed, wrapped=True)
    monkeypatch.chdir(made.root)
    async with made.open() as gate:
        name = await user(gate)
        made.sign_in_again(wrapped=True)  # for its next start
        hung = await shell("leases", "revoke", "--all", "--wait", "0.5")
        async with at_work(gate):
            result = await shell("leases", "revoke", "--all")

    assert hung.exit_code == 3
    assert result.exit_code in {0, 1}, "1: the gate had done it before the command looked"
    until(lambda: name not in governed.users(), "the user to be gone")
    wrapping = governed.server.client((made.root / "keys" / "secret-id").read_text())
    assert wrapping.sys.unwrap()["data"]["secret_id"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--subject", "eve"),
            "nothing of subject 'eve' may still live; there is something of subjects: ann (acme)",
        ),
        (("--run", "r-9"), "nothing of run 'r-9' may still live; there is something of runs: r-1"),
        (
            ("--tool", "crm.who"),
            "nothing of tool 'crm.who' may still live; there is something of tools: crm.whoami",
        ),
        (("--all", "--tenant", "globex"), "nothing of tenant 'globex' may still live"),
        (("--subject", "ann", "--run", "r-9"), "subject 'ann' and run 'r-9'"),
        (("no-such-lease",), "nothing of the id 'no-such-lease' may still live; see: toolgate leases list"),
        (("a", "b"), "nothing of the id 'a'"),
    ],
)
async def test_what_selects_nothing_is_told_with_what_there_is(
    gate: Opened, words: tuple[str, ...], said: str
) -> None:
    await user(gate)

    assert said in await asyncio.to_thread(faults, "leases", "revoke", *words)
    assert {one["state"] for one in await listed()} == {"out"}


async def test_where_nothing_lives_nothing_is_revoked(gate: Opened) -> None:
    await asyncio.to_thread(run, "call", "crm.who", "--as", "ann")

    assert await listed() == []
    assert "nothing may still live" in await asyncio.to_thread(faults, "leases", "revoke", "--all")


@pytest.mark.parametrize(
    "words",
    [(), ("--tenant", "acme"), ("--all", "--run", "r-1"), ("some-id", "--all"), ("some-id", "--tool", "x")],
)
@pytest.mark.usefixtures("deployment")
def test_a_command_that_selects_no_one_thing_is_used_wrongly(words: tuple[str, ...]) -> None:
    result = run("leases", "revoke", *words)

    assert result.exit_code == 2
    assert "name leases, or say what to select" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.usefixtures("deployment")
def test_a_deployment_without_a_ledger_has_no_leases() -> None:
    for words in (("list",), ("revoke", "--all")):
        assert "nothing was called yet" in faults("leases", *words)
