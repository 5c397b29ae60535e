"""What the kernel sees of governed writes: the disk, then the system, then the disk, then the caller."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from tests.debian import demand
from tests.torture.stage import Stage, a_stage

pytestmark = pytest.mark.anyio
REPO = Path(__file__).resolve().parents[1]
CALLS = 20

_GATE = f"""
import asyncio, os, sys
from pathlib import Path
from tests.torture.gate import Setup, open_gate

async def main():
    folder, system = map(Path, sys.argv[1:])
    setup = Setup(folder=folder, caller=folder, system=system, mode="none", timeout=30, patience=30)
    async with open_gate(setup) as gate:
        for number in range({CALLS}):
            answer = await gate.call(number, f"a-key-for-number-{{number}}")
            assert answer.outcome.kind == "done", answer
            os.write(1, b"told " + answer.call_id.encode() + b"\\n")

asyncio.run(main())
"""
_ENTRY = re.compile(r'call_id\\":\\"(\w+)\\"(?:,\\"caller\\":{[^{}]*})?[^{}]*kind\\":\\"(intent|outcome)\\"')
_CALLED = re.compile(r'(?:key\\": \\"|told )(\w+)')


class Event(NamedTuple):
    """A system call that matters here."""

    what: Literal["written", "synced", "sent", "told"]
    about: frozenset[tuple[str, str]]
    """Calls with the kinds of entries about them that were written; for what was sent and told, the call."""


async def test_every_call_is_on_the_disk_before_it_is_sent_and_again_before_it_is_answered(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path, mode="none") as stage:
        trace = await asyncio.to_thread(_traced, stage)
        effects = [effect["key"] for effect in stage.effects()]

    written: set[tuple[str, str]] = set()
    durable: set[tuple[str, str]] = set()
    sent: list[str] = []
    told: list[str] = []
    for event in _events(trace):
        match event.what:
            case "written":
                written |= event.about
            case "synced":
                durable |= written
            case "sent":
                ((call, _),) = event.about
                assert (call, "intent") in durable, f"call number {len(sent)} was sent too early"
                assert (call, "outcome") not in written
                sent.append(call)
            case "told":
                ((call, _),) = event.about
                assert call in sent
                assert (call, "outcome") in durable, f"call number {len(told)} was answered too early"
                told.append(call)
    assert sent == told == effects
    assert len(set(sent)) == CALLS


def _traced(stage: Stage) -> str:
    """Run a gate under strace; gives what that wrote."""
    strace = demand("strace", "strace")
    output = stage.folder / "trace"
    calls = "trace=pwrite64,write,fdatasync,fsync,sendto,sendmsg"
    watched = [strace, "-f", "--seccomp-bpf", "-y", "-qq", "-s", "4200", "-e", calls, "-o", str(output)]
    gate = [sys.executable, "-c", _GATE, str(stage.folder), str(stage.upstream.address)]
    done = subprocess.run([*watched, *gate], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output.read_text("utf-8")


def _events(trace: str) -> Iterator[Event]:
    """Read a trace: a write, a send and a reply count from their begin, a sync only from its end."""
    syncing: set[str] = set()
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        name, _, rest = call.strip().partition("(")
        if name in {"fdatasync", "fsync"} and "ledger.db-wal>" in rest:
            if rest.endswith("= 0"):
                yield Event("synced", frozenset())
            else:
                syncing.add(thread)
        elif name.startswith("<... f") and thread in syncing:
            assert line.endswith("= 0"), line
            syncing.discard(thread)
            yield Event("synced", frozenset())
        elif name == "pwrite64" and "ledger.db-wal>" in rest.partition(",")[0]:
            yield Event("written", frozenset(_ENTRY.findall(rest)))
        elif name in {"sendto", "sendmsg"} and "order" in rest:
            yield Event("sent", frozenset((call, "") for call in _CALLED.findall(rest)))
        elif name == "write" and rest.startswith("1<") and "told" in rest:
            yield Event("told", frozenset((call, "") for call in _CALLED.findall(rest)))
