"""What is true of every policy, whatever its rules are."""

import random
from collections.abc import Sized
from dataclasses import replace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies_for_tests import (
    LINKS,
    NOON,
    Row,
    caller,
    callers,
    generosity,
    judge,
    policies,
    question,
    questions,
    rows,
    rows_that,
    tool,
    tools,
)
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.index import MOST_REMEMBERED
from toolgate.core.call import Caller
from toolgate.core.decision import Decision, Past, Question, Verdict
from toolgate.core.record import Json
from toolgate.core.tool import Tool

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
)
ODD = tool("odd.tool")
places = st.integers(0, 8)


@given(policy=policies, asked=questions)
def test_a_deny_wins_over_every_allow(policy: list[Row], asked: Question) -> None:
    never: Row = ("deny", "*", "*", "*", "*", "-", "-")

    assert judge([*policy, never]).decide(asked).verdict == "deny"
    assert judge([never, *policy]).decide(asked).verdict == "deny"


@given(policy=policies, asked=questions)
def test_without_an_allow_there_is_no_call(policy: list[Row], asked: Question) -> None:
    denies = judge([row for row in policy if row[0] != "allow"])

    assert denies.decide(asked).verdict == "deny"
    assert not denies.visible(asked.caller, asked.tool)


@given(policy=policies, row=rows_that("deny"), place=places, asked=questions)
def test_one_more_deny_never_allows_more(policy: list[Row], row: Row, place: int, asked: Question) -> None:
    more = judge([*policy[:place], row, *policy[place:]])
    fewer = judge(policy)

    assert generosity(more.decide(asked)) <= generosity(fewer.decide(asked))
    assert more.visible(asked.caller, asked.tool) <= fewer.visible(asked.caller, asked.tool)


@given(policy=policies, row=rows_that("allow"), place=places, asked=questions)
def test_one_allow_less_never_allows_more(policy: list[Row], row: Row, place: int, asked: Question) -> None:
    more = judge([*policy[:place], row, *policy[place:]])
    fewer = judge(policy)

    assert generosity(fewer.decide(asked)) <= generosity(more.decide(asked))
    assert fewer.visible(asked.caller, asked.tool) <= more.visible(asked.caller, asked.tool)


@given(policy=policies, row=rows_that("oblige"), place=places, asked=questions)
def test_obligations_change_no_verdict(policy: list[Row], row: Row, place: int, asked: Question) -> None:
    obliged = judge([*policy[:place], row, *policy[place:]])
    free = judge(policy)

    assert _bare(obliged.decide(asked)) == _bare(free.decide(asked))
    assert obliged.visible(asked.caller, asked.tool) == free.visible(asked.caller, asked.tool)


@given(policy=policies, asked=questions)
def test_what_an_allow_obliges_to_changes_no_verdict(policy: list[Row], asked: Question) -> None:
    bare = [row if row[0] == "oblige" else (*row[:7], "-") for row in policy]

    assert _bare(judge(policy).decide(asked)) == _bare(judge(bare).decide(asked))


@given(policy=policies, row=rows_that("oblige"), place=places, asked=questions)
def test_one_more_obligation_never_shows_more(
    policy: list[Row], row: Row, place: int, asked: Question
) -> None:
    more = judge([*policy[:place], row, *policy[place:]]).decide(asked).obligations
    fewer = judge(policy).decide(asked).obligations

    assert fewer.mask <= more.mask
    assert fewer.rows is None or (more.rows is not None and more.rows <= fewer.rows)
    assert fewer.capture is None or fewer.least(more.capture or fewer.capture) == more.capture


@given(policy=policies, row=rows_that("shadow-allow", "shadow-deny"), place=places, asked=questions)
def test_rules_in_shadow_change_nothing_that_is_enforced(
    policy: list[Row], row: Row, place: int, asked: Question
) -> None:
    shadowed = judge([*policy[:place], row, *policy[place:]])
    bare = judge([row for row in policy if not row[0].startswith("shadow")])

    one, other = shadowed.decide(asked), bare.decide(asked)
    assert _bare(one) == _bare(other)
    assert one.obligations == other.obligations
    assert one.allowed.count("(rule") == other.allowed.count("(rule")
    assert shadowed.visible(asked.caller, asked.tool) == bare.visible(asked.caller, asked.tool)


@given(policy=policies, asked=questions)
def test_what_shadows_would_say_is_what_is_said_when_they_are_enforced(
    policy: list[Row], asked: Question
) -> None:
    enforced = [(row[0].removeprefix("shadow-"), *row[1:]) for row in policy]
    decision, later = judge(policy).decide(asked), judge(enforced).decide(asked)
    would_be = decision.would_be

    if would_be is None:
        assert decision.verdict == later.verdict
    else:
        assert decision.verdict != would_be.verdict == later.verdict
        assert would_be.rules == later.rules


@given(policy=policies, chance=st.randoms(use_true_random=False), asked=questions)
def test_the_order_of_rules_changes_no_verdict(
    policy: list[Row], chance: random.Random, asked: Question
) -> None:
    shuffled = policy.copy()
    chance.shuffle(shuffled)
    one, other = judge(policy), judge(shuffled)
    first, second = one.decide(asked), other.decide(asked)

    assert (first.verdict, first.approvers) == (second.verdict, second.approvers)
    assert first.obligations == second.obligations
    assert _shadow(first) == _shadow(second)
    assert one.visible(asked.caller, asked.tool) == other.visible(asked.caller, asked.tool)


@given(policy=policies, others=policies, asked=questions)
def test_rules_of_another_tenant_change_nothing(
    policy: list[Row], others: list[Row], asked: Question
) -> None:
    foreign: list[Row] = [(*row[:2], "elsewhere", *row[3:]) for row in others]
    both, one = judge([*policy, *foreign]), judge(policy)

    assert _said(both.decide(asked)) == _said(one.decide(asked))
    assert both.visible(asked.caller, asked.tool) == one.visible(asked.caller, asked.tool)
    assert both.asks_run(asked.caller, asked.tool) == one.asks_run(asked.caller, asked.tool)


@given(policy=policies, asked=questions)
def test_roles_of_another_tenant_change_nothing(policy: list[Row], asked: Question) -> None:
    foreign = [(f"user:{subject}", "boss", "elsewhere") for subject in ("mia", "rob", "support")]
    both, one = judge(policy, [*LINKS, *foreign]), judge(policy)

    assert _said(both.decide(asked)) == _said(one.decide(asked))


@given(policy=policies, others=st.lists(questions, max_size=5), asked=questions)
def test_what_was_asked_before_changes_nothing(
    policy: list[Row], others: list[Question], asked: Question
) -> None:
    judged = judge(policy)
    first = judged.decide(asked)
    for other in others:
        judged.decide(other)

    assert judged.decide(asked) == first
    assert judge(policy).decide(asked) == first


@given(policy=policies, asked=questions, run=st.lists(tools, max_size=3))
def test_the_run_matters_only_where_a_rule_asks_for_it(
    policy: list[Row], asked: Question, run: list[Tool]
) -> None:
    judged = judge(policy)
    if judged.asks_run(asked.caller, asked.tool):
        return
    other = replace(asked, run=tuple(Past(one.name, NOON) for one in run))

    assert judged.decide(other) == judged.decide(replace(asked, run=None))


@given(policy=policies, who=callers, asked=questions)
def test_what_is_not_seen_is_never_allowed(policy: list[Row], who: Caller, asked: Question) -> None:
    judged = judge(policy)

    assert judged.visible(asked.caller, asked.tool) or judged.decide(asked).verdict == "deny"


@given(policy=policies, asked=questions)
def test_a_hold_names_who_could_approve_and_nothing_else_does(policy: list[Row], asked: Question) -> None:
    decision = judge(policy).decide(asked)

    assert bool(decision.approvers) == (decision.verdict == "hold")


@given(value=ANYTHING, subject=st.text(st.characters(exclude_categories=())))
def test_whatever_the_arguments_are_there_is_a_decision(value: Json, subject: str) -> None:
    asks = "args.amount[0].x == int(caller.subject) || size(args.amount) > 3"
    who = caller("support").model_copy(update={"subject": subject})
    policy = judge([("allow", "*", "*", "*", "*", "-", "-"), ("deny", "*", "*", "*", "*", asks, "-")])
    decision = policy.decide(question(who, tool("crm.read"), {"amount": value}))

    assert decision.verdict in {"allow", "deny"}
    assert decision.rules


def test_unknown_names_are_not_remembered_for_ever() -> None:
    """100,000 subjects, tenants, roles and tools that nobody knows: what is remembered keeps its bound."""
    judged = judge([("allow", "*", "*", "*", "*", "-", "-")])
    for number in range(100_000):
        who = caller(f"role{number}", subject=f"odd{number}", tenant=f"tenant{number}")
        assert judged.visible(who, replace(ODD, name=f"odd.tool{number}"))
    remembered = _sizes(judged)

    assert max(remembered) > MOST_REMEMBERED // 2  # they were looked at
    assert max(remembered) <= MOST_REMEMBERED


@settings(max_examples=20)
@given(policy=policies, row=rows, asked=questions)
def test_a_policy_answers_as_before_beside_another(policy: list[Row], row: Row, asked: Question) -> None:
    one = judge(policy)
    before = one.decide(asked)
    judge([*policy, row]).decide(asked)

    assert one.decide(asked) == before


def _bare(decision: Decision) -> tuple[Verdict, tuple[str, ...]]:
    """Give what must not depend on obligations and shadows; ids of rules are others where rules are added."""
    return decision.verdict, decision.approvers


def _shadow(decision: Decision) -> Verdict | None:
    return decision.would_be.verdict if decision.would_be else None


def _sizes(judged: CasbinPolicy) -> list[int]:
    """How much each memory of a judge holds."""
    inside = vars(judged)
    parts = (judged, judged.roles, judged.groups, inside["_index"], inside["_enforcer"])
    return [
        len(held)
        for part in parts
        for held in cast("list[object]", list(vars(part).values()))
        if isinstance(held, Sized)
    ]


def _said(decision: Decision) -> Decision:
    """Give a decision without the version that it was made by."""
    shadow = decision.would_be
    return replace(decision, policy="", would_be=shadow and replace(shadow, policy=""))
