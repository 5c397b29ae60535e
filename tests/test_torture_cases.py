"""The cases that killing at random seldom meets: stopped owners, full disks, old backups, late sends."""

import asyncio
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.gate_on_scripted_system import rig
from tests.torture.gate import Gate, open_gate
from tests.torture.points import Point, Trouble
from tests.torture.promises import Tally
from tests.torture.stage import Reply, Running, Stage, a_stage
from tests.torture.trial import Cell, Result, read
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.outcome import Done, Failed, Refused, Unknown
from toolgate.core.tool import Duplicates

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"
STILL: dict[str, Any] = {"every": 3600.0, "keep": 0.0, "timeout": 0.5, "grace": 0.2}
"""A gate that writes nothing by itself: one that is stopped holds no lock."""


async def test_an_owner_that_is_stopped_before_it_sends_sends_nothing_when_it_wakes_up(
    tmp_path: Path,
) -> None:
    async with a_stage(tmp_path, mode="query", **STILL) as stage:
        owner, other, late = await _taken_for_lost(stage, "before sending")
        sent = [line for line in stage.system_log() if line["what"] == "request"]
        await owner.end()
        settled = await _until_done(other)

        assert isinstance(late.answer.outcome, Unknown)
        assert late.answer.outcome.code == "late_outcome"
        assert not sent
        assert [effect["key"] for effect in stage.effects()] == [settled.answer.call_id]
    assert len(_entries(tmp_path, "late_outcome")) == 1


@pytest.mark.parametrize("dies", [False, True])
async def test_a_send_of_an_owner_that_was_lost_long_ago_is_waited_for(dies: bool, tmp_path: Path) -> None:
    slow = {"weather": {"late": 1.0}, "late": (0.45, 0.45)}
    troubles = [Trouble("before the send", "stop")] + ([Trouble("after the send", "kill")] if dies else [])
    async with a_stage(tmp_path, slow, mode="query", quiet=0.6, **STILL) as stage:
        owner, other = await stage.gate(0, tuple(troubles)), await stage.gate(1)
        asked = asyncio.create_task(owner.ask(1, KEY))
        await owner.is_stopped()
        while (reply := await other.ask(1, KEY)) and isinstance(reply.answer.outcome, Refused):
            await asyncio.sleep(0.02)
        await asyncio.sleep(2.2)  # the quiet period since its loss is over, and the system may be asked again
        owner.signal(signal.SIGCONT)
        await asked
        if dies:
            await owner.gone.wait()
        await stage.ask_system(do="calm")
        await _until_done(other)
        await asyncio.sleep(0.6)  # what it sent late has arrived by now

        assert len(stage.effects()) == 1


@pytest.mark.parametrize("point", ["before the send", "after the send"])
async def test_an_owner_that_is_stopped_about_its_send_overwrites_nothing_when_it_wakes_up(
    point: Point, tmp_path: Path
) -> None:
    async with a_stage(tmp_path, mode="query", **STILL) as stage:
        _, other, late = await _taken_for_lost(stage, point)
        settled = await _until_done(other)

        assert isinstance(late.answer.outcome, Unknown)
        assert late.answer.outcome.code == "late_outcome"
        assert late.answer.call_id == settled.answer.call_id
        assert len(stage.effects()) == 1
    (entry,) = _entries(tmp_path, "late_outcome")
    assert entry["call_id"] == settled.answer.call_id
    assert not _entries(tmp_path, "outcome"), "the look-up settled it, and nothing else"


@pytest.mark.parametrize("mode", ["key", "natural", "none"])
@pytest.mark.parametrize("point", ["before sending", "before the send", "after the send"])
async def test_a_stopped_owner_makes_no_second_effect(mode: Duplicates, point: Point, tmp_path: Path) -> None:
    async with a_stage(tmp_path, mode=mode, **STILL) as stage:
        _, other, late = await _taken_for_lost(stage, point)
        again = await other.ask(1, KEY)

        assert again is not None
        assert isinstance(late.answer.outcome, Unknown)
        assert isinstance(again.answer.outcome, Unknown if mode == "none" else Done)
        if mode != "none":
            assert len(stage.effects()) == 1
        else:  # where it was stopped just before its send, it may find that its time is over
            assert len(stage.effects()) in {"before sending": {0}, "before the send": {0, 1}}.get(point, {1})
    assert len(_entries(tmp_path, "late_outcome")) == 1


async def test_what_arrives_after_its_gate_was_killed_is_not_sent_again(tmp_path: Path) -> None:
    late = {"weather": {"late": 1.0}, "late": (0.35, 0.35)}
    async with a_stage(tmp_path, late, mode="query", quiet=0.8, keep=0.0) as stage:
        owner = await stage.gate(0, (Trouble("after the send", "kill"),))
        assert await owner.ask(1, KEY) is None
        other = await stage.gate(1)
        early = await other.ask(1, KEY)
        await stage.ask_system(do="calm")
        done = await _until_done(other)

        assert early is not None
        assert isinstance(early.answer.outcome, Unknown), "the look-up found nothing, which showed nothing"
        assert [line["found"] for line in stage.system_log() if line["what"] == "look-up"] == [None, 1]
        assert [effect["key"] for effect in stage.effects()] == [done.answer.call_id]


async def test_a_request_that_arrives_twice_has_one_effect_where_the_key_is_known(tmp_path: Path) -> None:
    async with a_stage(tmp_path, {"weather": {"twice": 1.0}}, mode="key") as stage:
        gate = await stage.gate()
        first, second = await gate.ask(1, KEY), await gate.ask(1, KEY)

        assert first is not None
        assert second is not None
        assert second.value == first.value == '{"effect":1,"number":1}'
        assert second.answer.replayed
        assert len(stage.effects()) == 1


async def test_an_old_backup_is_not_opened(tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    async with rig(tmp_path) as gate:
        await gate.call(key=f"{KEY}-before")
    shutil.copy(gate.database, backup)
    async with rig(tmp_path) as gate:
        await gate.call(key=KEY)
        await gate.parts.writer.publish()
    shutil.copy(backup, gate.database)

    with pytest.raises(LedgerUnavailable, match=r"an old copy.* Restore the newest one"):
        async with rig(tmp_path):
            pass


class Disk(Protocol):
    """A disk that can be filled, and has room again."""

    folder: Path

    def fill(self) -> None: ...

    def make_room(self) -> None: ...


class SmallDisk:
    """A file system of a few megabytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Write until nothing more can be written."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        assert shutil.disk_usage(self.folder).free == 0

    def make_room(self) -> None:
        """Take away what filled it."""
        self._filler.unlink()


class ShortFiles:
    """A disk on which, to this process, no file can grow beyond what the WAL has now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """Let no file grow beyond the WAL's size."""
        longest = (self.folder / "ledger.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, self._limits[1]))

    def make_room(self) -> None:
        """Let files grow again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


@pytest.fixture(params=[SmallDisk, ShortFiles])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Give a small file system, where one may be mounted, and files that cannot grow, everywhere."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param is SmallDisk and _mounted(folder):
        yield SmallDisk(folder)
        subprocess.run([shutil.which("umount") or "/bin/umount", "--lazy", str(folder)], check=True)
        return
    short = ShortFiles(folder)
    yield short
    short.make_room()


def _mounted(folder: Path) -> bool:
    mount = [shutil.which("mount") or "/bin/mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    return subprocess.run(mount, check=False, capture_output=True).returncode == 0


async def test_on_a_full_disk_nothing_is_begun_and_ends_are_kept_outside(disk: Disk, tmp_path: Path) -> None:
    async with _slow_gate(disk.folder, spill=tmp_path / "spill") as (stage, gate):
        ending = asyncio.create_task(gate.call(1, KEY))
        await _has_arrived(stage)
        disk.fill()
        refused = await gate.call(2, f"{KEY}-another")
        withheld = await ending
        meanwhile = await gate.call(1, KEY)
        disk.make_room()
        taken_back = await gate.parts.endings.take_back()
        replayed = await gate.call(1, KEY)

        assert isinstance(refused.outcome, Failed)
        assert refused.outcome.code == "ledger_unavailable"
        assert isinstance(withheld.outcome, Unknown)
        assert withheld.outcome.code == "end_not_recorded"
        assert isinstance(meanwhile.outcome, Failed)
        assert taken_back == 1
        assert replayed.outcome == Done(value={"number": 1, "effect": 1})
        assert replayed.replayed
        assert [effect["number"] for effect in stage.effects()] == [1]
    (entry,) = _entries(disk.folder, "outcome")
    assert entry["spilled"]


async def test_below_the_floor_nothing_is_begun_and_ends_are_recorded(tmp_path: Path) -> None:
    room = 2**27
    floor = shutil.disk_usage(tmp_path).free - room
    filler = tmp_path / "filler"
    async with _slow_gate(tmp_path, floor=floor) as (stage, gate):
        ending = asyncio.create_task(gate.call(1, KEY))
        await _has_arrived(stage)
        _take(filler, 2 * room)
        while gate.parts.writer.has_room():  # it looks now and then
            await asyncio.sleep(0.02)
        refused = await gate.call(2, f"{KEY}-another")
        ended = await ending
        filler.unlink()
        while not gate.parts.writer.has_room():
            await asyncio.sleep(0.02)
        done = await gate.call(2, f"{KEY}-another")

        assert isinstance(refused.outcome, Failed)
        assert refused.outcome.code == "ledger_unavailable"
        assert isinstance(ended.outcome, Done)
        assert isinstance(done.outcome, Done)
        assert [effect["number"] for effect in stage.effects()] == [1, 2]


@asynccontextmanager
async def _slow_gate(folder: Path, **terms: Any) -> AsyncGenerator[tuple[Stage, Gate]]:  # noqa: ANN401
    """Give a gate in this process before a system that takes its time."""
    slow = {"weather": {"slow": 1.0}, "slow": (0.4, 0.4)}
    async with (
        a_stage(folder, slow, mode="none", timeout=5.0, grace=30.0, every=3600.0, **terms) as stage,
        open_gate(stage.setup) as gate,
    ):
        yield stage, gate


async def _has_arrived(stage: Stage) -> None:
    """Wait until the system has a request in its hand."""
    while not any(line["what"] == "request" for line in stage.system_log()):
        await asyncio.sleep(0.01)


def _take(file: Path, size: int) -> None:
    """Take room from the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    os.posix_fallocate(descriptor, 0, size)
    os.close(descriptor)


async def _taken_for_lost(stage: Stage, point: Point) -> tuple[Running, Running, Reply]:
    """Stop a call's owner until another gate takes it for lost; gives both, and the late answer."""
    owner = await stage.gate(0, (Trouble(point, "stop"),))
    other = await stage.gate(1)
    asked = asyncio.create_task(owner.ask(1, KEY))
    await owner.is_stopped()
    while (reply := await other.ask(1, KEY)) is not None and isinstance(reply.answer.outcome, Refused):
        await asyncio.sleep(0.02)
    owner.signal(signal.SIGCONT)
    late = await asked
    assert reply is not None
    assert late is not None
    return owner, other, late


async def _until_done(gate: Running) -> Reply:
    """Ask again under the key, until it is known what became of the call."""
    async with asyncio.timeout(10):
        while True:
            reply = await gate.ask(1, KEY)
            assert reply is not None
            if isinstance(reply.answer.outcome, Done):
                return reply
            await asyncio.sleep(0.05)


def _entries(folder: Path, kind: str) -> list[dict[str, Any]]:
    query = "SELECT body FROM ledger_entry WHERE kind = ? ORDER BY idx"
    with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as connection:
        return [json.loads(row[0]) for row in connection.execute(query, (kind,))]


def test_what_came_of_a_trial_is_read_as_it_was_written() -> None:
    cell = Cell(database="postgresql", mode="query", gates=3, kills=5, seed=1)
    met = Counter({"before the intent kill": 2})
    result = Result(cell=cell, tally=Tally(kills=5), troubles=met, violations=["none"], seconds=1.5)

    assert read(json.loads(json.dumps(result.written))) == result
