"""Several gates on one PostgreSQL ledger: their keys, policies and rounds, and who runs what."""

import json
import os
import shutil
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.gallery import gallery_in, installed_in
from tests.postgresql import WRITER, Cluster, cluster
from tests.running_gate import wait_until
from tests.serving import Served, serving
from tests.several_gates import (
    Fleet,
    command,
    note,
    serving_again,
    serving_all,
    set_up,
    wait_for_log,
)
from tests.test_rounds import CAN_ASK, COLOURS, NAME, call_of


@pytest.fixture(scope="module")
def server() -> Generator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def fleet(server: Cluster, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Fleet]:
    database = set_up(server)
    fleet = Fleet(sealed, tmp_path, server.url(WRITER, database))
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    yield fleet
    server.drop(database)


def test_a_new_gate_opens_the_logs_key_from_the_database(fleet: Fleet) -> None:
    first, second = fleet.deploy("first"), fleet.deploy("second")
    with serving_all(first, second) as gates:
        entries = [note(gate, "hello")["_meta"]["dev.toolgate/entry"] for gate in gates]
    key = first / "keys" / "ledger.key"

    assert entries[1] > entries[0]
    assert (second / "keys" / "ledger.key").read_text() == key.read_text()
    assert (second / "keys" / "ledger.key").stat().st_mode & 0o077 == 0
    assert (second / "keys" / "ledger.vkey").read_text() == key.with_suffix(".vkey").read_text()
    secret = key.read_text().strip().split("+", 4)[4]
    assert secret not in (first / "serve.log").read_text() + (second / "serve.log").read_text()


def test_the_database_keeps_the_key_sealed(fleet: Fleet, server: Cluster) -> None:
    root = fleet.deploy("first")
    with serving(root):
        pass
    verifier = (root / "keys" / "ledger.vkey").read_text().strip()
    kept = server.ask("SELECT verifier, sealed FROM shared_key", database=_database(fleet))

    assert [row[0] for row in kept] == [verifier]
    content = json.loads(kept[0][1])
    assert {*content} == {"version", "salt", "key"}


@pytest.mark.parametrize(
    ("passphrase", "said"),
    [("", "set TOOLGATE_PASSPHRASE as at the other gates"), ("another", "does not open with this")],
)
def test_without_the_passphrase_a_new_gate_says_how_it_gets_the_key(
    fleet: Fleet, starter: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str, said: str
) -> None:
    with serving(fleet.deploy("first")):
        pass
    monkeypatch.delenv("TOOLGATE_PASSPHRASE")
    if passphrase:
        monkeypatch.setenv("TOOLGATE_PASSPHRASE", passphrase)
    second = replace(fleet, starter=starter).deploy("second")
    refused = command(second, "serve")

    assert refused.returncode == 1
    assert said in " ".join(refused.stderr.split())
    assert "copy ledger.key, ledger.vkey and the checkpoint" in " ".join(refused.stderr.split())
    assert not (second / "keys" / "ledger.key").exists()


def test_a_key_that_was_copied_by_hand_does(
    fleet: Fleet, starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOOLGATE_PASSPHRASE")
    fleet = replace(fleet, starter=starter)
    first, second = fleet.deploy("first"), fleet.deploy("second")
    with serving(first):
        pass
    refused = command(second, "serve")
    for name in ("ledger.key", "ledger.vkey"):
        shutil.copy2(first / "keys" / name, second / "keys" / name)
    with serving(second) as gate:
        done = note(gate, "hello")

    assert "no gate had a passphrase to share it" in " ".join(refused.stderr.split())
    assert done["_meta"]["dev.toolgate/entry"]


def test_the_key_of_another_log_is_refused(fleet: Fleet, server: Cluster) -> None:
    first = fleet.deploy("first")
    with serving(first):
        pass
    other = replace(fleet, url=server.url(WRITER, set_up(server)))
    stranger = other.deploy("stranger")
    with serving(stranger):
        pass
    for name in ("ledger.key", "ledger.vkey"):
        shutil.copy2(stranger / "keys" / name, first / "keys" / name)
    refused = command(first, "serve")

    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "ledger.key is the key of toolgate/" in said
    assert "say another database_url" in said


def test_the_key_is_sealed_anew_when_gates_get_another_passphrase(
    fleet: Fleet, starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = replace(fleet, starter=starter)
    first, second = fleet.deploy("first"), fleet.deploy("second")
    with serving(first):
        monkeypatch.setenv("TOOLGATE_PASSPHRASE", "another one")
        sealed_anew = command(first, "ledger", "prove", "0")
    with serving(second):
        pass

    assert sealed_anew.returncode == 0, sealed_anew.stderr
    vkeys = {(root / "keys" / "ledger.vkey").read_text() for root in (first, second)}
    assert len(vkeys) == 1


def test_a_changed_key_is_taken_up_by_gates_that_run_and_by_those_that_start(fleet: Fleet) -> None:
    first, second, third = (fleet.deploy(name) for name in ("first", "second", "third"))
    with serving(third) as away:
        note(away, "before")
    with serving_all(first, second) as gates:
        note(gates[1], "before")
        rotated = command(first, "ledger", "rotate-key", "--json")
        new = json.loads(rotated.stdout)["new"]
        note(gates[1], "after")
        wait_until(lambda: (second / "keys" / "ledger.vkey").read_text().strip() == new, "the new key")
        note(gates[0], "after")
    with serving_again(away) as gate:
        note(gate, "long after")

    vkeys = {(root / "keys" / "ledger.vkey").read_text().strip() for root in (first, second, third)}
    assert vkeys == {new}


def test_without_a_passphrase_a_gate_that_lacks_the_new_key_serves_on(
    fleet: Fleet, starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOOLGATE_PASSPHRASE")
    fleet = replace(fleet, starter=starter)
    first, second = fleet.deploy("first"), fleet.deploy("second")
    with serving(first):
        for name in ("ledger.key", "ledger.vkey"):
            shutil.copy2(first / "keys" / name, second / "keys" / name)
        with serving(second) as gate:
            assert command(first, "ledger", "rotate-key").returncode == 0
            done = note(gate, "after")
            wait_for_log(second, "no checkpoint could be published")
            again = note(gate, "still")

    assert not done.get("isError")
    assert not again.get("isError")
    assert "copy ledger.key" in " ".join((second / "serve.log").read_text().split())


def test_a_round_begun_at_one_gate_is_finished_at_another(
    fleet: Fleet, starter: Path, tmp_path: Path
) -> None:
    first = gallery_in(replace(fleet, starter=starter).deploy("first"))
    second = Path(shutil.copytree(first, tmp_path / "second"))
    plugins = installed_in(tmp_path / "site")
    with serving(first, plugins) as one, serving(second, plugins) as two:
        begun = call_of(one, "Reeds", meta=CAN_ASK)["result"]
        more = call_of(two, "Reeds", NAME, begun["requestState"])["result"]
        done = call_of(one, "Reeds", COLOURS, more["requestState"])["result"]

    assert "Reeds, 'Dawn', in red and blue" in done["content"][0]["text"]


def test_a_policy_activated_at_one_gate_is_in_force_at_all_and_so_is_a_rollback(fleet: Fleet) -> None:
    roots = [fleet.deploy(name, production=True) for name in ("first", "second", "third")]
    first = json.loads(command(roots[0], "policy", "activate", "--json").stdout)["policy"]
    with serving_all(*roots) as gates:
        assert {_readiness(gate)["policy"] for gate in gates} == {first}
        rules = roots[1] / "policies" / "rules.csv"
        rules.write_text(rules.read_text("utf-8") + "# looked at again\n", "utf-8")
        second = json.loads(command(roots[1], "policy", "activate", "--json").stdout)["policy"]
        assert second != first
        wait_until(lambda: {_readiness(gate)["policy"] for gate in gates} == {second}, "the second policy")
        assert command(roots[2], "policy", "rollback").returncode == 0
        wait_until(lambda: {_readiness(gate)["policy"] for gate in gates} == {first}, "the first policy")


def test_status_shows_every_gate_and_marks_those_that_differ(fleet: Fleet) -> None:
    first, second, third = (fleet.deploy(name) for name in ("first", "second", "third"))
    manifest = second / "registry" / "notes.toml"
    (second / "registry" / "lock.toml").unlink()
    manifest.write_text(manifest.read_text("utf-8") + "# another\n", "utf-8")
    with serving_all(first, third) as gates:
        wait_until(lambda: all(gate["address"] for gate in _status(first)["gates"]), "the addresses")
        same = command(third, "status", "--json")
        with serving(second):
            differs = command(first, "status", "--json")
            table = command(first, "status")
            wait_until(lambda: _readiness(gates[0]).get("gates_differ") == ["registry"], "a warning")
            os.kill(gates[1].process.pid, signal.SIGKILL)
            gates[1].process.wait()
        wait_until(lambda: "gone" in [gate["standing"] for gate in _status(first)["gates"]], "it is gone")
        after = command(first, "status", "--json")

    assert same.returncode == 0, same.stderr
    assert [gate["standing"] for gate in json.loads(same.stdout)["gates"]] == ["alive", "alive"]
    assert differs.returncode == 1
    marks = [gate["differs"] for gate in json.loads(differs.stdout)["gates"]]
    assert marks == [["registry"], ["registry"], []]
    assert "registry" in table.stdout
    assert "3 gates alive" in table.stdout
    assert after.returncode == 0
    assert "runs another registry" in " ".join((first / "serve.log").read_text().split())


def test_status_on_an_ledger_parts(root: Path) -> None:
    before = command(root, "status")
    with serving(root) as gate:
        wait_until(lambda: _status(root)["gates"][0]["address"], "the address")
        (alive,) = _status(root)["gates"]
        os.kill(gate.process.pid, signal.SIGKILL)
        gate.process.wait()
    (gone,) = _status(root)["gates"]
    with serving_again(gate):
        again = [gate["standing"] for gate in _status(root)["gates"]]

    assert "there is no ledger at" in before.stderr
    assert (alive["standing"], gone["standing"]) == ("alive", "gone")
    assert str(gate.process.pid) in alive["name"]
    assert again == ["alive"]


def _status(root: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(command(root, "status", "--json").stdout)
    return told


def _readiness(gate: Served) -> dict[str, Any]:
    told: dict[str, Any] = httpx2.get(gate.url.removesuffix("/mcp") + "/readyz").json()
    return told


def _database(fleet: Fleet) -> str:
    return fleet.url.partition("@")[2].partition("/")[2].partition("?")[0]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://gate:canary@127.0.0.1/ledger", "a password stands in it"),
        ("postgresql://gate:100%zcanary@127.0.0.1/ledger", "it is no address of a PostgreSQL database"),
        ("postgresql://gate@127.0.0.1/ledger?canary=1", "it is no address of a PostgreSQL database"),
    ],
)
@pytest.mark.parametrize("words", [("serve",), ("check",)])
def test_a_gate_refuses_an_address_that_cannot_be_or_shows_a_password(
    sealed: Path, tmp_path: Path, url: str, problem: str, words: tuple[str, ...]
) -> None:
    root = Fleet(sealed, tmp_path, "postgresql:").deploy("gate", production=True)
    file = root / "toolgate.toml"
    file.write_text(file.read_text("utf-8").replace('"postgresql:"', f'"{url}"'), "utf-8")
    refused = command(root, *words)

    assert refused.returncode == 1
    assert problem in " ".join(refused.stderr.split())
    assert "canary" not in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
