"""How the judge decides: the shipped policies case by case, then what is true of every policy."""

from dataclasses import replace

import pytest

from tests.policies_for_tests import (
    Row,
    caller,
    judge,
    shipped,
    text_of,
    tool,
)
from toolgate.backends.casbin_policy import CasbinPolicy
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
    decision = demo.decide(who, what, {} if amount is None else {"amount": amount})

    assert (decision.verdict, decision.rules[-1:]) == (verdict, (rule,) if rule else ())
    assert decision.policy == demo.digest


@pytest.mark.parametrize(
    ("who", "what", "amount", "allowed"),
    [
        (AGENT, GRANT, 51, "amount at most 50 (rule S05)"),
        (LEAD, GRANT, 501, "amount at most 500"),
        (AGENT, GRANT, 251, "amount at most 50 (rule S05)"),
        (LEAD, CLOSE, 1, ""),
        (AUDITOR, CREATE, 1, ""),
        (AGENT, GRANT, 50, ""),
    ],
)
def test_a_refusal_names_the_nearest_bound_that_would_be_kept(
    demo: CasbinPolicy, who: Caller, what: Tool, amount: int, allowed: str
) -> None:
    assert demo.decide(who, what, {"amount": amount}).allowed == allowed


@pytest.mark.parametrize(
    ("effect", "when", "allowed"),
    [
        (
            "allow",
            "size(args.a) < 3 && args.b == 'x'",
            "the size of a less than 3 and b exactly 'x' (rule R0)",
        ),
        ("allow", "args.a in ['x', 'y']", "a one of ['x', 'y'] (rule R0)"),
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

    decision = judge([(effect, "*", "*", "*", "*", when, "-"), otherwise]).decide(AGENT, FIND, {})

    assert (decision.verdict, decision.allowed) == ("deny", allowed)


def test_a_hold_names_who_could_approve(demo: CasbinPolicy) -> None:
    assert demo.decide(LEAD, GRANT, {"amount": 300}).approvers == ("finance",)
    assert demo.decide(LEAD, CLOSE, {}).approvers == ("owner",)
    assert demo.decide(LEAD, GRANT, {"amount": 600}).approvers == ()


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

    assert policy.decide(AGENT, tool("crm.delete"), {}).rules == ("R1",)
    assert policy.decide(AGENT, tool("crm.deleted"), {}).verdict == "allow"
    assert policy.decide(AGENT, tool("crm.grant"), {"amount": 6}).rules[-1:] == ("R2",)
    assert policy.decide(AGENT, tool("crm.grant"), {"amount": 5}).verdict == "allow"


def test_a_rule_of_a_user_is_for_that_subject_only_and_no_role_can_name_it() -> None:
    policy = judge(
        [("allow", "user:mia", "*", "*", "*", "-", "-"), ("allow", "mia", "*", "*", "write", "-", "-")]
    )

    assert policy.decide(caller(subject="mia"), FIND, {}).verdict == "allow"
    assert policy.decide(caller("user:mia", subject="rob"), FIND, {}).verdict == "deny"
    assert policy.decide(caller("mia", subject="rob"), FIND, {}).verdict == "deny"
    assert policy.decide(caller("mia", subject="rob"), CREATE, {}).verdict == "allow"


def test_a_role_of_a_role_counts_however_many_steps_away() -> None:
    links = tuple((f"r{step}", f"r{step + 1}", "acme") for step in range(30))
    text = replace(
        text_of([("deny", "r30", "*", "*", "*", "-", "-"), ("allow", "*", "*", "*", "*", "-", "-")]),
        roles=links,
    )

    assert CasbinPolicy(text).decide(caller("r0"), FIND, {}).rules == ("R0",)
    assert CasbinPolicy(text).decide(caller("r0", tenant="globex"), FIND, {}).verdict == "allow"


def test_roles_that_lead_to_each_other_end() -> None:
    text = replace(
        text_of([("allow", "b", "*", "*", "*", "-", "-")]), roles=(("a", "b", "acme"), ("b", "a", "acme"))
    )

    assert CasbinPolicy(text).decide(caller("a"), FIND, {}).verdict == "allow"


@pytest.mark.parametrize("amount", [None, "6", [6], {}, 2**70, float("nan"), "\ud800"])
def test_a_condition_that_cannot_be_told_makes_a_deny_bite_and_an_allow_not_match(amount: Json) -> None:
    asks = "args.amount + 1 < 5 || args.amount + 1 >= 5"
    allow, deny = ("allow", "*", "*", "*", "*", asks, "-"), ("deny", "*", "*", "*", "*", asks, "-")
    always = ("allow", "*", "*", "*", "*", "-", "-")

    assert judge([allow]).decide(AGENT, FIND, {"amount": 6}).verdict == "allow"
    assert judge([allow]).decide(AGENT, FIND, {"amount": amount}).rules == ()
    assert judge([always, deny]).decide(AGENT, FIND, {"amount": amount}).rules[-1:] == ("R1",)


def test_of_several_denies_the_first_in_the_files_decides() -> None:
    other: Row = ("allow", "*", "*", "tickets.*", "*", "-", "-")
    rules: list[Row] = [other] * 20
    rules[8], rules[16] = ("deny", "*", "*", "crm.*", "*", "-", "-"), ("deny", "*", "*", "*", "*", "-", "-")
    rules[1] = ("deny", "support", "acme", "*.find_customers", "read", "-", "-")

    assert judge(rules).decide(AGENT, FIND, {}).rules == ("R1",)


def test_what_casbin_cannot_judge_is_denied(caplog: pytest.LogCaptureFixture) -> None:
    text = text_of([("allow", "*", "*", "*", "*", "-", "-")])
    broken = CasbinPolicy(replace(text, rules=(replace(text.rules[0], cells=("R0", "allow")),)))

    decision = broken.decide(AGENT, FIND, {"secret": "canary"})

    assert (decision.verdict, decision.rules) == ("deny", ())
    assert "crm.find_customers" in caplog.text
    assert "canary" not in caplog.text


def test_names_that_nobody_knows_fill_no_memory_beyond_the_bound(demo: CasbinPolicy) -> None:
    for number in range(50_010):
        assert not demo.visible(caller(subject=f"s{number}"), FIND)

    remembered: list[dict[object, object]] = [vars(demo)["_candidates"], vars(vars(demo)["_roles"])["_known"]]
    assert all(0 < len(one) <= 50_000 for one in remembered)
    assert demo.visible(AGENT, FIND)
