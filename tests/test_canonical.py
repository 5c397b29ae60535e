"""One spelling for every JSON value, as anyone can compute it again."""

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from toolgate.core.canonical import canonical, digest
from toolgate.core.record import Json

SAFE = 2**53 - 1
texts = st.text()
leaves = (
    st.none()
    | st.booleans()
    | texts
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
)


def nested(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.lists(inner) | st.dictionaries(texts, inner)


in_the_rfc: st.SearchStrategy[Json] = st.recursive(leaves, nested)
big = st.integers(min_value=2**53) | st.integers(max_value=-(2**53))
without_floats: st.SearchStrategy[Json] = st.recursive(st.booleans() | texts | st.integers(), nested)
beyond_it: st.SearchStrategy[Json] = st.recursive(leaves | big, nested)

SPELLED: list[tuple[Json, bytes]] = [
    (1.0, b"1"),
    (-0.0, b"0"),
    (1e21, b"1e+21"),
    (1e-7, b"1e-7"),
    (333333333.33333329, b"333333333.3333333"),
    ('\x00\n"\\/\x7f€', b'"\\u0000\\n\\"\\\\/\x7f\xe2\x82\xac"'),
    ([True, None, [], {}], b"[true,null,[],{}]"),
]


@given(in_the_rfc)
def test_inside_rfc_8785_the_spelling_is_that_of_its_reference(value: Json) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(beyond_it)
def test_a_spelling_reads_back_as_a_value_with_the_same_spelling(value: Json) -> None:
    spelled = canonical(value)

    assert canonical(json.loads(spelled)) == spelled


@given(without_floats)
def test_what_has_no_floats_reads_back_as_it_was(value: Json) -> None:
    assert json.loads(canonical(value)) == value


@given(st.integers(), st.integers())
def test_two_integers_share_a_spelling_only_when_they_are_equal(one: int, other: int) -> None:
    assert (canonical(one) == canonical(other)) == (one == other)


@pytest.mark.parametrize("value", [2**53, -(2**53), 2**53 + 1, 2**64, 10**100])
def test_a_big_integer_is_its_exact_digits_wherever_it_stands(value: int) -> None:
    assert canonical({"b": [value], "a": 1.5}) == f'{{"a":1.5,"b":[{value}]}}'.encode()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), "\ud800", {"\udfff": 1}, {"é\ud800": 2**60}, {"a": "\ud800"}],
)
def test_what_json_cannot_say_is_refused(value: Json) -> None:
    for place in (value, [value], {"a": value, "é": 2**60}):
        with pytest.raises(ValueError, match=r"\w"):
            canonical(place)


def test_names_are_ordered_by_their_utf16_units() -> None:
    names: Json = {"\ufb33": 1, "😀": 2, "é": 3, "a": 4, "": 5, "A": 6}

    assert canonical(names) == '{"":5,"A":6,"a":4,"é":3,"😀":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize(("value", "spelled"), SPELLED)
def test_numbers_and_texts_are_spelled_as_the_rfc_shows(value: Json, spelled: bytes) -> None:
    assert canonical(value) == spelled
    assert canonical({"é": value}) == '{"é":'.encode() + spelled + b"}"


def test_the_digest_is_that_of_the_spelling() -> None:
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
