"""Proofs out of a ledger, and what becomes of it when entries or its key are lost or changed."""

import asyncio
import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.gate_on_scripted_system import ledger_in
from tests.shell import document, done, faults, run
from toolgate.backends import log_key_rotation
from toolgate.backends.checkpoints import AcceptedLoss, Checkpoints
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.ledger_parts import LedgerParts
from toolgate.backends.ledger_proofs import proof_of
from toolgate.backends.log_key import LogKey
from toolgate.backends.sqlite_writer import SqliteWriter
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import Checkpoint, Note
from toolgate.verifier import Report, VerifierKey, read_keys, read_note, verify_ledger, verify_proof

pytestmark = pytest.mark.anyio
REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def kept(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with a call in it, and a folder with what an auditor keeps elsewhere: key and checkpoint."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    done("call", "notes.add", "--args", '{"text": "x"}')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(root / "keys" / "ledger.vkey", elsewhere)
    shutil.copy(root / "data" / "checkpoint", elsewhere)
    return elsewhere


def _given(kept: Path) -> tuple[str, ...]:
    return ("--key", f"{kept / 'ledger.vkey'}", "--checkpoint", f"{kept / 'checkpoint'}")


def _ledger(*words: str) -> Any:  # noqa: ANN401 - any JSON value
    """Run a command of `toolgate ledger` and give its JSON, however it ends."""
    return json.loads(run("ledger", *words, "--json").stdout)


def _entries(database: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(database)) as ledger:
        return [json.loads(row[0]) for row in ledger.execute("SELECT body FROM ledger_entry ORDER BY idx")]


# --- prove


def test_a_proof_stands_without_the_database(kept: Path, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "3.tlog-proof"
    assert "proves that entry 3" in run("ledger", "prove", "3", "--out", f"{file}").stderr
    text = file.read_text("utf-8")
    form, extra, index, *_ = text.split("\n")
    proven = verify_proof(text, read_keys(f"{kept / 'ledger.vkey'}"))

    assert (form, index) == ("c2sp.org/tlog-proof@v1", "index 3")
    assert (
        json.loads(base64.b64decode(extra.removeprefix("extra "))) == _entries(root / "data/toolgate.db")[3]
    )
    assert proven.verdict == "verified"
    assert json.loads(proven.body or b"")["kind"] == "intent"
    assert run("ledger", "verify", "--proof", f"{file}", "--key", f"{kept / 'ledger.vkey'}").exit_code == 0


def test_a_proof_is_asked_for_on_the_record(kept: Path, root: Path) -> None:
    text = done("ledger", "prove", "0")
    [read] = [entry for entry in _entries(root / "data/toolgate.db") if entry["kind"] == "audit_read"]

    assert read["query"] == "prove"
    assert document("ledger", "prove", "0")["proof"].startswith("c2sp.org/tlog-proof@v1\nextra ")
    assert text.startswith("c2sp.org/tlog-proof@v1\nextra ")


def test_every_entry_can_be_proven_even_the_newest(kept: Path, root: Path) -> None:
    keys = read_keys(f"{kept / 'ledger.vkey'}")
    for entry in range(len(_entries(root / "data/toolgate.db"))):
        assert verify_proof(document("ledger", "prove", f"{entry}")["proof"], keys).verdict == "verified"


def test_an_entry_that_no_checkpoint_covers_is_covered_first(kept: Path, root: Path) -> None:
    database = root / "data/toolgate.db"
    with closing(sqlite3.connect(database)) as ledger:
        [(smallest,)] = ledger.execute("SELECT min(size) FROM ledger_checkpoint").fetchall()
        ledger.execute("DELETE FROM ledger_checkpoint WHERE size > ?", (smallest,))
        ledger.commit()

    assert proof_of(SqliteFile(database), smallest - 1) is not None
    assert proof_of(SqliteFile(database), smallest) is None
    assert _ledger("prove", f"{smallest - 1}")["size"] > smallest


def test_an_entry_that_is_not_there_is_told(kept: Path, root: Path) -> None:
    size = len(_entries(root / "data/toolgate.db"))

    assert f"there is no entry {size}" in faults("ledger", "prove", f"{size}")
    assert len(_entries(root / "data/toolgate.db")) == size, "nothing was shown, nothing is recorded"
    (root / "data/toolgate.db").unlink()
    assert "nothing was called yet" in faults("ledger", "prove", "0")


def test_a_database_that_cannot_be_read_is_told(kept: Path, root: Path) -> None:
    (root / "data/toolgate.db").write_bytes(b"this is no database" * 100)

    assert "file is not a database" in faults("ledger", "prove", "0")
    assert "file is not a database" in faults("ledger", "recover")


def test_an_entry_that_was_removed_is_not_proven(kept: Path, root: Path) -> None:
    database = root / "data/toolgate.db"
    with closing(sqlite3.connect(database)) as ledger:
        for (trigger,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            ledger.execute(f"DROP TRIGGER {trigger}")
        ledger.execute("DELETE FROM ledger_entry WHERE idx = 3")
        ledger.commit()

    with pytest.raises(LedgerUnavailable, match="does not hold what it published"):
        proof_of(SqliteFile(database), 3)


def test_a_changed_entry_is_not_proven(kept: Path, root: Path) -> None:
    _tamper(root / "data/toolgate.db")

    assert "does not hold what it published" in faults("ledger", "prove", "3")


# --- verify


def test_a_ledger_is_verified_by_copies_that_were_kept_elsewhere(kept: Path) -> None:
    result = run("ledger", "verify", *_given(kept))

    assert result.exit_code == 0
    assert result.stdout.startswith("VERIFIED: ")
    assert _ledger("verify", *_given(kept))["verdict"] == "verified"
    assert "not checked: that each column is what its entry says" in done(
        "ledger", "verify", "--hashes-only", *_given(kept)
    )


@pytest.mark.parametrize("missing", ["--key", "--checkpoint", "both"])
def test_without_copies_it_is_consistent_with_itself_only(kept: Path, missing: str) -> None:
    key, its, checkpoint, file = _given(kept)
    given = {"--key": (checkpoint, file), "--checkpoint": (key, its), "both": ()}[missing]
    result = run("ledger", "verify", *given)

    assert result.exit_code == 2
    assert result.stdout.startswith("CANNOT TELL")
    assert "pass copies that were kept where the gate cannot write" in result.stdout


def test_a_changed_entry_is_found(kept: Path, root: Path) -> None:
    _tamper(root / "data/toolgate.db")
    result = run("ledger", "verify", *_given(kept))

    assert result.exit_code == 1
    assert "TAMPERED: entry 3" in result.stdout


def test_two_checkpoints_show_that_nothing_was_taken_away(kept: Path, root: Path, tmp_path: Path) -> None:
    done("call", "notes.search")
    old, new = f"{kept / 'checkpoint'}", f"{root / 'data/checkpoint'}"
    key = ("--key", f"{kept / 'ledger.vkey'}")

    assert run("ledger", "verify", "--consistency", old, new, *key).exit_code == 0
    assert run("ledger", "verify", "--consistency", new, old, *key).exit_code == 2
    assert run("ledger", "verify", "--consistency", old, new).exit_code == 2
    no_proof = tmp_path / "no-proof"
    no_proof.write_text(base64.b64encode(bytes(32)).decode(), "utf-8")
    result = run("ledger", "verify", "--consistency", old, new, "--proof", f"{no_proof}", *key)
    assert result.exit_code == 1


def test_a_copy_is_verified_without_a_deployment(
    kept: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copy(root / "data/toolgate.db", tmp_path / "copy.db")
    monkeypatch.chdir(tmp_path)

    assert run("ledger", "verify", "--db", f"{copy}", *_given(kept)).exit_code == 0
    assert run("ledger", "verify", *_given(kept)).exit_code == 2, "no deployment: that is not 'tampered'"
    assert run("ledger", "verify", "--db", "gone.db", *_given(kept)).exit_code == 2
    assert run("ledger", "verify", "--proof", "gone").exit_code == 2
    assert run("ledger", "verify", "--key", "no+key+here", "--db", f"{copy}").exit_code == 2


def _tamper(database: Path) -> None:
    """Change an entry as somebody who can write the file would."""
    with closing(sqlite3.connect(database)) as ledger:
        for (trigger,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            ledger.execute(f"DROP TRIGGER {trigger}")
        body = ledger.execute("SELECT body FROM ledger_entry WHERE idx = 3").fetchone()[0]
        ledger.execute("UPDATE ledger_entry SET body = ? WHERE idx = 3", (body.replace(b"notes", b"goats"),))
        ledger.commit()


# --- recover


def _lose_the_end(root: Path) -> int:
    """Put an older copy in the database's place; gives how many entries it has."""
    database = root / "data/toolgate.db"
    old = database.read_bytes()
    size = len(_entries(database))
    done("call", "notes.search")
    assert not database.with_name("toolgate.db-wal").exists()
    database.write_bytes(old)
    return size


def test_a_lost_end_is_shown_and_accepted_only_when_that_is_said(kept: Path, root: Path) -> None:
    assert done("ledger", "recover") == "nothing is lost; nothing was changed\n"
    size = _lose_the_end(root)
    published = read_note("data/checkpoint")
    before = _entries(root / "data/toolgate.db")
    told = faults("ledger", "recover")

    assert f"holds {size} entries, but {published.size} were published" in told
    assert "asking again would run it again" in told
    assert _entries(root / "data/toolgate.db") == before
    assert f"but {published.size} were published" in faults("call", "notes.search")

    accepted = document("ledger", "recover", "--accept-loss")
    fault = _entries(root / "data/toolgate.db")[int(accepted["entry"])]
    assert (fault["kind"], fault["status"]) == ("fault", "loss_accepted")
    assert fault["detail"] == {
        "size": published.size,
        "root": base64.b64encode(published.root).decode(),
        "kept": size,
    }
    done("call", "notes.search")
    assert run("ledger", "verify", *_given(kept)).exit_code == 0
    assert done("ledger", "recover", "--accept-loss") == "nothing is lost; nothing was changed\n"


def test_the_lost_checkpoint_still_shows_the_loss_to_whoever_kept_it(kept: Path, root: Path) -> None:
    _lose_the_end(root)
    shutil.copy("data/checkpoint", kept)
    done("ledger", "recover", "--accept-loss")

    assert run("ledger", "verify", *_given(kept)).exit_code == 1


def test_a_loss_that_others_have_outgrown_is_refused_and_can_be_accepted(kept: Path, root: Path) -> None:
    size = _lose_the_end(root)
    (root / "data/checkpoint").rename(root / "data/aside")
    with closing(sqlite3.connect(root / "data/toolgate.db")) as ledger:
        ledger.execute("DELETE FROM ledger_checkpoint")
        ledger.commit()
    for _ in range(2):
        done("call", "notes.search")
    (root / "data/aside").replace(root / "data/checkpoint")

    assert "are not those that were published" in faults("call", "notes.search")
    assert document("ledger", "recover", "--accept-loss")["kept"] > size
    done("call", "notes.search")


def test_a_lost_checkpoint_is_refused_and_can_be_accepted(kept: Path, root: Path) -> None:
    (root / "data/checkpoint").unlink()
    assert "the last checkpoint, is gone" in faults("call", "notes.search")
    accepted = document("ledger", "recover", "--accept-loss")

    assert accepted["kept"] == accepted["size"]
    done("call", "notes.search")
    assert run("ledger", "verify", *_given(kept)).exit_code == 0


def test_a_database_that_is_damaged_in_itself_is_not_recovered(kept: Path, root: Path) -> None:
    with closing(sqlite3.connect(root / "data/toolgate.db")) as ledger:
        for (trigger,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            ledger.execute(f"DROP TRIGGER {trigger}")
        ledger.execute("DELETE FROM ledger_entry WHERE idx > 2")
        ledger.commit()

    assert "are not those that were published" in faults("call", "notes.search")
    assert "is damaged in itself" in faults("ledger", "recover", "--accept-loss")


def test_a_loss_across_a_change_of_the_key_says_what_to_do(kept: Path, root: Path) -> None:
    database = root / "data/toolgate.db"
    old = database.read_bytes()
    before = LogKey.read(root / "keys/ledger.key").verifier
    done("ledger", "rotate-key")
    database.write_bytes(old)

    assert "put the key of that time back" in faults("ledger", "recover", "--accept-loss")
    (root / f"keys/ledger.key.{before.id.hex()}").replace(root / "keys/ledger.key")
    (root / "data/checkpoint").unlink()
    done("ledger", "recover", "--accept-loss")
    assert run("ledger", "verify", *_given(kept)).exit_code == 0


def test_only_the_loss_that_was_accepted_is_passed_over(kept: Path, root: Path) -> None:
    _lose_the_end(root)
    key, file = LogKey.read(root / "keys/ledger.key"), root / "data/checkpoint"
    writer = SqliteWriter(root / "data/toolgate.db", AcceptedLoss(key, file))
    file.write_text(str(key.note(Checkpoint(key.verifier.name, 4, bytes(32)))), "utf-8")

    with pytest.raises(LedgerUnavailable, match="does not extend"):
        asyncio.run(_publish(writer))
    writer.close()


@pytest.mark.parametrize("step", ["fault written", "file replaced"])
def test_a_recovery_that_is_killed_leaves_the_refusal_or_the_recovered_ledger(
    kept: Path, root: Path, step: str
) -> None:
    _lose_the_end(root)
    _killed_at({"fault written": "publish", "file replaced": "row"}[step], "recover", "--accept-loss")

    if step == "fault written":
        assert "were published" in faults("call", "notes.search")
        done("ledger", "recover", "--accept-loss")
    done("call", "notes.search")
    assert run("ledger", "verify", *_given(kept)).exit_code == 0


# --- rotate-key


def test_a_new_key_is_endorsed_and_both_sign_the_next_checkpoint(kept: Path, root: Path) -> None:
    old = LogKey.read(root / "keys/ledger.key").verifier
    rotated = document("ledger", "rotate-key")
    new = LogKey.read(root / "keys/ledger.key").verifier
    entry = _entries(root / "data/toolgate.db")[int(rotated["entry"])]
    notes = _notes(root / "data/toolgate.db")

    assert (entry["kind"], entry["old"], entry["new"]) == ("key_rotate", str(old), str(new))
    assert (new.name, rotated["new"]) == (old.name, str(new))
    assert (root / "keys/ledger.vkey").read_text() == f"{new}\n"
    aside = root / f"keys/ledger.key.{old.id.hex()}"
    assert aside.stat().st_mode & 0o777 == (root / "keys/ledger.key").stat().st_mode & 0o777 == 0o600
    assert LogKey.read(aside).verifier == old
    signers = {size: [one.key_id for one in note.signatures] for size, note in notes.items()}
    after = [ids for size, ids in signers.items() if size > rotated["entry"]]
    assert after[0] == [old.id, new.id]
    assert after[1:] == [[new.id]] * (len(after) - 1)
    done("call", "notes.search")
    done("ledger", "rotate-key")
    assert run("ledger", "verify", *_given(kept)).exit_code == 0, "who has the first key can follow"


def _notes(database: Path) -> dict[int, Note]:
    with closing(sqlite3.connect(database)) as ledger:
        rows = ledger.execute("SELECT size, note FROM ledger_checkpoint ORDER BY size").fetchall()
    return {size: Note.parse(note) for size, note in rows}


@pytest.mark.parametrize("step", ["commit", "publish", "row", "finish", "vkey", "rename"])
def test_a_rotation_that_is_killed_is_finished_or_never_was(kept: Path, root: Path, step: str) -> None:
    old = LogKey.read(root / "keys/ledger.key").verifier
    _killed_at(step, "rotate-key")
    key, file = LogKey.read(root / "keys/ledger.key"), root / "data/checkpoint"
    SqliteWriter(root / "data/toolgate.db", Checkpoints(key, file)).close()
    assert not (root / "keys/ledger.key.next").exists(), "who opens the ledger has the last word"
    done("call", "notes.search")
    rotated = [entry for entry in _entries(root / "data/toolgate.db") if entry["kind"] == "key_rotate"]

    now = LogKey.read(root / "keys/ledger.key").verifier
    assert [entry["new"] for entry in rotated] == ([] if step == "commit" else [str(now)])
    assert (now == old) == (step == "commit")
    assert (root / "keys/ledger.vkey").read_text() == f"{now}\n"
    assert run("ledger", "verify", *_given(kept)).exit_code == 0
    done("ledger", "rotate-key")
    assert run("ledger", "verify", *_given(kept)).exit_code == 0


async def test_a_process_that_runs_goes_on_with_the_new_key(tmp_path: Path) -> None:
    running, other = ledger_in(tmp_path), ledger_in(tmp_path)
    first = LogKey.read(tmp_path / "ledger.key").verifier
    await _write(running)
    await running.writer.publish()
    new = await _rotate(other, tmp_path)
    await _write(running)
    note = await running.writer.publish()
    await running.aclose()
    await other.aclose()

    assert note is not None
    assert [one.key_id for one in note.signatures] == [new.verifier.id]
    assert _verified(tmp_path, first).verdict == "verified"


async def test_a_process_that_runs_finishes_what_a_killed_one_began(tmp_path: Path) -> None:
    running, other = ledger_in(tmp_path), ledger_in(tmp_path)
    first = LogKey.read(tmp_path / "ledger.key").verifier
    file = tmp_path / "ledger.key"
    _, new = await other.writer.write(
        partial(log_key_rotation.begin_rotation, entries=other.entries, file=file)
    )
    with pytest.raises(LedgerUnavailable, match="not finished"):
        await other.writer.write(partial(log_key_rotation.begin_rotation, entries=other.entries, file=file))
    await _write(running)
    note = await running.writer.publish()
    await running.aclose()
    await other.aclose()

    assert note is not None
    assert [one.key_id for one in note.signatures] == [first.id, new.verifier.id]
    assert LogKey.read(file).verifier == new.verifier
    assert _verified(tmp_path, first).verdict == "verified"


async def test_a_key_that_the_ledger_does_not_know_is_dropped(tmp_path: Path) -> None:
    await ledger_in(tmp_path).aclose()
    key = LogKey.read(tmp_path / "ledger.key").verifier
    LogKey.new("toolgate/test").keep(tmp_path / "ledger.key.next")
    ledger = ledger_in(tmp_path)
    await _write(ledger)
    await ledger.aclose()

    assert not (tmp_path / "ledger.key.next").exists()
    assert _verified(tmp_path, key).verdict == "verified"


async def test_a_checkpoint_that_a_strange_key_signed_is_not_taken_for_ours(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    await _write(ledger)
    await ledger.aclose()
    (tmp_path / "ledger.key").unlink()
    LogKey.new("toolgate/test").write(tmp_path / "ledger.key")

    with pytest.raises(LedgerUnavailable, match="not signed by this ledger's key"):
        ledger_in(tmp_path)


async def _publish(writer: SqliteWriter) -> None:
    await writer.publish()


async def _write(ledger: LedgerParts) -> None:
    entry = ledger.entries.bare("config", "in_force", digests={})
    await ledger.writer.write(lambda batch: batch.append(entry))


async def _rotate(ledger: LedgerParts, folder: Path) -> LogKey:
    begin = partial(log_key_rotation.begin_rotation, entries=ledger.entries, file=folder / "ledger.key")
    _, new = await ledger.writer.write(begin)
    await ledger.writer.publish()
    return new


def _verified(folder: Path, key: object) -> Report:
    checkpoint = f"{folder / 'checkpoint'}"
    return verify_ledger(
        folder / "ledger.db",
        keys=[VerifierKey.parse(f"{key}")],
        checkpoints=[(checkpoint, read_note(checkpoint))],
    )


def _killed_at(step: str, *words: str) -> None:
    """Run a command of `toolgate ledger` that is killed just before a step."""
    killed = subprocess.run(
        [sys.executable, "-c", _DIES, step, *words], check=False, env=os.environ | {"PYTHONPATH": _path()}
    )
    assert killed.returncode == -signal.SIGKILL


def _path() -> str:
    return os.pathsep.join([f"{REPO}", os.environ.get("PYTHONPATH", "")])


_DIES = """
import os, signal, sys
from pathlib import Path

from tests.shell import run
from toolgate.backends import checkpoints, log_key, log_key_rotation, sqlite_writer

step, *words = sys.argv[1:]
seen = {"began": False}

def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

begin = log_key_rotation.begin_rotation
if step == "commit":
    def begun(*args, **kwargs):
        begin(*args, **kwargs)
        die()
    import toolgate.cli.ledger_proofs as command
    command.begin_rotation = begun
elif step == "publish":
    checkpoints.Checkpoints.publish = die
elif step == "row":
    replace = checkpoints.replace_file
    def replaced(file, text, mode):
        replace(file, text, mode)
        die()
    checkpoints.replace_file = replaced
elif step == "finish":
    checkpoints.finish_rotation = die
elif step == "vkey":
    log_key.LogKey.show = die
elif step == "rename":
    show = log_key.LogKey.show
    def shown(self, file):
        show(self, file)
        die()
    log_key.LogKey.show = shown
run("ledger", *words)
"""
