"""An issuer's public keys (RFC 7517): fetched, refreshed, asked for again when an unknown one is named."""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jwt import PyJWK
from jwt.exceptions import PyJWTError
from pydantic import BaseModel

from toolgate.backends.issuer_http import FAULTS, LARGEST, IssuerHttp, NotAnswered, problem_of
from toolgate.core.identity import BadToken, IssuerUnavailable, TrustedIssuer

log = logging.getLogger(__name__)

SOONEST_SECONDS: Final = 5.0
BURST: Final = 3
"""Unknown key ids are free to invent: they make us ask the issuer no more than so often in `BURST` times
`SOONEST_SECONDS`. It is more than once, so that a key is known at once that comes right after a reading."""
RETRY_SECONDS: Final = 30.0
"""When an issuer that could not be asked is asked again at the latest."""
LONGEST_TRUST_SECONDS: Final = 86_400.0
"""How long an issuer that cannot be asked is trusted by its last keys."""
_MOMENT: Final = 1.0
"""Seconds that a call waits for old keys to be read again; then the old ones have to do."""


class _KeySet(BaseModel):
    keys: list[dict[str, Any]]


class Jwks:
    """The keys of one issuer. `version` changes whenever they do."""

    def __init__(
        self, issuer: TrustedIssuer, root: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer, self._root, self._clock = issuer, root, clock
        self._http = IssuerHttp()
        self._keys: dict[str | None, PyJWK] = {}
        self._due = self._good_at = float("-inf")
        self._asked: deque[float] = deque(maxlen=BURST)
        self._reading: asyncio.Task[None] | None = None
        self._begun = 0
        self._failed = False
        self.version = b""

    async def key(self, key_id: str | None) -> PyJWK:
        """Give the key with this id; without an id, the only key.

        Raises:
            BadToken: there is none.
            IssuerUnavailable: there may be one, but the issuer cannot be asked.
        """
        begun = self._begun
        await self.refresh()
        found = self._find(key_id)
        if found is None and self._reading is not None:
            await self._read(None)
            found = self._find(key_id)
        if found is None and begun == self._begun and self._may_ask():
            await self._read(None)
            found = self._find(key_id)
        if found is not None:
            return found
        if self._failed:
            raise IssuerUnavailable("the keys of its issuer cannot be read", retry_after=int(SOONEST_SECONDS))
        raise BadToken("it is signed with a key that its issuer does not publish")

    async def aclose(self) -> None:
        """Close the connection to the issuer."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._http.aclose()

    def are_old(self) -> bool:
        """Whether it is time to read the keys again, and nobody does yet."""
        return self._reading is None and self._clock() > self._due

    async def refresh(self) -> None:
        """Read the keys again when they are old. Who has old ones waits for new ones for a moment only."""
        if self._reading is not None or self.are_old():
            await self._read(_MOMENT if self._keys else None)

    def _find(self, key_id: str | None) -> PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _may_ask(self) -> bool:
        """Whether an unknown key is reason enough to ask; if so, that is counted."""
        now = self._clock()
        if len(self._asked) == BURST and now - self._asked[0] <= BURST * SOONEST_SECONDS:
            return False
        self._asked.append(now)
        return True

    async def _read(self, patience: float | None) -> None:
        """Wait until the keys were read, or so many seconds; one reading serves all who wait."""
        if self._reading is None:
            self._begun += 1
            self._reading = asyncio.create_task(self._read_anew())
            self._reading.add_done_callback(self._end_reading)
        await asyncio.wait({self._reading}, timeout=patience)

    def _end_reading(self, _: asyncio.Task[None]) -> None:
        self._reading = None

    async def _read_anew(self) -> None:
        try:
            text = await self._document()
            self._keys = _usable(text)
        except FAULTS as error:
            log.warning("the keys of %s could not be read: %s", self._issuer.issuer, problem_of(error))
            self._failed = True
            self._due = self._clock() + min(self._issuer.jwks_seconds, RETRY_SECONDS)
            self._forget_when_stale()
            return
        self._failed = False
        self._good_at = self._clock()
        self._due = self._good_at + self._issuer.jwks_seconds
        self.version = hashlib.sha256(text).digest()

    def _forget_when_stale(self) -> None:
        """Trust an issuer that cannot be asked for a day by its last keys, and no longer."""
        if self._keys and self._clock() - self._good_at > LONGEST_TRUST_SECONDS:
            self._keys, self.version = {}, b""

    async def _document(self) -> bytes:
        if self._issuer.jwks_file is None:
            return await self._http.get(str(self._issuer.jwks_uri))
        text = (self._root / self._issuer.jwks_file).read_bytes()
        if len(text) > LARGEST:
            raise NotAnswered("the key set is too large", 0)
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
