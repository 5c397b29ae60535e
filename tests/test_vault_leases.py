"""Credentials that a real vault makes for one call: lent, used, given back, and nothing left behind."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import hvac.exceptions
import orjson
import psycopg
import pytest

from tests.canaries import secrets_in
from tests.vault_deployment import Deployment, Opened, deployed
from tests.vault_proxy import proxy
from tests.vault_setup import Governed, running_vault
from toolgate.core.claims import Opened as OpenedCall
from toolgate.core.credential_roles import VaultRole
from toolgate.core.outcome import Answer, Done, Failed

KV = VaultRole.model_validate(
    {"from": "vault", "kind": "kv", "path": "secret/data/{tenant}/api", "role": "{tenant}-kv",
     "secret": "{key}", "sign_in": "bearer"}
)  # fmt: skip
pytestmark = [pytest.mark.anyio, pytest.mark.canaries]


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Governed]:
    yield from running_vault(tmp_path_factory)


@pytest.fixture
def deployment(governed: Governed, tmp_path: Path) -> Deployment:
    return deployed(tmp_path / "gate", governed)


@pytest.fixture
async def gate(deployment: Deployment) -> AsyncGenerator[Opened]:
    async with deployment.open() as gate:
        yield gate


def entries(root: Path, kind: str = "lease") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as database:
        rows = database.execute("SELECT idx, body FROM ledger_entry WHERE kind = ? ORDER BY idx", (kind,))
        return [{"idx": idx, **orjson.loads(body)} for idx, body in rows]


def living(root: Path) -> list[str]:
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as database:
        return [
            row[0]
            for row in database.execute("SELECT state FROM lease UNION ALL SELECT state FROM vault_run")
        ]


def user(answer: Answer) -> str:
    assert isinstance(answer.outcome, Done), answer.outcome
    assert secrets_in(repr(answer).encode()) == []
    return str(answer.outcome.value["name"])


def failure(answer: Answer) -> Failed:
    assert isinstance(answer.outcome, Failed), answer.outcome
    return answer.outcome


def revoke_tokens_of_gates(root: Any) -> None:  # noqa: ANN401 - hvac has no types
    """Revoke what gates have signed in with, and so all that was made under it."""
    for accessor in root.list("auth/token/accessors")["data"]["keys"]:
        with contextlib.suppress(
            hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden
        ):  # it goes with another
            if root.auth.token.lookup_accessor(accessor)["data"]["path"] == "auth/approle/login":
                root.auth.token.revoke_accessor(accessor)


async def until(found: Any, seconds: float = 10) -> None:  # noqa: ANN401 - a question
    give_up = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)


# --- one call, one user


async def test_each_call_is_another_user_and_none_is_left(gate: Opened, governed: Governed) -> None:
    names = {user(await gate.call("crm.who")) for _ in range(3)}

    assert len(names) == 3
    assert governed.users().isdisjoint(names)


async def test_a_lease_is_in_the_ledger_before_it_is_used_and_when_it_is_given_back(
    gate: Opened, governed: Governed
) -> None:
    answer = await gate.call("crm.credit", {"amount": 1})

    assert isinstance(answer.outcome, Done)
    run, lent, back = entries(gate.house.root)
    (intent,), (outcome,) = entries(gate.house.root, "intent"), entries(gate.house.root, "outcome")
    assert [entry["status"] for entry in (run, lent, back)] == ["run_opened", "lent", "given_back"]
    assert intent["idx"] < run["idx"] < lent["idx"] < back["idx"] < outcome["idx"]
    assert {entry["intent"] for entry in (run, lent, back)} == {intent["idx"]}
    assert lent["scope"] == "database/creds/acme-crm-write as acme-crm-write"
    assert lent["ttl"] in {59, 60}  # the vault counts from the call's token
    assert (lent["made"], lent["static"]) == ("dynamic", False)
    assert back["issued"] == lent["idx"]
    asked = {line["request"]["id"] for line in governed.server.audit_lines()}
    assert {run["request"], lent["request"]} <= asked
    assert lent["lease"].startswith("database/creds/acme-crm-write/")


async def test_the_calls_of_a_run_share_a_lease_where_the_manifest_says_so(
    gate: Opened, governed: Governed
) -> None:
    first = [user(await gate.call("crm.whoami", run="r-1")) for _ in range(3)]
    other = user(await gate.call("crm.whoami", run="r-2"))

    assert len(set(first)) == 1
    assert other != first[0]
    assert {first[0], other} <= governed.users()
    statuses = [entry["status"] for entry in entries(gate.house.root)]
    assert statuses.count("lent") == 2
    assert statuses.count("kept") == 4


async def test_concurrent_calls_of_a_run_open_one_run_and_one_lease(gate: Opened) -> None:
    answers = await asyncio.gather(*(gate.call("crm.whoami", run="r-1") for _ in range(8)))

    assert len({user(answer) for answer in answers}) == 1
    statuses = [entry["status"] for entry in entries(gate.house.root)]
    assert (statuses.count("run_opened"), statuses.count("lent")) == (1, 1)


async def test_when_the_gate_stops_everything_is_given_back(deployment: Deployment) -> None:
    async with deployment.open() as gate:
        name = user(await gate.call("crm.whoami", run="r-1"))
        assert name in deployment.governed.users()

    await until(lambda: name not in deployment.governed.users())
    assert living(deployment.root) == []
    assert entries(deployment.root)[-1]["because"] == "shutdown"


async def test_a_run_that_is_idle_is_ended(governed: Governed, tmp_path: Path) -> None:
    async with deployed(tmp_path / "gate", governed, more="idle_seconds = 1").open() as gate:
        name = user(await gate.call("crm.whoami", run="r-1"))
        await asyncio.sleep(1.1)
        await gate.house.lending.keep()

        await until(lambda: name not in governed.users())
        assert entries(gate.house.root)[-1]["because"] == "run_over"
        assert user(await gate.call("crm.whoami", run="r-1")) != name


# --- what the vault holds, not the gate


async def test_a_tenant_gets_nothing_of_another(gate: Opened) -> None:
    assert user(await gate.call("crm.who", who="gus"))
    assert user(await gate.call("crm.other", who="gus"))

    refused = failure(await gate.call("crm.other"))

    assert refused.code == "vault_forbidden"
    assert "globex-crm-read" in refused.detail


@pytest.mark.parametrize("tenant", ["acme/../globex", "a*", "{tenant}", "..", "acme:x", "a\nb", "", "Acme"])
async def test_a_name_that_cannot_stand_in_a_path_is_refused(gate: Opened, tenant: str) -> None:
    callers = gate.house.settings.callers
    callers["odd"] = callers["ann"].model_copy(update={"tenant": tenant})

    assert failure(await gate.call("crm.who", who="odd")).code == "vault_forbidden"


# --- what ends early


async def test_a_run_that_was_revoked_begins_anew(gate: Opened, governed: Governed) -> None:
    name = user(await gate.call("crm.whoami", run="r-1"))
    accessor = entries(gate.house.root)[0]["accessor"]
    governed.server.root.auth.token.revoke_accessor(accessor)

    await until(lambda: name not in governed.users())
    assert user(await gate.call("crm.who", run="r-1"))
    assert [entry["status"] for entry in entries(gate.house.root)].count("run_opened") == 2


async def test_when_the_gates_token_is_lost_it_signs_in_again(deployment: Deployment) -> None:
    async with deployment.open() as gate:
        assert user(await gate.call("crm.who"))
        revoke_tokens_of_gates(deployment.governed.server.root)
        deployment.sign_in_again()

        assert user(await gate.call("crm.who", run="r-2"))


async def test_what_takes_long_to_end_is_queued_and_ended_later(governed: Governed, tmp_path: Path) -> None:
    async with deployed(tmp_path / "gate", governed, more="give_back_seconds = 0").open() as gate:
        name = user(await gate.call("crm.who"))

        assert entries(gate.house.root)[-1]["status"] == "queued"
        assert gate.house.readiness()["credentials"] == {"vault": {"signed_in": True, "to_end": 1}}
        await gate.house.lending.keep()

        assert name not in governed.users()
        last = entries(gate.house.root)[-1]
        assert (last["status"], last["because"]) == ("given_back", "queued")
        assert living(gate.house.root) == ["open"]


# --- when the vault is not there


async def test_a_sealed_vault_lends_nothing_until_it_is_open_again(gate: Opened, governed: Governed) -> None:
    governed.server.seal()
    try:
        refused = failure(await gate.call("crm.who"))
    finally:
        governed.server.unseal()

    assert (refused.code, refused.retryable) == ("vault_sealed", True)
    assert user(await gate.call("crm.who"))


async def test_a_vault_that_hangs_stops_its_calls_and_nobody_else(governed: Governed, tmp_path: Path) -> None:
    more = "read_seconds = 0.5\nmax_connections = 2"
    async with deployed(tmp_path / "gate", governed, more=more).open() as gate:
        assert user(await gate.call("crm.who"))
        governed.server.pause()
        try:
            began = time.monotonic()
            asked = [asyncio.ensure_future(gate.call("crm.who", run=f"r-{n}")) for n in range(20)]
            other = await gate.call("notes.search")
            assert not all(call.done() for call in asked)
            answers = await asyncio.gather(*asked)
            took = time.monotonic() - began
        finally:
            governed.server.resume()

        assert isinstance(other.outcome, Done), other
        codes = {failure(answer).code for answer in answers}
        assert codes <= {"vault_slow", "vault_unreachable"}
        assert took < 5
        async with asyncio.timeout(10):
            while not isinstance((await gate.call("crm.who")).outcome, Done):
                await asyncio.sleep(0.2)
        await gate.house.lending.keep()
        await until(lambda: not governed.users())


async def test_a_call_waits_for_its_credential_no_longer_than_for_its_system(
    governed: Governed, tmp_path: Path
) -> None:
    async with deployed(tmp_path / "gate", governed, timeout=0.5).open() as gate:
        assert user(await gate.call("crm.who"))
        governed.server.pause()
        try:
            began = time.monotonic()
            refused = failure(await gate.call("crm.who"))
            took = time.monotonic() - began
        finally:
            governed.server.resume()

        assert (refused.code, refused.retryable) == ("credential_timeout", True)
        assert took < 2.5
    assert governed.users() == set()


async def test_a_vault_that_is_down_is_told_so(governed: Governed, tmp_path: Path) -> None:
    made = deployed(tmp_path / "gate", governed)
    settings = made.root / "toolgate.toml"
    settings.write_text(settings.read_text().replace(governed.server.address, "https://127.0.0.1:1"))
    async with made.open() as gate:
        assert failure(await gate.call("crm.who")).code == "vault_unreachable"


async def test_a_certificate_that_is_not_trusted_is_told_so(governed: Governed, tmp_path: Path) -> None:
    made = deployed(tmp_path / "gate", governed)
    settings = made.root / "toolgate.toml"
    settings.write_text(settings.read_text().replace(f'ca = "{governed.server.ca}"', ""))
    async with made.open() as gate:
        assert failure(await gate.call("crm.who")).code == "vault_tls"


async def test_a_quota_that_is_used_up_is_told_so(gate: Opened, governed: Governed) -> None:
    root = governed.server.root
    root.write_data("sys/quotas/rate-limit/few", data={"rate": 1, "interval": "60s", "path": "database/"})
    try:
        codes = {
            type(answer.outcome).__name__ + getattr(answer.outcome, "code", "")
            for answer in [await gate.call("crm.who") for _ in range(3)]
        }
    finally:
        root.delete("sys/quotas/rate-limit/few")

    assert "Failedvault_rate_limited" in codes


async def test_a_secret_id_that_was_used_before_raises_the_alarm(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    settings = deployment.root / "toolgate.toml"
    settings.write_text(settings.read_text().replace("wrapped = false", "wrapped = true"))
    deployment.sign_in_again(wrapped=True)
    async with deployment.open() as gate:
        assert user(await gate.call("crm.who"))
    async with deployment.open() as gate:
        refused = failure(await gate.call("crm.who"))

    assert (refused.code, refused.retryable) == ("vault_sign_in", False)
    assert "SOMEBODY ELSE HAS" in caplog.text


async def test_no_token_of_the_surroundings_is_used(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ambient = str(deployment.governed.server.root.token)
    monkeypatch.setenv("VAULT_TOKEN", ambient)
    monkeypatch.setenv("HOME", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / ".vault-token").write_text(ambient)
    (deployment.root / "keys" / "secret-id").write_text("not one")

    async with deployment.open() as gate:
        assert failure(await gate.call("crm.who")).code == "vault_sign_in"


@pytest.mark.parametrize("method", ["jwt", "kubernetes"])
async def test_the_gate_signs_in_as_its_platform_says(
    governed: Governed, tmp_path: Path, method: str
) -> None:
    made = deployed(tmp_path / "gate", governed)
    settings = made.root / "toolgate.toml"
    text = settings.read_text().replace('sign_in = "approle"', f'sign_in = "{method}"\njwt_file = "keys/jwt"')
    settings.write_text(text.replace(governed.role_id, "toolgate"))
    token = governed.jwt() if method == "jwt" else governed.service_account_jwt()
    (made.root / "keys" / "jwt").write_text(token)

    async with made.open() as gate:
        assert user(await gate.call("crm.who"))


# --- late answers and lost records


@contextlib.contextmanager
def no_users_can_be_made(governed: Governed) -> Generator[None]:
    """Hold PostgreSQL's table of users: whoever makes one waits."""
    with psycopg.connect(f"{governed.postgres}&user=postgres") as admin:
        admin.execute("LOCK TABLE pg_authid IN EXCLUSIVE MODE")
        yield


def made(governed: Governed) -> list[str]:
    """Give the leases that the vault has made, as its audit log has them."""
    return [
        line["request"]["id"]
        for line in governed.server.audit_lines()
        if line["type"] == "response" and line["request"]["path"].startswith("database/creds/")
    ]


def waiting_for_users(governed: Governed) -> bool:
    with psycopg.connect(f"{governed.postgres}&user=postgres", autocommit=True) as admin:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return admin.execute(asked).fetchone() != (0,)


async def test_what_was_made_behind_a_lost_answer_is_ended(governed: Governed, tmp_path: Path) -> None:
    async with deployed(tmp_path / "gate", governed, more="read_seconds = 0.5").open() as gate:
        with no_users_can_be_made(governed):
            refused = failure(await gate.call("crm.who", run="r-1"))
        await gate.house.lending.keep()

        assert (refused.code, refused.retryable) == ("vault_slow", True)
        await until(lambda: not governed.users())
        assert entries(gate.house.root)[-1]["because"] == "run_over"
        assert user(await gate.call("crm.who", run="r-1"))


async def test_what_is_made_when_nobody_waits_any_more_is_ended(gate: Opened, governed: Governed) -> None:
    tool = gate.house.in_force.rulebook.catalog.find("crm.who")
    assert tool is not None
    call = gate.asked("crm.who")
    opened = OpenedCall(call_id=call.id, intent=0, claimed=False, remembered={})
    with no_users_can_be_made(governed):
        asking = asyncio.ensure_future(gate.house.lending.lend(tool, call, opened))
        await until(lambda: waiting_for_users(governed))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        before = len(made(governed))

    await until(lambda: len(made(governed)) > before)
    await until(lambda: not governed.users())


async def test_what_cannot_be_recorded_is_not_used_and_is_ended(gate: Opened, governed: Governed) -> None:
    assert user(await gate.call("crm.who", run="r-1"))
    database = gate.house.root / "data" / "toolgate.db"
    with closing(sqlite3.connect(database)) as other:
        other.execute("DROP TABLE lease")
        refused = failure(await gate.call("crm.who", run="r-1"))

    assert (refused.code, refused.retryable) == ("ledger_unavailable", True)
    await until(lambda: not governed.users())


async def test_a_step_of_the_clock_leaves_no_lease(governed: Governed, tmp_path: Path) -> None:
    async with deployed(tmp_path / "gate", governed).open() as gate:
        name = user(await gate.call("crm.whoami", run="r-1"))
        with closing(sqlite3.connect(gate.house.root / "data" / "toolgate.db")) as other, other:
            other.execute("UPDATE vault_run SET until = 1")
        await gate.house.lending.keep()

        await until(lambda: name not in governed.users())
        assert [entry["status"] for entry in entries(gate.house.root)][-2:] == ["expired", "expired"]


# --- what an attack found


async def test_a_run_that_could_not_be_ended_is_tried_again(governed: Governed, tmp_path: Path) -> None:
    async with deployed(tmp_path / "gate", governed, more="idle_seconds = 1").open() as gate:
        name = user(await gate.call("crm.whoami", run="r-1"))
        await asyncio.sleep(1.1)
        governed.server.seal()
        await gate.house.lending.keep()
        assert gate.house.readiness()["credentials"] == {"vault": {"signed_in": True, "to_end": 1}}
        governed.server.unseal()
        await gate.house.lending.keep()

        await until(lambda: name not in governed.users())
        assert living(gate.house.root) == []


@pytest.mark.parametrize("ended", ["run", "lease", "gate"])
async def test_a_shared_lease_that_somebody_ended_is_replaced(
    deployment: Deployment, governed: Governed, ended: str
) -> None:
    async with deployment.open() as gate:
        name = user(await gate.call("crm.whoami", run="r-1"))
        run, lease, *_ = entries(gate.house.root)
        root = governed.server.root
        match ended:
            case "run":
                root.auth.token.revoke_accessor(run["accessor"])
            case "lease":
                root.sys.revoke_lease(lease["lease"])
            case _:
                revoke_tokens_of_gates(root)
                deployment.sign_in_again()
        await until(lambda: name not in governed.users())

        answers = [await gate.call("crm.whoami", run="r-1") for _ in range(3)]

        assert isinstance(answers[0].outcome, Failed)
        assert user(answers[1]) == user(answers[2]) != name


async def test_a_secret_id_that_was_unwrapped_is_kept_until_a_sign_in_is_answered(
    governed: Governed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = deployed(tmp_path / "gate", governed, wrapped=True, more="read_seconds = 0.5")
    settings = made.root / "toolgate.toml"
    with proxy(governed.server.address, governed.server.ca) as way:
        settings.write_text(settings.read_text().replace(governed.server.address, way.address))
        way.lose("auth/approle/login")
        async with made.open() as gate:
            assert failure(await gate.call("crm.who")).code in {"vault_unreachable", "vault_error"}
            assert user(await gate.call("crm.who"))

    assert "SOMEBODY ELSE" not in caplog.text


async def test_an_engine_that_hangs_leaves_the_others_alone(governed: Governed, tmp_path: Path) -> None:
    more = "read_seconds = 1\nmax_connections = 6"
    async with deployed(tmp_path / "gate", governed, more=more).open() as gate:
        assert user(await gate.call("crm.who"))
        with no_users_can_be_made(governed):
            asked = [asyncio.ensure_future(gate.call("crm.who")) for _ in range(12)]
            await until(lambda: waiting_for_users(governed))
            tool = gate.house.in_force.rulebook.catalog.find("crm.who")
            assert tool is not None
            for _ in range(5):
                call = gate.asked("crm.who", who="gus")
                opened = OpenedCall(call_id=call.id, intent=0, claimed=False, remembered={})
                lease = await gate.house.lending.lend(replace(tool, credential=KV), call, opened)
                assert lease is not None
                await gate.house.lending.take_back(lease)
            assert not all(call.done() for call in asked)
        await asyncio.gather(*asked)
    await until(lambda: not governed.users())


async def test_a_role_that_was_changed_is_lent_as_it_is_now(gate: Opened, governed: Governed) -> None:
    name = user(await gate.call("crm.whoami", run="r-1"))
    manifest = gate.house.root / "registry" / "crm.toml"
    text = manifest.read_text()
    manifest.write_text(text.replace('role = "{tenant}-crm-read"', 'role = "{tenant}-crm-write"'))
    await gate.house.reload()

    refused = failure(await gate.call("crm.whoami", run="r-1"))

    assert refused.code == "vault_forbidden"
    assert name in governed.users()


async def test_what_is_still_asked_for_when_the_gate_stops_is_waited_for(
    deployment: Deployment, governed: Governed
) -> None:
    async with deployment.open() as gate:
        assert user(await gate.call("crm.who"))
        tool = gate.house.in_force.rulebook.catalog.find("crm.who")
        assert tool is not None
        call = gate.asked("crm.who")
        opened = OpenedCall(call_id=call.id, intent=0, claimed=False, remembered={})
        with no_users_can_be_made(governed):
            asking = asyncio.ensure_future(gate.house.lending.lend(tool, call, opened))
            await until(lambda: waiting_for_users(governed))
            asking.cancel()
            closing = asyncio.ensure_future(gate.house.lending.aclose())
            await asyncio.sleep(0.1)
            assert not closing.done()
        await closing

    assert governed.users() == set()
    assert living(deployment.root) == []
