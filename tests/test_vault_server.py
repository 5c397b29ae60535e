"""The set-up that the gate's credentials rest on, held against a real OpenBao and a real PostgreSQL."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hvac.exceptions
import jwt
import psutil
import psycopg
import pytest
from requests.exceptions import ReadTimeout

from tests.vault_server import until, vault_server
from tests.vault_setup import READS, Governed, running_vault

pytestmark = pytest.mark.canaries

STARTS_A_SERVER = """
import sys, threading, time
from pathlib import Path
from tests.vault_server import vault_server

def start():
    with vault_server(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        time.sleep(600)

threading.Thread(target=start).start()
"""


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Governed]:
    yield from running_vault(tmp_path_factory)


def run_token(governed: Governed, *names: str, tenant: str = "acme", subject: str = "mia") -> dict[str, Any]:
    """Make the token of a run as the gate does."""
    made = governed.gate().auth.token.create(
        role_name=f"toolgate-{tenant}",
        policies=["toolgate-run", *(f"{tenant}-{name}" for name in names)],
        entity_alias=f"{tenant}:{subject}",
        meta={"run": "r-1"},
        ttl="10m",
    )
    return dict(made["auth"])


def child(governed: Governed, run: dict[str, Any], *policies: str) -> Any:  # noqa: ANN401
    """Give a client with a child of the run's token, that can do no more than these policies say."""
    made = governed.server.client(run["client_token"]).auth.token.create(
        policies=list(policies), type="batch", ttl="60s", meta={"call": "c-1"}
    )
    return governed.server.client(made["auth"]["client_token"])


def test_the_gate_reads_no_secret(governed: Governed) -> None:
    gate = governed.gate()
    assert gate.auth.token.lookup_self()["data"]["policies"] == ["toolgate"]
    for path in READS.values():
        with pytest.raises(hvac.exceptions.Forbidden):
            gate.read(path.format(tenant="acme").replace("*", "api"))


def test_the_gate_makes_tokens_of_a_tenants_role_alone(governed: Governed) -> None:
    create = governed.gate().auth.token.create
    with pytest.raises(hvac.exceptions.Forbidden):
        create(policies=["acme-kv"])
    with pytest.raises(hvac.exceptions.InvalidRequest, match="subset of the role's allowed policies"):
        create(role_name="toolgate-acme", policies=["globex-kv"])
    with pytest.raises(hvac.exceptions.InvalidRequest, match="entity_alias"):
        create(role_name="toolgate-acme", policies=["acme-kv"], entity_alias="globex:mia")


def test_a_child_wider_than_its_run_is_refused(governed: Governed) -> None:
    run = run_token(governed, "crm-read")
    for wider in ("acme-crm-write", "globex-crm-read", "toolgate"):
        with pytest.raises(hvac.exceptions.InvalidRequest, match="must be subset of parent"):
            child(governed, run, wider)


def test_a_child_gets_a_user_of_its_own_tenants_rights(governed: Governed) -> None:
    caller = child(governed, run_token(governed, "crm-read"), "acme-crm-read")
    credential = caller.read("database/creds/acme-crm-read")["data"]
    with governed.connect(credential) as customers:
        found = customers.execute("SELECT name FROM customer WHERE tenant = 'globex' ORDER BY id").fetchall()
        assert found == [("Cleo",), ("Dan",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            customers.execute("DELETE FROM customer")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        governed.connect(credential | {"password": "guessed"})
    for other in ("database/creds/globex-crm-read", "database/creds/acme-crm-write"):
        with pytest.raises(hvac.exceptions.Forbidden):
            caller.read(other)


def test_a_writer_may_write(governed: Governed) -> None:
    caller = child(governed, run_token(governed, "crm-write"), "acme-crm-write")
    with governed.connect(caller.read("database/creds/acme-crm-write")["data"]) as customers:
        customers.execute("INSERT INTO customer (tenant, name, balance) VALUES ('acme', 'Eve', 1)")
        customers.execute("UPDATE customer SET balance = 2 WHERE name = 'Eve'")
        found = customers.execute("SELECT balance FROM customer WHERE name = 'Eve'").fetchall()
        assert found == [(2,)]


def test_a_revoked_run_takes_its_children_users_and_sessions_along(governed: Governed) -> None:
    run = run_token(governed, "crm-read", "kv")
    caller = child(governed, run, "acme-crm-read", "acme-kv")
    assert caller.read("secret/data/acme/api")["data"]["data"] == {"key": "key-of-acme"}
    credential = caller.read("database/creds/acme-crm-read")["data"]
    with governed.connect(credential) as customers:
        customers.execute("SELECT 1")
        governed.gate().auth.token.revoke_accessor(run["accessor"])
        until(lambda: credential["username"] not in governed.users(), "the user to be dropped")
        with pytest.raises(psycopg.errors.AdminShutdown):
            customers.execute("SELECT 1")
    with pytest.raises(hvac.exceptions.Forbidden):
        caller.read("secret/data/acme/api")
    with pytest.raises(hvac.exceptions.Forbidden):
        child(governed, run, "acme-kv")


def test_the_gate_revokes_the_lease_of_a_child(governed: Governed) -> None:
    caller = child(governed, run_token(governed, "crm-read"), "acme-crm-read")
    lease = caller.read("database/creds/acme-crm-read")
    told = {"lease_id": lease["lease_id"], "sync": True}
    with governed.connect(lease["data"]) as customers:
        assert governed.gate().write_data("sys/leases/revoke", data=told).status_code == 204
        assert lease["data"]["username"] not in governed.users()
        with pytest.raises(psycopg.errors.AdminShutdown):
            customers.execute("SELECT 1")


def test_an_identity_token_speaks_of_the_runs_subject_and_tenant(governed: Governed) -> None:
    caller = child(governed, run_token(governed, "oidc", subject="mia"), "acme-oidc")
    token = caller.read("identity/oidc/token/acme-api")["data"]["token"]
    keys = jwt.PyJWKSet.from_dict(governed.server.root.read("identity/oidc/.well-known/keys"))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    issuer = f"{governed.server.address}/v1/identity/oidc"
    said = jwt.decode(token, key, algorithms=["ES256"], audience="acme-api", issuer=issuer)
    assert (said["tenant"], said["for"]) == ("acme", "acme:mia")
    assert said["exp"] - said["iat"] == 60


def test_a_wrapped_secret_id_is_read_once_and_used_once(governed: Governed) -> None:
    wrapping = governed.server.client(governed.wrapped_secret_id())
    secret_id = wrapping.sys.unwrap()["data"]["secret_id"]
    with pytest.raises(hvac.exceptions.InvalidRequest, match="wrapping token is not valid"):
        wrapping.sys.unwrap()
    approle = governed.server.client().auth.approle
    assert approle.login(governed.role_id, secret_id, use_token=False)["auth"]["policies"] == ["toolgate"]
    with pytest.raises(hvac.exceptions.InvalidRequest, match="invalid role or secret ID"):
        approle.login(governed.role_id, secret_id, use_token=False)


def test_a_workloads_own_token_logs_the_gate_in(governed: Governed) -> None:
    login = governed.server.client().auth.jwt.jwt_login
    assert login("toolgate", governed.jwt(), use_token=False)["auth"]["policies"] == ["toolgate"]
    for wrong in (
        governed.jwt("another"),
        governed.jwt(aud="another"),
        governed.jwt(iss="https://evil.example.com"),
        governed.jwt(seconds=-600, nbf=0),
    ):
        with pytest.raises(hvac.exceptions.InvalidRequest):
            login("toolgate", wrong, use_token=False)


def test_a_service_account_logs_the_gate_in(governed: Governed) -> None:
    login = governed.server.client().auth.kubernetes.login
    token = governed.service_account_jwt()
    assert login("toolgate", token, use_token=False)["auth"]["policies"] == ["toolgate"]
    with pytest.raises(hvac.exceptions.Forbidden):
        login("toolgate", governed.service_account_jwt("another"), use_token=False)


def test_the_audit_log_names_the_call_in_clear_and_no_secret(governed: Governed) -> None:
    caller = child(governed, run_token(governed, "kv"), "acme-kv")
    answer = caller.read("secret/data/acme/api")
    lines = [
        line
        for line in governed.server.audit_lines()
        if line["request"]["id"] == answer["request_id"] and line["type"] == "response"
    ]
    assert [line["auth"]["metadata"] for line in lines] == [{"call": "c-1"}]
    assert "key-of-acme" not in governed.server.audit.read_text("utf-8")


def test_a_server_is_sealed_and_unsealed(tmp_path: Path) -> None:
    with vault_server(tmp_path) as server:
        assert server.root.token not in repr(server)
        server.seal()
        with pytest.raises(hvac.exceptions.VaultDown):
            server.root.auth.token.lookup_self()
        server.unseal()
        assert server.root.auth.token.lookup_self()["data"]["policies"] == ["root"]


def test_a_server_hangs_and_goes_on(tmp_path: Path) -> None:
    with vault_server(tmp_path, tls=False) as server:
        impatient = server.client(server.root.token, seconds=0.2)
        server.pause()
        with pytest.raises(ReadTimeout):
            impatient.auth.token.lookup_self()
        server.resume()
        assert server.root.auth.token.lookup_self()["data"]["policies"] == ["root"]


def test_a_killed_server_comes_back_with_what_it_kept(tmp_path: Path) -> None:
    with vault_server(tmp_path, storage="raft") as server:
        server.root.sys.create_or_update_policy("kept", 'path "a" { capabilities = ["read"] }')
        killed = server.pid
        server.stop()
        assert not psutil.pid_exists(killed)
        server.start()
        server.unseal()
        assert "kept" in server.root.sys.list_policies()["data"]["policies"]


def test_a_server_does_not_outlive_the_tests_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS_A_SERVER, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as tests:
        assert tests.stdout
        server = psutil.Process(int(tests.stdout.readline()))
        tests.send_signal(signal.SIGKILL)
    until(lambda: ended(server), "the server to be killed")


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
