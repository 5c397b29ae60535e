"""Opens the sources of credentials that the settings name, and no others."""

from collections.abc import Callable, Iterator
from pathlib import Path

from toolgate.backends.env_secrets import EnvSource
from toolgate.backends.keystore import KeystoreSource
from toolgate.backends.lease_book import LeaseBook
from toolgate.backends.lending import Lending, Source, Wanted
from toolgate.backends.oauth_request import oauth_faults
from toolgate.backends.oauth_tokens import OAuthSource
from toolgate.backends.vault.source import VaultSource, vault_faults
from toolgate.core.credential_roles import CredentialRole
from toolgate.core.errors import Fault
from toolgate.core.lease import Lease, LeaseSource, Lent
from toolgate.core.record import JsonObject
from toolgate.core.vault_settings import VaultSettings
from toolgate.parts import now, open_keystore
from toolgate.settings import FILE, Settings


class Unopened:
    """A source that is not asked for credentials: a deployment is only being checked."""

    def __init__(self, faults: Callable[[CredentialRole], Iterator[tuple[str, str]]]) -> None:
        self.faults = faults

    async def lend(self, wanted: Wanted) -> Lease:
        """Nothing is lent where nothing is recorded."""
        raise TypeError(f"{wanted.name} was asked of a source that is not open")

    async def take_back(self, lease: Lease, *, refused: bool = False) -> Lent:
        """What was not lent does not come back."""
        raise TypeError(f"{lease.lent.role} was not lent from here (refused: {refused})")

    async def keep(self) -> None:
        """Nothing is open."""

    def readiness(self) -> JsonObject:
        """Nothing is open."""
        return {}

    async def aclose(self) -> None:
        """Nothing is open."""


def lending_of(root: Path, settings: Settings, book: LeaseBook | None) -> tuple[Lending, list[Fault]]:
    """Open the sources; without a `book` those that make credentials can only be asked for faults."""
    faults: list[Fault] = []
    sources: dict[LeaseSource, Source] = {}
    for name in settings.credentials:
        match name:
            case "file":
                keystore, locked = open_keystore(root, settings)
                faults += locked
                if keystore is not None:
                    sources[name] = KeystoreSource(keystore)
            case "env":
                sources[name] = EnvSource()
            case "vault":
                if settings.vault is not None:  # else that is a fault of the settings
                    faults += _missing_files(root, settings.vault)
                    sources[name] = _vault(settings.vault, root, book)
            case "oauth":
                sources[name] = Unopened(oauth_faults) if book is None else OAuthSource(book, now=now)
    return Lending(sources), faults


def _missing_files(root: Path, settings: VaultSettings) -> list[Fault]:
    """Say which of the files that the vault's settings name are not there."""
    files = {"ca": settings.ca, "secret_id_file": settings.secret_id_file, "jwt_file": settings.jwt_file}
    return [
        Fault(FILE, f"vault.{name}", f"{file} is not there", "see docs/how-to/vault.md")
        for name, file in files.items()
        if file and not (root / file).is_file()
    ]


def _vault(settings: VaultSettings, root: Path, book: LeaseBook | None) -> Source:
    if book is None:
        return Unopened(lambda role: vault_faults(settings, role))
    return VaultSource(settings, root, book, now=now)
