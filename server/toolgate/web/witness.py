"""A witness over HTTP, as c2sp.org/tlog-witness has it; nobody signs in, for a log signs what it sends."""

import asyncio
import logging
import re
from typing import Final, Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from toolgate.core.note import BadNote
from toolgate.core.witness import Cosigned, Denied, Stale, Submission, Verdict

log = logging.getLogger(__name__)

LARGEST: Final = 65_536
"""Bytes of a request: 63 hashes, and a checkpoint with a dozen signatures of the largest kind."""
_SIZE: Final = "text/x.tlog.size"
_SHORTEST_HASH: Final = re.compile(r"[0-9a-f]{64}")


class Cosigner(Protocol):
    """The witness itself."""

    def add(self, asked: Submission) -> Verdict:
        """Judge a checkpoint and cosign it, or say why not. May wait for the disk."""
        ...

    def newest(self, origin_hash: str) -> str | None:
        """Give the newest cosigned checkpoint of the log whose origin has this SHA-256, in hexadecimal."""
        ...


def witness_app(witness: Cosigner) -> Starlette:
    """Build the application: `POST /add-checkpoint`, and the newest checkpoint of each log for monitors."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            body = await _body(request)
        except ClientDisconnect:
            return PlainTextResponse("the request is not whole\n", 400)
        if body is None:
            log.info("add-checkpoint: 413, more than %d bytes", LARGEST)
            headers = {"connection": "close"}
            return PlainTextResponse(f"more than {LARGEST} bytes\n", 413, headers=headers)
        try:
            asked = Submission.parse(body)
        except BadNote as error:
            log.info("add-checkpoint: 400, %s", error)
            return PlainTextResponse(f"{error}\n", 400)
        verdict = await asyncio.to_thread(witness.add, asked)
        _log(asked, verdict)
        return _answer(verdict)

    async def checkpoint(request: Request) -> Response:
        origin_hash: str = request.path_params["origin_hash"]
        found = None
        if _SHORTEST_HASH.fullmatch(origin_hash):
            found = await asyncio.to_thread(witness.newest, origin_hash)
        log.info("checkpoint: %d", 200 if found else 404)
        return PlainTextResponse(found) if found else PlainTextResponse("no such log was cosigned\n", 404)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin_hash}/checkpoint", checkpoint, methods=["GET"]),
            Route("/healthz", healthz),
        ]
    )


async def _body(request: Request) -> bytes | None:
    """Read the whole body; None when it is too large."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > LARGEST:
        return None
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            return None
    return bytes(body)


def _answer(verdict: Verdict) -> Response:
    match verdict:
        case Cosigned(lines=lines):
            return PlainTextResponse(lines)
        case Stale(size=size):
            # Starlette would say a charset, and the specification says what it MUST be.
            return Response(f"{size}\n", 409, headers={"content-type": _SIZE})
        case Denied(status=status, why=why):
            return PlainTextResponse(f"{why}\n", status)


def _log(asked: Submission, verdict: Verdict) -> None:
    """Say in one line who asked for what, and what came of it; only a known, signed log has its name said."""
    now = asked.checkpoint
    match verdict:
        case Cosigned():
            log.info("add-checkpoint: 200, %s: %d, after %d", now.origin, now.size, asked.old)
        case Stale(size=known):
            said = "add-checkpoint: 409, %s: %d, after %d; %d is known"
            log.info(said, now.origin, now.size, asked.old, known)
        case Denied(status=422, why=why):
            said = "add-checkpoint: 422, %s: NOT COSIGNED, %s. Keep this: %r"
            log.error(said, now.origin, why, str(asked.note))
        case Denied(status=status, why=why):
            log.info("add-checkpoint: %d, %s", status, why)
