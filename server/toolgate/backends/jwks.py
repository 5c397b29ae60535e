"""An issuer's public keys (RFC 7517): fetched, refreshed, asked for again when an unknown one is named."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from pydantic import BaseModel

from toolgate.core.identity import BadToken, TrustedIssuer

log = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 300.0
SOONEST_SECONDS: Final = 5.0
"""Unknown key ids are free to invent: they make us ask the issuer no more often than this."""
LONGEST_TRUST_SECONDS: Final = 86_400.0
"""How long an issuer that cannot be asked is trusted by its last keys."""
_TIMEOUT: Final = httpx.Timeout(5.0)
_PATIENCE: Final = 10.0
"""Seconds for one reading, all its phases together."""
_LARGEST: Final = 262_144


class _KeySet(BaseModel):
    keys: list[dict[str, Any]]


class Jwks:
    """The keys of one issuer. `version` changes whenever they do."""

    def __init__(
        self, issuer: TrustedIssuer, root: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer, self._root, self._clock = issuer, root, clock
        self._client = httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=_TIMEOUT)
        self._keys: dict[str | None, PyJWK] = {}
        self._read_at = self._good_at = float("-inf")
        self._reading = asyncio.Lock()
        self.version = b""

    async def key(self, key_id: str | None) -> PyJWK:
        """Give the key with this id; without an id, the only key.

        Raises:
            BadToken: there is none.
        """
        await self.refresh()
        found = self._find(key_id)
        if found is None:
            await self._read_unless_read_within(SOONEST_SECONDS)
            found = self._find(key_id)
        if found is None:
            raise BadToken("it is signed with a key that its issuer does not publish")
        return found

    async def aclose(self) -> None:
        """Close the connection to the issuer."""
        await self._client.aclose()

    async def refresh(self) -> None:
        """Read the keys again when they are old."""
        if self._clock() - self._read_at > REFRESH_SECONDS:
            await self._read_unless_read_within(REFRESH_SECONDS)

    def _find(self, key_id: str | None) -> PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _read_unless_read_within(self, seconds: float) -> None:
        async with self._reading:
            if self._clock() - self._read_at <= seconds:
                return
            self._read_at = self._clock()
            try:
                async with asyncio.timeout(_PATIENCE):
                    text = await self._document()
                self._keys = _usable(text)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                log.warning("the keys of %s could not be read: %s", self._issuer.issuer, type(error).__name__)
                self._forget_when_stale()
                return
            self._good_at = self._clock()
            self.version = hashlib.sha256(text).digest()

    def _forget_when_stale(self) -> None:
        """Trust an issuer that cannot be asked for a day by its last keys, and no longer."""
        if self._keys and self._clock() - self._good_at > LONGEST_TRUST_SECONDS:
            self._keys, self.version = {}, b""

    async def _document(self) -> bytes:
        if self._issuer.jwks_file is not None:
            text = (self._root / self._issuer.jwks_file).read_bytes()
        else:
            reply = await self._client.get(str(self._issuer.jwks_uri))
            reply.raise_for_status()
            text = reply.content
        if len(text) > _LARGEST:
            raise ValueError("the key set is too large")
        return text


def _usable(text: bytes) -> dict[str | None, PyJWK]:
    """The keys that we can use. There may be none: an issuer withdraws its last key by an empty set."""
    document = _KeySet.model_validate_json(text)
    keys: dict[str | None, PyJWK] = {}
    for written in document.keys:
        try:
            key = PyJWK(written)
        except PyJWTError:
            continue
        key_id = written.get("kid")
        if key.public_key_use in {None, "sig"} and (key_id is None or isinstance(key_id, str)):
            keys[key_id] = key
    return keys
