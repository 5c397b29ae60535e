"""Opens what tells whose a token is: keys of issuers, and the secrets with which issuers are asked."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from toolgate.backends.asking import faults_in_endpoint
from toolgate.backends.env_secrets import EnvSource
from toolgate.backends.keystore import Keystore, KeystoreSource
from toolgate.backends.token_callers import TokenCallers
from toolgate.core.credential_roles import EnvRole, FileRole
from toolgate.core.errors import CredentialUnavailable, Fault
from toolgate.core.identity import Introspection, TrustedIssuer
from toolgate.parts import open_keystore, trusted_issuers
from toolgate.settings import FILE, Settings

__all__ = ["TokenCallers", "issuer_faults", "open_callers", "told_of"]

_GUIDE: Final = "see docs/how-to/authorization.md"


def open_callers(root: Path, settings: Settings) -> TokenCallers:
    """Give what knows the callers of all trusted issuers."""
    issuers = trusted_issuers(settings)
    keystore = _keystore(root, settings, issuers)
    secret_of = partial(_secret, keystore, EnvSource())
    return TokenCallers(issuers, audience=settings.resource, root=root, secret_of=secret_of)


def issuer_faults(root: Path, settings: Settings) -> list[Fault]:
    """Say what would keep tokens of an issuer from being verified; no issuer is asked."""
    issuers = trusted_issuers(settings)
    faults = [
        Fault(FILE, f"issuers {issuer.issuer}", "its jwks_file is not there", "add it")
        for issuer in issuers
        if issuer.jwks_file is not None and not (root / issuer.jwks_file).is_file()
    ]
    keystore = _keystore(root, settings, issuers)
    asked = [(issuer.issuer, issuer.introspection) for issuer in issuers if issuer.introspection is not None]
    faults += [
        Fault(FILE, f"issuers {name}, introspection", problem, remedy)
        for name, where in asked
        for problem, remedy in (*_endpoint_faults(where), *_secret_faults(where, keystore))
    ]
    prefixes = sorted(where.prefix for _, where in asked)
    if any(longer.startswith(shorter) for shorter, longer in pairwise(prefixes)):
        problem = "an opaque token of one issuer would be shown to another"
        remedy = f"say in prefix how the tokens of each begin; {_GUIDE}"
        faults.append(Fault(FILE, "issuers", problem, remedy))
    return faults


def told_of(issuer: TrustedIssuer) -> str:
    """Say how an issuer's tokens are verified."""
    said: list[str] = []
    if issuer.has_keys:
        said.append(f"keys of {issuer.jwks_uri or issuer.jwks_file}, {issuer.jwks_seconds:g} s old at most")
    if (where := issuer.introspection) is not None:
        tokens = "opaque tokens" if issuer.has_keys else "all tokens"
        told = f"{tokens} asked about at {where.endpoint} as {where.client_id}"
        said.append(f"{told}, believed for {where.cache_seconds:g} s")
    return f"{issuer.issuer}: {'; '.join(said)}"


def _keystore(root: Path, settings: Settings, issuers: Sequence[TrustedIssuer]) -> Keystore | None:
    """Open the keystore where a secret of it is needed. One that does not open is a fault told elsewhere."""
    sources = {issuer.introspection.source for issuer in issuers if issuer.introspection is not None}
    return open_keystore(root, settings)[0] if "file" in sources else None


async def _secret(keystore: Keystore | None, env: EnvSource, where: Introspection) -> SecretStr:
    """Give the secret of the gate's client at an issuer, as it is now.

    Raises:
        CredentialUnavailable: there is none.
    """
    if where.source == "env":
        return env.get(where.secret)
    if keystore is None:
        raise CredentialUnavailable("keystore_locked", "the keystore does not open", retryable=False)
    if keystore.changed():
        await asyncio.to_thread(keystore.follow)
    return keystore.get(where.secret)


def _endpoint_faults(where: Introspection) -> Iterator[tuple[str, str]]:
    sign_in = "say client_id, and name the client's secret in secret"
    return faults_in_endpoint(where.endpoint, setting="endpoint", sent="tokens", sign_in=sign_in)


def _secret_faults(where: Introspection, keystore: Keystore | None) -> Iterator[tuple[str, str]]:
    if where.source == "env":
        yield from EnvSource().faults(_env_role(where.secret))
    elif keystore is None:
        yield "its secret is in the keystore, which does not open", "see docs/how-to/secrets.md"
    else:
        yield from KeystoreSource(keystore).faults(FileRole(secret=where.secret, sign_in="none"))


def _env_role(variable: str) -> EnvRole:
    return EnvRole.model_validate({"from": "env", "secret": variable, "sign_in": "none"})
