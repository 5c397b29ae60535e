"""What a client asks for, and what its translation needs beside the gateway."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

import mcp_types as t
from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import SecretStr

from toolgate.adapter.context import Progress
from toolgate.core.call import Caller
from toolgate.core.outcome import Answer, InputRequired
from toolgate.core.record import Json, JsonObject
from toolgate.web.bearer import TOKEN
from toolgate.web.present import KEY
from toolgate.web.request_state import RequestStates
from toolgate.web.step_up import STEP_UP, StepUps

RequestContext: TypeAlias = ServerRequestContext[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call as its client spelled it, in whatever era and over whatever transport."""

    caller: Caller
    tool: str
    arguments: JsonObject
    meta: Mapping[str, object]
    keys: Sequence[str]
    """What `Idempotency-Key` headers say."""
    answers: JsonObject | None = None
    """What the person behind the client answered so far, by the names of the questions."""
    declined: bool = False
    """The person did not want to answer."""
    questions: Mapping[str, str] = field(default_factory=dict[str, str])
    """The marks of the questions that were put, by their names."""
    round_key: str | None = None
    """The idempotency key of a later round: that of the first."""
    standing: bool = False
    """Over a standing connection of 2025-11-25 or before: a question is put in the middle of the call."""
    token: SecretStr | None = field(default=None, repr=False)
    """The caller's access token; over stdio there is none."""
    step_ups: StepUps | None = field(default=None, repr=False)
    """Where an answer is noted that a token with more scopes would change; over stdio nowhere."""

    @property
    def given_key(self) -> str | None:
        """The idempotency key that the client gives, in `_meta` or a header."""
        in_meta = self.meta.get(KEY)
        if isinstance(in_meta, str):
            return in_meta
        return self.keys[0] if self.keys else None

    @property
    def can_ask(self) -> bool:
        """Whether the client says that it can put questions to a person (2026-07-28)."""
        match self.meta.get(t.CLIENT_CAPABILITIES_META_KEY):
            case {"elicitation": {"form": dict()}}:
                return True
            case {"elicitation": {"url": dict()}}:
                return False
            case {"elicitation": dict()}:
                return True
            case _:
                return False

    @property
    def identity(self) -> Json:
        """Tells this call, in all its rounds, from others: who asks for what."""
        who = self.caller
        return [who.issuer, who.subject, who.tenant, who.client, self.tool, self.arguments]

    def answered(self, question: InputRequired, said: t.ElicitResult, round_key: str) -> "Asked":
        """Give the same with one more answer."""
        if said.action != "accept":
            return replace(self, declined=True)
        return replace(
            self,
            answers={**(self.answers or {}), question.name: _json(said)},
            questions={**self.questions, question.name: question.mark},
            round_key=self.round_key or round_key,
        )


Ask: TypeAlias = Callable[[Asked, Progress], Awaitable[Answer]]
"""Makes a call of what was asked: `McpServer.answer`."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """What the translation needs beside the gateway."""

    caller_of: Callable[[RequestContext], Caller]
    new_id: Callable[[], str]
    now: Callable[[], datetime]
    page_size: int
    states: RequestStates

    def asked(
        self,
        context: RequestContext,
        tool: str,
        arguments: JsonObject,
        params: t.InputResponseRequestParams,
    ) -> Asked:
        """Read what a client asks of `tool`, in a call, a resource's address or a prompt."""
        request = context.request
        asked = Asked(
            caller=self.caller_of(context),
            tool=tool,
            arguments=arguments,
            meta=context.meta or {},
            keys=request.headers.getlist("idempotency-key") if request is not None else [],
            standing=context.protocol_version not in MODERN_PROTOCOL_VERSIONS,
            token=request.scope.get(TOKEN) if request is not None else None,
            step_ups=request.scope.get(STEP_UP) if request is not None else None,
        )
        return asked if asked.standing else self._in_its_round(asked, params)

    def _in_its_round(self, asked: Asked, params: t.InputResponseRequestParams) -> Asked:
        """Add what was answered, now and in earlier rounds; what was not asked for is not looked at."""
        said = {n: r for n, r in (params.input_responses or {}).items() if isinstance(r, t.ElicitResult)}
        if params.request_state is not None:
            state = self.states.open(params.request_state, asked.identity)
            said = {name: result for name, result in said.items() if name == state.asked}
            asked = replace(asked, answers=state.answers, questions=state.questions, round_key=state.key)
        accepted = {name: _json(result) for name, result in said.items() if result.action == "accept"}
        declined = any(result.action != "accept" for result in said.values())
        return replace(asked, answers={**(asked.answers or {}), **accepted} or None, declined=declined)


def _json(said: t.ElicitResult) -> JsonObject:
    content = said.content or {}
    return {name: [*value] if isinstance(value, list) else value for name, value in content.items()}
