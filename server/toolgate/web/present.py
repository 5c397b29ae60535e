"""MCP's words for what the core says, in both directions."""

from collections.abc import Mapping
from typing import Final

import mcp_types as t
from mcp.shared.exceptions import MCPError

from toolgate.adapter import Effect
from toolgate.core.canonical import canonical
from toolgate.core.outcome import Answer, Done, Failed, InputRequired, Outcome, Refused, Unknown
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool
from toolgate.web.content import blocks_of

PREFIX: Final = "dev.toolgate/"
KEY: Final = f"{PREFIX}idempotencyKey"
AGAIN: Final = f"{PREFIX}again"
RUN: Final = f"{PREFIX}run"
STEP: Final = f"{PREFIX}step"
ORDINAL: Final = f"{PREFIX}ordinal"
ENTRY: Final = f"{PREFIX}entry"
REPLAYED: Final = f"{PREFIX}replayed"
CALL_ID: Final = f"{PREFIX}callId"
ERROR: Final = f"{PREFIX}error"
HIDDEN: Final = f"{PREFIX}hidden"
DOCS: Final = "docs/reference/outcomes.md"

_ANNOTATIONS: Final[Mapping[Effect, t.ToolAnnotations]] = {
    "read": t.ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True),
    "write": t.ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False),
    "destroy": t.ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False),
}


def shown(tool: Tool) -> t.Tool:
    """Show a tool as `tools/list` does."""
    return t.Tool(
        name=tool.wire_name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input.document,
        output_schema=tool.shown_output,
        annotations=_ANNOTATIONS[tool.terms.effect],
    )


def told(said: JsonObject) -> t.CallToolResult | t.InputRequiredResult:
    """Give a spelled answer as the SDK has it."""
    if said["resultType"] == "input_required":
        return t.InputRequiredResult.model_validate(said, by_name=False)
    return t.CallToolResult.model_validate(said, by_name=False)


def spelled(answer: Answer, tool: str) -> JsonObject:
    """Spell an answer as a tool's result; errors are results too, so that a model can act on them.

    Raises:
        MCPError: there is no such tool for this caller (a JSON-RPC error, as the SDK itself has it).
    """
    meta = meta_of(answer)
    match answer.outcome:
        case Refused(code="unknown_tool"):
            raise MCPError(t.INVALID_PARAMS, f"Unknown tool: {tool}", meta)
        case Done(value=value):
            return _result(value, answer, meta)
        case outcome:
            return _error(outcome, answer, meta)


def meta_of(answer: Answer) -> JsonObject:
    """Give what every answer carries."""
    return {ENTRY: answer.entry, REPLAYED: answer.replayed, CALL_ID: answer.call_id}


def _result(value: JsonObject, answer: Answer, meta: JsonObject) -> JsonObject:
    before: list[JsonObject] = []
    after: list[JsonObject] = []
    if answer.replayed:
        said = f"Already applied: this is the answer of the first call, ledger entry {answer.entry}."
        before = [_text(said)]
    if answer.hidden:
        after = [_text(f"The policy hides a part of this result from you: {'; '.join(answer.hidden)}.")]
        meta = {**meta, HIDDEN: [*answer.hidden]}
    if answer.as_content:
        result: JsonObject = {"content": [*before, *blocks_of(value), *after]}
    else:
        whole = _text(canonical(value).decode())
        result = {"content": [*before, whole, *after], "structuredContent": value}
    return {"resultType": "complete", **result, "isError": False, "_meta": meta}


def _error(
    outcome: Refused | Failed | Unknown | InputRequired, answer: Answer, meta: JsonObject
) -> JsonObject:
    text = text_of(outcome, answer)
    error: JsonObject = {**meta, ERROR: error_of(outcome, answer)}
    return {"resultType": "complete", "content": [_text(text)], "isError": True, "_meta": error}


def text_of(outcome: Refused | Failed | Unknown | InputRequired, answer: Answer) -> str:
    """Say in words that a call did not end well, and what has happened."""
    text = f"{_heading(outcome)}: {outcome.detail}. [{outcome.code}, call {answer.call_id}]"
    return f"Answered before, entry {answer.entry}. {text}" if answer.replayed else text


def error_of(outcome: Refused | Failed | Unknown | InputRequired, answer: Answer) -> JsonObject:
    """Say it for programs."""
    return {
        "code": outcome.code,
        "detail": outcome.detail,
        "retryable": may_retry(outcome),
        "retry_after_ms": outcome.retry_after_ms,
        "call_id": answer.call_id,
        "docs": f"{DOCS}#{outcome.code}",
    }


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def may_retry(outcome: Outcome) -> bool:
    """Whether the same call may be asked again, under the same key."""
    match outcome:
        case Failed(retryable=retryable):
            return retryable
        case Refused(retry_after_ms=wait) | Unknown(retry_after_ms=wait):
            return wait is not None
        case InputRequired():
            return True
        case Done():
            return False


def _heading(outcome: Refused | Failed | Unknown | InputRequired) -> str:
    match outcome:
        case InputRequired():
            return "Nothing was done: an answer is needed first, and this client cannot be asked for it"
        case Refused():
            return "Refused, nothing was done"
        case Failed():
            return "Failed, nothing was done"
        case Unknown():
            return "Outcome unknown, do not repeat it under another key"
