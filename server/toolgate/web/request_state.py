"""What a client carries from one round of a call to the next (2026-07-28, multi round-trip requests).

It comes back from the client, so nothing in it is believed that was not sealed here (basic/utilities/mrtr,
"Security Considerations"): it is encrypted, bound to who asked for what, and ends.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import mcp_types as t
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState
from mcp.shared.exceptions import MCPError

from toolgate.core.canonical import canonical, digest
from toolgate.core.record import Json, JsonObject

LASTS: Final = 3600
"""Seconds that a person has for an answer."""


@dataclass(frozen=True, kw_only=True)
class RequestState:
    """How far the rounds of one call have come."""

    key: str
    """The call's idempotency key where its client gives none: every round is a part of the same call."""
    asked: str
    """The name of the question that was put last."""
    answers: JsonObject
    """What was answered to the questions before, by their names."""
    questions: Mapping[str, str]
    """The marks of all that were put, by their names: an answer is good for what was asked."""


class RequestStates:
    """Seals request states, and opens those that it sealed; with the same secret in every process.

    Args:
        secret: 32 bytes that nobody else knows.
        now: the clock (UTC).
    """

    def __init__(self, secret: bytes, now: Callable[[], datetime]) -> None:
        self._codec = AESGCMRequestStateCodec([secret])
        self._now = now

    def seal(self, state: RequestState, call: Json) -> str:
        """Spell `state` for a client; it is good for `call` alone: who asks for what."""
        claims: JsonObject = {
            "until": int(self._now().timestamp()) + LASTS,
            "call": digest(call),
            "key": state.key,
            "asked": state.asked,
            "answers": state.answers,
            "questions": {**state.questions},
        }
        return self._codec.seal(canonical(claims))

    def open(self, sealed: str, call: Json) -> RequestState:
        """Read what a client brought back.

        Raises:
            MCPError: it was not sealed here, or for another call, or its time is over.
        """
        try:
            claims = json.loads(self._codec.unseal(sealed))
        except InvalidRequestState as error:
            raise _refused() from error
        if claims["call"] != digest(call) or claims["until"] < self._now().timestamp():
            raise _refused()
        said = {name: claims[name] for name in ("key", "asked", "answers", "questions")}
        return RequestState(**said)


def _refused() -> MCPError:
    return MCPError(
        t.INVALID_PARAMS,
        "Invalid or expired requestState: nothing was done; make the call again without it",
        {"reason": "invalid_request_state"},
    )
