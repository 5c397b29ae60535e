"""Judges recorded calls under other rules: which would be answered otherwise, and which cannot be told."""

import gc
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import orjson

from toolgate.backends.policy.access import Unknown, Worlds, more_or_less, worlds
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.kinds import Kind, Kinds
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.recorded_calls import (
    NotJudged,
    Person,
    RecordedJudgement,
    RunHistory,
    caller_then,
    when_recorded,
)
from toolgate.core.call import Caller
from toolgate.core.decision import Past, Question, Verdict
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

Reason = Literal[
    "the argument was not kept",
    "the caller's roles were not kept",
    "neither arguments nor roles were kept",
    "the argument was removed since",
    "the caller's roles were removed since",
    "arguments and roles were removed since",
    "the caller's name was erased",
]
_ARGS: Final[frozenset[Unknown]] = frozenset({"args"})
_ROLES: Final[frozenset[Unknown]] = frozenset({"roles"})
_NOTHING: Final[frozenset[Unknown]] = frozenset()
_REASONS: Final[Mapping[frozenset[Unknown], Reason]] = {
    _ARGS: "the argument was not kept",
    _ROLES: "the caller's roles were not kept",
    _ARGS | _ROLES: "neither arguments nor roles were kept",
}
_REMOVED: Final[Mapping[frozenset[Unknown], Reason]] = {
    _ARGS: "the argument was removed since",
    _ROLES: "the caller's roles were removed since",
    _ARGS | _ROLES: "arguments and roles were removed since",
}
"""The same, where all of it was there once: somebody was erased, or it was kept long enough."""
_MOST_EXAMPLES: Final = 3
_NOBODY: Final = ("no rule",)
"""Stands for all kinds of calls that no rule concerns: one is answered as any other."""

_Judged: TypeAlias = tuple[Verdict, tuple[str, ...]]
"""A verdict, and the rules that mattered."""


@contextmanager
def no_collection() -> Generator[None]:
    """Keep the garbage collector from walking over a whole policy again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """What would be answered otherwise, in one way: the same for every call that is counted with it."""

    tenant: str
    subject: str
    """The clear name where it is still known, else the pseudonym."""
    tool: str
    before: Verdict
    after: Verdict
    rule_before: str
    """The rule that decided; an empty text where none allowed it."""
    rule_after: str

    @property
    def direction(self) -> Literal["gain", "loss"]:
        """Whether more would be allowed, or less."""
        return more_or_less(self.before, self.after) or "loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Untold:
    """Calls of which it cannot be told."""

    reason: Reason
    tool: str


@dataclass(kw_only=True)
class Replayed:
    """What a replay has found so far."""

    judged: int = 0
    """Calls of which it could be told, flips among them."""
    flips: Counter[Flip] = field(default_factory=Counter[Flip])
    examples: dict[Flip, list[str]] = field(default_factory=dict[Flip, list[str]])
    """Ids of the first calls of each flip."""
    untold: Counter[Untold] = field(default_factory=Counter[Untold])
    gone: Counter[str] = field(default_factory=Counter[str])
    """Calls of tools that are not admitted any more, by tool."""
    not_judged: Counter[str] = field(default_factory=Counter[str])
    """Calls that were refused before the policy was asked, by the code of the refusal."""

    def flipped(self, direction: Literal["gain", "loss"]) -> int:
        """Count the calls to which more, or less, would be allowed."""
        return sum(count for flip, count in self.flips.items() if flip.direction == direction)

    def note(self, flip: Flip, call_id: str) -> None:
        """Count one flip."""
        self.flips[flip] += 1
        examples = self.examples.setdefault(flip, [])
        if len(examples) < _MOST_EXAMPLES:
            examples.append(call_id)


class Replay:
    """Asks the judge of `text` about recorded calls, in the order in which they were recorded.

    Args:
        find: gives an admitted tool by name.
        subjects: whom pseudonyms of subjects stand for.
        clients: whom pseudonyms of clients stand for.
        runs: what the runs had done before the first call; it is told of every further one.
    """

    def __init__(
        self,
        text: PolicyText,
        find: Callable[[str], Tool | None],
        *,
        subjects: Mapping[str, Person],
        clients: Mapping[str, Person],
        runs: RunHistory,
    ) -> None:
        self._text, self._policy, self._find = text, CasbinPolicy(text), find
        self._subjects, self._clients, self._runs = subjects, clients, runs
        self._callers: dict[tuple[str, str, str, bytes | None], Caller | None] = {}
        self._tools: dict[str, Tool | None] = {}
        self._worlds: dict[frozenset[Unknown], Worlds] = {}
        self._kinds = Kinds(self._policy)
        self._same: dict[tuple[object, ...], _Judged | Reason] = {}
        self.found = Replayed()

    def judge(self, recorded: RecordedJudgement | NotJudged) -> None:
        """Judge one call, and note what came of it."""
        if isinstance(recorded, NotJudged):
            self.found.not_judged[recorded.status] += 1
            return
        answer = self._answer(recorded)
        if recorded.run and recorded.verdict == "allow":
            past = Past(recorded.tool, when_recorded(recorded))
            self._runs.begun(recorded.run, recorded.who, recorded.call_id, past)
        match answer:
            case None:
                self.found.gone[recorded.tool] += 1
            case str():
                self.found.untold[Untold(reason=answer, tool=recorded.tool)] += 1
            case verdict, rules:
                self.found.judged += 1
                if verdict != recorded.verdict:
                    self.found.note(self._flip(recorded, verdict, rules), recorded.call_id)

    def _answer(self, recorded: RecordedJudgement) -> _Judged | Reason | None:
        tool = self._tool(recorded.tool)
        if tool is None:
            return None
        caller = self._caller(recorded)
        if caller is None:
            return "the caller's name was erased"
        kind = self._kinds.of(caller, tool)
        missing = _missing(recorded, kind)
        answer = self._answer_without(missing, recorded, kind, tool)
        return _REMOVED[missing] if isinstance(answer, str) and missing <= recorded.removed else answer

    def _answer_without(
        self, missing: frozenset[Unknown], recorded: RecordedJudgement, kind: Kind, tool: Tool
    ) -> _Judged | Reason:
        read = kind.all_read if "roles" in missing else kind.reads
        concerned = kind.concerns or "roles" in missing
        key = (missing, kind.alike if concerned else _NOBODY)
        if read - missing:
            return self._judged(missing, self._question(recorded, kind.stand_in, tool, read))
        if key not in self._same:  # nothing of the call itself is looked at
            self._same[key] = self._judged(missing, self._question(recorded, kind.stand_in, tool, read))
        return self._same[key]

    def _judged(self, missing: frozenset[Unknown], question: Question) -> _Judged | Reason:
        """Ask the judge; both worlds where something was not kept that may make no difference."""
        if not missing:
            decision = self._policy.decide(question)
            return decision.verdict, decision.rules
        if missing not in self._worlds:
            self._worlds[missing] = worlds(self._text, missing)
        verdict = self._worlds[missing].verdict(question)
        return _REASONS[missing] if verdict is None else (verdict, ())

    def _question(
        self, recorded: RecordedJudgement, caller: Caller, tool: Tool, read: frozenset[Unknown]
    ) -> Question:
        wanted = recorded.arguments is not None and "args" in read
        arguments: JsonObject = orjson.loads(recorded.arguments or b"{}") if wanted else {}
        return Question(
            caller=caller,
            tool=tool,
            arguments=arguments,
            at=when_recorded(recorded),
            run=self._runs.before(recorded) if "run" in read else None,
        )

    def _tool(self, name: str) -> Tool | None:
        if name not in self._tools:
            self._tools[name] = self._find(name)
        return self._tools[name]

    def _caller(self, recorded: RecordedJudgement) -> Caller | None:
        key = (recorded.tenant, recorded.who, recorded.client, recorded.caller)
        if key not in self._callers:  # kept for good, so that its id is its own
            self._callers[key] = self._called(recorded)
        return self._callers[key]

    def _called(self, recorded: RecordedJudgement) -> Caller | None:
        person = self._subjects.get(recorded.who)
        return None if person is None else caller_then(recorded, person, self._clients.get(recorded.client))

    def _flip(self, recorded: RecordedJudgement, after: Verdict, rules: Sequence[str]) -> Flip:
        person = self._subjects.get(recorded.who)
        return Flip(
            tenant=recorded.tenant,
            subject=person.name if person else recorded.who,
            tool=recorded.tool,
            before=recorded.verdict,
            after=after,
            rule_before=recorded.rules[-1] if recorded.rules else "",
            rule_after=rules[-1] if rules else "",
        )


def _missing(recorded: RecordedJudgement, kind: Kind) -> frozenset[Unknown]:
    """Say what was not kept and could matter; without its roles, any rule may have been the caller's."""
    read = kind.reads if recorded.caller is not None else kind.all_read
    without = _ARGS if recorded.arguments is None and "args" in read else _NOTHING
    return without if recorded.caller is not None else without | _ROLES
