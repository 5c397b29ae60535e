"""Who can do what, why a call is answered as it is, and what changes between two policies."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies_for_tests import (
    NOON,
    Row,
    arguments,
    caller,
    callers,
    policies,
    question,
    questions,
    text_of,
    tool,
    tools,
)
from tests.shell import document, run
from toolgate.backends.policy.access import (
    NOT_KNOWN,
    VERDICTS,
    Survey,
    Unknown,
    known_people,
    worlds,
)
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.comparing import Difference, compare
from toolgate.backends.policy.explaining import Explanation, aloud, conjuncts, explain
from toolgate.backends.policy.formatting import formatted
from toolgate.cli.policy_said import lines
from toolgate.cli.policy_who_can import said_of
from toolgate.core.call import Caller
from toolgate.core.decision import Question
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

GRANT = tool("crm.grant", "write")
READ = tool("crm.read")
ALLOW: Row = ("allow", "support", "acme", "crm.grant", "*", "args.amount <= 50", "-")
HOLD: Row = ("deny", "*", "acme", "crm.grant", "*", "args.amount > 20", "approval:boss")
CEILING: Row = ("deny", "*", "*", "crm.*", "*", "args.amount > 40", "-")


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a deployment's folder, on a terminal that does not break lines."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    return root


# --- what is not known


@given(policies, questions, arguments)
def test_what_is_not_known_of_a_call_lies_between_two_worlds(
    rows: list[Row], asked: Question, others: JsonObject
) -> None:
    text = text_of(rows)
    between = worlds(text, frozenset({"args"}))
    least, most = (VERDICTS.index(world.decide(asked).verdict) for world in (between.least, between.most))

    for values in (asked.arguments, others):
        real = CasbinPolicy(text).decide(replace(asked, arguments=values)).verdict
        assert least <= VERDICTS.index(real) <= most


@given(policies, questions, st.frozensets(st.sampled_from(["support", "lead", "boss"])))
def test_roles_that_are_not_known_lie_between_two_worlds(
    rows: list[Row], asked: Question, roles: frozenset[str]
) -> None:
    text, unknown = text_of(rows), frozenset[Unknown]({"roles"})
    without = asked.caller.model_copy(update={"roles": frozenset()})
    really = asked.caller.model_copy(update={"roles": roles})

    told = worlds(text, unknown).verdict(replace(asked, caller=without))

    assert told in {None, CasbinPolicy(text).decide(replace(asked, caller=really)).verdict}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("allow", "support", "acme", "crm.*", "*", "-", "-")], None),
        ([("allow", "*", "acme", "crm.*", "*", "-", "-")], "allow"),
        ([("allow", "*", "acme", "crm.*", "*", "-", "-"), ("deny", "boss", "*", "*", "*", "-", "-")], None),
        ([("allow", "user:zoe", "acme", "crm.*", "*", "-", "-")], "deny"),
        ([("allow", "*", "acme", "crm.*", "*", "'boss' in caller.roles", "-")], None),
    ],
)
def test_without_roles_it_is_told_only_where_they_make_no_difference(
    rows: list[Row], told: str | None
) -> None:
    between = worlds(text_of(rows), frozenset({"roles"}))
    assert between.verdict(question(caller(), READ)) == told


@given(policies, callers, tools, questions)
def test_never_and_always_mean_what_they_say(
    rows: list[Row], who: Caller, what: Tool, asked: Question
) -> None:
    survey = Survey(text_of(rows))
    real = survey.policy.decide(replace(asked, caller=who, tool=what)).verdict

    match survey.access(who, what).level:
        case "never":
            assert real == "deny"
        case "always":
            assert real == "allow"
        case "only if":
            pass


@given(policies, callers, tools)
def test_in_two_worlds_nothing_is_left_open_where_no_rule_asks(
    rows: list[Row], who: Caller, what: Tool
) -> None:
    plain = [(*row[:5], "-", *row[6:]) for row in rows]
    between = worlds(text_of(plain), NOT_KNOWN)

    assert (
        between.verdict(question(who, what))
        == CasbinPolicy(text_of(plain)).decide(question(who, what)).verdict
    )


# --- who can, what can


def test_access_tells_its_terms() -> None:
    access = Survey(text_of([ALLOW, HOLD, CEILING])).access(caller("support"), GRANT)

    assert access.level == "only if"
    assert access.terms.spoken() == [
        "when args.amount <= 50",
        "not when args.amount > 40",
        "after approval by boss, when args.amount > 20",
    ]


def test_with_arguments_only_what_they_leave_open_is_told() -> None:
    text = text_of([ALLOW, HOLD, CEILING])

    assert Survey(text, {"amount": 10}).access(caller("support"), GRANT).level == "always"
    assert Survey(text, {"amount": 60}).access(caller("support"), GRANT).level == "never"
    held = Survey(text, {"amount": 30}).access(caller("support"), GRANT)
    assert held.level == "only if"
    assert held.terms.held_if == {("args.amount > 20", "boss")}


def test_everybody_whom_rules_roles_and_settings_know_is_told() -> None:
    text = text_of(
        [("allow", "user:zoe", "globex", "crm.*", "*", "-", "-")], roles=[("lead", "support", "acme")]
    )

    people = {(one.name, one.caller.tenant) for one in known_people([text], [caller("x", subject="ann")])}

    assert people == {
        ("*", "acme"), ("lead", "acme"), ("support", "acme"), ("user:ann", "acme"),
        ("*", "globex"), ("user:zoe", "globex"),
    }  # fmt: skip


@pytest.mark.usefixtures("here")
def test_who_can_and_what_can_at_a_shell() -> None:
    who = {row["who"]: row["can"] for row in document("policy", "who-can", "notes.add")["who"]}
    assert who["user:mia"] == "only if"
    assert who["reader"] == who["*"] == "never"

    told = document("policy", "what-can", "mia")
    assert told["who"] == ["member", "reader", "user:mia"]
    can = {row["tool"]: row["can"] for row in told["tools"]}
    assert {tool for tool in can if tool.startswith("notes.")} == {
        "notes.add",
        "notes.remove",
        "notes.search",
    }
    assert {can[tool] for tool in can if tool.startswith("audit.")} == {"never"}

    as_role = document("policy", "what-can", "role:reader")["tools"]
    assert {row["tool"] for row in as_role if row["can"] == "always"} == {"notes.search"}
    assert run("policy", "who-can", "notes.shred").exit_code == 2
    assert run("policy", "who-can", "notes.add", "--args", '{"text": 1}').exit_code == 2


# --- explain


def _explained(rows: list[Row], amount: object, *roles: str) -> Explanation:
    asked = question(caller(*roles), GRANT, {"amount": amount})  # type: ignore[dict-item]
    return explain(CasbinPolicy(text_of(rows)), asked)


def test_an_explanation_tells_what_mattered_and_what_did_not() -> None:
    found = _explained([ALLOW, HOLD, CEILING], 30, "support")

    assert found.decision.verdict == "hold"
    assert [one.rule.id for one in found.mattered] == ["R0", "R1"]
    assert [(one.rule.id, one.parts[0].condition) for one in found.missed] == [("R2", "args.amount > 40")]
    assert found.deciding is not None
    assert aloud(found.deciding) == (
        "deny everyone in acme to use crm.grant, when args.amount > 20, unless boss approves"
    )


def test_a_duty_to_sign_in_with_what_ends_is_told_by_who_can_explain_and_fmt() -> None:
    text = text_of([ALLOW, ("oblige", "*", "acme", "crm.*", "*", "-", "-", "credential=dynamic")])

    can = said_of(Survey(text).access(caller("support"), GRANT))
    assert can["obligations"] == [{"when": "", "with": "credential=dynamic"}]
    assert aloud(text.rules[1]) == "when everyone in acme uses crm.*: credential=dynamic"
    explained = explain(CasbinPolicy(text), question(caller("support"), GRANT, {"amount": 1}))
    assert "  Obliged to: credential=dynamic" in list(lines(explained, None))
    assert any(body.endswith("credential=dynamic\n") for body in formatted(text).values())


def test_what_would_change_it_was_tried() -> None:
    rows = [ALLOW, HOLD, CEILING]
    changes = {(one.kind, one.what): one.verdict for one in _explained(rows, 30, "support").changes}

    assert changes == {
        ("approval", "an approval by boss"): "allow",
        ("argument", "amount = 20 (now 30)"): "allow",
        ("argument", "amount = 41 (now 30)"): "deny",
        ("argument", "without amount"): "deny",
        ("role", "without the role support"): "deny",
    }
    alone = [(one.what, one.verdict) for one in _explained(rows, 10).changes]
    assert alone == [("with the role lead or support", "allow")]
    both = {one.what for one in _explained(rows, 45).changes if one.verdict == "allow"}
    assert "with the role support, and amount = 20 (now 45)" in both


@given(policies, questions)
@settings(max_examples=60)
def test_every_role_that_is_told_changes_the_answer(rows: list[Row], asked: Question) -> None:
    policy = CasbinPolicy(text_of(rows))
    for change in explain(policy, asked).changes:
        if change.kind == "role" and change.what.startswith("with the role ") and "and " not in change.what:
            for role in change.what.removeprefix("with the role ").split(" or "):
                more = asked.caller.model_copy(update={"roles": asked.caller.roles | {role}})
                assert policy.decide(replace(asked, caller=more)).verdict == change.verdict


def test_another_hour_and_another_run_are_told() -> None:
    hours: Row = ("deny", "*", "*", "crm.grant", "*", '!during("Mon-Fri", "09:00-17:00", "UTC")', "-")
    late = question(caller("support"), GRANT, {"amount": 1}, at=NOON.replace(hour=20))
    found = explain(CasbinPolicy(text_of([ALLOW, hours])), late)
    assert [(one.what, one.verdict) for one in found.changes if one.kind == "time"] == [
        ("from Thursday 2026-11-19 09:00 UTC", "allow")
    ]

    once: Row = ("deny", "*", "*", "crm.grant", "*", 'called("crm.read")', "-")
    asked = replace(late, run=None)
    found = explain(CasbinPolicy(text_of([ALLOW, once])), asked)
    assert [(one.what, one.verdict) for one in found.changes if one.kind == "run"] == [
        ("as the first call of a run", "allow")
    ]


def test_what_cannot_be_told_is_said_to_be_unknown() -> None:
    found = explain(CasbinPolicy(text_of([ALLOW, CEILING])), question(caller("support"), GRANT))

    assert [(one.rule.id, one.answer) for one in found.mattered] == [("R1", "unknown")]
    assert [(one.rule.id, one.answer) for one in found.missed] == [("R0", "unknown")]
    assert set(found.decision.unknown) == {"R0", "R1"}
    assert {part.why for one in (*found.mattered, *found.missed) for part in one.parts} == {
        "amount is missing"
    }
    assert any("(unknown: amount is missing)" in line for line in lines(found, None))


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ("a && b", ["a", "b"]),
        ('args.x == "&&" && b', ['args.x == "&&"', "b"]),
        ("(a && b) && f(c && d)", ["(a && b)", "f(c && d)"]),
        ("a && b || c", ["a && b || c"]),
        (r'x == "\"&&" && y', [r'x == "\"&&"', "y"]),
    ],
)
def test_a_condition_is_divided_where_it_may_be(condition: str, parts: list[str]) -> None:
    assert conjuncts(condition) == parts


@pytest.mark.usefixtures("here")
def test_an_explanation_at_a_shell() -> None:
    told = document("policy", "explain", "notes.add", "--args", '{"text": "hi"}')
    assert (told["verdict"], told["deciding"]["id"], told["refused_before"]) == ("allow", "N02", None)
    assert told["deciding"]["place"].startswith("rules.csv:")

    said = run("policy", "explain", "notes.add", "--subject", "eve", "--args", '{"text": "hi"}').stdout
    assert "DENIED: notes.add for eve in home" in said
    assert "with the role member: allow" in said
    assert run("policy", "explain").exit_code == 2
    assert run("policy", "explain", "notes.add", "--as", "mia", "--subject", "eve").exit_code == 2


@pytest.mark.usefixtures("here")
def test_a_recorded_call_is_explained_and_the_reading_is_recorded() -> None:
    refused = run(
        "call", "notes.remove", "--args", '{"id": 1}', "--key", "a-key-of-16-chars-or-more", "--json"
    )
    call = next(iter(document("calls", "list")))["call_id"]
    assert refused.exit_code == 1

    told = document("policy", "explain", "--call", call)

    assert (told["verdict"], told["recorded"]["verdict"], told["deciding"]["id"]) == ("hold", "hold", "N04")
    reads = document("ledger", "query", "who-read")
    assert "policy explain" in {row["query"] for row in reads}


# --- diff


def _compared(old: list[Row], new: list[Row]) -> Difference:
    before, after = text_of(old), text_of(new)
    return compare(before, after, known_people([before, after], []), [GRANT, READ])


def test_a_policy_compared_with_itself_means_the_same() -> None:
    found = _compared([ALLOW, HOLD, CEILING], [HOLD, CEILING, ALLOW])
    assert found.means_the_same


def test_a_wider_bound_is_a_gain_and_a_narrower_one_a_loss() -> None:
    wider: Row = (*ALLOW[:5], "args.amount <= 60", "-")
    gain, loss = _compared([ALLOW], [wider]), _compared([wider], [ALLOW])

    assert {(shift.direction, shift.people, shift.tool) for shift in gain.shifts} == {
        ("gain", ("lead", "support", "user:mia"), "crm.grant")
    }
    assert [(one.arguments, one.before, one.after) for one in gain.shifts[0].witnesses] == [
        ({"amount": 51}, "deny", "allow")
    ]
    assert {shift.direction for shift in loss.shifts} == {"loss"}
    assert [(one.cell, one.before, one.after) for one in gain.changed] == [
        ("when", "args.amount <= 50", "args.amount <= 60")
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ([ALLOW, CEILING], [ALLOW], "a deny is removed"),
        ([ALLOW, HOLD], [ALLOW], "a hold is removed"),
        ([ALLOW, HOLD], [ALLOW], "an approval by boss is no longer needed"),
        ([ALLOW, CEILING], [ALLOW, ("shadow-deny", *CEILING[1:])], "an enforced deny is turned to shadow"),
        ([ALLOW, CEILING], [ALLOW, (*CEILING[:6], "approval:boss")], "a deny is turned into a hold"),
        ([(*ALLOW, "mask=email|phone")], [(*ALLOW, "mask=email")], "no longer obliged to mask=phone"),
        ([(*ALLOW, "rows=5")], [(*ALLOW, "rows=50")], "no longer obliged to rows=5"),
        ([(*ALLOW, "capture=digests")], [ALLOW], "no longer obliged to capture=digests"),
        ([(*ALLOW, "credential=dynamic")], [ALLOW], "no longer obliged to credential=dynamic"),
    ],
)
def test_what_became_weaker_is_told(old: list[Row], new: list[Row], told: str) -> None:
    weak = [weakening.what for weakening in _compared(old, new).weakenings]
    assert any(told in what for what in weak), weak
    assert not any(told in weakening.what for weakening in _compared(new, old).weakenings)


def test_another_approver_of_a_hold_is_told_whoever_it_is() -> None:
    for one, other in (("boss", "reader"), ("reader", "boss")):
        old, new = ([ALLOW, (*HOLD[:6], f"approval:{role}")] for role in (one, other))
        weak = [weakening.what for weakening in _compared(old, new).weakenings]

        assert f"a hold has another approver, perhaps a weaker one: {other} in place of {one}" in weak


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["/nonexistent", "polices", "./abcd"])
def test_a_folder_that_is_not_there_is_called_a_folder(name: str) -> None:
    assert f"there is no folder '{name}'" in run("policy", "diff", name, "policies").output
    assert f"there is no folder '{name}'" in run("policy", "replay", name).output


@pytest.mark.usefixtures("here")
def test_a_version_that_is_not_stored_is_called_a_version() -> None:
    assert run("call", "notes.search").exit_code == 0  # there is a ledger from then on

    assert "there is no stored policy" in run("policy", "diff", "abcdef", "policies").output


@given(policies, policies, callers, tools, questions)
@settings(max_examples=80)
def test_where_no_change_is_told_every_call_is_answered_alike(
    old: list[Row], new: list[Row], who: Caller, what: Tool, asked: Question
) -> None:
    before, after = text_of(old), text_of(new)
    person = known_people([before, after], [who], who.tenant)
    found = compare(before, after, [one for one in person if one.caller is who], [what])
    wanted = replace(asked, caller=who, tool=what)

    if not found.shifts:
        verdicts = {CasbinPolicy(text).decide(wanted).verdict for text in (before, after)}
        assert len(verdicts) == 1


@pytest.mark.usefixtures("here")
def test_a_difference_at_a_shell(tmp_path: Path) -> None:
    assert run("policy", "diff", "policies", "policies").exit_code == 0
    newer = tmp_path / "newer"
    newer.mkdir()
    for file in Path("policies").iterdir():
        if file.is_file():
            (newer / file.name).write_text(file.read_text("utf-8").replace("<= 500", "<= 600"), "utf-8")

    result = run("policy", "diff", "policies", str(newer))
    assert result.exit_code == 1
    assert "may do more" in result.stdout
    assert "size(args.text) <= 500 -> size(args.text) <= 600" in result.stdout
    assert "| `+` |" in run("policy", "diff", "policies", str(newer), "--format", "markdown").stdout
    assert run("policy", "diff", "policies", "nowhere").exit_code == 2
    assert run("policy", "diff", "policies", "active").exit_code == 2
