"""What the one reading of JSON takes, everybody reads alike; what anybody reads otherwise it refuses."""

import contextlib
import json
import re
import time
from collections.abc import Iterable
from typing import cast

import pydantic_core
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolgate.core.strict_json import MAX_DEPTH, NotJson, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
WORDS = [
    *'{}[]",: \n',
    *('"a":', '"\\u0061":', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\\\ud83d"'),
    *("1", "-0", "1.0", "1e400", "NaN", "-Infinity", "0x1", "01", "1.", "9" * 1_001),
    *("true", "nul", "é", "\ufeff", "\x00"),
]
words = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


@given(values)
def test_what_a_program_writes_is_read_as_it_was_meant(value: object) -> None:
    for spelled in (
        json.dumps(value).encode(),
        json.dumps(value, indent=1).encode(),
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"),
    ):
        assert parse(spelled) == value


@settings(max_examples=1_000)
@given(words.map(str.encode) | st.binary(max_size=12))
@example(b'{"a":1,"a":1}')
@example(b"-0")
@example(b"1e23")
@example(b"123456789012345678901234567890")
def test_what_is_taken_no_other_parser_reads_otherwise(body: bytes) -> None:
    try:
        said = parse(body)
    except NotJson:
        return
    for other in (json.loads, pydantic_core.from_json):
        read = other(body)
        assert json.dumps(read) == json.dumps(said)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"":'])
def test_so_many_levels_are_read_and_no_more(opening: bytes) -> None:
    closing = opening.translate(bytes.maketrans(b"[{", b"]}"), b'":a')[::-1]
    levels = len(closing)
    assert parse(opening * (MAX_DEPTH // levels) + b"0" + closing * (MAX_DEPTH // levels)) is not None
    with pytest.raises(NotJson, match="deeper than 100 levels"):
        parse(b"[" + opening * (MAX_DEPTH // levels) + b"0" + closing * (MAX_DEPTH // levels) + b"]")
    assert parse(b'["' + b"[{" * MAX_DEPTH + b'"]') == ["[{" * MAX_DEPTH], "brackets in a text are no levels"


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 300_000 + b"0]",
        b"[" * 101 + b'"' + b'\\"' * 400_000,
        b'"' + b"\\ud83d\\ude00" * 80_000 + b'"',
        b'"' + b"\\u0041" * 150_000 + b'\\ud800"',
        b'{"' * 300_000,
        b"[" + b",".join([b"9" * 1_000] * 900) + b"]",
        b"{" + b",".join(b'"%d":0' % number for number in range(90_000)) + b',"1":0}',
    ],
)
def test_no_body_of_a_mebibyte_takes_long(body: bytes) -> None:
    began = time.process_time()
    with contextlib.suppress(NotJson):
        parse(body)
    assert time.process_time() - began < 2


def test_a_name_that_a_caller_chose_is_repeated_only_when_it_looks_like_one() -> None:
    with pytest.raises(NotJson, match=r"the name 'amount' more than once"):
        parse(b'{"amount":1,"amount":2}')
    with pytest.raises(NotJson, match=r"the name \(that is not shown\) more than once"):
        parse(b'{"a secret\\n":1,"a secret\\n":2}')


def test_a_repeated_name_among_very_many_is_found_in_one_pass() -> None:
    names = [f'"{number}":0' for number in range(110_000)]
    begin = time.process_time()
    with pytest.raises(NotJson, match="more than once"):
        parse(("{" + ",".join([*names, '"109999":0']) + "}").encode())
    assert time.process_time() - begin < 5, "each name was looked for among all others"


def test_nothing_that_was_sent_becomes_a_pattern() -> None:
    re.purge()
    for digit in "123":
        with pytest.raises(NotJson, match="line 1, column 6"):
            parse(b'{"a":' + digit.encode() * 20_000 + b"}")
    assert not any(str(digit) * 1_000 in str(kept) for kept in _patterns() for digit in "123")


def _patterns() -> Iterable[object]:
    """Give what the module `re` keeps."""
    return cast("dict[object, object]", vars(re)["_cache"]).keys()
