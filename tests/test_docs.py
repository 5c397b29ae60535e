"""The documentation, run and held against the code."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from tests.serving import serving
from toolgate.adapter.http import HttpSystem
from toolgate.backends.audit_access import Scope
from toolgate.backends.manifest_catalog import Manifest, ToolManifest
from toolgate.backends.policy.text import RULE_CELLS
from toolgate.cli.app import COMMANDS, app
from toolgate.core.credential_roles import EnvRole, FileRole, OAuthRole, VaultRole
from toolgate.core.identity import Introspection, TrustedIssuer
from toolgate.core.limits import Limits
from toolgate.core.vault_settings import VaultSettings
from toolgate.settings import NamedCaller, Settings
from toolgate_adapters.sql_connection import SqlSystem
from toolgate_adapters.sql_statement import Declared, Parameter

REPO = Path(__file__).resolve().parents[1]
DOCS = REPO / "docs"
PAGES = sorted(
    page
    for page in (*REPO.glob("*.md"), *DOCS.rglob("*.md"), *(REPO / "examples").glob("*.md"))
    if "decisions" not in page.parts
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DOTS = "..."


def test_every_page_that_the_program_names_is_there() -> None:
    named: set[str] = set()
    for file in (*(REPO / "server").rglob("*"), *(REPO / "examples").rglob("*.py")):
        if file.suffix in {".py", ".toml", ".conf", ".csv"}:
            named.update(re.findall(r"docs/[\w/.-]+\.md", file.read_text("utf-8")))

    assert {"docs/reference/outcomes.md", "docs/reference/settings.md"} <= named
    for page in named:
        assert (REPO / page).is_file(), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(_prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_examples_of_data_can_be_read(page: Path) -> None:
    for kind, text in FENCE.findall(page.read_text("utf-8")):
        match kind:
            case "json":
                json.loads(text)
            case "toml":
                tomllib.loads(text)
            case "python":
                compile(text, str(page), "exec")
            case _:
                assert kind in {"sh", "console", "text", "ini", "dockerfile"}, f"a block of kind {kind!r}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```console" in page.read_text("utf-8")],
    ids=lambda page: str(page.relative_to(REPO)),
)
def test_what_a_page_shows_of_the_command_line_is_what_happens(page: Path, tmp_path: Path) -> None:
    here = tmp_path
    for command in _commands(page):
        if command.text.startswith("cd "):
            here /= command.text.removeprefix("cd ")
            continue
        said = _shell(command.text, here)
        assert re.fullmatch(_pattern(command.shown), said), f"$ {command.text}\n{said}"


def test_the_adapter_of_the_guide_is_the_example(tmp_path: Path) -> None:
    adapter, _ = _blocks(DOCS / "how-to" / "adapter.md", "python")

    assert (REPO / "examples" / "ticket_adapter.py").read_text("utf-8").endswith(adapter)


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    adapter, tests = _blocks(DOCS / "how-to" / "adapter.md", "python")
    (tmp_path / "ticket_adapter.py").write_text(adapter, "utf-8")
    (tmp_path / "test_tickets.py").write_text(tests, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")

    assert "2 passed" in _run("-m", "pytest", "-q", "-p", "no:randomly", here=tmp_path)


def test_the_manifest_of_the_guide_is_admitted(starter: Path, root: Path, tmp_path: Path) -> None:
    page = DOCS / "how-to" / "adapter.md"
    adapter, _ = _blocks(page, "python")
    package, manifest = _blocks(page, "toml")
    plugins = tmp_path / "plugins"
    info = plugins / "ticket_adapter-1.0.dist-info"
    info.mkdir(parents=True)
    (plugins / "ticket_adapter.py").write_text(adapter, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ticket-adapter\nVersion: 1.0\n", "utf-8")
    points = tomllib.loads(package)["project"]["entry-points"]["toolgate.adapters"]
    lines = [f"{name} = {where}" for name, where in points.items()]
    (info / "entry_points.txt").write_text("[toolgate.adapters]\n" + "\n".join(lines), "utf-8")
    (root / "registry" / "desk.toml").write_text(manifest, "utf-8")

    _shell("printf s | toolgate secrets set desk", root, plugins)
    assert "2 faults" in _shell("toolgate check", root, plugins)
    assert "pinned       desk.create" in _shell("toolgate registry lock", root, plugins)
    assert "9 tools admitted" in _shell("toolgate check", root, plugins)


def test_the_python_client_of_the_guide_calls_once(root: Path) -> None:
    (client,) = _blocks(DOCS / "how-to" / "connect.md", "python")
    with serving(root) as gate:
        said = _run("-c", client, here=root, GATE_URL=gate.url, GATE_TOKEN=gate.token())

    first, second = said.splitlines()
    assert first == second.replace("replayed: True", "replayed: False")
    assert second.endswith("replayed: True")


def test_every_setting_is_explained() -> None:
    page = DOCS / "reference" / "settings.md"

    _expect_rows(page, Settings, NamedCaller, TrustedIssuer, Introspection, VaultSettings, Limits)


def test_every_key_of_a_manifest_is_explained() -> None:
    page = DOCS / "reference" / "registry.md"

    told = _expect_rows(
        page,
        ToolManifest,
        FileRole,
        EnvRole,
        VaultRole,
        OAuthRole,
        HttpSystem,
        SqlSystem,
        Declared,
        Parameter,
        Scope,
        but={"operation"},
    )
    for key in Manifest.model_fields:
        assert key in told or f"[{key}" in page.read_text("utf-8"), key


def test_every_column_of_a_rule_is_explained() -> None:
    told = _first_cells(DOCS / "reference" / "policy.md")

    assert set(RULE_CELLS) <= told


def test_every_code_has_its_place_among_the_outcomes() -> None:
    found: set[str] = set()
    for folder in ("server", "adapters"):
        for file in (REPO / folder).rglob("*.py"):
            found |= _codes(ast.parse(file.read_text("utf-8")))
    told = _anchors(DOCS / "reference" / "outcomes.md")

    assert {"forbidden", "conflict", "timeout", "no_credential", "idempotency_conflict"} <= found
    assert found <= told, f"not explained: {sorted(found - told)}"
    found.add("input_required")  # a kind of its own, whose code is its name
    codes = {
        name for name in told if f"## `{name}`" in (DOCS / "reference" / "outcomes.md").read_text("utf-8")
    }
    assert codes <= found, f"explained, but never given: {sorted(codes - found)}"


def test_every_command_and_option_is_explained() -> None:
    text = (DOCS / "reference" / "cli.md").read_text("utf-8")
    commands = dict(_all_commands())

    assert set(COMMANDS) <= set(commands)
    for words, options in commands.items():
        assert f"## `toolgate {words}" in text, words
        for option in options:
            assert f"`{option}" in text, f"{words} {option}"


def _prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def _blocks(page: Path, kind: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text("utf-8")) if found == kind]


def _anchors(page: Path) -> set[str]:
    headings: Iterable[str] = HEADING.findall(_prose(page))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@dataclass
class _Command:
    text: str
    shown: list[str] = field(default_factory=list[str])


def _commands(page: Path) -> list[_Command]:
    commands: list[_Command] = []
    for block in _blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append(_Command(line.removeprefix("$ ")))
            elif line.startswith(">") and "<<" in commands[-1].text:
                commands[-1].text += "\n" + line.removeprefix(">").removeprefix(" ")
            else:
                commands[-1].shown.append(line)
    return commands


def _pattern(shown: list[str]) -> str:
    """Make a pattern of what a page shows: a line of dots is any lines, dots in a line any text."""
    lines = [
        r"(?:[^\n]*\n)*" if line == DOTS else re.escape(line).replace(re.escape(DOTS), "[^\n]*") + "\n"
        for line in shown
    ]
    return "".join(lines)


def _shell(command: str, here: Path, plugins: Path | None = None) -> str:
    function = f'toolgate() {{ "{sys.executable}" -m toolgate "$@"; }}'
    done = subprocess.run(
        ["/bin/sh", "-c", f"{function}\n{command}"],
        cwd=here,
        env=_environment() | ({"PYTHONPATH": str(plugins)} if plugins else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def _run(*words: str, here: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=here,
        env=_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    """Give a reader's environment: no settings of ours, no colours, and nobody's keyring."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOOLGATE_", "COV", "PYTEST"))
    }
    return kept | {
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }


def _first_cells(page: Path) -> set[str]:
    """Give every name in code that stands in the first cell of a table's row."""
    rows = re.findall(r"^\| ([^|]+) \|", page.read_text("utf-8"), re.MULTILINE)
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def _expect_rows(
    page: Path, *models: type[BaseModel], but: frozenset[str] | set[str] = frozenset()
) -> set[str]:
    told = _first_cells(page)
    for model in models:
        keys = {field.alias or name for name, field in model.model_fields.items()}
        missing = keys - told - but
        assert not missing, f"{page.name} says nothing of {model.__name__}: {sorted(missing)}"
    return told


def _all_commands() -> Iterator[tuple[str, list[str]]]:
    top = typer.main.get_command(app([]))
    for name, command in _below(top):
        below = list(_below(command))
        for inner, its in below:
            yield f"{name} {inner}", _options(its)
        if not below:
            yield name, _options(command)


def _below(command: object) -> list[tuple[str, object]]:
    found: dict[str, object] = getattr(command, "commands", {})
    return list(found.items())


def _options(command: object) -> list[str]:
    spelled = [option for parameter in getattr(command, "params", []) for option in parameter.opts]
    return [option for option in spelled if option.startswith("--") and option != "--help"]


_CODE_AT = {
    "NothingDone": 0,
    "CredentialUnavailable": 0,
    "VaultFault": 0,
    "OAuthFault": 0,
    "RequestRefused": 0,
    "_broken_off": 2,
    "_refused": 1,
}
"""Which argument of a call is a code."""


def _codes(tree: ast.AST) -> set[str]:
    """Give the codes that a module can end a call with."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                place = _CODE_AT.get(name)
                given = [word.value for word in keywords if word.arg == "code"]
                given += args[place : place + 1] if place is not None else []
                found.update(code for value in given for code in _texts(value))
            case ast.Assign(targets=[ast.Name(id="_CODES")], value=ast.Dict(values=values)):
                found.update(code for value in values for code in _texts(value))
            case ast.Call(func=ast.Attribute(attr="get"), args=[_, ast.Constant(value=str(other))]):
                found |= {other} if other.startswith("upstream_") else set()
            case _:
                continue
    return found


def _texts(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from _texts(one)
            yield from _texts(other)
        case _:
            return
