"""Types of conditions: what can never work for a tool's arguments is said before a call is made."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from toolgate.backends.policy.cel_parser import parse
from toolgate.backends.policy.condition_types import types_of
from toolgate.core.arguments import closed
from toolgate.core.record import JsonObject


class Address(BaseModel):
    city: str
    code: str | None = None


class Grant(BaseModel):
    amount: float
    count: int
    urgent: bool
    to: Address
    reason: str = ""
    limit: int | None = None
    region: Literal["eu", "us"]
    tags: list[str] = []
    parcels: list[Address]
    prices: dict[str, float]
    either: int | str
    half: int | float


SCHEMA = closed(Grant.model_json_schema())


def faults(text: str, schema: JsonObject | None = None) -> list[tuple[int, str, str]]:
    found = types_of(parse(text), SCHEMA if schema is None else schema)
    return [(fault.at, fault.problem, fault.remedy) for fault in (*found.faults, *found.absent)]


def unguarded(text: str) -> list[str]:
    return [fault.problem.partition(" may")[0] for fault in types_of(parse(text), SCHEMA).unguarded]


@pytest.mark.parametrize(
    "text",
    [
        "args.amount <= 50 && args.amount < 50.5",
        "args.amount + 1.0 > 2.0 * args.amount",
        "args.count + 1 > 2 && args.count % 2 == 0",
        "-args.count < 0 && !args.urgent",
        "args.urgent",
        "args.to.city == 'Bonn' && args.to['city'] == 'Bonn'",
        "args.region in ['eu', 'us']",
        "args.limit == null || args.limit > 5",
        "args.limit + 1 > 5",
        "'x' in args.tags && args.tags[0] == 'x' && size(args.tags) < 3",
        "args.tags.all(t, t.startsWith('x')) && args.tags == ['x']",
        "args.parcels.exists(p, p.city == 'Bonn')",
        "args.parcels.map(p, p.city) == ['Bonn'] && args.parcels.filter(p, p.city == 'x') == []",
        "args.prices.x > 1 && args.prices['y'] + 1.0 > 2.0 && 'x' in args.prices",
        "args.either == 5 || args.either == 'x'",
        "args.half > 2",
        "has(args.to.code) && args.to.code.matches('x')",
        "caller.subject == 'ann' && 'lead' in caller.roles && caller.roles.exists(r, r == 'x')",
        "now.getHours() > 8 && now - timestamp('2026-01-01T00:00:00Z') > duration('1h')",
        "now + duration('1h') > now && duration('1h') + duration('1m') > duration('5s')",
        "run.calls > 5 && 'crm.find' in run.tools && count('crm.*') * 2 > 1 && called('x')",
        "during('Mon', '09:00-17:00', 'UTC') && like(args.reason, '*x*')",
        "type(args.count) == int && dyn(args.count) == 'x' && dyn(args.count) + 1 > dyn('x').y",
        "double(args.count) + args.amount > 1.0 && string(args.amount) == '5' && int(args.reason) > 1",
        "(args.urgent ? args.count : args.either) == 'x'",
        "{'a': 1}['a'] == 1 && {'a': 1}.a > 0",
        "[1, 2.0, 'x'][0] == 'y' && [] == [1] && 5 in []",
        "args == {'amount': 5}",
    ],
)
def test_what_can_work_is_not_refused(text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize(
    ("text", "at", "problem", "remedy"),
    [
        ("args.amont > 1", 5, "the tool has no argument amont", "correct it; did you mean amount?"),
        ("args['amont'] > 1", 5, "the tool has no argument amont", "correct it; did you mean amount?"),
        ("has(args.amont)", 9, "the tool has no argument amont", "correct it; did you mean amount?"),
        ("args.to.street == 'x'", 8, "args.to has no field street", "correct it; there is city, code"),
        ("args.to.city.x == 'x'", 13, "args.to.city is a text, which has no field x", "correct it"),
        ("args.parcels.all(p, p.cty == 'x')", 22, "p has no field cty", "correct it; did you mean city?"),
        ("args.parcels.city == 'x'", 13, "args.parcels is a list, which has no field city", "correct it"),
        ("args.tags['x'] == 'x'", 10, "args.tags is a list, which has no field x", "correct it"),
        (
            "args.tags[1.5] == 'x'",
            10,
            "an item of a list is found by a whole number, not a number",
            "correct it",
        ),
        ("args.urgent[0] == 1", 12, "yes or no has no items", "correct it"),
        (
            "args.amount + 1 > 2.0",
            12,
            "+ joins a number with a whole number, and CEL does not mix them",
            "write 1.0",
        ),
        (
            "2 * args.amount > 2.0",
            2,
            "* joins a whole number with a number, and CEL does not mix them",
            "write 2.0",
        ),
        (
            "args.count + args.amount > 2.0",
            11,
            "+ joins a whole number with a number, and CEL does not mix them",
            "write double(...) around the whole number",
        ),
        ("args.half + 1 > 2", 10, "+ joins a number with a whole number, and CEL does not mix them", None),
        ("args.amount % 2.0 == 0.0", 12, "% joins a number with a number, and CEL does not mix them", None),
        ("args.reason + 1 == 'x'", 12, "+ cannot join a text with a whole number", "correct it"),
        ("args.reason - 'x' == ''", 12, "- cannot join a text with a text", "correct it"),
        ("args.count == 'x'", 11, "a whole number and a text are never equal", "correct it"),
        ("args.count != null", 11, "a whole number and null are never equal", "correct it"),
        ("args.limit == 'x'", 11, "a whole number or null and a text are never equal", "correct it"),
        ("args.region == 1", 12, "a text and a whole number are never equal", "correct it"),
        ("args.reason > 5", 12, "a text and a whole number have no order", "correct it"),
        ("args.tags < args.tags", 10, "a list and a list have no order", "correct it"),
        (
            "'x' in args.reason",
            4,
            "in looks into a list or an object, not into a text",
            "write x.contains(y)",
        ),
        ("1 in args.tags", 2, "a whole number is never among items that are a text", "correct it"),
        ("1 in args.prices", 2, "an object's names are texts, not a whole number", "correct it"),
        ("args.count && true", 5, "&& joins yes or no, not a whole number", "compare it with something"),
        ("!args.count", 0, "! is for yes or no, not a whole number", "correct it"),
        ("-args.reason == 1", 0, "- is for numbers, not a text", "correct it"),
        (
            "args.count ? true : false",
            11,
            "? asks for yes or no, not a whole number",
            "compare it with something",
        ),
        ("args.count", 5, "the condition is a whole number, not yes or no", "compare it with something"),
        (
            "args.tags.filter(t, t == 'x')",
            10,
            "the condition is a list, not yes or no",
            "compare it with something",
        ),
        (
            "args.tags.all(t, t)",
            17,
            "all() asks yes or no of each item, not a text",
            "compare it with something",
        ),
        ("args.tags.all(t, t > 1)", 19, "a text and a whole number have no order", "correct it"),
        ("args.prices.all(t, true)", 12, "all() goes through a list, not an object", "correct it"),
        ("args.reason.all(t, true)", 12, "all() goes through a list, not a text", "correct it"),
        (
            "size(args.count) > 1",
            0,
            "size() takes a text or a list or an object, not a whole number",
            "correct it",
        ),
        ("args.count.startsWith('x')", 11, "startsWith() takes a text, not a whole number", "correct it"),
        ("args.reason.contains(5)", 12, "contains() takes a text, not a whole number", "correct it"),
        ("like(args.count, 'x*')", 0, "like() takes a text, not a whole number", "correct it"),
        ("args.reason.getHours() > 1", 12, "getHours() takes a moment, not a text", "correct it"),
        ("string(args.urgent) == 'x'", 0, None, "correct it"),
        ("now > 5", 4, "a moment and a whole number have no order", "correct it"),
        ("now - 5 > now", 4, "- cannot join a moment with a whole number", "correct it"),
        ("caller.roles == 'x'", 13, "a list and a text are never equal", "correct it"),
        ("caller.roles.exists(r, r == 1)", 25, "a text and a whole number are never equal", "correct it"),
        ("run.calls == 'x'", 10, "a whole number and a text are never equal", "correct it"),
    ],
)
def test_what_can_never_work_is_refused_with_its_place_and_a_remedy(
    text: str, at: int, problem: str | None, remedy: str | None
) -> None:
    (fault,) = faults(text)

    assert fault == (at, fault[1] if problem is None else problem, fault[2] if remedy is None else remedy)


OPEN: list[JsonObject] = [
    {},
    {"type": "object"},
    {"type": "object", "properties": {"a": {}}},
    {"type": "object", "properties": {"a": {"type": "object"}}},
    {"type": "object", "properties": {"b": {}}, "additionalProperties": True},
    {"type": "object", "properties": {"b": {}}, "patternProperties": {"^a": {}}},
    {"properties": {"a": {"$ref": "https://example.com/elsewhere"}}},
    {"properties": {"a": {"$ref": "#/$defs/nowhere"}}},
    {"properties": {"a": {"allOf": [{}, {}]}}},
    {"properties": {"a": {"anyOf": [{"type": "integer"}, {}]}}},
]


@pytest.mark.parametrize("schema", OPEN)
def test_what_a_schema_leaves_open_is_not_refused(schema: JsonObject) -> None:
    assert faults("args.a.b + 1 > 2 || args.a.c == 'x'", schema) == []


TREE: JsonObject = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "left": {"$ref": "#/$defs/Tree"}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("part", "text", "problem"),
    [
        ({"$ref": "#/$defs/Tree"}, "args.a.left.left.m == 1", "args.a.left.left has no field m"),
        ({"allOf": [{"$ref": "#/$defs/Tree"}]}, "args.a.m == 1", "args.a has no field m"),
        ({"const": "x"}, "args.a == 1", "a text and a whole number are never equal"),
        ({"enum": ["x", None]}, "args.a == 1", "a text or null and a whole number are never equal"),
        ({"type": ["string", "null"]}, "args.a > 1", "a text or null and a whole number have no order"),
        ({"oneOf": [{"type": "string"}, {"type": "boolean"}]}, "args.a > 1", None),
        ({"type": "array", "prefixItems": [{"type": "string"}], "items": False}, "args.a[0].x == 1", None),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "args.a.x > 1", None),
        ({"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}, "args.a.m == 1", "args.a has no field m"),
    ],
)
def test_schemas_are_read_through_references_and_branches(
    part: JsonObject, text: str, problem: str | None
) -> None:
    found = faults(text, {"type": "object", "properties": {"a": part}, "$defs": {"Tree": TREE}})

    if part.get("items") is False:
        assert found == []
    else:
        assert [fault[1] for fault in found] == [problem or found[0][1]]


def test_a_schema_that_goes_on_for_ever_is_not_followed_for_ever() -> None:
    endless: JsonObject = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}

    assert faults("args.a.b == 1", endless) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.reason == 'x'", ["args.reason"]),
        ("args.amount > 5", []),
        ("args.to.code == 'x'", ["args.to.code"]),
        ("has(args.reason) && args.reason == 'x'", []),
        ("args.reason == 'x' && has(args.reason)", []),
        ("has(args.reason) || args.reason == 'x'", ["args.reason"]),
        ("!has(args.reason) || args.reason == 'x'", []),
        ("!(has(args.reason) && args.limit > 5) || args.reason == 'x'", ["args.limit"]),
        ("has(args.reason) ? args.reason == 'x' : true", []),
        ("has(args.reason) ? true : args.reason == 'x'", ["args.reason"]),
        ("!has(args.reason) ? true : args.reason == 'x'", []),
        ("has(args.tags) && args.tags.all(t, t == 'x')", []),
        ("args.tags.all(t, t == 'x')", ["args.tags"]),
        ("args.parcels.all(p, p.code == 'x')", ["p.code"]),
        ("args.parcels.all(p, has(p.code) && p.code == 'x')", []),
        ("has(args.limit) && args.reason == 'x'", ["args.reason"]),
        ("args.reason == 'x' || args.reason == 'y'", ["args.reason", "args.reason"]),
        ("args.either == 5", []),
    ],
)
def test_what_may_be_missing_is_known_unless_has_stands_beside_it(text: str, expected: list[str]) -> None:
    assert unguarded(text) == expected


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    amount: int


def test_a_model_that_takes_more_than_it_names_is_open() -> None:
    assert faults("args.anything == 1", closed(Open.model_json_schema())) == []
    assert faults("args.anything == 1", Open.model_json_schema()) == []


@pytest.mark.parametrize(
    "text", ["args.amount / args.half > 5.0", "args.amount / 0.0 > 5.0", "1.0 / args.amount > 5.0"]
)
def test_a_divisor_that_may_be_zero_is_refused(text: str) -> None:
    ((_, problem, remedy),) = faults(text)

    assert "divided by 0.0" in problem
    assert "multiply the other side" in remedy


def test_a_divisor_that_is_written_there_or_whole_is_fine() -> None:
    assert faults("args.amount / 2.0 > 5.0 && args.count / args.count == 1") == []
