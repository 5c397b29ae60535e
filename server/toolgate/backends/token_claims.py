"""The caller that verified claims name, whoever verified them (RFC 9068, section 2.2; RFC 7662, 2.2)."""

from collections.abc import Mapping
from typing import Any, Final, cast

from toolgate.core.call import Caller
from toolgate.core.identity import BadToken, TrustedIssuer

_LONGEST_CHAIN: Final = 8


def caller_named(claims: Mapping[str, Any], issuer: TrustedIssuer) -> Caller:
    """Give the caller that verified claims name.

    Raises:
        BadToken: they name nobody who may come in.
        TypeError, ValueError: they are not of the expected form.
    """
    if claims.get("cnf") is not None:
        raise BadToken("it is bound to a key, which this server does not check (DPoP, mutual TLS)")
    tenant = issuer.tenant
    if tenant is None:
        tenant = _claim(claims, issuer.tenant_claim or "")
        if tenant not in issuer.tenants:
            raise BadToken("its issuer may not speak for that tenant")
    if not claims.get("sub"):
        raise BadToken("it names no subject")
    caller = Caller(
        subject=claims["sub"],
        issuer=issuer.issuer,
        tenant=tenant,
        client=str(claims.get("client_id") or claims.get("azp") or ""),
        roles=_words(_claim(claims, issuer.roles_claim)) if issuer.roles_claim else frozenset(),
        scopes=issuer.worth(_words(_claim(claims, issuer.scopes_claim))),
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
