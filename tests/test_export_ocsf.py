"""Events for a SIEM: every entry once and in order, valid by the schema, each with what proves its entry."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from tests.ledgers import ORIGIN, Signer, Story, a_story, publish, write
from tests.ocsf_schema import CLASSES, faults_in
from tests.shell import document, done, faults, run
from toolgate.backends.export_ocsf import Sent, Wanted, export_ocsf, keep_cursor, read_cursor
from toolgate.backends.ledger_reading import Published
from toolgate.backends.sqlite_files import reader
from toolgate.core.errors import LedgerUnavailable
from toolgate.verifier import Note

OURS, NEXT = Signer(1), Signer(2)
WHO: Final = "p" + "0" * 20


@pytest.fixture(scope="module")
def story() -> Story:
    """Calls and leases of every end, and one entry of each other kind."""
    told = a_story(3, (2, OURS, NEXT))
    told.lent(5)
    others: list[tuple[str, str, dict[str, Any]]] = [
        ("policy", "activated", {"policy": "a" * 64, "cases": 3, "override": True}),
        (
            "auth_failure",
            "coalesced",
            {"count": 3, "source": {"hmac": "x", "length": 1}, "reasons": {"expired": 3}},
        ),
        ("audit_read", "shown", {"query": "calls"}),
        ("fault", "clock_step", {"detail": {"seconds": 4}}),
        (
            "resolve",
            "done",
            {"intent": 4, "attempt": 1, "call_id": "c-acme-0", "tool": "tracker.issue.create"},
        ),
        ("outcome", "input_required", {"intent": 4, "outcome": "input_required", "call_id": "c-acme-0"}),
        ("a_kind_of_tomorrow", "well", {"call_id": "c-acme-9"}),
        ("writer_stop", "stopped", {"program": "1.0"}),
    ]
    for kind, status, fields in others:
        told.add(kind, status, **fields)
        if kind in {"policy", "audit_read", "resolve"}:
            told.bodies[-1]["by"] = WHO
    told.bodies[4] |= {"effect": "destroy", "client": "p" + "1" * 20, "run": "p" + "2" * 20}
    told.bodies[4]["trace"] = f"00-{'ab' * 16}-{'cd' * 8}-01"
    return told


@contextmanager
def _changing(database: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(database)) as connection, connection:
        yield connection


@pytest.fixture
def database(story: Story, tmp_path: Path) -> Path:
    database = tmp_path / "ledger.db"
    write(story, database, [(20, OURS), (len(story.bodies), NEXT)])
    with _changing(database) as connection:
        connection.execute("DELETE FROM pseudonym")
        for name, clear in (("p" + "3" * 20, "mia"), (WHO, "ann")):
            row = (name, f'["acme","issuer","{clear}"]'.encode())
            connection.execute("INSERT INTO pseudonym VALUES (?, 'subject', ?)", row)
    return database


def _events(
    database: Path, wanted: Wanted | None = None, after: Published | None = None
) -> list[dict[str, Any]]:
    file = io.BytesIO()
    export_ocsf(reader(database), file, wanted or Wanted(), lambda done, total: None, after=after)
    return [json.loads(line) for line in file.getvalue().splitlines()]


# --- What an event says


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(names=True, whole=True)])
def test_every_event_is_valid_by_the_schema(database: Path, story: Story, wanted: Wanted) -> None:
    events = _events(database, wanted)

    assert [faults_in(event) for event in events] == [[]] * len(story.bodies)
    assert {event["class_uid"] for event in events} == set(CLASSES)


def test_the_schema_of_the_tests_refuses_what_is_wrong(database: Path) -> None:
    event = next(event for event in _events(database) if event["class_uid"] == 6003)
    wrong: list[tuple[str, object]] = [
        ("actor", {}),
        ("api", {}),
        ("src_endpoint", {}),
        ("time", "now"),
        ("type_uid", 600399),
        ("color", "red"),
        ("severity_id", 7),
        ("attestation_list", {}),
    ]
    for name, value in wrong:
        assert faults_in(event | {name: value}), name
    assert faults_in({name: value for name, value in event.items() if name != "metadata"})


def test_every_index_is_there_once_and_in_order(database: Path, story: Story) -> None:
    sequence = [event["metadata"]["sequence"] for event in _events(database)]

    assert sequence == list(range(len(story.bodies)))


def test_the_fingerprint_is_the_hash_in_the_tree(database: Path, story: Story) -> None:
    for event, body in zip(_events(database, Wanted(whole=True)), story.bodies, strict=True):
        (attestation,) = event["attestation_list"]
        assert json.loads(event["raw_data"]) == body
        assert attestation["fingerprint"] == {
            "algorithm_id": 3,
            "algorithm": "SHA-256",
            "value": sha256(b"\0" + event["raw_data"].encode()).hexdigest(),
        }
        assert attestation["chain_uid"] == ORIGIN
        assert attestation["authority_uid"] == f"{ORIGIN}+{NEXT.key.id.hex()}"
        assert "prev_event" not in attestation, "a tree, not a chain"


def test_a_call_is_two_events_of_one_correlation(database: Path, story: Story) -> None:
    events = _events(database)
    intent, outcome = events[4], events[7]

    assert (intent["metadata"]["event_code"], outcome["metadata"]["event_code"]) == ("intent", "outcome")
    assert intent["metadata"]["correlation_uid"] == outcome["metadata"]["correlation_uid"] == "c-acme-0"
    assert intent["api"] == {
        "operation": "tracker.issue.create",
        "service": {"name": "tracker"},
        "request": {"uid": "c-acme-0"},
    }
    assert (intent["activity_name"], outcome["activity_name"]) == ("Delete", "Delete"), (
        "by the intent's effect"
    )
    assert (intent["status_id"], intent["status"]) == (99, "opened")
    assert intent["ai_agent"] == {"uid": "p" + "1" * 20, "instance_uid": "p" + "2" * 20}
    assert intent["trace"] == {"uid": "ab" * 16}
    assert intent["actor"]["authorizations"] == [
        {"decision": "allow", "policy": {"uid": "members-may-write"}}
    ]
    assert intent["src_endpoint"] == {"uid": "p" + "1" * 20}
    assert intent["time"] == story.bodies[4]["at"] // 1000
    assert intent["unmapped"]["at_us"] == story.bodies[4]["at"]
    assert intent["unmapped"]["arguments"] == story.bodies[4]["arguments"]


@pytest.mark.parametrize(
    ("kind", "class_uid", "activity", "status", "severity"),
    [
        ("genesis", 6002, "Install", "Success", "Informational"),
        ("writer_start", 6002, "Start", "Success", "Informational"),
        ("writer_stop", 6002, "Stop", "Success", "Informational"),
        ("config", 6002, "Update", "Success", "Informational"),
        ("key_rotate", 6002, "Update", "Success", "Medium"),
        ("fault", 6008, "General Error", "clock_step", "High"),
        ("policy", 6003, "Update", "Success", "Medium"),
        ("audit_read", 6003, "Read", "Success", "Informational"),
        ("auth_failure", 6003, "auth_failure", "Failure", "Medium"),
        ("refusal", 6003, "Unknown", "Failure", "Low"),
        ("repeat", 6003, "Unknown", "Success", "Informational"),
        ("unknown", 6003, "Unknown", "Unknown", "Medium"),
        ("lease", 6003, "lease", "Success", "Informational"),
        ("resolve", 6003, "Delete", "done", "Low"),
        ("a_kind_of_tomorrow", 6003, "a_kind_of_tomorrow", "Success", "Informational"),
    ],
)
def test_every_kind_has_its_class(
    database: Path, kind: str, class_uid: int, activity: str, status: str, severity: str
) -> None:
    event = next(event for event in _events(database) if event["metadata"]["event_code"] == kind)
    said = (event["class_uid"], event["activity_name"], event["status"], event["severity"])

    assert said == (class_uid, activity, status, severity)


def test_names_are_told_only_where_that_is_said(database: Path) -> None:
    with _changing(database) as connection:
        row = ("p" + "1" * 20, b'["acme","issuer","desk-bot"]')
        connection.execute("INSERT INTO pseudonym VALUES (?, 'client', ?)", row)
    quiet, told = _events(database), _events(database, Wanted(names=True))
    read = next(event for event in told if event["metadata"]["event_code"] == "audit_read")

    assert read["actor"]["user"] == {"uid": WHO, "name": "ann"}
    assert told[4]["ai_agent"]["name"] == told[4]["actor"]["app_name"] == "desk-bot"
    assert "name" not in told[4]["actor"]["user"], "erased"
    assert "ann" not in json.dumps(quiet)
    assert "desk-bot" not in json.dumps(quiet)


# --- The cursor


def test_the_effect_of_a_call_is_known_though_its_intent_was_sent_before(database: Path) -> None:
    assert _events(database)[7:] == _events(database, Wanted(first=7))


def test_a_cursor_goes_on_where_it_was(database: Path, story: Story, tmp_path: Path) -> None:
    with _changing(database) as connection:
        publish(connection, [(20, OURS)])
    first = io.BytesIO()
    sent = export_ocsf(reader(database), first, Wanted(), lambda done, total: None)
    keep_cursor(tmp_path / "cursor", sent)
    with _changing(database) as connection:
        publish(connection, [(20, OURS), (len(story.bodies), NEXT)])
    cursor = read_cursor(tmp_path / "cursor")
    assert cursor is not None
    rest = _events(database, Wanted(first=cursor.size), cursor)

    sequence = [json.loads(line)["metadata"]["sequence"] for line in first.getvalue().splitlines()]
    sequence += [event["metadata"]["sequence"] for event in rest]
    assert sequence == list(range(len(story.bodies)))


def test_a_ledger_that_was_changed_since_is_not_sent(database: Path, tmp_path: Path) -> None:
    old = Published.parse(OURS.note(20, bytes(32)))
    with pytest.raises(LedgerUnavailable, match="does not begin with the 20 entries"):
        _events(database, Wanted(first=20), old)
    more = Published.parse(OURS.note(10_000, bytes(32)))
    with pytest.raises(LedgerUnavailable, match="does not begin with the 10000 entries"):
        _events(database, Wanted(first=10_000), more)
    other = Published.parse(Signer(1, "another").note(20, bytes(32)))
    with pytest.raises(LedgerUnavailable, match="is of the log 'another'"):
        _events(database, Wanted(first=20), other)
    with pytest.raises(LedgerUnavailable, match="none from index 999 on"):
        _events(database, Wanted(first=999))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"checkpoint": 3, "next": 1}', '{"checkpoint": "x", "next": 1}']
)
def test_what_is_no_cursor_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "cursor").write_text(text, "utf-8")

    with pytest.raises(LedgerUnavailable, match="is no cursor of an export"):
        read_cursor(tmp_path / "cursor")
    assert read_cursor(tmp_path / "none") is None


def test_a_cursor_whose_number_was_changed_is_told(database: Path, tmp_path: Path) -> None:
    sent = export_ocsf(reader(database), io.BytesIO(), Wanted(), lambda done, total: None)
    keep_cursor(tmp_path / "cursor", Sent(sent.published.size + 1, sent.published))

    with pytest.raises(LedgerUnavailable, match="of another size"):
        read_cursor(tmp_path / "cursor")


# --- The command


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment with one call in it."""
    monkeypatch.chdir(root)
    done("call", "notes.add", "--args", '{"text": "x"}')
    return root


def test_the_command_writes_a_file_and_a_cursor(here: Path, tmp_path: Path) -> None:
    cursor = tmp_path / "siem.cursor"
    told = document("ledger", "export", "--ocsf", f"{tmp_path / '1.jsonl'}", "--cursor", f"{cursor}")
    result = run("ledger", "export", "--ocsf", "-", "--cursor", f"{cursor}")
    events = [json.loads(line) for line in (tmp_path / "1.jsonl").read_bytes().splitlines()]
    more = [json.loads(line) for line in result.stdout.splitlines()]

    assert [event["metadata"]["sequence"] for event in events] == list(range(told["next"]))
    assert Note.parse(told["checkpoint"]).size == told["next"] == told["events"]
    assert more[0]["metadata"]["sequence"] == told["next"]
    assert json.loads(cursor.read_text("utf-8"))["next"] == more[-1]["metadata"]["sequence"] + 1
    assert (
        f"{len(more)} events: entries {told['next']} to {more[-1]['metadata']['sequence']}" in result.stderr
    )
    assert [faults_in(event) for event in events + more] == [[]] * len(events + more)
    assert "export ocsf" in [event["unmapped"].get("query") for event in events]


def test_a_file_is_never_written_over(here: Path, tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    file.write_text("not read yet", "utf-8")
    result = run("ledger", "export", "--ocsf", f"{file}")

    assert result.exit_code == 2
    assert "may not have been read yet" in result.stderr
    assert file.read_text("utf-8") == "not read yet"
    assert run("ledger", "export", "--ocsf", "-", "--cursor", "c", "--since-index", "3").exit_code == 2
    assert "none from index 9999" in faults("ledger", "export", "--ocsf", "-", "--since-index", "9999")


def test_whoever_hangs_up_gets_the_same_entries_again(here: Path, tmp_path: Path) -> None:
    """The reader of the pipe dies: the cursor stays where it was."""
    cursor = tmp_path / "siem.cursor"
    words = f'"{sys.executable}" -m toolgate ledger export --ocsf - --raw --cursor "{cursor}"'
    for _ in range(8):
        done("call", "notes.search")
    broken = subprocess.run(
        ["/bin/sh", "-c", f"{words} | head -c 10"], check=False, capture_output=True, text=True
    )
    assert not cursor.exists(), broken.stderr
    assert "Traceback" not in broken.stderr

    whole = subprocess.run(["/bin/sh", "-c", words], check=True, capture_output=True, text=True)
    assert json.loads(whole.stdout.splitlines()[0])["metadata"]["sequence"] == 0
    assert cursor.exists()


def test_a_killed_export_leaves_neither_file_nor_cursor(database: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from toolgate.backends.export_files import replaced\n"
        "from toolgate.backends.export_ocsf import Wanted, export_ocsf\n"
        "from toolgate.backends.sqlite_files import reader\n"
        "def wait(done, total): print(done, flush=True); time.sleep(60)\n"
        "with replaced(Path(sys.argv[2])) as file:\n"
        "    export_ocsf(reader(Path(sys.argv[1])), file, Wanted(), wait)\n"
    )
    words = [sys.executable, "-c", program, f"{database}", f"{tmp_path / 'events.jsonl'}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) as export:
        assert export.stdout is not None
        assert export.stdout.readline()
        export.send_signal(signal.SIGKILL)

    assert not (tmp_path / "events.jsonl").exists()
    assert (tmp_path / ".events.jsonl.part").exists(), "which the next one writes over"


def test_only_its_owner_can_read_events(here: Path, tmp_path: Path) -> None:
    draft = tmp_path / ".events.jsonl.part"
    draft.touch(0o644)
    done("ledger", "export", "--ocsf", f"{tmp_path / 'events.jsonl'}")

    assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("first", "refused"), [(0, True), (3, True), (255, True), (261, False), (300, False)]
)
def test_an_entry_that_was_changed_with_its_own_hash_is_not_sent_as_published(
    tmp_path: Path, first: int, refused: bool
) -> None:
    """The kept hashes above it lead to the checkpoint still: only the root over all entries shows it."""
    story = a_story(30)
    database = tmp_path / "large.db"
    write(story, database, [(len(story.bodies), OURS)])
    assert len(_events(database, Wanted(first=first))) == len(story.bodies) - first
    at = 255
    body = json.dumps(story.bodies[at] | {"tool": "another"}, separators=(",", ":"), sort_keys=True).encode()
    with _changing(database) as ledger:
        leaf = sha256(b"\0" + body).digest()
        ledger.execute("UPDATE ledger_entry SET body = ?, leaf = ? WHERE idx = ?", (body, leaf, at))

    if refused:
        with pytest.raises(LedgerUnavailable, match="does not hold what it published"):
            _events(database, Wanted(first=first))
    else:
        assert len(_events(database, Wanted(first=first))) == len(story.bodies) - first
