"""Whose token it is: its issuer's keys tell, or its issuer is asked."""

import base64
import binascii
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

from pydantic import SecretStr

from toolgate.backends.introspection import Introspecting
from toolgate.backends.jwt_callers import LONGEST_TOKEN, JwtCallers
from toolgate.core.call import Caller
from toolgate.core.identity import BadToken, Introspection, TrustedIssuer

SecretOf: TypeAlias = Callable[[Introspection], Awaitable[SecretStr]]
"""Gives the secret of the gate's client at an issuer, as it is now."""
_SIGNED, _SEALED = 3, 5
"""Parts of a JSON Web Token in compact form: signed (RFC 7515) or encrypted (RFC 7516)."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""


@dataclass(frozen=True)
class _Asked:
    """An issuer that is asked about its tokens."""

    issuer: TrustedIssuer
    about: Introspecting
    prefix: str


@dataclass(frozen=True)
class _Named:
    """What a JSON Web Token says of its issuer; the name is empty where a signed one says none."""

    issuer: str
    signed: bool


class TokenCallers:
    """Knows the callers of all trusted issuers.

    A token that says whose it is goes to that issuer alone. One that does not, an opaque one, is shown to the
    one issuer whose opaque tokens begin like it.

    Args:
        issuers: those that are trusted.
        audience: the canonical URI of this server (RFC 8707); a token for anything else is refused.
        root: where files of keys lie.
        secret_of: gives the secrets with which issuers are asked.
        clock: says when keys and answers are old.
    """

    def __init__(
        self,
        issuers: Sequence[TrustedIssuer],
        *,
        audience: str,
        root: Path,
        secret_of: SecretOf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        signing = [issuer for issuer in issuers if issuer.has_keys]
        self._signed = JwtCallers(signing, audience=audience, root=root, clock=clock)
        self._asked = [
            _Asked(issuer, _introspecting(issuer, issuer.introspection, audience, secret_of, clock), prefix)
            for issuer in issuers
            if issuer.introspection is not None
            for prefix in [issuer.introspection.prefix]
        ]

    async def caller_of(self, token: str) -> Caller:
        """Give the caller that `token` names.

        Raises:
            BadToken: it is not good here.
            IssuerUnavailable: nobody can tell, since its issuer cannot be asked.
        """
        about = self._who_is_asked(token) if self._asked else None
        return await (self._signed if about is None else about).caller_of(token)

    async def aclose(self) -> None:
        """Close the connections to issuers."""
        await self._signed.aclose()
        for asked in self._asked:
            await asked.about.aclose()

    def _who_is_asked(self, token: str) -> Introspecting | None:
        """Find the issuer to ask about `token`; None where keys tell, or nobody can be asked."""
        if len(token) > LONGEST_TOKEN:
            raise BadToken("it is too long")
        if (named := _issuer_in(token)) is not None:
            asked = next((a for a in self._asked if a.issuer.issuer == named.issuer), None)
            return asked.about if asked is not None and not (named.signed and asked.issuer.has_keys) else None
        if not _TOKEN.fullmatch(token):
            return None
        return next((asked.about for asked in self._asked if token.startswith(asked.prefix)), None)


def _introspecting(
    issuer: TrustedIssuer,
    where: Introspection,
    audience: str,
    secret_of: SecretOf,
    clock: Callable[[], float],
) -> Introspecting:
    return Introspecting(issuer, audience=audience, secret=lambda: secret_of(where), clock=clock)


def _issuer_in(token: str) -> _Named | None:
    """Read which issuer a JSON Web Token names, unverified; None for a token that is none, or names none.

    An encrypted one may name it in its header (RFC 7519, section 5.3); a signed one has to.
    """
    parts = token.split(".")
    header = _object(parts[0]) if len(parts) in {_SIGNED, _SEALED} else None
    said = _object(parts[1]) if header is not None and len(parts) == _SIGNED else header
    if said is None:
        return None
    issuer, signed = said.get("iss"), len(parts) == _SIGNED
    if isinstance(issuer, str):
        return _Named(issuer, signed)
    return _Named("", signed) if signed else None


def _object(part: str) -> dict[str, object] | None:
    try:
        said: object = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return cast("dict[str, object]", said) if isinstance(said, dict) else None
