"""The gate that the clients talk to: the starter's notebook, with a caller for each client."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.demo.deployment import CannotStartError
from examples.demo.waiting import answers, free_port
from toolgate.backends.dev_issuer import ISSUER, mint
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.sql_records import RecordedCall, SqlRecords
from toolgate.cli.local import named_caller
from toolgate.core.record import JsonObject
from toolgate.settings import read_settings

_STOP_SECONDS = 30
_TOKEN_SECONDS = 3600
_CALLER = """
    [callers.{name}]
    subject = "{name}"
    tenant = "home"
    roles = ["member"]
    scopes = ["notes:read", "notes:write"]
    """


@dataclass(frozen=True)
class Gate:
    """The running gate."""

    root: Path
    url: str

    def token(self, caller: str) -> str:
        """Give an access token of a caller."""
        settings = read_settings(self.root)
        who = named_caller(settings, caller, ISSUER)
        return mint(self.root, who, audience=settings.resource, seconds=_TOKEN_SECONDS)

    def calls(self, caller: str) -> list[RecordedCall]:
        """Give what the ledger holds of a caller, newest first."""
        return self._records().calls(most=1000, subject=caller, tool=None)

    def entries(self, call_id: str) -> list[JsonObject]:
        """Give what the ledger holds of a call, oldest first."""
        return self._records().entries(call_id)

    def _records(self) -> SqlRecords:
        return SqlRecords(SqliteFile(self.root / read_settings(self.root).database))


@contextmanager
def serving(root: Path, callers: Iterable[str]) -> Generator[Gate]:
    """Write a deployment into `root`, and serve it from a process of its own on a free port.

    Raises:
        CannotStartError: it could not be written, or does not serve.
    """
    _init(root)
    port = free_port()
    settings = root / "toolgate.toml"
    text = settings.read_text("utf-8").replace("port = 8080", f"port = {port}")
    text += "".join(textwrap.dedent(_CALLER.format(name=name)) for name in callers)
    settings.write_text(text, "utf-8")
    log = root / "serve.log"
    command = [sys.executable, "-m", "toolgate", "serve", "--root", str(root)]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            if not answers(process, f"http://127.0.0.1:{port}/readyz"):
                raise CannotStartError(log.read_text("utf-8", "replace"))
            yield Gate(root, f"http://127.0.0.1:{port}/mcp")
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


def _init(root: Path) -> None:
    command = [sys.executable, "-m", "toolgate", "init", str(root)]
    environment = os.environ | {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise CannotStartError(f"toolgate init: {done.stdout}{done.stderr}")
