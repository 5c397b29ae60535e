"""The demo's deployment: a real issue tracker, a CRM, and the gate before both."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.demo import crm
from examples.demo.tracker import Tracker, prepare, seed
from examples.demo.waiting import answers

REPO = Path(__file__).resolve().parents[2]
TRACKER_ADDRESS = "http://127.0.0.1:8917/rest/data/"
TICKETS = 300
CALLERS = {"support-agent": "ann", "support-lead": "ben", "auditor": "ada"}

SETTINGS = """\
mode = "dev"
port = {port}
policies = {policies}
local_caller = "support-agent"

[callers.support-agent]
subject = "ann"
tenant = "acme"
roles = ["support"]
scopes = ["crm:read", "crm:write", "tickets:read", "tickets:write"]

[callers.support-lead]
subject = "ben"
tenant = "acme"
roles = ["support_lead"]
scopes = ["crm:read", "crm:write", "tickets:read", "tickets:write"]

[callers.auditor]
subject = "ada"
tenant = "acme"
roles = ["auditor"]
scopes = ["crm:read", "tickets:read"]
"""


class CannotStartError(Exception):
    """Something on this machine is in the way."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The running demo."""

    root: Path
    endpoint: str
    tracker: Tracker
    tokens: dict[str, str]


@contextmanager
def running(folder: Path, *, port: int, tracker_port: int) -> Generator[Demo]:
    """Set everything up anew in `folder`, start it, and stop it at the end."""
    for wanted in (port, tracker_port):
        _expect_free(wanted)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        tracker = stack.enter_context(_tracker(folder / "tracker", tracker_port))
        root = _deployment(folder / "root", port, tracker)
        endpoint = f"http://127.0.0.1:{port}/mcp"
        stack.enter_context(_gate(root, port, folder / "gate.log"))
        tokens = {name: _toolgate("token", "--as", name, "--root", str(root)).strip() for name in CALLERS}
        yield Demo(root=root, endpoint=endpoint, tracker=tracker, tokens=tokens)


def client_configuration(demo: Demo, caller: str) -> str:
    """Give what an MCP client needs to connect as `caller`."""
    server = {
        "type": "http",
        "url": demo.endpoint,
        "headers": {"Authorization": f"Bearer {demo.tokens[caller]}"},
    }
    return json.dumps({"mcpServers": {"toolgate": server}}, indent=2)


def _tracker(folder: Path, port: int) -> Tracker:
    password = secrets.token_urlsafe(16)
    prepare(folder, port, password)
    seed(folder, TICKETS)
    return Tracker(folder, port, password)


def _deployment(root: Path, port: int, tracker: Tracker) -> Path:
    _toolgate("init", str(root))
    policies = json.dumps(os.path.relpath(REPO / "policies", root))
    (root / "toolgate.toml").write_text(SETTINGS.format(port=port, policies=policies), "utf-8")
    (root / "registry" / "notes.toml").unlink()
    for manifest in (REPO / "registry").glob("*.toml"):
        text = manifest.read_text("utf-8").replace(TRACKER_ADDRESS, tracker.base_url)
        (root / "registry" / manifest.name).write_text(text, "utf-8")
    crm.build(root / "data" / "crm.db")
    _toolgate("secrets", "set", "tickets-agent", "--root", str(root), given=tracker.agent_credential)
    return root


@contextmanager
def _gate(root: Path, port: int, log: Path) -> Generator[None]:
    command = [sys.executable, "-m", "toolgate", "serve", "--root", str(root)]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            if not answers(process, f"http://127.0.0.1:{port}/readyz"):
                raise CannotStartError(log.read_text("utf-8", "replace"))
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _toolgate(*words: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "toolgate", *words],
        input=given,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotStartError(f"toolgate {words[0]}: {done.stderr}")
    return done.stdout


def _expect_free(port: int) -> None:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStartError(
                f"port {port} is in use; stop what uses it, or say: make run PORT=… TRACKER_PORT=…"
            ) from error
