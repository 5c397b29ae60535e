"""Opaque tokens of a real authorization server: a gate that asks it, and believes it for a second."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from tests.authorizing import Person, connected, pre_registered, sign_in
from tests.canaries import secrets_under
from tests.identity_provider import IdentityProvider, identity_provider
from tests.serving import ERAS, Era, Served, call_body, serving
from toolgate.backends.keystore import Keystore

pytestmark = pytest.mark.anyio

ISSUER = """
[[issuers]]
issuer = "{issuer}"
jwks_uri = "{issuer}/jwks"
tenant = "home"
roles_claim = "roles"
introspection.endpoint = "{issuer}/token/introspection"
introspection.client_id = "gate"
introspection.secret = "{secret}"
introspection.{more}
"""
ENDPOINT = "/token/introspection"


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Generator[IdentityProvider]:
    with identity_provider(tmp_path_factory.mktemp("idp")) as provider:
        yield provider


@pytest.fixture(autouse=True)
def as_ever(idp: IdentityProvider) -> Generator[None]:
    idp.be(opaque=True, named=True)
    yield
    idp.be(opaque=False, named=False, down=False)


@pytest.fixture(scope="module")
def gate(starter: Path, idp: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    root = Path(shutil.copytree(starter, tmp_path_factory.mktemp("gate") / "root"))
    settings(root, idp.issuer)
    keystore(root).set("idp-client", SecretStr("gate-secret"))
    with serving(root) as served:
        yield served


def settings(root: Path, issuer: str, secret: str = "idp-client", more: str = "cache_seconds = 1") -> None:  # noqa: S107
    file = root / "toolgate.toml"
    said = ISSUER.format(issuer=issuer, secret=secret, more=more)
    file.write_text(file.read_text("utf-8") + said, "utf-8")


def keystore(root: Path) -> Keystore:
    return Keystore(root / "keys" / "keystore.json", passphrase=None, dev=True)


def search(gate: Served, token: str) -> httpx2.Response:
    return gate.post(call_body("notes_search", {}), Authorization=f"Bearer {token}")


def until(gate: Served, token: str, status: int, seconds: float) -> httpx2.Response:
    """Call until the answer has this status, for so many seconds at most."""
    deadline = time.monotonic() + seconds
    while (reply := search(gate, token)).status_code != status:
        assert time.monotonic() < deadline, reply.text
        time.sleep(0.02)
    return reply


@pytest.mark.parametrize("era", ERAS)
async def test_a_person_signs_in_and_calls_with_an_opaque_token(
    gate: Served, idp: IdentityProvider, era: Era
) -> None:
    memory = pre_registered(idp)
    async with connected(gate, sign_in(gate, memory, Person()), era) as client:
        found = await client.call_tool("notes_search", {"contains": "set up"})

    assert found.structured_content["rows"][0]["text"] == "Toolgate was set up"
    assert memory.tokens is not None
    assert "." not in memory.tokens.access_token
    assert memory.tokens.refresh_token is not None
    assert search(gate, memory.tokens.refresh_token).status_code == 401, "it renews tokens, and is none"


def test_a_revoked_token_ends_within_the_time_that_an_answer_is_believed(
    gate: Served, idp: IdentityProvider
) -> None:
    token = idp.token("mia", gate.url, "notes:read")
    assert search(gate, token).status_code == 200
    idp.revoke(token)

    refused = until(gate, token, 401, 1 + 5)
    assert (
        'error_description="its issuer says that it is not good, or not any more"'
        in (refused.headers["WWW-Authenticate"])
    )


def test_signed_tokens_are_not_asked_about(gate: Served, idp: IdentityProvider) -> None:
    idp.be(opaque=False)
    asked = idp.times(ENDPOINT)

    assert search(gate, idp.token("mia", gate.url, "notes:read")).status_code == 200
    assert search(gate, gate.token()).status_code == 200
    assert idp.times(ENDPOINT) == asked


def test_a_token_of_nobody_or_for_another_resource_is_refused(gate: Served, idp: IdentityProvider) -> None:
    idp.be(named=False)
    nobodys = idp.token("mia", gate.url, "notes:read")
    idp.be(named=True)
    foreign = idp.token("mia", "http://127.0.0.1:1/mcp", "notes:read")

    assert "it names no subject" in search(gate, nobodys).text
    assert "it was not issued for this server" in search(gate, foreign).text
    assert "its issuer says that it is not good" in search(gate, "made-up").text


def test_an_issuer_that_is_down_does_nothing_and_loses_no_token(gate: Served, idp: IdentityProvider) -> None:
    token = idp.token("mia", gate.url, "notes:read")
    idp.be(down=True)
    reply = search(gate, token)

    assert reply.status_code == 503
    assert reply.json()["error_description"] == "its issuer cannot be asked about it"
    assert int(reply.headers["Retry-After"]) > 0
    assert "WWW-Authenticate" not in reply.headers
    idp.be(down=False)
    until(gate, token, 200, 15)


def test_another_secret_is_taken_up_without_a_restart_and_none_is_told(
    gate: Served, idp: IdentityProvider
) -> None:
    token = idp.token("mia", gate.url, "notes:read")
    keystore(gate.root).set("idp-client", SecretStr("an-old-secret"))
    assert search(gate, token).status_code == 503, "whether the token is good, only the issuer can tell"

    keystore(gate.root).set("idp-client", SecretStr("gate-secret"))
    until(gate, token, 200, 15)
    assert "gave no answer: HTTP 401" in (gate.root / "serve.log").read_text("utf-8")
    assert secrets_under(gate.root, [token, "an-old-secret", "gate-secret"]) == []


def checked(root: Path, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "toolgate", "check", "--json", "--root", str(root)]
    told = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment or None
    ).stdout
    said: dict[str, Any] = json.loads(told)
    return said


@pytest.mark.parametrize(
    ("issuer", "secret", "more", "problem"),
    [
        ("https://id.example.com", "nothing", "", "the keystore has no entry 'nothing'"),
        ("https://id.example.com", "NOWHERE", 'from = "env"', "the environment has no NOWHERE"),
        ("https://id.example.com", "VAULT_TOKEN", 'from = "env"', "VAULT_TOKEN is the gate's own"),
        (
            "http://id.example.com",
            "here",
            "",
            "its endpoint is http, and tokens would be sent for anybody to read",
        ),
        ("https://u:p@id.example.com", "here", "", "its endpoint holds a user"),
    ],
)
def test_check_says_why_an_issuer_could_not_be_asked(
    root: Path, issuer: str, secret: str, more: str, problem: str
) -> None:
    keystore(root).set("here", SecretStr("x"))
    settings(root, issuer, secret, more or "cache_seconds = 5")
    faults = checked(root)["faults"]

    assert [fault["problem"].startswith(problem) for fault in faults] == [True], faults
    assert faults[0]["place"] == f"issuers {issuer}, introspection"


def test_check_says_when_an_opaque_token_would_be_shown_to_two_issuers(root: Path) -> None:
    keystore(root).set("here", SecretStr("x"))
    settings(root, "https://one.example.com", "here", 'prefix = "one_"')
    settings(root, "https://two.example.com", "here", 'prefix = "two_"')
    assert checked(root)["faults"] == []

    settings(root, "https://three.example.com", "here")
    assert [fault["problem"] for fault in checked(root)["faults"]] == [
        "an opaque token of one issuer would be shown to another"
    ]
