"""A person is erased: nothing of them is left in the files, and every proof made before still verifies."""

import asyncio
import base64
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore.errors import VerificationError
from sigstore.models import TransparencyLogEntry
from sigstore_models.rekor.v1 import TransparencyLogEntry as Logged

from bench.ledger_built import build
from tests.gate_on_scripted_system import ANN, ledger_in, rig
from tests.ledgers import a_story, write
from tests.running_gate import PATIENCE, result_of, running, say, wait_until, with_slow_desk
from tests.shell import document, done, faults, really, run
from toolgate.backends.sqlite_files import read_only
from toolgate.core.outcome import Refused
from toolgate.main import open_ledger
from toolgate.settings import read_settings
from toolgate.verifier import Note, verify_ledger

VERIFIER: Final = Path(__file__).parent.parent / "tools" / "verify.py"
BASIS: Final = "GDPR Art. 17, request 4711"
KEY: Final = "erased-example-0001"


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a deployment's folder, after calls of two people."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TOOLGATE_CALLERS__OTHER__SUBJECT", "noa")
    monkeypatch.setenv("TOOLGATE_CALLERS__OTHER__TENANT", "home")
    monkeypatch.setenv("TOOLGATE_CALLERS__OTHER__ROLES", '["member"]')
    monkeypatch.setenv("TOOLGATE_CALLERS__OTHER__SCOPES", '["notes:read", "notes:write"]')
    _note("a note of mine", KEY)
    _note("somebody else's", "erased-example-0002", "other")
    run("call", "notes.remove", "--args", '{"id": 424242}')
    done("ledger", "query", "calls", "--subject", "mia")
    return root


def _note(text: str, key: str, who: str = "member") -> None:
    done("call", "notes.add", "--args", json.dumps({"text": text}), "--key", key, "--as", who)


def erase(*words: str) -> Any:  # noqa: ANN401 - any JSON
    return document("ledger", "erase", *words, "--basis", BASIS, "--yes")


def test_nothing_of_the_person_is_left_in_the_files(here: Path) -> None:
    database = here / "data" / "toolgate.db"
    salts = _salts_of(database, "mia")
    before = _bytes_under(here / "data", "toolgate.db*")
    assert len(salts) == 4  # two of an intent, one of its result, one of a question about them
    assert all(kept in before for kept in (*salts, b"a note of mine", b"mia"))

    erased = erase("mia")

    left = _bytes_under(here / "data", "toolgate.db*")
    for kept in (*salts, b"a note of mine", b"mia"):
        assert kept not in left, kept
    assert b"somebody else's" in left
    assert b"noa" in left
    assert (erased["wal_emptied"], erased["rewritten"]) == (True, True)
    assert erased["erased"][0]["waiting"] == 0
    assert erased["erased"][0]["answers"] == 1


def test_every_proof_made_before_still_verifies(here: Path, tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    entries = [row["entry"] for row in document("ledger", "query", "calls", "--subject", "mia")]
    for entry in entries:
        done("ledger", "prove", str(entry), "--out", str(kept / f"{entry}.proof"))
    for file in ("keys/ledger.vkey", "data/checkpoint"):
        (kept / Path(file).name).write_bytes((here / file).read_bytes())

    erase("mia")

    outside = ("--key", str(kept / "ledger.vkey"))
    whole = _verifier("ledger", "data/toolgate.db", *outside, "--checkpoint", str(kept / "checkpoint"))
    assert whole.returncode == 0, whole.stdout
    assert "5 of 12 commitments, whose salts are gone" in whole.stdout
    assert len(entries) == 2
    for entry in entries:
        proof = kept / f"{entry}.proof"
        assert _verifier("proof", str(proof), *outside).returncode == 0
        assert _accepted_by_sigstore(proof.read_text())
        assert not _accepted_by_sigstore(proof.read_text().replace("extra ", "extra e30K"))


def test_the_entries_stay_and_say_why_the_rest_is_gone(here: Path) -> None:
    before = _bodies(here)
    entry = document("ledger", "query", "calls", "--subject", "mia")[-1]["entry"]
    call = document("ledger", "show", str(entry))["body"]["call_id"]

    erased = erase("mia")["erased"][0]

    assert dict(before.items() & _bodies(here).items()) == before
    shown = document("ledger", "show", str(entry))
    assert {(one["entry"], one["why"]) for one in shown["gone"]} == {(erased["begun"], BASIS)}
    assert [value["opens"] for value in shown["committed"]] == [None, None]
    assert f"erased on {shown['gone'][0]['at'][:10]} (entry {erased['begun']}: {BASIS})" in done(
        "ledger", "show", str(entry)
    )
    story = document("calls", "show", call)
    assert [one["why"] for one in story[0]["gone"]] == [BASIS] * 4
    assert "captured" not in story[0]
    (told,) = document("ledger", "query", "erasures")
    assert (told["basis"], told["stands"], told["removed_values"]) == (BASIS, "done", erased["values"])
    assert (told["subjects"], told["waiting"], told["done_entry"]) == (1, 0, erased["done"])


def test_no_entry_says_who_was_erased(here: Path) -> None:
    pseudonym = _pseudonym(here, "mia")
    first = max(_bodies(here))

    erase("mia")

    added = b"".join(body for index, body in _bodies(here).items() if index > first)
    assert b'"kind":"erase"' in added
    assert pseudonym.encode() not in added
    assert b"mia" not in added


def test_a_used_key_is_refused_and_its_refusal_does_not_tell_whose_it_was(here: Path) -> None:
    pseudonym = _pseudonym(here, "mia")
    of_theirs = {row["call_id"] for row in document("ledger", "query", "calls", "--subject", "mia")}
    erase("mia")

    again = run("call", "notes.add", "--args", '{"text": "a note of mine"}', "--key", KEY)

    assert "idempotency_key_expired" in again.stderr
    assert _pseudonym(here, "mia") != pseudonym
    newer = document("ledger", "query", "calls", "--subject", "mia")
    assert [row["status"] for row in newer] == ["idempotency_key_expired"]
    assert not of_theirs & {row["call_id"] for row in newer}
    entries = [json.loads(body) for body in _bodies(here).values()]
    linked = {entry.get("answered_with") for entry in entries if entry["kind"] == "repeat"}
    assert not linked


# --- whom


def test_a_name_that_nobody_has_is_told(here: Path) -> None:
    assert "nobody of that name is known" in faults("ledger", "erase", "eve", "--basis", BASIS, "--yes")
    assert document("ledger", "query", "erasures") == []
    assert here


def test_of_several_of_one_name_it_asks_which(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLGATE_CALLERS__OTHER__SUBJECT", "mia")
    monkeypatch.setenv("TOOLGATE_CALLERS__OTHER__TENANT", "work")
    run("call", "notes.remove", "--args", '{"id": 7}', "--as", "other")

    told = faults("ledger", "erase", "mia", "--basis", BASIS, "--yes")
    assert "there are 2 of that name" in told
    assert "--tenant home --issuer urn:toolgate:local; --tenant work" in told
    erase("mia", "--tenant", "work")

    assert {row["tenant"] for row in document("ledger", "query", "calls", "--subject", "mia")} == {"home"}
    assert here


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("mia", "--yes"), "say why"),
        (("mia", "--basis", " ", "--yes"), "say why"),
        (("mia", "--basis", "Mia asked for it", "--yes"), "it names who is erased"),
        (("mia", "--basis", BASIS), "nobody can be asked here"),
        (("--basis", BASIS), "say whom to erase"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], told: str) -> None:
    result = run("ledger", "erase", *words)

    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


@pytest.mark.usefixtures("here")
def test_a_dry_run_counts_and_removes_nothing() -> None:
    counted = document("ledger", "erase", "mia", "--dry-run")["found"]

    assert (counted["entries"], counted["values"], counted["answers"]) == (3, 3, 1)
    assert document("ledger", "query", "erasures") == []
    assert erase("mia")["erased"][0]["values"] == 4, "and the question that named them"


def test_what_is_held_is_not_erased(here: Path) -> None:
    file = here / "toolgate.toml"
    file.write_text(file.read_text() + '\n[[retention]]\ntenant = "home"\nsubject = "mia"\nhold = true\n')

    assert "it holds what is kept of this person" in faults(
        "ledger", "erase", "mia", "--basis", BASIS, "--yes"
    )
    assert document("ledger", "query", "calls", "--subject", "mia")


# --- calls that run meanwhile


def test_a_running_gate_gives_who_was_erased_a_new_pseudonym(root: Path, tmp_path: Path) -> None:
    plugins = with_slow_desk(root, tmp_path / "plugins")
    port = say(root, "")
    with running(root, port, plugins=plugins) as gate:
        gate.call("notes_add", text="before")
        first = _pseudonym(root, "mia")
        with closing(gate.connect()) as connection:
            gate.ask(connection, "desk_work", name="half-done")
            wait_until((root / "half-done.begun").exists, "a call is in the middle")

            erased = really(
                "ledger", "erase", "mia", "--basis", BASIS, "--yes", "--root", str(root), "--json"
            )
            assert erased.returncode == 0, erased.stderr
            gate.call("notes_add", text="after")
            (root / "half-done.may-end").touch()
            assert result_of(connection.getresponse())["structuredContent"] == {"name": "half-done"}

    bodies = [json.loads(body) for body in _bodies(root).values()]
    done_ = next(body for body in bodies if body["kind"] == "erase" and body["status"] == "done")
    after = [body for body in bodies[bodies.index(done_) :] if body.get("tool") == "notes.add"]
    second = _pseudonym(root, "mia")
    assert json.loads(erased.stdout)["erased"][0]["waiting"] == 1
    assert {body["who"] for body in after} == {second} != {first}
    half = next(body for body in bodies if body["kind"] == "outcome" and body["tool"] == "desk.work")
    assert half["who"] == first, "the call that had begun ends under its own name"
    left = _bytes_under(root / "data", "toolgate.db*")
    assert b"half-done" not in left
    assert b"after" in left
    of_old = {body["call_id"] for body in bodies if body.get("who") == first}
    assert not of_old & {body["call_id"] for body in bodies if body.get("who") == second}
    assert verify_ledger(root / "data" / "toolgate.db").faults == []


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["a read", "a write under a key", "a refusal"])
async def test_a_gate_that_has_heard_of_nothing_sees_it_in_the_transaction(tmp_path: Path, what: str) -> None:
    tool = "desk.nothing" if what == "a refusal" else "desk.read" if what == "a read" else "desk.write"
    async with rig(tmp_path) as gate:
        await gate.call(tool, 1, key=KEY)
        elsewhere = ledger_in(tmp_path)
        (person,) = await elsewhere.erasing.people(ANN.subject, tenant=None, issuer=None)
        await elsewhere.erasing.begin(await elsewhere.erasing.survey(person), by="p0", basis=BASIS)
        await elsewhere.aclose()

        await gate.call(tool, 2, key=f"{KEY}-another")

        (again,) = await gate.parts.erasing.people(ANN.subject, tenant=None, issuer=None)
        (told,) = [body for body in _said(gate.database) if body.get("who") == again.name][:1]
        assert again.name != person.name
        assert told["tool"] in {tool, ""}


@pytest.mark.anyio
async def test_a_call_in_doubt_keeps_what_it_asked_until_it_is_settled(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour = "unknown"
        unknown = await gate.call("desk.write", 77, key=KEY)
        (person,) = await gate.parts.erasing.people(ANN.subject, tenant=None, issuer=None)
        seen = await gate.parts.erasing.survey(person)
        await gate.parts.erasing.begin(seen, by=person.name, basis=BASIS)
        (erased,) = await gate.parts.erasing.go_on()
        kept = _claim(gate.database, unknown.call_id)
        repeated = await gate.call("desk.write", 77, key=KEY)
        await gate.parts.doubts.resolve(unknown.call_id, None, by=person.name, because="I looked")
        settled = _claim(gate.database, unknown.call_id)

    assert erased.waiting == 1
    assert (kept["state"], json.loads(kept["request"])["arguments"]) == ("unknown", {"amount": 77})
    assert isinstance(repeated.outcome, Refused)
    assert repeated.call_id != unknown.call_id
    assert gate.desk.effects == 1
    assert (settled["state"], settled["request"], settled["outcome"]) == ("expired", None, None)
    assert settled["key"] == kept["key"], "so that it is never run a second time"
    assert verify_ledger(gate.database).faults == []


@pytest.mark.anyio
async def test_who_only_resolved_a_call_takes_nothing_of_it_along(tmp_path: Path) -> None:
    bob = ANN.model_copy(update={"subject": "bob"})
    async with rig(tmp_path, duplicates="query") as gate:
        await gate.call("desk.write", 1, key=f"{KEY}-bob", caller=bob)
        gate.desk.behaviour = "unknown"
        unknown = await gate.call("desk.write", 77, key=KEY)
        (person,) = await gate.parts.erasing.people("bob", tenant=None, issuer=None)
        await gate.parts.doubts.resolve(unknown.call_id, None, by=person.name, because="I looked")
        before = _claim(gate.database, unknown.call_id)
        await gate.parts.erasing.begin(await gate.parts.erasing.survey(person), by="p", basis=BASIS)
        await gate.parts.erasing.go_on()
        after = _claim(gate.database, unknown.call_id)

    assert before == after


@pytest.mark.anyio
async def test_who_acted_in_a_call_in_doubt_takes_it_along_once_it_is_settled(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour = "unknown"
        acted = ANN.model_copy(update={"act": ("robot",)})
        unknown = await gate.call("desk.write", 77, key=KEY, caller=acted)
        (person,) = await gate.parts.erasing.people("robot", tenant=None, issuer=None)
        await gate.parts.erasing.begin(await gate.parts.erasing.survey(person), by="p", basis=BASIS)
        (erased,) = await gate.parts.erasing.go_on()
        await gate.parts.doubts.resolve(unknown.call_id, None, by="p", because="I looked")
        settled = _claim(gate.database, unknown.call_id)

    assert erased.waiting == 1
    assert (settled["state"], settled["request"], settled["outcome"]) == ("expired", None, None)


@pytest.mark.anyio
async def test_an_identical_call_without_a_key_is_still_taken_for_a_repetition(tmp_path: Path) -> None:
    async with rig(tmp_path, without_key="guard") as gate:
        first = await gate.call()
        (person,) = await gate.parts.erasing.people(ANN.subject, tenant=None, issuer=None)
        await gate.parts.erasing.begin(await gate.parts.erasing.survey(person), by="p", basis=BASIS)
        await gate.parts.erasing.go_on()
        again = await gate.call()

    assert isinstance(again.outcome, Refused)
    assert again.outcome.code == "duplicate_suspected"
    assert first.call_id not in repr(again)
    assert gate.desk.effects == 1


# --- interrupted


@pytest.mark.parametrize("killed_at", ["begun", "removing", "done"])
def test_killed_in_the_middle_it_goes_on_from_there(starter: Path, tmp_path: Path, killed_at: str) -> None:
    root = with_many_calls(starter, tmp_path)
    database = root / "data" / "toolgate.db"
    person = "person000@example.com"
    command = [sys.executable, "-m", "toolgate", "ledger", "erase", person, "--basis", BASIS, "--yes"]
    moments: dict[str, Callable[[sqlite3.Row], bool]] = {
        "begun": lambda _row: True,
        "removing": lambda row: row["values_removed"] > 0,
        "done": lambda row: row["done"] is not None,
    }
    with subprocess.Popen([*command, "--root", str(root)], stdout=subprocess.DEVNULL) as erasing:
        wait_until(lambda: _stands(database, moments[killed_at]), killed_at)
        erasing.send_signal(signal.SIGKILL)
        erasing.wait(timeout=PATIENCE)

    again = really("ledger", "erase", "--root", str(root), "--json")

    assert again.returncode == 0, again.stderr
    with closing(read_only(database)) as connection:
        (erasure,) = connection.execute("SELECT * FROM erasure").fetchall()
        left = connection.execute(
            "SELECT count(*) FROM payload WHERE idx IN (SELECT e.idx FROM ledger_entry e JOIN erased_name n "
            "ON n.name = e.who)"
        ).fetchone()[0]
        claims = connection.execute(
            "SELECT count(*) FROM claim c JOIN ledger_entry e ON e.idx = c.intent JOIN erased_name n "
            "ON n.name = e.who WHERE c.fingerprint <> zeroblob(32) AND c.state <> 'unknown'"
        ).fetchone()[0]
        doubts = connection.execute(
            "SELECT count(*) FROM claim WHERE CAST(request AS TEXT) LIKE ?", (f"%{person}%",)
        ).fetchone()[0]
    assert (left, claims) == (0, 0)
    assert erasure["done"] is not None
    assert erasure["waiting"] == doubts
    assert _bytes_under(root / "data", "toolgate.db*").count(person.encode()) == doubts
    body = json.loads(_bodies(root)[erasure["done"]])
    assert body["removed"]["values"] == erasure["values_removed"] > 0
    assert verify_ledger(database).faults == []


def test_what_was_left_unfinished_is_finished_by_a_gate(root: Path) -> None:
    port = say(root, "")
    done("call", "notes.add", "--args", '{"text": "left behind"}', "--root", str(root))
    begun = asyncio.run(_only_begun(root, "mia"))
    database = root / "data" / "toolgate.db"
    assert b"left behind" in _bytes_under(root / "data", "toolgate.db*")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE erasure SET worked_at = 0")  # a minute is long for a test

    with running(root, port):
        wait_until(lambda: _stands(database, lambda row: row["done"]), "a gate has finished it")

    assert b"left behind" not in _bytes_under(root / "data", "toolgate.db*")
    (told,) = document("ledger", "query", "erasures", "--root", str(root))
    assert (told["entry"], told["stands"]) == (begun, "done")


async def _only_begun(root: Path, subject: str) -> int:
    async with open_ledger(root, read_settings(root)) as ledger:
        (person,) = await ledger.erasing.people(subject, tenant=None, issuer=None)
        seen = await ledger.erasing.survey(person)
        return (await ledger.erasing.begin(seen, by="p", basis=BASIS)).entry


# --- what it took to find that out


def with_many_calls(starter: Path, folder: Path) -> Path:
    """Give a deployment with a few thousand calls of five hundred people."""
    root = folder / "root"
    (root / "data").mkdir(parents=True)
    (root / "keys").mkdir()
    (root / "toolgate.toml").write_bytes((starter / "toolgate.toml").read_bytes())
    database = root / "data" / "toolgate.db"
    key = build(database, 12_000, leases=False)
    key.write(root / "keys" / "ledger.key")
    database.with_suffix(".checkpoint").replace(root / "data" / "checkpoint")
    return root


def _stands(database: Path, is_so: Callable[[sqlite3.Row], bool]) -> bool:
    with suppress(sqlite3.Error), closing(read_only(database)) as connection:
        row = connection.execute("SELECT * FROM erasure").fetchone()
        return row is not None and bool(is_so(row))
    return False


def _claim(database: Path, call_id: str) -> sqlite3.Row:
    with closing(read_only(database)) as connection:
        row: sqlite3.Row = connection.execute("SELECT * FROM claim WHERE call_id = ?", (call_id,)).fetchone()
        return row


def _said(database: Path) -> list[dict[str, Any]]:
    with closing(read_only(database)) as connection:
        return [json.loads(row["body"]) for row in connection.execute("SELECT body FROM ledger_entry")]


def _bodies(root: Path) -> dict[int, bytes]:
    with closing(read_only(root / "data" / "toolgate.db")) as connection:
        return dict(connection.execute("SELECT idx, body FROM ledger_entry ORDER BY idx").fetchall())


def _pseudonym(root: Path, subject: str) -> str:
    with closing(read_only(root / "data" / "toolgate.db")) as connection:
        rows = connection.execute("SELECT name, value FROM pseudonym WHERE kind = 'subject'").fetchall()
    return next(str(name) for name, value in rows if json.loads(value)[2] == subject)


def _salts_of(database: Path, subject: str) -> list[bytes]:
    with closing(read_only(database)) as connection:
        rows = connection.execute(
            "SELECT p.salt, p.value, p.field, e.who FROM payload p JOIN ledger_entry e USING (idx)"
        )
        names = connection.execute(
            "SELECT name FROM pseudonym WHERE CAST(value AS TEXT) LIKE ?", (f'%"{subject}"%',)
        )
        theirs = {row["name"] for row in names}
        return [
            row["salt"]
            for row in rows
            if row["who"] in theirs or (row["field"] == "asked" and subject.encode() in (row["value"] or b""))
        ]


def _bytes_under(folder: Path, pattern: str) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob(pattern)) if file.is_file())


def _verifier(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(VERIFIER), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _accepted_by_sigstore(proof: str) -> bool:
    """Ask code that nobody here wrote whether a `tlog-proof` file proves its entry."""
    head, _, note = proof.partition("\n\n")
    _, extra, index, *hashes = head.splitlines()
    said = Note.parse(note)
    inclusion = {
        "logIndex": index.removeprefix("index "),
        "treeSize": str(said.size),
        "rootHash": base64.b64encode(said.root).decode(),
        "hashes": hashes,
        "checkpoint": {"envelope": note},
    }
    entry = {
        "logIndex": index.removeprefix("index "),
        "logId": {"keyId": base64.b64encode(b"a key").decode()},
        "kindVersion": {"kind": "entry", "version": "2"},
        "inclusionProof": inclusion,
        "canonicalizedBody": extra.removeprefix("extra "),
    }
    try:
        verify_merkle_inclusion(TransparencyLogEntry(Logged.from_json(json.dumps(entry))))
    except VerificationError:
        return False
    return True


IMPOSSIBLE: Final[list[tuple[list[tuple[str, dict[str, Any]]], str]]] = [
    ([("done", {"begun": 4})], "nobody began"),
    ([("begun", {"by": "p1"}), ("done", {"begun": 4}), ("done", {"begun": 4})], "no more open"),
    ([("begun", {})], "nobody began"),
    ([("stopped", {"by": "p1"})], "nobody began"),
]


@pytest.mark.parametrize(("said", "told"), IMPOSSIBLE)
def test_a_verifier_refuses_an_erasure_that_cannot_be(
    tmp_path: Path, said: list[tuple[str, dict[str, Any]]], told: str
) -> None:
    story = a_story(0)
    for status, fields in said:
        story.add("erase", status)
        story.bodies[-1] |= fields
    write(story, tmp_path / "ledger.db", [])

    (fault,) = verify_ledger(tmp_path / "ledger.db").faults
    assert told in fault.what
    assert fault.index == 3 + len(said)
