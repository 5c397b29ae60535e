"""The example clients and the configurations of the guide, as far as nothing must be installed for them."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from examples.clients import gate as example_gate
from examples.clients.environments import EXAMPLES, MODERN
from examples.clients.gate import Gate
from examples.clients.mcp_remote.client import bridge
from examples.clients.run import Run, run_one
from examples.clients.witness import STEPS, seen
from examples.node import CannotInstallError, install
from tests.serving import Served, serving, text_of

pytestmark = pytest.mark.anyio
REPO = Path(__file__).resolve().parents[1]
GUIDE = (REPO / "docs" / "how-to" / "connect.md").read_text("utf-8")
SERVERS: list[dict[str, Any]] = [
    server
    for text in re.findall(r"^```json\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    for said in [json.loads(text)]
    for server in {**said.get("mcpServers", {}), **said.get("servers", {})}.values()
]
STARTED = [(server["command"], *server["args"]) for server in SERVERS if "serve" in server.get("args", [])]
CLAUDE = re.compile(r"^claude mcp add --transport (http|stdio) (.+)$", re.MULTILINE)
CLAUDE_COMMANDS = {kind: shlex.split(words) for kind, words in CLAUDE.findall(GUIDE)}
CLAUDE_HTTP = CLAUDE_COMMANDS["http"]
CLAUDE_STDIO = tuple(CLAUDE_COMMANDS["stdio"][2:])
"""What stands after the server's name and two dashes."""
REMOTE = [server for server in SERVERS if "url" in server]
MODES = [Run(EXAMPLES["python_sdk"], mode) for mode in EXAMPLES["python_sdk"].eras]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """Serve what the clients talk to."""
    callers = [*(run.caller for run in MODES), "idle"]
    with example_gate.serving(tmp_path_factory.mktemp("clients") / "root", callers) as gate:
        yield gate


@pytest.fixture(scope="module")
def served(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    root = Path(shutil.copytree(starter, tmp_path_factory.mktemp("connect") / "root"))
    with serving(root) as gate:
        yield gate


@pytest.mark.parametrize("run", MODES, ids=lambda run: run.mode)
def test_the_script_of_the_python_sdk_does_all_that_it_should(run: Run, notebook: Gate) -> None:
    command = [*run.example.prepare(), run.mode]

    result = run_one(run, command, notebook)

    assert result.problem == ""
    assert result.seen is not None
    assert (result.seen.era, result.seen.key) == (run.era, "_meta")
    assert result.seen.done == set(STEPS)


def test_what_a_client_says_counts_only_if_the_ledger_says_so_too(notebook: Gate) -> None:
    note = {"id": 2, "text": "never written", "written": "today"}
    told: list[dict[str, object]] = [
        {"client": "boaster 1", "era": MODERN},
        {"tools": ["notes_add", "notes_remove", "notes_search"]},
        {"read": {"rows": [note]}},
        {"wrote": note, "replayed": False},
        {"wrote": note, "replayed": True},
        {"refused": "forbidden", "text": "allowed is: the size of text at most 500"},
    ]

    found = seen("\n".join(map(json.dumps, told)), MODERN, notebook, "idle")

    assert found.done == {"listed"}
    assert all("recorded: nothing" in missing for missing in found.missing)


def test_an_era_that_is_not_the_expected_one_is_told(notebook: Gate) -> None:
    found = seen('{"client": "old 1", "era": "2024-11-05"}', MODERN, notebook, "idle")

    assert f"it spoke 2024-11-05, not {MODERN}" in found.missing


def test_python_packages_that_cannot_be_had_are_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))

    with pytest.raises(CannotInstallError, match="uv takes the packages of fastmcp, once, from the index"):
        EXAMPLES["fastmcp"].prepare(tmp_path / "installed")


def test_npm_packages_that_cannot_be_had_are_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(EXAMPLES["typescript"].folder / name, tmp_path)
    monkeypatch.setenv("npm_config_offline", "true")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))

    with pytest.raises(CannotInstallError, match="npm takes packages, once, from the registry"):
        install(tmp_path)


def test_a_client_that_there_is_not_is_refused_with_the_names_of_those_that_are() -> None:
    command = [sys.executable, "-m", "examples.clients.run", "netscape"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert f"there is no client netscape; there are {', '.join(EXAMPLES)}" in done.stderr


def test_every_client_is_shown_in_the_readme_and_locked_by_hashes() -> None:
    page = (REPO / "examples" / "README.md").read_text("utf-8")
    for name, example in EXAMPLES.items():
        assert f"`clients/{name}/`" in page
        if example.on == "its own packages":
            lock = (example.folder / "requirements.lock").read_text("utf-8")
            pinned = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
            assert pinned
            assert all("--hash=sha256:" in package for package in pinned)
            assert "://" not in lock
        if (example.folder / "package.json").is_file():
            packages = json.loads((example.folder / "package-lock.json").read_text("utf-8"))["packages"]
            assert all("integrity" in one and "resolved" not in one for at, one in packages.items() if at)


@pytest.mark.parametrize("command", sorted({*STARTED, CLAUDE_STDIO}), ids=" ".join)
async def test_what_the_guide_starts_over_stdio_is_a_gate(command: tuple[str, ...], root: Path) -> None:
    paths = {
        "/path/to/.venv/bin/toolgate": str(Path(sys.executable).with_name("toolgate")),
        "/path/to/gate": str(root),
    }
    program, *words = (paths.get(word, word) for word in command)
    async with Client(stdio_client(StdioServerParameters(command=program, args=words))) as client:
        await _lists_and_writes(client)


@pytest.mark.parametrize("server", REMOTE, ids=lambda server: server.get("type", "http"))
async def test_an_http_configuration_of_the_guide_reaches_the_gate(
    server: dict[str, Any], served: Served
) -> None:
    assert server["url"] == "http://127.0.0.1:8080/mcp"
    async with _over_http(server["headers"], served) as client:
        await _lists_and_writes(client)


def test_the_guide_has_both_ways_for_every_program() -> None:
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL))
    for program in ("Generic JSON", "Claude Code", "Claude Desktop", "VS Code", "Cursor"):
        assert "--stdio" in sections[program].replace('"', ""), program
        assert "http://127.0.0.1:8080/mcp" in sections[program], program
    assert len(STARTED) == 4
    assert len(REMOTE) == 4


async def test_the_command_for_claude_code_reaches_the_gate(served: Served) -> None:
    name, url, option, header = CLAUDE_HTTP
    assert (name, url, option) == ("toolgate", "http://127.0.0.1:8080/mcp", "--header")
    async with _over_http(dict([header.split(": ")]), served) as client:
        await _lists_and_writes(client)


def test_the_bridge_of_the_guide_is_the_one_that_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (server,) = (server for server in SERVERS if server.get("command") == "npx")
    monkeypatch.setenv("GATE_URL", "http://127.0.0.1:8080/mcp")
    monkeypatch.setenv("GATE_TOKEN", "TOKEN")
    shown = bridge("auto")
    locked = json.loads((EXAMPLES["mcp_remote"].folder / "package.json").read_text("utf-8"))

    yes, package, *words = server["args"]
    assert yes == "-y"
    assert package == f"mcp-remote@{locked['dependencies']['mcp-remote']}"
    assert words == shown.args
    assert server["env"].items() <= (shown.env or {}).items()


@asynccontextmanager
async def _over_http(headers: dict[str, str], served: Served) -> AsyncGenerator[Client]:
    """Send the headers of a configuration, with a token where it has a name for one."""
    token = re.compile(r"TOKEN$|\$\{(?:env:|input:)?[\w-]+\}$")
    filled = {name: token.sub(lambda _: served.token(), value) for name, value in headers.items()}
    assert filled != headers
    async with (
        httpx2.AsyncClient(headers=filled, timeout=30) as http,
        Client(streamable_http_client(served.url, http_client=http)) as client,
    ):
        yield client


async def _lists_and_writes(client: Client) -> None:
    assert "notes_add" in {tool.name for tool in (await client.list_tools()).tools}
    added = await client.call_tool("notes_add", {"text": f"As the guide has it, {uuid.uuid4()}"})
    assert not added.is_error, text_of(added)
