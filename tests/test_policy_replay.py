"""Other rules on recorded calls: verified first, read on record, and honest about what was not kept."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace as replace_
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies_for_tests import Row, caller, policies, question, questions, text_of, tool
from tests.shell import document, replace, run
from toolgate.backends.ledger_entries import micros
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.replaying import Replay, Replayed
from toolgate.backends.recorded_calls import Person, RecordedJudgement, RunHistory
from toolgate.core.decision import Question, Verdict

KEY = "a-key-of-16-chars-or-more"


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the deployment's folder, on a terminal that does not break lines."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    return root


@pytest.fixture
def calls() -> None:
    """Record a call that is allowed, one that is held, one that is denied, and one of no tool."""
    assert run("call", "notes.add", "--args", '{"text": "a note"}').exit_code == 0
    assert run("call", "notes.add", "--args", json.dumps({"text": "x" * 600})).exit_code == 1
    assert run("call", "notes.remove", "--args", '{"id": 1}', "--key", KEY).exit_code == 1
    assert run("call", "notes.shred").exit_code == 1


@pytest.fixture
def newer(tmp_path: Path) -> Callable[[str, str], str]:
    """Copy the policy with one text in its rules replaced."""

    def copy(old: str, new: str) -> str:
        folder = tmp_path / "newer"
        folder.mkdir()
        for file in Path("policies").iterdir():
            if file.is_file():
                (folder / file.name).write_text(file.read_text("utf-8").replace(old, new), "utf-8")
        return str(folder)

    return copy


def _document(*words: str) -> Any:  # noqa: ANN401 - any JSON value
    return json.loads(run("policy", "replay", *words, "--json").stdout)


@pytest.mark.usefixtures("calls")
def test_the_same_rules_flip_nothing() -> None:
    result = run("policy", "replay", "policies", "--json")
    told = json.loads(result.stdout)

    assert result.exit_code == 0
    assert (told["judged"], told["flips"], told["cannot_tell"]) == (3, [], [])
    assert told["not_judged"] == {"unknown_tool": 1}


@pytest.mark.usefixtures("calls")
def test_flips_are_told_by_subject_tool_and_rule(newer: Callable[[str, str], str]) -> None:
    new = newer("<= 500", "<= 5")
    result = run("policy", "replay", new, "--json")
    (flip,) = json.loads(result.stdout)["flips"]

    assert result.exit_code == 1
    assert (flip["subject"], flip["tool"], flip["direction"]) == ("mia", "notes.add", "loss")
    assert (flip["before"], flip["rule_before"], flip["after"]) == ("allow", "N02", "deny")
    assert run("policy", "replay", new, "--fail-on", "gain").exit_code == 0
    assert run("policy", "replay", new, "--fail-on", "loss").exit_code == 1


@pytest.mark.usefixtures("calls")
def test_a_pull_request_is_shown_what_allows_more_first(newer: Callable[[str, str], str]) -> None:
    new = newer("size(args.text) <= 500", "size(args.text) > 500")
    said = run("policy", "replay", new, "--format", "markdown").stdout.splitlines()
    rows = [line.split(" | ")[0] for line in said if line.startswith("| `")]

    assert rows == ["| `+`", "| `-`"]
    assert said[0].startswith("### Policy replay: 2 of 3 calls would be answered otherwise")


@pytest.mark.usefixtures("calls")
def test_calls_before_the_span_are_not_judged() -> None:
    assert _document("policies", "--since", "2026-01-01", "--until", "2026-01-02")["judged"] == 0
    assert run("policy", "replay", "policies", "--since", "yesterday").exit_code == 2


@pytest.mark.usefixtures("calls")
def test_the_reading_is_recorded_before_anything_is_judged() -> None:
    run("policy", "replay", "policies")
    assert "policy replay" in {row["query"] for row in document("ledger", "query", "who-read")}


@pytest.mark.usefixtures("calls")
def test_a_ledger_that_is_not_verified_is_not_replayed() -> None:
    with closing(sqlite3.connect("data/toolgate.db")) as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            database.execute(f"DROP TRIGGER IF EXISTS {name}")
        database.execute("UPDATE ledger_entry SET tool = 'notes.search' WHERE tool = 'notes.add'")
        database.commit()

    result = run("policy", "replay", "policies")

    assert result.exit_code == 2
    assert "the ledger is not verified, and nothing was replayed" in result.stderr
    assert "policy replay" not in {row["query"] for row in document("ledger", "query", "who-read")}


def test_a_policy_with_faults_is_used_wrongly(newer: Callable[[str, str], str]) -> None:
    assert run("policy", "replay", newer("allow", "alow")).exit_code == 2
    assert run("policy", "replay", "nowhere").exit_code == 2


def test_what_was_not_kept_cannot_be_told_where_it_matters(newer: Callable[[str, str], str]) -> None:
    replace("registry/notes.toml", 'capture = "full"', 'capture = "digests"')
    replace("registry/notes.toml", 'capture = "arguments"', 'capture = "metadata"')
    assert run("call", "notes.add", "--args", '{"text": "a note"}').exit_code == 0
    assert run("call", "notes.search").exit_code == 0

    told = _document("policies")
    assert {(one["tool"], one["because"]) for one in told["cannot_tell"]} == {
        ("notes.add", "neither arguments nor roles were kept"),
        ("notes.search", "the caller's roles were not kept"),
    }
    with_everybody = _document(newer("reader,  home,   notes.*", "*, home, notes.*"))
    assert {one["tool"] for one in with_everybody["cannot_tell"]} == {"notes.add"}
    assert with_everybody["judged"] == 1


def test_what_was_removed_since_is_told_apart_from_what_was_not_kept(here: Path) -> None:
    with (here / "toolgate.toml").open("a", encoding="utf-8") as settings:
        settings.write('\n[[retention]]\nvalues = ["arguments", "caller"]\ndays = 0.0000001\n')
    assert run("call", "notes.add", "--args", '{"text": "a note"}').exit_code == 0
    assert document("ledger", "retain")["removed"] == {"arguments": 1, "caller": 1}
    replace("registry/notes.toml", 'capture = "full"', 'capture = "digests"')
    assert run("call", "notes.add", "--args", '{"text": "another"}').exit_code == 0

    told = _document("policies")["cannot_tell"]

    assert sorted((one["because"], one["calls"]) for one in told) == [
        ("arguments and roles were removed since", 1),
        ("neither arguments nor roles were kept", 1),
    ]


@pytest.mark.parametrize(
    ("removed", "reason"),
    [
        (frozenset[str](), "the argument was not kept"),
        (frozenset({"args"}), "the argument was removed since"),
        (frozenset({"roles"}), "the argument was not kept"),
    ],
)
def test_the_reason_is_what_is_missing_itself(removed: frozenset[str], reason: str) -> None:
    asked = question(caller("support", subject="mia"), tool("crm.read"), {"amount": 1})
    bounded: Row = ("allow", "support", "*", "crm.read", "*", "args.amount < 5", "-")
    found = _replayed([bounded], asked, _recorded(asked, "allow", arguments=None, removed=removed))

    assert [one.reason for one in found.untold] == [reason]


@pytest.mark.usefixtures("calls")
def test_a_tool_that_is_gone_is_told_apart() -> None:
    manifest = Path("registry/notes.toml")
    text = manifest.read_text("utf-8")
    begin, end = text.index("[tools.add]"), text.index("[tools.remove]")
    manifest.write_text(text[:begin] + text[end:], "utf-8")

    told = _document("policies")
    assert (told["gone"], told["judged"], told["flips"]) == ({"notes.add": 2}, 1, [])


# --- the judge behind it


def _recorded(asked: Question, verdict: Verdict, **fields: Any) -> RecordedJudgement:  # noqa: ANN401
    caller = asked.caller
    said = {"roles": sorted(caller.roles), "scopes": []}
    return RecordedJudgement(
        entry=1,
        call_id="c1",
        at=micros(asked.at),
        tenant=caller.tenant,
        who=f"p-{caller.subject}",
        client="",
        tool=asked.tool.name,
        run="run" if asked.run is not None else "",
        verdict=verdict,
        rules=(),
        config=0,
        arguments=json.dumps(asked.arguments).encode(),
        caller=json.dumps(said).encode(),
    )._replace(**fields)


def _replayed(rows: list[Row], asked: Question, recorded: RecordedJudgement) -> Replayed:
    runs = RunHistory()
    for number, past in enumerate(asked.run or ()):
        runs.begun("run", recorded.who, f"earlier-{number}", past)
    subjects = {f"p-{name}": Person("test", name) for name in ("mia", "support", "rob")}
    replay = Replay(text_of(rows), lambda _: asked.tool, subjects=subjects, clients={}, runs=runs)
    replay.judge(recorded)
    return replay.found


@given(policies, questions)
def test_a_replay_says_what_the_judge_says(rows: list[Row], asked: Question) -> None:
    verdict = CasbinPolicy(text_of(rows)).decide(asked).verdict

    for before in ("allow", "hold", "deny"):
        found = _replayed(rows, asked, _recorded(asked, before))
        assert found.judged == 1
        assert [flip.after for flip in found.flips] == ([] if before == verdict else [verdict])


@given(policies, questions)
def test_what_is_told_without_arguments_or_roles_is_what_the_judge_says_with_them(
    rows: list[Row], asked: Question
) -> None:
    verdict = CasbinPolicy(text_of(rows)).decide(asked).verdict
    for missing in ({"arguments": None}, {"caller": None}, {"arguments": None, "caller": None}):
        found = _replayed(rows, asked, _recorded(asked, verdict, **missing))
        assert not found.flips
        assert found.judged + found.untold.total() == 1


@given(policies, st.lists(questions, max_size=12))
def test_calls_that_are_judged_together_are_judged_as_if_alone(
    rows: list[Row], asked: list[Question]
) -> None:
    policy = CasbinPolicy(text_of(rows))
    tools = {one.tool.name: one.tool for one in asked}
    subjects = {f"p-{name}": Person("test", name) for name in ("mia", "support", "rob")}
    alone = [replace_(one, tool=tools[one.tool.name], run=None) for one in asked]
    replay = Replay(text_of(rows), tools.get, subjects=subjects, clients={}, runs=RunHistory())
    for number, one in enumerate(alone):
        verdict = policy.decide(one).verdict
        replay.judge(_recorded(one, verdict, entry=number, call_id=f"c{number}"))

    assert replay.found.judged == len(asked)
    assert not replay.found.flips


def test_a_role_makes_a_call_of_another_kind() -> None:
    support: Row = ("allow", "support", "acme", "crm.read", "*", "-", "-")
    subjects = {"p-ann": Person("test", "ann")}
    replay = Replay(text_of([support]), tool, subjects=subjects, clients={}, runs=RunHistory())
    for roles in (["support"], []):
        replay.judge(_recorded(question(caller(*roles), tool("crm.read")), "allow"))

    assert [(flip.before, flip.after) for flip in replay.found.flips] == [("allow", "deny")]
    assert replay.found.judged == 2


def test_who_calls_makes_a_call_of_another_kind_where_a_rule_asks() -> None:
    mia: Row = ("allow", "*", "*", "crm.read", "*", "caller.subject == 'mia'", "-")
    subjects = {f"p-{name}": Person("test", name) for name in ("mia", "rob")}
    replay = Replay(text_of([mia]), tool, subjects=subjects, clients={}, runs=RunHistory())
    for name in ("mia", "rob"):
        replay.judge(_recorded(question(caller(subject=name), tool("crm.read")), "allow"))

    assert [(flip.subject, flip.after) for flip in replay.found.flips] == [("rob", "deny")]


def test_a_further_attempt_is_no_earlier_call_of_its_run() -> None:
    once: Row = ("deny", "*", "*", "crm.read", "*", 'called("crm.read")', "-")
    everybody: Row = ("allow", "*", "*", "*", "*", "-", "-")
    asked = question(caller(), tool("crm.read"), run=())
    subjects = {"p-ann": Person("test", "ann")}
    replay = Replay(text_of([everybody, once]), tool, subjects=subjects, clients={}, runs=RunHistory())
    for call_id in ("c1", "c1", "c2"):
        replay.judge(_recorded(asked, "allow", call_id=call_id))

    assert replay.found.examples == {flip: ["c2"] for flip in replay.found.flips}
    assert replay.found.flips.total() == 1


def test_an_erased_name_cannot_be_told() -> None:
    asked = question(caller(), tool("crm.read"))
    everybody: Row = ("allow", "*", "*", "*", "*", "-", "-")
    found = _replayed([everybody], asked, _recorded(asked, "allow", who="p-nobody"))

    assert [one.reason for one in found.untold] == ["the caller's name was erased"]


def test_without_roles_tools_that_no_rule_is_known_to_concern_are_told_apart() -> None:
    support: Row = ("allow", "support", "acme", "crm.read", "*", "-", "-")
    subjects = {"p-ann": Person("test", "ann")}
    replay = Replay(text_of([support]), tool, subjects=subjects, clients={}, runs=RunHistory())
    for name in ("tickets.read", "crm.read"):
        replay.judge(_recorded(question(caller(), tool(name)), "deny", caller=None))

    assert {one.tool: one.reason for one in replay.found.untold} == {
        "crm.read": "the caller's roles were not kept"
    }
    assert replay.found.judged == 1
