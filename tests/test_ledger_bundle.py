"""An answer with its proofs in one zip: verified where nothing of ours is, and every change of it found."""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from tests.ledgers import Signer, Story, a_story, write
from tests.shell import document, done, faults, really, run
from toolgate.backends.audit_dialects import DIALECTS
from toolgate.backends.audit_queries import Filter, Found, NamedQuery, answer, ask
from toolgate.backends.audit_questions import BY_NAME, QUERIES
from toolgate.backends.export_bundle import Answer, Beside, write_bundle
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.ledger_entries import moment
from toolgate.backends.ledger_reading import Published
from toolgate.backends.log_key import LogKey
from toolgate.backends.sqlite_files import reader
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import Checkpoint
from toolgate.verifier import (
    NAMING,
    QUESTIONS,
    Report,
    Unreadable,
    read_keys,
    read_note,
    rows_as_csv,
    verify_bundle,
)

DATABASE: Final = "data/toolgate.db"


@pytest.fixture(scope="module")
def told(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment with calls of several ends, and the checkpoint from before the last of them."""
    root = Path(shutil.copytree(starter, tmp_path_factory.mktemp("told") / "root"))
    words = ("--root", f"{root}")
    really("call", "notes.add", "--args", '{"text": "=SUM(1)"}', "--key", "bundle-example-0001", *words)
    shutil.copy(root / "data/checkpoint", root / "old-checkpoint")
    really("call", "notes.add", "--args", '{"text": "=SUM(1)"}', "--key", "bundle-example-0001", *words)
    really("call", "notes.search", *words)
    really("call", "notes.remove", "--args", '{"id": 1}', "--key", "bundle-example-0002", *words)
    return root


@pytest.fixture
def here(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = Path(shutil.copytree(told, tmp_path / "root"))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def bundle(here: Path, tmp_path: Path) -> Path:
    """All calls, with proofs since the old checkpoint."""
    done("ledger", "bundle", "calls", "--out", f"{tmp_path / 'b.zip'}", "--old", "old-checkpoint")
    return tmp_path / "b.zip"


def _files(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _zip(files: dict[str, bytes], place: Path) -> Path:
    with zipfile.ZipFile(place, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return place


def _verify(bundle: Path) -> Report:
    kept = [("old", read_note("old-checkpoint"))]
    return verify_bundle(bundle, keys=read_keys("keys/ledger.vkey"), checkpoints=kept)


def _entries(root: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(root / DATABASE)) as ledger:
        return [json.loads(row[0]) for row in ledger.execute("SELECT body FROM ledger_entry ORDER BY idx")]


def _answer(root: Path, name: str = "calls") -> Answer:
    named = BY_NAME[name]
    found = ask(SqliteFile(root / DATABASE), named, {}, most=100)
    return Answer(
        name=name,
        question=named.question,
        sql=named.statement({}, DIALECTS["sqlite"]),
        filters={},
        found=found,
    )


def _write(root: Path, answer: Answer, **beside: Any) -> bytes:  # noqa: ANN401 - fields of Beside
    file = io.BytesIO()
    keys = [f"{LogKey.read(root / 'keys/ledger.key').verifier}"]
    engine = reader(root / DATABASE)
    write_bundle(engine, file, answer, Beside(keys=keys, **beside), lambda done, total: None)
    return file.getvalue()


# --- What is in it


def test_a_bundle_is_verified_and_says_what_was_checked(bundle: Path, here: Path) -> None:
    report = _verify(bundle)

    assert (report.verdict, report.faults, report.doubts) == ("verified", [], [])
    said = "\n".join(report.lines())
    for text in (
        "7 values open the commitments",
        "in every row: asked, call_id, effect, entry, rules, status, tenant, time, tool, verdict",
        "not checked: in some rows: end_entry",
        "entries begin with the",
        "the older checkpoint says what old says",
        "not checked: that there are no other rows",
        "not checked: the columns acting, client, subject: nothing signs them",
    ):
        assert text in said, text


def test_a_bundle_holds_what_its_readme_says(bundle: Path, here: Path) -> None:
    files = _files(bundle)
    rows = json.loads(files["rows.json"])
    named = {row[name] for row in rows for name in NAMING if row.get(name) is not None}
    query = json.loads(files["query.json"])

    assert {name for name in files if name.startswith("entries/")} == {
        f"entries/{index}.json" for index in named
    }
    assert {name for name in files if name.startswith("proofs/")} == {
        f"proofs/{index}.tlog-proof" for index in named
    }
    for index in named:
        assert json.loads(files[f"entries/{index}.json"]) == _entries(here)[index]
    assert query["name"] == "calls"
    assert query["question"] in files["README.txt"].decode()
    assert "audit_calls_v1" in query["sql"]
    assert files["checkpoint.old"] == Path("old-checkpoint").read_bytes()
    assert files["verify.py"] == (Path(__file__).parents[1] / "tools" / "verify.py").read_bytes()
    assert "openings/3.json" in files
    assert "rows.csv" in files


def test_a_bundle_is_asked_for_on_the_record(bundle: Path, here: Path) -> None:
    read = [entry for entry in _entries(here) if entry["kind"] == "audit_read"]

    assert [entry["query"] for entry in read] == ["bundle"]


def test_values_can_be_left_out(here: Path, tmp_path: Path) -> None:
    said = document("ledger", "bundle", "calls", "--out", f"{tmp_path / 'b.zip'}", "--no-values")
    files = _files(tmp_path / "b.zip")

    assert said["rows"] == 4
    assert not any(name.startswith("openings/") for name in files)
    assert b"SUM" not in b"".join(files.values())
    assert _verify(tmp_path / "b.zip").verdict == "cannot tell", "the kept checkpoint is not in it"
    assert verify_bundle(tmp_path / "b.zip", keys=read_keys("keys/ledger.vkey")).verdict == "verified"


def test_the_same_answer_is_the_same_file(here: Path) -> None:
    answer = _answer(here)
    old = Published.parse(Path("old-checkpoint").read_text("utf-8"))

    assert _write(here, answer, old=old) == _write(here, answer, old=old)


@pytest.mark.parametrize(
    "query", [query.name for query in QUERIES if not query.needed], ids=lambda name: name
)
def test_every_question_has_a_bundle_that_verifies_or_is_refused(
    here: Path, tmp_path: Path, query: str
) -> None:
    answer = _answer(here, query)
    if not {*NAMING} & {*answer.found.columns}:
        with pytest.raises(LedgerUnavailable, match="name no entries"):
            _write(here, answer)
        return
    (tmp_path / "b.zip").write_bytes(_write(here, answer))
    report = verify_bundle(tmp_path / "b.zip", keys=read_keys("keys/ledger.vkey"))

    assert report.verdict == ("verified" if answer.found.rows else "cannot tell"), [*report.lines()]


@pytest.fixture(scope="module")
def storied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with entries for every question that names entries, but for one about approvals."""
    file = tmp_path_factory.mktemp("storied") / "ledger.db"
    story, by = a_story(2), "p" + "0" * 20
    story.lent(2)
    story.add("audit_read", "asked", kept="asked", asked={"query": "calls"}, by=0, query="calls")
    story.bodies[-1]["by"] = by
    story.add("auth_failure", "refused", kept="source", source="10.0.0.1", count=2, reasons={"expired": 2})
    story.add("fault", "clock_step", detail={"by_us": 9})
    story.add("policy", "activated", policy="2" * 64, previous=None, override=False, cases=3)
    erased = {"subject": 1, "client": 0, "run": 0}
    begun = story.add("erase", "begun", tenant="acme", kept="basis", basis="asked for", names=erased)
    removed = {"arguments": 1, "result": 0, "caller": 0, "addresses": 0, "names": 0}
    said: dict[str, Any] = {
        "rule": 1,
        "tenant": "acme",
        "days": 30,
        "before": 1_700_000_000_000_000,
        "removed": removed,
    }
    kept = story.add("retention", "applied", **said)
    destroy: dict[str, Any] = {
        "call_id": "c-d",
        "tool": "crm.note.remove",
        "effect": "destroy",
        "role": "agent",
    }
    story.add("intent", "opened", tenant="acme", who=by, verdict="allow", **destroy)
    write(story, file, [(len(story.bodies), Signer(1))])
    with closing(sqlite3.connect(file)) as ledger, ledger:
        ledger.execute("UPDATE pseudonym SET value = CAST(json_array('home', 'desk', name) AS BLOB)")
        ledger.execute("INSERT INTO erasure VALUES (?, NULL, 0, 0, 0, 0, 0)", (begun,))
        ledger.execute("INSERT INTO retention_run (entry, first, last) VALUES (?, 0, 9)", (kept,))
    return file


def _told(storied: Path, name: str, place: Path) -> Path:
    """Write the bundle of a question about the whole story."""
    given: dict[Filter, str | int] = {"hours": "03-04", "call": "c-acme-1", "run": f"p{1:020x}", "value": "1"}
    asked: dict[Filter, str | int] = {
        one: value for one, value in given.items() if one in BY_NAME[name].needed
    }
    found = answer(reader(storied), BY_NAME[name], asked, most=100)
    said = Answer(name=name, question="", sql="", filters={}, found=found)
    with place.open("wb") as file:
        beside = Beside(keys=[f"{Signer(1).key}"])
        write_bundle(reader(storied), file, said, beside, lambda done, total: None)
    return place


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_bundle_of_every_kind_of_row_verifies_and_no_cell_that_is_checked_can_change(
    storied: Path, tmp_path: Path, name: str
) -> None:
    keys = read_keys(f"{Signer(1).key}")
    files = _files(_told(storied, name, tmp_path / "b.zip"))
    report = verify_bundle(tmp_path / "b.zip", keys=keys)
    rows = json.loads(files["rows.json"])

    assert bool(rows) is (name != "approvals")
    assert report.verdict == ("verified" if rows else "cannot tell"), [*report.lines()]
    every = "what comes from entries, in every row: "
    checked = [said.removeprefix(every) for said in report.checked if said.startswith(every)]
    for column in ", ".join(checked).split(", ") if checked else ():
        changed, cell = dict(files), rows[0][column]
        _row(column, cell + 1_000_000 if isinstance(cell, int) else "changed")(changed)
        assert verify_bundle(_zip(changed, tmp_path / "c.zip"), keys=keys).verdict == "tampered", column


def test_the_newest_entries_are_published_first(here: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(here / DATABASE)) as ledger:
        ledger.execute("DELETE FROM ledger_checkpoint WHERE size > 6")
        ledger.commit()
    with pytest.raises(LedgerUnavailable, match="no checkpoint covers entry"):
        _write(here, _answer(here))

    done("ledger", "bundle", "calls", "--out", f"{tmp_path / 'b.zip'}")
    assert verify_bundle(tmp_path / "b.zip", keys=read_keys("keys/ledger.vkey")).verdict == "verified"


# --- On another machine


def test_it_is_verified_where_only_python_and_cryptography_are(bundle: Path, tmp_path: Path) -> None:
    """An environment with these alone: cryptography, and what it needs to be imported."""
    empty, unpacked = tmp_path / "empty", tmp_path / "unpacked"
    venv.create(empty, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": f"{empty}", "platbase": f"{empty}"}))
    for package in ("cryptography", "cffi", "_cffi_backend"):
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        (site / source.name).symlink_to(source)
    with zipfile.ZipFile(bundle) as opened:
        opened.extractall(unpacked)
    kept = tmp_path / "kept.vkey"
    shutil.copy("keys/ledger.vkey", kept)
    python = [f"{empty / 'bin' / 'python'}", "-I"]

    def verify(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*python, "verify.py", "bundle", *words]
        return subprocess.run(command, cwd=unpacked, check=False, capture_output=True, text=True)

    assert (
        subprocess.run([*python, "-c", "import toolgate"], check=False, capture_output=True).returncode == 1
    )
    for place in (".", f"{bundle}"):
        told = verify(place, "--key", f"{kept}")
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith("VERIFIED: ")
    assert verify(".").returncode == 2, "without a key from elsewhere anybody could have made it"
    (unpacked / "rows.csv").write_text("entry\n", "utf-8")
    assert verify(".", "--key", f"{kept}").returncode == 1


# --- What is found


def _row(column: str, value: object, *, of: int = 0) -> Callable[[dict[str, bytes]], None]:
    """Change a row, in both of its files."""

    def change(files: dict[str, bytes]) -> None:
        rows = json.loads(files["rows.json"])
        old = rows[of][column]
        assert old != value
        rows[of][column] = value
        files["rows.json"] = json.dumps(rows).encode()
        columns = json.loads(files["query.json"])["columns"]
        files["rows.csv"] = rows_as_csv(columns, [[*row.values()] for row in rows]).encode()

    return change


def _text(file: str, old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        assert old.encode() in files[file]
        files[file] = files[file].replace(old.encode(), new.encode(), 1)

    return change


def _without(file: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        del files[file]

    return change


def _swapped(one: str, other: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[one], files[other] = files[other], files[one]

    return change


CHANGES: Final = {
    "an entry": (_text("entries/3.json", "notes.add", "notes.sub"), 3),
    "an entry's proof": (_without("proofs/3.tlog-proof"), 3),
    "an entry itself": (_without("entries/3.json"), 3),
    "two proofs": (_swapped("proofs/3.tlog-proof", "proofs/4.tlog-proof"), 3),
    "two entries": (_swapped("entries/3.json", "entries/4.json"), 3),
    "a value": (_text("openings/3.json", "SUM(1)", "SUM(2)"), 3),
    "a salt": (_text("openings/3.json", '"salt": "', '"salt": "00'), 3),
    "the value of another field": (_text("openings/3.json", '"arguments"', '"answers"'), 3),
    "a proof's index": (_text("proofs/3.tlog-proof", "index 3", "index 2"), 3),
    "a tool": (_row("tool", "notes.sub", of=3), 3),
    "a tenant": (_row("tenant", "work", of=3), 3),
    "a status": (_row("status", "failed", of=3), 3),
    "a verdict": (_row("verdict", "deny", of=3), 3),
    "rules": (_row("rules", '["N99"]', of=3), 3),
    "a time": (_row("time", "2026-01-01T00:00:00.000Z", of=3), 3),
    "a time that is none": (_row("time", "noon", of=3), 3),
    "a call": (_row("call_id", "c0", of=3), 3),
    "an effect": (_row("effect", "read", of=3), 3),
    "an end of another call": (_row("end_entry", 3, of=3), 3),
    "an entry that is not proven": (_row("end_entry", 5, of=3), 3),
    "an effect that no entry tells of": (_row("effect", "destroy", of=0), None),
    "an end that is not shown": (_row("end_entry", None, of=3), 3),
    "an entry that is no number": (_row("entry", "3", of=3), 0),
    "an end that is no number": (_row("end_entry", "4", of=3), 0),
    "a truth for a number": (_row("entry", True, of=3), 0),
    "the CSV alone": (_text("rows.csv", "notes.add", "notes.sub"), 0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_found(bundle: Path, tmp_path: Path, what: str) -> None:
    change, index = CHANGES[what]
    files = _files(bundle)
    change(files)
    report = _verify(_zip(files, tmp_path / "changed.zip"))

    assert report.verdict == "tampered"
    if index is not None:
        assert report.first_bad == index, [*report.lines()]


def test_the_end_of_another_call_is_none(bundle: Path, tmp_path: Path) -> None:
    """It is proven, and says what the row says: but it is not the end of this call."""
    files = _files(bundle)
    rows = json.loads(files["rows.json"])
    one, other = (number for number, row in enumerate(rows) if row["status"] == "done")
    _row("end_entry", rows[one]["end_entry"], of=other)(files)
    report = _verify(_zip(files, tmp_path / "changed.zip"))

    assert [fault.what for fault in report.faults] == ["that is no end of the row's entry"]


def test_a_formula_in_an_answer_is_no_formula_in_the_csv(here: Path, tmp_path: Path) -> None:
    done(
        "ledger",
        "bundle",
        "arguments",
        "--call",
        _entries(here)[3]["call_id"],
        "--out",
        f"{tmp_path / 'b.zip'}",
    )
    files = _files(tmp_path / "b.zip")

    assert b"SUM(1)" in files["rows.csv"]
    assert b",=SUM" not in files["rows.csv"]


def test_another_key_or_a_forged_checkpoint_is_refused(bundle: Path, here: Path, tmp_path: Path) -> None:
    other = LogKey.new(LogKey.read(here / "keys/ledger.key").verifier.name)
    keys = read_keys(f"{other.verifier}")
    assert verify_bundle(bundle, keys=keys).verdict == "tampered"

    files = _files(bundle)
    size = read_note("old-checkpoint").size
    note = other.note(Checkpoint(other.verifier.name, size, bytes(32)))
    files["checkpoint.old"] = f"{note}".encode()
    report = verify_bundle(_zip(files, tmp_path / "x.zip"), keys=read_keys("keys/ledger.vkey"))
    assert {fault.where for fault in report.faults} == {"proof", "the older checkpoint"}


def test_a_fork_is_found_by_the_checkpoint_that_the_auditor_kept(
    bundle: Path, here: Path, tmp_path: Path
) -> None:
    key = LogKey.read(here / "keys/ledger.key")
    forked = tmp_path / "forked"
    size = read_note("old-checkpoint").size
    forked.write_text(f"{key.note(Checkpoint(key.verifier.name, size, bytes(32)))}", "utf-8")
    report = verify_bundle(
        bundle, keys=read_keys("keys/ledger.vkey"), checkpoints=[("kept", read_note(f"{forked}"))]
    )

    assert report.verdict == "tampered"
    assert "the log was forked" in str(report.headline)


@pytest.mark.parametrize("given", ["old", "new"])
def test_a_change_of_the_key_is_followed(here: Path, tmp_path: Path, given: str) -> None:
    shutil.copy("keys/ledger.vkey", tmp_path / "old.vkey")
    done("ledger", "rotate-key")
    shutil.copy("keys/ledger.vkey", tmp_path / "new.vkey")
    done("call", "notes.search")
    done("ledger", "bundle", "calls", "--out", f"{tmp_path / 'b.zip'}", "--old", "old-checkpoint")
    keys = read_keys(f"{tmp_path / given}.vkey")
    report = verify_bundle(tmp_path / "b.zip", keys=keys)

    assert report.verdict == "verified", [*report.lines()]
    assert any(
        b'"key_rotate"' in content
        for name, content in _files(tmp_path / "b.zip").items()
        if "entries" in name
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("query.json", b"{}"),
        ("query.json", b"[]"),
        ("query.json", b"\xff"),
        ("query.json", b'{"form": "toolgate-bundle@v1"}'),
        ("query.json", b'{"form": "toolgate-bundle@v1", "columns": ["entry"]}'),
        ("rows.json", b"{}"),
        ("rows.json", b"[3]"),
        ("rows.json", b"["),
        ("checkpoint", b"x"),
        ("checkpoint.old", b"x"),
        ("openings/3.json", b"[]"),
        ("openings/3.json", b'{"arguments": 3}'),
        ("proofs/3.tlog-proof", b"x"),
    ],
)
def test_what_is_no_bundle_cannot_be_told(bundle: Path, tmp_path: Path, name: str, content: bytes) -> None:
    files = _files(bundle) | {name: content}
    with pytest.raises(Unreadable):
        _verify(_zip(files, tmp_path / "odd.zip"))


def test_a_name_that_is_there_twice_cannot_be_told(bundle: Path, tmp_path: Path) -> None:
    files = _files(bundle)
    files["rows.json"] = files["rows.json"].replace(b'"tool":', b'"tool": "x", "tool":', 1)
    with pytest.raises(Unreadable, match=r"rows\.json is not JSON"):
        _verify(_zip(files, tmp_path / "odd.zip"))


def test_a_file_that_is_no_part_of_it_is_named(bundle: Path, tmp_path: Path) -> None:
    files = _files(bundle) | {"entries/3.txt": b"all is well"}
    report = _verify(_zip(files, tmp_path / "more.zip"))

    assert "files that are no part of a bundle: 'entries/3.txt'" in report.not_checked


@pytest.mark.parametrize(
    "name", ["entries/007.json", "entries/3٣.json", "proofs/999.tlog-proof", "openings/999.json"]
)
def test_a_file_of_an_entry_that_is_not_verified_is_named(bundle: Path, tmp_path: Path, name: str) -> None:
    files = _files(bundle) | {name: b"{}"}
    report = _verify(_zip(files, tmp_path / "more.zip"))

    assert f"files that are no part of a bundle: {name!a}" in report.not_checked


def _renamed(name: str, columns: tuple[str, ...]) -> Callable[[dict[str, bytes]], None]:
    """Call the answer that of another question, with its columns: what it has not is cut out or empty."""

    def change(files: dict[str, bytes]) -> None:
        query = json.loads(files["query.json"])
        rows = [{column: row.get(column) for column in columns} for row in json.loads(files["rows.json"])]
        files["query.json"] = json.dumps(query | {"name": name, "columns": [*columns]}).encode()
        files["rows.json"] = json.dumps(rows).encode()
        files["rows.csv"] = rows_as_csv(columns, [[*row.values()] for row in rows]).encode()

    return change


@pytest.mark.parametrize(("column", "value"), [("status", "failed"), ("verdict", "deny"), ("effect", "read")])
def test_the_name_of_the_question_does_not_decide_what_is_compared(
    bundle: Path, tmp_path: Path, column: str, value: str
) -> None:
    files = _files(bundle)
    _text("query.json", '"name": "calls"', '"name": "leases"')(files)
    renamed = _verify(_zip(files, tmp_path / "renamed.zip"))
    _row(column, value, of=3)(files)
    report = _verify(_zip(files, tmp_path / "changed.zip"))

    for found in (renamed, report):
        assert found.verdict == "tampered"
        assert "they are not those of the question 'leases'" in {fault.what for fault in found.faults}
    assert "query.json: question, filters and SQL" in renamed.not_checked


_CUT: Final = {"effect", "verdict", "rules", "end_entry"}


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("leases", [column for column in QUESTIONS["calls"].columns if column not in _CUT]),
        ("leases", [*QUESTIONS["leases"].columns]),
        ("vault-runs", [*QUESTIONS["vault-runs"].columns]),
        ("calls", [column for column in QUESTIONS["calls"].columns if column != "end_entry"]),
        ("outside-hours", [*QUESTIONS["outside-hours"].columns]),
        ("touched", [*QUESTIONS["touched"].columns]),
    ],
    ids=["cut", "as leases", "as vault-runs", "without ends", "as outside-hours", "as touched"],
)
@pytest.mark.parametrize("remains", [True, False], ids=["its end remains", "its end is removed"])
def test_no_name_and_no_columns_hide_a_changed_status(
    bundle: Path, tmp_path: Path, name: str, columns: list[str], *, remains: bool
) -> None:
    """The status of a call is that of its end, whether a column names that or not."""
    files = _files(bundle)
    end = json.loads(files["rows.json"])[3]["end_entry"]
    _row("status", "failed", of=3)(files)
    _renamed(name, tuple(columns))(files)
    if not remains:
        del files[f"entries/{end}.json"], files[f"proofs/{end}.tlog-proof"]
    report = _verify(_zip(files, tmp_path / "changed.zip"))

    assert report.verdict == "tampered"
    assert "rows.json, row 4, status" in {fault.where for fault in report.faults} or name == "vault-runs"


@pytest.mark.parametrize("name", ["destroyed", "denials", "approvals", "duplicates-prevented", "vault-runs"])
def test_a_question_has_rows_of_its_own_kinds_of_entries_alone(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    files = _files(bundle)
    _renamed(name, (*QUESTIONS[name].columns,))(files)
    report = _verify(_zip(files, tmp_path / "renamed.zip"))

    assert (3, "the question has no rows of such an entry") in {
        (fault.index, fault.what) for fault in report.faults
    }


def test_a_question_that_is_not_known_cannot_be_told(bundle: Path, tmp_path: Path) -> None:
    files = _files(bundle)
    _text("query.json", '"name": "calls"', '"name": "all-calls"')(files)
    report = _verify(_zip(files, tmp_path / "renamed.zip"))
    assert (report.verdict, report.faults) == ("cannot tell", [])
    assert "the question 'all-calls' is not known here; take a newer verify.py" in report.doubts

    _row("status", "failed", of=3)(files)
    assert _verify(_zip(files, tmp_path / "changed.zip")).verdict == "tampered"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_the_verifier_knows_the_columns_of_every_question(here: Path, query: NamedQuery) -> None:
    needed: dict[Filter, str | int] = dict.fromkeys(query.needed, "08-18")
    columns = ask(SqliteFile(here / DATABASE), query, needed, most=1).columns
    known = QUESTIONS.get(query.name)

    assert (known is None) is {*NAMING}.isdisjoint(columns)
    assert known is None or (*known.columns,) == columns


def test_the_end_behind_a_status_is_in_the_bundle(here: Path, tmp_path: Path) -> None:
    """Its rows do not name the ends."""
    hour = int(_answer(here).found.rows[0][1][11:13])
    hours = f"{(hour + 2) % 24:02}-{(hour + 3) % 24:02}"
    done("ledger", "bundle", "outside-hours", "--hours", hours, "--out", f"{tmp_path / 'b.zip'}")
    report = verify_bundle(tmp_path / "b.zip", keys=read_keys("keys/ledger.vkey"))

    assert report.verdict == "verified", [*report.lines()]
    assert any("in every row" in said and "status" in said for said in report.checked)


def _shown(story: Story, name: str, row: dict[str, int]) -> Found:
    """Show an entry of a story as a row of a question: `row` says which, and what is not in it."""
    entry, intent = story.bodies[row["entry"]], story.bodies[row.get("intent", row["entry"])]
    says = entry | row | {"static": 1, "lent_ms": 0, "time": f"{moment(intent['at']):%Y-%m-%dT%H:%M:%S.%fZ}"}
    if name == "calls":
        says |= {"status": "done", "rules": json.dumps(entry["rules"])}
    columns = (*QUESTIONS[name].columns,)
    return Found(columns=columns, rows=[tuple(says.get(column) for column in columns)], more=False)


@pytest.mark.parametrize(
    ("name", "row", "verdict"),
    [
        ("calls", {"entry": 4, "end_entry": 7}, "verified"),
        ("calls", {"entry": 4, "end_entry": 6}, "tampered"),
        ("leases", {"entry": 6, "intent": 4, "end_entry": 7}, "verified"),
        ("leases", {"entry": 6, "intent": 4, "end_entry": 8}, "tampered"),
    ],
    ids=["an outcome", "a lease is no end", "of a lease's call", "of another call"],
)
def test_only_the_end_of_a_call_is_its_end(
    here: Path, tmp_path: Path, name: str, row: dict[str, int], verdict: str
) -> None:
    """What was lent to a call names the call's intent too."""
    story, ours = a_story(1), Signer(1)
    write(story, tmp_path / "ledger.db", [(len(story.bodies), ours)])
    answer = replace(_answer(here), name=name, found=_shown(story, name, row))
    beside = Beside(keys=[f"{ours.key}"])
    with (tmp_path / "b.zip").open("wb") as file:
        write_bundle(reader(tmp_path / "ledger.db"), file, answer, beside, lambda done, total: None)
    report = verify_bundle(tmp_path / "b.zip", keys=read_keys(f"{ours.key}"))

    assert [story.bodies[at]["kind"] for at in (4, 6, 7, 8)] == ["intent", "lease", "outcome", "outcome"]
    assert report.verdict == verdict, [*report.lines()]
    whats = {fault.what for fault in report.faults}
    assert whats == ({"that is no end of the row's entry"} if verdict == "tampered" else set())


def test_only_its_owner_can_read_a_bundle(bundle: Path) -> None:
    assert bundle.stat().st_mode & 0o777 == 0o600, "it holds values, and the salts that open them"


@pytest.mark.parametrize("name", ["query.json", "rows.json", "rows.csv", "checkpoint", "consistency"])
def test_what_is_missing_cannot_be_told(bundle: Path, tmp_path: Path, name: str) -> None:
    files = _files(bundle)
    del files[name]
    with pytest.raises(Unreadable, match=name):
        _verify(_zip(files, tmp_path / "odd.zip"))


def test_no_zip_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK nothing")
    for place in (tmp_path / "x.zip", tmp_path / "none", tmp_path):
        with pytest.raises(Unreadable):
            verify_bundle(place)


# --- The command


def test_an_older_checkpoint_must_be_one_of_this_ledger(here: Path, tmp_path: Path) -> None:
    words = ("ledger", "bundle", "calls", "--out", f"{tmp_path / 'b.zip'}", "--old")
    key = LogKey.read(here / "keys/ledger.key")
    for checkpoint, said in (
        (Checkpoint("another", 3, bytes(32)), "is of 3 entries of 'another'"),
        (Checkpoint(key.verifier.name, 9999, bytes(32)), "is of 9999 entries"),
        (Checkpoint(key.verifier.name, 3, bytes(32)), "does not begin with what the older checkpoint covers"),
    ):
        (tmp_path / "cp").write_text(f"{key.note(checkpoint)}", "utf-8")
        assert said in faults(*words, f"{tmp_path / 'cp'}")
    (tmp_path / "cp").write_text("x", "utf-8")
    assert run(*words, f"{tmp_path / 'cp'}").exit_code == 2
    assert not (tmp_path / "b.zip").exists()
    assert run("ledger", "bundle", "no-such-query", "--out", "b.zip").exit_code == 2
    assert run("ledger", "bundle", "auth-failures", "--tool", "x", "--out", "b.zip").exit_code == 2


def test_there_may_be_more_rows(here: Path, tmp_path: Path) -> None:
    result = run("ledger", "bundle", "calls", "--most", "2", "--out", f"{tmp_path / 'b.zip'}")

    assert "there are more rows than that" in result.stderr
    assert json.loads(_files(tmp_path / "b.zip")["query.json"])["more"] is True


def test_a_changed_ledger_gives_no_bundle(here: Path) -> None:
    answer = _answer(here)
    with closing(sqlite3.connect(here / DATABASE)) as ledger:
        for (trigger,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            ledger.execute(f"DROP TRIGGER {trigger}")
        ledger.execute("UPDATE ledger_entry SET body = replace(body, 'add', 'sub') WHERE idx = 3")
        ledger.commit()

    with pytest.raises(LedgerUnavailable, match="does not hold what it published"):
        _write(here, answer)


def test_a_killed_command_leaves_no_bundle(here: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from toolgate.backends import export_bundle as bundles\n"
        "add = bundles._add\n"
        "def slow(bundle, name, content):\n"
        "    add(bundle, name, content); print(name, flush=True); time.sleep(0.05)\n"
        "bundles._add = slow\n"
        "sys.argv = ['toolgate', 'ledger', 'bundle', 'calls', '--out', sys.argv[1]]\n"
        "from toolgate.cli import main; main()\n"
    )
    words = [sys.executable, "-c", program, f"{tmp_path / 'b.zip'}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) as command:
        assert command.stdout is not None
        assert [command.stdout.readline() for _ in range(5)][-1]
        command.send_signal(signal.SIGTERM)

    assert not (tmp_path / "b.zip").exists()
    done("ledger", "bundle", "calls", "--out", f"{tmp_path / 'b.zip'}", "--old", "old-checkpoint")
    assert _verify(tmp_path / "b.zip").verdict == "verified"


def test_rows_that_name_no_entry_are_refused(here: Path, tmp_path: Path) -> None:
    answer = _answer(here)
    empty = replace(answer, found=replace(answer.found, columns=("when",), rows=[("now",)]))
    with pytest.raises(LedgerUnavailable, match="name no entries"):
        _write(here, empty)
    assert "name no entries" in faults("ledger", "bundle", "top-callers", "--out", f"{tmp_path / 'b.zip'}")
