"""The ledger when something is wrong with it: a clear answer, nothing lost, nothing said that is not so."""

import asyncio
import fcntl
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.gate_on_scripted_system import ledger_in, rig
from toolgate.backends.log_key import LogKey
from toolgate.backends.sqlite_writer import SqliteWriter
from toolgate.core.claims import Opened
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.outcome import Done, Failed, Refused, Unknown
from toolgate.core.strangers import MOST_REASONS, MOST_SOURCES, Strangers
from toolgate.main import now

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"


def bodies(folder: Path, kind: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        rows = connection.execute("SELECT body FROM ledger_entry WHERE kind = ? ORDER BY idx", (kind,))
        return [json.loads(row[0]) for row in rows]


async def test_a_folder_that_was_taken_away_is_answered_with_nothing_done(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    async with rig(folder) as gate:
        await gate.call()
        folder.rename(tmp_path / "elsewhere")
        assert isinstance(gate.parts.writer, SqliteWriter)
        gate.parts.writer._look_again = 0.0  # pyright: ignore[reportPrivateUsage]
        gone = await gate.call()
        (tmp_path / "elsewhere").rename(folder)

    assert isinstance(gone.outcome, Failed)
    assert gone.outcome.code == "ledger_unavailable"
    assert gate.desk.effects == 1


async def test_a_process_whose_sign_of_life_was_removed_begins_nothing_more(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await gate.call()
        shutil.rmtree(tmp_path / "ledger.db.writers")
        gone = await gate.call()

    assert isinstance(gone.outcome, Failed), "others would take it for dead, and its calls for lost"
    assert gate.desk.effects == 1


async def test_what_one_call_may_not_do_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await gate.call()
        stranger = Opened(call_id="c-nobody", intent=3, remembered={})
        with pytest.raises(LedgerUnavailable, match="another owner"):
            await gate.parts.calls.remember(stranger, {"token": "t"})
        assert gate.parts.writer.is_alive()
        await gate.call()

    assert {body["writer"][-2:] for body in bodies(tmp_path, "intent")} == {"-0"}


async def test_an_intent_that_became_durable_too_late_is_ended_as_not_sent(tmp_path: Path) -> None:
    async with rig(tmp_path, patience=0.2) as gate:
        await gate.call(amount=2)
        write = gate.parts.writer.write
        first = asyncio.ensure_future(write(lambda _: time.sleep(0.1)))
        await asyncio.sleep(0.05)
        late = asyncio.ensure_future(gate.call(key=KEY))
        await asyncio.sleep(0)
        slow = asyncio.ensure_future(write(lambda _: time.sleep(0.8)))
        told = await late
        await asyncio.wait({first, slow})
        assert isinstance(slow.exception(), LedgerUnavailable)
        while "cancelled_before_send" not in {body["status"] for body in bodies(tmp_path, "outcome")}:
            await asyncio.sleep(0.02)
        again = await gate.call(key=KEY)

    assert isinstance(told.outcome, Failed)
    assert isinstance(again.outcome, Done)
    assert gate.desk.effects == 2


async def test_a_call_in_doubt_stays_so_when_the_ledger_fails_while_the_system_is_asked(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour = "unknown"
        first = await gate.call(key=KEY)
        reconciler = replace(gate.gateway.reconciler, doubts=_NoDisk())
        again = await replace(gate, gateway=replace(gate.gateway, reconciler=reconciler)).call(key=KEY)

    assert isinstance(again.outcome, Unknown), "nobody may be told that nothing was done"
    assert again.call_id == first.call_id


class _NoDisk:
    """Records nothing."""

    async def asked(self, *_: object) -> None:
        raise LedgerUnavailable("the disk is gone")

    async def found(self, *_: object) -> None:
        raise LedgerUnavailable("the disk is gone")

    async def sweep(self, *_: object) -> list[Any]:
        raise LedgerUnavailable("the disk is gone")


async def test_what_a_person_settled_meanwhile_is_not_settled_by_a_look_up(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour = "unknown"
        first = await gate.call(key=KEY)
        found = gate.parts.doubts.found

        async def late(*words: Any) -> None:  # noqa: ANN401 - as they come
            await gate.parts.doubts.resolve(first.call_id, None, by="p0", because="it was cancelled")
            await found(*words)

        doubts = _Late(gate.parts.doubts, late)
        reconciler = replace(gate.gateway.reconciler, doubts=doubts)  # pyright: ignore[reportArgumentType]
        gate.desk.behaviour = "refuses"
        await replace(gate, gateway=replace(gate.gateway, reconciler=reconciler)).call(key=KEY)

    assert [body.get("settles") for body in bodies(tmp_path, "reconcile")] == [None, False]


class _Late:
    def __init__(self, doubts: Any, found: Callable[..., Any]) -> None:  # noqa: ANN401
        self.asked, self.sweep, self.found = doubts.asked, doubts.sweep, found


async def test_systems_that_cannot_be_asked_keep_nobody_waiting(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query", quiet_period=0) as gate:
        for number in range(121):
            gate.desk.behaviour = "does"  # or the system would be left alone
            await gate.call("desk.read")
            gate.desk.behaviour = "unknown"
            tool = "desk.destroy" if number < 120 else "desk.write"
            await gate.call(tool, key=f"{KEY}-{number}")
        blind = dict(gate.tools)
        terms = blind["desk.destroy"].terms.model_copy(update={"duplicates": "none"})
        blind["desk.destroy"] = replace(blind["desk.destroy"], terms=terms)
        rounds = [await gate.gateway.reconciler.go_round(blind.get) for _ in range(2)]

    assert rounds == [0, 1]


async def test_a_rulebook_keeps_its_entry_and_one_that_comes_back_gets_a_new_one(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        first = gate.gateway.rulebook()
        other = replace(first, policy=_Renamed(first.policy))  # pyright: ignore[reportArgumentType]
        beside = {"settings": "1"}
        entries = [
            await gate.parts.governing.take_up(first, beside),
            await gate.parts.governing.take_up(other, beside),
        ]
        await gate.call()  # judged under the first, which it began with
        entries.append(await gate.parts.governing.take_up(first, beside))
        entries.append(await gate.parts.governing.take_up(first, beside))

    assert entries[0] < entries[1] < entries[2] == entries[3]
    assert len(bodies(tmp_path, "config")) == 3
    assert bodies(tmp_path, "intent")[0]["config"] == entries[0]


async def test_what_governs_is_recorded_after_a_disk_that_failed_once(tmp_path: Path) -> None:
    async with rig(tmp_path, patience=0.2) as gate:
        governing, book = gate.parts.governing, gate.gateway.rulebook()
        await governing.take_up(book, {"settings": "a" * 64})
        lock = os.open(tmp_path / "ledger.db.lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LedgerUnavailable):
            await governing.take_up(book, {"settings": "b" * 64})
        os.close(lock)
        await governing.take_up(book, {"settings": "b" * 64})

    digests = [body["digests"]["settings"] for body in bodies(tmp_path, "config")]
    assert digests == ["a" * 64, "b" * 64]


class _Renamed:
    def __init__(self, policy: Any) -> None:  # noqa: ANN401
        self.visible, self.decide, self.asks_run = policy.visible, policy.decide, policy.asks_run
        self.digest = "d" * 64


@pytest.mark.parametrize("damage", ["", "x", "PRIVATE+KEY+a+00000000+AAA\n", "cut", "\xe9"])
def test_a_damaged_key_is_told_and_not_shown(tmp_path: Path, damage: str) -> None:
    key = tmp_path / "ledger.key"
    LogKey.new("toolgate/test").write(key)
    text = key.read_text("ascii")
    key.write_bytes((text[:-3] if damage == "cut" else damage).encode("latin-1"))

    with pytest.raises(LedgerUnavailable, match=r"restore it") as told:
        LogKey.read(key)
    assert text.split("+")[-1][:8] not in str(told.value)


def test_of_several_keys_that_are_made_at_once_one_wins_whole(tmp_path: Path) -> None:
    key = tmp_path / "ledger.key"
    LogKey.new("toolgate/first").write(key)
    with pytest.raises(FileExistsError):
        LogKey.new("toolgate/second").write(key)

    assert LogKey.read(key).verifier.name == "toolgate/first"
    assert {file.name for file in tmp_path.iterdir()} == {"ledger.key", "ledger.vkey"}


async def test_a_spilled_end_that_cannot_be_read_is_left_for_a_person(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    for name, text in (("a.json", "{"), ("b.json", "{}"), ("c.json", "\x00" * 10)):
        (spill / name).write_text(text, "utf-8")
    ledger = ledger_in(tmp_path)
    try:
        with caplog.at_level(logging.ERROR):
            assert await ledger.endings.take_back() == 0
    finally:
        await ledger.aclose()

    assert len(list(spill.iterdir())) == 3
    assert len(caplog.records) == 3


def test_strangers_fill_neither_memory_nor_ledger() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    strangers = Strangers(lambda: at)
    for number in range(1000):
        strangers.reject(f"10.0.{number // 256}.{number % 256}", f"reason {number}")
    assert strangers.due() == [], "the minute is not over"
    at += timedelta(minutes=1)
    rejected = strangers.due()

    assert sum(each.count for each in rejected) == 1000
    assert len(rejected) == MOST_SOURCES + 1
    assert all(len(each.reasons) <= MOST_REASONS + 1 for each in rejected)
    strangers.put_back(rejected)
    assert strangers.due(at_once=True) == rejected, "what could not be recorded is counted on"


async def test_two_gates_on_one_root_stopped_in_any_order_leave_nothing_behind(tmp_path: Path) -> None:
    first, second = ledger_in(tmp_path), ledger_in(tmp_path)
    assert len(os.listdir(tmp_path / "ledger.db.writers")) == 2  # noqa: PTH208
    await first.aclose()
    await second.aclose()
    assert not list((tmp_path / "ledger.db.writers").iterdir())
    shutil.rmtree(tmp_path / "ledger.db.writers")
    await ledger_in(tmp_path).aclose()


async def test_one_file_has_one_lock_by_whatever_name_it_is_reached(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    async with rig(one, duplicates="query", quiet_period=0) as first:
        shutil.copy(one / "ledger.key", other / "ledger.key")
        for name in ("ledger.db", "checkpoint"):
            (other / name).symlink_to(one / name)
        first.desk.hold = asyncio.Event()
        running = asyncio.ensure_future(first.call(key=KEY))
        await first.desk.at_work.wait()
        async with rig(other, duplicates="query", quiet_period=0, wait=0.1) as second:
            busy = await second.call(key=KEY)
            first.desk.hold.set()
            done = await running

    assert isinstance(busy.outcome, Refused), "its owner is alive"
    assert isinstance(done.outcome, Done)
    assert second.desk.effects == 0


async def test_owners_whose_files_are_gone_are_not_taken_for_dead(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query", quiet_period=0) as first:
        first.desk.hold = asyncio.Event()
        running = asyncio.ensure_future(first.call(key=KEY))
        await first.desk.at_work.wait()
        shutil.rmtree(tmp_path / "ledger.db.writers")
        async with rig(tmp_path, duplicates="query", quiet_period=0, wait=0.1) as second:
            busy = await second.call(key=KEY)
            first.desk.hold.set()
            ended = await running

    assert isinstance(busy.outcome, Refused)
    assert isinstance(ended.outcome, Unknown), "its end is kept outside: it may not write any more"
    assert first.desk.effects + second.desk.effects == 1


async def test_a_wal_that_was_removed_is_not_written_to_in_secret(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await gate.call()
        (tmp_path / "ledger.db-wal").unlink()
        gone = await gate.call(amount=2)

    assert isinstance(gone.outcome, Failed)
    assert gate.desk.effects == 1


async def test_what_is_known_to_have_happened_is_not_done_again_when_it_is_not_found(
    tmp_path: Path,
) -> None:
    at = timedelta()
    async with rig(tmp_path, duplicates="query", quiet_period=0, clock=lambda: now() + at) as gate:
        gate.desk.hold = asyncio.Event()
        running = asyncio.ensure_future(gate.call(key=KEY))
        await gate.desk.at_work.wait()
        at = timedelta(hours=1)
        await gate.parts.doubts.sweep(gate.tools.get)
        gate.desk.hold.set()
        late = await running
        gate.desk.done.clear()  # the system forgets
        at = timedelta(hours=2)
        again = await gate.call(key=KEY)

    assert isinstance(late.outcome, Unknown)
    assert late.outcome.code == "late_outcome"
    assert isinstance(again.outcome, Unknown), "the ledger knows that it happened"
    assert gate.desk.effects == 1


async def test_an_adapters_message_is_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.behaviour = "bug before send"
        with caplog.at_level(logging.DEBUG):
            await gate.call()

    assert "RuntimeError at" in caplog.text
    assert "a bug" not in caplog.text
