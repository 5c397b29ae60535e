"""Where a vault is, how the gate signs in to it, and what it asks of it: the `[vault]` table."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from toolgate.core.credential_roles import fault_in_places
from toolgate.core.loopback import is_loopback
from toolgate.core.record import Record

SignInMethod = Literal["approle", "jwt", "kubernetes"]


class VaultSettings(Record):
    """A HashiCorp Vault or an OpenBao. Nothing in here is secret; files begin at the deployment's folder."""

    address: str = Field(pattern=r"^https?://([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?$")
    """`https://vault.example.com:8200`; the active node or a load balancer: redirects are not followed."""
    ca: str = ""
    """A file with the certificates to trust; the system's where it is empty."""
    namespace: str = Field(default="", pattern=r"^[A-Za-z0-9_/.-]*$")
    sign_in: SignInMethod
    mount: str = Field(default="", pattern=r"^[A-Za-z0-9_/-]*$")
    """Where the auth method is mounted, when that is not its own name."""
    role: str = Field(min_length=1)
    """The auth method's role; for `approle` its `role_id`."""
    secret_id_file: str = ""
    """For `approle`: a file with the secret id."""
    wrapped: bool = True
    """For `approle`: the file has a wrapping token, which opens once."""
    jwt_file: str = ""
    """For `jwt` and `kubernetes`: a file with the token; it is read at every sign-in."""
    token_role: str = Field(default="toolgate-{tenant}", pattern=r"^[A-Za-z0-9_{}.-]+$")
    """The token role under which a run's token is made: the ceiling of a tenant, which the vault holds."""
    entity_alias: str = Field(default="", pattern=r"^[A-Za-z0-9_{}.:@-]*$")
    """The alias of the entity that a run's token has, such as `{tenant}:{subject}`; for signed tokens."""
    run_seconds: int = Field(default=900, ge=30, le=86_400)
    """How long a run's token lives at most, and everything that was made under it."""
    idle_seconds: int = Field(default=60, ge=1, le=86_400)
    """After how long without a call a run's token is ended."""
    connect_seconds: float = Field(default=1.0, gt=0, le=60)
    read_seconds: float = Field(default=3.0, gt=0, le=60)
    give_back_seconds: float = Field(default=1.0, ge=0, le=60)
    """How long an answer waits for its credential to be ended; then that is queued."""
    max_connections: int = Field(default=16, ge=1, le=256)
    """Connections, and threads that wait for them."""

    @property
    def path(self) -> str:
        """Where the auth method is mounted."""
        return self.mount or self.sign_in

    @property
    def is_open(self) -> bool:
        """Whether secrets would travel unprotected over a network."""
        parts = urlsplit(self.address)
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")

    @model_validator(mode="after")
    def _signs_in(self) -> "VaultSettings":
        if self.sign_in == "approle" and not self.secret_id_file:
            raise ValueError("approle needs secret_id_file")
        if self.sign_in == "jwt" and not self.jwt_file:
            raise ValueError("jwt needs jwt_file")
        for template in (self.token_role, self.entity_alias):
            if fault := fault_in_places(template):
                raise ValueError(f"{template}: {fault}")
        if "{tenant}" not in self.token_role or "{subject}" in self.token_role:
            raise ValueError("token_role needs {tenant} in it, and nothing else: a tenant has one ceiling")
        if self.entity_alias not in {"", "{tenant}:{subject}"}:
            raise ValueError(
                "entity_alias is {tenant}:{subject}, or nothing: any other could name two callers"
            )
        return self
