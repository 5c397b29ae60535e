"""What a caller is told about arguments that cannot be: which one and what is expected, never a value."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import JsonValue

from toolgate.core.arguments import MAX_DEPTH, MAX_TEXT, MAX_VALUES, Schema, closed, out_of_bounds
from toolgate.core.record import Json, JsonObject

CANARY = "c4nary"
STRICT = Schema(
    {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": 1},
            "kind": {"enum": ["a", "b"]},
            "text": {"type": "string", "maxLength": 5, "pattern": "^[xyz]*$"},
            "list": {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2},
            "one": {"oneOf": [{"type": "integer"}, {"const": "x"}]},
            "inner": {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False},
            "names": {"propertyNames": {"pattern": "^n$"}, "minProperties": 1},
            "rest": {"properties": {"a": True}, "unevaluatedProperties": False},
            "never": False,
            "not": {"not": {"type": "string"}},
        },
        "required": ["id"],
        "additionalProperties": False,
    }
)


def nested(depth: int) -> JsonObject:
    value: JsonObject = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (nested(MAX_DEPTH), None),
        (nested(MAX_DEPTH + 1), "the values are nested deeper than 32 levels"),
        ({"a": [0] * (MAX_VALUES - 1)}, None),
        ({"a": [0] * MAX_VALUES}, "there are more than 10000 values"),
        ({"a": "x" * MAX_TEXT}, None),
        ({"a": ["x" * (MAX_TEXT + 1)]}, "a text is longer than 262144 characters"),
        ({"x" * (MAX_TEXT + 1): 1}, "a text is longer than 262144 characters"),
        ({"a": "é€😀"}, None),
        ({"a": [{"b": "\ud800"}]}, "a text is not valid Unicode (it holds a lone surrogate)"),
        ({"a\udfff": 1}, "a text is not valid Unicode (it holds a lone surrogate)"),
        ({"a": [1.5, -0.0, 10**400]}, None),
        ({"a": [float("nan")]}, "a number is not finite"),
        ({"a": float("-inf")}, "a number is not finite"),
    ],
)
def test_what_no_tool_takes_is_refused_by_a_general_bound(arguments: JsonObject, fault: str | None) -> None:
    assert out_of_bounds(arguments) == fault


def test_a_list_of_lists_costs_no_more_than_its_bound() -> None:
    value: list[Json] = [0] * 100
    for _ in range(20):
        value = [value] * 100

    assert out_of_bounds({"a": value}) == "there are more than 10000 values"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"id": 1}, None),
        ({}, 'the arguments: "id" is a required property'),
        ({"id": 0}, "id: the value is less than the minimum of 1"),
        ({"id": 1, "list": [True, "x"]}, 'list[1]: the value is not of type "boolean"'),
        ({"id": 1, "inner": {"b": 1, "c d": 2}}, "inner: not expected: b, (a name that is not shown)"),
        ({"id": 1, "rest": {"c d": 2}}, "rest: not expected: (a name that is not shown)"),
        ({"id": 1, "names": {"c d": 2}}, "names: a name in it is not of the expected form"),
    ],
)
def test_a_fault_says_which_argument_and_what_is_expected(arguments: JsonObject, fault: str | None) -> None:
    assert STRICT.fault_in(arguments) == fault


def test_of_many_faults_five_are_told() -> None:
    ones: list[Json] = [1] * 9
    fault = Schema({"items": {"type": "null"}}).fault_in(ones)

    assert fault is not None
    assert fault.split("; ")[4:] == ['[4]: the value is not of type "null"', "and more"]


secrets = st.text(min_size=1).map(lambda text: f"{CANARY} {text}")
values = st.recursive(
    secrets | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(secrets, inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(list(STRICT.document["properties"])) | secrets, values))  # type: ignore[arg-type]
def test_a_fault_repeats_no_value_and_no_odd_name(arguments: JsonObject) -> None:
    fault = STRICT.fault_in(arguments)
    assume(fault is not None)

    assert CANARY not in str(fault)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"$ref": "#/$defs/none"},
        {"type": "integr"},
        {"pattern": "("},
        {"default": math.nan},
    ],
)
def test_a_schema_that_is_wrong_or_reaches_outside_is_refused(schema: JsonObject) -> None:
    with pytest.raises(ValueError, match="not a usable JSON Schema"):
        Schema(schema)


def test_a_reference_inside_the_schema_is_followed() -> None:
    schema = Schema({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}})

    assert schema.fault_in([1]) is None
    assert schema.fault_in(["1"]) == '[0]: the value is not of type "integer"'


def test_closing_a_schema_closes_every_object_in_it_and_overrules_nobody() -> None:
    thing: dict[str, Json] = {"type": "object", "properties": {"type": {"const": "object"}}}
    shut = thing | {"additionalProperties": False}
    free = thing | {"additionalProperties": True}
    table: Json = {"type": "object", "additionalProperties": {"type": "integer"}}

    before = {"$defs": {"A": thing}, "anyOf": [thing, free, table], "items": thing, **thing}
    assert closed(before) == {"$defs": {"A": shut}, "anyOf": [shut, free, table], "items": shut, **shut}


def test_of_many_faults_in_many_values_only_the_first_is_looked_for() -> None:
    schema = Schema({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"}}}})

    texts: list[JsonValue] = ["x"] * 9_000
    assert schema.fault_in({"l": texts}) == 'l[0]: the value is not of type "integer"'


def test_a_pattern_whose_cost_a_caller_could_drive_up_is_no_schema() -> None:
    with pytest.raises(ValueError, match="not a usable JSON Schema"):
        Schema({"type": "string", "pattern": "(?<!x)(a|a)*c"})
