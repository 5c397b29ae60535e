"""One trial: callers who want every call done once, gates that are killed, and a look at what is left."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.torture.books import Database
from tests.torture.plans import Plan, plans
from tests.torture.points import OUTSIDE, SLOW, note
from tests.torture.promises import Promises, Tally, Verdict
from tests.torture.server import Server, a_server
from tests.torture.stage import Reply, Running, Stage, a_stage
from tests.torture.tree import faults_in_ledger
from tests.torture.upstream import Weather
from toolgate.core.tool import Duplicates

CALLERS = 6
LONGEST_WISH = 6.0
"""Seconds for which a caller asks again while gates are killed; the rest is asked about at the end."""
LONGEST_END = 60.0
PAUSE = 0.03

_WEATHER: dict[Weather, float] = {
    "fair": 0.8,
    "breaks before": 0.05,
    "breaks after": 0.05,
    "late": 0.05,
    "slow": 0.05,
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is tried."""

    database: Database
    mode: Duplicates
    gates: int
    kills: int
    seed: int

    @property
    def command(self) -> str:
        """How to try the same again."""
        return (
            f"python -m tests.torture --database {self.database} --kills {self.kills} --seed {self.seed} "
            f"--mode {self.mode} --gates {self.gates}"
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    cell: Cell
    tally: Tally
    troubles: Counter[str]
    """How often what happened where."""
    violations: list[str]
    seconds: float

    @property
    def written(self) -> dict[str, Any]:
        """As JSON; `read` reads it again. (`asdict` makes a counter of a counter's pairs.)"""
        parts = {"cell": asdict(self.cell), "tally": asdict(self.tally)}
        said = {"troubles": dict(self.troubles), "violations": self.violations, "seconds": self.seconds}
        return parts | said


@dataclass(eq=False)
class Trial:
    """A cell, while it is tried."""

    cell: Cell
    stage: Stage
    promises: Promises
    server: Server | None
    """The database's, where it has one."""
    _plans: Iterator[Plan]
    _numbers: "count[int]" = field(default_factory=count)
    _gates: dict[int, Running] = field(default_factory=dict[int, Running])
    """By place: each process that dies is replaced."""
    _settled: set[int] = field(default_factory=set[int])
    _begun: set[int] = field(default_factory=set[int])

    async def run(self) -> None:
        """Kill, then let things come to rest, then judge."""
        places = [asyncio.create_task(self._fill(place)) for place in range(self.cell.gates)]
        callers = [asyncio.create_task(self._call_on()) for _ in range(CALLERS)]
        shaking = asyncio.create_task(self._shake())
        await asyncio.gather(*places, *callers)
        if self.server is not None:
            self.server.calm()
        await shaking
        await self._come_to_rest()
        self.promises.judge(self.stage.system_log())
        self.promises.tally.calls = len(self._begun)
        folder, book = self.stage.folder, self.promises.book
        faults = await asyncio.to_thread(lambda: list(faults_in_ledger(folder, book)))
        self.promises.violations.extend(faults)

    @property
    def _is_over(self) -> bool:
        return self.promises.tally.kills >= self.cell.kills

    async def _shake(self) -> None:
        """Let things happen to the server."""
        if self.server is not None:
            await self.server.shake(self.stage.setup.diary)

    async def _fill(self, place: int) -> None:
        """Start a gate, see it die, start the next."""
        while not self._is_over:
            plan = next(self._plans)
            begun = time.monotonic()
            running = self.stage.begin_gate(place, plan.troubles)
            fault = await running.ready
            if fault:
                await running.gone.wait()
                excused = self.server is not None and self.server.excuses(begun)
                if running.process.exitcode != -signal.SIGKILL and not excused:
                    self.promises.violations.append(f"a gate did not open: {fault}")
                    self.promises.tally.kills += 1
                continue
            self._gates[place] = running
            try:
                await asyncio.wait_for(self._see_out(running, plan), plan.seconds)
            except TimeoutError:
                running.signal(signal.SIGKILL)
                await running.gone.wait()
            self._note_end(running)

    async def _see_out(self, running: Running, plan: Plan) -> None:
        """Wait until a gate is gone; meanwhile stop it for a while, if that is the plan."""
        if plan.stop is not None:
            await asyncio.sleep(plan.before)
            note(self.stage.setup.diary, OUTSIDE, plan.stop)
            running.signal(signal.SIGSTOP)
            await asyncio.sleep(self.stage.setup.hang if plan.stop == "hang" else SLOW)
            running.signal(signal.SIGCONT)
        await running.gone.wait()

    def _note_end(self, running: Running) -> None:
        self.promises.tally.kills += 1
        if running.process.exitcode != -signal.SIGKILL:
            self.promises.violations.append(f"a gate ended by itself with {running.process.exitcode}")

    async def _call_on(self) -> None:
        """Want one thing after the other, each twice at the same time."""
        while not self._is_over:
            number = next(self._numbers)
            self._begun.add(number)
            await asyncio.gather(self._want(number, number), self._want(number, number + 1))

    async def _want(self, number: int, place: int) -> None:
        """Ask under one key until it is known what became of it, whichever gate answers."""
        give_up = time.monotonic() + LONGEST_WISH
        while time.monotonic() < give_up and not self._is_over:
            running = self._gates.get(place % self.cell.gates)
            place += 1
            if running is None or not running.can_be_asked:
                await asyncio.sleep(PAUSE / 3)
                continue
            verdict = self._hear(number, await running.ask(number, self._key(number)))
            if verdict == "final" or (verdict == "unknown" and self.cell.mode == "none"):
                return
            await asyncio.sleep(PAUSE)

    async def _come_to_rest(self) -> None:
        """Start gates without trouble, and ask about every call until nothing more can be known."""
        await self.stage.ask_system(do="calm")
        for place in range(self.cell.gates):
            self._gates[place] = await self.stage.gate(place)
        queue = iter(sorted(self._begun))
        give_up = time.monotonic() + LONGEST_END
        await asyncio.gather(*(self._ask_after(queue, give_up) for _ in range(4 * CALLERS)))
        for running in self._gates.values():
            await running.end()
            if running.process.exitcode != 0:
                self.promises.violations.append(f"a gate could not end well: {running.process.exitcode}")

    async def _ask_after(self, queue: Iterator[int], give_up: float) -> None:
        for number in queue:
            verdict: Verdict = "again"
            while verdict != "final" and time.monotonic() < give_up:
                running = self._gates[number % self.cell.gates]
                verdict = self._hear(number, await running.ask(number, self._key(number)))
                if verdict == "unknown" and self.cell.mode == "none":
                    break
                if verdict != "final":
                    await asyncio.sleep(PAUSE)
            if verdict == "again":
                self.promises.violations.append(f"call {number}: no answer when all is quiet")

    def _hear(self, number: int, reply: Reply | None) -> Verdict:
        return "again" if reply is None else self.promises.hear(number, reply)

    def _key(self, number: int) -> str:
        return f"torture-{self.cell.seed}-number-{number:06d}"


def read(written: dict[str, Any]) -> Result:
    """Read what came of an earlier trial, as JSON."""
    cell, tally = Cell(**written.pop("cell")), Tally(**written.pop("tally"))
    return Result(cell=cell, tally=tally, troubles=Counter(written.pop("troubles")), **written)


async def tried(cell: Cell, folder: Path) -> Result:
    """Try a cell with its ledger in `folder`."""
    began = time.monotonic()
    weather = dict(_WEATHER)
    if cell.mode == "key":
        weather["twice"] = 0.05
    upstream = {"seed": cell.seed, "weather": weather}
    async with AsyncExitStack() as open_:
        server = (
            await open_.enter_async_context(a_server(cell.command)) if cell.database != "sqlite" else None
        )
        url = "" if server is None else server.url
        stage = await open_.enter_async_context(a_stage(folder, upstream, mode=cell.mode, url=url))
        promises = Promises(stage.setup.book.open(), cell.mode)
        planned = plans(cell.mode, cell.command, cell.database)
        await Trial(cell, stage, promises, server, planned).run()
        promises.book.close()
        diary = stage.setup.diary.read_text("utf-8").splitlines()
    return Result(
        cell=cell,
        tally=promises.tally,
        troubles=Counter(diary),
        violations=promises.violations,
        seconds=time.monotonic() - began,
    )
