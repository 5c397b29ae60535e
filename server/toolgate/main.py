"""Builds all parts of a gate and hands them to each other. Nothing else reaches for a part."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from toolgate.backends.adapter_tools import AdapterTools
from toolgate.backends.casbin_policy import CasbinPolicy, model_faults
from toolgate.backends.dev_issuer import ISSUER, PUBLIC_KEYS
from toolgate.backends.keystore import Keystore, KeystoreVault
from toolgate.backends.manifest_catalog import Registry
from toolgate.backends.policy_files import read_policy, unknown_tools
from toolgate.backends.random_pool import RandomPool
from toolgate.backends.sql_ledger import SqlLedger
from toolgate.backends.sqlite_writer import SqliteWriter, fault_in_database
from toolgate.core.errors import CredentialUnavailable, Fault, LedgerUnavailable, Misconfigured
from toolgate.core.gateway import Gateway
from toolgate.core.identity import TrustedIssuer
from toolgate.core.ports import Catalog, Rulebook
from toolgate.core.shield import Shield
from toolgate.settings import FILE, Settings, read_settings


@dataclass
class InForce:
    """Holds the rulebook in force: one reference, swapped as a whole."""

    rulebook: Rulebook

    def __call__(self) -> Rulebook:
        return self.rulebook


@dataclass(frozen=True, kw_only=True)
class House:
    """A gate with all its parts, open."""

    root: Path
    settings: Settings
    gateway: Gateway
    registry: Registry
    in_force: InForce
    new_id: Callable[[], str]
    alive: Callable[[], bool]
    """Whether calls can be recorded."""
    keystore: Keystore

    def reload(self) -> list[Fault]:
        """Read policy and registry again. With any fault that `serve` would refuse, nothing changes."""
        found, faults = read_rulebook(self.registry, self.root / self.settings.policies, self.keystore)
        if found is not None and found.version != self.in_force.rulebook.version:
            self.in_force.rulebook = found
        return faults


@dataclass(kw_only=True)
class Examined:
    """The parts of a deployment as far as they could be opened, and what is wrong with the others."""

    faults: list[Fault]
    settings: Settings | None = None
    registry: Registry | None = None
    rulebook: Rulebook | None = None
    keystore: Keystore | None = None
    writer: SqliteWriter | None = None

    async def aclose(self) -> None:
        """Close what was opened."""
        if self.writer is not None:
            await asyncio.to_thread(self.writer.close)
        if self.registry is not None:
            await self.registry.aclose()


def examine(root: Path, *, to_serve: bool) -> Examined:
    """Open the parts of the deployment under `root`, and find everything that is wrong with them.

    Without `to_serve` nothing is written: the ledger's database is looked at and not opened.
    """
    try:
        settings = read_settings(root)
    except Misconfigured as error:
        return _examined_without_settings(root, error.faults)
    found = Examined(faults=[], settings=settings)
    found.registry = Registry(root / settings.registry, root)
    found.keystore, locked = _open_keystore(root, settings)
    found.rulebook, faults = read_rulebook(found.registry, root / settings.policies, found.keystore)
    database = root / settings.database
    found.writer, closed = _open_writer(database) if to_serve else (None, _database_faults(database))
    found.faults = [*faults, *locked, *closed, *_issuer_faults(root, settings), *_host_faults(settings)]
    return found


def _examined_without_settings(root: Path, faults: list[Fault]) -> Examined:
    """Look at policies and registry all the same, where they usually are."""
    found = Examined(faults=faults)
    if (root / "policies").is_dir() and (root / "registry").is_dir():
        found.registry = Registry(root / "registry", root)
        _, more = read_rulebook(found.registry, root / "policies", None)
        found.faults = [*faults, *more]
    return found


@asynccontextmanager
async def open_house(root: Path) -> AsyncGenerator[House]:
    """Build the gate of the deployment under `root`; close it when all begun calls have ended.

    Raises:
        Misconfigured: with every fault that was found.
    """
    found = examine(root, to_serve=True)
    shield = Shield()
    try:
        if (
            found.faults
            or found.settings is None
            or found.registry is None
            or found.rulebook is None
            or found.keystore is None
            or found.writer is None
        ):
            raise Misconfigured(found.faults)
        in_force, random = InForce(found.rulebook), RandomPool()
        gateway = Gateway(
            rulebook=in_force,
            ledger=SqlLedger(found.writer, now=now, random=random.take),
            vault=KeystoreVault(found.keystore),
            tools=AdapterTools(now=now),
            shield=shield,
        )
        yield House(
            root=root,
            settings=found.settings,
            gateway=gateway,
            registry=found.registry,
            in_force=in_force,
            new_id=partial(new_call_id, random.take),
            alive=found.writer.is_alive,
            keystore=found.keystore,
        )
    finally:
        await shield.drain()
        await found.aclose()


def read_rulebook(
    registry: Registry, policies: Path, keystore: Keystore | None
) -> tuple[Rulebook | None, list[Fault]]:
    """Read registry and policy together; with any fault there is no rulebook."""
    catalog, faults = registry.read()
    policy, more = read_policy(policies)
    faults += more
    if policy is not None:
        faults += model_faults(policy)
    if policy is not None and catalog is not None:
        faults += unknown_tools(policy, {tool.name for tool in catalog.tools})
    if catalog is not None and keystore is not None:
        faults += _missing_secrets(catalog, keystore)
    if catalog is None or policy is None or faults:
        return None, faults
    return Rulebook(catalog=catalog, policy=CasbinPolicy(policy)), []


def trusted_issuers(settings: Settings) -> list[TrustedIssuer]:
    """Give the issuers of the settings and, in dev mode, our own."""
    issuers = list(settings.issuers)
    if settings.mode == "dev":
        tenants = frozenset(caller.tenant for caller in settings.callers.values())
        if tenants:
            issuers.append(
                TrustedIssuer(
                    issuer=ISSUER,
                    jwks_file=PUBLIC_KEYS,
                    algorithms=("EdDSA",),
                    tenant_claim="tenant",
                    tenants=tenants,
                    roles_claim="roles",
                )
            )
    return issuers


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def new_call_id(random: Callable[[int], bytes] = os.urandom) -> str:
    """Make an id that nobody can guess and that sorts by time: 48 bits of milliseconds, 80 bits of chance."""
    return f"c{time.time_ns() // 1_000_000:012x}{random(10).hex()}"


def _open_keystore(root: Path, settings: Settings) -> tuple[Keystore | None, list[Fault]]:
    try:
        return Keystore(
            root / settings.keystore, passphrase=settings.passphrase, dev=settings.mode == "dev"
        ), []
    except CredentialUnavailable as error:
        remedy = "see docs/how-to/secrets.md"
        return None, [Fault(settings.keystore, "file", str(error), remedy)]


def _open_writer(database: Path) -> tuple[SqliteWriter | None, list[Fault]]:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        return SqliteWriter(database), []
    except (LedgerUnavailable, OSError) as error:
        return None, [_database_fault(database, str(error))]


def _host_faults(settings: Settings) -> list[Fault]:
    try:
        socket.getaddrinfo(settings.host, settings.port)
    except OSError as error:
        problem = f"{settings.host!r} is not an address of this machine ({error.strerror})"
        return [Fault(FILE, "host", problem, "say 127.0.0.1, or an address to listen on")]
    return []


def _database_faults(database: Path) -> list[Fault]:
    """Say what would keep the ledger's database from being opened, without opening it for writing."""
    if database.exists():
        problem = fault_in_database(database)
        if problem is None and not os.access(database, os.W_OK):
            problem = "it is not writable"
        return [_database_fault(database, problem)] if problem else []
    folder = next(folder for folder in database.absolute().parents if folder.exists())
    if os.access(folder, os.W_OK | os.X_OK):
        return []
    return [_database_fault(database, f"{folder} is not writable")]


def _database_fault(database: Path, problem: str) -> Fault:
    return Fault(database.name, "file", problem, "make its folder writable, or set database to another file")


def _missing_secrets(catalog: Catalog, keystore: Keystore) -> list[Fault]:
    names = set(keystore.names())
    wanted = {(tool.credential.secret, tool.system) for tool in catalog.tools if tool.credential is not None}
    return [
        Fault(
            f"registry/{system}.toml",
            "credentials",
            f"the keystore has no entry {secret!r}",
            f"add it: toolgate secrets set {secret}",
        )
        for secret, system in sorted(wanted)
        if secret not in names
    ]


def _issuer_faults(root: Path, settings: Settings) -> list[Fault]:
    return [
        Fault(FILE, f"issuers {issuer.issuer}", "its jwks_file is not there", "add it")
        for issuer in trusted_issuers(settings)
        if issuer.jwks_file is not None and not (root / issuer.jwks_file).is_file()
    ]
