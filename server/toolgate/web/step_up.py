"""HTTP 403 for a call whose token lacks scopes, so that its client can get a token that has them.

MCP 2026-07-28, authorization, scope challenge handling; RFC 6750, section 3.1. The call was refused and
recorded like any other: this only says it in another way, whoever spelled the answer and in whatever era.
"""

import json
from collections.abc import MutableSequence
from typing import Final, TypeAlias

from starlette.types import Message, Scope, Send

from toolgate.core.outcome import Answer, Refused
from toolgate.core.record import JsonObject
from toolgate.web.bearer import CALLER, ProtectedResource
from toolgate.web.present import ERROR, error_of, meta_of, text_of

STEP_UP: Final = "toolgate.step_up"
"""Where a request over HTTP keeps the answers that call for more scopes."""
INSUFFICIENT_SCOPE: Final = 403
"""The JSON-RPC error's code: an own one, outside the range that JSON-RPC keeps for itself."""
StepUps: TypeAlias = MutableSequence[tuple[Refused, Answer]]


def note_step_up(noted: StepUps | None, answer: Answer) -> None:
    """Remember an answer that more scopes would change; over stdio there is nowhere to."""
    outcome = answer.outcome
    if noted is not None and isinstance(outcome, Refused) and outcome.scopes:
        noted.append((outcome, answer))


def challenging(resource: ProtectedResource, scope: Scope, request: JsonObject, send: Send) -> Send:
    """Give a `send` that says 403 in place of what is sent, once the caller of `request` lacked scopes.

    It holds the head back until there is something to follow it: by then the call has ended.
    """
    noted: list[tuple[Refused, Answer]] = []
    scope[STEP_UP] = noted
    head: Message | None = None
    sent = replaced = False

    async def send_or_challenge(message: Message) -> None:
        nonlocal head, sent, replaced
        if replaced:
            return
        if noted and not sent:
            replaced = True
            for part in _forbidden(resource, scope, request, *noted[0]):
                await send(part)
        elif message["type"] == "http.response.start":
            head = message
        else:
            if head is not None and not sent:
                sent = True
                await send(head)
            await send(message)

    return send_or_challenge


def _forbidden(
    resource: ProtectedResource, scope: Scope, request: JsonObject, refused: Refused, answer: Answer
) -> tuple[Message, ...]:
    error = _error(refused, answer)
    reply = json.dumps({"jsonrpc": "2.0", "id": request.get("id"), "error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(reply)),
        (b"www-authenticate", resource.step_up(scope[CALLER], refused.scopes).encode("latin-1")),
    ]
    return (
        {"type": "http.response.start", "status": 403, "headers": headers},
        {"type": "http.response.body", "body": reply},
    )


def _error(refused: Refused, answer: Answer) -> JsonObject:
    """Say it as a JSON-RPC error: clients read no result from a response that is not 200."""
    data: JsonObject = {**meta_of(answer), ERROR: error_of(refused, answer)}
    return {"code": INSUFFICIENT_SCOPE, "message": text_of(refused, answer), "data": data}
