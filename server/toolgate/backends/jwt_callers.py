"""Bearer tokens become callers: access tokens (RFC 9068) of the issuers that `toolgate.toml` trusts."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import jwt

from toolgate.backends.jwks import Jwks
from toolgate.core.call import Caller
from toolgate.core.identity import BadToken, TrustedIssuer

LONGEST_TOKEN: Final = 16_384
_MOST_REMEMBERED: Final = 10_000
_LONGEST_CHAIN: Final = 8


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
        """
        if len(token) > LONGEST_TOKEN:
            raise BadToken("it is too long")
        name = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        known = self._known.get(name)
        if known is not None:
            caller, expires, keys, version = known
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
            caller = _caller(claims, issuer)
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


def _caller(claims: Mapping[str, Any], issuer: TrustedIssuer) -> Caller:
    tenant = issuer.tenant
    if tenant is None:
        tenant = _claim(claims, issuer.tenant_claim or "")
        if tenant not in issuer.tenants:
            raise BadToken("its issuer may not speak for that tenant")
    if not claims["sub"]:
        raise BadToken("it names no subject")
    caller = Caller(
        subject=claims["sub"],
        issuer=issuer.issuer,
        tenant=tenant,
        client=str(claims.get("client_id") or claims.get("azp") or ""),
        roles=_words(_claim(claims, issuer.roles_claim)) if issuer.roles_claim else frozenset(),
        scopes=_words(_claim(claims, issuer.scopes_claim)),
        act=tuple(_chain(claims.get("act"))),
    )
    caller.model_dump_json()  # raises ValueError for what is not Unicode, which nothing after this could keep
    return caller


def _claim(claims: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - whatever a token holds
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        value = _object(value).get(step)
    return value


def _object(value: object) -> Mapping[str, Any]:
    """A claim that is a JSON object, or an empty one in place of anything else."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _words(value: object) -> frozenset[str]:
    """A list of texts, or one text of words (RFC 6749, section 3.3)."""
    if value is None:
        return frozenset()
    if isinstance(value, str):
        return frozenset(value.split())
    words = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(word, str) for word in words):
        raise TypeError("neither a text nor a list of texts")
    return frozenset(str(word) for word in words)


def _chain(act: object) -> list[str]:
    """The actors, nearest first (RFC 8693, section 4.1)."""
    chain: list[str] = []
    while (actor := _object(act)) and len(chain) < _LONGEST_CHAIN:
        chain.append(str(actor.get("sub", "")))
        act = actor.get("act")
    return chain


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
