"""What becomes of a call whose outcome is unknown, when its caller asks again under the same key."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from tests.gate_on_scripted_system import rig
from tests.torture.tree import VERIFIER
from toolgate.core.outcome import Done, Failed, Unknown

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"


def kinds(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        return connection.execute("SELECT kind, status FROM ledger_entry ORDER BY idx").fetchall()


async def test_what_the_system_has_is_the_answer_and_is_not_done_again(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour = "unknown"
        first = await gate.call(key=KEY)
        found = await gate.call(key=KEY)
        replayed = await gate.call(key=KEY)

    assert isinstance(first.outcome, Unknown)
    assert isinstance(found.outcome, Done)
    assert found.replayed
    assert replayed.outcome == found.outcome
    assert gate.desk.effects == gate.desk.asked == gate.desk.looked == 1
    entries = kinds(tmp_path)
    assert ("reconcile", "asked") in entries
    assert entries.index(("reconcile", "asked")) < entries.index(("reconcile", "found"))


async def test_a_look_ups_credential_stands_in_the_ledger_and_the_verifier_takes_it(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(key=KEY)
        await gate.call(key=KEY)

    told = kinds(tmp_path)
    ended, looked = [at for at, entry in enumerate(told) if entry == ("lease", "given_back")]
    assert ended < told.index(("outcome", "upstream_unknown")) < told.index(("reconcile", "asked")) < looked
    verify = [sys.executable, str(VERIFIER), "ledger", str(tmp_path / "ledger.db")]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 2, "consistent with itself, and no checkpoint from outside"
    assert "TAMPERED" not in done.stdout


async def test_what_the_system_has_not_is_done_after_the_quiet_period_and_no_sooner(tmp_path: Path) -> None:
    for quiet_period in (30.0, 0.0):
        folder = tmp_path / f"{quiet_period}"
        folder.mkdir()
        async with rig(folder, duplicates="query", quiet_period=quiet_period) as gate:
            gate.desk.behaviour, gate.desk.loses = "unknown", True
            first = await gate.call(key=KEY)
            gate.desk.behaviour, gate.desk.loses = "does", False
            again = await gate.call(key=KEY)

        assert again.call_id == first.call_id
        if quiet_period:
            assert isinstance(again.outcome, Unknown)
            assert 0 < (again.outcome.retry_after_ms or 0) <= 30_000
            assert gate.desk.effects == 0
        else:
            assert isinstance(again.outcome, Done)
            assert gate.desk.keys == [first.call_id, first.call_id]


@pytest.mark.parametrize("tells", ["nothing", "nonsense", "sends", "hangs"])
async def test_a_system_that_cannot_tell_leaves_the_call_unknown(
    tmp_path: Path, tells: Literal["nothing", "nonsense", "sends", "hangs"]
) -> None:
    async with rig(tmp_path, duplicates="query", quiet_period=0, seconds=0.2) as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(key=KEY)
        gate.desk.tells = tells
        again = await gate.call(key=KEY)

    assert isinstance(again.outcome, Unknown)
    assert ("reconcile", "cannot_tell") in kinds(tmp_path)
    assert gate.desk.effects == 1


async def test_without_a_credential_the_system_is_not_asked(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query", quiet_period=0) as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(key=KEY)
        gate.purse.empty = True
        again = await gate.call(key=KEY)

    assert isinstance(again.outcome, Unknown)
    assert gate.desk.looked == 0


async def test_a_system_is_left_alone_for_a_moment_after_it_was_asked(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour, gate.desk.tells = "unknown", "nothing"
        for _ in range(4):
            await gate.call(key=KEY)

    assert gate.desk.looked == 1


@pytest.mark.parametrize("duplicates", ["key", "natural"])
async def test_where_the_system_takes_both_for_one_asking_again_sends_again(
    tmp_path: Path, duplicates: Literal["key", "natural"]
) -> None:
    async with rig(tmp_path, duplicates=duplicates) as gate:
        gate.desk.behaviour = "unknown"
        first = await gate.call(key=KEY)
        gate.desk.behaviour = "does"
        again = await gate.call(key=KEY)
        replayed = await gate.call(key=KEY)

    assert isinstance(again.outcome, Done)
    assert gate.desk.keys == [first.call_id, first.call_id], "the system is told the same key"
    assert replayed.outcome == again.outcome


async def test_a_refusal_of_what_was_sent_again_tells_nothing_of_the_first_time(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="key") as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(key=KEY)
        gate.desk.behaviour = "refuses"
        again = await gate.call(key=KEY)
        gate.purse.empty = True
        once_more = await gate.call(key=KEY)

    assert isinstance(again.outcome, Unknown)
    assert again.outcome.code == "still_unknown"
    assert isinstance(once_more.outcome, Unknown)


async def test_a_call_that_nobody_asks_about_again_is_looked_after(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query", quiet_period=0) as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(amount=1, key=f"{KEY}-arrived")
        gate.desk.loses = True
        await gate.call(amount=2, key=f"{KEY}-lost")
        asked = await gate.gateway.reconciler.go_round(gate.tools.get)
        again = await gate.gateway.reconciler.go_round(gate.tools.get)
        gate.desk.behaviour, gate.desk.loses = "refuses", False
        arrived = await gate.call(amount=1, key=f"{KEY}-arrived")
        lost = await gate.call(amount=2, key=f"{KEY}-lost")

    assert (asked, again) == (2, 0)
    assert isinstance(arrived.outcome, Done)
    assert arrived.replayed
    assert isinstance(lost.outcome, Failed), "it was run again, because its caller asked again"
    assert gate.desk.effects == 1


async def test_the_request_is_kept_as_long_as_the_call_is_in_doubt(tmp_path: Path) -> None:
    def kept() -> list[object]:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
            return [row[0] for row in connection.execute("SELECT request FROM claim")]

    async with rig(tmp_path, duplicates="query") as gate:
        gate.desk.behaviour = "unknown"
        await gate.call(key=KEY)
        (request,) = kept()
        assert isinstance(request, bytes)
        assert json.loads(request)["arguments"] == {"amount": 1}
        await gate.call(key=KEY)
        assert kept() == [None]
