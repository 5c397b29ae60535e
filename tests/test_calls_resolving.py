"""What became of a call whose gate was killed: the system is asked, or a person says it."""

import json
import os
import pwd
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.registries import unlocked
from tests.shell import document, done, faults, really, run

KEY = "a-key-of-16-chars-or-more"
ORDER = ("call", "desk.place", "--args", '{"item": "chair"}', "--key", KEY)

ADAPTER = '''
import os, signal
from contextlib import asynccontextmanager
from pathlib import Path
from pydantic import BaseModel
from toolgate.adapter import Adapter, CannotTell, Context, Found, NotFound

class Order(BaseModel):
    item: str

class Placed(BaseModel):
    number: int

class Book:
    """The system: a file with a line for each order, and one that says how it behaves."""
    marks_sending = True

    def __init__(self, system):
        self.orders = Path(system.options["folder"]) / "orders"
        self.mode = Path(system.options["folder"]) / "mode"

    @asynccontextmanager
    async def session(self, credential, sending):
        yield self

    async def aclose(self):
        """Nothing is open."""

desk = Adapter("desk", connect=Book)

@desk.operation
async def place(order: Order, context: Context[Book]) -> Placed:
    """Place an order."""
    book, mode = context.client, context.client.mode.read_text()
    context.sending()
    if mode != "dies before":
        with book.orders.open("a") as orders:
            orders.write(context.idempotency_key + "\\n")
    if mode.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    return Placed(number=len(book.orders.read_text().splitlines()))

@desk.look_up(place)
async def placed(order: Order, context: Context[Book]):
    book = context.client
    if book.mode.read_text() == "mute":
        return CannotTell()
    keys = book.orders.read_text().splitlines()
    if context.idempotency_key in keys:
        return Found(Placed(number=keys.index(context.idempotency_key) + 1))
    return NotFound()
'''

MANIFEST = """
adapter = "desk"
owner = "desk@example.com"

[system]
folder = "{folder}"

[tools.place]
effect = "write"
timeout = 5
duplicates = "{duplicates}"
quiet_period = {quiet}
without_key = "allow"
capture = "full"
scopes = []
credential = "none"
"""


@dataclass(frozen=True)
class Desk:
    """A deployment with a system that can kill the gate in the middle of a call."""

    root: Path
    folder: Path
    plugins: Path

    def behaves(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode, "utf-8")

    def orders(self) -> int:
        return len((self.folder / "orders").read_text("utf-8").splitlines())

    def left_unknown(self, mode: str) -> str:
        """Make a call whose gate is killed; gives its id."""
        self.behaves(mode)
        killed = really(*ORDER, PYTHONPATH=f"{self.plugins}")
        assert killed.returncode == -9, killed.stderr
        self.behaves("does")
        [call] = document("calls", "list", "--unknown")
        return str(call["call_id"])

    def entries(self, kind: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.root / "data" / "toolgate.db")) as ledger:
            found = ledger.execute("SELECT body FROM ledger_entry WHERE kind = ? ORDER BY idx", (kind,))
            return [json.loads(row[0]) for row in found]


@pytest.fixture
def desk(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Desk]:
    plugins, folder = tmp_path / "plugins", tmp_path / "desk"
    info = plugins / "stranger_book-1.0.dist-info"
    info.mkdir(parents=True)
    folder.mkdir()
    (folder / "orders").touch()
    (plugins / "stranger_book.py").write_text(ADAPTER, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-book\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[toolgate.adapters]\ndesk = stranger_book:desk\n", "utf-8")
    (root / "policies" / "desk.csv").write_text("p, K1, allow, member, home, desk.*, *, -, -, -\n", "utf-8")
    monkeypatch.chdir(unlocked(root))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "path", [f"{plugins}", *sys.path])

    def admitted(duplicates: str = "query", quiet: float = 0) -> Desk:
        manifest = MANIFEST.format(folder=folder, duplicates=duplicates, quiet=quiet)
        (root / "registry" / "desk.toml").write_text(manifest, "utf-8")
        return Desk(root, folder, plugins)

    return admitted


# --- what is unknown


def test_a_call_whose_gate_was_killed_is_listed_as_unknown_at_once(desk: Callable[..., Desk]) -> None:
    place = desk()
    call_id = place.left_unknown("dies after")
    [call] = document("calls", "list", "--unknown")

    assert (call["call_id"], call["state"], call["subject"], call["tool"]) == (
        call_id,
        "lost",
        "mia",
        "desk.place",
    )
    assert call["age_s"] >= 0
    assert document("calls", "list", "--unknown", "--subject", "rob") == []
    assert document("calls", "list", "--unknown", "--tool", "notes.add") == []
    assert call_id in done("calls", "list", "--unknown")
    assert document("calls", "list", "--tool", "desk.place")[0]["end"] == "open"


def test_from_when_asking_is_conclusive_is_not_told_before_the_loss_is_noted(
    desk: Callable[..., Desk],
) -> None:
    place = desk(quiet=600)
    call_id = place.left_unknown("dies before")
    [lost] = document("calls", "list", "--unknown")
    assert (lost["state"], lost["conclusive_from"]) == ("lost", None)
    assert "not known yet" in done("calls", "list", "--unknown")

    run("calls", "reconcile", call_id)
    [unknown] = document("calls", "list", "--unknown")
    assert unknown["state"] == "unknown"
    assert datetime.fromisoformat(unknown["conclusive_from"]) > datetime.fromisoformat(unknown["opened_at"])


# --- a system that can be asked


def test_what_the_system_has_is_found_and_answers_the_repetition(desk: Callable[..., Desk]) -> None:
    place = desk()
    call_id = place.left_unknown("dies after")
    found = document("calls", "reconcile", call_id)
    again = document(*ORDER)

    assert (found["found"], found["settled"]) == ("found", True)
    assert again["outcome"] == {"kind": "done", "value": {"number": 1}}
    assert (again["replayed"], again["call_id"]) == (True, call_id)
    assert place.orders() == 1
    asked, told = place.entries("reconcile")
    assert (asked["status"], told["status"]) == ("asked", "found")
    assert document("calls", "list", "--unknown") == []
    assert [call["end"] for call in document("calls", "list", "--tool", "desk.place")] == [
        "replayed",
        "found",
    ]
    assert run("calls", "reconcile", call_id).exit_code == 1, "it is not unknown any more"


def test_what_the_system_does_not_have_may_be_asked_again(desk: Callable[..., Desk]) -> None:
    place = desk()
    call_id = place.left_unknown("dies before")
    found = document("calls", "reconcile", call_id)
    again = document(*ORDER)

    assert (found["found"], found["settled"]) == ("not_found", True)
    assert (again["outcome"]["kind"], again["replayed"], again["call_id"]) == ("done", False, call_id)
    assert place.orders() == 1


def test_that_there_is_nothing_shows_nothing_while_it_may_be_on_its_way(desk: Callable[..., Desk]) -> None:
    place = desk(quiet=600)
    call_id = place.left_unknown("dies before")
    result = run("calls", "reconcile", call_id)

    assert result.exit_code == 3
    assert "has nothing of it yet; that is conclusive from " in result.stdout
    assert document("calls", "list", "--unknown")[0]["state"] == "unknown"
    assert place.entries("reconcile")[-1]["status"] == "not_found"


def test_a_system_that_cannot_tell_leaves_it_unknown(desk: Callable[..., Desk]) -> None:
    place = desk()
    call_id = place.left_unknown("dies after")
    place.behaves("mute")
    result = run("calls", "reconcile", call_id, "--json")

    assert result.exit_code == 3
    assert json.loads(result.stdout)["found"] == "cannot_tell"
    assert place.orders() == 1


def test_all_unknown_calls_are_asked_about_at_once(desk: Callable[..., Desk]) -> None:
    place = desk()
    assert done("calls", "reconcile", "--all") == "no call is unknown\n"
    call_id = place.left_unknown("dies after")
    [found] = document("calls", "reconcile", "--all")

    assert (found["call_id"], found["settled"]) == (call_id, True)


# --- systems that are not asked


@pytest.mark.parametrize("duplicates", ["key", "natural"])
def test_where_a_repetition_is_safe_nothing_is_sent_and_that_is_said(
    desk: Callable[..., Desk], duplicates: str
) -> None:
    place = desk(duplicates)
    call_id = place.left_unknown("dies after")
    result = run("calls", "reconcile", call_id)

    assert result.exit_code == 3
    assert "Nothing was sent now" in result.stdout
    assert "asks again under the same key, it is sent again safely" in result.stdout
    assert place.orders() == 1
    assert place.entries("reconcile") == []


def test_a_system_that_cannot_be_asked_needs_a_person(desk: Callable[..., Desk]) -> None:
    call_id = desk("none").left_unknown("dies after")
    result = run("calls", "reconcile", call_id)

    assert result.exit_code == 3
    assert "cannot be asked. Look in the system itself" in result.stdout


def test_a_tool_that_is_gone_needs_a_person(desk: Callable[..., Desk]) -> None:
    place = desk("none")
    call_id = place.left_unknown("dies after")
    (place.root / "registry" / "desk.toml").unlink()
    (place.root / "policies" / "desk.csv").unlink()

    assert "not admitted any more" in run("calls", "reconcile", call_id).stdout
    told = faults("calls", "resolve", call_id, "--done", "--result", "{}", "--because", "x")
    assert "its result cannot be checked" in told
    assert run("calls", "resolve", call_id, "--nothing-done", "--because", "x").exit_code == 0


# --- a person's word


def test_a_person_says_that_it_was_done_and_with_what_result(desk: Callable[..., Desk]) -> None:
    place = desk("none")
    call_id = place.left_unknown("dies after")
    words = ("calls", "resolve", call_id, "--done", "--result", '{"number": 1}', "--because", "seen by ann")
    resolved = document(*words)
    again = document(*ORDER)

    assert again["outcome"] == {"kind": "done", "value": {"number": 1}}
    assert again["replayed"]
    assert place.orders() == 1
    [entry] = place.entries("resolve")
    assert (entry["status"], entry["call_id"]) == ("done", call_id)
    assert "ann" not in json.dumps(entry), "what a person says is kept beside the entry"
    shown = next(one for one in document("calls", "show", call_id) if one["kind"] == "resolve")
    assert shown["entry"] == resolved["entry"]
    assert shown["captured"] == {"because": "seen by ann"}
    assert shown["names"][entry["by"]] == _me()
    assert "there is no unknown call" in faults(*words)
    assert len(place.entries("resolve")) == 1


def test_a_person_says_that_nothing_was_done(desk: Callable[..., Desk]) -> None:
    place = desk("none")
    call_id = place.left_unknown("dies before")
    words = ("calls", "resolve", call_id, "--nothing-done", "--because", "the desk has no such order")

    assert "is resolved: nothing done" in done(*words)
    again = document(*ORDER)
    assert (again["outcome"]["kind"], again["replayed"], again["call_id"]) == ("done", False, call_id)
    assert place.orders() == 1
    assert "it is succeeded" in faults(*words)
    assert [entry["status"] for entry in place.entries("resolve")] == ["nothing_done"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--done", "--because", "x"), "--done needs it"),
        (("--nothing-done", "--result", "{}", "--because", "x"), "belongs to --done"),
        (("--because", "x"), "either --done or --nothing-done"),
        (("--nothing-done",), "--because"),
        (("--nothing-done", "--because", " "), "say how you know it"),
        (("--done", "--result", "[]", "--because", "x"), "a JSON object is expected"),
        (("--done", "--result", "{", "--because", "x"), "not JSON"),
        (("--done", "--result", '{"number": "one"}', "--because", "x"), "no result of desk.place"),
    ],
)
def test_a_word_that_is_not_whole_changes_nothing(
    desk: Callable[..., Desk], words: tuple[str, ...], told: str
) -> None:
    place = desk("none")
    call_id = place.left_unknown("dies after")
    result = run("calls", "resolve", call_id, *words)

    assert result.exit_code == 2
    assert told in result.stderr
    assert place.entries("resolve") == []


def test_only_the_owner_of_the_deployment_settles_calls(desk: Callable[..., Desk]) -> None:
    place = desk()
    call_id = place.left_unknown("dies after")
    os.chown(place.root, os.getuid() + 1, -1)

    for words in (
        ("calls", "reconcile", call_id),
        ("calls", "resolve", call_id, "--nothing-done", "--because", "x"),
    ):
        assert "only that user may settle calls" in faults(*words)
    assert place.entries("reconcile") == place.entries("resolve") == []


def test_calls_that_are_not_unknown_are_left_alone(desk: Callable[..., Desk]) -> None:
    place = desk()
    place.behaves("does")
    call_id = document(*ORDER)["call_id"]

    assert f"there is no unknown call {call_id}" in faults("calls", "reconcile", call_id)
    assert "it is succeeded" in faults("calls", "resolve", call_id, "--nothing-done", "--because", "x")
    assert "no call c-1 is recorded" in faults("calls", "resolve", "c-1", "--nothing-done", "--because", "x")
    assert run("calls", "reconcile").exit_code == 2
    assert run("calls", "reconcile", call_id, "--all").exit_code == 2


def _me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name
