"""The lock as a file: what it holds comes back, what it hides is seen, and what is wrong with it is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgate.backends.registry_lock_file import FILE, LARGEST, read_pins, spelled, write_pins
from toolgate.backends.registry_pins import Pin, changes, in_words
from toolgate.core.canonical import canonical
from toolgate.core.errors import Fault
from toolgate.core.record import JsonObject

PIN = Pin(
    tool="crm.find",
    adapter="sql",
    effect="read",
    title="Find",
    description="Find a customer.",
    input={
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 9}},
        "required": ["name"],
    },
    output={"type": "object"},
)
ANEW = "toolgate registry lock"
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["'''", "''", '"""', "\\", "\\'''", "a\nb\r\nc", "\u200b\u202e\U000e0041", "\x00\x7f", "'", "{'''}"]
)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
schemas = st.dictionaries(texts, values, max_size=3)
pins = st.builds(
    Pin,
    tool=st.sampled_from(["crm.find", "crm.add", "a-b.c_d"]),
    adapter=texts,
    effect=st.sampled_from(["read", "write", "destroy"]),
    title=texts,
    description=texts,
    input=schemas,
    output=schemas,
    resource=texts,
    prompt=st.booleans(),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pins(tmp_path, {PIN.tool: PIN})
    return tmp_path


@pytest.fixture
def edit(folder: Path) -> Callable[[str, str], None]:
    def edit(old: str, new: str) -> None:
        text = (folder / "lock.toml").read_text("utf-8")
        assert old in text
        (folder / "lock.toml").write_text(text.replace(old, new, 1), "utf-8")

    return edit


def fault_in(folder: Path) -> Fault:
    pins, faults = read_pins(folder)
    assert pins is None
    (fault,) = faults
    return fault


# --- what comes back


@settings(max_examples=100, deadline=None)
@given(st.lists(pins, max_size=3, unique_by=lambda pin: pin.tool))
def test_what_was_pinned_is_read_back(tmp_path_factory: pytest.TempPathFactory, some: list[Pin]) -> None:
    folder = tmp_path_factory.mktemp("lock")
    write_pins(folder, {pin.tool: pin for pin in some})
    found, faults = read_pins(folder)

    assert faults == []
    assert found is not None
    assert {name: canonical(pin.parts) for name, pin in found.items()} == {
        pin.tool: canonical(pin.parts) for pin in some
    }


@settings(max_examples=100, deadline=None)
@given(st.lists(pins, max_size=3, unique_by=lambda pin: pin.tool))
def test_everything_in_the_file_can_be_seen(some: list[Pin]) -> None:
    assert spelled(some).replace("\n", "").isprintable()


@given(pins, pins)
def test_pins_of_one_digest_and_only_those_have_no_change(one: Pin, other: Pin) -> None:
    other = replace(other, tool=one.tool)

    assert (changes(one, other) == []) == (one.digest == other.digest)
    assert changes(one, one) == []


@given(pins, schemas)
def test_whatever_changes_in_a_schema_is_said(pin: Pin, schema: JsonObject) -> None:
    changed = replace(pin, input=schema)
    found = changes(pin, changed)

    assert bool(found) == (pin.digest != changed.digest)
    assert in_words(found).startswith("its input schema changed (" if found else "")
    assert in_words(found).isprintable()


def test_the_same_pins_are_the_same_bytes_whatever_their_order(tmp_path: Path) -> None:
    other = replace(PIN, tool="crm.add")

    assert spelled([PIN, other]) == spelled([other, PIN])
    assert write_pins(tmp_path, {"crm.find": PIN, "crm.add": other}) is True
    assert write_pins(tmp_path, {"crm.add": other, "crm.find": PIN}) is False


def test_a_line_of_a_description_is_a_line_of_the_file_and_a_hidden_character_is_its_number() -> None:
    text = spelled([replace(PIN, description="One.\nTwo\u200b.\U000e0041\ufe01\u3164")])

    assert 'description = """\nOne.\nTwo\\u200b.\\U000e0041\\ufe01\\u3164"""\n' in text


def test_a_pin_cannot_be_moved_to_another_tool(folder: Path, edit: Callable[[str, str], None]) -> None:
    edit('"crm.find"', '"crm.drop"')

    assert fault_in(folder).place == "tools.crm.drop.digest"


# --- what changed, in words


def test_places_of_a_schema_are_named_and_values_are_not() -> None:
    schema: JsonObject = {
        "type": "object",
        "properties": {"name": {"type": "integer", "maxLength": 9}, "to": {"description": "your password"}},
        "required": ["name", "to"],
    }
    found = changes(PIN, replace(PIN, input=schema, title="T"))

    assert [(one.place, one.kind, one.before, one.after) for one in found] == [
        ("title", "changed", "Find", "T"),
        ("input.properties.name.type", "changed", "string", "integer"),
        ("input.properties.to", "added", None, {"description": "your password"}),
        ("input.required", "added", None, "to"),
    ]
    assert in_words(found) == (
        "its title changed; its input schema changed "
        "(properties.name.type changed, properties.to added, required added)"
    )


def test_of_many_changes_only_some_are_named() -> None:
    many: JsonObject = {f"p{number}": {} for number in range(9)}
    found = changes(PIN, replace(PIN, output={"type": "object", "properties": many, "x" * 300: 1}))

    assert in_words(found) == f"its output schema changed (properties added, {'x' * 100}... added)"
    wide = changes(PIN, replace(PIN, output={"type": "object", **many}))
    assert in_words(wide).endswith("p4 added, and 4 more)")


# --- what is wrong with it


@pytest.mark.parametrize(
    ("old", "new", "place", "problem"),
    [
        ("version = 1", "version = 2", "version", "should be 1"),
        ("version = 1", "", "version", "required"),
        ("version = 1", "version = 1\nversion = 1", "syntax", "Cannot overwrite a value"),
        ('[tools."crm.find"]', '[tools."crm.find', "syntax", "at line 6"),
        ("version = 1", "<<<<<<< ours\nversion = 1", "syntax", "at line 4"),
        ('[tools."crm.find"]', '[tools."find it"]', "tools.find it", "should match pattern"),
        ('adapter = "sql"\n', "", "tools.crm.find.adapter", "required"),
        ('effect = "read"', 'effect = "look"', "tools.crm.find.effect", "'read', 'write' or"),
        ('adapter = "sql"', "adapter = 7", "tools.crm.find.adapter", "valid string"),
        ("sha256:", "sha512:", "tools.crm.find.digest", "should match pattern"),
        ("sha256:", "sha256:0", "tools.crm.find.digest", "should match pattern"),
        ('"Find"', '"Found"', "tools.crm.find.digest", "not the digest of what stands below it"),
        ('"maxLength": 9', '"maxLength": 10', "tools.crm.find.digest", "changed by hand, or merged"),
        ('"maxLength": 9', '"maxLength": 5, "maxLength": 9', "tools.crm.find.input", "more than once"),
        ('"maxLength": 9', '"maxLength": NaN', "tools.crm.find.input", "NaN is not JSON"),
        ('"maxLength": 9', '"maxLength": 1e999', "tools.crm.find.input", "is larger than"),
        ('"maxLength": 9', f'"maxLength": {"9" * 5000}', "tools.crm.find.input", "no JSON Schema"),
        ('"maxLength": 9', '"maxLength": "\\ud800"', "tools.crm.find.input", "lone surrogate"),
        ('"maxLength": 9', f'"x": {"[" * 5000}{"]" * 5000}', "tools.crm.find.input", "no JSON Schema"),
        ('{\n  "properties', '[] {\n  "properties', "tools.crm.find.input", "no JSON Schema"),
        ('{\n  "type": "object"\n}\n', "[]\n", "tools.crm.find.output", "an object is expected"),
    ],
)  # fmt: skip
def test_a_lock_that_cannot_be_meant_is_told_with_its_place_and_what_to_do(
    folder: Path, edit: Callable[[str, str], None], old: str, new: str, place: str, problem: str
) -> None:
    edit(old, new)
    fault = fault_in(folder)

    assert fault.file == FILE
    assert fault.place.startswith(place)
    assert problem in fault.problem
    assert ANEW in fault.remedy


@pytest.mark.parametrize("key", ['adapter = "sql"\n', "[credentials.x]\n"])
def test_a_manifest_of_that_name_is_told_to_take_another(tmp_path: Path, key: str) -> None:
    (tmp_path / "lock.toml").write_text(f"version = 1\n{key}", "utf-8")
    fault = fault_in(tmp_path)

    assert fault.problem == "there is no such key in a lock"
    assert "needs another name than lock.toml" in fault.remedy


def test_a_file_that_is_no_text_or_no_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "lock.toml"
    file.write_bytes(b"version = 1 # \xe9")
    assert "cannot be read" in fault_in(tmp_path).problem
    file.write_text("a = " + "[" * 10_000, "utf-8")
    assert fault_in(tmp_path).place == "syntax"
    file.write_text("#" * (LARGEST + 1), "utf-8")
    assert fault_in(tmp_path).problem == f"it is larger than {LARGEST} bytes"
    file.unlink()
    file.mkdir()
    assert "cannot be read" in fault_in(tmp_path).problem


def test_no_file_is_no_fault(tmp_path: Path) -> None:
    assert read_pins(tmp_path) == (None, [])
