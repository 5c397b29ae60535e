"""A gate with one tool behind each kind of credential, before a real OpenBao and PostgreSQL; what
`bench.credentials` measures.

The tool is the same each time and does nothing with what it is lent, so that what a call costs more than one
that needs no credential is the credential.
"""

import os
import sys
import time
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from bench.servers import TERMS
from tests.databases import postgres
from tests.shell import done
from tests.vault_server import Storage, vault_server
from tests.vault_setup import Governed, govern
from toolgate.adapter import Adapter, Context, Credential, Sending, System
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Opened
from toolgate.core.outcome import Done
from toolgate.core.record import JsonObject
from toolgate.main import House, new_call_id, now, open_house

NONE: Final = "none"
ENV: Final = "BENCH_SECRET"
KINDS: Final = {
    "none": "",
    "file": 'secret = "bench"\nsign_in = "bearer"',
    "env": f'from = "env"\nsecret = "{ENV}"\nsign_in = "bearer"',
    "vault-per-run": """
from = "vault"
kind = "dynamic"
path = "database/creds/{tenant}-crm-read"
role = "{tenant}-crm-read"
ttl = 300
lease = "per_run"
sign_in = "basic"
""",
    "vault-user": """
from = "vault"
kind = "dynamic"
path = "database/creds/{tenant}-crm-read"
role = "{tenant}-crm-read"
ttl = 60
sign_in = "basic"
""",
    "vault-kv": """
from = "vault"
kind = "kv"
path = "secret/data/{tenant}/api"
role = "{tenant}-kv"
secret = "{key}"
ttl = 60
sign_in = "bearer"
""",
    "vault-token": """
from = "vault"
kind = "token"
path = "identity/oidc/token/{tenant}-api"
role = "{tenant}-oidc"
ttl = 60
sign_in = "bearer"
""",
}
"""The systems of the registry, each with one tool `echo`, and the credential that it needs."""

MANIFEST = """
adapter = "idle"
owner = "bench@example.com"
"""

SETTINGS = """
mode = "dev"
credentials = ["file", "env", "vault"]

[vault]
address = "{address}"
ca = "{ca}"
sign_in = "approle"
role = "{role_id}"
secret_id_file = "keys/secret-id"
wrapped = false
entity_alias = "{{tenant}}:{{subject}}"
give_back_seconds = 1

[callers.ann]
subject = "ann"
tenant = "acme"
"""

ANN: Final = Caller(subject="ann", issuer="https://issuer.example", tenant="acme")
TOKEN: Final = SecretStr("eyJ" + "x" * 900)
"""As long as an access token is; a call that names no run belongs to the run of its token."""
SAID: Final[JsonObject] = {"text": "x"}


class Said(BaseModel):
    text: str


class Idle:
    """A system that takes a credential and does nothing."""

    marks_sending = True

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Idle"]:
        yield self

    async def aclose(self) -> None:
        """Nothing is open."""


def connect(_system: System) -> Idle:
    return Idle()


idle = Adapter("idle", connect=connect)


@idle.operation
async def echo(said: Said, context: Context[Idle]) -> Said:
    """Echo the text."""
    return said


@dataclass(frozen=True)
class Gate:
    """The gate, open, and what stands behind it."""

    house: House
    governed: Governed

    def asked(self, kind: str, *, run: str | None = None) -> Call:
        """Make a call of the tool that needs this kind of credential."""
        return Call(
            id=new_call_id(),
            caller=ANN,
            tool=f"{kind}.echo",
            arguments=SAID,
            received_at=now(),
            run=run,
            token=TOKEN,
        )

    async def call(self, kind: str, *, run: str | None = None) -> str:
        """Carry a call out; give the code of its failure, or nothing."""
        outcome = (await self.house.gateway.carry_out(self.asked(kind, run=run))).outcome
        return "" if isinstance(outcome, Done) else str(getattr(outcome, "code", outcome.kind))

    async def borrow(self, call: Call) -> None:
        """Lend what a call needs and take it back, without the call."""
        tool = self.house.in_force.rulebook.catalog.find(call.tool)
        assert tool is not None
        opened = Opened(call_id=call.id, intent=1, claimed=False, remembered={})
        lease = await self.house.lending.lend(tool, call, opened)
        if lease is not None:
            await self.house.lending.take_back(lease)

    def to_end(self) -> int:
        """How many leases wait to be ended."""
        said = self.house.lending.readiness()["vault"]
        assert isinstance(said, dict)
        assert isinstance(said["to_end"], int)
        return said["to_end"]


@contextmanager
def standing(folder: Path, storage: Storage) -> Generator[Governed]:
    """Run an OpenBao with TLS and an audit log, and a PostgreSQL in which it makes users."""
    with (
        postgres(folder) as address,
        vault_server(folder / "server", storage=storage) as server,
        govern(server, address) as governed,
    ):
        yield governed


@asynccontextmanager
async def gate(root: Path, governed: Governed) -> AsyncGenerator[Gate]:
    """Open the gate of the deployment in `root`."""
    async with open_house(root) as house:
        yield Gate(house, governed)


def bare_users(governed: Governed, at_once: int, seconds: float) -> float:
    """Make and end users with hvac alone, by the same requests: no gate, no ledger. Gives users a second."""
    own = governed.gate()
    options = {"no_default_policy": True, "ttl": "900s"}
    run = own.auth.token.create(role_name="toolgate-acme", **options)["auth"]["client_token"]
    end = time.perf_counter() + seconds

    def worker(_number: int) -> int:
        ours, opener = governed.server.client(own.token), governed.server.client(run)
        made = 0
        while time.perf_counter() < end:
            _bare_user(ours, opener, governed)
            made += 1
        return made

    begin = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        made = sum(threads.map(worker, range(at_once)))
    return made / (time.perf_counter() - begin)


def _bare_user(ours: Any, opener: Any, governed: Governed) -> None:  # noqa: ANN401 - hvac has no types
    options = {"type": "batch", "no_default_policy": True, "ttl": "60s"}
    token = opener.auth.token.create(policies=["acme-crm-read"], **options)["auth"]["client_token"]
    lease = governed.server.client(token).read("database/creds/acme-crm-read")["lease_id"]
    ours.write_data("sys/leases/revoke", data={"lease_id": lease, "sync": True})


def deploy(folder: Path, governed: Governed) -> Path:
    """Write a deployment with a tool for each kind of credential; give its folder."""
    os.environ[ENV] = "secret"
    _install_adapter(folder / "adapter")
    root = folder / "gate"
    done("init", str(root))
    done("secrets", "set", "bench", "--root", str(root), given="secret")
    for file in (*(root / "registry").iterdir(), *(root / "policies" / "cases").iterdir()):
        file.unlink()
    (root / "policies" / "rules.csv").write_text("p, open, allow, *, *, *, *, -, -, -\n", "utf-8")
    (root / "policies" / "roles.csv").write_text("", "utf-8")
    server = governed.server
    settings = SETTINGS.format(address=server.address, ca=server.ca, role_id=governed.role_id)
    (root / "toolgate.toml").write_text(settings, "utf-8")
    (root / "keys" / "secret-id").write_text(governed.secret_id(), "utf-8")
    for kind, role in KINDS.items():
        terms = TERMS.format(name="echo", effect="read")
        if role:
            written = f"{MANIFEST}\n[credentials.agent]\n{role}\n{terms}"
        else:
            written = MANIFEST + terms.replace('"agent"', f'"{NONE}"')
        (root / "registry" / f"{kind}.toml").write_text(written, "utf-8")
    return root


def _install_adapter(path: Path) -> None:
    """Let the adapter be found by its entry point, as a stranger's is."""
    info = path / "toolgate_idle-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toolgate-idle\nVersion: 1.0\n", "utf-8")
    points = "[toolgate.adapters]\nidle = bench.credentials_built:idle\n"
    (info / "entry_points.txt").write_text(points, "utf-8")
    sys.path.insert(0, str(path))
