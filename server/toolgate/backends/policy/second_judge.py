"""A second judge: one decision of many is judged again by plain Casbin, in a process of its own.

The index in front of Casbin, the compiled matcher and the role manager are ours, and so could be wrong. The
second judge has none of them: every rule, Casbin's own loop, evaluator and roles. Where the two differ, it is
an alarm. It never holds up a decision: what it has no time for is dropped, and counted.

The child reads messages from its standard input and answers each on its standard output, both as a 4-byte
length and that many bytes. It knows the policy's files and the questions, and has no environment.
"""

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import BinaryIO, Final

from toolgate.adapter.context import Effect
from toolgate.backends.policy.casbin_judge import PlainPolicy
from toolgate.backends.policy.reading import parse_policy
from toolgate.backends.policy.text import PolicyText
from toolgate.core.arguments import Schema
from toolgate.core.call import Caller
from toolgate.core.decision import Decision, Past, Question, Verdict
from toolgate.core.ports import Policy
from toolgate.core.record import JsonObject, Record
from toolgate.core.tool import Terms, Tool

log = logging.getLogger(__name__)

EVERY: Final = 1000
"""Of so many decisions one is judged again, where the settings say nothing else."""
COMMAND: Final = (sys.executable, "-I", "-m", "toolgate.backends.policy.second_judge")
_WAITING: Final = 64
"""How many decisions wait for the second judge at most. Each holds its arguments."""
_LONGEST_ANSWER: Final = 2**24


class Opinion(Record):
    """What a judge said, as far as two judges of one policy must agree."""

    verdict: Verdict
    rules: tuple[str, ...]
    approvers: tuple[str, ...]
    obligations: tuple[str, ...]
    unknown: tuple[str, ...]
    shadow: tuple[str, ...]
    """The verdict that rules in shadow would have given and those rules; empty where it would be the same."""

    @classmethod
    def of(cls, decision: Decision) -> "Opinion":
        """Take the opinion out of a decision."""
        shadow = decision.would_be
        return cls(
            verdict=decision.verdict,
            rules=decision.rules,
            approvers=decision.approvers,
            obligations=tuple(decision.obligations.spelled()),
            unknown=decision.unknown,
            shadow=(shadow.verdict, *shadow.rules) if shadow else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two judges of one policy who do not agree on one call. It holds no argument and no caller."""

    policy: str
    """Digest of the policy that both judged by."""
    tool: str
    given: Opinion
    """What was answered to the caller."""
    plain: Opinion
    """What plain Casbin says."""

    def __str__(self) -> str:
        given, plain = (_told(opinion) for opinion in (self.given, self.plain))
        return (
            f"a call of {self.tool} under policy {self.policy[:16]} was judged {given}; plain Casbin: {plain}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the second judge has done since the start."""

    asked: int = 0
    """How many decisions were chosen: those that are counted below, and those that wait."""
    agreed: int = 0
    differed: int = 0
    dropped: int = 0
    """Chosen while too many waited already."""
    unanswered: int = 0
    """The child died over them, or took too long."""
    restarts: int = 0
    """How often a child was started because the one before had ended."""
    child: int | None = None
    """The child's process id; None where none runs."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the second judge's child is waited for, in seconds."""

    answer: float = 60.0
    """For one answer, or for reading a policy: plain Casbin takes 0.4 s at 100,000 rules."""
    first_pause: float = 1.0
    """Before a child is started again; doubled each time, up to `longest_pause`."""
    longest_pause: float = 300.0


async def _to_nobody(_: Difference, /) -> None:
    """Tell of a difference in the log alone."""


class SecondJudge:
    """Hands every `every`-th decision to plain Casbin in a child, and compares. It belongs to one event loop.

    One of it serves all versions of a policy: a question under another version brings that version along.
    """

    def __init__(
        self,
        *,
        every: int = EVERY,
        on_difference: Callable[[Difference], Awaitable[None]] = _to_nobody,
        patience: Patience | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._every = every
        self._on_difference = on_difference
        self._patience = patience or Patience()
        self._command = command
        self._decided = 0
        self._waiting: asyncio.Queue[_Chosen] = asyncio.Queue(_WAITING)
        self._work: asyncio.Task[None] | None = None
        self._child: _Child | None = None
        self._counts = dict.fromkeys(("asked", "agreed", "differed", "dropped", "unanswered", "starts"), 0)

    @property
    def compared(self) -> Compared:
        """Say what has been done so far."""
        counts = {name: count for name, count in self._counts.items() if name != "starts"}
        child = self._child.process.pid if self._child is not None else None
        return Compared(**counts, restarts=max(0, self._counts["starts"] - 1), child=child)

    def sampled(self, policy: Policy, text: PolicyText) -> "SampledPolicy":
        """Give `policy`, of which decisions are judged again by `text`, the same version as it is written."""
        return SampledPolicy(policy=policy, text=text, second=self)

    def note(self, text: PolicyText, question: Question, decision: Decision) -> None:
        """Take note of a decision, and choose it when its turn has come. It returns at once."""
        self._decided += 1
        if not self._every or self._decided % self._every:
            return
        self._counts["asked"] += 1
        if self._waiting.full():
            self._counts["dropped"] += 1
            return
        self._waiting.put_nowait(_Chosen(text, question, decision))
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._compare_all())

    async def aclose(self) -> None:
        """End the child. What still waits is not judged again."""
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
        await self._end_child()

    async def _compare_all(self) -> None:
        pause = self._patience.first_pause
        while True:
            chosen = await self._waiting.get()
            try:
                async with asyncio.timeout(self._patience.answer):
                    plain = await self._asked(chosen)
                given = Opinion.of(chosen.decision)
            except Exception as error:  # noqa: BLE001 - one that ended this task would end all comparing
                self._counts["unanswered"] += 1
                log.warning("the second judge did not answer and is started again: %s", _ended(error))
                await self._end_child()
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._patience.longest_pause)
            else:
                pause = self._patience.first_pause
                await self._compare(chosen, given, plain)

    async def _asked(self, chosen: "_Chosen") -> Opinion:
        if self._child is None:
            self._counts["starts"] += 1
            self._child = await _Child.start(self._command)
        if self._child.policy != chosen.text.digest:
            await self._child.take_up(chosen.text)
        return await self._child.ask(chosen.question)

    async def _compare(self, chosen: "_Chosen", given: Opinion, plain: Opinion) -> None:
        if given == plain:
            self._counts["agreed"] += 1
            return
        self._counts["differed"] += 1
        difference = Difference(
            policy=chosen.text.digest, tool=chosen.question.tool.name, given=given, plain=plain
        )
        log.error("ALARM: two judges differ. %s", difference)
        try:
            await self._on_difference(difference)
        except Exception:
            log.exception("a difference between two judges could not be passed on")

    async def _end_child(self) -> None:
        if self._child is not None:
            await self._child.end()
            self._child = None  # only now: whoever is cancelled meanwhile leaves a child that is known


@dataclass(frozen=True, kw_only=True)
class SampledPolicy:
    """A policy of which some decisions are judged again. It answers as `policy` does, and as fast."""

    policy: Policy
    text: PolicyText
    second: SecondJudge

    @property
    def digest(self) -> str:
        return self.policy.digest

    def decide(self, question: Question) -> Decision:
        decision = self.policy.decide(question)
        self.second.note(self.text, question, decision)
        return decision

    def visible(self, caller: Caller, tool: Tool) -> bool:
        return self.policy.visible(caller, tool)

    def asks_run(self, caller: Caller, tool: Tool) -> bool:
        return self.policy.asks_run(caller, tool)


@dataclass(frozen=True, slots=True)
class _Chosen:
    text: PolicyText
    question: Question
    decision: Decision


@dataclass
class _Child:
    """The process, and the policy that it has."""

    process: Process
    policy: str = ""

    @classmethod
    async def start(cls, command: Sequence[str]) -> "_Child":
        """Start it with nothing of ours but the code: no environment, no terminal, no open file."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={}, start_new_session=True
        )
        return cls(process)

    async def take_up(self, text: PolicyText) -> None:
        """Hand over a policy, each file by itself: one JSON text of all would stall the event loop."""
        self._send(Message(files=tuple(text.files)))
        for content in text.files.values():
            self._send(content.encode())
        taken = Message.model_validate_json(await self._answer())
        if taken.policy != text.digest:
            raise ValueError("it has read another policy than it was given")
        self.policy = text.digest

    async def ask(self, question: Question) -> Opinion:
        self._send(Message(asked=Asked.of(question)))
        return Opinion.model_validate_json(await self._answer())

    async def end(self) -> None:
        """Kill it and wait for its end: it keeps nothing."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()

    def _send(self, message: "Message | bytes") -> None:
        data = message if isinstance(message, bytes) else message.model_dump_json().encode()
        if self.process.stdin is None:
            raise EOFError("it has no input")
        self.process.stdin.write(len(data).to_bytes(4))
        self.process.stdin.write(data)

    async def _answer(self) -> bytes:
        if self.process.stdout is None or self.process.stdin is None:
            raise EOFError("it has no output")
        await self.process.stdin.drain()
        length = int.from_bytes(await self.process.stdout.readexactly(4))
        if length > _LONGEST_ANSWER:
            raise ValueError("its answer is too long")
        return await self.process.stdout.readexactly(length)


class Asked(Record):
    """A question as it is sent."""

    caller: Caller
    tool: str
    effect: Effect
    schema_: JsonObject
    """The tool's input schema: by it a judge tells `integer` from `number`."""
    arguments: JsonObject
    at: datetime
    run: tuple[tuple[str, datetime], ...] | None

    @classmethod
    def of(cls, question: Question) -> "Asked":
        run = question.run
        return cls(
            caller=question.caller,
            tool=question.tool.name,
            effect=question.tool.terms.effect,
            schema_=question.tool.input.document,
            arguments=question.arguments,
            at=question.at,
            run=None if run is None else tuple((past.tool, past.at) for past in run),
        )

    def question(self) -> Question:
        """Give the question back, with as much of the tool as a judge looks at."""
        schema = Message(schema_=self.schema_).model_dump_json()
        return Question(
            caller=self.caller,
            tool=_tool(self.tool, self.effect, schema),
            arguments=self.arguments,
            at=self.at,
            run=None if self.run is None else tuple(Past(tool, at) for tool, at in self.run),
        )


class Message(Record):
    """What is sent to the child, and how it says that it has taken up a policy."""

    files: tuple[str, ...] = ()
    """Names of files whose texts follow, one message each."""
    asked: Asked | None = None
    schema_: JsonObject | None = None
    policy: str = ""


@lru_cache(maxsize=1024)
def _tool(name: str, effect: Effect, schema: str) -> Tool:
    document = Message.model_validate_json(schema).schema_ or {}
    terms = Terms(
        effect=effect, timeout=1, duplicates="none", capture="metadata", scopes=frozenset(), credential="none"
    )
    return Tool(
        name=name,
        wire_name=name,
        system="",
        operation="",
        title="",
        description="",
        terms=terms,
        input=Schema(document),
        output=Schema({}),
        credential=None,
    )


def judge_again(asked: BinaryIO, answers: BinaryIO) -> None:
    """Be the child: read policies and questions until there are no more, and answer each."""
    policy: PlainPolicy | None = None
    while (data := _read(asked)) is not None:
        message = Message.model_validate_json(data)
        if message.files:
            policy = _policy({name: (_read(asked) or b"").decode() for name in message.files})
            answer: Record = Message(policy=policy.digest)
        elif message.asked is not None and policy is not None:
            answer = Opinion.of(policy.decide(message.asked.question()))
        else:
            raise ValueError("a question came before a policy")
        spelled = answer.model_dump_json().encode()
        answers.write(len(spelled).to_bytes(4) + spelled)
        answers.flush()


def _policy(files: dict[str, str]) -> PlainPolicy:
    text, faults = parse_policy(files)
    if text is None:
        raise ValueError(f"a policy in force has {len(faults)} faults")
    return PlainPolicy(text)


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    return stream.read(int.from_bytes(head)) if len(head) == 4 else None  # noqa: PLR2004 - as it is written


def _told(opinion: Opinion) -> str:
    parts = [f"{opinion.verdict} by {', '.join(opinion.rules) or 'no rule'}"]
    more = {"approvers": opinion.approvers, "obliged to": opinion.obligations, "unknown": opinion.unknown}
    parts += [f"{name} {', '.join(words)}" for name, words in more.items() if words]
    return "; ".join(parts + ([f"in shadow {', '.join(opinion.shadow)}"] if opinion.shadow else []))


def _ended(error: Exception) -> str:
    """Say how it failed, and nothing that it may have been told: an error of validation repeats values."""
    return "it was too slow" if isinstance(error, TimeoutError) else type(error).__name__


if __name__ == "__main__":
    os.nice(10)  # the gate has the better claim to the processor
    judge_again(sys.stdin.buffer, sys.stdout.buffer)
