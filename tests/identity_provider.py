"""A real authorization server that tests start: `oidc-provider` on Node, told by `tests/idp/provider.mjs`."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from examples.demo.waiting import answers, free_port
from examples.node import find_node, install

FOLDER: Final = Path(__file__).parent / "idp"
DESK: Final = "https://desk.example.com/"
OPAQUE: Final = "https://opaque.example.com/"
ASTRAY: Final = "https://astray.example.com/"
"""Its tokens come for somebody else."""
BRIEF: Final = "https://brief.example.com/"
"""Its tokens live for seconds."""
GATE: Final = "http://127.0.0.1:8080/mcp"


@dataclass(frozen=True)
class IdentityProvider:
    """One that runs. Clients of its: `mia` and `rob`, who call, `ide`, with which people call, and `gate`."""

    issuer: str
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/token"

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/jwks"

    @property
    def introspection(self) -> str:
        return f"{self.issuer}/token/introspection"

    def be(self, **otherwise: Any) -> None:  # noqa: ANN401 - any of what provider.mjs has in `now`
        """Make it behave otherwise from now on."""
        httpx.post(f"{self.issuer}/be", json=otherwise, trust_env=False).raise_for_status()

    def times(self, path: str) -> int:
        """Tell how often an address of its was asked."""
        return int(httpx.get(f"{self.issuer}/asked", trust_env=False).json().get(path, 0))

    def revoke(self, token: str, client: str = "mia") -> None:
        """Let a client withdraw its token (RFC 7009)."""
        where, form = f"{self.issuer}/token/revocation", {"token": token}
        httpx.post(where, data=form, auth=(client, f"{client}-secret"), trust_env=False).raise_for_status()

    def token(self, client: str = "mia", resource: str = GATE, scope: str = "gate:use") -> str:
        """Give an access token for the gate, as a caller gets one."""
        form = {"grant_type": "client_credentials", "scope": scope, "resource": resource}
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
    install(FOLDER)
    port = free_port()
    told = folder / "identity-provider.log"
    environment = {"PATH": os.environ["PATH"], "PORT": str(port), "NODE_ENV": "production"}
    with (
        told.open("wb") as log,
        subprocess.Popen(
            [*find_node().node, "provider.mjs"],
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        provider = IdentityProvider(f"http://127.0.0.1:{port}", told, process)
        try:
            assert answers(process, f"{provider.issuer}/token-requests"), provider.log.read_text("utf-8")
            yield provider
        finally:
            process.kill()
