"""Asks one witness for its cosignature (c2sp.org/tlog-witness); what it answers is judged elsewhere."""

import asyncio
import ssl
from typing import Final

import httpx

from toolgate.backends.asking import closed_client
from toolgate.backends.cosigning import Cosignature, cosignatures_in
from toolgate.core.note import BadNote, Signature
from toolgate.core.witness import Stale, Submission
from toolgate.core.witness_policy import NamedWitness

PATIENCE: Final = 5.0
"""Seconds for one question, however slowly the answer trickles in."""
_LARGEST: Final = 16_384
"""Bytes of an answer."""
_SIZE_DIGITS: Final = 18


class NotCosigned(Exception):  # noqa: N818 - named by what is the matter
    """There is no cosignature, and it says nothing about the ledger: the witness is down, or not ours."""


class Unproven(Exception):  # noqa: N818
    """The witness says that what it is shown does not extend what it has seen."""


class WitnessClient:
    """Connections to one witness."""

    def __init__(self, witness: NamedWitness) -> None:
        self.witness = witness
        self._client = closed_client(ssl.create_default_context())

    async def add_checkpoint(self, asked: Submission) -> Cosignature | Stale:
        """Ask for a cosignature of a checkpoint; `Stale` where the witness knows a tree of another size.

        Raises:
            NotCosigned: there is no answer that can be used; to be asked again later.
            Unproven: it is shown a fork, and will not cosign.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                status, body = await self._post(f"{asked}".encode())
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise NotCosigned(f"it does not answer ({type(error).__name__})") from error
        match status:
            case 200:
                return self._cosignature(asked, body)
            case 409 if body.endswith(b"\n") and body[:-1].isdigit() and len(body) <= _SIZE_DIGITS + 1:
                return Stale(int(body))
            case 422:
                raise Unproven
            case 403 | 404:
                raise NotCosigned(f"it does not know this ledger's key (HTTP {status}): give it the .vkey")
            case _:
                raise NotCosigned(f"it answers HTTP {status}")

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        address = f"{(self.witness.url or '').rstrip('/')}/add-checkpoint"
        headers = {"content-type": "text/plain; charset=utf-8", "accept": "*/*"}
        request = self._client.build_request("POST", address, content=body, headers=headers)
        response = await self._client.send(request, stream=True)
        try:
            answer = bytearray()
            async for part in response.aiter_raw():
                answer += part
                if len(answer) > _LARGEST:
                    raise ValueError("the answer is too large")
        finally:
            await response.aclose()
        return response.status_code, bytes(answer)

    def _cosignature(self, asked: Submission, body: bytes) -> Cosignature:
        """Find the witness's own good line; "the client MUST ignore any cosignatures from unknown keys"."""
        try:
            lines = [Signature.parse(line) for line in body.decode().splitlines()]
        except (BadNote, UnicodeDecodeError) as error:
            raise NotCosigned("its answer is no signature line") from error
        good = cosignatures_in(asked.note, lines, [self.witness])
        if not good:
            raise NotCosigned("its answer holds no good signature by the key that the policy names")
        return good[0]
