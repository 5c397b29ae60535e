"""Conditions of rules: what they say of a call, what they refuse to be, and what they may cost."""

import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies_for_tests import caller, tool
from toolgate.backends.policy.cel_parser import DEEPEST, LONGEST, parse
from toolgate.backends.policy.cel_tree import (
    Binary,
    Call,
    Chain,
    Choice,
    Each,
    Entries,
    Field,
    Has,
    Index,
    Items,
    Literal,
    Name,
    Node,
    Unary,
)
from toolgate.backends.policy.conditions import MOST_ITEMS, Condition, ConditionFault, Facts
from toolgate.core.arguments import Schema
from toolgate.core.call import Caller
from toolgate.core.decision import Past, Question
from toolgate.core.record import Json, JsonObject
from toolgate.core.tool import Tool

SATURDAY = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
ANN = Caller(subject="ann", issuer="test", tenant="acme", client="desk", roles=frozenset({"support", "lead"}))
ARGUMENTS: JsonObject = {
    "n": 5,
    "d": 2.5,
    "s": "hello",
    "l": [1, 2, 3],
    "m": {"a": 1, "b": "x"},
    "z": None,
    "yes": True,
}


def facts(
    arguments: JsonObject | None = None,
    *,
    at: datetime = SATURDAY,
    run: tuple[str, ...] | None = None,
    schema: JsonObject | None = None,
) -> Facts:
    past = None if run is None else tuple(Past(name, at) for name in run)
    asked = with_input(schema or {})
    arguments = ARGUMENTS if arguments is None else arguments
    return Facts(Question(caller=ANN, tool=asked, arguments=arguments, at=at, run=past))


def with_input(schema: JsonObject) -> Tool:
    return replace(tool("crm.grant", "write"), input=Schema(schema))


def holds(
    text: str,
    arguments: JsonObject | None = None,
    *,
    at: datetime = SATURDAY,
    run: tuple[str, ...] | None = None,
    schema: JsonObject | None = None,
) -> bool | None:
    return Condition(text).holds(facts(arguments, at=at, run=run, schema=schema))


# --- our reading against the evaluator's

EXAMPLES = 600
NAMES = ("n", "d", "s", "l", "m", "z", "yes", "nothing")
paths = st.sampled_from(
    [*(f"args.{name}" for name in NAMES), "args.m.a", 'args["n"]', "args.l[0]", "(args.n)"]
)
numbers = ["1", "-1", "0x1F", "2.5", "-.5", "1e3", "9223372036854775807", "-9223372036854775808"]
texts = ['"a"', "'it\\'s'", 'r"a\\b"', '"""a"b"""', '"\\u00e9\\x41\\101\\n"']
literals = st.sampled_from([*numbers, *texts, "true", "false", "null", "[]", "[1, 2,]", '{"a": 1}'])


def joined(below: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", " in ", "&&", "||"])
    macros = st.sampled_from(["all", "exists", "exists_one", "filter", "map"])
    lists = st.sampled_from(["args.l", "[1, 2, 3]", "args.s"])
    return st.one_of(
        st.builds("{} {} {}".format, below, signs, below),
        st.builds("{}{}{}".format, below, signs, below),
        st.builds("({})".format, below),
        st.builds("!{}".format, below),
        st.builds("-{}".format, below),
        st.builds("{} ? {} : {}".format, below, below, below),
        st.builds("[{}, {}]".format, below, below),
        st.builds("size({})".format, below),
        st.builds("{}.size()".format, below),
        st.builds("has({}.x)".format, paths),
        st.builds("{}.contains({})".format, paths, below),
        st.builds("{}.{}(x, x == {})".format, lists, macros, below),
    )


expressions = st.recursive(st.one_of(paths, literals), joined, max_leaves=8)
marks = "()[]{}.,:?!-+*/%<>=&|'\"\\ \tu_`;\u00e9\ud800"
words = 'args caller now run has( x in all( && || == 1 2. .5 1e5 0x true null if r" size( //'
pieces = st.lists(st.sampled_from([*marks, *words.split(), '"""']), max_size=14).map("".join)


operands = st.sampled_from(["1", "2", "3", "-4", "true", "!false", "[1, 7]", "args.n"])
signs = st.sampled_from(["+", "-", "*", "/", "%", "<", ">=", "==", "in", "&&", "||"])
rests = st.lists(st.builds("{} {}".format, signs, operands), min_size=2, max_size=6)
sums = st.builds("{} {}".format, operands, rests.map(" ".join))


@settings(max_examples=EXAMPLES)
@given(st.one_of(expressions, sums))
def test_what_is_read_has_the_meaning_that_the_evaluator_gives_it(text: str) -> None:
    try:
        tree = parse(text)
    except ConditionFault:
        return

    assert answer(text) == answer(spelled(tree))


@settings(max_examples=EXAMPLES)
@given(st.one_of(pieces, st.text(max_size=30), expressions))
def test_what_is_accepted_the_evaluator_accepts_and_else_only_our_fault_is_raised(text: str) -> None:
    assert 0 <= offset_of_fault(text) <= len(text)


def offset_of_fault(text: str) -> int:
    try:
        parse(text)
    except ConditionFault as fault:
        return fault.offset
    cel.compile(text)
    return 0


@settings(max_examples=EXAMPLES)
@given(st.one_of(pieces, expressions))
def test_a_condition_has_the_same_answer_whatever_was_read_before_it(text: str) -> None:
    try:
        condition = Condition(text)
    except ConditionFault:
        with pytest.raises(ConditionFault):
            Condition(text)
        return

    found = answer(text)
    assert condition.holds(facts()) is (found if isinstance(found, bool) else None)


def answer(text: str) -> object:
    try:
        return cel.compile(text).execute(cel.Context({"args": ARGUMENTS}))
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - what kind it is, is the answer
        return type(error)


def spelled(node: Node) -> str:  # noqa: C901, PLR0912 - one for each kind
    """Write a tree so that nothing is left to precedence."""
    match node:
        case Literal(value=value):
            return literal(value)
        case Name(name=name):
            return name
        case Field(of=of, name=name):
            return f"({spelled(of)}).{name}"
        case Index(of=of, key=key):
            return f"({spelled(of)})[{spelled(key)}]"
        case Items(items=items):
            return f"[{', '.join(map(spelled, items))}]"
        case Entries(entries=entries):
            return "{" + ", ".join(f"{spelled(key)}: {spelled(value)}" for key, value in entries) + "}"
        case Has(of=of):
            return f"has({spelled(of)})"
        case Unary(sign=sign, of=of):
            return f"({sign}({spelled(of)}))"
        case Binary(sign=sign, left=left, right=right):
            return f"(({spelled(left)}) {sign} ({spelled(right)}))"
        case Chain(sign=sign, parts=parts):
            return "(" + f" {sign} ".join(f"({spelled(part)})" for part in parts) + ")"
        case Choice(test=test, yes=yes, no=no):
            return f"(({spelled(test)}) ? ({spelled(yes)}) : ({spelled(no)}))"
        case Call(name=name, target=target, arguments=arguments):
            on = "" if target is None else f"({spelled(target)})."
            return f"{on}{name}({', '.join(map(spelled, arguments))})"
        case Each(macro=macro, over=over, variable=variable, body=body):
            return f"({spelled(over)}).{macro}({variable}, {spelled(body)})"


def literal(value: bool | float | str | None) -> str:
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(one):08x}" for one in value) + '"'
    words: dict[object, str] = {True: "true", False: "false", None: "null"}
    if value is None or isinstance(value, bool):
        return words[value]
    return repr(value)


# --- what is refused


@pytest.mark.parametrize(
    ("text", "problem", "offset"),
    [
        ("args.a >", "it ends too early", 8),
        ("args.a = 1", "write ==", 7),
        ("args.a == 1 & args.b", "write &&", 12),
        ("args.a == 'x", "does not end", 10),
        ("args.a == #", "'#' means nothing", 10),
        ("args.a == 1 // why", "'/' cannot stand here", 13),
        ("args.if == 1 && if", "'if' is reserved", 16),
        ("1u == 1", "'u' cannot stand here", 1),
        ("9223372036854775808 > args.a", "64 bits", 0),
        ("1e999 > args.a", "too large", 0),
        ("'\\ud800' == args.a", "no character", 0),
        ("has(args)", "asks for a field", 0),
        ("-!args.a", "put it in parentheses", 1),
        ("!!args.a", "put it in parentheses", 1),
        ("arg.a == 1", "unknown name arg; did you mean args?; a condition sees args, caller, now and run", 0),
        ("1 == 1 && who() == 1", "unknown function who", 10),
        ("args.a.startswith('x')", "unknown function startswith; did you mean startsWith?", 7),
        ("caller.role == 'x'", "caller has no role; it has subject", 7),
        ("run.length > 1", "run has no length; it has calls, tools", 4),
        ("contains(args.a, 'x')", "is written x.contains()", 0),
        ("args.a.int() == 1", "is written int(x)", 7),
        ("size(args.a, args.b) == 1", "takes 1, not 2", 0),
        ("args.t.matches(args.p)", "a pattern in quotes", 7),
        ("matches(args.t, args.p)", "a pattern in quotes", 0),
        ("args.t.matches('[a-z]{1,1000}@')", "at most 100 times", 15),
        ("args.t.matches('a{101}')", "at most 100 times", 15),
        ("args.t.matches('a{101,}')", "at most 100 times", 15),
        ("args.t.matches('(')", "no answer", 7),
        ("timestamp('tomorrow') < now", "no answer", 0),
        ("now - timestamp('2026-01-01T00:00:00Z') > duration('1 day')", "no answer", 42),
        ("like(args.a, args.b)", "a pattern in quotes", 18),
        ("called(args.a)", "a pattern in quotes", 12),
        ("like(args.a, '" + "x" * 201 + "')", "at most 200 characters", 0),
        ("during(args.days, '09:00-17:00', 'UTC')", "takes texts in quotes", 12),
        ("during('Mon-Son', '09:00-17:00', 'UTC')", "the days are 'Mon-Son'", 0),
        ("during('Mon', '9-17', 'UTC')", "the hours are '9-17'", 0),
        ("during('Mon', '09:00-09:00', 'UTC')", "a whole day is 00:00-24:00", 0),
        ("during('Mon', '09:00-24:01', 'UTC')", "the hours are", 0),
        ("during('Mon', '09:00-17:00', 'Mars/Olympus')", "the zone 'Mars/Olympus' is not known", 0),
        ("during('Mon', '09:00-17:00', '../../etc/passwd')", "is not known here", 0),
        ("args.l.all(x, args.m.all(y, y == x))", "all() stands inside another list", 21),
        ("args.l.all(x, [x].exists(y, y == 1))", "stands inside another list", 18),
        ("args.l.filter(x, x > 1).all(x, x > 2)", "goes through a list of the call", 24),
        ("[[1].map(x, x)].all(x, true)", "stands over another", 16),
        ("caller.subject.all(x, true)", "goes through a list of the call", 15),
        ("args.l.all(now, now > 1)", "now already means something", 7),
        ("args.l.all(x, x.matches('a'))", "too slow for each item", 16),
        ("args.l.all(x > 1)", "takes a name for an item", 7),
        ("args.l.all(x, true) && x", "unknown name x", 23),
        ("1 == 1 || " * 100 + "true", "at most 1000 characters", 1000),
        ("(" * 40 + "1" + ")" * 40, "deeper than 32", 32),
        ("1" + " + 1" * 40 + " > 1", "deeper than 32", 34),
    ],
)
def test_what_a_rule_may_not_ask_is_refused_where_it_stands(text: str, problem: str, offset: int) -> None:
    with pytest.raises(ConditionFault, match=re.escape(problem)) as refused:
        Condition(text)

    assert refused.value.offset == offset


@pytest.mark.parametrize("opening", ["(", "[", "!(", "{1:", "-(", "size(", "true ? true : (", "[1].map(x, "])
def test_nothing_nests_so_deep_that_reading_it_fails_in_another_way(opening: str) -> None:
    for levels in (DEEPEST // 2, DEEPEST * 2, LONGEST // len(opening)):
        with pytest.raises(ConditionFault):
            Condition(opening * levels)


def test_many_alternatives_are_not_deep() -> None:
    text = " || ".join(f"args.n == {number}" for number in range(60))

    assert holds(text, {"n": 59}) is True


# --- what is answered


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.n == 5 && args.s == 'hello'", True),
        ("args.n > 5 || args.m.a == 1", True),
        ("1 + 2 * 3 == 7 && 7 - 2 - 1 == 4 && 8 / 4 * 2 == 4", True),
        ("true || false && false", True),
        ("args.nothing == 1", None),
        ("has(args.nothing) && args.nothing == 1", False),
        ("args.nothing == 1 || true", True),
        ("args.s > 1", None),
        ("args.z > 1", None),
        ("args.n", None),
        ("args.n + 1.5 > 1.0", None),
        ("9223372036854775807 + args.n > 0", None),
        ("1 / (args.n - 5) > 0", None),
        ("args.s.matches('^h.*o$')", True),
        ("like(args.s, 'h*o')", True),
        ("like(args.n, 'h*o')", None),
        ("'support' in caller.roles && caller.roles == ['lead', 'support']", True),
        ("caller.subject == 'ann' && caller.tenant == 'acme' && caller.client == 'desk'", True),
        ("caller.scopes == []", True),
        ("args.l.all(x, x > 0) && args.l.exists(x, x == 3) && args.l.exists_one(x, x == 1)", True),
        ("args.l.filter(x, x > 1) == [2, 3] && args.l.map(x, x * 2) == [2, 4, 6]", True),
        ("args.m.all(name, name in ['a', 'b'])", None),
        ("has(args.nothing) && args.nothing.all(x, x > 1)", False),
        ("args.s.all(x, true)", None),
        ("now == timestamp('2026-11-21T08:30:00Z') && now.getDayOfWeek() == 6", True),
        ("now - timestamp('2026-11-21T08:00:00Z') == duration('30m')", True),
        ("type(args.n) == int && type(args.s) == string && dyn(args.n) == 5", True),
        ("string(args.n) == '5' && int('5') == args.n && double('2.5') == args.d", True),
    ],
)
def test_a_condition_says_yes_no_or_that_it_cannot_be_told(text: str, expected: bool | None) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("argument", "more_than_fifty"),
    [(2**70, True), (-(2**70), False), (float("nan"), None), ("\ud800", None)],
)
def test_values_at_the_edge_of_json_are_compared_or_unknown(
    argument: Json, more_than_fifty: bool | None
) -> None:
    assert holds("args.a > 50", {"a": argument}) is more_than_fifty


def test_the_moment_is_handed_over_in_utc() -> None:
    elsewhere = SATURDAY.astimezone(tz=None) + timedelta()

    assert holds("now.getHours() == 8", at=elsewhere) is True


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("*.pdf", "a.pdf", True),
        ("*.pdf", "a.pdfx", False),
        ("*.pdf", "apdf", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("a*b*c", "a--b--c", True),
        ("a*b*c", "a--c--b", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("*?x*", "ax", True),
        ("*?x*", "x", False),
        ("*x?*y", "xxay", True),
        ("", "", True),
        ("*", "", True),
        ("?", "\n", True),
        ("[a]*", "[a]b", True),
        ("[a]*", "ab", False),
    ],
)
def test_a_pattern_means_the_whole_text(pattern: str, text: str, expected: bool) -> None:
    assert holds(f'like(args.t, "{pattern}")', {"t": text}) is expected


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
def test_a_pattern_means_what_its_plainest_definition_says(pattern: str, text: str) -> None:
    assert holds(f'like(args.t, "{pattern}")', {"t": text}) is means(pattern, text)


def means(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(means(pattern[1:], text[cut:]) for cut in range(len(text) + 1))
    return bool(text) and pattern[0] in {"?", text[0]} and means(pattern[1:], text[1:])


def test_a_pattern_with_question_marks_inside_is_held_against_short_texts_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert holds('like(args.t, "*a?c*")', {"t": "b" * 10_001}) is None
        assert holds('like(args.t, "*a?c*")', {"t": "b" * 10_000}) is False
        assert holds('like(args.t, "*abc*")', {"t": "b" * 200_000}) is False
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("days", "hours", "zone", "moment", "expected"),
    [
        ("Mon-Fri", "09:00-17:00", "UTC", "2026-11-20T09:00:00+00:00", True),
        ("Mon-Fri", "09:00-17:00", "UTC", "2026-11-20T08:59:59+00:00", False),
        ("Mon-Fri", "09:00-17:00", "UTC", "2026-11-20T16:59:59+00:00", True),
        ("Mon-Fri", "09:00-17:00", "UTC", "2026-11-20T17:00:00+00:00", False),
        ("Mon-Fri", "09:00-17:00", "UTC", "2026-11-21T12:00:00+00:00", False),
        ("Sat-Mon", "00:00-24:00", "UTC", "2026-11-22T23:59:59+00:00", True),
        ("Sat-Mon", "00:00-24:00", "UTC", "2026-11-24T00:00:00+00:00", False),
        ("Tue|Thu", "00:00-24:00", "UTC", "2026-11-19T12:00:00+00:00", True),
        ("Tue|Thu", "00:00-24:00", "UTC", "2026-11-18T12:00:00+00:00", False),
        ("Fri", "22:00-06:00", "UTC", "2026-11-20T22:00:00+00:00", True),
        ("Fri", "22:00-06:00", "UTC", "2026-11-21T05:59:00+00:00", True),
        ("Fri", "22:00-06:00", "UTC", "2026-11-21T06:00:00+00:00", False),
        ("Fri", "22:00-06:00", "UTC", "2026-11-20T05:00:00+00:00", False),
        ("Mon-Fri", "09:00-17:00", "Europe/Berlin", "2026-11-20T08:00:00+00:00", True),
        ("Mon-Fri", "09:00-17:00", "Europe/Berlin", "2026-07-17T07:00:00+00:00", True),
        ("Mon", "00:00-24:00", "Pacific/Auckland", "2026-11-22T12:00:00+00:00", True),
    ],
)
def test_a_window_goes_by_the_clocks_of_its_zone(
    days: str, hours: str, zone: str, moment: str, expected: bool
) -> None:
    at = datetime.fromisoformat(moment)

    assert holds(f"during('{days}', '{hours}', '{zone}')", at=at) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run.calls == 3 && run.tools == ['crm.find', 'mail.send']", True),
        ("called('crm.*') && !called('hr.*')", True),
        ("count('crm.*') == 2 && count('*') == 3 && count('crm') == 0", True),
    ],
)
def test_rules_may_ask_what_came_before_in_the_run(text: str, expected: bool) -> None:
    assert holds(text, run=("crm.find", "mail.send", "crm.find")) is expected
    assert Condition(text).uses_run


@pytest.mark.parametrize("text", ["run.calls > 1", "called('x.*')", "!called('x.*')", "count('x.*') == 0"])
def test_a_run_that_nobody_knows_is_unknown_and_not_empty(text: str) -> None:
    assert holds(text) is None
    assert holds(text, run=()) is not None
    assert holds(f"{text} || true") is True
    assert Condition(text).why_unknown(facts()) == "nobody can tell what came before in the run"


# --- numbers

NUMBER: JsonObject = {"type": "number"}
WHOLE: JsonObject = {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        (NUMBER, 5, "args.a / 2.0 == 2.5"),
        (WHOLE, 5.0, "args.a / 2 == 2"),
        ({"anyOf": [NUMBER, {"type": "null"}]}, 5, "args.a / 2.0 == 2.5"),
        ({"anyOf": [NUMBER, WHOLE]}, 5, "args.a / 2.0 == 2.5"),
        ({"type": ["integer", "null"]}, 5.0, "args.a / 2 == 2"),
        ({"$ref": "#/$defs/Money"}, {"euros": 5}, "args.a.euros / 2.0 == 2.5"),
        ({"type": "array", "items": NUMBER}, [1, 5], "args.a[1] / 2.0 == 2.5"),
        ({"type": "array", "prefixItems": [WHOLE], "items": NUMBER}, [4.0, 5], "args.a[0] / 2 == 2"),
        ({"type": "object", "additionalProperties": NUMBER}, {"x": 5}, "args.a.x / 2.0 == 2.5"),
        ({"$ref": "#/$defs/Tree"}, {"left": {"left": {"n": 5}}}, "args.a.left.left.n / 2.0 == 2.5"),
        (NUMBER, "five", "args.a == 'five'"),
        (NUMBER, True, "args.a == true"),
        ({}, 5, "args.a / 2 == 2"),
    ],
)
def test_a_number_is_of_the_kind_that_the_schema_says(schema: JsonObject, value: Json, text: str) -> None:
    money: JsonObject = {"type": "object", "properties": {"euros": NUMBER}}
    tree: JsonObject = {"type": "object", "properties": {"n": NUMBER, "left": {"$ref": "#/$defs/Tree"}}}
    whole: JsonObject = {
        "type": "object",
        "properties": {"a": schema},
        "$defs": {"Money": money, "Tree": tree},
    }
    given = {"a": value}

    assert holds(text, given, schema=whole) is True
    assert given == {"a": value}


# --- what it costs


def test_a_long_list_is_not_gone_through() -> None:
    text = "args.l.all(x, x == 1)"
    items: list[Json] = [1] * MOST_ITEMS

    assert holds(text, {"l": items}) is True
    assert holds(text, {"l": [*items, 1]}) is None
    assert "too much to go through" in Condition(text).why_unknown(facts({"l": [*items, 1]}))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("args.l.all(x, x in args.big)", {"l": [1] * 1000, "big": [1] * 9000}),
        ("args.l.all(x, args.t.contains(x))", {"l": ["x"] * 1000, "t": "x" * 100_000}),
        ("args.l.map(x, x + x + x + x) != []", {"l": ["x" * 10_000] * 600}),
        ("[args.t, args.t].all(x, x == x)", {"t": ["x" * 10_000] * 1000}),
        ("args.l.filter(y, y in args.m) != []", {"l": [1] * 1000, "m": [1] * 150}),
        ("args.l.map(y, y) != []", {"l": [1] * 250}),
        ("args.l.map(y, y) != []", {"l": [["x"] * 100] * 30}),
        ("args.l.map(y, args.t) != []", {"l": [1] * 100, "t": ["x"] * 100}),
        ("args.l.filter(y, true) != []", {"l": [1] * 250}),
        ("args.l.filter(y, true) != []", {"l": [["x"] * 100] * 30}),
        ("args.l.all(y, args.m == args.m)", {"l": [1] * 10, "m": [{str(n): 1 for n in range(990)}]}),
        ("args.l.all(y, like(y, 'x*') && like(y, '*x'))", {"l": ["x"] * 1000}),
    ],
)
def test_what_is_looked_at_on_the_way_has_a_bound(text: str, arguments: JsonObject) -> None:
    assert holds(text, arguments) is None
    assert holds(
        text, {name: value[:1] for name, value in arguments.items() if isinstance(value, str | list)}
    )


# --- what is told of it


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("args.nothing == 1", "nothing is missing"),
        ("args.nothing == 1 && args.m.x == 1", "m.x and nothing are missing"),
        ("args.z > 1", "z is null"),
        ("args.s > 1", "s is not of the type or size that the condition needs"),
        ("has(args.m.x) && args.s > 1 || args.m.x > 1", "m.x is missing"),
        ("caller.subject > 1", "it has no answer"),
        ("args.n == 5", ""),
    ],
)
def test_why_it_cannot_be_told_is_said_without_a_value(text: str, why: str) -> None:
    assert Condition(text).why_unknown(facts()) == why


def test_a_condition_knows_what_it_reads() -> None:
    condition = Condition("has(args.a.b) && args.c[0].d == 1 && args['e'] == now && caller.tenant == 'x'")

    assert condition.reading.paths >= {("args", "c"), ("args", "e"), ("now",)}
    assert condition.reading.asked == {("args", "a", "b")}
    assert condition.uses_now
    assert not condition.uses_run
    assert Condition("during('Mon', '00:00-24:00', 'UTC')").uses_now
    assert not Condition("args.n > 1").uses_now


def test_conditions_that_look_alike_keep_their_own_values() -> None:
    for text, expected in (
        ("args.n == 5", True),
        ("args.n == 6", False),
        ("args.n == 5.0", True),
        ("args['n'] == 5", True),
        ("args['s'] == 5", False),
        ("like(args.s, 'h*')", True),
        ("like(args.s, 'x*')", False),
    ):
        assert holds(text) is expected
    assert Condition("args['n'] == 5").reading.paths == {("args", "n")}
    assert Condition("args[('n')] == 5").reading.paths == {("args", "n")}
    assert Condition("args ['s'] == 5").reading.paths == {("args", "s")}


@pytest.mark.parametrize("pattern", ["'('", "('(')", "'a{101}'", "( 'a{101}' )"])
def test_a_bad_pattern_is_refused_beside_a_good_one(pattern: str) -> None:
    assert Condition("args.s.matches('a') && args.n == 5").text
    assert Condition("args.s.matches(('a')) && args.n == 5").text
    with pytest.raises(ConditionFault, match=r"no answer|at most 100"):
        Condition(f"args.s.matches({pattern}) && args.n == 5")


def test_a_caller_is_shown_with_what_its_token_says() -> None:
    bare = Question(caller=caller(), tool=tool("crm.read"), arguments={}, at=SATURDAY)

    assert Condition("caller.roles == [] && caller.client == ''").holds(Facts(bare)) is True
