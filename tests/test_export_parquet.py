"""A ledger as Parquet files: kept up, stopped at any moment, verified, and read by anyone's DuckDB."""
# ruff: noqa: S608 - names of files of the tests

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.gate_on_scripted_system import rig
from tests.ledgers import Signer, Story, a_story, note_of, publish, write
from tests.shell import document, done, faults, run
from toolgate.backends.audit_queries import ask
from toolgate.backends.audit_questions import BY_NAME
from toolgate.backends.duckdb_engine import DuckDbDialect, duckdb_engine
from toolgate.backends.export_parquet import export_parquet
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.parquet_files import ParquetExport, read_manifest
from toolgate.backends.parquet_verify import verify_parquet
from toolgate.core.commitment import commitment
from toolgate.core.errors import LedgerUnavailable
from toolgate.verifier import Note as VerifiedNote
from toolgate.verifier import Report, Unreadable, VerifierKey, read_keys, verify_ledger

KEY = "a-key-of-16-chars-1"


async def _grown(folder: Path, calls: int) -> SqliteFile:
    """Make some more calls, and publish them."""
    async with rig(folder) as gate:
        for amount in range(calls):
            await gate.call("desk.read", amount)
        await gate.parts.writer.publish()
    return SqliteFile(folder / "ledger.db")


def _export(file: SqliteFile, directory: Path, **said: Any) -> Any:  # noqa: ANN401
    return export_parquet(file.engine(), directory, **said)


def _files(directory: Path) -> dict[str, bytes]:
    return {
        f"{file.relative_to(directory)}": file.read_bytes() for file in sorted(directory.rglob("*.parquet"))
    }


def _keys(folder: Path) -> list[VerifierKey]:
    (file,) = folder.glob("*.vkey")
    return read_keys(str(file))


def _kept(out: Path) -> list[tuple[str, VerifiedNote]]:
    """What somebody kept elsewhere when the export was made."""
    return [("kept", VerifiedNote.parse(read_manifest(out).checkpoint))]


def _verify(out: Path, folder: Path) -> Report:
    return verify_parquet(out, keys=_keys(folder), checkpoints=_kept(out))


async def test_a_second_export_adds_what_came_and_leaves_whole_files_as_they_are(tmp_path: Path) -> None:
    file = await _grown(tmp_path, 6)
    first = _export(file, tmp_path / "out", part=5)
    before = _files(tmp_path / "out")
    await _grown(tmp_path, 4)

    second = _export(file, tmp_path / "out", part=5)

    assert second.size == first.size + second.added
    assert second.added > 0
    after = _files(tmp_path / "out")
    whole = [
        part for part in read_manifest(tmp_path / "out").parts if part.last < first.size - first.size % 5
    ]
    assert len(whole) > 1
    for part in whole:
        for name in part.files:
            assert after[name] == before[name]
    (tmp_path / "anew").mkdir()
    _export(file, tmp_path / "anew", part=5)
    one, other = (
        ask(ParquetExport(tmp_path / name), BY_NAME["calls"], {}, most=99) for name in ("out", "anew")
    )
    assert one == other == ask(file, BY_NAME["calls"], {}, most=99)
    assert _export(file, tmp_path / "out", part=5).added == 0
    assert ask(ParquetExport(tmp_path / "out"), BY_NAME["calls"], {}, most=99) == one


async def test_each_file_says_its_range_and_the_checkpoint_that_covers_it(tmp_path: Path) -> None:
    file = await _grown(tmp_path, 3)
    _export(file, tmp_path / "out")

    (part,) = read_manifest(tmp_path / "out").parts
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT key, value FROM parquet_kv_metadata('{tmp_path / 'out' / part.entries}')"
        ).fetchall()
    said = {key.decode(): value.decode() for key, value in rows}

    assert (said["first"], said["last"]) == ("0", f"{part.last}")
    assert said["checkpoint"].startswith(f"{said['origin']}\n{part.last + 1}\n")
    assert (tmp_path / "out" / part.entries).stat().st_mode & 0o077 == 0, "it holds what callers wrote"


def test_anyones_duckdb_asks_the_views(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported / "out")

    with duckdb.connect() as connection:
        connection.execute(Path("views.sql").read_text("utf-8"))
        rows = connection.execute("SELECT subject, tool, status, acting FROM audit_calls_v1").fetchall()

    assert rows == [("ann", "desk.read", "done", "[]")] * 4


async def test_an_export_without_values_has_neither_values_nor_names(tmp_path: Path) -> None:
    file = await _grown(tmp_path, 3)
    _export(file, tmp_path / "out", values=False)

    assert b"ann" not in b"".join(_files(tmp_path / "out").values())
    found = ask(ParquetExport(tmp_path / "out"), BY_NAME["calls"], {}, most=9)
    subject = found.columns.index("subject")
    assert all(row[subject].startswith("p") for row in found.rows)
    assert _verify(tmp_path / "out", tmp_path).verdict == "verified"
    with pytest.raises(LedgerUnavailable, match="with no values; name another directory"):
        _export(file, tmp_path / "out")


async def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = await _grown(tmp_path, 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(LedgerUnavailable, match="is not empty, and no export"):
        _export(file, tmp_path / "mine")

    _export(file, tmp_path / "out")
    listed = tmp_path / "out" / "export.json"
    said = json.loads(listed.read_text("utf-8"))
    listed.write_text(json.dumps(said | {"last_leaf": "00"}), "utf-8")
    with pytest.raises(LedgerUnavailable, match="are not those of this ledger"):
        _export(file, tmp_path / "out")
    listed.write_text(json.dumps(said | {"origin": "another"}), "utf-8")
    with pytest.raises(LedgerUnavailable, match="holds an export of another"):
        _export(file, tmp_path / "out")
    listed.write_text(json.dumps(said | {"form": 9}), "utf-8")
    with pytest.raises(LedgerUnavailable, match="has form 9"):
        ask(ParquetExport(tmp_path / "out"), BY_NAME["calls"], {}, most=1)
    listed.write_text("{", "utf-8")
    with pytest.raises(LedgerUnavailable, match="cannot be read"):
        ask(ParquetExport(tmp_path / "out"), BY_NAME["calls"], {}, most=1)


async def test_an_export_that_was_copied_in_part_is_not_asked(tmp_path: Path) -> None:
    file = await _grown(tmp_path, 1)
    _export(file, tmp_path / "out")
    (tmp_path / "out" / "names.parquet").unlink()

    with pytest.raises(LedgerUnavailable, match=r"out lacks names\.parquet"):
        ask(ParquetExport(tmp_path / "out"), BY_NAME["calls"], {}, most=1)


# --- stopped


_KILLED = """
import os, signal, sys
from pathlib import Path
from toolgate.backends import export_parquet
from toolgate.backends.ledger_database import SqliteFile

left = int(sys.argv[3])
sync = export_parquet.sync

def counted(path):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)

export_parquet.sync = counted
export_parquet.export_parquet(SqliteFile(Path(sys.argv[1])).engine(), Path(sys.argv[2]), part=5)
"""


@pytest.mark.parametrize("after", [0, 3, 6, 9, 14])
async def test_an_export_that_is_killed_is_as_it_was_and_can_be_made_again(
    tmp_path: Path, after: int
) -> None:
    file = await _grown(tmp_path, 4)
    out = tmp_path / "out"
    _export(file, out, part=5)
    before = ask(ParquetExport(out), BY_NAME["calls"], {}, most=99)
    await _grown(tmp_path, 4)

    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, file.path, out, str(after)], capture_output=True, check=False
    )

    assert killed.returncode in {-signal.SIGKILL, 0}, killed.stderr
    found = ask(ParquetExport(out), BY_NAME["calls"], {}, most=99)
    whole = ask(file, BY_NAME["calls"], {}, most=99)
    assert found in (before, whole)
    _export(file, out, part=5)
    assert ask(ParquetExport(out), BY_NAME["calls"], {}, most=99) == whole
    assert _verify(out, tmp_path).verdict == "verified"
    assert not list(out.rglob("*.unfinished"))
    listed = {name for part in read_manifest(out).parts for name in part.files}
    assert listed == {name for name in _files(out) if "/" in name}


# --- verified


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    file = asyncio.run(_grown(folder, 4))
    _export(file, folder / "out", part=5)
    return folder


def _verifier(signer: Signer) -> VerifierKey:
    return VerifierKey.parse(f"{signer.key}")


def _story(story: Story, folder: Path, checkpoints: list[tuple[int, Signer]]) -> None:
    """Export a ledger that was told, with checkpoints of these sizes."""
    write(story, folder / "ledger.db", checkpoints)
    _export(SqliteFile(folder / "ledger.db"), folder / "out", values=False)


def _changed(exported: Path, folder: Path, file: str, rows: str, *, checkpoint: str | None = None) -> Path:
    """Copy an export with one file written again, by `rows` of the table `it`, or with another checkpoint."""
    out = folder / "out"
    out.mkdir()
    for source in (exported / "out").rglob("*"):
        target = out / source.relative_to(exported / "out")
        target.mkdir() if source.is_dir() else target.write_bytes(source.read_bytes())
    path = out / file
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE it AS SELECT * FROM read_parquet('{path}', hive_partitioning = false)"
        )
        kv = connection.execute(f"SELECT key, value FROM parquet_kv_metadata('{path}')").fetchall()
        says = {key.decode(): value.decode() for key, value in kv}
        if checkpoint is not None:
            says["checkpoint"] = checkpoint
            listed = json.loads((out / "export.json").read_text("utf-8"))
            listed["checkpoint"] = checkpoint
            (out / "export.json").write_text(json.dumps(listed), "utf-8")
        said = ", ".join(f"{key}: '{value}'" for key, value in says.items())
        connection.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet, KV_METADATA {{{said}}})")
    return out


def _part(exported: Path, number: int) -> Any:  # noqa: ANN401
    return read_manifest(exported / "out").parts[number]


def test_an_export_is_verified_with_a_key_and_cannot_be_without(exported: Path) -> None:
    report = _verify(exported / "out", exported)

    assert (report.verdict, report.entries) == ("verified", report.covered)
    kept = _kept(exported / "out")
    assert verify_parquet(exported / "out", keys=[], checkpoints=kept).verdict == "cannot tell"


def test_without_a_checkpoint_from_outside_its_end_may_be_missing(exported: Path) -> None:
    report = verify_parquet(exported / "out", keys=_keys(exported), checkpoints=[])

    assert (report.verdict, report.covered) == ("cannot tell", 0)
    (doubt,) = report.doubts
    assert doubt.startswith("no good checkpoint from outside the export was given: its end may be missing")


def test_entries_behind_the_newest_checkpoint_are_vouched_for_by_nobody(tmp_path: Path) -> None:
    story, ours = a_story(3), Signer(1)
    _story(story, tmp_path, [(9, ours), (len(story.bodies), ours)])
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        older = note_of(ledger, 9, ours)
    (tmp_path / "changed").mkdir()
    (part,) = read_manifest(tmp_path / "out").parts
    out = _changed(tmp_path, tmp_path / "changed", part.entries, "SELECT * FROM it", checkpoint=older)

    report = verify_parquet(out, keys=[_verifier(ours)], checkpoints=[("kept", VerifiedNote.parse(older))])

    assert (report.verdict, report.covered) == ("cannot tell", 9)
    assert report.doubts == ["no good checkpoint covers the entries from 9 on"]


@pytest.mark.parametrize("given", [1, 2])
def test_a_change_of_the_key_is_followed(tmp_path: Path, given: int) -> None:
    ours, following = Signer(1), Signer(2)
    story = a_story(3, (2, ours, following))
    size = len(story.bodies)
    _story(story, tmp_path, [(9, ours)])
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        older, stolen = (note_of(ledger, at, ours) for at in (9, size))
        publish(ledger, [(9, ours), (size, following)])
    _export(SqliteFile(tmp_path / "ledger.db"), tmp_path / "out", part=5, values=False)
    keys = [_verifier(Signer(given))]
    kept = [("older", VerifiedNote.parse(older)), *_kept(tmp_path / "out")]

    report = verify_parquet(tmp_path / "out", keys=keys, checkpoints=kept)
    assert (report.verdict, report.covered) == ("verified", size), [*report.lines()]
    listed = tmp_path / "out" / "export.json"
    said = json.loads(listed.read_text("utf-8"))
    listed.write_text(json.dumps(said | {"checkpoint": stolen}), "utf-8")
    report = verify_parquet(tmp_path / "out", keys=keys, checkpoints=kept)
    assert [fault.what for fault in report.faults] == ["it is not signed by the key that was in force"]


@pytest.mark.parametrize(
    ("where", "rows", "said"),
    [
        ("entries", "SELECT * REPLACE (replace(body, 'done', 'gone') AS body) FROM it", "leaf"),
        ("entries", "SELECT * REPLACE (upper(tool) AS tool) FROM it", "tool"),
        ("entries", "SELECT * REPLACE ('deny' AS verdict) FROM it", "verdict"),
        ("entries", "SELECT * REPLACE (1 AS end_entry) FROM it", "end_entry"),
        ("entries", "SELECT * FROM it LIMIT 4", "idx"),
        ("entries", "SELECT * FROM it ORDER BY idx DESC", "idx"),
        ("payloads", "SELECT * REPLACE ('{\"amount\":9}' AS value) FROM it", "arguments"),
        ("payloads", "SELECT * REPLACE (['9'] AS atoms) FROM it", "arguments"),
    ],
)
def test_what_was_changed_in_an_export_is_found(
    exported: Path, tmp_path: Path, where: str, rows: str, said: str
) -> None:
    out = _changed(exported, tmp_path, getattr(_part(exported, 1), where), rows)

    report = verify_parquet(out, keys=_keys(exported), checkpoints=[])

    assert report.verdict == "tampered"
    assert said in {fault.where for fault in report.faults}


@pytest.mark.parametrize(
    "body",
    ["[]", "nothing", "3", '{"kind": 1e9}', '{"a": 1, "a": 2}', '{"rules": [99999999999999999999]}', ""],
)
def test_an_entry_that_is_none_of_the_gates_is_a_fault(exported: Path, tmp_path: Path, body: str) -> None:
    part = _part(exported, 1)
    rows = f"SELECT * REPLACE (CASE idx WHEN {part.first} THEN '{body}' ELSE body END AS body) FROM it"
    out = _changed(exported, tmp_path, part.entries, rows)

    report = verify_parquet(out, keys=_keys(exported), checkpoints=[])

    assert (report.verdict, report.first_bad) == ("tampered", part.first)
    assert {"leaf", "body"} <= {fault.where for fault in report.faults if fault.index == part.first}


@pytest.mark.parametrize(
    "rows",
    [
        "SELECT * REPLACE (CAST(NULL AS VARCHAR) AS body) FROM it",
        "SELECT * REPLACE (CAST(NULL AS BIGINT) AS idx) FROM it",
        "SELECT * REPLACE (CAST(NULL AS BLOB) AS leaf) FROM it",
    ],
)
def test_what_is_not_there_is_a_fault(exported: Path, tmp_path: Path, rows: str) -> None:
    out = _changed(exported, tmp_path, _part(exported, 1).entries, rows)

    assert verify_parquet(out, keys=_keys(exported), checkpoints=[]).verdict == "tampered"


@pytest.mark.parametrize(
    "changed", ["'no json' AS value", "CAST(NULL AS BLOB) AS salt", "CAST(NULL AS VARCHAR) AS field"]
)
def test_a_value_that_cannot_be_one_is_a_fault(exported: Path, tmp_path: Path, changed: str) -> None:
    out = _changed(exported, tmp_path, _part(exported, 1).payloads, f"SELECT * REPLACE ({changed}) FROM it")

    assert verify_parquet(out, keys=_keys(exported), checkpoints=[]).verdict == "tampered"


def test_a_value_that_is_committed_to_and_no_json_is_a_fault(exported: Path, tmp_path: Path) -> None:
    part = _part(exported, 1)
    with duckdb.connect() as connection:
        kept = f"read_parquet('{exported / 'out' / part.payloads}') WHERE field = 'arguments' LIMIT 1"
        found = connection.execute(f"SELECT idx, salt, value FROM {kept}").fetchone()
    assert found is not None
    index, salt, value = found
    old, new = (commitment(salt, "arguments", said) for said in (value.encode(), b"no json"))
    bodies = f"SELECT * REPLACE (replace(body, '{old}', '{new}') AS body) FROM it"
    values = (
        f"SELECT * REPLACE (CASE WHEN (idx, field) = ({index}, 'arguments') THEN 'no json' ELSE value END "
        "AS value) FROM it"
    )
    for folder in ("once", "twice"):
        (tmp_path / folder).mkdir()
    _changed(exported, tmp_path / "once", part.entries, bodies)
    out = _changed(tmp_path / "once", tmp_path / "twice", part.payloads, values)

    report = verify_parquet(out, keys=_keys(exported), checkpoints=[])

    assert (index, "a column beside the value is not what the value says") in {
        (fault.index, fault.what) for fault in report.faults
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wseq": 7}, "wseq is 7"),
        ({"kind": "outcome"}, "intent None is no earlier entry of kind intent"),
        ({"verdict": "deny"}, "an intent whose verdict is not allow"),
    ],
    ids=["a writer's count", "an end of nothing", "a refusal that was done"],
)
def test_a_story_that_is_not_possible_is_found_though_all_of_it_is_signed(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    """The same is found in the ledger itself: nobody can make an export of it that verifies."""
    story, ours = a_story(2), Signer(1)
    assert story.bodies[16]["kind"] == "intent"
    story.bodies[16] |= change
    _story(story, tmp_path, [(len(story.bodies), ours)])
    report = verify_parquet(tmp_path / "out", keys=[_verifier(ours)], checkpoints=_kept(tmp_path / "out"))
    ledger = verify_ledger(
        tmp_path / "ledger.db", keys=[_verifier(ours)], checkpoints=_kept(tmp_path / "out")
    )

    assert (report.verdict, report.first_bad) == ("tampered", 16), [*report.lines()]
    assert said in str(report.headline)
    assert {fault.what for fault in ledger.faults} <= {fault.what for fault in report.faults}


def test_ends_that_came_later_are_held_against_the_entries(exported: Path, tmp_path: Path) -> None:
    out = _changed(exported, tmp_path, "late_ends.parquet", "SELECT * FROM it LIMIT 0")

    assert "end_entry" in {
        one.where for one in verify_parquet(out, keys=_keys(exported), checkpoints=[]).faults
    }


def test_what_is_no_export_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="there is no export"):
        verify_parquet(tmp_path, keys=[], checkpoints=[])


# --- at a shell


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a deployment's folder after one call."""
    monkeypatch.chdir(root)
    done("call", "notes.add", "--args", '{"text": "once"}', "--key", KEY)
    return root


@pytest.mark.usefixtures("here")
def test_an_export_is_made_asked_and_verified_at_a_shell() -> None:
    made = document("ledger", "export", "--parquet", "out")
    assert made["added"] == made["size"] > 0
    (call,) = document("ledger", "query", "calls", "--db", "out")
    assert (call["tool"], call["status"]) == ("notes.add", "done")
    assert document("ledger", "show", f"{call['entry']}", "--db", "out")["body"]["kind"] == "intent"
    (key,) = Path().rglob("*.vkey")
    given = ("--key", f"{key}", "--checkpoint", "data/checkpoint")
    assert "VERIFIED" in done("ledger", "verify", "--parquet", "out", *given)
    assert run("ledger", "verify", "--parquet", "out", "--key", f"{key}").exit_code == 2
    assert run("ledger", "verify", "--parquet", "nowhere").exit_code == 2
    assert [read["query"] for read in document("ledger", "query", "who-read")] == [
        "who-read",
        "export parquet",
    ]


def test_what_does_not_fit_into_memory_lies_where_nobody_else_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, spilled = tmp_path / "here", tmp_path / "spilled"
    here.mkdir()
    spilled.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", f"{spilled}")
    with duckdb_engine("SET memory_limit = '30MB'").connect() as connection:
        ordered = connection.exec_driver_sql("SELECT md5(range::TEXT) AS m FROM range(1_000_000) ORDER BY m")
        ordered.fetchone()
        (folder,) = spilled.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        assert any(file.stat().st_size for file in folder.iterdir())

    assert list(here.iterdir()) == list(spilled.iterdir()) == []


@pytest.mark.usefixtures("here")
def test_without_duckdb_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DuckDbDialect.import_dbapi() is duckdb
    monkeypatch.setitem(sys.modules, "duckdb", None)

    assert "pip install 'toolgate[parquet]'" in faults("ledger", "export", "--parquet", "out")


@pytest.mark.usefixtures("here")
def test_an_export_says_into_which_form() -> None:
    result = run("ledger", "export")

    assert result.exit_code == 2
    assert "--parquet" in result.stderr
