"""The example with a vault: one command, all of it real; and what it ships is as narrow as it says."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import hvac.exceptions
import pytest

from examples.vault import database, server, setup
from tests.shell import done

pytestmark = pytest.mark.canaries

REPO = Path(__file__).resolve().parents[1]
WRITTEN = REPO / "examples" / "vault" / "gate"
PATHS = {
    "crm-read": "database/creds/{}-crm-read",
    "crm-write": "database/creds/{}-crm-write",
    "api-key": "secret/data/{}/api",
    "api-token": "identity/oidc/token/{}-api",
}
SET_UP = (
    "sys/config/auditing/request-headers/X-Toolgate-Call",
    "sys/policies/acl/toolgate",
    "sys/policies/acl/toolgate-run",
    *(f"sys/policies/acl/{tenant}-{name}" for tenant in setup.TENANTS for name in setup.POLICIES),
    *(f"auth/token/roles/toolgate-{tenant}" for tenant in setup.TENANTS),
    "auth/approle/role/toolgate",
    "auth/approle/role/toolgate/role-id",
    *(f"database/roles/{tenant}-crm-{rights}" for tenant in setup.TENANTS for rights in ("read", "write")),
    "identity/oidc/key/toolgate",
    *(f"identity/oidc/role/{tenant}-api" for tenant in setup.TENANTS),
)
OF_A_SERVER = {"modified", "template"}
ELSEWHERE = re.compile(r"platform\.example\.com|kubernetes|mv secret-id|kv put")
"""What the guide's commands need that is not here."""
HOST = "db.example.com:5432"
CALL = {"type": "batch", "no_default_policy": True, "ttl": "30s"}


def test_one_command_shows_that_each_call_has_a_user_of_its_own_that_is_gone_afterwards() -> None:
    told = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.vault.run"],
        cwd=REPO,
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )

    assert told.returncode == 0, told.stdout + told.stderr
    users = re.findall(r"(?:counts customers|counts again|grants a credit) as (v-\S+)", told.stdout)
    assert len(set(users)) == 3
    for line in (
        "✓ the database has none of them any more",
        "✓ it was the vault that refused, as its own log says",
        "1 lease and 1 run token have ended",
        "✓ the user is gone, and so is its session",
        "✓ a call gets no credential, and nothing else in its place",
        "EQUAL: ",
        "All of it happened",
    ):
        assert line in told.stdout
    assert "Error" not in told.stderr


def test_its_deployment_has_no_fault_and_its_cases_pass(tmp_path: Path) -> None:
    root = tmp_path / "gate"
    done("init", str(root))
    for shipped in ("notes.toml", "audit.toml"):
        (root / "registry" / shipped).unlink()
    (root / "policies" / "cases" / "notes.toml").unlink()
    shutil.copytree(WRITTEN, root, dirs_exist_ok=True)
    for given in ("vault-ca.pem", "secret-id"):
        (root / "keys" / given).touch(0o600)

    assert "4 tools admitted" in done("check", "--root", str(root))
    assert "7 of 7 cases passed" in done("policy", "test", "--root", str(root))


@dataclass(frozen=True)
class Shipped:
    """A vault that is set up as shipped."""

    vault: server.Vault

    def gate(self) -> server.Operator:
        root = self.vault.root
        told = root.having(setup.wrapped_secret_id(root)).write("sys/wrapping/unwrap")
        login = {"role_id": setup.GATE, "secret_id": told["data"]["secret_id"]}
        return root.having(root.having("").write("auth/approle/login", login)["auth"]["client_token"])

    def run(self, tenant: str) -> server.Operator:
        asked = {"entity_alias": f"{tenant}:ann", "no_default_policy": True}
        made = self.gate().write(f"auth/token/create/toolgate-{tenant}", asked)
        return self.vault.root.having(made["auth"]["client_token"])

    def call(self, tenant: str, policy: str) -> server.Operator:
        made = self.run(tenant).write("auth/token/create", CALL | {"policies": [f"{tenant}-{policy}"]})
        return self.vault.root.having(made["auth"]["client_token"])


@pytest.fixture(scope="module")
def shipped() -> Generator[Shipped]:
    with (
        # Not a folder of pytest's: where root runs the tests, PostgreSQL's user could not get into it.
        tempfile.TemporaryDirectory() as name,
        database.running(Path(name) / "database") as customers,
        server.running(Path(name) / "vault") as vault,
    ):
        setup.set_up(vault.root, customers)
        yield Shipped(vault)


def test_the_gates_own_token_reads_no_secret(shipped: Shipped) -> None:
    gate = shipped.gate()

    for tenant in setup.TENANTS:
        for path in PATHS.values():
            assert _refuses(gate.read, path.format(tenant))
    assert _refuses(gate.write, "auth/token/create", {"policies": ["acme-crm-read"]})
    assert gate.read("auth/token/lookup-self")["data"]["policies"] == ["toolgate"]


@pytest.mark.parametrize("policy", PATHS)
def test_the_token_of_a_call_opens_one_path(shipped: Shipped, policy: str) -> None:
    call = shipped.call("acme", policy)

    assert call.read(PATHS[policy].format("acme"))["data"]
    for tenant in setup.TENANTS:
        for name, path in PATHS.items():
            if (tenant, name) != ("acme", policy):
                assert _refuses(call.read, path.format(tenant))


@pytest.mark.parametrize(
    "asked",
    [
        {"policies": ["globex-crm-read"]},
        {"policies": ["toolgate"]},
        {"policies": ["root"]},
        {"type": "service"},
        {"no_default_policy": False},
        {"period": "1h"},
        {"no_parent": True},
        {"entity_alias": "acme:eve"},
    ],
    ids=str,
)
def test_a_run_makes_tokens_of_calls_and_no_others(shipped: Shipped, asked: dict[str, object]) -> None:
    run = shipped.run("acme")

    of_a_call = CALL | {"policies": ["acme-crm-read"]}

    assert run.write("auth/token/create", of_a_call)
    assert _refuses(run.write, "auth/token/create", of_a_call | asked)


@pytest.mark.parametrize("alias", ["globex:gus", "ann", "acme"])
def test_a_run_of_a_tenant_is_nobody_of_another(shipped: Shipped, alias: str) -> None:
    gate = shipped.gate()

    assert _refuses(gate.write, "auth/token/create/toolgate-acme", {"entity_alias": alias})


def test_a_run_that_nobody_waited_for_ends_itself(shipped: Shipped) -> None:
    run = shipped.run("acme")

    run.write("auth/token/revoke-self")

    assert _refuses(run.write, "auth/token/revoke-self")


def test_the_commands_of_the_guide_set_up_the_same(shipped: Shipped, tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        database.running(Path(name) / "database") as customers,
        server.running(Path(name) / "vault") as vault,
    ):
        _follow_the_guide(vault, customers, tmp_path)

        for path in SET_UP:
            assert _told(vault.root, path) == _told(shipped.vault.root, path), path
        called = Shipped(vault).call("acme", "crm-write").read("database/creds/acme-crm-write")
        assert customers.made() == {called["data"]["username"]}
        assert Shipped(vault).call("acme", "api-token").read("identity/oidc/token/acme-api")["data"]["token"]


def _follow_the_guide(vault: server.Vault, customers: database.Database, folder: Path) -> None:
    shutil.copytree(database.SHIPPED, folder, dirs_exist_ok=True)
    customers.ask("ALTER ROLE vault PASSWORD 'first'")
    (folder / "first-password").write_text("first")
    text = (REPO / "docs" / "how-to" / "vault.md").read_text("utf-8")
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    script = "".join(block for block in blocks if "bao " in block and not ELSEWHERE.search(block))
    environment = {"BAO_ADDR": vault.address, "BAO_CACERT": str(vault.ca), "BAO_TOKEN": vault.root.token}
    done = subprocess.run(
        [
            "/bin/sh",
            "-euc",
            f'bao() {{ "{server.binary()}" "$@"; }}\n' + script.replace(HOST, customers.host),
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _told(root: server.Operator, path: str) -> dict[str, object]:
    """Give what is set up at a path, without what is another for each server."""
    told = root.read(path)["data"]
    return {name: value for name, value in told.items() if name not in OF_A_SERVER}


def _refuses(ask: Callable[..., object], *what: object) -> bool:
    try:
        ask(*what)
    except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
        return True
    return False
