"""`toolgate.toml` and the environment, read once into one frozen `Settings`."""

import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.identity import Scope, TrustedIssuer
from toolgate.core.lease import LeaseSource
from toolgate.core.limits import Limits
from toolgate.core.loopback import is_loopback
from toolgate.core.peers import trusted_peer
from toolgate.core.retention import RetentionRule
from toolgate.core.vault_settings import VaultSettings

FILE: Final = "toolgate.toml"
_PREFIX: Final = "TOOLGATE_"
_SECRET: Final = frozenset({"passphrase", "new_passphrase", "database_password"})
"""What comes from the environment only."""
_REFERENCE: Final = "see docs/reference/settings.md"
NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
"""What the command line gives where it gives nothing."""
_URI: Final = re.compile(
    r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?(/[\w.~!$&'()*+,;=:@%/-]*)?", re.ASCII
)


def _canonical_uri(url: str) -> str:
    """A resource's canonical URI (RFC 8707, section 2): absolute; no query, fragment or slash at its end."""
    if not _URI.fullmatch(url):
        raise ValueError("an address like https://gate.example.com/mcp is expected")
    if url.endswith("/"):
        raise ValueError("without a slash at its end: clients name it as the audience of tokens")
    return url


class NamedCaller(BaseModel):
    """A `[callers.NAME]` table: who a local caller is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str = Field(min_length=1)
    tenant: str = Field(min_length=1)
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()


class Settings(BaseSettings):
    """All that can be set. The environment (`TOOLGATE_` and the name in capitals) wins over the file."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    mode: Literal["dev", "production"]
    """`dev` adds an issuer of tokens whose key lies in a file, and follows changes on the disk."""
    public_url: Annotated[str, AfterValidator(_canonical_uri)] | None = None
    """Where clients find this server, when that is not `http://host:port/mcp`: behind a proxy, say."""
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    allowed_hosts: tuple[str, ...] = ()
    """`Host` values beside that of `public_url` and, on a loopback address, its own."""
    allowed_origins: tuple[str, ...] = ()
    """`Origin` values of web pages that may call; none by default."""
    tls_certificate: str | None = None
    """A PEM file: the server's certificate, then those that sign it. With it HTTPS is spoken, else HTTP."""
    tls_key: str | None = None
    """The PEM file of its private key."""
    forwarded_allow_ips: tuple[Annotated[str, AfterValidator(trusted_peer)], ...] = ()
    """Proxies whose `X-Forwarded-For` is believed: addresses, networks, `unix`."""
    reuse_port: bool = False
    """Several gates of this deployment share the port. None of them keeps a session then."""
    shutdown_seconds: float = Field(default=30, ge=0, le=3600)
    """How long begun calls may go on after the gate was told to end; then what remains is cut."""
    max_body: int = Field(default=1_048_576, ge=1024, le=67_108_864)
    """Bytes of a request's body, or of a line over stdio."""
    limits: Limits = Limits()
    page_size: int = Field(default=100, ge=1, le=1000)
    """Tools, resources or prompts on one page of a list."""
    policies: str = "policies"
    registry: str = "registry"
    database: str = "data/toolgate.db"
    """The ledger's SQLite file, where `database_url` names no other place."""
    database_url: SecretStr | None = Field(default=None, exclude=True)
    """A PostgreSQL database for the ledger, which several gates share: `postgresql://role@host/name`."""
    database_password: SecretStr | None = Field(default=None, exclude=True)
    """Of the role in `database_url`. From the environment only: it does not belong in the file."""
    gate_lapse_seconds: float = Field(default=10, ge=2, le=300)
    """On PostgreSQL: how long a gate may say nothing until the others take it for gone."""
    ledger_key: str = "keys/ledger.key"
    """Signs the ledger's checkpoints. Its public half lies beside it, as `.vkey`, for auditors."""
    checkpoint: str = "data/checkpoint"
    """The last published checkpoint, outside the database: one that holds less is refused at the start."""
    witnesses: str | None = None
    """A file that names witnesses and the quorum (c2sp.org/tlog-policy): they are asked to cosign."""
    spill: str = "data/spill"
    """A folder for ends of calls that the database would not take. Best on another disk."""
    checkpoint_seconds: float = Field(default=1.0, ge=0.05, le=3600)
    """How long an entry waits at most until a checkpoint covers it."""
    wait_seconds: float = Field(default=2.0, ge=0, le=60)
    """How long a call waits for the answer of the first one under its key."""
    answers_days: float = Field(default=30, gt=0, le=3650)
    """How long answers are kept for replays. Keys are kept for good."""
    retention: tuple[RetentionRule, ...] = ()
    """For how long what lies beside entries is kept. The first rule that fits decides; else for good."""
    disk_floor_mb: int = Field(default=64, ge=1, le=1_048_576)
    """Megabytes that must be free before a new call is begun: ends of calls still need room."""
    second_judge_every: int = Field(default=1000, ge=0)
    """In production one of so many decisions is judged again, by plain Casbin in another process; 0: none."""
    credentials: tuple[LeaseSource, ...] = ("file",)
    """Where credentials may come from: `file`, `env`, `vault`, `oauth`. What is not named lends nothing."""
    keystore: str = "keys/keystore.json"
    vault: VaultSettings | None = None
    issuers: tuple[TrustedIssuer, ...] = ()
    first_scopes: tuple[Scope, ...] | None = None
    """What a client without a token is told to ask for; unsaid, the scopes of every tool. A call that needs
    more is answered with what it needs."""
    callers: dict[str, NamedCaller] = Field(default_factory=dict)
    """Local callers, for `--stdio`, `toolgate call` and, in dev mode, `toolgate token`."""
    local_caller: str | None = None
    """Which of them calls over `--stdio`, and where `--as` is not given."""
    passphrase: SecretStr | None = Field(default=None, exclude=True)
    """Opens the keystore. From the environment only: it does not belong in the file."""
    new_passphrase: SecretStr | None = Field(default=None, exclude=True)
    """Is to open the keystore once `toolgate secrets rotate --key` has run. From the environment only."""

    @property
    def resource(self) -> str:
        """This server's canonical URI, and the audience that tokens must have (RFC 8707)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "http" if self.tls_certificate is None else "https"
        return self.public_url or f"{scheme}://{host}:{self.port}/mcp"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then the file, which comes as keyword arguments; nothing else."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


def settings_digest(root: Path) -> str:
    """Tell one state of the settings from any other: SHA-256 over the file and what the environment sets."""
    secret = {_variable(name) for name in _SECRET | {"database_url"}}
    said = sorted((k, v) for k, v in os.environ.items() if k.startswith(_PREFIX) and k not in secret)
    return hashlib.sha256((root / FILE).read_bytes() + repr(said).encode()).hexdigest()


def read_settings(root: Path, said: Mapping[str, object] = NOTHING) -> Settings:
    """Read the settings of the deployment under `root`.

    Args:
        root: the deployment's folder.
        said: checked values that the command line gives; they win over the environment and the file.

    Raises:
        Misconfigured: with every fault in the file and the environment.
    """
    file = root / FILE
    try:
        written = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        problem = "there is no such file" if not file.exists() else str(error)
        raise Misconfigured(
            [Fault(FILE, str(root), problem, "run: toolgate init DIR, or say --root DIR")]
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured([Fault(FILE, "syntax", str(error), "correct the TOML")]) from error
    faults = _strangers(written)
    for name in sorted(_SECRET & written.keys()):
        remedy = f"remove it here, and set {_variable(name)}"
        faults.append(Fault(FILE, name, "a secret does not belong in this file", remedy))
    try:
        settings = Settings(
            **{name: value for name, value in written.items() if name in Settings.model_fields}
        )
    except ValidationError as error:
        raise Misconfigured(faults + _faults(error)) from error
    except SettingsError as error:
        faults.append(Fault("environment", _PREFIX + "*", str(error), "write it as JSON"))
        raise Misconfigured(faults) from error
    settings = settings.model_copy(update=said)
    faults += _inconsistencies(settings)
    if faults:
        raise Misconfigured(faults)
    return settings


def _strangers(written: Iterable[str]) -> list[Fault]:
    """Names in the file, and environment variables that look like ours, that are no settings."""
    problem = "there is no such setting"
    known = {_variable(name) for name in Settings.model_fields}
    return [
        *(
            Fault(FILE, name, problem, "correct its spelling or remove it")
            for name in written
            if name not in Settings.model_fields
        ),
        *(
            Fault("environment", name, problem, "correct its spelling or unset it")
            for name in sorted(os.environ)
            if name.startswith(_PREFIX) and name not in known and not name.startswith(_NESTED)
        ),
    ]


def _variable(setting: str) -> str:
    return _PREFIX + setting.upper()


_NESTED: Final = (_variable("callers__"), _variable("limits__"), _variable("vault__"))
"""What variables of tables inside the settings begin with."""


def _inconsistencies(settings: Settings) -> list[Fault]:
    faults: list[Fault] = []
    if settings.local_caller is not None and settings.local_caller not in settings.callers:
        problem = f"there is no [callers.{settings.local_caller}]"
        faults.append(Fault(FILE, "local_caller", problem, "add it, or name one that is there"))
    if settings.mode == "production" and not settings.issuers:
        problem = "in production mode somebody must issue tokens, and no issuer is trusted"
        faults.append(Fault(FILE, "issuers", problem, "add an [[issuers]] table"))
    if settings.public_url is None and (settings.mode == "production" or not settings.port):
        problem = "nobody can tell from host and port what clients and tokens call this server"
        faults.append(Fault(FILE, "public_url", problem, "say it: https://gate.example.com/mcp"))
    faults += [
        Fault(
            FILE, f"issuers {issuer.issuer}", "its keys come over http, which anybody can change", "use https"
        )
        for issuer in settings.issuers
        if settings.mode == "production" and _is_open_to_change(issuer.jwks_uri)
    ]
    if ("vault" in settings.credentials) != (settings.vault is not None):
        problem = (
            'credentials and [vault] do not agree: "vault" is named there where the table is, and only then'
        )
        faults.append(
            Fault(FILE, "vault", problem, 'add the [vault] table, or take "vault" out of credentials')
        )
    if settings.vault is not None and settings.vault.is_open and settings.mode == "production":
        problem = "secrets would come over http, which anybody can read"
        faults.append(Fault(FILE, "vault.address", problem, "use https"))
    faults += _faults_of_listening(settings)
    names = [issuer.issuer for issuer in settings.issuers]
    faults += [
        Fault(FILE, "issuers", f"{name!r} is there twice", "remove one")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    return faults


def _faults_of_listening(settings: Settings) -> list[Fault]:
    faults: list[Fault] = []
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        problem = "one is there without the other"
        faults.append(Fault(FILE, "tls_certificate, tls_key", problem, "name both files, or none"))
    if settings.tls_certificate is not None and settings.resource.startswith("http:"):
        problem = "it begins with http, and with tls_certificate nobody is answered there"
        faults.append(Fault(FILE, "public_url", problem, "write https"))
    if settings.reuse_port and not settings.port:
        problem = "every gate would pick a port of its own"
        faults.append(Fault(FILE, "reuse_port", problem, "say which port they share"))
    return faults


def _is_open_to_change(address: str | None) -> bool:
    """Whether keys would travel unprotected over a network."""
    if address is None or not address.startswith("http:"):
        return False
    return not is_loopback(urlsplit(address).hostname or "")


def _faults(error: ValidationError) -> list[Fault]:
    return [
        Fault(*_place(fault["loc"]), fault["msg"], _REFERENCE)
        for fault in error.errors(include_input=False, include_url=False)
    ]


def _place(location: tuple[str | int, ...]) -> tuple[str, str]:
    variable = _variable(str(location[0]))
    if variable in os.environ:
        return "environment", variable
    return FILE, ".".join(str(part) for part in location)
