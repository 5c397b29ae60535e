"""What the keeper of a policy is told that is most likely not meant, and what nobody needs to be told."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies_for_tests import TENANTS, arguments, caller, callers, judge, question, rows, tool
from toolgate.backends.policy.casbin_judge import MODEL
from toolgate.backends.policy.lint import lint
from toolgate.backends.policy.reading import parse_policy
from toolgate.core.tool import Tool

TOOLS = (tool("crm.read"), tool("crm.grant", "write"), tool("crm.delete", "destroy"), tool("tickets.read"))
ROLES = "g, support_lead, support, acme\ng, user:mia, support, acme\n"


def told(rules: str, tools: Sequence[Tool] = TOOLS, *, roles: str = ROLES) -> list[tuple[str, str]]:
    text, faults = parse_policy({"model.conf": MODEL, "rules.csv": rules, "roles.csv": roles})
    assert text is not None, faults
    return [(fault.place, fault.problem) for fault in lint(text, tools, [caller(subject="ann")])]


ALLOW = "p, A1, allow, support, acme, crm.*, *, -, -, -\n"


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ("1 < 2", "rule R1 has a condition that always holds"),
        ("'args' == 'args'", "rule R1 has a condition that always holds"),
        ("1 > 2", "rule R1 can never match: its condition never holds"),
        ("1 / 0 > 2", "rule R1 can never match: its condition cannot be told"),
    ],
)
def test_a_condition_that_looks_at_nothing_is_told(when: str, problem: str) -> None:
    assert told(f"{ALLOW}p, R1, allow, support, acme, tickets.*, read, {when}, -, -") == [("line 2", problem)]


@pytest.mark.parametrize(
    "when",
    ["args.a > 1", "caller.subject == 'x'", "now > timestamp('2020-01-01T00:00:00Z')", "called('crm.*')"],
)
def test_a_condition_that_looks_at_something_is_not_told(when: str) -> None:
    assert told(f"p, R1, allow, support, acme, tickets.*, read, {when}, -, -") == []


def test_a_deny_whose_condition_cannot_be_told_bites_always() -> None:
    assert told(f"{ALLOW}p, R1, deny, support, acme, crm.*, *, 1 / 0 > 2, approval:x, -")[0] == (
        "line 2",
        "rule R1 always matches: its condition cannot be told",
    )


def test_a_rule_under_another_id_is_told_whatever_its_spaces() -> None:
    rule = "p, {0}, allow, support, acme, crm.*, read, {1}, -, {2}\n"

    assert told(
        rule.format("R1", "args.a<=5", "rows=5; mask=email|name")
        + rule.format("R2", "args.a  <=  5", "mask=name|email;rows=5")
        + rule.format("R3", "args.a <= 6", "-")
        + rule.format("R4", "args.a == 'a b'", "-")
        + rule.format("R5", "args.a == 'ab'", "-")
    ) == [("line 2", "rule R2 says what R1 says (rules.csv line 1)")]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("allow, support, acme, crm.*, *, args.a > 1, -", "is always beaten: D1 always denies it"),
        ("allow, support, acme, crm.read, read, -, -", "is always beaten: D1 always denies it"),
        ("allow, support_lead, acme, crm.*, *, -, -", "is always beaten: D1 always denies it"),
        ("allow, user:mia, acme, crm.*, *, -, -", "is always beaten: D1 always denies it"),
        ("deny, support, acme, crm.*, *, -, approval:boss", "adds nothing: D1 always denies it"),
        ("deny, support, acme, crm.*, *, args.a > 1, -", "adds nothing: D1 always denies it"),
        ("shadow-allow, support, acme, crm.*, *, -, -", "is always beaten: D1 always denies it"),
        ("allow, support, acme, *.grant, write, -, -", "is always beaten: D1 always denies it"),
        ("allow, support, acme, money, *, -, -", "is always beaten: D1 always denies it"),
    ],
)
def test_a_rule_of_which_a_deny_leaves_nothing_is_told(rule: str, problem: str) -> None:
    rules = f"p, D1, deny, support, acme, crm.*, *, -, -, -\np, R1, {rule}, -\n"

    assert ("line 2", f"rule R1 {problem}") in told(rules, roles=f"{ROLES}g2, crm.grant, money")


@pytest.mark.parametrize(
    "rule",
    [
        "allow, support, globex, crm.*, *, -, -",
        "allow, support, *, crm.*, *, -, -",
        "allow, *, acme, crm.*, *, -, -",
        "allow, auditor, acme, crm.*, *, -, -",
        "allow, support, acme, *, *, -, -",
        "allow, support, acme, *.read, *, -, -",
    ],
)
def test_a_rule_of_which_something_is_left_is_not_told(rule: str) -> None:
    deny = "p, D1, deny, support, acme, crm.*, *, -, -, -\n"

    assert told(f"{deny}p, R1, {rule}, -\n") == []
    weaker = (
        deny.replace("-, -, -", "-, approval:x, -"),
        deny.replace("-, -, -", "args.a > 1, -, -"),
        deny.replace("deny", "shadow-deny"),
    )
    for one in weaker:
        assert not any("always denies it" in said for _, said in told(f"{one}{ALLOW}"))


def test_a_deny_that_somebody_else_can_lift_is_another_rule() -> None:
    rule = "p, {0}, deny, support, acme, crm.*, read, args.a > 1, {1}, -\n"

    assert told(rule.format("R1", "approval:support") + rule.format("R2", "-")) == []


def test_denies_that_beat_a_rule_only_together_are_all_named() -> None:
    denies = (
        "p, D1, deny, *, acme, crm.*, read, -, -, -\n"
        "p, D2, deny, support, *, *, write, -, -, -\n"
        "p, D3, deny, support, acme, crm.*, destroy, -, -, -\n"
    )

    ((place, problem),) = told(f"{denies}{ALLOW}")
    assert place == "line 4"
    assert set(problem.split(": ")[1].split()) == {"D1", "D2", "D3", "with", "always", "denies", "it"}
    assert told(denies.replace("destroy", "read") + ALLOW) == []


def test_a_user_whom_nothing_else_names_is_told() -> None:
    rules = "".join(
        f"p, {id_}, allow, user:{name}, {tenant}, {system}.*, read, -, -, -\n"
        for id_, name, tenant, system in (
            ("R1", "mia", "acme", "crm"),
            ("R2", "ann", "acme", "crm"),
            ("R3", "ann", "*", "crm"),
            ("R4", "anne", "acme", "crm"),
            ("R5", "mia", "globex", "crm"),
        )
    )

    assert [place for place, _ in told(rules + ALLOW)] == ["line 4", "line 5"]


@pytest.mark.parametrize(
    ("tenants", "told_of"),
    [
        ((), []),
        (("acme",), ["line 2, column 20", "line 3, column 27", "line 4, column 18"]),
        (("acme", "acne"), ["line 3, column 27", "line 4, column 18"]),
        (("elsewhere",), ["line 2, column 20", "line 3, column 27", "line 4, column 18"]),
    ],
)
def test_a_tenant_that_nobody_is_in_is_told(tenants: tuple[str, ...], told_of: list[str]) -> None:
    rules = (
        f"{ALLOW}p, R2, deny, user, acne, crm.*, read, -, -, -\n"
        'p, R3, deny, "user"   ,   acmee, crm.read, read, -, -, -\n'
        "p, R4, allow, *, globex, crm.*, read, -, -, -"
    )
    text, faults = parse_policy({"model.conf": MODEL, "rules.csv": rules, "roles.csv": ROLES})
    assert text is not None, faults

    found = [one for one in lint(text, TOOLS, [caller("x")], tenants) if "is for the tenant" in one.problem]

    assert [one.place for one in found] == told_of
    assert {one.remedy for one in found if "acm" in one.problem} <= {"write acme", "write acne"}


def test_a_role_row_vouches_for_rules_and_not_for_itself() -> None:
    text, faults = parse_policy(
        {
            "model.conf": MODEL,
            "rules.csv": ALLOW.replace("acme", "globex"),
            "roles.csv": "g, a, support, globex",
        }
    )
    assert text is not None, faults

    found = [one for one in lint(text, TOOLS, (), ("acme",)) if "no caller, issuer" in one.problem]

    assert [(one.file, one.place) for one in found] == [("policies/roles.csv", "line 1, column 16")]


def test_a_role_or_a_group_that_no_rule_names_is_told() -> None:
    roles = (
        ROLES + "g, user:kim, suport, acme\ng, user:kim, support, globex\n"
        "g2, crm.grant, money\ng2, money, all\ng2, crm.read, mony\n"
    )
    rules = ALLOW + "p, D1, deny, support, acme, all, write, args.a > 1, -, -\n"

    assert [place for place, _ in told(rules, roles=roles)] == ["line 3", "line 4", "line 7"]


@given(rules=st.lists(rows, max_size=8), data=st.data())
def test_what_is_told_to_be_always_beaten_never_decides(
    rules: list[tuple[str, ...]], data: st.DataObject
) -> None:
    hard = [("deny", "*", data.draw(st.sampled_from(["*", *TENANTS])), "crm.*", "*", "-", "-")]
    policy = judge([*rules, *hard])
    tools = [
        tool("crm.read"),
        tool("crm.grant", "write"),
        tool("crm.delete", "destroy"),
        tool("tickets.delete"),
    ]
    beaten = {
        fault.problem.split()[1] for fault in lint(policy.text, tools) if "is always beaten" in fault.problem
    }
    for one in tools:
        asked = question(data.draw(callers), one, data.draw(arguments))
        decision = policy.decide(asked)
        assert decision.verdict != "allow" or not beaten & set(decision.rules)
