"""`toolgate leases reconcile`: whether a ledger and a real vault's audit log tell of the same credentials."""

import asyncio
import json
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac.exceptions
import psycopg
import pytest

from tests.canaries import secrets_in, secrets_under
from tests.shell import document, run
from tests.vault_deployment import Deployment, deployed
from tests.vault_setup import Governed, running_vault
from toolgate.core.outcome import Done

pytestmark = [pytest.mark.anyio, pytest.mark.canaries]

KEYED = """
[credentials.keyed]
from = "vault"
kind = "kv"
path = "secret/data/{tenant}/api"
role = "{tenant}-kv"
secret = "keyed:{key}"
sign_in = "basic"

[credentials.spare]
from = "vault"
kind = "kv"
path = "secret/data/{tenant}/of/{subject}"
role = "{tenant}-kv"
secret = "spare:{key}"
sign_in = "basic"

[tools.keyed]
effect = "read"
timeout = 30
duplicates = "none"
without_key = "allow"
capture = "full"
scopes = []
credential = "keyed"
[tools.keyed.operation]
description = "Work."
statement = "SELECT current_user::text AS name FROM pg_advisory_xact_lock_shared(7)"
result = "row"
columns = { name = "text" }
"""
USER = "CREATE ROLE keyed LOGIN PASSWORD 'key-of-acme'"
CALLS = (("r-1", "crm.who"), ("r-1", "crm.whoami"), ("r-1", "crm.whoami"), ("r-2", "crm.who"))
USED = 6
"""Two run tokens, three database users (one of them for two calls), and a stored key."""


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Governed]:
    for governed in running_vault(tmp_path_factory):
        with psycopg.connect(f"{governed.postgres}&user=postgres", autocommit=True) as admin:
            admin.execute(USER)
        yield governed


@dataclass(frozen=True)
class Story:
    """A deployment that made some calls, and the audit log of its vault up to then."""

    deployment: Deployment
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]

    def answers(self, path: str) -> list[dict[str, Any]]:
        """Give the lines of answers to the gate from paths that begin so."""
        return [
            line
            for line in self.lines()
            if line["type"] == "response"
            and line["request"]["path"].startswith(path)
            and line.get("auth", {}).get("display_name") != "root"
        ]

    def call(self) -> str:
        """Give the id of a call that has ended."""
        return str(self.answers("database/creds/")[0]["auth"]["metadata"]["call"])


@pytest.fixture(scope="module")
def told(governed: Governed, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Tests look at it, and write beside its log."""
    folder = tmp_path_factory.mktemp("story")
    deployment = with_a_key(deployed(folder / "gate", governed))
    asyncio.run(_calls(deployment))
    assert secrets_under(folder) == []
    return Story(deployment, Path(shutil.copy(governed.server.audit, folder / "audit.log")))


def with_a_key(deployment: Deployment) -> Deployment:
    with (deployment.root / "registry" / "crm.toml").open("a") as manifest:
        manifest.write(KEYED)
    return deployment


async def _calls(deployment: Deployment) -> None:
    async with deployment.open() as gate:
        for run_, tool in CALLS:
            assert isinstance((await gate.call(tool, run=run_)).outcome, Done)
        assert isinstance((await gate.call("crm.keyed", run="r-1")).outcome, Done)


@contextmanager
def held_up(governed: Governed) -> Generator[None]:
    """Keep calls with a stored key from ending."""
    with psycopg.connect(f"{governed.postgres}&user=postgres", autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(7)")
        yield


@pytest.fixture
def log(told: Story, tmp_path: Path) -> Path:
    """A copy of the log, for a test to change."""
    return Path(shutil.copy(told.log, tmp_path / "audit.log"))


def write(file: Path, lines: Iterable[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return file


def add(log: Path, *lines: dict[str, Any]) -> Path:
    with log.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return log


def newest(governed: Governed, path: str) -> dict[str, Any]:
    """Give the newest line of an answer from a path."""
    lines = [line for line in governed.server.audit_lines() if line["request"]["path"] == path]
    return [line for line in lines if line["type"] == "response"][-1]


def reconciled(story: Story | Deployment, *logs: Path, skew: float = 0) -> tuple[int, Any]:
    """Compare, and give the exit code and what is said of it."""
    root = (story.deployment if isinstance(story, Story) else story).root
    words = [*map(str, logs), "--root", str(root), "--skew", str(skew)]
    result = run("leases", "reconcile", *words, "--json")
    assert secrets_in(result.output.encode()) == []
    found = json.loads(result.stdout)
    assert found["verdict"] == ("equal", "different", "cannot tell")[result.exit_code]
    return result.exit_code, found


def paths(found: list[dict[str, Any]]) -> list[str]:
    return [one["path"] for one in found]


# --- they tell of the same


def test_what_a_gate_did_is_in_both(told: Story, log: Path) -> None:
    code, found = reconciled(told, log)

    assert (code, found["matched"], found["lines"]) == (0, USED, len(told.lines()))
    assert found["outside"] == found["unlogged"] == found["running"] == found["bad"] == []
    said = run("leases", "reconcile", str(log), "--root", str(told.deployment.root)).stdout
    assert said.startswith(f"EQUAL: {USED} requests are in the ledger and in the audit log")


def test_a_log_that_was_rotated_is_read_in_any_order(told: Story, log: Path, tmp_path: Path) -> None:
    lines = told.lines()
    halves = [write(tmp_path / name, part) for name, part in (("1", lines[:80]), ("2", lines[80:]))]

    assert reconciled(told, *reversed(halves)) == reconciled(told, log)


def test_a_log_comes_from_standard_input(told: Story) -> None:
    words = ["-", "--root", str(told.deployment.root), "--json"]
    result = run("leases", "reconcile", *words, given=told.log.read_text("utf-8"))

    assert (result.exit_code, json.loads(result.stdout)["matched"]) == (0, USED)


def test_who_compares_is_recorded(told: Story, log: Path) -> None:
    reconciled(told, log)

    (_, read, *_) = document("ledger", "query", "who-read", "--root", str(told.deployment.root))
    assert (read["query"], json.loads(read["asked"])) == ("leases reconcile", {"log": [str(log)]})


# --- used outside of any call


def test_a_use_by_somebody_with_the_right_to_is_found(told: Story, governed: Governed, log: Path) -> None:
    path = "database/creds/acme-crm-read"
    request = governed.server.root.read(path)["request_id"]

    code, found = reconciled(told, add(log, newest(governed, path)))

    (use,) = found["outside"]
    assert (code, found["outside_count"], found["matched"]) == (1, 1, USED)
    assert (use["path"], use["request"], use["display_name"], use["remote"], use["call_id"]) == (
        path,
        request,
        "root",
        "127.0.0.1",
        "",
    )
    said = run("leases", "reconcile", str(log), "--root", str(told.deployment.root)).stdout
    assert said.startswith("DIFFERENT: 1 used outside of any call, 0 in the ledger and not in the audit log")
    assert f"{path} by root hmac-sha256:" in said
    assert request in said


def test_a_use_with_a_calls_own_token_is_found_and_names_the_call(
    told: Story, governed: Governed, log: Path
) -> None:
    path, call = "database/creds/acme-crm-read", told.call()
    stolen = governed.server.root.auth.token.create(
        type="batch",
        policies=["acme-crm-read"],
        ttl="60s",
        meta={"toolgate": "call", "call": call, "tool": "crm.who"},
    )
    governed.server.client(stolen["auth"]["client_token"]).read(path)

    code, found = reconciled(told, add(log, newest(governed, path)))

    assert (code, paths(found["outside"]), found["outside"][0]["call_id"]) == (1, [path], call)


def test_a_token_of_a_call_is_good_for_nothing_else(told: Story, governed: Governed, log: Path) -> None:
    meta = {"toolgate": "call", "call": told.call(), "tool": "crm.who"}
    governed.server.root.sys.create_or_update_policy("any", 'path "*" { capabilities = ["read"] }')
    stolen = governed.server.root.auth.token.create(type="batch", policies=["any"], ttl="60s", meta=meta)
    governed.server.client(stolen["auth"]["client_token"]).sys.list_policies()

    code, found = reconciled(told, add(log, newest(governed, "sys/policy")))

    assert (code, paths(found["outside"])) == (1, ["sys/policy"])


def test_a_run_that_was_opened_outside_of_any_call_is_found(
    told: Story, governed: Governed, log: Path
) -> None:
    governed.gate().auth.token.create(role_name="toolgate-acme", policies=["toolgate-run"], ttl="60s")
    path = "auth/token/create/toolgate-acme"

    code, found = reconciled(told, add(log, newest(governed, path)))

    assert (code, paths(found["outside"])) == (1, [path])


def test_a_stored_key_that_somebody_read_is_found_and_one_that_was_replaced_is_no_use(
    told: Story, governed: Governed, log: Path
) -> None:
    path, root = "secret/data/acme/api", governed.server.root
    root.write_data(path, data={"data": {"key": "key-of-acme"}})
    replaced = newest(governed, path)
    root.read(path)
    read = newest(governed, path)

    assert reconciled(told, add(log, replaced))[0] == 0
    code, found = reconciled(told, add(log, read))
    assert (code, paths(found["outside"])) == (1, [path])


@pytest.mark.parametrize(
    ("path", "used"),
    [
        ("secret/data/acme/of/ann", True),
        ("secret/data/acme/of/ann@example.com", True),
        ("secret/data/acme/of/ann/more", False),
        ("secret/data/acme/of", False),
    ],
)
def test_a_path_that_a_role_can_be_filled_to_is_watched_though_no_call_read_it(
    told: Story, governed: Governed, log: Path, path: str, used: bool
) -> None:
    governed.server.root.write_data(path, data={"data": {"key": "k"}})
    governed.server.root.read(path)

    _, found = reconciled(told, add(log, newest(governed, path)))

    assert paths(found["outside"]) == ([path] if used else [])


def test_what_gave_nothing_is_no_use(told: Story, governed: Governed, log: Path) -> None:
    root = governed.server.root
    nobody = governed.server.client(
        root.auth.token.create(policies=["default"], ttl="60s")["auth"]["client_token"]
    )
    with pytest.raises(hvac.exceptions.Forbidden):
        nobody.read("database/creds/acme-crm-read")
    refused = newest(governed, "database/creds/acme-crm-read")
    with pytest.raises(hvac.exceptions.InvalidRequest, match="unknown role"):
        root.read("database/creds/nobody-crm-read")
    unknown = newest(governed, "database/creds/nobody-crm-read")
    root.read("secret/data/globex.none/api")
    missing = newest(governed, "secret/data/globex.none/api")
    root.write_data("secret/data/gone/api", data={"data": {"key": "k"}})
    root.secrets.kv.v2.delete_latest_version_of_secret("gone/api")
    root.read("secret/data/gone/api")
    deleted = newest(governed, "secret/data/gone/api")

    assert reconciled(told, add(log, refused, unknown, missing, deleted))[0] == 0


def test_another_namespace_is_not_ours_but_our_tokens_are_anywhere(told: Story, log: Path) -> None:
    """Lines of one namespace differ from those of another by this field, as a real server writes them."""
    ours = told.answers("database/creds/")[0]
    request = ours["request"] | {"namespace": {"id": "gxeh8F", "path": "team/"}}
    by_root = ours | {"request": request | {"id": "n-1"}, "auth": ours["auth"] | {"metadata": {}}}
    by_a_call = ours | {"request": request | {"id": "n-2"}}

    assert reconciled(told, add(log, by_root))[0] == 0
    code, found = reconciled(told, add(log, by_a_call))
    assert (code, [use["request"] for use in found["outside"]]) == (1, ["n-2"])


def test_what_the_ledger_is_too_young_to_know_is_counted_apart(told: Story, log: Path) -> None:
    early = told.answers("database/creds/")[0]
    early["time"], early["request"]["id"] = "2020-01-01T00:00:00.123456789Z", "too-early"

    code, found = reconciled(told, add(log, early))

    assert (code, found["before"], found["outside"]) == (0, 1, [])


# --- in the ledger and not in the log


@pytest.mark.parametrize("path", ["database/creds/", "secret/data/", "auth/token/create/"])
def test_a_line_that_was_removed_is_found(told: Story, log: Path, path: str) -> None:
    removed = told.answers(path)[0]
    write(log, [line for line in told.lines() if line["request"]["id"] != removed["request"]["id"]])

    code, found = reconciled(told, log)

    (missing,) = found["unlogged"]
    assert (code, found["unlogged_count"], found["matched"]) == (1, 1, USED - 1)
    assert missing["request"] == removed["request"]["id"]
    assert missing["path"] == ("" if path.startswith("auth/") else removed["request"]["path"])
    said = run("leases", "reconcile", str(log), "--root", str(told.deployment.root), "--skew", "0").stdout
    assert f"entry {missing['entry']}, call {missing['call_id']}" in said


def test_what_may_be_in_another_file_is_not_missed(told: Story, log: Path, tmp_path: Path) -> None:
    lines = told.lines()
    half = lines.index(told.answers("database/creds/")[1]) + 1
    later = write(tmp_path / "later.log", lines[half:])

    code, found = reconciled(told, later)

    assert (code, found["unlogged"]) == (0, [])
    assert 0 < found["matched"] < USED
    removed = told.answers("database/creds/")[1]
    write(log, [line for line in lines if line != removed])
    code, found = reconciled(told, log, skew=3600)
    assert (code, found["at_the_edge"]) == (0, 1)


# --- calls that still run


async def test_a_call_that_still_runs_is_no_difference_until_it_has_ended(
    governed: Governed, tmp_path: Path
) -> None:
    deployment, log = with_a_key(deployed(tmp_path / "gate", governed)), tmp_path / "audit.log"
    seen = len(governed.server.audit_lines())
    async with deployment.open() as gate:
        with held_up(governed):
            calling = asyncio.ensure_future(gate.call("crm.keyed"))
            await key_read(governed, seen)
            write(log, governed.server.audit_lines()[seen:])
            code, found = await asyncio.to_thread(reconciled, deployment, log)
            assert (code, paths(found["running"]), found["outside"]) == (0, ["secret/data/acme/api"], [])
        assert isinstance((await calling).outcome, Done)

    code, found = await asyncio.to_thread(reconciled, deployment, log)
    assert (code, found["running"], found["matched"]) == (0, [], 2)


async def key_read(governed: Governed, seen: int) -> None:
    """Wait until a stored key was read, after so many lines."""
    async with asyncio.timeout(20):
        while not any(
            line["type"] == "response" and line["request"]["path"] == "secret/data/acme/api"
            for line in governed.server.audit_lines()[seen:]
        ):
            await asyncio.sleep(0.02)


async def test_what_is_recorded_while_the_log_is_read_is_in_the_ledger(
    governed: Governed, tmp_path: Path
) -> None:
    deployment = deployed(tmp_path / "gate", governed)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with deployment.open() as gate:
        await gate.call("crm.who")
        seen = len(governed.server.audit_lines())
        comparing = asyncio.ensure_future(asyncio.to_thread(reconciled, deployment, pipe))
        with await asyncio.to_thread(
            pipe.open, "w", encoding="utf-8"
        ) as log:  # it has read the ledger by then
            assert isinstance((await gate.call("crm.who")).outcome, Done)
            lines = governed.server.audit_lines()[seen:]
            log.writelines(json.dumps(line) + "\n" for line in lines)
        code, found = await comparing

    assert (code, found["outside"]) == (0, [])
    assert found["matched"] >= 1


# --- what cannot be told


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"time": "2026-', "it is no JSON: cut off, or with something before it"),
        ("Nov 21 10:21:03 vault: {}", "it is no JSON: cut off, or with something before it"),
        ("[]", "it is of no vault's audit log"),
        ('{"level": "info", "msg": "started"}', "it is of no vault's audit log"),
        ("\x1b[2J", "it is no JSON: cut off, or with something before it"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_and_may_hide_a_use(
    told: Story, log: Path, line: str, problem: str
) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    last = len(told.lines()) + 1

    code, found = reconciled(told, log)

    assert (code, found["bad"]) == (2, [{"file": str(log), "line": last, "problem": problem}])
    said = run("leases", "reconcile", str(log), "--root", str(told.deployment.root))
    assert f"{log}, line {last}: {problem}" in said.stderr
    assert said.stdout.startswith("CANNOT TELL: 1 of the lines could not be read")
    use = told.answers("database/creds/")[0]
    use["request"]["id"] = "another"
    code, found = reconciled(told, add(log, use))
    assert (code, found["outside_count"]) == (1, 1), "a difference stays one"


def test_a_line_without_an_end_is_not_kept_in_memory(told: Story, log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"x" * (33 * 2**20) + b"\n")
    again = told.answers("database/creds/")[0]

    code, found = reconciled(told, add(log, again))

    assert (code, [bad["problem"] for bad in found["bad"]]) == (2, ["it is too long"])
    assert found["lines"] == len(told.lines()) + 1, "what comes behind it is read"


def test_logs_that_tell_nothing_are_no_proof(told: Story, log: Path, tmp_path: Path) -> None:
    empty, old = tmp_path / "empty.log", tmp_path / "old.log"
    empty.touch()
    write(old, [line | {"time": "2020-01-01T00:00:00Z"} for line in told.lines()])
    short = write(tmp_path / "short.log", [told.answers("auth/approle/login")[0]])
    said = {
        name: reconciled(told, file, skew=skew)
        for name, file, skew in (("empty", empty, 0), ("old", old, 0), ("short", short, 60))
    }

    assert {code for code, _ in said.values()} == {2}
    assert said["empty"][1]["doubt"] == "no line of an audit log was read"
    assert "and the ledger begins later" in said["old"][1]["doubt"]
    assert "the log is too short" in said["short"][1]["doubt"]


def test_what_is_not_there_cannot_be_told(told: Story, log: Path, tmp_path: Path) -> None:
    missing = run("leases", "reconcile", str(tmp_path / "none.log"), "--root", str(told.deployment.root))
    nowhere = run("leases", "reconcile", str(log), "--root", str(tmp_path))

    assert (missing.exit_code, nowhere.exit_code) == (2, 2)
    assert "No such file" in missing.stderr
