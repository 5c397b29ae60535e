"""Calls, their records and the secrets that they sign in with, at a shell."""

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from subprocess import PIPE

import pytest
from pydantic import SecretStr

from tests.shell import document, done, faults, replace, run
from toolgate.backends.keystore import Keystore
from toolgate.main import now

CANARY = "canary-3f9c17"
KEY = "a-key-of-16-chars-or-more"


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the deployment's folder, on a terminal that does not break lines."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    return root


# --- call


def test_a_call_that_is_done_gives_its_result_and_its_entry() -> None:
    result = run("call", "notes.search", "--args", '{"contains": "set up"}')

    assert result.exit_code == 0
    assert json.loads(result.stdout)["rows"][0]["text"] == "Toolgate was set up"
    assert "done (ledger entry 4, call c" in result.stderr


def test_a_call_under_the_same_key_is_not_done_twice() -> None:
    words = ("call", "notes.add", "--args", '{"text": "once"}', "--key", KEY)
    first, second = document(*words), document(*words)

    assert (first["replayed"], second["replayed"]) == (False, True)
    assert second["outcome"] == first["outcome"]
    assert "already applied (ledger entry " in run(*words).stderr


def test_a_call_that_looks_repeated_is_done_when_the_caller_insists() -> None:
    words = ("call", "notes.add", "--args", '{"text": "twice"}')

    assert [run(*words).exit_code for _ in range(2)] == [0, 1]
    assert run(*words, "--again").exit_code == 0


def test_a_refused_call_ends_with_1_and_says_why() -> None:
    result = run("call", "notes.remove", "--args", '{"id": 1}', "--as", "reader")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "there is no such tool" in result.stderr
    assert "refused: unknown_tool (ledger entry 3, call c" in result.stderr


def test_a_call_that_broke_off_after_its_send_ends_with_3() -> None:
    replace("registry/notes.toml", "returning id, text, written", "returning text as id, text, written")
    result = run("call", "notes.add", "--args", '{"text": "x"}')

    assert result.exit_code == 3
    assert "whether it took effect cannot be told" in result.stderr


@pytest.mark.parametrize("arguments", ["{", "[]", "7", "null"])
def test_arguments_that_are_no_json_object_end_with_2(arguments: str) -> None:
    result = run("call", "notes.search", "--args", arguments)

    assert result.exit_code == 2
    assert "--args" in result.stderr


def test_a_caller_that_is_not_named_is_told_with_those_that_are() -> None:
    assert "there is no caller 'max' (there are: auditor, member, reader)" in faults(
        "call", "notes.search", "--as", "max"
    )


def test_without_a_local_caller_one_must_be_named() -> None:
    replace("toolgate.toml", 'local_caller = "member"', "")

    assert "nobody is named as the local caller (set it, or say --as" in faults("call", "notes.search")
    assert "there is no caller ''" in faults("token")
    assert run("call", "notes.search", "--as", "reader").exit_code == 0


def test_somebody_who_does_not_own_the_deployment_calls_with_a_token_only(root: Path) -> None:
    os.chown(root, os.getuid() + 1, -1)

    told = faults("call", "notes.search")
    assert f"it belongs to user {os.getuid() + 1}" in told
    assert "call over HTTP with a token" in told


# --- secrets


def test_a_secret_is_read_from_standard_input_and_never_shown() -> None:
    shown = done("secrets", "set", "crm", given=f"{CANARY}\n")
    shown += done("secrets", "set", "mail", "--json", given=CANARY)
    entries = document("secrets", "list")["entries"]
    assert [entry["name"] for entry in entries] == ["crm", "mail"]
    assert all(abs(datetime.fromisoformat(entry["set_at"]) - now()) < timedelta(hours=1) for entry in entries)
    shown += done("secrets", "list")
    shown += done("secrets", "rm", "crm")

    assert re.fullmatch(r"mail  set \d{4}-\d\d-\d\d \d\d:\d\d UTC\n", done("secrets", "list"))
    assert "crm is set\n" in shown
    assert "crm is removed\n" in shown
    assert CANARY not in shown
    assert not any(CANARY.encode() in file.read_bytes() for file in Path("keys").iterdir())


def test_a_tool_signs_in_with_the_whole_secret_even_of_many_lines(root: Path) -> None:
    done("secrets", "set", "key", given="-----BEGIN\nline\n-----END\n")
    kept = Keystore(root / "keys/keystore.json", passphrase=None, dev=True).get("key")
    assert kept.get_secret_value() == "-----BEGIN\nline\n-----END"


def test_an_empty_secret_and_an_unknown_entry_are_told() -> None:
    assert done("secrets", "list") == "no entries\n"
    assert run("secrets", "set", "crm", given="\n").exit_code == 2
    assert "the keystore has no entry 'crm'" in faults("secrets", "rm", "crm")


def test_an_entry_gets_a_new_secret_only_where_there_is_one(root: Path) -> None:
    keystore = Keystore(root / "keys/keystore.json", passphrase=None, dev=True)
    refused = run("secrets", "rotate", "crm", given=CANARY)
    assert "add it with: toolgate secrets set crm" in str(refused.exception)
    assert keystore.names() == []

    done("secrets", "set", "crm", given="old")
    shown = done("secrets", "rotate", "crm", given=CANARY)
    assert (shown, keystore.get("crm").get_secret_value()) == ("crm has a new secret\n", CANARY)
    assert run("secrets", "rotate", "crm", given="\n").exit_code == 2
    assert keystore.get("crm").get_secret_value() == CANARY


@pytest.mark.parametrize("words", [(), ("crm", "--key")])
def test_either_an_entry_or_the_key_is_rotated(words: tuple[str, ...]) -> None:
    assert run("secrets", "rotate", *words, given=CANARY).exit_code == 2


def test_the_keystores_key_is_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("secrets", "set", "crm", given=CANARY)
    assert done("secrets", "rotate", "--key") == (
        "the keystore has a new key (file); 1 entry is sealed anew\n"
    )

    monkeypatch.setenv("TOOLGATE_NEW_PASSPHRASE", "a new passphrase")
    told = document("secrets", "rotate", "--key")
    assert told == {"ok": True, "key": "passphrase", "entries": 1, "old_key_removed": True}
    assert "set TOOLGATE_PASSPHRASE" in faults("secrets", "list")
    monkeypatch.setenv("TOOLGATE_PASSPHRASE", "a new passphrase")
    same = run("secrets", "rotate", "--key")
    assert (same.exit_code, "it is the old passphrase" in same.output) == (2, True)
    monkeypatch.setenv("TOOLGATE_NEW_PASSPHRASE", "a third passphrase")
    shown = done("secrets", "rotate", "--key")
    assert "start gates again with it" in shown
    assert "passphrase" not in shown.replace("(passphrase)", "").replace("TOOLGATE_PASSPHRASE", "")

    opened = Keystore(root / "keys/keystore.json", passphrase=SecretStr("a third passphrase"), dev=False)
    assert opened.get("crm").get_secret_value() == CANARY


def test_a_gate_takes_up_a_rotated_secret_and_a_rotated_key(root: Path) -> None:
    done("secrets", "set", "crm", given="old")
    gate = Keystore(root / "keys/keystore.json", passphrase=None, dev=True)
    for secret in ("new", "newer"):
        done("secrets", "rotate", "crm", given=secret)
        assert gate.get("crm").get_secret_value() == secret
        done("secrets", "rotate", "--key")
        assert gate.get("crm").get_secret_value() == secret


def test_a_secret_that_a_manifest_needs_is_missed_before_a_call_needs_it() -> None:
    replace("registry/notes.toml", 'credential = "none"', 'credential = "agent"')
    replace(
        "registry/notes.toml",
        "[tools.search]",
        '[credentials.agent]\nsecret = "desk"\nsign_in = "basic"\n[tools.search]',
    )

    assert "no entry 'desk' (add it: toolgate secrets set desk)" in faults("call", "notes.search")
    done("secrets", "set", "desk", given="x")
    assert run("call", "notes.search").exit_code == 0


def test_a_secret_that_is_typed_on_a_terminal_is_not_echoed() -> None:
    screen, keyboard = pty.openpty()
    command = [sys.executable, "-m", "toolgate", "secrets", "set", "crm"]
    with subprocess.Popen(
        command, stdin=keyboard, stdout=PIPE, stderr=PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.read(1)  # the end of the prompt: from here on nothing is echoed
        os.write(screen, f"{CANARY}\n".encode())
        shown = process.stdout.read() + process.stderr.read()
    for end in (screen, keyboard):
        os.close(end)

    assert shown.startswith(b"Secret:")
    assert b"crm is set" in shown
    assert CANARY.encode() not in shown
    assert process.returncode == 0


# --- calls


def test_the_newest_calls_are_listed_first_with_their_ends() -> None:
    run("call", "notes.search")
    run("call", "notes.nothing", "--as", "reader")
    run("call", "notes.add", "--args", '{"text": "x"}')
    listed = document("calls", "list")

    assert [(call["tool"], call["end"]) for call in listed] == [
        ("notes.add", "done"),
        ("notes.nothing", "unknown_tool"),
        ("notes.search", "done"),
    ]
    assert [call["entry"] for call in listed] == sorted((call["entry"] for call in listed), reverse=True)
    assert [call["tool"] for call in document("calls", "list", "--subject", "rob")] == ["notes.nothing"]
    assert len(document("calls", "list", "--tool", "notes.add", "--most", "1")) == 1
    shown = done("calls", "list")
    assert "rob (home)" in shown
    assert listed[0]["call_id"] in shown


def test_every_entry_of_a_call_is_shown_with_what_was_captured() -> None:
    run("call", "notes.add", "--args", '{"text": "kept words"}')
    call_id = document("calls", "list")[0]["call_id"]
    intent, outcome = document("calls", "show", call_id)
    shown = done("calls", "show", call_id)

    assert (intent["entry"], outcome["entry"]) == (3, 4), "genesis, writer_start and config come first"
    assert intent["captured"]["arguments"] == {"text": "kept words"}
    assert intent["names"] == outcome["names"] == {intent["who"]: "mia", intent["client"]: "member"}
    assert "kept words" in shown
    run("call", "notes.nothing")
    refusal = document("calls", "show", document("calls", "list")[0]["call_id"])
    assert refusal[0]["captured"] == {"asked": "notes.nothing"}
    assert shown.index("Entry 3") < shown.index("Entry 4")


def test_a_call_that_is_not_recorded_is_told(root: Path) -> None:
    assert "nothing was called yet" in faults("calls", "list")
    run("call", "notes.search")
    assert "no call c-1 is recorded; see: toolgate calls list" in faults("calls", "show", "c-1")

    (root / "data" / "toolgate.db").write_bytes(b"this is no database" * 100)
    assert "file is not a database" in faults("calls", "list")
    assert "file is not a database" in faults("calls", "show", "c-1")


def test_whoever_looks_at_calls_is_recorded_before_anything_is_shown(root: Path) -> None:
    run("call", "notes.search")
    call_id = document("calls", "list", "--most", "1")[0]["call_id"]
    done("calls", "show", call_id)
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as ledger:
        found = ledger.execute("SELECT body FROM ledger_entry WHERE kind = 'audit_read' ORDER BY idx")
        reads = [json.loads(row[0]) for row in found]

    assert [read["query"] for read in reads] == ["calls list", "calls show"]
