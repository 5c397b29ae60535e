"""`make bench`: what a decision costs, beside plain Casbin with the same rules and requests.

`python -m bench.policy [--rules 10000 100000]`. Each size is measured in a process of its own, and every
answer of plain Casbin is compared with ours. Times are the thread's CPU time, since others may use the
machine; only the stall of the event loop is time by the clock. What counts is the ratio, and a bar that
holds with room.
"""

import argparse
import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import casbin
import psutil
import uvloop

from bench.policies import World, world
from toolgate.backends.ledger_entries import micros
from toolgate.backends.policy.against_registry import faults_against
from toolgate.backends.policy.casbin_judge import MODEL, CasbinPolicy, PlainPolicy
from toolgate.backends.policy.cases import run_cases
from toolgate.backends.policy.reading import parse_policy
from toolgate.backends.policy.replaying import Replay, no_collection
from toolgate.backends.policy.second_judge import Opinion
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.recorded_calls import Person, RecordedJudgement, RunHistory
from toolgate.core.decision import Question
from toolgate.rulebooks import beside

ROUNDS, ASKED, LISTS, RELOADS, CASES = 3, 20_000, 100, 3, 2_000
PLAIN_RULES = 600_000
"""How many rules plain Casbin looks at in all: it takes up to 50 microseconds for each."""


@dataclass(frozen=True)
class Bar:
    """What a figure has to be at most, or at least."""

    figure: str
    at: dict[int, float]
    at_least: bool = False

    def is_held(self, size: int, value: float) -> bool:
        """Whether a figure of this size keeps it."""
        return value >= self.at[size] if self.at_least else value < self.at[size]


BARS = (
    Bar("decision, warm, p99 (us)", {10_000: 100, 100_000: 300}),
    Bar("load: read, check, index (s)", {10_000: 1, 100_000: 5}),
    Bar("event loop's worst stall in a reload (ms)", {10_000: 50}),
    Bar("tools/list over 400 tools, warm, p99 (ms)", {10_000: 5, 100_000: 5}),
    Bar("replay, calls seen first (calls/s)", {10_000: 20_000}, at_least=True),
    Bar("replay, the same calls again (calls/s)", {10_000: 20_000}, at_least=True),
    Bar("policy test, 2,000 cases (s)", {10_000: 2}),
)
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--json", action="store_true", help="measure the one size here, and write JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measured(options.rules[0]), indent=2))
        return
    report = {size: _in_a_process(size) for size in options.rules}
    for name in report[options.rules[0]]:
        print(f"{name:<52}" + "".join(f"{report[size][name]:>14,.2f}" for size in options.rules))
    for size, figures in report.items():
        for bar in BARS:
            if size in bar.at:
                held = "held" if bar.is_held(size, figures[bar.figure]) else "MISSED"
                sign = ">=" if bar.at_least else "<"
                print(f"{size:>8,} rules: {bar.figure} {sign} {bar.at[size]:g}: {held}")


def _in_a_process(size: int) -> Figures:
    command = [sys.executable, "-m", "bench.policy", "--json", "--rules", str(size)]
    figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return figures


def measured(rules: int) -> Figures:
    """Measure a policy of `rules` rules in every way."""
    told = world(rules)
    files = {**told.files, "model.conf": MODEL}
    before = _megabytes()
    read, load = _load(told)
    _, different = _load(world(rules, conditions=_many(rules)))
    text = _read(files)
    policy = CasbinPolicy(text)
    gc.collect()
    gc.freeze()
    memory = _megabytes() - before
    asked = told.questions(ASKED)
    first = _timed(policy, asked)
    warm = [_timed(policy, asked) for _ in range(ROUNDS)]
    best = min(warm, key=statistics.fmean)
    candidates = [len(policy.candidates(one.caller, one.tool)) for one in asked]
    return {
        "rules": rules,
        "users": len(told.callers),
        "candidates of a question, mean": statistics.fmean(candidates),
        "candidates of a question, most": max(candidates),
        "load: read (s)": read,
        "load: read, check, index (s)": load,
        "load: the same, every condition different (s)": different,
        "memory of the policy (MB)": memory,
        "decision, first time, mean (us)": statistics.fmean(first),
        "decision, first time, p99 (us)": _percentile(first, 0.99),
        "decision, warm, mean (us)": statistics.fmean(best),
        "decision, warm, p50 (us)": _percentile(best, 0.50),
        "decision, warm, p95 (us)": _percentile(best, 0.95),
        "decision, warm, p99 (us)": _percentile(best, 0.99),
        **_without(policy, text, asked, statistics.fmean(best)),
        **_lists(CasbinPolicy(text), told),
        **_replays(text, told, asked),
        **_cases(told, asked[:CASES]),
        "event loop's worst stall in a reload (ms)": uvloop.run(_worst_stall(files)),
    }


def _load(told: World) -> tuple[float, float]:
    """Load as a gate does, three times: the seconds for reading, and for all. The best counts."""
    files = {**told.files, "model.conf": MODEL}
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        with _uncollected():
            begin = time.thread_time()
            text = _read(files)
            read = time.thread_time() - begin
            if faults := faults_against(text, told.tools):
                raise SystemExit(f"the policy does not fit its tools: {faults[:3]}")
            CasbinPolicy(text)
            times.append((read, time.thread_time() - begin))
        del text
        gc.collect()
    return min(times, key=lambda pair: pair[1])


def _many(rules: int) -> tuple[str, ...]:
    """Give so many conditions that hardly two rules have the same."""
    return tuple(f'args.amount <= {number} && args.region == "eu"' for number in range(10 * rules))


def _read(files: dict[str, str]) -> PolicyText:
    text, faults = parse_policy(files)
    if text is None:
        raise SystemExit(f"the policy has faults: {faults[:3]}")
    return text


def _timed(policy: CasbinPolicy, asked: Sequence[Question]) -> list[float]:
    times: list[float] = []
    for one in asked:
        begin = time.thread_time_ns()
        policy.decide(one)
        times.append((time.thread_time_ns() - begin) / 1000)
    return times


class Unindexed(PlainPolicy):
    """Every rule and no index, but our matcher and roles."""

    def _new_enforcer(self) -> object:
        return CasbinPolicy._new_enforcer(self)


class Forgetful(CasbinPolicy):
    """The index is asked each time: what was found for the same kind of call is not remembered."""

    def _could_match(self, caller, tool):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        self._candidates.clear()
        return super()._could_match(caller, tool)


class Parsing(CasbinPolicy):
    """Indexed, and with Casbin's own evaluator, which parses the matcher on every call."""

    def __init__(self, text: PolicyText) -> None:
        super().__init__(text)
        self._enforcer.__class__ = casbin.Enforcer


def _without(policy: CasbinPolicy, text: PolicyText, asked: Sequence[Question], ours: float) -> Figures:
    """Take away what makes it fast, one by one; and everything: that is plain Casbin."""
    some = random.Random(3).sample(asked, max(5, PLAIN_RULES // len(text.rules)))  # noqa: S311
    plain = PlainPolicy(text)
    plain.decide(some[0])  # Casbin builds its graph of roles at the first question of each tenant
    for one in some:
        given, said = Opinion.of(policy.decide(one)), Opinion.of(plain.decide(one))
        if given != said:
            raise SystemExit(f"plain Casbin says {said}, and we {given}")
    plain_mean = statistics.fmean(_timed(plain, some))
    few = asked[:5000]
    return {
        "plain Casbin, mean (us)": plain_mean,
        "plain Casbin, times as long": plain_mean / ours,
        "without the index, mean (us)": statistics.fmean(_timed(Unindexed(text), some)),
        "without the compiled matcher, mean (us)": statistics.fmean(_again(Parsing(text), few)),
        "without what was found before, mean (us)": statistics.fmean(_again(Forgetful(text), few)),
    }


def _again(policy: CasbinPolicy, asked: Sequence[Question]) -> list[float]:
    _timed(policy, asked)
    return _timed(policy, asked)


def _lists(policy: CasbinPolicy, told: World) -> Figures:
    """Ask which of 400 tools a caller may see, as `tools/list` does."""
    callers = random.Random(5).sample(told.callers, LISTS)  # noqa: S311

    def once() -> list[float]:
        times: list[float] = []
        for caller in callers:
            begin = time.thread_time_ns()
            for tool in told.tools:
                policy.visible(caller, tool)
            times.append((time.thread_time_ns() - begin) / 1e6)
        return times

    first, warm = once(), once()
    return {
        "tools/list over 400 tools, first time, p50 (ms)": _percentile(first, 0.5),
        "tools/list over 400 tools, warm, p50 (ms)": _percentile(warm, 0.5),
        "tools/list over 400 tools, warm, p99 (ms)": _percentile(warm, 0.99),
    }


def _replays(text: PolicyText, told: World, asked: Sequence[Question]) -> Figures:
    """Judge recorded calls as `policy replay` does, without reading the ledger; then the same again."""
    recorded = [_recorded(number, one) for number, one in enumerate(asked)]
    tools = {tool.name: tool for tool in told.tools}
    subjects = {f"p-{caller.subject}": Person("bench", caller.subject) for caller in told.callers}
    best = (0.0, 0.0)
    for _ in range(ROUNDS):
        replay = Replay(text, tools.get, subjects=subjects, clients={}, runs=RunHistory())
        gc.collect()
        with no_collection():
            best = max(best, (_judged_a_second(replay, recorded), _judged_a_second(replay, recorded)))
    return {
        "replay, calls seen first (calls/s)": best[0],
        "replay, the same calls again (calls/s)": best[1],
    }


def _judged_a_second(replay: Replay, recorded: Sequence[RecordedJudgement]) -> float:
    begin = time.thread_time()
    for one in recorded:
        replay.judge(one)
    return len(recorded) / (time.thread_time() - begin)


def _recorded(number: int, asked: Question) -> RecordedJudgement:
    return RecordedJudgement(
        entry=number,
        call_id=f"c{number}",
        at=micros(asked.at),
        tenant=asked.caller.tenant,
        who=f"p-{asked.caller.subject}",
        client="",
        tool=asked.tool.name,
        run="",
        verdict="deny",
        rules=(),
        config=0,
        arguments=json.dumps(asked.arguments).encode(),
        caller=b'{"roles":[],"scopes":[]}',
    )


def _cases(told: World, asked: Sequence[Question]) -> Figures:
    """Read and judge a file of cases as `policy test` does, with what it says about coverage."""
    people = {one.caller.subject: one.caller.tenant for one in asked}
    lines = ["[people]", *(f'{name} = {{ tenant = "{tenant}" }}' for name, tenant in people.items())]
    for number, one in enumerate(asked):
        given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in one.arguments.items())
        lines += ["[[case]]", f'name = "case {number}"', f'as = "{one.caller.subject}"']
        lines += [f'tool = "{one.tool.name}"', f"args = {{ {given} }}", 'expect = "deny"']
    text = _read({**told.files, "model.conf": MODEL, "cases/all.toml": "\n".join(lines)})
    begin = time.thread_time()
    tested = run_cases(text, told.tools)
    seconds = time.thread_time() - begin
    if len(tested.cases) != len(asked) or tested.faults:
        raise SystemExit(f"the cases have faults: {tested.faults[:3]}")
    return {"policy test, 2,000 cases (s)": seconds}


async def _worst_stall(files: dict[str, str]) -> float:
    """Reload in a thread as the gate does, and see how late a loop that does nothing else wakes up."""
    worst = 0.0
    for _ in range(RELOADS):
        building = asyncio.create_task(beside(lambda: CasbinPolicy(_read(files))))
        while not building.done():
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - begin - 0.001)
        begin = time.perf_counter()
        await building
        await asyncio.sleep(0)
        worst = max(worst, time.perf_counter() - begin)
    return worst * 1000


@contextmanager
def _uncollected() -> Generator[None]:
    """Let the collector stand still, as a gate does while it loads."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _megabytes() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    main()
