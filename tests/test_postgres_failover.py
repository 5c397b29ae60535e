"""A gate under load while its PostgreSQL is restarted, killed or fails over."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import httpx2
import pytest

from tests.postgresql import WRITER, Cluster, cluster, standby
from tests.running_gate import wait_until
from tests.serving import ERROR, KEY, Served, call_body, serving
from tests.several_gates import Fleet, note, set_up, wait_for_log
from tests.torture.books import Book
from tests.torture.tree import faults_in_ledger

_DEADLINE: Final = 40.0
"""Seconds in which any call must have been answered: twice what a write may wait, and the machine's share."""


@pytest.fixture(scope="module")
def server() -> Generator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def fleet(sealed: Path, tmp_path: Path, server: Cluster, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet = Fleet(sealed, tmp_path, server.url(WRITER, set_up(server), tcp=True))
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    return fleet


@dataclass
class Callers:
    """Some who add notes, each under a key of its own, and ask again while they are told that they may."""

    gate: Served
    ends: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list[str])
    over: threading.Event = field(default_factory=threading.Event)

    def call_on(self, name: int) -> None:
        token = f"Bearer {self.gate.token()}"
        number = 0
        while not self.over.is_set():
            number += 1
            self._call(f"note-{name}-{number:012}", token)

    def _call(self, key: str, token: str) -> None:
        body = call_body("notes_add", {"text": key}, **{KEY: key})
        give_up = time.monotonic() + 3 * _DEADLINE
        while time.monotonic() < give_up:
            begun = time.monotonic()
            try:
                answer = self.gate.post(body, Mcp_Name="notes_add", Authorization=token)
            except httpx2.HTTPError as error:
                self.wrong.append(f"{key}: {error!r}")
                return
            self.slowest = max(self.slowest, time.monotonic() - begun)
            result = answer.json()["result"]
            said = result["_meta"].get(ERROR)
            self.ends[key] = result
            if said is None:
                return
            if not said["retryable"]:
                self.wrong.append(f"{key}: {said}")
                return
            time.sleep(0.2)
        self.wrong.append(f"{key}: never done")


@contextmanager
def calling(gate: Served, many: int = 4) -> Generator[Callers]:
    """Call all the while; in the end everybody has an answer."""
    callers = Callers(gate)
    threads = [threading.Thread(target=callers.call_on, args=(name,)) for name in range(many)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(callers.ends) > many, "calls before the blow")
        yield callers
        after = len(callers.ends)
        wait_until(lambda: callers.wrong or len(callers.ends) > after + many, "calls after the blow")
    finally:
        callers.over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("blow", ["fast", "immediate", "kill", "terminated"])
def test_every_call_ends_and_takes_effect_once(
    fleet: Fleet, server: Cluster, blow: Literal["fast", "immediate", "kill", "terminated"]
) -> None:
    root = fleet.deploy("gate")
    with serving(root) as gate, calling(gate) as callers:
        if blow == "terminated":
            assert server.cut_off(_database(fleet)) >= 2
        else:
            server.restart(blow)

    _demand_order(root, fleet, callers)


def test_a_standby_takes_over(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster() as primary, standby(primary) as second:
        fleet = _on_two(sealed, tmp_path, primary, second, monkeypatch)
        root = fleet.deploy("gate")
        with serving(root) as gate, calling(gate) as callers:
            primary.kill()
            second.promote()

        _demand_order(root, fleet, callers)


def test_a_standby_that_lacks_what_was_recorded_is_refused(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster() as primary, standby(primary) as second:
        fleet = _on_two(sealed, tmp_path, primary, second, monkeypatch)
        root = fleet.deploy("gate")
        with serving(root) as gate:
            note(gate, "both have it")
            second.stop()
            primary.ask("ALTER SYSTEM SET synchronous_standby_names = ''")
            primary.ask("SELECT pg_reload_conf()")
            wait_until(
                lambda: not note(gate, "only one has it").get("isError"), "a commit without the standby"
            )
            primary.stop()
            second.start()
            second.promote()
            wait_for_log(root, "it is an old copy, or")  # as the tree tells, or a checkpoint
            refused = note(gate, "nowhere")["_meta"][ERROR]

    assert refused["code"] == "ledger_unavailable"
    assert refused["retryable"]


def _on_two(
    sealed: Path, folder: Path, primary: Cluster, second: Cluster, monkeypatch: pytest.MonkeyPatch
) -> Fleet:
    url = primary.url(WRITER, set_up(primary), tcp=True)
    both = url.replace(f"@127.0.0.1:{primary.port}/", f"@127.0.0.1:{primary.port},127.0.0.1:{second.port}/")
    fleet = Fleet(sealed, folder, both)
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    return fleet


def _demand_order(root: Path, fleet: Fleet, callers: Callers) -> None:
    """See that each key has one effect, and that the ledger verifies."""
    assert callers.wrong == []
    assert callers.slowest < _DEADLINE
    with closing(sqlite3.connect(root / "data" / "notes.db")) as notes:
        written = notes.execute("SELECT text, count(*) FROM note GROUP BY text").fetchall()
    assert {text: count for text, count in written if text.startswith("note-")} == dict.fromkeys(
        callers.ends, 1
    )
    folder = root.parent / "audited"
    folder.mkdir()
    shutil.copy2(root / "keys" / "ledger.key", folder)
    shutil.copy2(root / "keys" / "ledger.vkey", folder)
    shutil.copy2(root / "data" / "checkpoint", folder)
    book = Book(folder / "none", fleet.url).open()
    assert list(faults_in_ledger(folder, book)) == []
    book.close()


def _database(fleet: Fleet) -> str:
    return fleet.url.rpartition("/")[2]
