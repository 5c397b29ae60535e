"""Whatever is written in a policy or a condition: faults or an answer, never an exception or a stall.

No test here measures time. Where a stall is looked for, the text is so long that a cost that grows with its
square would not end before the time that every test has.
"""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies_for_tests import SHIPPED, Row, cells_of, files_of, policies, question, questions, quoted
from tests.policies_for_tests import caller as caller_of
from tests.policies_for_tests import tool as tool_of
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.conditions import LONGEST, Condition, Facts
from toolgate.backends.policy.reading import parse_policy, read_files
from toolgate.core.decision import Question
from toolgate.core.record import Json, JsonObject

FILES, _ = read_files(SHIPPED)
LINES = [line for name, text in FILES.items() if name.endswith(".csv") for line in text.split("\n")]
ODD = [
    '"',
    '""',
    ",",
    " ",
    "\t",
    "\r",
    "\x00",
    "\ufeff",
    "\u2028",
    "*",
    "-",
    "#",
    "p,",
    "P,",
    "Deny",
    "user:",
    "ⅷ",
]
WORDS = [
    *(
        "args",
        "args.amount",
        "args.text",
        "args.list",
        "caller",
        "caller.roles",
        "now",
        "run",
        "run.tools",
        "x",
    ),
    *("(", ")", "[", "]", "{", "}", ".", ",", ":", "?", "!", "-", "+", "*", "/", "%", "&&", "||"),
    *(
        "<",
        "<=",
        "==",
        "!=",
        ">=",
        ">",
        "in",
        "=",
        "&",
        "|",
        "\\",
        "'",
        '"',
        '"a"',
        "'''",
        'r"\\"',
        "b'\\xff'",
    ),
    *("1", "1.5", "1u", "-9223372036854775808", "9223372036854775808", "1e999", "0x1F", "true", "null", ""),
    *("has(", "size(", "all(", "exists(", "filter(", "map(", "matches(", '"(a+)+$"', '"a{1000}{1000}"', "x,"),
    *(
        "during(",
        '"Mon-Fri"',
        '"09:00-17:00"',
        '"UTC"',
        "like(",
        "called(",
        '"crm.*"',
        "count(",
        "timestamp(",
    ),
    *(
        "duration(",
        '"1h"',
        "int(",
        "double(",
        "string(",
        "type(",
        "dyn(",
        "getHours()",
        "//",
        "\n",
        "\x00",
        "é",
        "🂡",
    ),
]
words = st.lists(st.sampled_from(WORDS), max_size=25)
conditions = st.builds(str.join, st.sampled_from(["", " "]), words) | st.text(max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
given_arguments = st.dictionaries(st.sampled_from(["amount", "text", "list", "x"]), values, max_size=4)


def read(text: str) -> CasbinPolicy | None:
    """Read `text` as the rules of a policy; there is a policy or there are faults, and not both."""
    policy, faults = parse_policy({**FILES, "rules.csv": text})

    assert (policy is None) == bool(faults)
    assert all(fault.file.startswith("policies/") and fault.problem and fault.remedy for fault in faults)
    return CasbinPolicy(policy) if policy is not None else None


@given(text=st.text() | st.builds(str.join, st.just(""), st.lists(st.sampled_from([*ODD, *LINES, "\n"]))))
def test_any_text_is_read_or_has_faults(text: str) -> None:
    read(text)


@given(
    line=st.sampled_from(LINES),
    changes=st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 12), st.sampled_from(ODD)), min_size=1, max_size=4
    ),
)
def test_a_changed_line_is_read_or_has_faults_and_what_is_read_can_judge(
    line: str, changes: list[tuple[int, int, str]]
) -> None:
    for place, length, new in changes:
        line = line[:place] + new + line[place + length :]
    policy = read(f"{line}\np, LAST, allow, *, *, *, *, -, -, -\n")
    if policy is not None:
        decision = policy.decide(question(caller_of("support"), tool_of("crm.grant_credit", "write"), {}))

        assert decision.policy == policy.digest


@given(policy=policies.filter(bool), spaces=st.text(" \t", max_size=3), end=st.sampled_from(["\n", "\r\n"]))
def test_cells_are_read_as_they_were_written(policy: list[Row], spaces: str, end: str) -> None:
    lines = [f",{spaces}".join(map(quoted, ("p", *cells))) + spaces for cells in cells_of(policy)]
    text, faults = parse_policy({**files_of(policy), "rules.csv": end.join(lines)})

    assert text is not None, faults
    assert [rule.cells for rule in text.rules] == cells_of(policy)


@given(names=st.lists(st.text(max_size=8), max_size=3), text=st.text(max_size=20))
def test_any_names_of_files_are_taken(names: list[str], text: str) -> None:
    parse_policy(dict.fromkeys([f"{name}.csv" for name in names], text))


LONG: dict[str, Callable[[int], str]] = {
    "quotes": lambda n: '"' * n,
    "quotes with spaces": lambda n: '"" ' * n,
    "an open quote": lambda n: 'p, "' + "a" * n,
    "open quotes": lambda n: '"a,' * n,
    "commas": lambda n: "," * n,
    "spaces": lambda n: " " * n + "x",
    "spaces after a quote": lambda n: '"a"' + " " * n + "x",
    "a cell": lambda n: f"p, {'A' * n}, allow, *, *, *, *, -, -, -",
    "a quoted cell": lambda n: f'p, A, allow, *, *, *, *, "{"(" * n}", -, -',
    "a condition of texts": lambda n: f"p, A, allow, *, *, *, *, {'matches ' * n}, -, -",
    "a with cell": lambda n: f"p, A, allow, *, *, *, *, -, -, {'mask=a;' * n}",
    "a long mask": lambda n: f"p, A, allow, *, *, *, *, -, -, mask={'a|' * n}b",
    "rows": lambda n: f"p, A, allow, *, *, *, *, -, -, rows={'9' * n}",
    "a pattern": lambda n: f"p, A, allow, *, *, {'*a' * n}, *, -, -, -",
}


@pytest.mark.parametrize("kind", LONG)
def test_a_line_twice_as_long_takes_no_more_than_its_share_longer(kind: str) -> None:
    """Linear is two times as long, quadratic four; a floor keeps short times from being compared."""
    once, twice = (min(_seconds(LONG[kind](length)) for _ in range(3)) for length in (500_000, 1_000_000))

    assert twice < 3.4 * max(once, 0.05)


def _seconds(text: str) -> float:
    """Read `text`, and give the CPU time that it took."""
    begin = time.process_time()
    read(text)
    return time.process_time() - begin


def test_a_pattern_full_of_stars_does_not_stall_a_decision() -> None:
    policy = read(f"p, A, deny, *, *, {'*a' * 500}, *, -, -, -\np, B, allow, *, *, *, *, -, -, -")
    if policy is not None:
        asked = question(caller_of("support"), tool_of("a" * 2000 + ".b"))

        assert policy.decide(asked).verdict == "allow"


def test_many_faults_are_all_told() -> None:
    policy, faults = parse_policy({"rules.csv": "p, A\n" * 50_000})

    assert policy is None
    assert len(faults) == 50_000


def test_rings_of_roles_and_of_groups_are_told_and_not_followed() -> None:
    ring = [f"g, a{number}, a{(number + 1) % 2000}, acme" for number in range(2000)]
    groups = [f"g2, t{number}, t{(number + 1) % 2000}" for number in range(2000)]

    text, faults = parse_policy(
        {"rules.csv": "p, A, allow, a999, acme, t999, *, -, -, -", "roles.csv": "\n".join([*ring, *groups])}
    )

    assert text is None
    assert [fault.place for fault in faults] == ["line 1", "line 2001"]


def condition(text: str) -> Condition | None:
    """Read a condition; what cannot be one is a ValueError."""
    try:
        return Condition(text)
    except ValueError:
        return None


@given(text=conditions, asked=questions, given_=given_arguments)
def test_any_condition_is_refused_or_answers(text: str, asked: Question, given_: JsonObject) -> None:
    read = condition(text)
    if read is not None:
        whole = Question(caller=asked.caller, tool=asked.tool, arguments=given_, at=asked.at, run=asked.run)

        assert read.holds(Facts(whole)) in {True, False, None}


ASKED = (
    "args.x > 5",
    "args.x + 1 > 5",
    "args.x - args.x * args.x / args.x % args.x == args.x",
    "size(args.x) > 3",
    "args.x in args.x",
    "args.x[0] == args.x.y",
    "args.x ? args.x : !args.x",
    "like(args.x, '*a*b*')",
    "args.x.matches('(a+)+$')",
    "args.x.contains('a') || args.x.startsWith('b')",
    "timestamp(args.x) < now",
    "duration(args.x) > duration('1h')",
    "int(args.x) == 1 || double(args.x) == 1.0 || string(args.x) == 'a'",
    "args.x.exists(y, y > 5)",
    "args.x.filter(y, y == args.x).size() > 2",
    "called('crm.*') && count('*') > 1",
    "during('Sat-Mon', '22:00-06:00', 'Europe/Berlin')",
    "-args.x < 0",
)


@pytest.mark.parametrize("text", ASKED)
@given(value=values, asked=questions)
def test_a_condition_answers_whatever_the_arguments_are(text: str, value: Json, asked: Question) -> None:
    whole = Question(caller=asked.caller, tool=asked.tool, arguments={"x": value}, at=asked.at, run=asked.run)

    assert Condition(text).holds(Facts(whole)) in {True, False, None}


NESTED: dict[str, Callable[[int], str]] = {
    "brackets": lambda n: "(" * n + "true" + ")" * n,
    "negations": lambda n: "!" * n + "true",
    "minus": lambda n: "-" * n + "1 == 1",
    "lists": lambda n: "[" * n + "]" * n + " == []",
    "maps": lambda n: "{1:" * n + "1" + "}" * n + " == {}",
    "choices": lambda n: "true ? " * n + "true" + " : true" * n,
    "calls": lambda n: "dyn(" * n + "true" + ")" * n,
    "steps": lambda n: "args" + ".x" * n + " == 1",
    "ands": lambda n: "true" + " && true" * n,
    "sums": lambda n: "1" + "+1" * n + " > 0",
    "indexes": lambda n: "args" + "[0]" * n + " == 1",
    "methods": lambda n: "args.x" + ".size()" * n + " == 1",
}


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("length", [30, LONGEST // 2, LONGEST, 1_000_000])
def test_a_deep_condition_is_refused_or_answers(kind: str, length: int) -> None:
    """A fall of the evaluator's stack would end the gate, and no exception would be there to catch."""
    most = (
        length
        if length > LONGEST
        else max(1, (length - 20) // len(NESTED[kind](2).removeprefix(NESTED[kind](1))))
    )
    read = condition(NESTED[kind](most))

    assert read is None or read.holds(Facts(question(caller_of(), tool_of("crm.read")))) in {
        True,
        False,
        None,
    }
