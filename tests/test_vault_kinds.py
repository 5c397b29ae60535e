"""Every kind of credential that a vault gives: what is lent, what the ledger says of it, what is refused."""

import io
import json
import logging
import ssl
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.canaries import secrets_in
from tests.vault_deployment import Deployment, Opened, deployed
from tests.vault_setup import Governed, running_vault
from toolgate.core.claims import Opened as OpenedCall
from toolgate.core.credential_roles import VaultRole
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.lease import Lease, Lent
from toolgate.core.tool import Tool

pytestmark = [pytest.mark.anyio, pytest.mark.canaries]

CANARY = "canary-of-the-api-key"
KV = VaultRole.model_validate(
    {"from": "vault", "kind": "kv", "path": "secret/data/{tenant}/api", "role": "{tenant}-kv",
     "secret": "{key}", "sign_in": "bearer"}
)  # fmt: skip
TOKEN = VaultRole.model_validate(
    {"from": "vault", "kind": "token", "path": "identity/oidc/token/{tenant}-api", "role": "{tenant}-oidc",
     "sign_in": "bearer"}
)  # fmt: skip


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


async def lent(
    gate: Opened, role: VaultRole, *, who: str = "ann", run: str | None = None
) -> tuple[Lease, Lent]:
    """Lend a credential of `role`, and take it back."""
    call = gate.asked("crm.who", who=who, run=run)
    opened = OpenedCall(call_id=call.id, intent=0, claimed=False, remembered={})
    lease = await gate.house.lending.lend(using(gate, role), call, opened)
    assert lease is not None
    assert secrets_in(repr(lease).encode(), [CANARY]) == []
    (said,) = await gate.house.lending.take_back(lease)
    assert lease.secret.get_secret_value() not in said.model_dump_json()
    return lease, said


def using(gate: Opened, role: VaultRole) -> Tool:
    found = gate.house.in_force.rulebook.catalog.find("crm.who")
    assert found is not None
    return replace(found, credential=role)


def of_kind(role: VaultRole, /, **changed: object) -> VaultRole:
    return VaultRole.model_validate(role.model_dump(by_alias=True) | changed)


# --- stored secrets


async def test_a_stored_secret_is_lent_in_the_version_that_is_newest_now(
    gate: Opened, governed: Governed
) -> None:
    _, before = await lent(gate, KV)
    governed.server.root.secrets.kv.v2.create_or_update_secret("acme/api", {"key": CANARY})

    lease, after = await lent(gate, KV)

    assert lease.secret.get_secret_value() == CANARY
    assert before.version is not None
    assert after.version == before.version + 1
    assert (after.kind, after.static, after.end, after.source) == ("static", True, "given_back", "vault")
    assert after.request in {line["request"]["id"] for line in governed.server.audit_lines()}


async def test_a_version_that_is_pinned_stays_and_one_that_was_deleted_is_gone(
    gate: Opened, governed: Governed
) -> None:
    kv = governed.server.root.secrets.kv.v2
    kv.create_or_update_secret("acme/api", {"key": "newer"})

    lease, said = await lent(gate, of_kind(KV, version=1))
    assert (lease.secret.get_secret_value(), said.version) == ("key-of-acme", 1)

    kv.delete_secret_versions("acme/api", [1])
    try:
        with pytest.raises(CredentialUnavailable) as refused:
            await lent(gate, of_kind(KV, version=1))
    finally:
        kv.undelete_secret_versions("acme/api", [1])
    assert (refused.value.code, refused.value.retryable) == ("vault_no_such_secret", False)


async def test_a_stored_secret_of_a_run_is_read_once(gate: Opened, governed: Governed) -> None:
    of_run = of_kind(KV, lease="per_run")
    first, _ = await lent(gate, of_run, run="r-1")
    governed.server.root.secrets.kv.v2.create_or_update_secret("acme/api", {"key": "rotated"})
    second, said = await lent(gate, of_run, run="r-1")
    third, _ = await lent(gate, of_run, run="r-2")

    assert first.lent.version == second.lent.version
    assert said.end == "kept"
    assert third.secret.get_secret_value() == "rotated"


# --- signed tokens


async def test_a_signed_token_names_the_caller_and_lapses_by_itself(gate: Opened, governed: Governed) -> None:
    lease, said = await lent(gate, TOKEN)

    trusted = ssl.create_default_context(cafile=governed.server.ca)
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
        keys = (await client.get(f"{governed.server.address}/v1/identity/oidc/.well-known/keys")).json()
    token = lease.secret.get_secret_value()
    key = next(key for key in keys["keys"] if key["kid"] == jwt.get_unverified_header(token)["kid"])
    claims = jwt.decode(token, jwt.PyJWK(key), algorithms=["ES256"], audience="acme-api")
    assert (claims["tenant"], claims["for"]) == ("acme", "acme:ann")
    assert claims["exp"] - claims["iat"] == 60
    assert (said.kind, said.end) == ("token", "lapses")
    assert 0 < said.ttl <= 60


@pytest.mark.parametrize("subject", ["Ann", "ann ", "auth0|x", "sha256:" + "0" * 64])
async def test_two_callers_are_never_one_entity(gate: Opened, subject: str) -> None:
    callers = gate.house.settings.callers
    callers["other"] = callers["ann"].model_copy(update={"subject": subject})

    ours, theirs = await lent(gate, TOKEN), await lent(gate, TOKEN, who="other")

    named = [
        jwt.decode(lease.secret.get_secret_value(), options={"verify_signature": False})
        for lease, _ in (ours, theirs)
    ]
    assert named[0]["sub"] != named[1]["sub"]
    assert named[1]["for"].startswith("acme:sha256:")
    assert named[1]["for"] != f"acme:{subject}"


# --- what is not of the kind that the manifest says


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "kv", "secret": "{username}"}, "KV v2"),
        ({"kind": "token", "secret": "{username}"}, 'kind = "dynamic"'),
        ({"secret": "{no_such_field}"}, "no field 'no_such_field'"),
    ],
)
async def test_what_is_of_another_kind_is_ended_and_refused(
    gate: Opened, governed: Governed, changed: dict[str, Any], said: str
) -> None:
    reader = using(gate, KV)
    found = gate.house.in_force.rulebook.catalog.find("crm.who")
    assert found is not None
    assert isinstance(found.credential, VaultRole)
    assert reader.name == found.name

    with pytest.raises(CredentialUnavailable, match=said) as refused:
        await lent(gate, of_kind(found.credential, **changed))

    assert refused.value.code == "bad_credential"
    await gate.house.lending.aclose()
    assert governed.users() == set()


@pytest.mark.parametrize("ttl", ["1h", -5, 10**14, True, None])
async def test_a_token_that_does_not_say_how_long_it_lives_is_refused(
    gate: Opened, governed: Governed, ttl: object
) -> None:
    governed.server.root.write_data("once/acme", data={"token": "t" * 20, "ttl": ttl})
    odd = of_kind(TOKEN, path="once/{tenant}", role="{tenant}-once")

    with pytest.raises(CredentialUnavailable, match="a token with a ttl in seconds") as refused:
        await lent(gate, odd)

    assert refused.value.code == "bad_credential"


async def test_a_path_without_anything_is_told_so(gate: Opened) -> None:
    with pytest.raises(CredentialUnavailable) as refused:
        await lent(gate, of_kind(KV, path="secret/data/{tenant}/nothing"))

    assert refused.value.code == "vault_no_such_secret"


async def test_a_policy_that_does_not_open_the_path_is_told_so(gate: Opened) -> None:
    with pytest.raises(CredentialUnavailable) as refused:
        await lent(gate, of_kind(KV, role="{tenant}-oidc"))

    assert (refused.value.code, refused.value.retryable) == ("vault_forbidden", False)


# --- somebody who says that he is the vault


class _Impostor(BaseHTTPRequestHandler):
    """Answers every request in one way, and remembers what it was shown."""

    status = 307
    body = b""
    seen: list[dict[str, str]] = []  # noqa: RUF012 - one for all requests

    def _answer(self) -> None:
        self.seen.append(dict(self.headers.items()))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = _answer  # noqa: N815 - their names there

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@contextmanager
def impostor(status: int, body: bytes = b"") -> Generator[tuple[str, list[dict[str, str]]]]:
    seen: list[dict[str, str]] = []
    answering = type("Answering", (_Impostor,), {"status": status, "body": body, "seen": seen})
    server = HTTPServer(("127.0.0.1", 0), answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def before(deployment: Deployment, address: str) -> Deployment:
    """Let the gate take somebody else for its vault."""
    settings = deployment.root / "toolgate.toml"
    settings.write_text(settings.read_text().replace(deployment.governed.server.address, address))
    return deployment


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (307, b"", "vault_redirected"),
        (200, b"<html>", "vault_error"),
        (200, json.dumps({"auth": ["s.not-an-object"]}).encode(), "vault_error"),
        (200, b"[" * 100_000, "vault_error"),
        (204, b"", "vault_error"),
        (500, b'{"errors": ["failed for s.SECRETSECRETSECRETSECRET"]}', "vault_error"),
        (503, b"", "vault_sealed"),
        (429, b"", "vault_rate_limited"),
        (473, b"", "vault_error"),
    ],
)
async def test_whatever_a_vault_answers_the_call_ends_with_a_reason(
    deployment: Deployment, caplog: pytest.LogCaptureFixture, status: int, body: bytes, code: str
) -> None:
    with impostor(status, body) as (address, seen):
        async with before(deployment, address).open() as gate:
            with pytest.raises(CredentialUnavailable) as refused:
                await lent(gate, KV)

    assert refused.value.code == code
    assert len(seen) == 1
    assert "X-Vault-Token" not in seen[0]
    assert "SECRETSECRET" not in caplog.text + str(refused.value)


async def test_a_log_that_cannot_be_written_does_not_tell_what_the_vault_answered(
    deployment: Deployment, capfd: pytest.CaptureFixture[str]
) -> None:
    closed = io.StringIO()
    closed.close()
    handler = logging.StreamHandler(closed)  # it complains on stderr, with the error that is being handled
    logging.getLogger("toolgate").addHandler(handler)
    try:
        with impostor(500, b'{"errors": ["failed for s.SECRETSECRETSECRETSECRET"]}') as (address, _):
            async with before(deployment, address).open() as gate:
                with pytest.raises(CredentialUnavailable):
                    await lent(gate, KV)
    finally:
        logging.getLogger("toolgate").removeHandler(handler)

    said = capfd.readouterr().err
    assert "Logging error" in said
    assert "SECRETSECRET" not in said
