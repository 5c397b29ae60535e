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

from pydantic import SecretStr

from toolgate.backends.adapters_installed import installed_versions
from toolgate.backends.audit_reading import LedgerReader
from toolgate.backends.audit_tools import AuditAdapter, audit_adapter
from toolgate.backends.dev_issuer import ISSUER, PUBLIC_KEYS
from toolgate.backends.keystore import Keystore
from toolgate.backends.ledger_database import PostgresDatabase, SqliteFile, TreeDatabase
from toolgate.backends.ledger_parts import LedgerFiles, LedgerParts, open_ledger_parts
from toolgate.backends.log_key import LogKey
from toolgate.backends.manifest_catalog import LOCK
from toolgate.backends.postgres_connection import fault_in, has_password, with_password
from toolgate.backends.random_pool import RandomPool
from toolgate.backends.shared_keys import SharedKeys, key_on
from toolgate.backends.sqlite_files import fault_in_database
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
async def open_ledger(root: Path, settings: Settings) -> AsyncGenerator[LedgerParts]:
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


def ledger_of(root: Path, settings: Settings) -> tuple[LedgerParts | None, list[Fault]]:
    """Open the ledger, or say why it cannot be; a new one, with a key of its own, where there is none."""
    if faults := _url_faults(settings):
        return None, faults
    database, key = root / settings.database, root / settings.ledger_key
    files = ledger_files(root, settings)
    try:
        files.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        database.parent.mkdir(parents=True, exist_ok=True)
        keys = shared_keys(root, settings)
        if keys is not None and files.url is not None:
            url = files.url.get_secret_value()
            key_on(url, keys, strict=files.strict, patience=files.patience)
        elif not key.exists() and not database.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                LogKey.new(f"toolgate/{secrets.token_hex(8)}").write(key)
        return open_ledger_parts(files, LogKey.read(key), keys=keys, now=now, random=RANDOM.take), []
    except LedgerUnavailable as error:
        where = database.name if files.url is None else "database_url"
        return None, [Fault(where, "ledger", str(error), "see docs/how-to/deploy.md, the ledger's files")]
    except OSError as error:
        return None, [_database_fault(database, str(error))]


def shared_keys(root: Path, settings: Settings) -> SharedKeys | None:
    """Give the keys that all gates on one PostgreSQL database share; None where the ledger is a file."""
    if settings.database_url is None:
        return None
    return SharedKeys(root / settings.ledger_key, settings.passphrase)


def ledger_url(settings: Settings) -> SecretStr | None:
    """Give the address of the ledger's database, with its password; None where it is a file."""
    url, password = settings.database_url, settings.database_password
    if url is not None and (problem := fault_in(url.get_secret_value())):
        raise Misconfigured([Fault(FILE, "database_url", problem, "write postgresql://role@host/name")])
    if url is None or password is None:
        return url
    return SecretStr(with_password(url.get_secret_value(), password.get_secret_value()))


def ledger_database(root: Path, settings: Settings) -> TreeDatabase:
    """Give the database of the deployment's ledger, to be read."""
    url = ledger_url(settings)
    return SqliteFile(root / settings.database) if url is None else PostgresDatabase(url)


def ledger_files(root: Path, settings: Settings) -> LedgerFiles:
    """Say where the deployment's ledger lies, and how it is kept."""
    return LedgerFiles(
        database=root / settings.database,
        url=ledger_url(settings),
        strict=settings.mode == "production",
        lapse=settings.gate_lapse_seconds,
        checkpoint=root / settings.checkpoint,
        spill=root / settings.spill,
        every=settings.checkpoint_seconds,
        wait=settings.wait_seconds,
        kept=timedelta(days=settings.answers_days),
        floor=settings.disk_floor_mb * 2**20,
        retention=settings.retention,
    )


def audit_of(root: Path, settings: Settings, ledger: LedgerParts) -> AuditAdapter:
    """Give the adapter of the audit tools, which reads the deployment's own ledger."""
    reader = LedgerReader(
        database=ledger_database(root, settings),
        vkey=(root / settings.ledger_key).with_suffix(".vkey"),
        ledger=ledger,
        every=settings.checkpoint_seconds,
        now=now,
    )
    return audit_adapter(reader)


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
    witnesses = settings.witnesses
    named = {} if witnesses is None else {"witnesses": _file_digest(root / witnesses)}
    return named | {
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


def ledger_faults(root: Path, settings: Settings) -> list[Fault]:
    """Say what would keep the ledger's database from being opened, without opening it for writing."""
    if settings.database_url is None:
        return database_faults(root / settings.database)
    if faults := _url_faults(settings):
        return faults
    if problem := ledger_database(root, settings).fault():
        return [Fault(FILE, "database_url", problem, "see docs/how-to/postgresql.md")]
    return []


def _url_faults(settings: Settings) -> list[Fault]:
    """Say what is wrong with the address of the ledger's database itself."""
    url = "" if settings.database_url is None else settings.database_url.get_secret_value()
    if problem := fault_in(url):
        return [Fault(FILE, "database_url", problem, "write postgresql://role@host/name")]
    if settings.mode == "production" and "TOOLGATE_DATABASE_URL" not in os.environ and has_password(url):
        problem, remedy = "a password stands in it", "set TOOLGATE_DATABASE_PASSWORD, or use a PGPASSFILE"
        return [Fault(FILE, "database_url", problem, remedy)]
    return []


def database_faults(database: Path) -> list[Fault]:
    """Say what would keep an SQLite file from being opened, without opening it for writing."""
    if database.exists():
        if problem := fault_in_database(database):
            return [Fault(database.name, "file", problem, "see docs/how-to/deploy.md, the ledger's files")]
        return [] if os.access(database, os.W_OK) else [_database_fault(database, "it is not writable")]
    folder = next(folder for folder in database.absolute().parents if folder.exists())
    if os.access(folder, os.W_OK | os.X_OK):
        return []
    return [_database_fault(database, f"{folder} is not writable")]


def _database_fault(database: Path, problem: str) -> Fault:
    return Fault(database.name, "file", problem, "make its folder writable, or set database to another file")
