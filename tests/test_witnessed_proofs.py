"""Proofs that carry what witnesses said, and those who check them offline."""

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.shell import document, done, faults, run
from tests.witnesses import RunningWitness, ledger_key_of, let_witness, mark_witnessed, witnessing
from toolgate.backends.cosignatures import growth
from toolgate.backends.cosigning import WitnessKey
from toolgate.backends.log_key import LogKey
from toolgate.backends.sqlite_files import reader
from toolgate.core.note import VerifierKey
from toolgate.main import open_house

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    return root


@pytest.fixture
def two(here: Path, tmp_path: Path) -> Generator[list[RunningWitness]]:
    """Three witnesses, of which two are the quorum; the third is down."""
    with ExitStack() as open_ones:
        key = ledger_key_of(here)
        names = ("w1", "w2", "w3")
        made = [witnessing(tmp_path / name, name, key, starts=False) for name in names]
        witnesses = [open_ones.enter_context(each) for each in made]
        with ThreadPoolExecutor() as pool:
            list(pool.map(RunningWitness.start, witnesses[:2]))
        let_witness(here, "2", *witnesses)
        yield witnesses


@pytest.fixture
def proof(here: Path, two: list[RunningWitness], tmp_path: Path) -> Path:
    """Of the intent of a call that waited for its witnesses."""
    mark_witnessed(here, "add")
    done("call", "notes.add", "--args", '{"text": "x"}')
    with closing(sqlite3.connect("data/toolgate.db")) as ledger:
        (intent,) = ledger.execute("SELECT idx FROM ledger_entry WHERE kind = 'intent'").fetchone()
    done("ledger", "prove", f"{intent}", "--out", f"{tmp_path / 'it.tlog-proof'}")
    return tmp_path / "it.tlog-proof"


def verified(*words: str) -> tuple[int, Any]:
    """Verify by the command, and by the file that needs no Toolgate; both must say the same."""
    result = run("ledger", "verify", *words, "--json")
    said = json.loads(result.stdout)
    alone = {"--proof": "proof", "--db": "ledger"}[words[0]]
    command = [sys.executable, f"{REPO / 'tools' / 'verify.py'}", alone, *words[1:], "--json"]
    other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(other.stdout)["verdict"] == said["verdict"], other.stdout
    assert other.returncode == result.exit_code
    return result.exit_code, said


def test_a_proof_carries_the_quorum_and_is_verified_by_its_policy(here: Path, proof: Path) -> None:
    code, said = verified("--proof", f"{proof}", "--witnesses", "witnesses.policy")
    assert (code, said["doubts"]) == (0, []), said
    (told,) = [line for line in said["checked"] if "cosigned" in line]
    assert "'w1' at 20" in told
    assert "'w2' at 20" in told
    assert proof.read_text("utf-8").count("\u2014 ") == 3

    code, said = verified("--proof", f"{proof}", "--key", "keys/ledger.vkey")
    assert code == 0
    assert any("--witnesses" in line for line in said["not_checked"]), "it says what it did not look at"


def test_without_the_quorum_it_cannot_tell_and_of_a_false_line_it_says_so(
    here: Path, proof: Path, tmp_path: Path
) -> None:
    policy = Path("witnesses.policy").read_text("utf-8")
    text = proof.read_text("utf-8")
    lines = text.splitlines(keepends=True)

    def verdict(lines: list[str], policy: str = policy) -> tuple[int, str]:
        changed, other = tmp_path / "changed", tmp_path / "policy"
        changed.write_text("".join(lines), "utf-8")
        other.write_text(policy, "utf-8")
        code, said = verified("--proof", f"{changed}", "--witnesses", f"{other}")
        return code, json.dumps(said)

    assert verdict(lines)[0] == 0
    quantum = base64.b64encode(b"\x01\x02\x03\x04" + bytes(8 + 2420)).decode()
    assert verdict([*lines, f"\u2014 witness.example/w1 {quantum}\n"])[0] == 0, "of another kind of key"
    one_missing = verdict(lines[:-1])
    assert one_missing[0] == 2
    assert "not cosigned by the quorum of the policy: 'w1'" in one_missing[1]
    assert verdict(lines, policy.replace("enough 2", "enough all"))[0] == 2
    assert verdict(lines, policy.replace("enough 2", "enough any"))[0] == 0
    code, told = verdict(lines[:-2], policy.replace("quorum enough", "quorum none"))
    assert code == 0
    assert "nobody" not in told
    assert "the policy demands none (quorum none)" in told
    false = lines[-1][:-12] + ("A" if lines[-1][-12] != "A" else "B") + lines[-1][-11:]
    code, said = verdict([*lines[:-1], false])
    assert code == 1
    assert "the cosignature of witness 'w2' is false" in said
    swapped = [*lines[:-1], lines[-2]]
    assert verdict(swapped)[0] == 2, "one witness twice is one witness"
    code, said = verdict(lines, policy.replace("enough 2 w1 w2 w3", "enough 2 w1 w1"))
    assert code == 2
    assert "line 5" in said


def test_the_whole_ledger_is_verified_with_its_cosignatures(here: Path, proof: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect("data/toolgate.db")) as ledger, closing(sqlite3.connect(copy)) as other:
        ledger.backup(other)
    note = proof.read_text("utf-8").partition("\n\n")[2]
    kept = tmp_path / "checkpoint"
    kept.write_text(note, "utf-8")
    words = ("--db", f"{copy}", "--witnesses", "witnesses.policy", "--checkpoint", f"{kept}")

    code, said = verified(*words)
    assert code == 0, said
    assert any("cosigned by the quorum of the policy: 'w1' at" in line for line in said["checked"])
    code, said = verified("--db", f"{copy}", "--key", "keys/ledger.vkey", "--checkpoint", f"{kept}")
    assert code == 0
    assert any("--witnesses" in line for line in said["not_checked"])

    with closing(sqlite3.connect(copy)) as ledger, ledger:
        ledger.execute("DELETE FROM ledger_cosignature")
    assert verified(*words)[0] == 0, "the checkpoint that was kept has its own lines"
    kept.write_text("".join(note.splitlines(keepends=True)[:-1]), "utf-8")
    code, said = verified(*words)
    assert code == 2
    assert "cosigned by the quorum" in json.dumps(said["doubts"])
    shutil.copy("data/toolgate.db", copy)
    with closing(sqlite3.connect(copy)) as ledger, ledger:
        rows = ledger.execute("SELECT size, witness, line FROM ledger_cosignature").fetchall()
        for size, witness, line in rows:
            false = line[:-12] + ("A" if line[-12] != "A" else "B") + line[-11:]
            place = "WHERE size = ? AND witness = ?"
            ledger.execute(f"UPDATE ledger_cosignature SET line = ? {place}", (false, size, witness))  # noqa: S608
    code, said = verified(*words)
    assert code == 1
    assert "false" in json.dumps(said["faults"])


def test_where_the_quorum_cannot_be_had_no_proof_pretends_to_have_it(
    here: Path, proof: Path, two: list[RunningWitness]
) -> None:
    done("call", "notes.search")
    two[1].stop()
    newest = f"{_newest_entry()}"
    told = faults("ledger", "prove", newest)
    assert "is not cosigned by the quorum" in told or "cosigned by the quorum: w" in told
    assert "w2 does not answer" in told or "w2 it does not answer" in told
    assert document("ledger", "prove", newest, "--unwitnessed")["proof"]
    two[1].start()
    assert document("ledger", "prove", newest)["proof"].count("\u2014 ") == 3


def _newest_entry() -> int:
    with closing(sqlite3.connect("data/toolgate.db")) as ledger:
        return int(ledger.execute("SELECT max(idx) FROM ledger_entry WHERE kind = 'intent'").fetchone()[0])


def test_what_is_wrong_with_the_policy_is_told_before_anything_is_served(here: Path) -> None:
    assert "nothing to refuse" in done("check")
    mark_witnessed(here, "add")
    result = run("check")
    assert result.exit_code == 1
    assert "tools.add.witnessed" in result.output
    assert "it waits for witnesses, and no quorum of any is demanded" in result.output
    settings = Path("toolgate.toml")
    settings.write_text('witnesses = "witnesses.policy"\n' + settings.read_text("utf-8"), "utf-8")
    assert "No such file" in run("check").output
    policy = Path("witnesses.policy")
    policy.write_text("quorum none\n", "utf-8")
    assert "it would wait for nobody" in run("check").output
    policy.write_text(f"witness w {_witness_key()}\nquorum w\nwitness w x\nnonsense\n", "utf-8")
    said = run("check").output
    for expected in ("line 3", "line 4", "'nonsense' begins no line"):
        assert expected in said
    policy.write_text(f"witness w {_witness_key()}\nquorum w\n", "utf-8")
    assert "it has no URL, so it cannot be asked" in run("check").output
    policy.write_text(f"witness w {_witness_key()} https://w.example\nquorum w\n", "utf-8")
    assert "nothing to refuse" in done("check")
    done("call", "notes.search")
    policy.write_text(f"log {_log_key()}\nwitness w {_witness_key()} https://w.example\nquorum w\n", "utf-8")
    warned = run("check")
    assert warned.exit_code == 0
    assert "none of them has the key of ledger.vkey" in warned.output


def _witness_key() -> str:
    return f"{WitnessKey.new('w').verifier}"


def _log_key() -> str:
    return f"{LogKey.new('other.example/log').verifier}"


def test_of_two_checkpoints_the_newer_one_must_have_the_quorum(
    here: Path, proof: Path, tmp_path: Path
) -> None:
    old, new, hashes = tmp_path / "old", tmp_path / "new", tmp_path / "hashes"
    done("call", "notes.search")
    later = document("ledger", "prove", f"{_newest_entry()}")["proof"]
    for file, text in ((old, proof.read_text("utf-8")), (new, later)):
        file.write_text(text.partition("\n\n")[2], "utf-8")
    sizes = [int(file.read_text("utf-8").splitlines()[1]) for file in (old, new)]
    parts = growth(reader(Path("data/toolgate.db")), *sizes)
    hashes.write_text("".join(f"{base64.b64encode(part).decode()}\n" for part in parts), "utf-8")

    def verdict(older: Path, newer: Path, *more: str) -> int:
        words = ("--consistency", f"{older}", f"{newer}", *more, "--witnesses", "witnesses.policy")
        return run("ledger", "verify", *words).exit_code

    assert verdict(old, new, "--proof", f"{hashes}") == 0
    assert verdict(old, new) == 0, "the same with the database"
    lines = new.read_text("utf-8").splitlines(keepends=True)
    new.write_text("".join(lines[:-1]), "utf-8")
    assert verdict(old, new, "--proof", f"{hashes}") == 2


@pytest.mark.anyio
async def test_a_tool_that_waits_for_nobody_is_not_taken_up_by_a_running_gate(root: Path) -> None:
    async with open_house(root) as house:
        assert await house.reload() == []
        mark_witnessed(root, "add")
        assert [fault.place for fault in await house.reload()] == ["tools.add.witnessed"]
        tool = house.gateway.rulebook().catalog.find("notes.add")
        assert tool is not None
        assert not tool.terms.witnessed


def test_after_a_change_of_the_key_witnesses_wait_until_they_are_given_it(
    here: Path, proof: Path, two: list[RunningWitness]
) -> None:
    done("ledger", "rotate-key")
    add = ("call", "notes.add", "--args", '{"text": "after"}')
    refused = run(*add)
    assert refused.exit_code == 1
    assert "does not know this ledger's key (HTTP 403)" in refused.output
    new = VerifierKey.parse(Path("keys/ledger.vkey").read_text("utf-8"))
    for witness in two[:2]:
        witness.stop()
        witness.logs = (*witness.logs, new)
        witness.start()
    done(*add)
    assert "none of them has the key" in run("check").output
