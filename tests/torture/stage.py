"""One system and its gates, each a process of its own, and the callers' end of the line to each."""

import asyncio
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from tests.torture import gate as gate_process
from tests.torture import upstream as upstream_process
from tests.torture.gate import Setup
from tests.torture.points import Trouble
from tests.torture.upstream import Upstream
from toolgate.backends.log_key import LogKey
from toolgate.core.outcome import Answer
from toolgate.core.record import Record

LONGEST_START = 30.0


class Reply(Record):
    """What a caller hears."""

    answer: Answer
    value: str | None = Field(default=None)
    """The canonical spelling of a result."""


def _context() -> ForkServerContext:
    """Give processes that fork from one in which everything is imported and no thread runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([gate_process.__name__, upstream_process.__name__])
    return context


@dataclass(eq=False)
class Running:
    """A gate's process, as its callers see it: it answers, or it is gone."""

    process: ForkServerProcess
    ready: "asyncio.Future[str | None]"
    """Resolved when it can be asked: with None, or with the reason for which it does not open."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    _writer: asyncio.StreamWriter | None = None
    _asked: "dict[int, asyncio.Future[Reply | None]]" = field(
        default_factory=dict[int, "asyncio.Future[Reply | None]"]
    )
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def can_be_asked(self) -> bool:
        """Whether it is there."""
        return self._writer is not None

    async def ask(self, number: int, key: str) -> Reply | None:
        """Make a call; None when the gate died, or the line broke, before it answered."""
        if self._writer is None:
            return None
        ask = next(self._numbers)
        answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._asked[ask] = answer
        with suppress(ConnectionError):
            self._writer.write(json.dumps({"ask": ask, "number": number, "key": key}).encode() + b"\n")
        return await answer

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def is_stopped(self) -> None:
        """Wait until it has stopped (SIGSTOP)."""
        while psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        """Hang up, and wait until it has closed its ledger."""
        if self._writer is not None:
            self._writer.write_eof()
        await self.gone.wait()

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear its answers until it is gone."""
        self._writer = writer
        with suppress(ConnectionError):
            while (line := await reader.readline()).endswith(b"\n"):
                said = json.loads(line)
                asked = self._asked.pop(said.pop("ask"))
                asked.set_result(None if said["answer"] is None else Reply.model_validate(said))
        self._hung_up()
        writer.close()

    def has_ended(self) -> None:
        """Hear that its process has ended."""
        asyncio.get_running_loop().remove_reader(self.process.sentinel)
        self.process.join()
        self.gone.set()
        if not self.ready.done():
            self.ready.set_result(f"it ended with {self.process.exitcode}")

    def _hung_up(self) -> None:
        """Answer for it, when everything that it has said is heard: it may have died after a reply."""
        self._writer = None
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(None)
        self._asked.clear()


@dataclass(eq=False)
class Stage:
    """A system, a ledger's folder, and gates that come and go."""

    setup: Setup
    upstream: Upstream
    system: ForkServerProcess
    context: ForkServerContext = field(default_factory=_context)
    gates: dict[int, Running] = field(default_factory=dict[int, Running])
    """By process id."""

    @property
    def folder(self) -> Path:
        """Where the ledger lies."""
        return self.setup.folder

    async def gate(self, number: int = 0, troubles: tuple[Trouble, ...] = (), **terms: Any) -> Running:  # noqa: ANN401
        """Start a gate, and wait until it is ready; `terms` are fields of its `Setup`."""
        running = self.begin_gate(number, troubles, **terms)
        if fault := await asyncio.wait_for(asyncio.shield(running.ready), LONGEST_START):
            raise RuntimeError(f"a gate did not open: {fault}")
        return running

    def begin_gate(self, number: int = 0, troubles: tuple[Trouble, ...] = (), **terms: Any) -> Running:  # noqa: ANN401
        """Start a gate."""
        setup = replace(self.setup, number=number, troubles=troubles, **terms)
        process = self.context.Process(target=gate_process.run, args=(setup,), daemon=True)
        process.start()
        loop = asyncio.get_running_loop()
        running = Running(process, loop.create_future())
        self.gates[running.pid] = running
        loop.add_reader(process.sentinel, running.has_ended)
        return running

    async def ask_system(self, **asked: Any) -> None:  # noqa: ANN401 - any JSON
        """Tell the system something, such as to behave from now on."""
        reader, writer = await asyncio.open_unix_connection(self.upstream.address)
        writer.write(json.dumps(asked).encode() + b"\n")
        await reader.read()
        writer.close()

    def effects(self) -> list[dict[str, Any]]:
        """Give what the system did, in order."""
        return [line for line in self.system_log() if line["what"] == "effect"]

    def system_log(self) -> list[dict[str, Any]]:
        """Give everything that the system wrote down."""
        return [json.loads(line) for line in self.upstream.log.read_text("utf-8").splitlines()]

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a gate's call: it says first who it is."""
        line = await reader.readline()
        if not line.endswith(b"\n"):
            writer.close()
            return
        said = json.loads(line)
        running = self.gates[said["pid"]]
        listening = asyncio.ensure_future(running.listen(reader, writer))
        await asyncio.sleep(0)
        if not running.ready.done():
            running.ready.set_result(said.get("refused"))
        await listening


@asynccontextmanager
async def stage(folder: Path, setup: Setup, upstream: Upstream) -> AsyncGenerator[Stage]:
    """Start a system, with a key for a ledger; end whatever is left of the processes."""
    LogKey.new("toolgate/torture").write(folder / "ledger.key")
    context = _context()
    system = context.Process(target=upstream_process.run, args=(upstream,), daemon=True)
    system.start()
    built = Stage(setup, upstream, system, context)
    server = await asyncio.start_unix_server(built.hear, setup.caller)
    try:
        await _until_there(upstream.address)
        yield built
    finally:
        server.close()
        for running in built.gates.values():
            if not running.gone.is_set():
                running.process.kill()
                await running.gone.wait()
        system.kill()
        system.join()


@asynccontextmanager
async def a_stage(
    folder: Path,
    upstream: dict[str, Any] | None = None,
    **terms: Any,  # noqa: ANN401 - fields of `Setup`
) -> AsyncGenerator[Stage]:
    """Build a stage with its sockets in a folder of a short name, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="tg-") as short:
        at = Path(short)
        setup = Setup(folder=folder, caller=at / "callers", system=at / "system", **terms)
        shop = Upstream(
            address=setup.system,
            book=setup.book,
            log=folder / "system.log",
            mode=setup.mode,
            **(upstream or {}),
        )
        async with stage(folder, setup, shop) as built:
            yield built


async def _until_there(address: Path) -> None:
    give_up = time.monotonic() + LONGEST_START
    while not os.path.exists(address):  # noqa: ASYNC240, PTH110 - nothing else runs yet
        if time.monotonic() > give_up:
            raise TimeoutError("the system did not start")
        await asyncio.sleep(0.01)
