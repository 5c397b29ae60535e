"""When checkpoints are published, and that calls go on where they cannot be."""

import asyncio
import logging
from pathlib import Path

import pytest

from tests.gate_on_scripted_system import rig
from toolgate.core.note import Checkpoint, Note
from toolgate.core.outcome import Done

pytestmark = pytest.mark.anyio


def size_in(folder: Path) -> int:
    file = folder / "checkpoint"
    return Checkpoint.parse(Note.parse(file.read_text("utf-8")).text).size if file.is_file() else 0


async def test_what_was_added_is_published_after_a_while_by_itself(tmp_path: Path) -> None:
    async with rig(tmp_path, every=0.05) as gate:
        answer = await gate.call()
        assert answer.entry is not None
        while size_in(tmp_path) <= answer.entry:
            await asyncio.sleep(0.01)


async def test_many_entries_are_published_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path, every=3600) as gate:
        await gate.call()
        await gate.parts.writer.publish()
        before = size_in(tmp_path)
        await asyncio.gather(*(gate.call(amount=n % 100) for n in range(400)))
        while size_in(tmp_path) < before + 1000:
            await asyncio.sleep(0.01)


async def test_one_is_published_on_demand_and_at_the_end(tmp_path: Path) -> None:
    async with rig(tmp_path, every=3600) as gate:
        await gate.call()
        note = await gate.parts.writer.publish()
        assert str(note) == (tmp_path / "checkpoint").read_text("utf-8")
        before = size_in(tmp_path)
        await gate.call()
        assert size_in(tmp_path) == before

    assert size_in(tmp_path) > before


async def test_where_none_can_be_published_calls_go_on_and_the_log_is_not_flooded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(tmp_path, every=0.1) as gate:
        with caplog.at_level(logging.WARNING):
            await gate.call()
            await gate.parts.writer.publish()
            (tmp_path / "checkpoint").unlink()
            (tmp_path / "checkpoint").mkdir()
            for _ in range(20):
                answer = await gate.call()
                assert isinstance(answer.outcome, Done)
                await asyncio.sleep(0.02)
        (tmp_path / "checkpoint").rmdir()

    told = [record for record in caplog.records if "checkpoint" in record.getMessage()]
    assert 1 <= len(told) < 15
    assert size_in(tmp_path) > 0, "it is published as soon as it can be"
