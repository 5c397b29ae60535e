"""Tokens become callers by asking their issuer what they are worth (RFC 7662)."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, SecretStr

from toolgate.backends.asking import signed_in
from toolgate.backends.issuer_http import FAULTS, IssuerHttp, is_out_of_reach, problem_of
from toolgate.backends.token_claims import caller_named
from toolgate.core.call import Caller
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.identity import BadToken, IssuerUnavailable, TrustedIssuer

log = logging.getLogger(__name__)

NO_SECONDS: Final = 5.0
"""How long an answer that a token is not good is believed. Tokens are free to invent."""
REST_SECONDS: Final = 2.0
"""How long an issuer is left alone that gave no answer: meanwhile nobody waits for it."""
MOST_REMEMBERED: Final = 10_000
MOST_ASKED: Final = 256
"""Tokens that are asked about at the same time; one more is not."""
_FORM: Final = "its claims are not of the expected form"


@dataclass(frozen=True)
class _Verdict:
    """What an issuer said of a token, until when that is believed, and in case of a no, why."""

    said: Caller | str
    until: float


class _Reply(BaseModel):
    """RFC 7662, section 2.2. What else is said is read as a JSON Web Token's claims are."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True, strict=True, allow_inf_nan=False)

    active: bool
    iss: str | None = None
    aud: str | list[str] | None = None
    sub: str | None = None
    token_type: str | None = None
    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None


class Introspecting:
    """Asks one issuer about tokens, once for many calls with the same one; believes an answer for a while.

    Args:
        issuer: one with `introspection`.
        audience: the canonical URI of this server (RFC 8707); a token for anything else is refused.
        secret: gives the secret of the gate's client there, as it is now.
        clock: seconds that only grow, for how long an answer is believed.
    """

    def __init__(
        self,
        issuer: TrustedIssuer,
        *,
        audience: str,
        secret: Callable[[], Awaitable[SecretStr]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if issuer.introspection is None:
            raise TypeError(f"{issuer.issuer} cannot be asked about its tokens")
        self._issuer, self._where = issuer, issuer.introspection
        self._audience, self._secret, self._clock = audience, secret, clock
        self._http = IssuerHttp()
        self._good: dict[bytes, _Verdict] = {}
        self._bad: dict[bytes, _Verdict] = {}
        self._asking: dict[bytes, asyncio.Task[_Verdict | None]] = {}
        self._rests_until = float("-inf")

    async def caller_of(self, token: str) -> Caller:
        """Give the caller that `token` names.

        Raises:
            BadToken: its issuer says that it is not good, or it is not good here.
            IssuerUnavailable: its issuer cannot be asked.
        """
        name = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        verdict = self._remembered(name) or await self._asked(token, name)
        if verdict is None:
            raise IssuerUnavailable("its issuer cannot be asked about it", retry_after=int(REST_SECONDS))
        if isinstance(verdict.said, str):
            raise BadToken(verdict.said)
        return verdict.said

    async def aclose(self) -> None:
        """Close the connections to the issuer."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._http.aclose()

    def _remembered(self, name: bytes) -> _Verdict | None:
        verdict = self._good.get(name) or self._bad.get(name)
        return verdict if verdict is not None and self._clock() < verdict.until else None

    async def _asked(self, token: str, name: bytes) -> _Verdict | None:
        """Ask, or wait for who is asking already. Who hangs up meanwhile takes the answer from nobody."""
        asking = self._asking.get(name)
        if asking is None:
            # Invented tokens, of which an issuer may have enough, do not shut out those that were good.
            rests = self._clock() < self._rests_until and name not in self._good
            if rests or len(self._asking) >= MOST_ASKED:
                return None
            asking = self._asking[name] = asyncio.create_task(self._ask(token, name))
            asking.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(asking)

    async def _ask(self, token: str, name: bytes) -> _Verdict | None:
        """Ask the issuer, and remember what it says; None when nobody can tell."""
        try:
            secret = await self._secret()
            reply = _Reply.model_validate_json(await self._answer(token, secret))
        except CredentialUnavailable as error:
            log.error("the introspection endpoint of %s is not asked: %s", self._issuer.issuer, error)  # noqa: TRY400
            return None
        except FAULTS as error:
            problem = problem_of(error)
            log.warning("the introspection endpoint of %s gave no answer: %s", self._issuer.issuer, problem)
            if is_out_of_reach(error):
                self._rests_until = self._clock() + REST_SECONDS
            return None
        verdict = self._verdict(reply)
        kept, other = (self._bad, self._good) if isinstance(verdict.said, str) else (self._good, self._bad)
        other.pop(name, None)
        kept.pop(name, None)
        if len(kept) >= MOST_REMEMBERED:
            del kept[next(iter(kept))]
        kept[name] = verdict
        return verdict

    async def _answer(self, token: str, secret: SecretStr) -> bytes:
        sign_in = signed_in(self._where.client_id, secret.get_secret_value())
        form = {"token": token, "token_type_hint": "access_token"}
        return await self._http.post(str(self._where.endpoint), form, sign_in)

    def _verdict(self, reply: _Reply) -> _Verdict:
        now, seconds = time.time(), self._where.cache_seconds
        try:
            self._require_good(reply, now)
            said: Caller | str = caller_named(_claims(reply), self._issuer)
        except BadToken as error:
            said, seconds = str(error), NO_SECONDS
        except (ValueError, TypeError, AttributeError):
            said, seconds = _FORM, NO_SECONDS
        if not isinstance(said, str) and reply.exp is not None:
            seconds = min(seconds, max(0.0, reply.exp - now))
        return _Verdict(said, self._clock() + seconds)

    def _require_good(self, reply: _Reply, now: float) -> None:
        """Check what an active token must be beside active, in the words in which a signed one is refused.

        Raises:
            BadToken: it is not.
        """
        leeway = self._issuer.leeway
        if not reply.active:
            raise BadToken("its issuer says that it is not good, or not any more")
        if reply.iss is not None and reply.iss != self._issuer.issuer:
            raise BadToken("its issuer is not trusted here")
        if self._audience not in ([reply.aud] if isinstance(reply.aud, str) else reply.aud or []):
            raise BadToken("it was not issued for this server")
        if reply.token_type is not None and reply.token_type.lower() != "bearer":
            raise BadToken("it is not a bearer token")
        if reply.exp is not None and now >= reply.exp + leeway:
            raise BadToken("it has expired")
        if max(reply.nbf or 0, reply.iat or 0) > now + leeway:
            raise BadToken("it is not valid yet")


def _claims(reply: _Reply) -> Mapping[str, Any]:
    return {"sub": reply.sub} | (reply.model_extra or {})
