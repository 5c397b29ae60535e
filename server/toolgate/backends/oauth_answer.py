"""Judges what a token endpoint gave: whether it was asked for, for whom it is, and how long it is good."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import jwt
from pydantic import SecretStr

from toolgate.backends.oauth_endpoint import OAuthFault, TokenReply
from toolgate.backends.oauth_request import ACCESS_TOKEN
from toolgate.core.credential_roles import OAuthRole

UNSAID_SECONDS: Final = 60
"""How long a token is taken to live where its server does not say."""
_LONGEST_SECONDS: Final = 86_400
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, kw_only=True)
class Token:
    """An access token that may be used."""

    secret: SecretStr
    until: datetime
    scope: str
    """As much of what was asked as was granted."""


def token_of(role: OAuthRole, reply: TokenReply, *, caller: SecretStr | None, at: datetime) -> Token:
    """Give the token, if it is one for the role's system and no more than was asked for.

    Its signature is the system's to check: it would say here what TLS has said, that its server gave it.

    Args:
        role: what was asked for.
        reply: the server's answer.
        caller: the token that was exchanged.
        at: when it came.

    Raises:
        OAuthFault: it is not.
    """
    token = reply.access_token
    if reply.token_type.lower() != "bearer" or not _PRINTABLE.fullmatch(token.get_secret_value()):
        raise OAuthFault("oauth_token_type", "the token endpoint gave something else than a bearer token")
    if caller is not None and reply.issued_token_type != ACCESS_TOKEN:
        raise OAuthFault("oauth_token_type", "the token endpoint gave something else than an access token")
    claims = _claims(token)
    _require_bound(role, token, claims, caller)
    return Token(secret=token, until=_until(reply, claims, at), scope=_granted(role, reply, claims))


def _require_bound(
    role: OAuthRole, token: SecretStr, claims: Mapping[str, Any] | None, caller: SecretStr | None
) -> None:
    """Refuse a token for somebody else. Of an opaque one only its server knows whom it is for."""
    if token == caller:
        raise OAuthFault("oauth_token_not_bound", "the token endpoint gave the caller's own token back")
    wanted = {role.audience, role.resource} - {""}
    if claims is None or not wanted:
        return
    audience = _texts(claims.get("aud"))
    if wanted.isdisjoint(audience):
        raise OAuthFault("oauth_token_not_bound", "the token endpoint gave a token for another audience")
    if caller is not None and audience == _texts((_claims(caller) or {}).get("aud")):
        raise OAuthFault("oauth_token_not_bound", "the token endpoint gave a token for the gate itself")


def _granted(role: OAuthRole, reply: TokenReply, claims: Mapping[str, Any] | None) -> str:
    """Give what was granted of what was asked: all of it where nothing is said (RFC 6749, section 5.1)."""
    asked, said = set(role.scope.split()), set((reply.scope or "").split())
    claimed = {word for text in _texts((claims or {}).get("scope")) for word in text.split()}
    if asked and not said | claimed <= asked:
        problem = "the token endpoint gave a token that may do more than was asked for"
        raise OAuthFault("oauth_scope_too_wide", problem)
    return " ".join(sorted((said & asked) or asked))


def _until(reply: TokenReply, claims: Mapping[str, Any] | None, at: datetime) -> datetime:
    seconds = UNSAID_SECONDS if reply.expires_in is None else min(reply.expires_in, _LONGEST_SECONDS)
    until = at + timedelta(seconds=max(0, seconds))
    expires = (claims or {}).get("exp")
    if isinstance(expires, int | float) and expires < until.timestamp():
        until = datetime.fromtimestamp(max(0, expires), UTC)
    if until <= at:
        problem = "the token was over when it came: its server's clock and the gate's differ"
        raise OAuthFault("oauth_token_expired", problem, retryable=True)
    return until


def _claims(token: SecretStr) -> Mapping[str, Any] | None:
    """Read a JSON Web Token's claims; None for an opaque token."""
    try:
        claims: dict[str, Any] = jwt.decode(token.get_secret_value(), options={"verify_signature": False})
    except jwt.PyJWTError:
        return None
    return claims


def _texts(value: object) -> set[str]:
    """A text or a list of texts, as `aud` is."""
    listed = cast("list[object]", value) if isinstance(value, list) else [value]
    return {text for text in listed if isinstance(text, str)}
