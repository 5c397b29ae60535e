"""How the judge decides: the shipped policies case by case, then what is true of every policy."""

from dataclasses import replace
from typing import NoReturn

import pytest

from tests.policies_for_tests import (
    SHIPPED,
    Row,
    caller,
    judge,
    question,
    shipped,
    text_of,
    tool,
)
from toolgate.backends.manifest_catalog import Registry
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.cases import run_cases
from toolgate.backends.policy.lint import lint
from toolgate.core.arguments import Schema
from toolgate.core.call import Caller
from toolgate.core.decision import Verdict
from toolgate.core.record import Json
from toolgate.core.tool import Tool

AGENT, LEAD, AUDITOR = caller("support"), caller("support_lead"), caller("auditor")
FIND, READ_TICKET = tool("crm.find_customers"), tool("tickets.read")
CREATE, CHANGE = tool("tickets.create", "write"), tool("tickets.change", "write")
GRANT, CLOSE = tool("crm.grant_credit", "write"), tool("crm.close_account", "destroy")


@pytest.fixture(scope="module")
def demo() -> CasbinPolicy:
    """The policy of the repository's own deployment."""
    return shipped()


@pytest.mark.parametrize(
    ("who", "what", "amount", "verdict", "rule"),
    [
        (AGENT, FIND, None, "allow", "S01"),
        (AGENT, READ_TICKET, None, "allow", "S02"),
        (AGENT, CREATE, None, "allow", "S03"),
        (AGENT, CHANGE, None, "deny", None),
        (AGENT, GRANT, 50, "allow", "S05"),
        (AGENT, GRANT, 51, "deny", None),
        (AGENT, GRANT, 251, "deny", "H01"),
        (AGENT, GRANT, 501, "deny", "D01"),
        (AGENT, CLOSE, None, "deny", "H02"),
        (LEAD, FIND, None, "allow", "S01"),
        (LEAD, CHANGE, None, "allow", "L01"),
        (LEAD, GRANT, 51, "allow", "L02"),
        (LEAD, GRANT, 250, "allow", "L02"),
        (LEAD, GRANT, 251, "hold", "H01"),
        (LEAD, GRANT, 500, "hold", "H01"),
        (LEAD, GRANT, 501, "deny", "D01"),
        (LEAD, GRANT, 1000, "deny", "D01"),
        (LEAD, GRANT, None, "deny", "D01"),
        (LEAD, GRANT, "50", "deny", "D01"),
        (LEAD, GRANT, [50], "deny", "D01"),
        (LEAD, CLOSE, None, "hold", "H02"),
        (AUDITOR, FIND, None, "allow", "A01"),
        (AUDITOR, READ_TICKET, None, "allow", "A02"),
        (AUDITOR, CREATE, None, "deny", None),
        (AUDITOR, GRANT, 1, "deny", None),
        (caller("support", tenant="globex"), FIND, None, "deny", None),
        (caller("support_lead", tenant="*"), GRANT, 1, "deny", None),
        (caller(subject="support"), FIND, None, "deny", None),
        (caller(subject="user:support"), FIND, None, "deny", None),
        (caller("Support"), FIND, None, "deny", None),
        (caller("*"), FIND, None, "deny", None),
        (caller("auditor", "support"), GRANT, 50, "allow", "S05"),
        (AGENT, tool("crmx.find_customers"), None, "deny", None),
        (AGENT, tool("crm.find_customers", "write"), None, "deny", None),
    ],
)
def test_the_shipped_policy_judges_each_case_as_it_reads_aloud(
    demo: CasbinPolicy, who: Caller, what: Tool, amount: Json, verdict: Verdict, rule: str | None
) -> None:
    decision = demo.decide(question(who, what, {} if amount is None else {"amount": amount}))

    assert (decision.verdict, decision.rules[-1:]) == (verdict, (rule,) if rule else ())
    assert decision.policy == demo.digest


@pytest.mark.parametrize(
    ("who", "what", "amount", "allowed"),
    [
        (AGENT, GRANT, 51, "amount at most 50 (rule S05)"),
        (LEAD, GRANT, 501, "amount at most 250"),
        (AGENT, GRANT, 251, "amount at most 50 (rule S05)"),
        (LEAD, CLOSE, 1, ""),
        (AUDITOR, CREATE, 1, ""),
        (AGENT, GRANT, 50, ""),
    ],
)
def test_a_refusal_names_the_nearest_bound_that_would_be_kept(
    demo: CasbinPolicy, who: Caller, what: Tool, amount: int, allowed: str
) -> None:
    assert demo.decide(question(who, what, {"amount": amount})).allowed == allowed


@pytest.mark.parametrize(
    ("effect", "when", "allowed"),
    [
        (
            "allow",
            "size(args.a) < 3 && args.b == 'x'",
            "",
        ),
        ("allow", "size(args.a) < 3 && args.b == 5", "the size of a less than 3 and b exactly 5 (rule R0)"),
        ("allow", "args.a in [4, 5]", "a one of [4, 5] (rule R0)"),
        ("allow", "args.a in ['x', 'y']", ""),
        ("allow", "args.kind in ['x', 'y']", "kind one of ['x', 'y'] (rule R0)"),
        ("allow", "args.kind in ['x', 'z']", ""),
        ("deny", "args.a < 'm'", ""),
        ("deny", "args.a > 5 && args.a > 6", ""),
        ("allow", "args.a > 5 || args.b > 5", ""),
        ("allow", "caller.subject == 'boss'", ""),
        ("deny", "args.a >= 3", "a less than 3"),
        ("deny", "args.a != 3", "a exactly 3"),
        ("deny", "args.a >= 3 && args.b >= 3", ""),
        ("deny", "args.a in [3]", ""),
    ],
)
def test_a_refusal_names_bounds_only_where_a_rule_states_them_plainly(
    effect: str, when: str, allowed: str
) -> None:
    otherwise: Row = ("allow", "*", "*", "crm.f*", "read" if effect == "deny" else "write", "-", "-")

    find = replace(FIND, input=Schema({"properties": {"kind": {"enum": ["x", "y"]}}}))  # callers see it there

    decision = judge([(effect, "*", "*", "*", "*", when, "-"), otherwise]).decide(question(AGENT, find, {}))

    assert (decision.verdict, decision.allowed) == ("deny", allowed)


@pytest.mark.parametrize(
    ("rows", "allowed"),
    [
        ([("allow", "args.amount <= 50"), ("deny", "args.amount > 10")], "amount at most 10"),
        ([("allow", "-"), ("deny", "args.amount > 50"), ("deny", "args.amount > 10")], "amount at most 10"),
        ([("allow", "args.amount <= 50"), ("deny", "args.text == 'x'")], ""),
        (
            [("allow", "args.amount <= 50"), ("shadow-deny", "args.amount > 10")],
            "amount at most 50 (rule R0)",
        ),
    ],
)
def test_what_a_refusal_says_to_be_allowed_is_allowed(rows: list[tuple[str, str]], allowed: str) -> None:
    policy = judge([(effect, "*", "*", "*", "*", when, "-") for effect, when in rows])

    decision = policy.decide(question(AGENT, GRANT, {"amount": 100, "text": "x"}))

    assert (decision.verdict, decision.allowed) == ("deny", allowed)


def test_the_shipped_policy_passes_its_own_cases(demo: CasbinPolicy) -> None:
    catalog, faults = Registry(SHIPPED.parent / "registry", SHIPPED.parent).read()
    assert catalog is not None, faults
    tested = run_cases(demo.text, catalog.tools)

    assert (tested.faults, tested.failures, tested.uncovered) == ((), (), ())
    assert tested.passed > 40
    assert lint(demo.text, catalog.tools) == []


def test_a_hold_names_who_could_approve(demo: CasbinPolicy) -> None:
    assert demo.decide(question(LEAD, GRANT, {"amount": 300})).approvers == ("finance",)
    assert demo.decide(question(LEAD, CLOSE, {})).approvers == ("owner",)
    assert demo.decide(question(LEAD, GRANT, {"amount": 600})).approvers == ()


@pytest.mark.parametrize(
    ("who", "seen"),
    [
        (AGENT, {FIND, READ_TICKET, CREATE, GRANT}),
        (LEAD, {FIND, READ_TICKET, CREATE, CHANGE, GRANT, CLOSE}),
        (AUDITOR, {FIND, READ_TICKET}),
        (caller("support_lead", tenant="globex"), set[Tool]()),
        (caller(), set[Tool]()),
    ],
)
def test_a_caller_sees_the_tools_of_which_some_call_could_be_allowed(
    demo: CasbinPolicy, who: Caller, seen: set[Tool]
) -> None:
    everything = (FIND, READ_TICKET, CREATE, CHANGE, GRANT, CLOSE)

    assert {one.name for one in everything if demo.visible(who, one)} == {one.name for one in seen}


def test_a_tool_that_is_always_denied_is_not_seen() -> None:
    allow: Row = ("allow", "*", "*", "*", "*", "-", "-")

    assert judge([allow]).visible(AGENT, FIND)
    assert judge([allow, ("deny", "*", "*", "crm.*", "*", "args.a > 1", "-")]).visible(AGENT, FIND)
    assert not judge([allow, ("deny", "*", "*", "crm.*", "*", "-", "-")]).visible(AGENT, FIND)


def test_a_wildcard_stands_for_any_text_and_a_group_for_all_that_is_in_it() -> None:
    policy = judge(
        [
            ("allow", "*", "*", "crm.*", "*", "-", "-"),
            ("deny", "*", "*", "*.delete", "*", "-", "-"),
            ("deny", "*", "*", "group", "*", "args.amount > 5", "-"),
        ]
    )

    assert policy.decide(question(AGENT, tool("crm.delete"), {})).rules == ("R1",)
    assert policy.decide(question(AGENT, tool("crm.deleted"), {})).verdict == "allow"
    assert policy.decide(question(AGENT, tool("crm.grant"), {"amount": 6})).rules[-1:] == ("R2",)
    assert policy.decide(question(AGENT, tool("crm.grant"), {"amount": 5})).verdict == "allow"


def test_a_rule_of_a_user_is_for_that_subject_only_and_no_role_can_name_it() -> None:
    policy = judge(
        [("allow", "user:mia", "*", "*", "*", "-", "-"), ("allow", "mia", "*", "*", "write", "-", "-")]
    )

    assert policy.decide(question(caller(subject="mia"), FIND, {})).verdict == "allow"
    assert policy.decide(question(caller("user:mia", subject="rob"), FIND, {})).verdict == "deny"
    assert policy.decide(question(caller("mia", subject="rob"), FIND, {})).verdict == "deny"
    assert policy.decide(question(caller("mia", subject="rob"), CREATE, {})).verdict == "allow"


def test_a_role_of_a_role_counts_however_many_steps_away() -> None:
    links = [(f"r{step}", f"r{step + 1}", "acme") for step in range(30)]
    rules: list[Row] = [("deny", "r30", "*", "*", "*", "-", "-"), ("allow", "*", "*", "*", "*", "-", "-")]
    policy = judge(rules, links)

    assert policy.decide(question(caller("r0"), FIND, {})).rules == ("R0",)
    assert policy.decide(question(caller("r0", tenant="globex"), FIND, {})).verdict == "allow"


@pytest.mark.parametrize("amount", [None, "6", [6], {}, 2**70, float("nan"), "\ud800"])
def test_a_condition_that_cannot_be_told_makes_a_deny_bite_and_an_allow_not_match(amount: Json) -> None:
    asks = "args.amount + 1 < 5 || args.amount + 1 >= 5"
    allow, deny = ("allow", "*", "*", "*", "*", asks, "-"), ("deny", "*", "*", "*", "*", asks, "-")
    always = ("allow", "*", "*", "*", "*", "-", "-")

    assert judge([allow]).decide(question(AGENT, FIND, {"amount": 6})).verdict == "allow"
    assert judge([allow]).decide(question(AGENT, FIND, {"amount": amount})).rules == ()
    assert judge([always, deny]).decide(question(AGENT, FIND, {"amount": amount})).rules[-1:] == ("R1",)


def test_of_several_denies_the_first_in_the_files_decides() -> None:
    other: Row = ("allow", "*", "*", "tickets.*", "*", "-", "-")
    rules: list[Row] = [other] * 20
    rules[8], rules[16] = ("deny", "*", "*", "crm.*", "*", "-", "-"), ("deny", "*", "*", "*", "*", "-", "-")
    rules[1] = ("deny", "support", "acme", "*.find_customers", "read", "-", "-")

    assert judge(rules).decide(question(AGENT, FIND, {})).rules == ("R1",)


def test_what_casbin_cannot_judge_is_denied(caplog: pytest.LogCaptureFixture) -> None:
    text = text_of([("allow", "*", "*", "*", "*", "-", "-")])
    broken = CasbinPolicy(replace(text, rules=(replace(text.rules[0], cells=("R0", "allow")),)))

    decision = broken.decide(question(AGENT, FIND, {"secret": "canary"}))

    assert (decision.verdict, decision.rules) == ("deny", ())
    assert "crm.find_customers" in caplog.text
    assert "canary" not in caplog.text


class Talkative(CasbinPolicy):
    """A judge that breaks, and tells what it was asked."""

    def _could_match(self, caller: Caller, tool: Tool) -> NoReturn:
        raise ValueError(f"{caller.subject} asked {tool.name} about canary")


def test_a_judge_that_breaks_denies_and_tells_no_value(caplog: pytest.LogCaptureFixture) -> None:
    broken = Talkative(text_of([("allow", "*", "*", "*", "*", "-", "-")]))

    decision = broken.decide(question(AGENT, FIND, {"secret": "canary"}))

    assert decision.verdict == "deny"
    assert "ValueError at test_policy_deciding.py" in caplog.text
    assert "canary" not in caplog.text


def test_names_that_nobody_knows_fill_no_memory_beyond_the_bound(demo: CasbinPolicy) -> None:
    for number in range(50_010):
        assert not demo.visible(caller(subject=f"s{number}"), FIND)

    remembered: list[dict[object, object]] = [vars(demo)["_candidates"], vars(demo.roles)["_known"]]
    assert all(0 < len(one) <= 50_000 for one in remembered)
    assert demo.visible(AGENT, FIND)
