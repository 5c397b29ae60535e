"""Bearer tokens become callers: access tokens (RFC 9068) of the issuers that `toolgate.toml` trusts."""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import jwt

from toolgate.backends.jwks import Jwks
from toolgate.backends.token_claims import caller_named
from toolgate.core.call import Caller
from toolgate.core.identity import BadToken, TrustedIssuer

LONGEST_TOKEN: Final = 16_384
_MOST_REMEMBERED: Final = 10_000


class JwtCallers:
    """Verifies tokens for one resource, and remembers each until it expires or its issuer's keys change.

    Args:
        audience: the canonical URI of this server (RFC 8707); a token for anything else is refused.
        clock: says when keys are old.
    """

    def __init__(
        self,
        issuers: Sequence[TrustedIssuer],
        *,
        audience: str,
        root: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._audience = audience
        self._issuers = {issuer.issuer: (issuer, Jwks(issuer, root, clock)) for issuer in issuers}
        self._known: dict[bytes, tuple[Caller, float, Jwks, bytes]] = {}

    async def caller_of(self, token: str) -> Caller:
        """Give the caller that `token` names.

        Raises:
            BadToken: it is malformed, expired, for another resource, of a stranger, or wrongly signed.
            IssuerUnavailable: the keys of its issuer cannot be read.
        """
        if len(token) > LONGEST_TOKEN:
            raise BadToken("it is too long")
        name = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        known = self._known.get(name)
        if known is not None:
            caller, expires, keys, version = known
            if keys.are_old():
                await keys.refresh()
            if time.time() < expires and version == keys.version:
                return caller
            self._known.pop(name, None)  # another call with it may have been faster
        return await self._verified(token, name)

    async def aclose(self) -> None:
        """Close the connections to issuers."""
        for _, keys in self._issuers.values():
            await keys.aclose()

    async def _verified(self, token: str, name: bytes) -> Caller:
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
            issuer, keys = self._trusted(unverified["payload"].get("iss"))
            key = await keys.key(unverified["header"].get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=[a for a in issuer.algorithms if a == key.algorithm_name],
                audience=self._audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            caller = caller_named(claims, issuer)
            expires = claims["exp"] + issuer.leeway
        except jwt.PyJWTError as error:
            raise BadToken(_reason(error)) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise BadToken("its claims are not of the expected form") from error
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[name] = (caller, expires, keys, keys.version)
        return caller

    def _trusted(self, issuer: object) -> tuple[TrustedIssuer, Jwks]:
        trusted = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if trusted is None:
            raise BadToken("its issuer is not trusted here")
        return trusted


def _reason(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.ImmatureSignatureError():
            return "it is not valid yet"
        case jwt.InvalidAudienceError():
            return "it was not issued for this server"
        case jwt.MissingRequiredClaimError():
            return "it lacks a claim that it must have (exp, iss, aud, sub)"
        case jwt.InvalidSignatureError() | jwt.InvalidAlgorithmError():
            return "its signature is not good"
        case _:
            return "it is not a signed JSON Web Token"
