"""How resources and prompts tell of a call that did not end well: by JSON-RPC errors, for want of results."""

from collections.abc import Mapping
from typing import Final, NoReturn

import mcp_types as t
from mcp.shared.exceptions import MCPError

from toolgate.core.outcome import Answer, Done, Failed, InputRequired, Refused, Unknown
from toolgate.core.record import Json, JsonObject
from toolgate.web.present import HIDDEN, error_of, meta_of, text_of

REFUSED: Final = -31_000
"""Nothing was done, and nothing is broken: a rule, a term or a person says no. It lies outside of what
JSON-RPC reserves (MCP 2026-07-28, basic, "Error Codes"); what broke is an internal error, -32603."""
_ABOUT_PARAMS: Final = frozenset({"bad_arguments", "bad_idempotency_key", "idempotency_key_required"})


def value_of(answer: Answer, about: Mapping[str, Json]) -> JsonObject:
    """Give what the call gave; `about`, what was asked for, is told with an error.

    Raises:
        MCPError: it gave nothing.
    """
    match answer.outcome:
        case Done(value=value):
            return value
        case outcome:
            raise MCPError(_code(outcome), text_of(outcome, answer), _data(outcome, answer, about))


def result_meta(answer: Answer) -> JsonObject:
    """Give what goes with the value: its entry, and what the policy hides of it."""
    hidden: JsonObject = {HIDDEN: [*answer.hidden]} if answer.hidden else {}
    return meta_of(answer) | hidden


def nothing_there(code: int, message: str, answer: Answer, about: Mapping[str, Json]) -> NoReturn:
    """Say that there is no such thing, in the same words whether it is hidden or does not exist."""
    raise MCPError(code, message, {**about, **meta_of(answer)})


def _code(outcome: Refused | Failed | Unknown | InputRequired) -> int:
    match outcome:
        case Refused(code=code) if code in _ABOUT_PARAMS:
            return t.INVALID_PARAMS
        case Refused() | InputRequired():
            return REFUSED
        case Failed() | Unknown():
            return t.INTERNAL_ERROR


def _data(
    outcome: Refused | Failed | Unknown | InputRequired, answer: Answer, about: Mapping[str, Json]
) -> JsonObject:
    return {**about, **error_of(outcome, answer), "entry": answer.entry, "replayed": answer.replayed}
