"""Several gates on one PostgreSQL ledger, each a process with a folder of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.postgresql import OWNER, WRITER, Cluster
from tests.running_gate import wait_until
from tests.serving import Served, call_body, serving
from tests.shell import document
from toolgate.backends.dev_issuer import ISSUER, PUBLIC_KEYS

PASSPHRASE = "correct horse battery staple"
READER = "toolgate_reader"
_ISSUERS = f"""
[[issuers]]
issuer = "{ISSUER}"
jwks_file = "{PUBLIC_KEYS}"
algorithms = ["EdDSA"]
tenant_claim = "tenant"
tenants = ["home"]
roles_claim = "roles"
"""


@dataclass(frozen=True)
class Fleet:
    """The folders of gates on one database."""

    starter: Path
    folder: Path
    url: str

    def deploy(self, name: str, *, production: bool = False, settings: str = "") -> Path:
        """Set a gate up as its machine would have it: nothing of the ledger is there yet."""
        root = Path(shutil.copytree(self.starter, self.folder / name))
        file = root / "toolgate.toml"
        text = file.read_text("utf-8")
        if production:
            text = text.replace(
                'mode = "dev"', 'mode = "production"\npublic_url = "http://127.0.0.1:8080/mcp"'
            )
            text += _ISSUERS
        said = f'database_url = "{self.url.replace(f":{_password(self.url)}@", "@")}"\n{settings}\n'
        file.write_text(said + text, "utf-8")
        return root

    @property
    def environment(self) -> dict[str, str]:
        """What an operator sets for a gate."""
        return {"TOOLGATE_DATABASE_PASSWORD": _password(self.url), "TOOLGATE_PASSPHRASE": PASSPHRASE}


def _password(url: str) -> str:
    return unquote(url.partition("://")[2].partition("@")[0].partition(":")[2])


def set_up(cluster: Cluster) -> str:
    """Make a database, let the owner set it up with `toolgate ledger setup`, and give its name."""
    database = cluster.create()
    words = ["--owner-url", cluster.url(OWNER, database), "--writer", WRITER]
    assert document("ledger", "setup", *words)["ok"]
    return database


@contextmanager
def serving_all(*roots: Path) -> Generator[list[Served]]:
    """Serve all of them."""
    with ExitStack() as gates:
        yield [gates.enter_context(serving(root)) for root in roots]


@contextmanager
def serving_again(gate: Served) -> Generator[Served]:
    """Serve a deployment that has been served before."""
    file = gate.root / "toolgate.toml"
    file.write_text(file.read_text("utf-8").replace(str(gate.port), "8080"), "utf-8")
    with serving(gate.root) as again:
        yield again


def note(gate: Served, text: str, **meta: object) -> dict[str, Any]:
    """Add a note, and give the result."""
    answer = gate.post(call_body("notes_add", {"text": text}, **meta), Mcp_Name="notes_add")
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


def wait_for_log(root: Path, words: str) -> None:
    """Wait until a gate has said so."""
    log = root / "serve.log"
    wait_until(lambda: words in " ".join(log.read_text("utf-8", "replace").split()), words)


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a deployment."""
    return subprocess.run(
        [sys.executable, "-m", "toolgate", *words, "--root", str(root)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
        timeout=120,
    )
