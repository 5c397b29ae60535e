"""Connections to an issuer, and its answers: none is long, and none but 200 counts."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

import httpx

from toolgate.backends.asking import PATIENCE, closed_client

LARGEST: Final = 262_144
"""Bytes of an answer."""
_OK, _TOO_MANY, _SERVER_ERROR = 200, 429, 500
FAULTS: Final = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError)
"""What asking ends with when there is no answer that can be used; `TimeoutError` is an `OSError`."""


class NotAnswered(ValueError):  # noqa: N818 - named by what is the matter
    """There was an answer, and it is none to the question. Holds nothing of it but its status."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(problem)
        self.status = status


class IssuerHttp:
    """Connections to one issuer."""

    def __init__(self) -> None:
        self._client = closed_client(ssl.create_default_context())

    async def get(self, address: str) -> bytes:
        """Read what is at `address`.

        Raises:
            FAULTS: there is no answer, or it is not 200, or too large.
        """
        return await self._ask(self._client.build_request("GET", address))

    async def post(self, address: str, form: Mapping[str, str], sign_in: httpx.BasicAuth) -> bytes:
        """Send a form; gives the answer.

        Raises:
            FAULTS: there is no answer, or it is not 200, or too large.
        """
        return await self._ask(self._client.build_request("POST", address, data=dict(form)), sign_in)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _ask(self, request: httpx.Request, sign_in: httpx.BasicAuth | None = None) -> bytes:
        body = bytearray()
        async with asyncio.timeout(PATIENCE):
            response = await self._client.send(request, auth=sign_in, stream=True)
            try:
                status = response.status_code
                if status != _OK:
                    raise NotAnswered(f"HTTP {status}", status)
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > LARGEST:
                        raise NotAnswered("the answer is too large", status)
            finally:
                await response.aclose()
        return bytes(body)


def problem_of(error: Exception) -> str:
    """Say in a log what went wrong, without what was sent or answered."""
    return str(error) if isinstance(error, NotAnswered) else type(error).__name__


def is_out_of_reach(error: Exception) -> bool:
    """Whether it is the issuer that is down or overloaded, whatever it was asked."""
    match error:
        case NotAnswered(status=status):
            return status == _TOO_MANY or status >= _SERVER_ERROR
        case httpx.PoolTimeout():
            return False  # it is we who ask too much
        case _:
            return isinstance(error, httpx.HTTPError | OSError)
