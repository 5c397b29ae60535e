"""The gate of the example: its deployment written anew, and served by a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.demo.deployment import CannotStartError
from examples.demo.waiting import answers
from examples.vault.database import Database
from examples.vault.server import Vault
from examples.vault.setup import wrapped_secret_id

CALLERS = ("ann", "gus")
_WRITTEN = Path(__file__).parent / "gate"
_PORT, _ADDRESS, _DATABASE = (
    "port = 8080",
    "https://127.0.0.1:8200",
    "postgresql://127.0.0.1:5432/crm",
)
_FOR_A_PAGE = {"COLUMNS": "160", "NO_COLOR": "1"}
_STOP_SECONDS = 30


@dataclass(frozen=True)
class Gate:
    """The running gate."""

    root: Path
    endpoint: str

    def command(self, *words: str) -> str:
        """Run `toolgate` on the gate's deployment, and give what it printed.

        Raises:
            CannotStartError: it did not do it.
        """
        command = [sys.executable, "-m", "toolgate", *words, "--root", str(self.root)]
        done = subprocess.run(
            command, env=os.environ | _FOR_A_PAGE, text=True, capture_output=True, check=False
        )
        if done.returncode != 0:
            raise CannotStartError(f"toolgate {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def token(self, caller: str) -> str:
        """Give an access token of a caller."""
        return self.command("token", "--as", caller).strip()

    def configuration(self, caller: str) -> str:
        """Give what an MCP client needs to connect as `caller`."""
        headers = {"Authorization": f"Bearer {self.token(caller)}"}
        server = {"type": "http", "url": self.endpoint, "headers": headers}
        return json.dumps({"mcpServers": {f"toolgate-{caller}": server}}, indent=2)


@contextmanager
def running(root: Path, port: int, vault: Vault, database: Database) -> Generator[Gate]:
    """Write the deployment into `root` and serve it; at its end the gate ends what is still out."""
    gate = Gate(root, f"http://127.0.0.1:{port}/mcp")
    gate.command("init")
    _write(root, port, vault, database)
    log = root.with_name("gate.log")
    command = [sys.executable, "-m", "toolgate", "serve", "--root", str(root)]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stderr=output, start_new_session=True) as process,
    ):
        try:
            if not answers(process, f"http://127.0.0.1:{port}/readyz"):
                raise CannotStartError(log.read_text("utf-8", "replace"))
            yield gate
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


def _write(root: Path, port: int, vault: Vault, database: Database) -> None:
    for shipped in ("notes.toml", "audit.toml"):
        (root / "registry" / shipped).unlink()
    (root / "policies" / "cases" / "notes.toml").unlink()
    shutil.copytree(_WRITTEN, root, dirs_exist_ok=True)
    _replace(root / "toolgate.toml", _PORT, f"port = {port}")
    _replace(root / "toolgate.toml", _ADDRESS, vault.address)
    _replace(root / "registry" / "crm.toml", _DATABASE, database.address)
    shutil.copy(vault.ca, root / "keys" / "vault-ca.pem")
    secret_id = root / "keys" / "secret-id"
    secret_id.touch(0o600)
    secret_id.write_text(wrapped_secret_id(vault.root), "utf-8")


def _replace(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
