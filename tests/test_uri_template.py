"""Addresses of resources: what is a template, which URI is one of its, and which two could be mixed up."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.uri_template import UriTemplate as Sdk

from toolgate.core.text_arguments import text_arguments, values_of
from toolgate.core.uri_template import UriTemplate

TEMPLATES = (
    "notes://newest",
    "tickets://{number}",
    "tickets://{number}/messages",
    "crm:/{tenant}/customers/{id}",
    "crm:customers?name={name}&open={open}",
    "x-files.2:{a},{b};{c}@d",
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tickets", "begin with a scheme"),
        ("//tickets/{id}", "begin with a scheme"),
        ("{scheme}:tickets", "begin with a scheme"),
        ("Tickets:{id}", "in lower case"),
        ("https://example.com/{id}", "clients fetch https: addresses past the gate"),
        ("tickets:", "nothing behind its scheme"),
        ("tickets:///", "nothing behind its scheme"),
        ("tickets:{a}{b}", "all between two delimiters"),
        ("tickets:no-{a}", "all between two delimiters"),
        ("tickets:{a}.json", "all between two delimiters"),
        ("tickets:{+path}", "neither a text nor a variable"),
        ("tickets:{a*}", "neither a text nor a variable"),
        ("tickets:{a.b}", "neither a text nor a variable"),
        ("tickets:{}", "neither a text nor a variable"),
        ("tickets:%zz", "neither a text nor a variable"),
        ("tickets:/ü", "neither a text nor a variable"),
        ("tickets:/a b", "neither a text nor a variable"),
        ("tickets:/a#b", "neither a text nor a variable"),
        ("tickets:{a}/{a}", "twice"),
    ],
)
def test_what_is_no_template_is_told_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        UriTemplate(text)


@pytest.mark.parametrize("text", TEMPLATES)
@given(st.data())
def test_what_a_client_writes_into_a_template_comes_out_of_the_uri(text: str, data: st.DataObject) -> None:
    template = UriTemplate(text)
    told = {name: data.draw(st.text(st.characters(codec="utf-8"), min_size=1)) for name in template.variables}

    uri = Sdk.parse(text).expand(told)

    assert template.values_in(uri) == told


@given(st.text(st.sampled_from("a1~%CcB3Fü'!/:?{}#\n")))
def test_no_text_is_taken_for_an_address_that_it_is_not(text: str) -> None:
    uri = f"tickets://{text}"
    values = UriTemplate("tickets://{number}").values_in(uri)

    if values is not None:
        assert unquote(Sdk.parse("tickets://{number}").expand({**values})) == unquote(uri)
        assert not set(text) & set("/:?{}#\nü")


@pytest.mark.parametrize(
    ("uri", "values"),
    [
        ("tickets://7", {"number": "7"}),
        ("tickets://a%20%2F%20b", {"number": "a / b"}),
        ("tickets://it's(not)*so!", {"number": "it's(not)*so!"}),
        ("tickets://%C3%BC", {"number": "ü"}),
        ("tickets://%c3%bc", {"number": "ü"}),
        ("tickets://", None),
        ("tickets://7/", None),
        ("tickets://7?x", None),
        ("tickets://7#x", None),
        ("tickets:7", None),
        ("TICKETS://7", None),
        ("tickets://ü", None),
        ("tickets://%FF", None),
        ("tickets://%ED%A0%80", None),
        ("tickets://%7", None),
        ("tickets://a b", None),
        ("tickets://7\n", None),
    ],
)
def test_a_variable_stands_for_one_part_of_an_address(uri: str, values: dict[str, str] | None) -> None:
    assert UriTemplate("tickets://{number}").values_in(uri) == values


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("a://{x}", "a://{y}", True),
        ("a://{x}", "a://fixed", True),
        ("a:/{x}/c", "a:/b/{y}", True),
        ("a://fixed", "a://fixed", True),
        ("a://fixed", "a://other", False),
        ("a://{x}", "b://{x}", False),
        ("a://{x}", "a://{x}/messages", False),
        ("a:/{x}", "a:?{x}", False),
        ("a:/{x}/b", "a:/{x}/", False),
        ("a:/{x}/b", "a:/{x}/c", False),
    ],
)
def test_two_templates_that_could_mean_one_address_are_told(one: str, other: str, meet: bool) -> None:
    assert UriTemplate(one).meets(UriTemplate(other)) is meet
    assert UriTemplate(other).meets(UriTemplate(one)) is meet


@given(st.sampled_from(TEMPLATES), st.sampled_from(TEMPLATES), st.data())
def test_templates_that_do_not_meet_have_no_address_in_common(
    one: str, other: str, data: st.DataObject
) -> None:
    uri = Sdk.parse(one).expand({name: data.draw(st.text(min_size=1)) for name in UriTemplate(one).variables})

    if not UriTemplate(one).meets(UriTemplate(other)):
        assert UriTemplate(other).values_in(uri) is None


SCHEMA: dict[str, object] = {
    "$defs": {"Color": {"enum": ["red", "blue"], "type": "string", "description": "A colour."}},
    "properties": {
        "text": {"type": "string", "title": "Text"},
        "number": {"type": "integer"},
        "open": {"type": "boolean"},
        "color": {"$ref": "#/$defs/Color"},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "level": {"enum": [1, 2], "type": "integer"},
        "only": {"const": "this", "type": "string"},
        "price": {"type": "number"},
        "many": {"type": "array", "items": {"type": "string"}},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "mixed": {"enum": ["a", 1]},
        "endless": {"$ref": "#/$defs/Endless"},
    },
    "required": ["text", "many"],
}


def test_a_text_can_stand_for_single_values_and_the_schema_says_which() -> None:
    schema = {**SCHEMA, "$defs": {**SCHEMA["$defs"], "Endless": {"$ref": "#/$defs/Endless"}}}  # type: ignore[dict-item]
    found = text_arguments(schema)  # type: ignore[arg-type]

    assert list(found) == ["text", "number", "open", "color", "maybe", "level", "only"]
    assert [name for name, argument in found.items() if argument.required] == ["text"]
    choices = {name: argument.choices for name, argument in found.items() if argument.choices}
    assert choices == {
        "open": ("true", "false"),
        "color": ("red", "blue"),
        "level": ("1", "2"),
        "only": ("this",),
    }
    assert (found["text"].title, found["color"].description) == ("Text", "A colour.")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("text", "7", "7"),
        ("number", "7", 7),
        ("number", "-7", -7),
        ("number", "0", 0),
        ("number", "-0", "-0"),
        ("number", "07", "07"),
        ("number", "+7", "+7"),
        ("number", " 7", " 7"),
        ("number", "7.0", "7.0"),
        ("number", "1_0", "1_0"),
        ("number", "٣", "٣"),
        ("number", "9" * 5000, "9" * 5000),
        ("maybe", "7", 7),
        ("level", "2", 2),
        ("open", "true", True),
        ("open", "True", "True"),
        ("open", "1", "1"),
        ("color", "red", "red"),
        ("stranger", "7", "7"),
    ],
)
def test_a_value_has_one_spelling_and_what_is_no_value_stays_a_text(
    name: str, text: str, value: object
) -> None:
    assert values_of({name: text}, SCHEMA) == {name: value}  # type: ignore[arg-type]
    assert type(values_of({name: text}, SCHEMA)[name]) is type(value)  # type: ignore[arg-type]
