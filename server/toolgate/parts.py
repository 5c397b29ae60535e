"""Opens the parts of a deployment, each with everything that is wrong with it."""

import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from toolgate.backends.adapters_installed import installed_versions
from toolgate.backends.dev_issuer import ISSUER, PUBLIC_KEYS
from toolgate.backends.keystore import Keystore
from toolgate.backends.log_key import LogKey
from toolgate.backends.manifest_catalog import LOCK
from toolgate.backends.random_pool import RandomPool
from toolgate.backends.sqlite_files import fault_in_database
from toolgate.backends.sqlite_ledger import LedgerFiles, SqliteLedger, open_sqlite_ledger
from toolgate.backends.tls_files import TlsFiles, TlsFindings, examine_tls
from toolgate.core.canonical import digest
from toolgate.core.errors import CredentialUnavailable, Fault, LedgerUnavailable, Misconfigured
from toolgate.core.identity import TrustedIssuer
from toolgate.core.record import Json
from toolgate.settings import FILE, Settings, settings_digest

RANDOM: Final = RandomPool()


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


def open_keystore(root: Path, settings: Settings) -> tuple[Keystore | None, list[Fault]]:
    """Open the keystore, or say why it cannot be."""
    try:
        return Keystore(
            root / settings.keystore, passphrase=settings.passphrase, dev=settings.mode == "dev"
        ), []
    except CredentialUnavailable as error:
        remedy = "see docs/how-to/secrets.md"
        return None, [Fault(settings.keystore, "file", str(error), remedy)]


@asynccontextmanager
async def open_ledger(root: Path, settings: Settings) -> AsyncGenerator[SqliteLedger]:
    """Open the ledger of the deployment under `root` and nothing else; close it in the end.

    Raises:
        Misconfigured: it cannot be opened.
    """
    ledger, faults = ledger_of(root, settings)
    if ledger is None:
        raise Misconfigured(faults)
    try:
        yield ledger
    finally:
        await ledger.aclose()


def ledger_of(root: Path, settings: Settings) -> tuple[SqliteLedger | None, list[Fault]]:
    """Open the ledger, or say why it cannot be; a new one, with a key of its own, where there is none."""
    database, key = root / settings.database, root / settings.ledger_key
    files = LedgerFiles(
        database=database,
        checkpoint=root / settings.checkpoint,
        spill=root / settings.spill,
        every=settings.checkpoint_seconds,
        wait=settings.wait_seconds,
        kept=timedelta(days=settings.answers_days),
        floor=settings.disk_floor_mb * 2**20,
    )
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists() and not key.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                LogKey.new(f"toolgate/{secrets.token_hex(8)}").write(key)
        return open_sqlite_ledger(files, LogKey.read(key), now=now, random=RANDOM.take), []
    except LedgerUnavailable as error:
        return None, [
            Fault(database.name, "ledger", str(error), "see docs/how-to/deploy.md, the ledger's files")
        ]
    except OSError as error:
        return None, [_database_fault(database, str(error))]


def round_secret(root: Path, settings: Settings) -> bytes:
    """Give the secret that seals what clients carry between rounds; every process of this root has the same.

    Raises:
        LedgerUnavailable: the ledger's key, from which it comes, cannot be read.
    """
    return LogKey.read(root / settings.ledger_key).derived("toolgate request state")


def governed_by(root: Path, settings: Settings) -> dict[str, str]:
    """Give digests of what governs beside policy and registry."""
    jwks = [issuer.jwks_file for issuer in trusted_issuers(settings) if issuer.jwks_file is not None]
    public = str(Path(settings.ledger_key).with_suffix(".vkey"))
    keys: list[Json] = [_file_digest(root / name) for name in (settings.keystore, public, *jwks)]
    adapters: dict[str, Json] = dict(installed_versions())
    return {
        "settings": settings_digest(root),
        "adapters": digest(adapters),
        "keys": digest(keys),
        "lock": _file_digest(root / settings.registry / LOCK),
    }


def _file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes; an empty text where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def host_faults(settings: Settings) -> list[Fault]:
    """Say why the address cannot be listened on."""
    try:
        socket.getaddrinfo(settings.host, settings.port)
    except OSError as error:
        problem = f"{settings.host!r} is not an address of this machine ({error.strerror})"
        return [Fault(FILE, "host", problem, "say 127.0.0.1, or an address to listen on")]
    return []


def tls_files_of(root: Path, settings: Settings) -> TlsFiles | None:
    """Give where certificate and key are; None where the gate speaks plain HTTP."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    host = urlsplit(settings.resource).hostname or ""
    return TlsFiles(certificate=root / settings.tls_certificate, key=root / settings.tls_key, host=host)


def tls_found(root: Path, settings: Settings) -> TlsFindings:
    """Look at certificate and key, where there are any."""
    files = tls_files_of(root, settings)
    return TlsFindings() if files is None else examine_tls(files, now())


def database_faults(database: Path) -> list[Fault]:
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
