"""The sides of the comparison: the same tool on a bare SDK server, behind the gate, and on FastMCP."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.load import Target
from examples.clients.environments import environment
from examples.demo.waiting import answers
from tests.postgresql import OWNER, cluster

BARE = '''
import sys
import uvicorn
from mcp.server import MCPServer

server = MCPServer("bare", log_level="WARNING")

@server.tool()
async def echo(text: str) -> str:
    """Echo the text."""
    return text

uvicorn.run(server.streamable_http_app(json_response=True, stateless_http=True), host="127.0.0.1",
            port=int(sys.argv[1]), loop="uvloop", http="httptools", log_level="warning", access_log=False)
'''

ADAPTER = '''
from pydantic import BaseModel
from toolgate.adapter import Adapter, HttpContext

bench = Adapter("bench")

class Said(BaseModel):
    text: str

@bench.operation
async def echo(said: Said, context: HttpContext) -> Said:
    """Echo the text."""
    return said

@bench.operation
async def note(said: Said, context: HttpContext) -> Said:
    """Echo the text, as a write."""
    context.sending()
    return said
'''

MANIFEST = """
adapter = "bench"
owner = "bench@example.com"

[system]
base_url = "http://127.0.0.1:9/"

[credentials.agent]
secret = "bench"
sign_in = "bearer"
"""

TERMS = """
[tools.{name}]
effect = "{effect}"
timeout = 10
duplicates = "none"
without_key = "allow"
capture = "digests"
scopes = []
credential = "agent"
"""

RULES = """
p, B1, allow, bench, home, bench.*, *, -, -, -
"""

SETTINGS = """
mode = "dev"
public_url = "http://127.0.0.1:{port}/mcp"
port = {port}
{database}
local_caller = "bench"

[callers.bench]
subject = "bench"
tenant = "home"
roles = ["bench"]
"""


@contextmanager
def bare(folder: Path, port: int) -> Generator[tuple[Target, int]]:
    """Start the tool on a bare SDK server; gives the target and the process id."""
    program = folder / "bare.py"
    program.write_text(BARE, "utf-8")
    with _process([sys.executable, str(program), str(port)], port, "/mcp") as pid:
        yield Target(url=f"http://127.0.0.1:{port}/mcp", tool="echo"), pid


@contextmanager
def governed(folder: Path, port: int) -> Generator[tuple[Target, Target, list[int]]]:
    """Start the tool behind the gate: as a read, and as a write with a key for each call."""
    root = _deployment(folder, port)
    with _gates(root, [port]) as pids:
        yield *_targets(root, [port]), pids


@contextmanager
def governed_on_postgresql(
    folder: Path, ports: list[int], *, tcp: bool = False
) -> Generator[tuple[Target, Target, list[int]]]:
    """Start it behind several gates, one at each port, that share a ledger on a PostgreSQL server."""
    with cluster(shared_buffers="128MB") as server:
        url = server.url(OWNER, server.create(), tcp=tcp)
        root = _deployment(folder, ports[0], url)
        with _gates(root, ports) as pids:
            yield *_targets(root, ports), pids


def _targets(root: Path, ports: list[int]) -> tuple[Target, Target]:
    url, *others = (f"http://127.0.0.1:{port}/mcp" for port in ports)
    token = _run(root, "token")
    read = Target(url=url, others=tuple(others), tool="bench_echo", token=token)
    return read, replace(read, tool="bench_note", keyed=True)


@contextmanager
def _gates(root: Path, ports: list[int]) -> Generator[list[int]]:
    """Start a gate at each port, each in a copy of the deployment and of what a first start made in it."""
    if len(ports) > 1:
        with _gates(root, ports[:1]):
            pass
    with ExitStack() as open_:
        pids: list[int] = []
        for number, port in enumerate(ports):
            own = root if not number else root.with_name(f"{root.name}-{number}")
            if number:
                shutil.copytree(root, own)
            environment = _environment(root) | {"TOOLGATE_PORT": str(port)}
            command = [*_TOOLGATE, "serve", "--root", str(own)]
            pids.append(open_.enter_context(_process(command, port, "/readyz", environment)))
        yield pids


_TOOLGATE = (sys.executable, "-m", "toolgate")


def _deployment(folder: Path, port: int, url: str = "") -> Path:
    """Write a deployment with the tool in it; its ledger is in a file, or at `url`."""
    root = folder / ("postgresql" if url else "root")
    _install_adapter(folder / "adapter")
    subprocess.run([*_TOOLGATE, "init", str(root)], capture_output=True, check=True)
    _configure(root, port, url)
    _run(root, "secrets", "set", "bench", given="secret")
    return root


def _environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(root.parent / "adapter")}


def _run(root: Path, *words: str, given: str = "") -> str:
    command = [*_TOOLGATE, *words, "--root", str(root)]
    done = subprocess.run(
        command, env=_environment(root), input=given, text=True, capture_output=True, check=True
    )
    return done.stdout.strip()


@contextmanager
def fastmcp(folder: Path, port: int) -> Generator[tuple[Target, int]]:
    """Start the tool on FastMCP with its auth, rate limits and logging; as `bare`."""
    here = Path(__file__).parent / "rival"
    python = environment("bench", here / "requirements.lock")
    key, public = Ed25519PrivateKey.generate(), folder / "rival.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    said = {"iss": "bench", "aud": "bench", "sub": "bench", "client_id": "bench", "exp": time.time() + 3600}
    url, token = f"http://127.0.0.1:{port}/mcp", jwt.encode(said, key, algorithm="EdDSA")
    with _process([str(python), str(here / "server.py"), str(port), str(public)], port, "/mcp") as pid:
        yield Target(url=url, tool="echo", token=token), pid


def _install_adapter(path: Path) -> None:
    """Make a distribution of the adapter as a stranger would bring it, found by its entry point."""
    info = path / "toolgate_bench-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (path / "toolgate_bench.py").write_text(ADAPTER, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toolgate-bench\nVersion: 1.0\n", "utf-8")
    points = "[toolgate.adapters]\nbench = toolgate_bench:bench\n"
    (info / "entry_points.txt").write_text(points, "utf-8")


def _configure(root: Path, port: int, url: str) -> None:
    database = f'database_url = "{url}"' if url else ""
    (root / "toolgate.toml").write_text(SETTINGS.format(port=port, database=database), "utf-8")
    for starter in ("notes.toml", "lock.toml"):
        (root / "registry" / starter).unlink()
    tools = TERMS.format(name="echo", effect="read") + TERMS.format(name="note", effect="write")
    (root / "registry" / "bench.toml").write_text(MANIFEST + tools, "utf-8")
    (root / "policies" / "rules.csv").write_text(RULES, "utf-8")


@contextmanager
def _process(
    command: list[str], port: int, path: str, environment: dict[str, str] | None = None
) -> Generator[int]:
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            if not answers(process, f"http://127.0.0.1:{port}{path}"):
                raise RuntimeError(f"{command} did not come up")
            yield process.pid
        finally:
            process.terminate()
