"""Keys, repetitions and crashes: what makes a call happen at most once, across processes and deaths."""

import asyncio
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from tests.gate_on_scripted_system import ANN, rig
from tests.postgresql import OWNER, Cluster
from toolgate.backends.log_key import LogKey
from toolgate.core.outcome import Done, Failed, Refused, Unknown
from toolgate.main import now

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"


async def test_concurrent_calls_under_one_key_have_one_effect(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        answers = await asyncio.gather(*(gate.call(key=KEY) for _ in range(32)))

    assert gate.desk.effects == 1
    codes = {a.outcome.code if isinstance(a.outcome, Refused) else a.outcome.kind for a in answers}
    assert codes <= {"done", "in_progress"}
    assert len({answer.call_id for answer in answers}) == 1


async def test_the_same_key_with_other_arguments_is_a_conflict(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await gate.call(amount=1, key=KEY)
        other = await gate.call(amount=2, key=KEY)

    assert isinstance(other.outcome, Refused)
    assert other.outcome.code == "idempotency_conflict"
    assert gate.desk.effects == 1


@pytest.mark.parametrize(
    "stranger",
    [
        ANN.model_copy(update={"subject": "eve"}),
        ANN.model_copy(update={"issuer": "another"}),
    ],
)
async def test_a_key_means_nothing_to_another_caller(tmp_path: Path, stranger: object) -> None:
    async with rig(tmp_path) as gate:
        first = await gate.call(key=KEY)
        second = await gate.call(key=KEY, caller=stranger)  # type: ignore[arg-type]

    assert not second.replayed
    assert second.call_id != first.call_id


async def test_a_failed_call_may_be_asked_again_under_its_key_and_is_the_same_call(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.behaviour = "refuses"
        failed = await gate.call(key=KEY)
        gate.desk.behaviour = "does"
        done = await gate.call(key=KEY)

    assert isinstance(failed.outcome, Failed)
    assert isinstance(done.outcome, Done)
    assert done.call_id == failed.call_id
    assert gate.desk.keys == [failed.call_id, failed.call_id], "the system gets one key for both attempts"


async def test_an_unknown_outcome_is_never_run_again_by_itself(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(key=KEY)
        gate.desk.behaviour = "does"
        again = await gate.call(key=KEY)

    assert isinstance(again.outcome, Unknown)
    assert again.replayed
    assert gate.desk.effects == 1


async def test_a_guarded_call_without_a_key_is_not_run_twice(tmp_path: Path) -> None:
    async with rig(tmp_path, without_key="guard") as gate:
        first = await gate.call()
        repeated = await gate.call()
        insisted = await gate.call(again=True)
        other = await gate.call(amount=2)
        later = await gate.call(amount=2, at=now() + timedelta(seconds=601))

    assert isinstance(repeated.outcome, Refused)
    assert repeated.outcome.code == "duplicate_suspected"
    assert first.call_id in repeated.outcome.detail
    assert all(isinstance(answer.outcome, Done) for answer in (first, insisted, other, later))
    assert gate.desk.effects == 4


async def test_a_guarded_call_says_what_became_of_the_first(tmp_path: Path) -> None:
    async with rig(tmp_path, without_key="guard") as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(amount=1)
        unknown = await gate.call(amount=1)
        gate.desk.hold = asyncio.Event()
        running = asyncio.ensure_future(gate.call(amount=2))
        gate.desk.at_work.clear()
        await gate.desk.at_work.wait()
        busy = await gate.call(amount=2)
        gate.desk.hold.set()
        await running

    assert isinstance(unknown.outcome, Refused)
    assert "unknown outcome" in unknown.outcome.detail
    assert isinstance(busy.outcome, Refused)
    assert "still running" in busy.outcome.detail


@pytest.mark.parametrize("key", ["short", "x" * 256, "sixteen-chars-é-and-more", "sixteen-chars\nand-more"])
async def test_a_key_must_be_16_to_255_printable_characters(tmp_path: Path, key: str) -> None:
    async with rig(tmp_path) as gate:
        answer = await gate.call(key=key)

    assert isinstance(answer.outcome, Refused)
    assert answer.outcome.code == "bad_idempotency_key"
    assert key not in answer.outcome.detail


async def test_a_call_whose_gate_was_killed_is_unknown_and_not_run_again(tmp_path: Path) -> None:
    program = _DIES_AFTER_ITS_INTENT.format(folder=str(tmp_path), key=KEY)
    died = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[1])
    assert died.returncode == -signal.SIGKILL

    async with rig(tmp_path) as gate:
        asked = await gate.call(key=KEY)

    assert isinstance(asked.outcome, Unknown)
    assert asked.outcome.code == "owner_lost", "its owner is dead: nobody need wait for its lease to lapse"
    assert gate.desk.asked == 0


_DIES_AFTER_ITS_INTENT = """
import asyncio, os, signal
from pathlib import Path
from tests.gate_on_scripted_system import rig

async def main():
    async with rig(Path({folder!r})) as gate:
        gate.desk.hold = asyncio.Event()
        asyncio.ensure_future(gate.call(key={key!r}))
        await gate.desk.at_work.wait()
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_one_key_has_one_effect_across_processes(tmp_path: Path) -> None:
    LogKey.new("toolgate/test").write(tmp_path / "ledger.key")
    program = _RACES.format(folder=str(tmp_path), key=KEY)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    effects = [int(racer.communicate()[0]) for racer in racers]

    assert sum(effects) == 50, "50 keys, each sent by all three processes"


_RACES = """
import asyncio, faulthandler
from pathlib import Path
from tests.gate_on_scripted_system import rig

faulthandler.dump_traceback_later(90, exit=True)

async def main():
    async with rig(Path({folder!r})) as gate:
        await asyncio.gather(*(gate.call(key=f"{key}-{{number}}") for number in range(50)))
    print(gate.desk.effects)

asyncio.run(main())
"""


async def test_two_that_look_repeated_in_one_commit_are_seen_as_such(
    tmp_path: Path, postgresql: Cluster, postgresql_database: str
) -> None:
    """A server is asked about both before either is claimed."""
    url = postgresql.url(OWNER, postgresql_database)
    async with rig(tmp_path, without_key="guard", url=url) as gate:
        gate.desk.behaviour = "refuses"
        await gate.call(key=KEY)
        gate.desk.behaviour = "does"
        stalled, go = threading.Event(), threading.Event()

        def stall(_batch: object) -> None:
            stalled.set()
            go.wait(10)

        standing = asyncio.ensure_future(gate.parts.writer.write(stall))
        await asyncio.to_thread(stalled.wait, 10)
        first = asyncio.ensure_future(gate.call(key=KEY))
        await asyncio.sleep(0)  # it is queued before the other one
        second = asyncio.ensure_future(gate.call())
        async with asyncio.timeout(10):
            while gate.parts.writer._jobs.qsize() < 2:  # pyright: ignore[reportPrivateUsage]
                await asyncio.sleep(0.01)
        go.set()
        await standing
        again, alike = await first, await second

    assert isinstance(again.outcome, Done)
    assert isinstance(alike.outcome, Refused)
    assert alike.outcome.code == "duplicate_suspected"
    assert gate.desk.effects == 1


async def test_entries_are_gapless_and_cannot_be_changed(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await asyncio.gather(*(gate.call(amount=n) for n in range(40)))

    query = "SELECT idx, body FROM ledger_entry ORDER BY idx"
    rows = _sqlite(tmp_path, query)
    assert [row[0] for row in rows] == list(range(len(rows)))
    kinds = Counter(json.loads(row[1])["kind"] for row in rows)
    assert kinds == {
        "genesis": 1,
        "writer_start": 1,
        "config": 1,
        "intent": 40,
        "lease": 40,
        "outcome": 40,
        "writer_stop": 1,
    }
    for change in ("UPDATE ledger_entry SET who = 'eve'", "DELETE FROM ledger_entry"):
        with pytest.raises(Exception, match="never changed"):
            _sqlite(tmp_path, change)


def _sqlite(folder: Path, statement: str) -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        return connection.execute(statement).fetchall()


async def test_a_write_that_was_given_up_is_not_made_later(tmp_path: Path) -> None:
    async with rig(tmp_path, patience=0.2) as gate:
        lock = os.open(tmp_path / "ledger.db.lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        given_up = await gate.call(key=KEY)
        os.close(lock)
        again = await gate.call(key=KEY)

    assert isinstance(given_up.outcome, Failed)
    assert given_up.outcome.code == "ledger_unavailable"
    assert isinstance(again.outcome, Done), "the key is as good as new"
    assert gate.desk.effects == 1


async def test_a_database_that_was_taken_away_is_not_written_to_in_secret(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await gate.call(key=f"{KEY}-before")
        (tmp_path / "ledger.db").rename(tmp_path / "elsewhere.db")
        gone = await gate.call(key=KEY)
        (tmp_path / "elsewhere.db").rename(tmp_path / "ledger.db")
        back = await gate.call(key=KEY)

    assert isinstance(gone.outcome, Failed)
    assert gone.outcome.code == "ledger_unavailable"
    assert isinstance(back.outcome, Done)
