"""What the platform team is told about its manifests, and what a reading of them keeps."""

import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema_rs
import pytest

from tests.stranger import install
from toolgate.backends.manifest_catalog import ManifestCatalog, Registry
from toolgate.core.credential_roles import FileRole
from toolgate.core.errors import Fault

pytestmark = pytest.mark.anyio

MANIFEST = """\
adapter = "sql"
owner = "team@example.com"

[system]
url = "sqlite:///crm.db"

[tools.find]
effect = "read"
timeout = 5
duplicates = "natural"
without_key = "allow"
capture = "full"
scopes = []
credential = "none"

[tools.find.operation]
description = "Find a customer."
statement = "select id from customer where name = :name"
result = "rows"
max_rows = 5
columns = { id = "integer" }
parameters.name = { type = "text", max_length = 10, description = "Its name." }
"""
TERMS = ("effect", "timeout", "duplicates", "capture", "scopes", "credential")
SEE = "see docs/reference/registry.md"
Write = Callable[..., None]


def terms(name: str, **changed: str) -> str:
    """Write a tool's table with every term; `changed` in TOML."""
    said = {
        "effect": '"read"',
        "timeout": "5",
        "duplicates": '"natural"',
        "without_key": '"allow"',
        "capture": '"full"',
        "scopes": "[]",
        "credential": '"none"',
    } | changed
    return f"[tools.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in said.items())


def probing(*tools: str, adapter: str = "probe", system: str = "") -> str:
    """Write a manifest of the probe."""
    return "\n".join([f'adapter = "{adapter}"', 'owner = "team"', "[system]", system, *tools])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    (tmp_path / "registry").mkdir()

    def write(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / "registry" / f"{name}.toml").write_text(text, "utf-8")

    return write


@pytest.fixture
def registry(tmp_path: Path, write: Write) -> Registry:
    return Registry(tmp_path / "registry", tmp_path)


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a stranger's adapters."""
    install(tmp_path / "site", f"probe_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])


def read(registry: Registry) -> ManifestCatalog:
    catalog, faults = registry.read()
    assert faults == []
    assert catalog is not None
    return catalog


def faults_of(registry: Registry) -> list[Fault]:
    catalog, faults = registry.read()
    assert catalog is None, "with any fault there is no catalogue"
    return faults


@pytest.mark.parametrize("term", TERMS)
def test_a_term_that_is_not_said_is_told_by_name(registry: Registry, write: Write, term: str) -> None:
    write(crm="".join(line for line in MANIFEST.splitlines(keepends=True) if not line.startswith(term)))

    (fault,) = faults_of(registry)

    assert (fault.file, fault.place) == ("registry/crm.toml", f"tools.find.{term}")
    assert fault.remedy == f"say it: it has no default, {SEE}"


def test_calls_without_a_key_are_guarded_where_nothing_is_said(registry: Registry, write: Write) -> None:
    write(crm=MANIFEST.replace('without_key = "allow"\n', ""))

    (tool,) = read(registry).tools
    assert tool.terms.without_key == "guard"


@pytest.mark.parametrize(
    ("there", "instead", "place", "problem", "remedy"),
    [
        ("[system]", "ownr = 1\n[system]", "ownr", "Extra inputs", "correct its spelling"),
        ("timeout = 5", "timeout = 5\nretry = 1", "tools.find.retry", "Extra inputs", "remove it"),
        ('effect = "read"', 'effect = "Read"', "tools.find.effect", "'read', 'write' or", SEE),
        ("timeout = 5", "timeout = 0", "tools.find.timeout", "greater than 0", SEE),
        ('owner = "team@example.com"', 'owner = ""', "owner", "at least 3 characters", SEE),
        ('adapter = "sql"', 'adapter = "sqlx"', "adapter", "no adapter 'sqlx' is installed", "install"),
        ("[tools.find]", "[tools.find", "syntax", "at line 7", "correct the TOML"),
        ('credential = "none"', 'credential = "x"', "tools.find.credential", "no [credentials.x]", '"none"'),
        ("[tools.find", "[tools.Find", "tools.Find", "'Find' cannot be shown", "a-z"),
        ("[tools.find", '[tools."find it"', "tools.find it", "cannot be shown", "a-z"),
        ("[tools.find", '[tools."*"', "tools.*", "cannot be shown", "a-z"),
        ("name = :name", "name = :nam", "for its adapter", "[tools.find.operation]", f"{SEE}, adapter sql"),
        ("sqlite:///", "oracle:///", "for its adapter", "", f"{SEE}, adapter sql"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_meant_is_told_with_its_place_and_what_to_do(
    registry: Registry, write: Write, there: str, instead: str, place: str, problem: str, remedy: str
) -> None:
    write(crm=MANIFEST.replace(there, instead))

    (fault,) = faults_of(registry)

    assert (fault.file, fault.place) == ("registry/crm.toml", place)
    assert problem in fault.problem
    assert remedy in fault.remedy


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("manifest", "place", "problem"),
    [
        (probing(terms("look"), adapter="fails"), "adapter", "cannot be imported: OSError: no library here"),
        (probing(terms("look"), adapter="gone"), "adapter", "cannot be imported: AttributeError"),
        (probing(terms("look"), adapter="plain"), "adapter", "'plain' is a object, not an Adapter"),
        (probing(terms("look"), adapter="twice"), "adapter", "brought by more than one package"),
        (probing(terms("look"), system='fault = "value"'), "for its adapter", "[system] is wrong"),
        (probing(terms("look"), system='fault = "key"'), "for its adapter", "KeyError: '[system] is wrong'"),
        (probing(terms("peek")), "tools.peek", "its adapter has no such operation"),
        (probing(terms("odd")), "tools.odd", "only references inside the schema are followed"),
        (probing(terms("hidden")), "tools.hidden", "have no JSON Schema"),
        (probing(terms("look", duplicates='"query"')), "tools.look.duplicates", "needs a look-up"),
        (probing(terms("send", effect='"write"', retries="1")), "tools.send.retries", "only a read"),
        (probing(terms("look", description='" "')), "tools.look", "it has no description"),
    ],
)
def test_an_adapter_that_does_not_fit_is_told_and_not_stumbled_over(
    registry: Registry, write: Write, manifest: str, place: str, problem: str
) -> None:
    write(crm=manifest)

    (fault,) = faults_of(registry)

    assert (fault.file, fault.place) == ("registry/crm.toml", place)
    assert problem in fault.problem
    assert fault.remedy


@pytest.mark.usefixtures("strangers")
def test_all_faults_of_all_manifests_are_told_at_once(
    registry: Registry, write: Write, tmp_path: Path
) -> None:
    both = terms("send", effect='"write"', retries="1", credential='"gone"')
    late = terms("late", timeout="0")
    write(a=probing(late, both, terms("peek"), terms("look", duplicates='"query"')), b="x", c=MANIFEST)
    (tmp_path / "registry" / "d.toml").write_bytes(b"owner = '\xe9'")
    (tmp_path / "registry" / "My System.toml").write_text("", "utf-8")

    assert [(fault.file.removeprefix("registry/"), fault.place) for fault in faults_of(registry)] == [
        ("My System.toml", "file"),
        ("My System.toml", "adapter"),
        ("My System.toml", "owner"),
        ("My System.toml", "tools"),
        ("a.toml", "tools.late.timeout"),
        ("a.toml", "tools.send.retries"),
        ("a.toml", "tools.send.credential"),
        ("a.toml", "tools.peek"),
        ("a.toml", "tools.look.duplicates"),
        ("b.toml", "syntax"),
        ("d.toml", "file"),
    ]


@pytest.mark.parametrize("folder", ["registry", "nothing"])
def test_an_empty_or_missing_folder_is_no_registry(tmp_path: Path, write: Write, folder: str) -> None:
    (fault,) = faults_of(Registry(tmp_path / folder, tmp_path))

    assert "there is no manifest" in fault.problem
    assert "toolgate init" in fault.remedy


def test_two_tools_that_clients_could_not_tell_apart_are_told(registry: Registry, write: Write) -> None:
    write(crm_x=MANIFEST, crm=MANIFEST.replace("[tools.find", "[tools.x_find"))

    (fault,) = faults_of(registry)

    assert fault.problem == "crm.x_find and crm_x.find would both be called crm_x_find"


def test_a_name_longer_than_clients_accept_is_told(registry: Registry, write: Write) -> None:
    write(**{"s" * 59: MANIFEST})
    assert len(read(registry).tools[0].wire_name) == 64

    write(**{"s" * 60: MANIFEST})
    (fault,) = faults_of(registry)
    assert "longer than 64 characters" in fault.problem


@pytest.mark.usefixtures("strangers")
async def test_schemas_are_2020_12_and_refuse_what_is_not_named_at_every_depth(
    registry: Registry, write: Write
) -> None:
    write(crm=probing(terms("look"), terms("send", effect='"write"', duplicates='"query"')))
    look = read(registry).find("crm_look")
    assert look is not None

    schema = look.input.document
    jsonschema_rs.Draft202012Validator(schema)
    assert schema["additionalProperties"] is False
    assert look.input.fault_in({"inner": {"a": 1}, "many": [{}], "table": {"x": {"a": 2}}}) is None
    assert look.input.fault_in({"inner": {"b": 1}}) == "inner: not expected: b"
    assert look.input.fault_in({"inner": {}, "many": [{"b": 1}]}) == "many[0]: not expected: b"
    assert look.input.fault_in({"inner": {}, "table": {"x": {"b": 1}}}) == "table.x: not expected: b"
    assert look.input.fault_in({"inner": {}, "b": 1}) == "the arguments: not expected: b"
    await registry.aclose()


@pytest.mark.usefixtures("strangers")
async def test_a_connection_is_kept_as_long_as_its_system_does_not_change(
    registry: Registry, write: Write
) -> None:
    write(crm=probing(terms("look"), system="a = 1"))
    first = read(registry).tools[0].connector
    write(crm=probing(terms("look", title='"Look around"', timeout="9"), system="a = 1"))
    retitled = read(registry).tools[0]
    write(crm=probing(terms("look"), system="a = 2"))
    moved = read(registry).tools[0].connector
    write(crm=probing(terms("look"), system="a = 2", adapter="other"))
    adapted = read(registry).tools[0].connector

    assert retitled.connector is first
    assert (retitled.title, retitled.terms.timeout) == ("Look around", 9)
    assert len({id(one) for one in (first, moved, adapted)}) == 3
    await registry.aclose()
    assert [vars(one)["closed"] for one in (first, moved, adapted)] == [1, 1, 1], "a call could still use it"


def test_a_tool_is_found_by_both_names_and_says_what_its_manifest_says(
    registry: Registry, write: Write
) -> None:
    write(crm=MANIFEST.replace("timeout = 5", 'timeout = 5\ndescription = "Ours."'))
    catalog = read(registry)

    found = catalog.find("crm.find")
    assert found is not None
    assert found is catalog.find("crm_find")
    assert (found.title, found.description, found.credential) == ("crm: find", "Ours.", None)
    assert catalog.find("crm.found") is None


def test_a_tool_gets_the_credential_that_its_manifest_names(registry: Registry, write: Write) -> None:
    role = '[credentials.reader]\nsecret = "for-crm"\nsign_in = "basic"\n'
    write(crm=MANIFEST.replace('credential = "none"', 'credential = "reader"') + role)

    (found,) = read(registry).tools

    assert isinstance(found.credential, FileRole)
    assert (found.credential.secret, found.credential.sign_in) == ("for-crm", "basic")


def test_another_text_is_another_version(registry: Registry, write: Write) -> None:
    write(crm=MANIFEST)
    first, again = read(registry).digest, read(registry).digest
    write(crm=MANIFEST + "# reviewed\n")

    assert first == again != read(registry).digest
