"""Versions of the policy: what may be activated, what is recorded of it, and how gates take it up."""

import asyncio
import gc
import importlib
import importlib.metadata
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx2
import pytest

from tests.ledgers import a_story, write
from tests.serving import Served, serving
from tests.shell import document, done, faults, really, run
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.ledger_parts import LedgerParts
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.reading import read_policy
from toolgate.backends.policy_stored import StoredPolicies
from toolgate.backends.policy_versions import Asked, PolicyVersions, Recorded
from toolgate.core.errors import LedgerUnavailable, Misconfigured
from toolgate.main import House, now, open_house, open_ledger
from toolgate.settings import read_settings
from toolgate.verifier import VerifierKey, verify_ledger

T = TypeVar("T")
pytestmark = pytest.mark.anyio

RULES = """\
p, N01, allow, reader, home, notes.*,      read,    -, -, -
p, N02, allow, member, home, notes.add,    write,   -, -, -
p, N03, allow, member, home, notes.remove, destroy, -, -, -
"""
ROLES = "g, member, reader, home\n"
CASES = """\
[people]
mia = {tenant = "home", roles = ["member"]}

[[case]]
name = "a member adds a note"
as = "mia"
tool = "notes.add"
args = {text = "x"}
expect = "allow"

[uncovered]
N01 = "too plain"
N02 = "too plain"
N03 = "too plain"
"""
MORE = "p, X01, deny, nobody, home, notes.add, *, -, -, -\n"
"""Changes the version, and nothing else."""
HIDDEN = "p, X02, deny, *, home, notes.remove, *, -, -, -\n"
"""Takes a tool away from everybody."""
MANIFEST = Path("registry/notes.toml")


PASSPHRASE = "correct horse battery staple"
PRODUCTION = 'mode = "production"\npublic_url = "http://127.0.0.1:8080/mcp"'
ISSUER = """
[[issuers]]
issuer = "https://id.example.com"
tenant = "home"
jwks_uri = "http://127.0.0.1:9/jwks"
"""


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment in production mode, whose keystore opens with a passphrase."""
    folder = tmp_path_factory.mktemp("sealed") / "root"
    really("init", str(folder), TOOLGATE_PASSPHRASE=PASSPHRASE)
    settings = folder / "toolgate.toml"
    text = settings.read_text("utf-8").replace('mode = "dev"', PRODUCTION)
    settings.write_text(text + ISSUER, "utf-8")
    return folder


@pytest.fixture
def here(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in such a deployment, with a policy that passes its cases; nothing is activated."""
    root = Path(shutil.copytree(sealed, tmp_path / "root"))
    monkeypatch.setenv("TOOLGATE_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(root)
    write_policy(RULES)
    return root


def write_policy(rules: str, cases: str = CASES) -> None:
    folder = Path("policies")
    for file in [*folder.glob("*.csv"), *folder.glob("cases/*")]:
        file.unlink()
    (folder / "cases").mkdir(exist_ok=True)
    (folder / "rules.csv").write_text(rules, "utf-8")
    (folder / "roles.csv").write_text(ROLES, "utf-8")
    (folder / "cases" / "all.toml").write_text(excusing(cases, rules), "utf-8")


def excusing(cases: str, rules: str) -> str:
    added = [line.split(",")[1].strip() for line in rules.splitlines() if line.startswith("p, X")]
    return cases + "".join(f'{id_} = "too plain"\n' for id_ in added)


def activated(rules: str, *words: str) -> str:
    """Activate a policy of these rules, and give its digest."""
    write_policy(rules)
    digest: str = aside(lambda: document("policy", "activate", *words))["policy"]
    return digest


def aside(command: Callable[[], T]) -> T:
    """Run a command in a thread, where it may have an event loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(command).result()


def admit_no_removal() -> str:
    """Take a tool out of the registry; gives the manifest as it was."""
    whole = MANIFEST.read_text("utf-8")
    rewrite_manifest(whole.partition("[tools.remove]")[0])
    return whole


def rewrite_manifest(text: str) -> None:
    MANIFEST.write_text(text, "utf-8")


def on_disk() -> str:
    text, _ = read_policy(Path("policies"))
    assert text is not None
    return text.digest


def entries(kind: str = "policy") -> list[dict[str, Any]]:
    with closing(sqlite3.connect("data/toolgate.db")) as ledger:
        asked = "SELECT body FROM ledger_entry WHERE kind = ? ORDER BY idx"
        return [json.loads(body) for (body,) in ledger.execute(asked, (kind,))]


def verified() -> bool:
    key = VerifierKey.parse(Path("keys/ledger.vkey").read_text("utf-8"))
    report = verify_ledger(Path("data/toolgate.db"), keys=[key])
    assert not report.faults, report.faults
    return True


# --- what is activated, and what is recorded of it


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [("serve",), ("serve", "--stdio"), ("call", "notes.search"), ("check",)])
def test_with_no_activated_policy_nothing_runs(words: Sequence[str]) -> None:
    result = run(*words, "--json")

    said = result.stdout + str(result.exception)
    assert result.exit_code == 1
    assert "toolgate policy activate" in said


@pytest.mark.usefixtures("here")
def test_an_activation_is_one_entry_with_version_person_and_cases() -> None:
    assert "is activated (1 of 1 cases passed" in done("policy", "activate")
    first = on_disk()
    second = activated(RULES + MORE)

    one, two = entries()
    assert (one["status"], one["policy"], one["cases"], one["override"]) == ("activated", first, 1, False)
    assert "previous" not in one
    assert (two["policy"], two["previous"], two["by"]) == (second, first, one["by"])
    assert verified()


@pytest.mark.usefixtures("here")
def test_what_is_stored_has_the_digest_of_its_bytes_and_comes_out_as_it_went_in(tmp_path: Path) -> None:
    digest = activated(RULES)
    with closing(sqlite3.connect("data/toolgate.db")) as ledger:
        ((name, files),) = ledger.execute("SELECT digest, files FROM policy_version")
    done("policy", "versions", "--show", digest[:8], "--out", str(tmp_path / "out"))

    assert name == sha256(files).hexdigest() == digest
    for file in ("model.conf", "rules.csv", "roles.csv", "cases/all.toml"):
        assert (tmp_path / "out" / file).read_bytes() == (Path("policies") / file).read_bytes()
    assert run("policy", "versions", "--show", digest[:8], "--out", str(tmp_path / "out")).exit_code == 2


@pytest.mark.usefixtures("here")
def test_activating_what_is_active_writes_nothing() -> None:
    activated(RULES)
    before = len(entries())

    assert "is active already" in done("policy", "activate")
    assert len(entries()) == before


@pytest.mark.usefixtures("here")
def test_a_fault_in_a_file_is_never_activated() -> None:
    write_policy(RULES + "p, X09, alow, *, *, notes.add, *, -, -, -\n")

    assert "alow" in faults("policy", "activate", "--override", "it has to be")
    assert not Path("data/toolgate.db").exists()


@pytest.mark.usefixtures("here")
def test_a_tool_that_is_not_admitted_is_never_activated() -> None:
    write_policy(RULES + "p, X09, deny, *, *, nots.add, *, -, -, -\n")

    assert "nots.add" in faults("policy", "activate", "--override", "it has to be")


@pytest.mark.usefixtures("here")
def test_a_failing_case_is_activated_only_with_a_reason_which_is_kept() -> None:
    write_policy(RULES, CASES.replace('expect = "allow"', 'expect = "deny"'))
    refused = run("policy", "activate")
    assert refused.exit_code == 1
    assert "expected" in refused.stderr
    assert not Path("data/toolgate.db").exists()
    assert run("policy", "activate", "--override", " ").exit_code == 2

    overridden = run("policy", "activate", "--override", "the cases are of last year")

    assert overridden.exit_code == 0
    assert "OVERRIDE" in overridden.stderr
    (entry,) = entries()
    assert entry["override"] is True
    assert "last year" not in json.dumps(entry), "the reason is beside the tree, where it can be erased"
    (change,) = document("ledger", "query", "changes")
    assert (change["changed"], change["because"]) == (
        "policy activated, override",
        "the cases are of last year",
    )
    assert verified()


@pytest.mark.usefixtures("here")
def test_an_override_that_was_not_needed_is_none() -> None:
    activated(RULES, "--override", "just in case")

    assert entries()[0]["override"] is False


@pytest.mark.usefixtures("here")
def test_changes_and_versions_tell_who_activated_what() -> None:
    activated(RULES)
    second = activated(RULES + MORE)

    told = document("ledger", "query", "changes")
    assert [row["changed"] for row in told] == ["policy activated", "policy activated"]
    assert told[0]["policy"] == second
    assert told[0]["by_whom"]
    listed = document("policy", "versions")
    assert next((one["policy"], one["active"]) for one in listed) == (second, True)
    assert listed[0]["changes"][0]["by_whom"] == told[0]["by_whom"]
    assert entries("audit_read")[-1]["query"] == "policy-versions"
    assert "ACTIVE" in done("policy", "versions")


@pytest.mark.usefixtures("here")
def test_a_rollback_puts_the_version_before_in_force_and_leaves_the_disk_alone() -> None:
    first = activated(RULES)
    second = activated(RULES + MORE)

    assert "is in force again" in done("policy", "rollback")
    assert StoredPolicies(SqliteFile(Path("data/toolgate.db"))).standing().enforced.digest == first  # type: ignore[union-attr]
    assert on_disk() == second
    assert document("policy", "rollback", second[:10])["policy"] == second
    assert [entry["status"] for entry in entries()] == [
        "activated",
        "activated",
        "rolled_back",
        "rolled_back",
    ]
    assert verified()


@pytest.mark.usefixtures("here")
def test_a_rollback_has_to_fit_todays_registry() -> None:
    activated(RULES)
    activated(RULES.replace("notes.remove", "notes.*"))
    admit_no_removal()

    assert "notes.remove" in faults("policy", "rollback")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [(), ("ffff0000",), ("f",), ("%%%%%%",)])
def test_there_must_be_something_to_roll_back_to(words: Sequence[str]) -> None:
    activated(RULES)

    assert faults("policy", "rollback", *words)


@pytest.mark.usefixtures("here")
def test_a_shadow_stands_beside_the_policy_in_force_until_it_ends_or_is_activated() -> None:
    first = activated(RULES)
    second = activated(RULES + MORE, "--shadow")
    standing = StoredPolicies(SqliteFile(Path("data/toolgate.db"))).standing()
    assert standing.enforced is not None
    assert standing.shadow is not None
    assert (standing.enforced.digest, standing.shadow.digest) == (first, second)

    done("policy", "activate", "--end-shadow")
    assert "no policy is in shadow" in done("policy", "activate", "--end-shadow")
    activated(RULES + MORE, "--shadow")
    activated(RULES + MORE)

    assert StoredPolicies(SqliteFile(Path("data/toolgate.db"))).standing().shadow is None
    statuses = ["activated", "shadowed", "shadow_ended", "shadowed", "shadow_ended", "activated"]
    assert [entry["status"] for entry in entries()] == statuses
    assert verified()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("policy_version", "UPDATE policy_version SET files = x'7b7d'"),
        ("policy_version", "DELETE FROM policy_version"),
        (
            "policy_activation",
            "UPDATE policy_activation SET digest = (SELECT min(digest) FROM policy_version)",
        ),
        (
            "policy_activation",
            "DELETE FROM policy_activation WHERE entry = (SELECT max(entry) FROM policy_activation)",
        ),
    ],
)
def test_what_was_changed_in_the_database_is_in_force_nowhere(table: str, change: str) -> None:
    activated(RULES)
    activated(RULES + HIDDEN)
    with closing(sqlite3.connect("data/toolgate.db")) as ledger, ledger:
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            ledger.execute(change)
        for (trigger,) in ledger.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
        ).fetchall():
            ledger.execute(f"DROP TRIGGER {trigger}")
        ledger.execute(change)

    assert "policy versions" in faults("call", "notes.search")


OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64
FIRST: tuple[str, dict[str, Any]] = ("activated", {"policy": OLD})


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        (("activated", {"policy": NEW, "previous": OLD}), None),
        (("shadowed", {"policy": NEW}), None),
        (("activated", {"policy": NEW}), "previous"),
        (("activated", {"policy": NEW, "previous": OTHER}), "previous"),
        (("shadowed", {"policy": NEW, "previous": OLD}), "previous"),
        (("rolled_back", {"policy": NEW, "previous": OLD}), "never activated"),
        (("shadow_ended", {"policy": NEW}), "was none"),
        (("wished_for", {"policy": NEW, "previous": OLD}), "status"),
        (("activated", {"policy": "B" * 64, "previous": OLD}), "policy"),
        (("activated", {"policy": NEW, "previous": OLD, "override": 1}), "override"),
        (("activated", {"policy": NEW, "previous": OLD, "cases": True}), "cases"),
    ],
)
def test_a_verifier_follows_which_version_took_the_place_of_which(
    tmp_path: Path, second: tuple[str, dict[str, Any]], wrong: str | None
) -> None:
    story = a_story(0)
    for status, fields in (FIRST, second):
        rest: dict[str, Any] = {} if status == "shadow_ended" else {"override": False, "cases": 3}
        story.add("policy", status, **(rest | fields))
    write(story, tmp_path / "ledger.db", [])

    found = verify_ledger(tmp_path / "ledger.db").faults

    if wrong is None:
        assert found == []
    else:
        assert [fault.index for fault in found] == [len(story.bodies) - 1]
        assert wrong in found[0].what


# --- nothing half


def asked_for(number: int) -> Asked:
    files = {"rules.csv": f"# {number}\n"}
    spelled = json.dumps(files, sort_keys=True, separators=(",", ":")).encode()
    return Asked(digest=sha256(spelled).hexdigest(), files=files, by="p" + "0" * 20, cases=0)


def versions_in(ledger: LedgerParts) -> PolicyVersions:
    return PolicyVersions(ledger.writer, ledger.entries, now=now)


async def test_activations_at_once_come_one_after_the_other(here: Path) -> None:
    settings = read_settings(here)
    async with open_ledger(here, settings) as one, open_ledger(here, settings) as other:
        both = (versions_in(one), versions_in(other))
        work = [both[number % 2].activate(asked_for(number), "activated") for number in range(20)]
        recorded: list[Recorded | None] = await asyncio.gather(*work)

    told = entries()
    assert [entry.get("previous") for entry in told] == [None, *(entry["policy"] for entry in told[:-1])]
    assert len({one.entry for one in recorded if one}) == 20
    assert verified()


async def test_a_rollback_that_another_activation_overtook_does_nothing(here: Path) -> None:
    async with open_ledger(here, read_settings(here)) as ledger:
        versions = versions_in(ledger)
        first, second = asked_for(1), asked_for(2)
        await versions.activate(first, "activated")
        await versions.activate(second, "activated")

        assert await versions.activate(first, "rolled_back", instead_of=first.digest) is None
    assert len(entries()) == 2


async def test_an_activation_that_fails_leaves_neither_version_nor_entry(here: Path) -> None:
    async with open_ledger(here, read_settings(here)) as ledger:
        await versions_in(ledger).activate(asked_for(1), "activated")
        with closing(sqlite3.connect("data/toolgate.db")) as hand, hand:
            stop = "BEGIN SELECT RAISE(ABORT, 'no'); END"
            hand.execute(f"CREATE TRIGGER stop BEFORE INSERT ON policy_activation {stop}")
        with pytest.raises(LedgerUnavailable):
            await versions_in(ledger).activate(asked_for(2), "activated")

    with closing(sqlite3.connect("data/toolgate.db")) as hand:
        stored = hand.execute("SELECT digest FROM policy_version").fetchall()
    assert stored == [(asked_for(1).digest,)]
    assert len(entries()) == 1


async def test_on_a_full_disk_nothing_is_activated(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLGATE_DISK_FLOOR_MB", str(2**20))
    async with open_ledger(here, read_settings(here)) as ledger:
        with pytest.raises(LedgerUnavailable, match="nearly full"):
            await versions_in(ledger).activate(asked_for(1), "activated")
    assert entries() == []


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.test_policy_versions import asked_for, versions_in
from toolgate.main import open_ledger
from toolgate.settings import read_settings

async def go():
    root = Path()
    async with open_ledger(root, read_settings(root)) as ledger:
        for number in range(100_000):
            await versions_in(ledger).activate(asked_for(number), "activated")
            print(number, flush=True)

asyncio.run(go())
"""


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("after", [1, 2, 5])
def test_an_activation_that_is_killed_leaves_the_old_version_or_the_new_one(after: int) -> None:
    tree = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(after)]
        process.kill()
        process.wait(timeout=30)

    done("policy", "versions")  # opens the ledger again
    enforced = StoredPolicies(SqliteFile(Path("data/toolgate.db"))).standing().enforced
    known = {asked_for(number).digest: number for number in range(1000)}
    assert enforced is not None
    assert known[enforced.digest] >= int(said[-1]), "what was answered has not been lost"
    assert StoredPolicies(SqliteFile(Path("data/toolgate.db"))).files(enforced.digest)
    assert verified()


# --- how a gate takes it up


def readyz(gate: Served) -> dict[str, Any]:
    said: dict[str, Any] = httpx2.get(f"{gate.url.removesuffix('/mcp')}/readyz").json()
    return said


async def until(gate: Served, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    with anyio.fail_after(20):
        while not what(said := readyz(gate)):
            await anyio.sleep(0.02)
    return said


async def test_a_gate_that_runs_takes_an_activation_up_by_itself_and_a_rollback_too(here: Path) -> None:
    first = activated(RULES)
    with serving(here) as gate:
        before = readyz(gate)
        second = activated(RULES + HIDDEN)
        after = await until(gate, lambda said: said["policy"] == second)
        aside(lambda: done("policy", "rollback"))
        await until(gate, lambda said: said["policy"] == first)

    assert before["policy"] == first
    assert "activated" not in after
    assert after["since"] > before["since"]
    assert {digests["policy"] for digests in _digests()} == {first, second}


def _digests() -> list[dict[str, str]]:
    return [entry["digests"] for entry in entries("config")]


async def test_what_lies_on_the_disk_is_in_force_in_no_gate(here: Path) -> None:
    first, manifest = activated(RULES), (here / MANIFEST).read_text("utf-8")
    with serving(here) as gate:
        write_policy("this is no policy")
        os.kill(gate.process.pid, signal.SIGHUP)
        before = readyz(gate)["version"]
        rewrite_manifest(f"{manifest}# changed\n")
        os.kill(gate.process.pid, signal.SIGHUP)
        said = await until(gate, lambda said: said["version"] != before)

    assert said["policy"] == first


async def test_a_gate_shows_the_policy_in_shadow(here: Path) -> None:
    first = activated(RULES)
    with serving(here) as gate:
        second = activated(RULES + HIDDEN, "--shadow")
        said = await until(gate, lambda said: "shadow" in said)
        aside(lambda: done("policy", "activate", "--end-shadow"))
        await until(gate, lambda said: "shadow" not in said)

    assert (said["policy"], said["shadow"]) == (first, second)


async def test_a_version_that_does_not_fit_the_gates_registry_stays_out_of_force_and_that_is_said(
    here: Path,
) -> None:
    first = activated(RULES.replace("notes.remove", "notes.*"))
    whole = admit_no_removal()
    with serving(here) as gate:
        rewrite_manifest(whole)
        second = activated(RULES)
        out = await until(gate, lambda said: "activated" in said)
        os.kill(gate.process.pid, signal.SIGHUP)
        after = await until(gate, lambda said: said["policy"] == second)
        log = (here / "serve.log").read_text("utf-8")

    assert (out["policy"], out["activated"], out["faults"], out["ready"]) == (first, second, 1, True)
    assert "not taken up" in log
    assert "notes.remove" in log
    assert "faults" not in after


async def test_a_registry_that_does_not_fit_the_active_policy_is_not_taken_up(here: Path) -> None:
    activated(RULES)
    async with open_house(here) as house:
        before = house.in_force.rulebook
        admit_no_removal()
        found = await house.reload()

        assert ["notes.remove" in fault.problem for fault in found] == [True]
        assert house.in_force.rulebook is before
    with pytest.raises(Misconfigured, match=r"notes\.remove"):
        async with open_house(here):
            pass


async def test_a_shadow_that_does_not_fit_keeps_no_other_version_from_being_in_force(here: Path) -> None:
    first = activated(RULES.replace("notes.remove", "notes.*"))
    activated(RULES, "--shadow")
    admit_no_removal()

    async with open_house(here) as house:
        said = house.readiness()

    assert said["policy"] == first
    assert "shadow" not in said
    assert said["shadow_activated"] == on_disk()
    assert said["faults"] == 1


async def test_an_override_is_told_to_the_log_of_whoever_takes_it_up(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    activated(RULES)
    async with open_house(here) as house:
        write_policy(RULES + MORE, CASES.replace('expect = "allow"', 'expect = "deny"'))
        aside(lambda: done("policy", "activate", "--override", "at night"))
        assert await house.follow() == []
        assert await house.follow() == [], "it is taken up once"

    assert ["although its cases fail" in record.message for record in caplog.records] == [True]


async def test_an_activation_that_cannot_be_recorded_is_not_in_force(here: Path) -> None:
    first = activated(RULES)
    async with open_house(here) as house:
        second = activated(RULES + MORE)
        with closing(sqlite3.connect("data/toolgate.db")) as hand, hand:
            stop = "BEGIN SELECT RAISE(ABORT, 'no'); END"
            hand.execute(f"CREATE TRIGGER stop BEFORE INSERT ON ledger_entry {stop}")
        with pytest.raises(LedgerUnavailable):
            await house.follow()
        assert house.readiness()["policy"] == first
        with closing(sqlite3.connect("data/toolgate.db")) as hand, hand:
            hand.execute("DROP TRIGGER stop")
        assert await house.follow() == []
        assert house.readiness()["policy"] == second


@contextmanager
def unreadable(table: str) -> Generator[None]:
    """Spell the newest digest of a table so for a while that nobody takes it for what it was."""
    guards = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
    lie, truth = LIES[table]
    with closing(sqlite3.connect("data/toolgate.db")) as hand:
        triggers = hand.execute(guards, (table,)).fetchall()
        for name, _ in triggers:
            hand.execute(f"DROP TRIGGER {name}")
        hand.execute(lie)
        hand.commit()
        yield
        hand.execute(truth)
        for _, guard in triggers:
            hand.execute(guard)
        hand.commit()


LIES = {
    "policy_version": (
        "UPDATE policy_version SET digest = upper(digest) WHERE at = (SELECT max(at) FROM policy_version)",
        "UPDATE policy_version SET digest = lower(digest)",
    ),
    "policy_activation": (
        "UPDATE policy_activation SET digest = upper(digest)",
        "UPDATE policy_activation SET digest = lower(digest)",
    ),
}


@pytest.mark.parametrize(("table", "known"), [("policy_version", True), ("policy_activation", False)])
async def test_an_activation_that_could_not_be_read_once_is_taken_up_at_the_next_look(
    here: Path, table: str, known: bool
) -> None:
    first = activated(RULES)
    async with open_house(here) as house:
        second = activated(RULES + HIDDEN)
        with unreadable(table):
            for _ in range(2):
                with pytest.raises(LedgerUnavailable):
                    await house.follow()
            meanwhile = house.readiness()
        assert await house.follow() == []
        after = house.readiness()

    assert (meanwhile["policy"], meanwhile["faults"]) == (first, 1)
    assert meanwhile.get("activated") == (second if known else None)
    assert after["policy"] == second
    assert "activated" not in after
    assert "faults" not in after


async def test_a_shadow_that_could_not_be_read_at_the_start_watches_from_the_next_look_on(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = activated(RULES)
    second = activated(RULES + MORE, "--shadow")
    with ExitStack() as hiding:
        hiding.enter_context(unreadable("policy_version"))
        async with open_house(here) as house:
            for _ in range(2):
                with pytest.raises(LedgerUnavailable):
                    await house.follow()
            meanwhile = house.readiness()
            hiding.close()
            assert await house.follow() == []
            after = house.readiness()

    assert (meanwhile["policy"], meanwhile["shadow_activated"], meanwhile["faults"]) == (first, second, 1)
    assert (after["policy"], after["shadow"]) == (first, second)
    assert ["does not watch" in record.message for record in caplog.records] == [True]


async def test_a_registry_with_a_fault_keeps_no_activation_from_being_in_force(here: Path) -> None:
    activated(RULES)
    async with open_house(here) as house:
        second = activated(RULES + HIDDEN)
        rewrite_manifest("this is no manifest")
        assert await house.reload() != []
        assert house.readiness()["activated"] == second
        assert await house.follow() == []

        assert house.readiness()["policy"] == second


async def test_a_registry_that_cannot_be_looked_at_keeps_no_activation_from_being_in_force(
    here: Path,
) -> None:
    manifest = here / "registry" / "notes.toml"
    signed_in = manifest.read_text("utf-8").replace('credential = "none"', 'credential = "agent"', 1)
    manifest.write_text(f'{signed_in}\n[credentials.agent]\nsecret = "notes"\nsign_in = "basic"\n', "utf-8")
    done("secrets", "set", "notes", given="agent:s3cret")
    activated(RULES)
    with serving(here) as gate:
        keystore = here / read_settings(here).keystore
        keystore.write_text("this is no keystore", "utf-8")
        os.kill(gate.process.pid, signal.SIGHUP)
        with anyio.fail_after(20):
            while "not taken up" not in " ".join((here / "serve.log").read_text("utf-8").split()):
                await anyio.sleep(0.02)
        second = activated(RULES + HIDDEN)
        await until(gate, lambda said: said["policy"] == second)


async def test_a_misfit_is_told_once_and_not_looked_at_again(here: Path) -> None:
    activated(RULES.replace("notes.remove", "notes.*"))
    whole = admit_no_removal()
    async with open_house(here) as house:
        rewrite_manifest(whole)
        activated(RULES)

        assert len(await house.follow()) == 1
        assert await house.follow() == []


async def test_the_collector_works_again_after_a_policy_was_taken_up(here: Path) -> None:
    activated(RULES)
    async with open_house(here) as house:
        activated(RULES + MORE)
        await house.follow()

        assert gc.isenabled()


async def test_a_policy_that_is_no_longer_in_force_leaves_the_memory_without_the_collector(
    here: Path,
) -> None:
    activated(RULES)
    async with open_house(here) as house:
        gone = weakref.ref(house.in_force.rulebook.policy)
        activated(RULES + MORE)
        gc.disable()
        try:
            await house.follow()
            assert gone() is None
        finally:
            gc.enable()


async def test_in_dev_mode_the_disk_is_in_force_whatever_is_activated(root: Path, house: House) -> None:
    rules = root / "policies" / "rules.csv"
    before = house.readiness()["policy"]
    rules.write_text(rules.read_text("utf-8") + MORE, "utf-8")

    assert await house.reload() == []
    assert house.readiness()["policy"] != before


@pytest.mark.usefixtures("here")
def test_with_casbin_and_pycasbin_both_installed_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    activated(RULES)
    stranger = tmp_path / "site" / "casbin-1.36.3.dist-info"
    stranger.mkdir(parents=True)
    (stranger / "METADATA").write_text("Metadata-Version: 2.1\nName: casbin\nVersion: 1.36.3\n", "utf-8")
    monkeypatch.setattr(sys, "path", [str(stranger.parent), *sys.path])
    importlib.invalidate_caches()
    assert importlib.metadata.version("casbin") == "1.36.3"

    assert "pip uninstall" in faults("call", "notes.search")
    assert "pip uninstall" in faults("policy", "activate")


def test_a_policy_is_freed_when_nobody_holds_it() -> None:
    text, _ = read_policy(Path(__file__).parents[1] / "policies")
    assert text is not None
    policy = CasbinPolicy(text)
    gone = weakref.ref(policy)
    gc.disable()
    try:
        del policy
        assert gone() is None
    finally:
        gc.enable()
