"""A deployment as it runs in production: others issue tokens, and changes are taken up when asked."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from tests.registries import unlocked
from tests.serving import Served, call_body, serving
from toolgate.backends.dev_issuer import ISSUER, PUBLIC_KEYS

pytestmark = pytest.mark.anyio

ISSUERS = f"""
[[issuers]]
issuer = "{ISSUER}"
jwks_file = "{PUBLIC_KEYS}"
algorithms = ["EdDSA"]
tenant_claim = "tenant"
tenants = ["home"]
roles_claim = "roles"

[[issuers]]
issuer = "https://id.example.com"
jwks_uri = "http://127.0.0.1:9/jwks"
tenant = "home"
"""
STOP = "BEGIN SELECT RAISE(ABORT, 'no'); END"


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment whose keystore opens with a passphrase, that trusts one issuer's published keys, and whose
    policy is activated."""
    monkeypatch.setenv("TOOLGATE_PASSPHRASE", "correct horse battery staple")
    root = tmp_path / "root"
    subprocess.run([sys.executable, "-m", "toolgate", "init", str(root)], check=True, capture_output=True)
    settings = root / "toolgate.toml"
    production = 'mode = "production"\npublic_url = "http://127.0.0.1:8080/mcp"'
    text = settings.read_text("utf-8").replace('mode = "dev"', production)
    settings.write_text(text + ISSUERS, "utf-8")
    activate = [sys.executable, "-m", "toolgate", "policy", "activate", "--root"]
    subprocess.run([*activate, str(root)], check=True, capture_output=True)
    return root


async def test_a_token_of_a_trusted_issuer_is_good_and_none_is_minted_here(production: Path) -> None:
    with serving(production) as gate:
        reply = gate.post(call_body("notes_search", {}))
        metadata = httpx2.get(f"{gate.url.removesuffix('/mcp')}/.well-known/oauth-protected-resource/mcp")
    command = [sys.executable, "-m", "toolgate", "token", "--root", str(production)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)

    assert reply.status_code == 200
    assert metadata.json()["authorization_servers"] == ["https://id.example.com"]
    assert refused.returncode == 1
    assert "dev mode only" in refused.stderr
    assert "DEV MODE" not in (production / "serve.log").read_text("utf-8")


async def test_a_changed_manifest_is_taken_up_on_sighup_and_not_before(production: Path) -> None:
    with serving(production) as gate:
        before = _version(gate)
        manifest = production / "registry" / "notes.toml"
        manifest.write_text(manifest.read_text("utf-8") + "# looked at again\n", "utf-8")
        assert _version(gate) == before
        os.kill(gate.process.pid, signal.SIGHUP)
        with anyio.fail_after(10):
            while _version(gate) == before:
                await anyio.sleep(0.02)


async def test_a_change_that_could_not_be_recorded_is_taken_up_when_it_can_be(production: Path) -> None:
    with serving(production) as gate:
        before = _version(gate)
        _by_hand(production, f"CREATE TRIGGER stop BEFORE INSERT ON ledger_entry {STOP}")
        manifest = production / "registry" / "notes.toml"
        manifest.write_text(manifest.read_text("utf-8") + "# looked at again\n", "utf-8")
        os.kill(gate.process.pid, signal.SIGHUP)
        await _tried(production)
        assert _version(gate) == before
        _by_hand(production, "DROP TRIGGER stop")
        with anyio.fail_after(20):
            while _version(gate) == before:
                await anyio.sleep(0.02)


async def test_in_dev_mode_too_what_could_not_be_recorded_is_taken_up_when_it_can_be(root: Path) -> None:
    with serving(root) as gate:
        before = _version(gate)
        _by_hand(root, f"CREATE TRIGGER stop BEFORE INSERT ON ledger_entry {STOP}")
        rules = root / "policies" / "rules.csv"
        rules.write_text(rules.read_text("utf-8") + "# looked at again\n", "utf-8")
        await _tried(root)
        assert _version(gate) == before
        _by_hand(root, "DROP TRIGGER stop")
        with anyio.fail_after(20):
            while _version(gate) == before:
                await anyio.sleep(0.02)


async def _tried(root: Path) -> None:
    """Wait until the gate has said that it could not."""
    with anyio.fail_after(20):
        while "not taken up" not in " ".join((root / "serve.log").read_text("utf-8").split()):
            await anyio.sleep(0.02)


def _by_hand(root: Path, statement: str) -> None:
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as hand, hand:
        hand.execute(statement)


async def test_a_sample_of_all_decisions_is_judged_again_by_plain_casbin(
    production: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLGATE_SECOND_JUDGE_EVERY", "2")
    with serving(production) as gate:
        for _ in range(10):
            assert gate.post(call_body("notes_search", {})).status_code == 200
        with anyio.fail_after(30):
            while (said := _readiness(gate)["judged_again"])["agreed"] < 5:
                await anyio.sleep(0.05)

    assert said["asked"] == 5
    assert said["differed"] == 0


def test_without_the_passphrase_nothing_is_served(production: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLGATE_PASSPHRASE")
    command = [sys.executable, "-m", "toolgate", "serve", "--root", str(production)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert refused.returncode == 1
    assert "set TOOLGATE_PASSPHRASE" in refused.stderr
    assert "Traceback" not in refused.stderr


async def test_tools_come_in_pages_that_together_are_all(root: Path) -> None:
    unlocked(root)
    for system in ("notes2", "notes_2"):
        manifest = (root / "registry" / "notes.toml").read_text("utf-8")
        elsewhere = manifest.replace("notes://", f"{system.replace('_', '-')}://")
        (root / "registry" / f"{system}.toml").write_text(elsewhere, "utf-8")
    rules = root / "policies" / "rules.csv"
    rules.write_text(rules.read_text("utf-8") + "p, N10, allow, member, home, notes*.search, read, -, -, -\n")
    settings = root / "toolgate.toml"
    settings.write_text("page_size = 1\n" + settings.read_text("utf-8"), "utf-8")
    with serving(root) as gate:
        async with gate.client() as client:
            names: list[str] = []
            cursor = None
            while True:
                page = await client.list_tools(cursor=cursor)
                names += [tool.name for tool in page.tools]
                cursor = page.next_cursor
                if cursor is None:
                    break

    assert names == ["notes2_search", "notes_2_search", "notes_add", "notes_remove", "notes_search"]


def _version(gate: Served) -> str:
    return str(_readiness(gate)["version"])


def _readiness(gate: Served) -> dict[str, Any]:
    said: dict[str, Any] = httpx2.get(f"{gate.url.removesuffix('/mcp')}/readyz").json()
    return said
