"""The sides of the comparison: the same tool on a bare SDK server, behind the gate, and on FastMCP."""

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.load import Target
from examples.clients.environments import environment
from examples.demo.waiting import answers

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
def governed(folder: Path, port: int) -> Generator[tuple[Target, Target, int]]:
    """Start the tool behind the gate: as a read, and as a write with a key for each call."""
    path, root = folder / "adapter", folder / "root"
    _install_adapter(path)
    environment = os.environ | {"PYTHONPATH": str(path)}
    toolgate = [sys.executable, "-m", "toolgate"]

    def run(*words: str, given: str = "") -> str:
        command = [*toolgate, *words, "--root", str(root)]
        done = subprocess.run(
            command, env=environment, input=given, text=True, capture_output=True, check=True
        )
        return done.stdout.strip()

    subprocess.run([*toolgate, "init", str(root)], env=environment, capture_output=True, check=True)
    _configure(root, port)
    run("secrets", "set", "bench", given="secret")
    token = run("token")
    url = f"http://127.0.0.1:{port}/mcp"
    with _process([*toolgate, "serve", "--root", str(root)], port, "/readyz", environment) as pid:
        read = Target(url=url, tool="bench_echo", token=token)
        yield read, Target(url=url, tool="bench_note", token=token, keyed=True), pid


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
    info.mkdir(parents=True)
    (path / "toolgate_bench.py").write_text(ADAPTER, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toolgate-bench\nVersion: 1.0\n", "utf-8")
    points = "[toolgate.adapters]\nbench = toolgate_bench:bench\n"
    (info / "entry_points.txt").write_text(points, "utf-8")


def _configure(root: Path, port: int) -> None:
    (root / "toolgate.toml").write_text(SETTINGS.format(port=port), "utf-8")
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
