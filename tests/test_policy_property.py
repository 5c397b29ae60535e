"""What is true of every policy, whatever its rules are."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.policies_for_tests import (
    Row,
    arguments,
    caller,
    callers,
    generosity,
    judge,
    policies,
    rows,
    tool,
    tools,
)
from toolgate.core.call import Caller
from toolgate.core.record import Json, JsonObject
from toolgate.core.tool import Tool

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
)


@given(policy=policies, who=callers, what=tools, given_=arguments)
def test_a_deny_wins_over_every_allow(policy: list[Row], who: Caller, what: Tool, given_: JsonObject) -> None:
    never: Row = ("deny", "*", "*", "*", "*", "-", "-")

    assert judge([*policy, never]).decide(who, what, given_).verdict == "deny"
    assert judge([never, *policy]).decide(who, what, given_).verdict == "deny"


@given(policy=policies, who=callers, what=tools, given_=arguments)
def test_without_an_allow_there_is_no_call(
    policy: list[Row], who: Caller, what: Tool, given_: JsonObject
) -> None:
    denies = judge([row for row in policy if row[0] == "deny"])

    assert denies.decide(who, what, given_).verdict == "deny"
    assert not denies.visible(who, what)


@given(policy=policies, row=rows, place=st.integers(0, 8), who=callers, what=tools, given_=arguments)
def test_one_more_deny_never_allows_more(
    policy: list[Row], row: Row, place: int, who: Caller, what: Tool, given_: JsonObject
) -> None:
    more = [*policy[:place], ("deny", *row[1:]), *policy[place:]]

    assert generosity(judge(more).decide(who, what, given_)) <= generosity(
        judge(policy).decide(who, what, given_)
    )


@given(policy=policies, chance=st.randoms(use_true_random=False), who=callers, what=tools, given_=arguments)
def test_the_order_of_rules_changes_no_verdict(
    policy: list[Row], chance: random.Random, who: Caller, what: Tool, given_: JsonObject
) -> None:
    shuffled = policy.copy()
    chance.shuffle(shuffled)
    one, other = judge(policy), judge(shuffled)
    first, second = one.decide(who, what, given_), other.decide(who, what, given_)

    assert (first.verdict, first.approvers) == (second.verdict, second.approvers)
    assert one.visible(who, what) == other.visible(who, what)


@given(policy=policies, others=policies, who=callers, what=tools, given_=arguments)
def test_rules_of_another_tenant_change_nothing(
    policy: list[Row], others: list[Row], who: Caller, what: Tool, given_: JsonObject
) -> None:
    foreign: list[Row] = [(*row[:2], "elsewhere", *row[3:]) for row in others]

    assert judge([*policy, *foreign]).decide(who, what, given_) == judge(policy).decide(who, what, given_)


@given(policy=policies, who=callers, what=tools, given_=arguments)
def test_what_is_not_seen_is_never_allowed(
    policy: list[Row], who: Caller, what: Tool, given_: JsonObject
) -> None:
    judged = judge(policy)

    assert judged.visible(who, what) or judged.decide(who, what, given_).verdict == "deny"


@given(value=ANYTHING, subject=st.text(st.characters(exclude_categories=())))
def test_whatever_the_arguments_are_there_is_a_decision(value: Json, subject: str) -> None:
    asks = "args.amount < args.amount + 1 || args.amount[0].x == int(caller.subject) || size(args.amount) > 3"
    who = caller("support").model_copy(update={"subject": subject})
    policy = judge([("allow", "*", "*", "*", "*", "-", "-"), ("deny", "*", "*", "*", "*", asks, "-")])

    assert policy.decide(who, tool("crm.read"), {"amount": value}).verdict in {"allow", "deny"}
