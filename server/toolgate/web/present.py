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
QUESTION: Final = "answer"
"""The name of the one question that a call may end with."""
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
        output_schema=tool.output.document,
        annotations=_ANNOTATIONS[tool.terms.effect],
    )


def told(answer: Answer, tool: str, *, can_ask: bool) -> t.CallToolResult | t.InputRequiredResult:
    """Tell an answer as a tool's result; errors are results too, so that a model can act on them.

    Raises:
        MCPError: there is no such tool for this caller (a JSON-RPC error, as the SDK itself has it).
    """
    said = spelled(answer, tool, can_ask=can_ask)
    if said["resultType"] == "input_required":
        return t.InputRequiredResult.model_validate(said, by_name=False)
    return t.CallToolResult.model_validate(said, by_name=False)


def spelled(answer: Answer, tool: str, *, can_ask: bool) -> JsonObject:
    """Tell an answer as `told` does, in JSON; `can_ask`: whether the client can put questions to a person.

    Raises:
        MCPError: as `told`.
    """
    meta: JsonObject = {ENTRY: answer.entry, REPLAYED: answer.replayed, CALL_ID: answer.call_id}
    match answer.outcome:
        case Refused(code="unknown_tool"):
            raise MCPError(t.INVALID_PARAMS, f"Unknown tool: {tool}", meta)
        case Done(value=value):
            return _result(value, answer, meta)
        case InputRequired() as question if can_ask:
            return _question(question, meta)
        case outcome:
            return _error(outcome, answer, meta)


def _result(value: JsonObject, answer: Answer, meta: JsonObject) -> JsonObject:
    texts = [canonical(value).decode()]
    if answer.replayed:
        said = f"Already applied: this is the answer of the first call, ledger entry {answer.entry}."
        texts.insert(0, said)
    if answer.hidden:
        texts.append(f"The policy hides a part of this result from you: {'; '.join(answer.hidden)}.")
        meta = {**meta, HIDDEN: [*answer.hidden]}
    return {**_content(*texts), "structuredContent": value, "isError": False, "_meta": meta}


def _question(question: InputRequired, meta: JsonObject) -> JsonObject:
    """Let the client ask, and call again with the answer (2026-07-28, multi round-trip requests)."""
    params: JsonObject = {
        "mode": "form",
        "message": question.detail,
        "requestedSchema": question.fields,
    }
    asked: JsonObject = {QUESTION: {"method": "elicitation/create", "params": params}}
    return {"resultType": "input_required", "inputRequests": asked, "_meta": meta}


def _error(
    outcome: Refused | Failed | Unknown | InputRequired, answer: Answer, meta: JsonObject
) -> JsonObject:
    text = f"{_heading(outcome)}: {outcome.detail}. [{outcome.code}, call {answer.call_id}]"
    error: JsonObject = {
        "code": outcome.code,
        "detail": outcome.detail,
        "retryable": may_retry(outcome),
        "retry_after_ms": outcome.retry_after_ms,
        "call_id": answer.call_id,
        "docs": f"{DOCS}#{outcome.code}",
    }
    if answer.replayed:
        text = f"Answered before, entry {answer.entry}. {text}"
    return {**_content(text), "isError": True, "_meta": {**meta, ERROR: error}}


def _content(*texts: str) -> JsonObject:
    return {"resultType": "complete", "content": [{"type": "text", "text": text} for text in texts]}


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
