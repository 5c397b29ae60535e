"""The second judge: plain Casbin in a process of its own judges a sample again, and nobody waits for it."""

import asyncio
import io
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.policies_for_tests import NOON, Row, caller, judge, question, tool, with_index
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.index import RuleIndex
from toolgate.backends.policy.second_judge import (
    COMMAND,
    Asked,
    Difference,
    Message,
    Opinion,
    Patience,
    SampledPolicy,
    SecondJudge,
    judge_again,
)
from toolgate.backends.policy.text import Rule
from toolgate.core.arguments import Schema
from toolgate.core.decision import Past, Question
from toolgate.core.tool import Tool

READ, GRANT = tool("crm.read"), tool("crm.grant", "write")
ANN, MIA = caller("support"), caller(subject="mia")
POLICY: list[Row] = [
    ("allow", "support", "*", "crm.*", "*", "-", "-", "rows=5"),
    ("deny", "*", "*", "group", "write", "args.amount > 5", "approval:boss"),
    ("deny", "*", "*", "group", "write", "args.amount > 500", "-"),
    ("oblige", "*", "acme", "crm.read", "read", "-", "-", "mask=email; credential=dynamic"),
    ("shadow-deny", "user:mia", "acme", "*", "*", "-", "-"),
]
ASKED = [
    question(who, what, {"amount": amount, "text": "a secret word"})
    for who in (ANN, MIA)
    for what in (READ, GRANT)
    for amount in (1, 5.5, 501, "x")
]
HANGS = (sys.executable, "-c", "import time; time.sleep(600)")
DIES = (sys.executable, "-c", "")
BABBLES = (sys.executable, "-c", "import os, time; os.write(1, bytes([255] * 99)); time.sleep(600)")
QUICK = Patience(answer=60, first_pause=0.01, longest_pause=0.05)


class WithoutGroups(RuleIndex):
    """An index that has forgotten what groups are."""

    def rules_for(self, tool: Tool, groups: frozenset[str], tenant: str, names: frozenset[str]) -> list[Rule]:
        return super().rules_for(tool, frozenset({tool.name}), tenant, names)


class Told:
    """Keeps the differences that it is told of."""

    def __init__(self) -> None:
        self.differences: list[Difference] = []

    async def __call__(self, difference: Difference) -> None:
        self.differences.append(difference)


async def fails(_: Difference) -> None:
    raise RuntimeError("nobody is there")


@asynccontextmanager
async def second_judge(
    *,
    every: int = 1,
    patience: Patience = QUICK,
    command: Sequence[str] = COMMAND,
    told: Callable[..., object] | None = None,
) -> AsyncGenerator[SecondJudge]:
    second = SecondJudge(
        every=every,
        on_difference=told or Told(),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        patience=patience,
        command=command,
    )
    try:
        yield second
    finally:
        await second.aclose()


def sampled(second: SecondJudge, policy: CasbinPolicy | None = None) -> SampledPolicy:
    policy = policy or judge(POLICY)
    return second.sampled(policy, policy.text)


def broken() -> CasbinPolicy:
    policy = judge(POLICY)
    return with_index(policy, WithoutGroups(policy.text.rules))


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not happened():
            await asyncio.sleep(0.005)


def done(second: SecondJudge) -> int:
    counts = second.compared
    return counts.agreed + counts.differed + counts.unanswered


async def test_both_judges_agree_on_all_that_a_decision_says() -> None:
    async with second_judge() as second:
        policy = sampled(second)
        verdicts = {policy.decide(asked).verdict for asked in ASKED}
        await until(lambda: done(second) == len(ASKED))

        assert verdicts == {"allow", "hold", "deny"}
        assert second.compared.agreed == len(ASKED)


async def test_every_nth_decision_is_judged_again() -> None:
    async with second_judge(every=5) as second:
        policy = sampled(second)
        for _ in range(14):
            policy.decide(ASKED[0])
        assert second.compared.asked == 2
        policy.decide(ASKED[0])
        assert second.compared.asked == 3
        await until(lambda: done(second) == 3)


async def test_a_sampled_policy_answers_as_the_policy_does() -> None:
    async with second_judge() as second:
        policy = judge(POLICY)
        both = sampled(second, policy)

        assert [both.decide(asked) for asked in ASKED] == [policy.decide(asked) for asked in ASKED]
        assert both.digest == policy.digest
        for asked in ASKED:
            who, what = asked.caller, asked.tool
            assert both.visible(who, what) == policy.visible(who, what)
            assert both.asks_run(who, what) == policy.asks_run(who, what)


async def test_a_broken_index_is_an_alarm_that_tells_no_argument(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    async with second_judge(told=told) as second:
        policy = sampled(second, broken())
        assert (
            policy.decide(question(ANN, GRANT, {"amount": 501, "text": "a secret word"})).verdict == "allow"
        )
        await until(lambda: done(second) == 1)

        assert second.compared.differed == 1
    (difference,) = told.differences
    assert difference.tool == "crm.grant"
    assert difference.policy == policy.digest
    assert (difference.given.verdict, difference.given.rules) == ("allow", ("R0",))
    assert (difference.plain.verdict, difference.plain.rules) == ("deny", ("R2",))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "judged allow by R0; obliged to rows=5; plain Casbin: deny by R2" in caplog.text
    assert "secret" not in caplog.text + str(difference)
    assert "501" not in caplog.text


async def test_an_alarm_that_cannot_be_passed_on_does_not_end_the_second_judge() -> None:
    async with second_judge(told=fails) as second:
        policy = sampled(second, broken())
        for _ in range(2):
            policy.decide(question(ANN, GRANT, {"amount": 501}))
        await until(lambda: second.compared.differed == 2)


async def test_another_version_is_judged_by_its_own_rules() -> None:
    async with second_judge() as second:
        one, other = sampled(second), sampled(second, judge([("allow", "*", "*", "*", "*", "-", "-")]))
        for policy in (one, other, one):
            for asked in ASKED:
                policy.decide(asked)
        await until(lambda: done(second) == 3 * len(ASKED))

        assert second.compared.agreed == 3 * len(ASKED)
        assert second.compared.restarts == 0


async def test_runs_clocks_and_kinds_of_numbers_arrive_as_they_are() -> None:
    schema = Schema({"type": "object", "properties": {"amount": {"type": "integer"}}})
    rows: list[Row] = [
        ("allow", "*", "*", "*", "*", 'called("crm.*")', "-"),
        ("deny", "*", "*", "*", "*", "now > timestamp('2026-11-18T12:00:00.000001Z')", "-"),
        ("deny", "*", "*", "*", "*", "args.amount == 9007199254740993", "-"),
        ("deny", "*", "*", "*", "*", "caller.client == 'c1' && 'admin' in caller.scopes", "-"),
    ]
    what = tool("crm.read")
    what = replace(what, input=schema)
    who = ANN.model_copy(update={"client": "c1", "scopes": frozenset({"admin"})})
    microsecond = NOON.replace(microsecond=2)
    run = (Past("crm.read", NOON),)
    asked = [
        Question(caller=one, tool=what, arguments={"amount": amount}, at=at, run=past)
        for one in (ANN, who)
        for amount in (9007199254740993, 9007199254740992, 5, 5.0)
        for at in (NOON, microsecond)
        for past in (None, (), run)
    ]
    async with second_judge() as second:
        policy = sampled(second, judge(rows))
        verdicts = {policy.decide(one).verdict for one in asked}
        await until(lambda: done(second) == len(asked))

        assert verdicts == {"allow", "deny"}
        assert second.compared.agreed == len(asked)


async def test_a_killed_child_is_started_again() -> None:
    async with second_judge() as second:
        policy = sampled(second)
        policy.decide(ASKED[0])
        await until(lambda: done(second) == 1)
        os.kill(_pid(second), signal.SIGKILL)
        policy.decide(ASKED[1])
        await until(lambda: done(second) == 2)
        policy.decide(ASKED[2])
        await until(lambda: second.compared.agreed == 2)

        assert second.compared.unanswered == 1
        assert second.compared.restarts == 1


async def test_whatever_goes_wrong_with_one_decision_the_next_are_judged_again() -> None:
    async with second_judge() as second:
        policy = sampled(second)
        unheard_of = replace(ASKED[0], tool=replace(READ, input=None))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        second.note(policy.text, unheard_of, policy.decide(ASKED[0]))
        policy.decide(ASKED[1])
        await until(lambda: done(second) == 3)

        assert (second.compared.agreed, second.compared.unanswered) == (2, 1)


async def test_a_stopped_child_is_ended_and_decisions_go_on() -> None:
    async with second_judge(patience=Patience(answer=2, first_pause=0.01)) as second:
        policy = sampled(second)
        policy.decide(ASKED[0])
        await until(lambda: second.compared.agreed == 1)
        stopped = _pid(second)
        os.kill(stopped, signal.SIGSTOP)
        assert policy.decide(ASKED[1]).verdict == "allow"
        await until(lambda: second.compared.unanswered == 1)
        policy.decide(ASKED[2])
        await until(lambda: second.compared.agreed == 2)

        assert _pid(second) != stopped
        assert not _runs(stopped)


@pytest.mark.parametrize("command", [DIES, BABBLES, ("/no/such/program",)])
async def test_a_child_that_is_none_stops_nothing(command: Sequence[str]) -> None:
    async with second_judge(command=command) as second:
        policy = sampled(second)
        for _ in range(3):
            policy.decide(ASKED[0])
        await until(lambda: second.compared.unanswered == 3)

        assert second.compared.restarts == 2


async def test_what_there_is_no_time_for_is_dropped_and_counted() -> None:
    async with second_judge(command=HANGS) as second:
        policy = sampled(second)
        for number in range(500):
            assert policy.decide(ASKED[0]).verdict == "allow"
            if number == 0:
                await until(lambda: second.compared.child is not None)
        counts = second.compared

        assert counts.asked == 500
        assert counts.dropped == 500 - 65  # one is asked, 64 wait
        pid = _pid(second)
    assert not _runs(pid)


async def test_with_zero_nothing_is_judged_again_and_nothing_started() -> None:
    async with second_judge(every=0) as second:
        policy = sampled(second)
        for asked in ASKED:
            policy.decide(asked)

        assert second.compared.asked == 0
        assert second.compared.child is None


async def test_the_child_has_nothing_of_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLGATE_PASSPHRASE", "a secret word")
    kept = os.open(__file__, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        async with second_judge() as second:
            sampled(second).decide(ASKED[0])
            await until(lambda: done(second) == 1)
            environment, files = _holdings(_pid(second))

            assert b"TOOLGATE" not in environment
            assert Path(__file__) not in files
            assert os.getsid(_pid(second)) != os.getsid(0)
    finally:
        os.close(kept)


def _holdings(pid: int) -> tuple[bytes, set[Path]]:
    """Give a process's environment and open files."""
    process = Path(f"/proc/{pid}")
    return (process / "environ").read_bytes(), {link.readlink() for link in (process / "fd").iterdir()}


def test_the_child_ends_with_its_input() -> None:
    judge_again(io.BytesIO(), io.BytesIO())
    judge_again(io.BytesIO(b"\x00\x00"), io.BytesIO())


def test_the_child_takes_no_question_before_a_policy() -> None:
    message = b"{}"
    with pytest.raises(ValueError, match="before a policy"):
        judge_again(io.BytesIO(len(message).to_bytes(4) + message), io.BytesIO())


def test_the_child_takes_no_policy_with_a_fault() -> None:
    parts = (b'{"files": ["rules.csv"]}', b"p, X")
    with pytest.raises(ValueError, match="1 faults"):
        judge_again(io.BytesIO(b"".join(len(part).to_bytes(4) + part for part in parts)), io.BytesIO())


def test_the_child_answers_with_its_opinion() -> None:
    """In this process, where a debugger and the measure of coverage can look at it."""
    policy = judge(POLICY)
    asked = ASKED[4]
    parts = [
        Message(files=tuple(policy.text.files)).model_dump_json().encode(),
        *(text.encode() for text in policy.text.files.values()),
        Message(asked=Asked.of(asked)).model_dump_json().encode(),
    ]
    answers = io.BytesIO()
    judge_again(io.BytesIO(b"".join(len(part).to_bytes(4) + part for part in parts)), answers)

    said = answers.getvalue()
    first = int.from_bytes(said[:4])
    assert policy.digest.encode() in said[4 : 4 + first]
    assert Opinion.model_validate_json(said[8 + first :]) == Opinion.of(policy.decide(asked))


def _pid(second: SecondJudge) -> int:
    assert second.compared.child is not None
    return second.compared.child


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
