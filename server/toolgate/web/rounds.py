"""How a question of an operation reaches the person behind a client, and the answer the operation.

A client of 2026-07-28 gets the question as the result of its call, and makes the call again with the answer.
A client of an earlier revision is asked in the middle of its call, over its standing connection.
"""

from typing import Final

import mcp_types as t
from mcp.shared.exceptions import MCPError

from toolgate.adapter.context import Progress
from toolgate.core.outcome import Answer, InputRequired
from toolgate.core.record import JsonObject
from toolgate.web.asked import Ask, Asked, Edge, RequestContext
from toolgate.web.present import error_of, meta_of
from toolgate.web.request_state import RequestState

_MOST_QUESTIONS: Final = 20
"""That one call puts to a person over a standing connection."""


def next_round(edge: Edge, asked: Asked, answer: Answer) -> JsonObject | None:
    """Give the result that asks the client for one more round; None where the answer is another.

    Raises:
        MCPError: the client did not say that it can put questions to a person.
    """
    question = answer.outcome
    if not isinstance(question, InputRequired) or asked.standing:
        return None
    if not asked.can_ask:
        said = f"Nothing was done: this client would have to ask a person: {question.detail}"
        missing: JsonObject = {"requiredCapabilities": {"elicitation": {"form": {}}}}
        missing |= {**meta_of(answer), "error": error_of(question, answer)}
        raise MCPError(t.MISSING_REQUIRED_CLIENT_CAPABILITY, said, missing)
    params: JsonObject = {
        "mode": "form",
        "message": question.detail,
        "requestedSchema": question.fields,
    }
    state = RequestState(
        key=asked.round_key or asked.given_key or f"first-round-{answer.call_id}",
        asked=question.name,
        answers=asked.answers or {},
        questions={**asked.questions, question.name: question.mark},
    )
    return {
        "resultType": "input_required",
        "inputRequests": {question.name: {"method": "elicitation/create", "params": params}},
        "requestState": edge.states.seal(state, asked.identity),
        "_meta": meta_of(answer),
    }


async def answer_with(context: RequestContext, asked: Asked, ask: Ask, progress: Progress) -> Answer:
    """Make the call; over a standing connection, put its questions to the person until it has its answers."""
    answer = await ask(asked, progress)
    for _ in range(_MOST_QUESTIONS):
        question = answer.outcome
        if not (isinstance(question, InputRequired) and asked.standing and _can_be_asked(context)):
            break
        try:
            said = await context.session.elicit_form(question.detail, question.fields, context.request_id)
        except MCPError:  # it has no way back to the person, or the client says no
            break
        asked = asked.answered(question, said, f"first-round-{answer.call_id}")
        answer = await ask(asked, progress)
    return answer


def _can_be_asked(context: RequestContext) -> bool:
    capabilities = context.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)
