"""Where a governed call's time goes: its stages in one process, without HTTP, each by itself.

`python -m bench.stages`; microseconds a call, the median of several runs.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from tests.gate_on_scripted_system import ANN, Rig, rig
from toolgate.core.arguments import out_of_bounds
from toolgate.core.call import Call
from toolgate.core.decision import Question
from toolgate.core.record import JsonObject
from toolgate.main import new_call_id, now

ROUNDS, CALLS = 5, 320
ARGUMENTS: JsonObject = {"amount": 1}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, microseconds in uvloop.run(_stages(Path(folder))).items():
            print(f"{name:<44}{microseconds:>9.1f}")


async def _stages(folder: Path) -> dict[str, float]:
    async with rig(folder) as gate:
        book = gate.gateway.rulebook()
        tool = book.catalog.find("desk.read")
        assert tool is not None
        question = Question(caller=ANN, tool=tool, arguments=ARGUMENTS, at=now())
        return {
            "arguments: bounds and schema": _timed(
                lambda: (out_of_bounds(ARGUMENTS), tool.input.fault_in(ARGUMENTS))
            ),
            "policy: visible": _timed(lambda: book.policy.visible(ANN, tool)),
            "policy: decide": _timed(lambda: book.policy.decide(question)),
            "the disk: fdatasync of 4 KiB": _timed(_synced(folder)),
            "a commit of one entry, one at a time": await _committed(gate),
            "the whole read, one at a time": await _awaited(gate, "desk.read", 1),
            "the whole read, 32 at a time": await _awaited(gate, "desk.read", 32),
            "the whole keyed write, one at a time": await _awaited(gate, "desk.write", 1),
            "the whole keyed write, 32 at a time": await _awaited(gate, "desk.write", 32),
        }


def _timed(stage: Callable[[], object]) -> float:
    def once() -> float:
        begin = time.perf_counter()
        for _ in range(CALLS):
            stage()
        return (time.perf_counter() - begin) / CALLS * 1e6

    return statistics.median(once() for _ in range(ROUNDS))


def _synced(folder: Path) -> Callable[[], object]:
    """Give one durable append to a file: what a commit cannot do without."""
    file = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT)

    def once() -> None:
        os.pwrite(file, bytes(4096), 0)
        os.fdatasync(file)

    return once


async def _committed(gate: Rig) -> float:
    entry = gate.parts.entries.bare("fault", "bench")
    times: list[float] = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        await gate.parts.writer.write(lambda batch: batch.append(entry))
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)


async def _awaited(gate: Rig, tool: str, at_a_time: int) -> float:
    async def caller() -> None:
        for _ in range(CALLS // at_a_time):
            await _call(gate, tool)

    times: list[float] = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(at_a_time)))
        times.append((time.perf_counter() - begin) / CALLS * 1e6)
    return statistics.median(times)


def _call(gate: Rig, tool: str) -> Awaitable[object]:
    id_ = new_call_id()
    key = f"bench-{id_}" if tool == "desk.write" else None
    return gate.gateway.carry_out(
        Call(id=id_, caller=ANN, tool=tool, arguments=ARGUMENTS, received_at=now(), key=key)
    )


if __name__ == "__main__":
    main()
